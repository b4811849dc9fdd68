package layers

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"skiff/internal/need"
	"skiff/testdata/image"

	"golang.org/x/sys/unix"
)

func stack(t testing.TB, ls ...image.Layer) Stack {
	t.Helper()
	var s Stack
	base := place(t)
	for i, l := range ls {
		dir := filepath.Join(base, strconv.Itoa(i))
		os.Mkdir(dir, 0o755)
		if _, err := applyHere(t, dir, l, Options{}); err != nil {
			t.Fatal(err)
		}
		s.Dirs = append(s.Dirs, dir)
	}
	return s
}

func TestStack(t *testing.T) {
	s := stack(t,
		image.L(image.Dir("etc"), image.File("etc/passwd", "base"), image.File("etc/gone", "gone"), image.File("etc/low", "low"),
			image.Dir("opaque"), image.File("opaque/hidden", "h"), image.Dir("was-dir"), image.File("was-dir/f", "f"),
			image.File("was-file", "f"), image.Dir("d"), image.Dir("d/e"), image.File("d/e/deep", "deep"), image.File("top-secret", "s")),
		image.L(image.File("etc/passwd", "middle"), image.Whiteout("etc", "gone"), image.Whiteout("", "d"), image.File("was-dir", "now a file"),
			image.File("was-file/inside", "i"), image.Symlink("abs", "/etc"), image.Symlink("rel", "etc/../etc/low"), image.Symlink("loop", "loop"),
			image.Symlink("out", "../../../../../etc/passwd"), image.Symlink("host", "/../../"+image.Outside+"/secret"), image.Symlink("exe", "/proc/self/exe")),
		image.L(image.Opaque("opaque"), image.File("opaque/seen", "seen"), image.File("d/new", "new"), image.FIFO("fifo"), image.File("big", strings.Repeat("x", 5000))))
	for name, want := range map[string]string{
		"etc/passwd": "middle", "/etc/passwd": "middle", "//etc/./passwd": "middle", "etc/../etc/passwd": "middle", "../../etc/passwd": "middle",
		"etc/low": "low", "opaque/seen": "seen", "was-dir": "now a file", "was-file/inside": "i", "d/new": "new",
		"abs/passwd": "middle", "abs/low": "low", "rel": "low", "out": "middle", "abs/../etc/low": "low", "top-secret": "s",
	} {
		if got, err := s.ReadFile(name, 100); err != nil || string(got) != want {
			t.Errorf("%s: %q %v, want %q", name, got, err, want)
		}
	}
	for name, want := range map[string]error{
		"etc/gone": fs.ErrNotExist, "opaque/hidden": fs.ErrNotExist, "d/e/deep": fs.ErrNotExist, "was-dir/f": unix.ENOTDIR, "missing": fs.ErrNotExist,
		"host": fs.ErrNotExist, "exe": fs.ErrNotExist, "loop": unix.ELOOP, "loop/x": unix.ELOOP, "fifo": errNotRegular, "etc": errNotRegular, "": errNotRegular,
		"etc/passwd/": unix.ENOTDIR, "etc/passwd/x": unix.ENOTDIR, "big": ErrQuota, strings.Repeat("n", 300): unix.ENAMETOOLONG,
	} {
		if got, err := s.ReadFile(name, 100); !errors.Is(err, want) {
			t.Errorf("%s: %q %v, want %v", name, got, err, want)
		}
	}
	if st, err := s.Lookup("abs", false); err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		t.Errorf("Lookup of a link: %o %v", st.Mode, err)
	}
	if st, err := s.Lookup("abs", true); err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
		t.Errorf("Lookup through a link: %o %v", st.Mode, err)
	}
	if _, err := (Stack{}).ReadFile("x", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty stack: %v", err)
	}
}

func TestStackOpaqueRoot(t *testing.T) {
	s := stack(t, image.L(image.File("a", "a")), image.L(image.Opaque(""), image.File("b", "b")), image.L(image.File("c", "c")))
	for name, found := range map[string]bool{"a": false, "b": true, "c": true} {
		if _, err := s.ReadFile(name, 10); found != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestStackLeavesNoDescriptors(t *testing.T) {
	s := stack(t, image.L(image.File("etc/passwd", "x"), image.Symlink("l", "etc")), image.L(image.File("etc/group", "x")))
	open := func() int { fds, _ := os.ReadDir("/proc/self/fd"); return len(fds) }
	before := open()
	for _, name := range []string{"etc/passwd", "l/passwd", "l", "missing", "etc/passwd/x", "etc/.."} {
		s.ReadFile(name, 10)
		s.Lookup(name, false)
	}
	if after := open(); after != before {
		t.Errorf("%d descriptors open, %d before", after, before)
	}
}

// Overlayfs and Stack see the same files in what a worker has unpacked.
func TestOverlayAgrees(t *testing.T) {
	need.Root(t)
	base := place(t)
	w := start(t, base, anyKind(t))
	var s Stack
	names := []string{"d", "d/a", "d/b", "d/sub", "d/sub/x", "gone", "file", "file/in", "e", "e/new", "e/old", "link", "link/a", "was-link", "was-link/f"}
	for i, l := range []image.Layer{
		image.L(image.Dir("d"), image.File("d/a", "0"), image.File("d/b", "0"), image.Dir("d/sub"), image.File("d/sub/x", "0"), image.File("gone", "0"),
			image.File("file", "0"), image.Dir("e"), image.File("e/old", "0"), image.Symlink("link", "d"), image.Symlink("was-link", "d")),
		image.L(image.Whiteout("", "gone"), image.Whiteout("d", "b"), image.File("file/in", "1"), image.Whiteout("", "e"), image.File("e/new", "1"),
			image.File("was-link/f", "1")),
		image.L(image.Opaque("d/sub"), image.File("d/a", "2")),
	} {
		if _, err := unpack(t, w, base, strconv.Itoa(i), l, Job{}); err != nil {
			t.Fatal(err)
		}
		s.Dirs = append(s.Dirs, filepath.Join(base, strconv.Itoa(i)))
	}
	merged := filepath.Join(base, "merged")
	os.Mkdir(merged, 0o755)
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread and its mounts go with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err == nil {
			err = unix.Mount("overlay", merged, "overlay", 0, "userxattr,lowerdir="+s.Dirs[2]+":"+s.Dirs[1]+":"+s.Dirs[0])
		}
		if err != nil {
			t.Errorf("overlay: %v", err)
			return
		}
		for _, name := range names {
			var st unix.Stat_t
			want := unix.Lstat(filepath.Join(merged, name), &st)
			got, err := s.Lookup(name, false)
			if !errors.Is(err, want) || (want == nil && got.Mode != st.Mode) {
				t.Errorf("%s: %o %v, overlayfs has %o %v", name, got.Mode, err, st.Mode, want)
			}
			if st.Mode&unix.S_IFMT == unix.S_IFREG {
				want, _ := os.ReadFile(filepath.Join(merged, name))
				if got, err := s.ReadFile(name, 10); err != nil || string(got) != string(want) {
					t.Errorf("%s: %q %v, overlayfs has %q", name, got, err, want)
				}
			}
		}
	}()
	<-done
}

func BenchmarkStackReadFile20(b *testing.B) {
	var ls []image.Layer
	for i := range 20 {
		ls = append(ls, image.L(image.File("usr/"+strconv.Itoa(i), "x")))
	}
	ls[0] = image.L(image.File("etc/passwd", "root"))
	s := stack(b, ls...)
	for b.Loop() {
		if _, err := s.ReadFile("etc/passwd", 100); err != nil {
			b.Fatal(err)
		}
	}
}
