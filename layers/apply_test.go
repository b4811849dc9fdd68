package layers

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"skiff/internal/idmap"
	"skiff/internal/need"
	"skiff/testdata/image"

	"golang.org/x/sys/unix"
)

func lstat(t testing.TB, path string) unix.Stat_t {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		t.Fatal(path, err)
	}
	return st
}

func TestModesAreExact(t *testing.T) {
	var entries []image.Entry
	modes := []int64{0o001, 0o222, 0o644, 0o666, 0o777, 0o1777, 0o2755, 0o4755, 0o6711, 0o7777}
	for _, m := range modes {
		entries = append(entries, image.File(fmt.Sprintf("f%o", m), "x").WithMode(m), image.Dir(fmt.Sprintf("d%o", m)).WithMode(m),
			image.File(fmt.Sprintf("d%o/inside", m), "x"), image.FIFO(fmt.Sprintf("p%o", m)).WithMode(m))
	}
	for _, umask := range []int{0, 0o022, 0o077, 0o777} {
		dir := filepath.Join(place(t), "fs")
		err := os.Mkdir(dir, 0o755)
		old := unix.Umask(umask)
		var result Result
		if err == nil {
			result, err = applyHere(t, dir, image.L(entries...), Options{})
		}
		unix.Umask(old)
		if err != nil {
			t.Fatalf("umask %o: %v", umask, err)
		}
		if result.Entries != int64(len(entries)) {
			t.Errorf("%d entries, want %d", result.Entries, len(entries))
		}
		for _, m := range modes {
			for _, kind := range []string{"f", "d", "p"} {
				if got := lstat(t, filepath.Join(dir, fmt.Sprintf("%s%o", kind, m))).Mode & 0o7777; got != uint32(m) {
					t.Errorf("umask %o: %s has mode %o, want %o", umask, kind, got, m)
				}
			}
		}
		if got := lstat(t, dir).Mode & 0o7777; got != 0o755 {
			t.Errorf("root has mode %o", got)
		}
	}
}

func TestTimes(t *testing.T) {
	at := func(e image.Entry, sec int64) image.Entry { e.MTime = sec; return e }
	dir, _ := apply(t, image.L(
		at(image.Dir("."), 11), at(image.Dir("d"), 22), at(image.File("d/f", "x"), 33), at(image.Symlink("d/s", "f"), 44),
		image.File("d/n", "x").WithPAX("mtime", "55.123456789"), image.File("d/neg", "x").WithPAX("mtime", "-1.5"),
		at(image.Dir("d/e"), 66), image.File("d/e/late", "x"), at(image.File("implied/f", "x"), 77)), Options{})
	for name, want := range map[string]time.Time{
		".": time.Unix(11, 0), "d": time.Unix(22, 0), "d/f": time.Unix(33, 0), "d/s": time.Unix(44, 0), "d/n": time.Unix(55, 123456789),
		"d/neg": time.Unix(-2, 5e8), "d/e": time.Unix(66, 0), "implied/f": time.Unix(77, 0),
	} {
		st := lstat(t, filepath.Join(dir, name))
		if got := time.Unix(st.Mtim.Unix()); !got.Equal(want) {
			t.Errorf("%s: %v, want %v", name, got.UTC(), want.UTC())
		}
	}
}

func TestOwners(t *testing.T) {
	need.Root(t)
	dir, result := apply(t, image.L(image.File("f", "x").WithOwner(1, 2), image.Dir("d").WithOwner(3, 4).WithMode(0o2770),
		image.File("d/inside", "x"), image.Symlink("s", "f").WithOwner(5, 6), image.FIFO("p").WithOwner(7, 8),
		image.File("su", "x").WithOwner(9, 10).WithMode(0o6755), image.Link("hard", "f").WithOwner(99, 99)), Options{})
	for name, want := range map[string][2]uint32{
		"f": {1, 2}, "d": {3, 4}, "d/inside": {0, 0}, "s": {5, 6}, "p": {7, 8}, "su": {9, 10}, "hard": {1, 2},
	} {
		if st := lstat(t, filepath.Join(dir, name)); st.Uid != want[0] || st.Gid != want[1] {
			t.Errorf("%s belongs to %d:%d, want %v", name, st.Uid, st.Gid, want)
		}
	}
	if st := lstat(t, filepath.Join(dir, "su")); st.Mode&0o7777 != 0o6755 {
		t.Errorf("chown took the mode to %o", st.Mode)
	}
	if a, b := lstat(t, filepath.Join(dir, "f")), lstat(t, filepath.Join(dir, "hard")); a.Ino != b.Ino {
		t.Error("the hard link is another file")
	}
	if result.Owners != 0 {
		t.Errorf("%d owner records", result.Owners)
	}
}

