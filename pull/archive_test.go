package pull

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"golang.org/x/sys/unix"

	"skiff/pull/archive"
	"skiff/pull/manifest"
)

// pack makes a tar archive of a directory, or of entries.
func pack(t *testing.T, dir string, extra ...*tar.Header) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "image.tar")
	f, err := os.Create(file)
	must(t, err)
	defer f.Close()
	tw := tar.NewWriter(f)
	if dir != "" {
		must(t, tw.AddFS(os.DirFS(dir)))
	}
	for _, h := range extra {
		must(t, tw.WriteHeader(h))
	}
	must(t, tw.Close())
	return file
}

var emptyIndex = empty.Index

func TestSources(t *testing.T) {
	ctx := context.Background()
	l := layerOf(t, "shared", 100<<10)
	one, two := imageOf(t, "amd64", l, layerOf(t, "one", 10)), imageOf(t, "amd64", l, layerOf(t, "two", 10))
	id := func(i v1.Image) v1.Hash { h, err := i.ConfigName(); must(t, err); return h }
	dir := filepath.Join(t.TempDir(), "a:b")
	lp, err := layout.Write(dir, emptyIndex)
	must(t, err)
	must(t, lp.AppendImage(one, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "1"})))
	must(t, lp.AppendImage(two, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": "example.com/x:2"})))
	packed := pack(t, dir)
	saved := filepath.Join(t.TempDir(), "saved.tar")
	tag := func(s string) name.Tag { n, err := name.NewTag(s); must(t, err); return n }
	must(t, tarball.MultiRefWriteToFile(saved, map[name.Reference]v1.Image{tag("one:1"): one, tag("two:2"): two}))

	p := newPuller(t)
	for _, c := range []struct {
		ref  string
		want v1.Image // nil: an error
	}{
		{"oci:" + dir + ":1", one}, {"oci:" + dir + ":2", two}, {"oci:" + dir + ":example.com/x:2", two}, {"oci:" + dir, nil}, {"oci:" + dir + ":3", nil},
		{"oci-archive:" + packed + ":1", one}, {"oci-archive:" + packed + ":2", two}, {"oci-archive:" + packed, nil},
		{"docker-archive:" + saved + ":1", one}, {"docker-archive:" + saved + ":two:2", two}, {"docker-archive:" + saved, nil}, {"docker-archive:" + saved + ":no", nil},
		{"docker-archive:" + packed + ":1", nil}, {"oci-archive:" + saved, nil}, {"oci:" + saved, nil}, {"oci:/nowhere/at/all", nil},
	} {
		ref, err := ParseReference(c.ref)
		must(t, err)
		got, err := p.Ensure(ctx, ref, Missing)
		if c.want == nil {
			if err == nil {
				t.Errorf("%s: no error", c.ref)
			}
			continue
		}
		if err != nil || got.ID != id(c.want) {
			t.Errorf("%s: %v", c.ref, err)
			continue
		}
		if again, err := p.Ensure(ctx, ref, Missing); err != nil || again.Fresh {
			t.Errorf("%s: a second time: %v", c.ref, err)
		}
	}
	// The same image from a registry has the same id, and its layers are here.
	w := newWorld(t)
	w.push("one:1", one)
	w.on(nil)
	if got, err := p.Ensure(ctx, w.ref("one:1"), Missing); err != nil || got.ID != id(one) || w.count("/blobs/") != 0 {
		t.Errorf("%v, %q", err, w.requests)
	}
	clean(t, p.Store)
}

// docker before 25 wrote links for layers that are the same.
func TestSavedLinks(t *testing.T) {
	img := imageOf(t, "amd64", layerOf(t, "one", 10))
	config, err := img.RawConfigFile()
	must(t, err)
	layers, err := img.Layers()
	must(t, err)
	r, err := layers[0].Uncompressed()
	must(t, err)
	var layer bytes.Buffer
	_, err = layer.ReadFrom(r)
	must(t, err)
	write := func(entries ...any) string {
		file := filepath.Join(t.TempDir(), "saved.tar")
		f, err := os.Create(file)
		must(t, err)
		defer f.Close()
		tw := tar.NewWriter(f)
		for i := 0; i < len(entries); i += 2 {
			h := &tar.Header{Name: entries[i].(string), Mode: 0o600}
			b, ok := entries[i+1].([]byte)
			if ok {
				h.Size, h.Typeflag = int64(len(b)), tar.TypeReg
			} else {
				h.Linkname, h.Typeflag = entries[i+1].(string), tar.TypeSymlink
			}
			must(t, tw.WriteHeader(h))
			_, err := tw.Write(b)
			must(t, err)
		}
		must(t, tw.Close())
		return file
	}
	list := func(layer string) []byte {
		b, err := json.Marshal([]map[string]any{{"Config": "c.json", "RepoTags": []string{"a:1"}, "Layers": []string{layer}}})
		must(t, err)
		return b
	}
	secret := filepath.Join(t.TempDir(), "layer.tar")
	must(t, os.WriteFile(secret, layer.Bytes(), 0o600))
	for _, c := range []struct {
		name string
		file string
		ok   bool
	}{
		{"link", write("manifest.json", list("x/layer.tar"), "c.json", config, "x/layer.tar", "../y/layer.tar", "y/layer.tar", layer.Bytes()), true},
		{"loop", write("manifest.json", list("x"), "c.json", config, "x", "y", "y", "x"), false},
		{"host path by link", write("manifest.json", list("x"), "c.json", config, "x", secret), false},
		{"host path by name", write("manifest.json", list(secret), "c.json", config), false},
		{"host path by dots", write("manifest.json", list("../../../../../../../.."+secret), "c.json", config), false},
		{"other bytes", write("manifest.json", list("x"), "c.json", config, "x", layer.Bytes()[:1024]), false},
		{"no config", write("manifest.json", list("x"), "x", layer.Bytes()), false},
	} {
		p := newPuller(t)
		_, err := p.Ensure(context.Background(), Reference{Transport: "docker-archive", Rest: c.file}, Missing)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		clean(t, p.Store)
	}
}

// What stands in a layout's directory is not trusted to be files.
func TestHostileLayout(t *testing.T) {
	img := imageOf(t, "amd64", layerOf(t, "one", 10))
	m, err := img.Manifest()
	must(t, err)
	for name, spoil := range map[string]func(blob string) error{
		"link":  func(b string) error { return os.Symlink("/etc/passwd", b) },
		"fifo":  func(b string) error { return unix.Mkfifo(b, 0o600) },
		"short": func(b string) error { return os.WriteFile(b, []byte("x"), 0o600) },
		"dir":   func(b string) error { return os.Mkdir(b, 0o700) },
		"other": func(b string) error { return os.WriteFile(b, bytes.Repeat([]byte("x"), int(m.Layers[0].Size)), 0o600) },
	} {
		dir := t.TempDir()
		lp, err := layout.Write(dir, emptyIndex)
		must(t, err)
		must(t, lp.AppendImage(img))
		blob := filepath.Join(dir, "blobs/sha256", m.Layers[0].Digest.Hex)
		must(t, os.Remove(blob))
		must(t, spoil(blob))
		p := newPuller(t)
		if _, err := p.Ensure(context.Background(), Reference{Transport: "oci", Rest: dir}, Missing); err == nil {
			t.Error(name)
		}
		clean(t, p.Store)
	}
}

func TestArchiveForms(t *testing.T) {
	gz := filepath.Join(t.TempDir(), "x.tar.gz")
	must(t, os.WriteFile(gz, []byte("\x1f\x8b\x08\x00 and so on"), 0o600))
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, os.WriteFile(fifo, []byte("not a tar archive, but long enough to have a header"+strings.Repeat("x", 1024)), 0o600))
	for _, f := range []string{gz, fifo, os.DevNull} {
		var e *archive.FormatError
		if _, err := archive.OpenDocker(f); !errors.As(err, &e) {
			t.Errorf("%s: %v", f, err)
		}
	}
	if f, n := archive.Split("/nowhere:x"); f != "/nowhere:x" || n != "" {
		t.Error(f, n)
	}
}

