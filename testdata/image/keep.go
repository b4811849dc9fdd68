package image

import (
	"archive/tar"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// Registry serves an empty registry on loopback until the test ends, and
// returns its HOST:PORT.
func Registry(t testing.TB) string {
	t.Helper()
	s := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}

// Push puts an image into a registry under HOST:PORT/NAME:TAG.
func Push(t testing.TB, reference string, img v1.Image) {
	t.Helper()
	ref, err := name.ParseReference(reference, name.Insecure)
	if err == nil {
		err = remote.Write(ref, img)
	}
	if err != nil {
		t.Fatalf("push %s: %v", reference, err)
	}
}

// WriteLayout puts an image into a new OCI layout directory, under a tag if
// that is not "".
func WriteLayout(dir, tag string, img v1.Image) error {
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	var options []layout.Option
	if tag != "" {
		options = append(options, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag}))
	}
	return p.AppendImage(img, options...)
}

// WriteOCIArchive puts an image into a file that is an OCI layout in a tar.
func WriteOCIArchive(file, tag string, img v1.Image) error {
	dir, err := os.MkdirTemp("", "layout-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := WriteLayout(dir, tag, img); err != nil {
		return err
	}
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		if err := w.WriteHeader(&tar.Header{Name: rel, Mode: 0o644, Size: int64(len(text))}); err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
	if err == nil {
		err = w.Close()
	}
	return err
}

// WriteDockerArchive puts an image into a file as `docker save` does.
func WriteDockerArchive(file, reference string, img v1.Image) error {
	tag, err := name.NewTag(reference)
	if err != nil {
		return err
	}
	return tarball.WriteToFile(file, tag, img)
}

// Self is a layer with the running executable, which is static, at path: the
// smallest user land there is for a test binary that plays several programs.
func Self(path string) (Layer, error) {
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return Layer{}, err
	}
	return L(File(path, string(text)).WithMode(0o755)), nil
}

// Many is a layer of n files of 100 bytes, 100 in a directory.
func Many(n int) Layer { return ManyOf(n, 100) }

// ManyOf is Many with files of size bytes.
func ManyOf(n, size int) Layer {
	return Layer{Tar: func(w io.Writer) error {
		body := strings.Repeat("x", size)
		var b []byte
		for i := range n {
			if i%100 == 0 {
				b = append(b, Dir(dirName(i/100)).bytes()...)
			}
			b = append(b, File(dirName(i/100)+"/"+fileName(i%100), body).bytes()...)
			if len(b) > 1<<20 {
				if _, err := w.Write(b); err != nil {
					return err
				}
				b = b[:0]
			}
		}
		_, err := w.Write(append(b, make([]byte, 2*blockSize)...))
		return err
	}}
}

func dirName(i int) string {
	return "d" + string(rune('a'+i%26)) + "-" + itoa(i)
}

func fileName(i int) string { return "file-" + itoa(i) }