func TestSquashKeepsRecords(t *testing.T) {
	var records bytes.Buffer
	dir := filepath.Join(place(t), "fs")
	os.Mkdir(dir, 0o755)
	root, _ := os.Open(dir)
	defer root.Close()
	var tar bytes.Buffer
	image.L(image.File("f", "x"), image.File("g", "x").WithOwner(70000, -1).WithMode(0o4755), image.Char("null", 1, 3).WithMode(0o666),
		image.Block("a b\n", 8, 0).WithOwner(0, 6), image.Dir("d/").WithOwner(1, 0)).WriteTar(&tar)
	result, err := Apply(root, &tar, Options{Squash: true, Owners: &records})
	if err != nil {
		t.Fatal(err)
	}
	var got []Owner
	for o, err := range ReadOwners(&records) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, o)
	}
	want := []Owner{
		{"g", 70000, -1, 0o4755, '-', 0, 0}, {"null", 0, 0, 0o666, 'c', 1, 3}, {"a b\n", 0, 6, 0o644, 'b', 8, 0}, {"d", 1, 0, 0o755, '-', 0, 0},
	}
	if !slices.Equal(got, want) || result.Owners != 4 || result.Skipped.Devices != 2 {
		t.Errorf("records %v, want %v; result %+v", got, want, result)
	}
	for _, err := range ReadOwners(strings.NewReader("1 2 3 - 0:0 cut-off")) {
		if err == nil {
			t.Error("a cut-off record was read")
		}
	}
}

func TestDevicesAsRoot(t *testing.T) {
	need.Root(t)
	dir, result := apply(t, image.L(image.Char("null", 1, 3).WithMode(0o666), image.Block("loop", 7, 0), image.Char("forged", 0, 0)), Options{Devices: true})
	got, err := image.List(dir)
	want := []string{"b 0644 loop 7:0", "c 0666 null 1:3"}
	if err != nil || !slices.Equal(got, want) || result.Skipped.Devices != 1 {
		t.Errorf("%v %v, %+v", got, err, result)
	}
}

func TestXattrs(t *testing.T) {
	l := image.L(image.File("f", "x").WithXattr("user.keep", "\x00\xff").WithXattr("user.overlay.opaque", "y").WithXattr("trusted.x", "y"),
		image.Dir("d").WithXattr("user.keep", "d").WithXattr("user.overlay.redirect", "/x"),
		image.File("cap", "x").WithMode(0o755).WithXattr("security.capability", image.CapNetRaw))
	for name, ids := range kinds(t) {
		staging := place(t)
		w := start(t, staging, ids)
		result, err := unpack(t, w, staging, "fs", l, Job{})
		if err != nil || result.Skipped.Xattrs != 3 {
			t.Errorf("%s: %+v %v", name, result, err)
		}
		names := func(file string) string {
			buf := make([]byte, 1000)
			n, err := unix.Llistxattr(filepath.Join(staging, "fs", file), buf)
			if err != nil {
				t.Fatal(err)
			}
			return string(buf[:n])
		}
		if got := names("f"); got != "user.keep\x00" {
			t.Errorf("%s: f has %q", name, got)
		}
		if got := names("d"); got != "user.keep\x00" {
			t.Errorf("%s: d has %q", name, got)
		}
		// Version 3 names the user namespace's root as it is on disk. To the root
		// of the host, 0 on disk shows as version 2.
		v := make([]byte, 64)
		n, err := unix.Lgetxattr(filepath.Join(staging, "fs", "cap"), "security.capability", v)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if n == 24 && v[3] == 3 {
			if root := binary.LittleEndian.Uint32(v[20:24]); root != uint32(os.Geteuid()) || root == 0 {
				t.Errorf("%s: capability of root %d", name, root)
			}
		} else if string(v[:n]) != image.CapNetRaw || os.Geteuid() != 0 {
			t.Errorf("%s: capability %x", name, v[:n])
		}
	}
}

