package image

import (
	"archive/tar"
	"bytes"
	"io"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// What a Layer writes is a good archive by another reader's judgement.
func TestArchiveIsGood(t *testing.T) {
	long := "a/" + string(bytes.Repeat([]byte("n"), 150))
	l := L(Dir("a").WithMode(0o1777), File(long, "body").WithOwner(1<<22, 5), Symlink("s", long), Link("h", long),
		Char("c", 1, 3), File("x", "").WithXattr("user.k", "v"), GNULong('L', "gnu-"+long), File("short", "y"))
	var b bytes.Buffer
	if err := l.WriteTar(&b); err != nil {
		t.Fatal(err)
	}
	r := tar.NewReader(&b)
	for i, want := range []tar.Header{
		{Name: "a", Typeflag: tar.TypeDir, Mode: 0o1777}, {Name: long, Typeflag: tar.TypeReg, Mode: 0o644, Uid: 1 << 22, Gid: 5, Size: 4},
		{Name: "s", Typeflag: tar.TypeSymlink, Linkname: long, Mode: 0o777}, {Name: "h", Typeflag: tar.TypeLink, Linkname: long, Mode: 0o644},
		{Name: "c", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3, Mode: 0o644}, {Name: "x", Typeflag: tar.TypeReg, Mode: 0o644},
		{Name: "gnu-" + long, Typeflag: tar.TypeReg, Mode: 0o644, Size: 1},
	} {
		h, err := r.Next()
		if err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		if h.Name != want.Name || h.Typeflag != want.Typeflag || h.Linkname != want.Linkname || h.Mode != want.Mode || h.Uid != want.Uid ||
			h.Gid != want.Gid || h.Size != want.Size || h.Devmajor != want.Devmajor || h.Devminor != want.Devminor {
			t.Errorf("entry %d: %+v, want %+v", i, h, want)
		}
	}
	if _, err := r.Next(); err != io.EOF {
		t.Error(err)
	}
}

func TestImagesAreWhole(t *testing.T) {
	img, err := New(nil, L(File("a", "a")), L(File("b", "b"))) // validate wants gzip
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	want, _ := img.Digest()

	host := Registry(t)
	Push(t, host+"/some/name:tag", img)
	ref, _ := name.ParseReference(host + "/some/name:tag")
	if pulled, err := remote.Image(ref); err != nil {
		t.Error(err)
	} else if got, _ := pulled.Digest(); got != want {
		t.Errorf("pulled %v, want %v", got, want)
	}

	dir := t.TempDir()
	if err := WriteLayout(filepath.Join(dir, "layout"), "v1", img); err != nil {
		t.Fatal(err)
	}
	p, err := layout.FromPath(filepath.Join(dir, "layout"))
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := p.Image(want); err != nil {
		t.Error(err)
	} else if err := validate.Image(kept); err != nil {
		t.Error(err)
	}

	if err := WriteOCIArchive(filepath.Join(dir, "oci.tar"), "v1", img); err != nil {
		t.Error(err)
	}
	if err := WriteDockerArchive(filepath.Join(dir, "docker.tar"), "example.com/x:v1", img); err != nil {
		t.Fatal(err)
	}
	if kept, err := tarball.ImageFromPath(filepath.Join(dir, "docker.tar"), nil); err != nil {
		t.Error(err)
	} else if layers, _ := kept.Layers(); len(layers) != 2 {
		t.Errorf("%d layers in the archive", len(layers))
	}
}

// Every number of the catalogue that is about an image is there.
func TestCatalogueIsComplete(t *testing.T) {
	seen, names := map[int]bool{}, map[string]bool{}
	for _, c := range Hostile() {
		seen[c.Number] = true
		if names[c.Name] {
			t.Errorf("two cases are called %s", c.Name)
		}
		names[c.Name] = true
		if c.Refused && c.Word == "" {
			t.Errorf("%s: refused with what words?", c.Name)
		}
		if _, err := New(c.Config, c.Layers...); err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
	}
	for n := 1; n <= 56; n++ {
		if !seen[n] && n != 32 && n != 44 {
			t.Errorf("case %d is missing", n)
		}
	}
}
