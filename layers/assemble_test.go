package layers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"skiff/testdata/image"

	"golang.org/x/sys/unix"
)

// wantWhole makes the archive of a layer again, which every layer that a test
// unpacks must bear.
func wantWhole(t testing.TB, root *os.File, split io.Reader, opt Options, result Result) {
	t.Helper()
	var damages []string
	digest, err := Check(root, split, opt, func(d Damage) { damages = append(damages, d.String()) })
	if errors.Is(err, unix.EACCES) && os.Geteuid() != 0 {
		return // files of any mode are for a worker to read, which has the capability
	}
	if err != nil {
		t.Errorf("check: %v", err)
	}
	if digest != result.DiffID {
		t.Errorf("the archive made again is %s, not %s", digest, result.DiffID)
	}
	if len(damages) > 0 {
		t.Errorf("damaged: %s", strings.Join(damages[:min(len(damages), 5)], "; "))
	}
}

// mixed is a layer of everything.
func mixed() image.Layer {
	big := strings.Repeat("0123456789abcdef", 40000) // crosses blocks
	return image.L(image.Dir("etc"), image.File("etc/passwd", "root:x:0:0::/:/bin/sh\n"), image.File("etc/empty", ""),
		image.File("big", big).WithMode(0o4755), image.Link("bigger", "big"), image.Symlink("lib", "usr/lib"), image.File("usr/lib/x", "x"),
		image.File("lib/y", "through a link"), image.FIFO("pipe"), image.Whiteout("etc", "gone"), image.Opaque("usr"),
		image.Sparse("holes", "abcdef", 1<<20, [2]int64{10, 3}, [2]int64{5000, 3}), image.File("last", "no padding needed"+strings.Repeat(".", 495)))
}

func TestAssemble(t *testing.T) {
	for name, ids := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			staging := place(t)
			w := start(t, staging, ids)
			l := mixed()
			result, err := unpack(t, w, staging, "fs", l, Job{Split: "split"})
			if err != nil || !result.Split {
				t.Fatalf("unpacked: %v, split: %v", err, result.Split)
			}
			w.Close()
			r, err := StartReader(staging, ids, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			var archive bytes.Buffer
			if err := r.Archive(context.Background(), Read{Dir: "fs", Split: "split"}, &archive); err != nil {
				t.Fatal(err)
			}
			if want := tarOf(t, l); !bytes.Equal(archive.Bytes(), want) {
				t.Errorf("the archive made again has %d bytes and differs from the %d it was made of", archive.Len(), len(want))
			}
			state, err := r.Check(context.Background(), Read{Dir: "fs", Split: "split"})
			if err != nil || state.DiffID != l.DiffID() || len(state.Damages) > 0 {
				t.Errorf("check: %v %v", state, err)
			}
			if err := r.Remove(context.Background(), "fs"); err == nil {
				t.Error("a reader removed the layer")
			}
			stop := errors.New("stop")
			if err := r.Archive(context.Background(), Read{Dir: "fs", Split: "split"}, failing{stop}); err != stop {
				t.Errorf("a writer that fails: %v", err)
			}
			if err := r.Archive(context.Background(), Read{Dir: "fs", Split: "none"}, io.Discard); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("no split: %v", err)
			}
		})
	}
}

func tarOf(t testing.TB, l image.Layer) []byte {
	var b bytes.Buffer
	if err := l.WriteTar(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }

// What is done to a layer on disk is found and named.
func TestCheckFindsDamage(t *testing.T) {
	for _, c := range []struct {
		what string
		do   func(dir string) error
		path string
		why  string
		same bool // the archive's digest still holds
	}{
		{"content", func(d string) error { return overwrite(d+"/big", 300000) }, "big", "content has changed", false},
		{"cut", func(d string) error { return os.Truncate(d+"/big", 1000) }, "big", "1000 bytes", false},
		{"longer", func(d string) error { return os.Truncate(d+"/etc/passwd", 1000) }, "etc/passwd", "1000 bytes", true},
		{"gone", func(d string) error { return os.Remove(d + "/etc/passwd") }, "etc/passwd", "no such file", false},
		{"empty file gone", func(d string) error { return os.Remove(d + "/etc/empty") }, "etc/empty", "gone", true},
		{"mode", func(d string) error { return os.Chmod(d+"/big", 0o755) }, "big", "mode is 0755, not 4755", true},
		{"new", func(d string) error { return os.WriteFile(d+"/etc/new", nil, 0o600) }, "etc/new", "no such entry", true},
		{"type", func(d string) error { return errors.Join(os.Remove(d+"/pipe"), os.Mkdir(d+"/pipe", 0o755)) }, "pipe", "another type", true},
		{"link", func(d string) error { return errors.Join(os.Remove(d+"/s"), os.Symlink("there", d+"/s")) }, "s", `"there"`, true},
		{"link to file", func(d string) error { return errors.Join(os.Remove(d+"/big"), os.Symlink("last", d+"/big")) }, "big", "symbolic links", false},
		{"fifo for file", func(d string) error { return errors.Join(os.Remove(d+"/big"), mkfifo(d+"/big")) }, "big", "not a regular", false},
	} {
		t.Run(c.what, func(t *testing.T) {
			l := image.L(image.Dir("etc"), image.File("etc/passwd", "root:x:0:0::/:/bin/sh\n"), image.File("etc/empty", ""),
				image.File("big", strings.Repeat("0123456789abcdef", 40000)).WithMode(0o4755), image.FIFO("pipe"), image.Symlink("s", "here"), image.File("last", "x"))
			dir := filepath.Join(place(t), "fs")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			root, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			opt := Options{Squash: true}
			opt.Split = splitFile(t)
			if _, err := Apply(root, bytes.NewReader(tarOf(t, l)), opt); err != nil {
				t.Fatal(err)
			}
			split := written(t, opt.Split)
			if err := c.do(dir); err != nil {
				t.Fatal(err)
			}
			var found []string
			digest, err := Check(root, bytes.NewReader(split), opt, func(d Damage) { found = append(found, d.String()) })
			if err != nil {
				t.Fatal(err)
			}
			if !slices.ContainsFunc(found, func(s string) bool {
				return strings.HasPrefix(s, fmt.Sprintf("%q: ", c.path)) && strings.Contains(s, c.why)
			}) {
				t.Errorf("found %q, want %s: %s", found, c.path, c.why)
			}
			if same := digest == l.DiffID(); same != c.same {
				t.Errorf("the archive's digest is the same: %v", same)
			}
			if err := Assemble(root, bytes.NewReader(split), io.Discard, nil); (err == nil) != c.same {
				t.Errorf("assemble: %v", err)
			}
		})
	}
}

func overwrite(path string, at int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt([]byte("X"), at)
	return err
}

func mkfifo(path string) error { return unix.Mkfifo(path, 0o644) }