func TestSparseKeepsHoles(t *testing.T) {
	const size = 1 << 30
	dir, result := apply(t, image.L(image.Sparse("pax", "headtail", size, [2]int64{0, 4}, [2]int64{size - 4, 4}), image.OldSparse("old", "mid", size, [2]int64{size / 2, 3}),
		image.File("after", "after")), Options{})
	for name, check := range map[string]map[int64]string{
		"pax": {0: "head\x00", size - 5: "\x00tail"}, "old": {size/2 - 1: "\x00mid\x00"}, "after": {0: "after"},
	} {
		st := lstat(t, filepath.Join(dir, name))
		if name != "after" && (st.Size != size || st.Blocks*512 > 64<<10) {
			t.Errorf("%s has %d bytes in %d blocks", name, st.Size, st.Blocks)
		}
		f, err := os.Open(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		for at, want := range check {
			got := make([]byte, len(want))
			if _, err := f.ReadAt(got, at); err != nil || string(got) != want {
				t.Errorf("%s at %d: %q %v", name, at, got, err)
			}
		}
		f.Close()
	}
	if result.Size > 64<<10 {
		t.Errorf("stream of %d bytes", result.Size)
	}
}

func TestQuota(t *testing.T) {
	l := image.Many(1000)
	for _, c := range []struct {
		opt  Options
		fine bool
	}{
		{Options{MaxEntries: 1010}, true}, {Options{MaxEntries: 1009}, false},
		{Options{MaxBytes: 1e7}, true}, {Options{MaxBytes: 1e6}, false},
	} {
		dir := filepath.Join(place(t), "fs")
		os.Mkdir(dir, 0o755)
		_, err := applyHere(t, dir, l, c.opt)
		if c.fine != (err == nil) || !c.fine && !errors.Is(err, ErrQuota) {
			t.Errorf("%+v: %v", c.opt, err)
		}
	}
}

func TestResultCounts(t *testing.T) {
	_, r := apply(t, image.L(image.File("a/b/c", "x"), image.File("a/d", "x"), image.Opaque(""), image.File(".wh..wh.aufs", "")), Options{})
	if r.Implied != 2 || !r.OpaqueRoot || r.Skipped.Meta != 1 || r.Entries != 4 {
		t.Errorf("%+v", r)
	}
}

func TestUnmappedIsTyped(t *testing.T) {
	ids := idmap.Map{Kind: idmap.Subordinate, UIDs: []idmap.Range{{Container: 0, Host: 1001, Size: 1}, {Container: 1, Host: 100000, Size: 100}},
		GIDs: []idmap.Range{{Container: 0, Host: 1001, Size: 1}}}
	err := export(&EntryError{"x", "file", mapped(ids, 101, 0)})
	var u *UnmappedError
	if !errors.As(err, &u) || u.ID != 101 || u.Kind != "uid" || u.Map != "0:1001:1,1:100000:100" {
		t.Errorf("%v: %+v", err, u)
	}
	if err := mapped(ids, 100, 1); !errors.As(err, &u) || u.ID != 1 || u.Kind != "gid" || u.Map != "0:1001:1" {
		t.Errorf("%v", err)
	}
	if err := mapped(ids, 100, 0); err != nil {
		t.Error(err)
	}
}

// An error of the source is reported as it is, and nothing hangs.
func TestSourceError(t *testing.T) {
	broken := errors.New("connection lost")
	blob := image.Many(5000).Bytes()
	for _, n := range []int{0, 1, 1000, len(blob) / 2} {
		dir := filepath.Join(place(t), "fs")
		os.Mkdir(dir, 0o755)
		root, _ := os.Open(dir)
		r, err := Decompress(io.MultiReader(bytes.NewReader(blob[:n]), errorReader{broken}), Detect)
		if err == nil {
			_, err = Apply(root, r, Options{Squash: true})
			r.Close()
		}
		if !errors.Is(err, broken) || errors.Is(err, ErrFormat) {
			t.Errorf("after %d bytes: %v", n, err)
		}
		root.Close()
	}
}

type errorReader struct{ err error }

func (r errorReader) Read([]byte) (int, error) { return 0, r.err }

// Reads of any size give the same tree and digest.
func TestShortReads(t *testing.T) {
	l := image.Many(300)
	var tar bytes.Buffer
	l.WriteTar(&tar)
	dir := filepath.Join(place(t), "fs")
	os.Mkdir(dir, 0o755)
	root, _ := os.Open(dir)
	defer root.Close()
	result, err := Apply(root, &dribble{tar.Bytes(), rand.New(rand.NewPCG(1, 2))}, Options{Squash: true})
	if err != nil || result.DiffID != l.DiffID() || result.Entries != 303 {
		t.Errorf("%+v %v", result, err)
	}
}

type dribble struct {
	rest []byte
	rng  *rand.Rand
}

func (d *dribble) Read(p []byte) (int, error) {
	if len(d.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), d.rng.IntN(700))], d.rest)
	d.rest = d.rest[n:]
	return n, nil
}