// builtin: a source that is part of the program.
type inside struct{ img v1.Image }

func (s inside) Close() error { return nil }
func (s inside) Image(ctx context.Context, _ manifest.Want) (*manifest.Image, error) {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "x.tar")
	n, err := name.NewTag("hello:1")
	if err == nil {
		err = tarball.WriteToFile(file, n, s.img)
	}
	if err != nil {
		return nil, err
	}
	src, err := archive.OpenDocker(file) // its descriptor outlives the name
	if err != nil {
		return nil, err
	}
	return src.Image(ctx, manifest.Want{})
}

func TestBuiltin(t *testing.T) {
	p := newPuller(t)
	img := imageOf(t, "amd64", layerOf(t, "hello", 10))
	p.Builtin = func(name string) (Source, error) {
		if name != "hello" {
			return nil, &UnknownImageError{Reference: "builtin:" + name}
		}
		return inside{img}, nil
	}
	got, err := p.Ensure(context.Background(), Reference{Transport: "builtin", Rest: "hello"}, Missing)
	if err != nil || got.Reference != "builtin:hello" {
		t.Fatal(err)
	}
	if _, err := p.Ensure(context.Background(), Reference{Transport: "builtin", Rest: "bye"}, Missing); !errors.As(err, new(*UnknownImageError)) {
		t.Error(err)
	}
}

// An archive of names, or of a list that says nothing, is refused before it takes memory.
func TestArchiveOfNames(t *testing.T) {
	for what, write := range map[string]func(*tar.Writer){
		"names": func(w *tar.Writer) {
			for i := range 10000 {
				w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%d%s", i, strings.Repeat("/aaaaaaaa", 400)), Format: tar.FormatPAX})
			}
		},
		"links": func(w *tar.Writer) {
			w.WriteHeader(&tar.Header{Typeflag: tar.TypeSymlink, Name: "x", Linkname: strings.Repeat("a", 500000), Format: tar.FormatPAX})
		},
		"images": func(w *tar.Writer) {
			text := "[" + strings.Repeat("{},", 1300000) + "{}]"
			w.WriteHeader(&tar.Header{Name: "manifest.json", Size: int64(len(text))})
			io.WriteString(w, text)
		},
	} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "x.tar")
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			w := tar.NewWriter(f)
			write(w)
			if err := errors.Join(w.Close(), f.Close()); err != nil {
				t.Fatal(err)
			}
			_, _, err = archive.OpenAll(path, path)
			if err == nil || !strings.Contains(err.Error(), "too many names") && !strings.Contains(err.Error(), "more than 10000 images") {
				t.Errorf("%v", err)
			}
		})
	}
}
