package layers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"skiff/internal/idmap"
	"skiff/internal/need"
	"skiff/testdata/image"

	"golang.org/x/sys/unix"
)

// deepTree makes depth directories below each other, with a file and a
// directory of mode 0 in each.
func deepTree(t testing.TB, dir string, depth int) {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	for range depth {
		if err == nil {
			err = unix.Mkdirat(fd, "d", 0o755)
		}
		if err == nil {
			err = unix.Mkdirat(fd, "closed", 0)
		}
		if err == nil {
			err = unix.Symlinkat("/", fd, "link")
		}
		next := -1
		if err == nil {
			next, err = unix.Openat(fd, "d", unix.O_PATH|unix.O_DIRECTORY, 0)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
}

func TestRemoveDeep(t *testing.T) {
	base := place(t)
	dir := filepath.Join(base, "tree")
	os.Mkdir(dir, 0o755)
	os.Mkdir(filepath.Join(dir, ".deep-1"), 0o755) // a name that is used for moving
	deepTree(t, dir, 3500)
	// Many deep ones side by side.
	for i := range 20 {
		side := filepath.Join(dir, "side"+strconv.Itoa(i))
		os.Mkdir(side, 0o755)
		deepTree(t, side, 200)
	}
	open := func() int { fds, _ := os.ReadDir("/proc/self/fd"); return len(fds) }
	before := open()
	if err := Remove(dir, idmap.Map{}); err != nil {
		t.Fatal(err)
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
	if entries, _ := os.ReadDir(base); len(entries) != 0 {
		t.Errorf("left %v", entries)
	}
}

func TestRemoveClosed(t *testing.T) {
	dir := filepath.Join(place(t), "tree")
	for _, d := range []string{"", "a", "a/b", "a/b/c", "r"} {
		os.Mkdir(filepath.Join(dir, d), 0o755)
	}
	os.WriteFile(filepath.Join(dir, "a/b/c/f"), nil, 0)
	os.WriteFile(filepath.Join(dir, "r/f"), nil, 0)
	os.Chmod(filepath.Join(dir, "r"), 0o555)
	for _, d := range []string{"a/b/c", "a/b", "a", ""} {
		os.Chmod(filepath.Join(dir, d), 0)
	}
	if err := Remove(dir, idmap.Map{}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for _, missing := range []string{dir, filepath.Join(dir, "below")} {
		if err := Remove(missing, idmap.Map{}); err != nil {
			t.Errorf("of nothing: %v", err)
		}
	}
}

func TestRemoveFollowsNothing(t *testing.T) {
	base := place(t)
	outside, dir := filepath.Join(base, "outside"), filepath.Join(base, "tree")
	os.Mkdir(outside, 0o755)
	os.WriteFile(filepath.Join(outside, "f"), []byte("x"), 0o644)
	os.Mkdir(dir, 0o755)
	os.Symlink(outside, filepath.Join(dir, "link"))
	os.Symlink("..", filepath.Join(dir, "up"))
	os.Link(filepath.Join(outside, "f"), filepath.Join(dir, "hard"))
	before := snapshot(t, outside, "")
	if err := Remove(filepath.Join(dir, "link"), idmap.Map{}); err != nil {
		t.Fatal(err)
	}
	if err := Remove(dir, idmap.Map{}); err != nil {
		t.Fatal(err)
	}
	if after := snapshot(t, outside, ""); len(after) != len(before) {
		t.Errorf("outside is\n%s\nwas\n%s", after, before)
	}
}

func TestRemoveStopsAtMount(t *testing.T) {
	need.Root(t)
	base := place(t)
	outside, dir := filepath.Join(base, "outside"), filepath.Join(base, "tree")
	os.MkdirAll(filepath.Join(dir, "a/mnt"), 0o755)
	os.Mkdir(outside, 0o755)
	os.WriteFile(filepath.Join(outside, "f"), []byte("x"), 0o644)
	if err := unix.Mount(outside, filepath.Join(dir, "a/mnt"), "", unix.MS_BIND, ""); err != nil {
		need.That(t, "mount", err)
	}
	err := Remove(dir, idmap.Map{})
	unix.Unmount(filepath.Join(dir, "a/mnt"), unix.MNT_DETACH)
	if !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EBUSY) {
		t.Errorf("error %v", err)
	}
	if _, err := os.Stat(filepath.Join(outside, "f")); err != nil {
		t.Error(err)
	}
}

// What subordinate ids own is removed by a worker that has them.
func TestRemoveSubordinate(t *testing.T) {
	ids, ok := kinds(t)["subordinate"]
	if !ok {
		need.That(t, "subuid", errors.New("the user has no subordinate ids, or is root"))
	}
	staging := place(t)
	w := start(t, staging, ids)
	l := image.L(image.Dir("d").WithOwner(5, 5).WithMode(0o700), image.File("d/f", "x").WithOwner(5, 5), image.Dir("d/e").WithOwner(6, 6).WithMode(0))
	if _, err := unpack(t, w, staging, "fs", l, Job{}); err != nil {
		t.Fatal(err)
	}
	w.Close()
	if err := os.RemoveAll(filepath.Join(staging, "fs")); err == nil {
		t.Error("the caller could remove it by itself")
	}
	if err := Remove(filepath.Join(staging, "fs"), ids); err != nil {
		t.Fatal(err)
	}
	if entries, _ := os.ReadDir(staging); len(entries) != 0 {
		t.Errorf("left %v", entries)
	}
}

// Replacing a big directory again and again stays linear.
func TestReplaceDirsLinear(t *testing.T) {
	var entries []image.Entry
	for i := range 200 {
		entries = append(entries, image.Dir("d"))
		for j := range 20 {
			entries = append(entries, image.File(fmt.Sprintf("d/%d", j), "x"))
		}
		entries = append(entries, image.File("d", strconv.Itoa(i)))
	}
	began := time.Now()
	dir, _ := apply(t, image.L(entries...), Options{})
	if got, _ := image.List(dir); len(got) != 1 || got[0] != `f 0644 d "199"` {
		t.Errorf("%v", got)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
}
