package layers

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"skiff/internal/idmap"
	"skiff/internal/need"
	"skiff/testdata/image"

	"golang.org/x/sys/unix"
)

func anyKind(t testing.TB) idmap.Map {
	need.Userns(t)
	ids, _ := idmap.Choose()
	return ids
}

// A layer that breaks does not disturb the others (CVE-2021-20291).
func TestParallelWithBroken(t *testing.T) {
	before := runtime.NumGoroutine()
	staging := place(t)
	w := start(t, staging, anyKind(t))
	good, bad := image.Many(3000), image.Many(3000)
	blob := bad.Bytes()
	blob[len(blob)/2] ^= 0xff
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			l, dir := good, string(rune('a'+i))
			if i%2 == 1 {
				l.Blob = func(w io.Writer) error { _, err := w.Write(blob); return err }
			}
			result, err := unpack(t, w, staging, dir, l, Job{})
			if i%2 == 0 && (err != nil || result.DiffID != good.DiffID()) {
				t.Errorf("layer %d: %v", i, err)
			}
			if i%2 == 1 && !errors.Is(err, ErrFormat) {
				t.Errorf("broken layer %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	w.Close()
	// The thread that a worker hangs on ends with it.
	noMoreGoroutines(t, before)
}

func TestWorkerDies(t *testing.T) {
	staging := place(t)
	w := start(t, staging, anyKind(t))
	os.Mkdir(filepath.Join(staging, "a"), 0o755)
	r, pipe := io.Pipe()
	failed := make(chan error)
	go func() {
		_, err := w.Unpack(context.Background(), Job{Dir: "a"}, r)
		failed <- err
	}()
	blob := image.Many(1000).Bytes()
	pipe.Write(blob[:len(blob)/2])
	unix.Kill(w.life.task.PID, unix.SIGKILL)
	pipe.CloseWithError(io.EOF)
	err := <-failed
	if !errors.Is(err, ErrWorker) || !strings.Contains(err.Error(), "killed by killed") {
		t.Errorf("error %v", err)
	}
	if _, err := w.Unpack(context.Background(), Job{Dir: "a"}, bytes.NewReader(blob)); !errors.Is(err, ErrWorker) {
		t.Errorf("afterwards: %v", err)
	}
}

func TestCancel(t *testing.T) {
	staging := place(t)
	w := start(t, staging, anyKind(t))
	os.Mkdir(filepath.Join(staging, "a"), 0o755)
	ctx, cancel := context.WithCancel(context.Background())
	r := &endlessTar{cancelAt: 64 << 20, cancel: cancel}
	_, err := w.Unpack(ctx, Job{Dir: "a"}, r)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	// The worker is none the worse for it.
	if _, err := unpack(t, w, staging, "b", image.L(image.File("x", "x")), Job{}); err != nil {
		t.Error(err)
	}
}

// endlessTar is one file without end, which cancels after a while.
type endlessTar struct {
	n, cancelAt int
	cancel      func()
}

func (e *endlessTar) Read(p []byte) (int, error) {
	if e.n == 0 {
		var b bytes.Buffer
		image.L(image.File("x", "").Claim(1 << 40)).WriteTar(&b)
		e.n = copy(p, b.Bytes()[:512])
		return e.n, nil
	}
	if e.n += len(p); e.n > e.cancelAt {
		e.cancel()
		time.Sleep(time.Millisecond)
	}
	return len(p), nil
}

func TestReaderErrorWins(t *testing.T) {
	staging := place(t)
	w := start(t, staging, anyKind(t))
	os.Mkdir(filepath.Join(staging, "a"), 0o755)
	lost := errors.New("connection lost")
	blob := image.Many(1000).Bytes()
	_, err := w.Unpack(context.Background(), Job{Dir: "a"}, io.MultiReader(bytes.NewReader(blob[:1000]), errorReader{lost}))
	if !errors.Is(err, lost) {
		t.Errorf("error %v", err)
	}
}

func TestJobNames(t *testing.T) {
	base := place(t)
	staging := filepath.Join(base, "staging")
	os.Mkdir(staging, 0o755)
	os.Mkdir(filepath.Join(base, "outside"), 0o755)
	os.Symlink(filepath.Join(base, "outside"), filepath.Join(staging, "link"))
	os.Symlink("../outside", filepath.Join(staging, "rel"))
	os.Symlink(".", filepath.Join(staging, "self"))
	w := start(t, staging, anyKind(t))
	for _, dir := range []string{"missing", "../outside", "link", "rel", "self", "/etc", ""} {
		if _, err := w.Unpack(context.Background(), Job{Dir: dir}, bytes.NewReader(image.L().Bytes())); err == nil {
			t.Errorf("unpacked into %q", dir)
		}
	}
	if err := w.Remove(context.Background(), "../outside"); err == nil {
		t.Error("removed outside")
	}
	if _, err := os.Stat(filepath.Join(base, "outside")); err != nil {
		t.Error(err)
	}
}

func TestWorkerOwners(t *testing.T) {
	staging := place(t)
	need.Userns(t)
	w := start(t, staging, idmap.OwnID())
	l := image.L(image.File("a", "x").WithOwner(5, 6), image.File("b", "x"))
	if r, err := unpack(t, w, staging, "fs", l, Job{Owners: "owners"}); err != nil || r.Owners != 1 {
		t.Fatal(r, err)
	}
	text, err := os.ReadFile(filepath.Join(staging, "owners"))
	if err != nil || string(text) != "5 6 644 - 0:0 a\x00" {
		t.Errorf("%q %v", text, err)
	}
	if _, err := unpack(t, w, staging, "fs2", image.L(image.File("b", "x")), Job{Owners: "none"}); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(staging, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file of no records: %v", err)
	}
}

// What is on disk is the container's ids for root, and shifted ones for users.
func TestWorkerIDsOnDisk(t *testing.T) {
	for name, ids := range kinds(t) {
		staging := place(t)
		w := start(t, staging, ids)
		if _, err := unpack(t, w, staging, "fs", image.L(image.File("f", "x").WithOwner(7, 8).WithMode(0o4755), image.Whiteout("", "w")), Job{}); err != nil {
			t.Fatal(name, err)
		}
		uid, gid := uint32(7), uint32(8)
		switch ids.Kind {
		case idmap.Single:
			uid, gid = uint32(os.Geteuid()), uint32(os.Getegid())
		case idmap.Subordinate:
			uid, _ = ids.HostUID(7)
			gid, _ = ids.HostGID(8)
		}
		if st := lstat(t, filepath.Join(staging, "fs", "f")); st.Uid != uid || st.Gid != gid || st.Mode&0o7777 != 0o4755 {
			t.Errorf("%s: %d:%d mode %o, want %d:%d", name, st.Uid, st.Gid, st.Mode, uid, gid)
		}
	}
}

func TestCloseTwiceAndDuring(t *testing.T) {
	staging := place(t)
	w := start(t, staging, anyKind(t))
	os.Mkdir(filepath.Join(staging, "a"), 0o755)
	r, pipe := io.Pipe()
	failed := make(chan error)
	go func() {
		_, err := w.Unpack(context.Background(), Job{Dir: "a"}, r)
		failed <- err
	}()
	pipe.Write(image.Many(100).Bytes()[:100])
	w.Close()
	w.Close()
	pipe.Close()
	if err := <-failed; !errors.Is(err, ErrWorker) {
		t.Errorf("error %v", err)
	}
	if err := w.Remove(context.Background(), "a"); !errors.Is(err, os.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}

// A binary that others may not execute is copied to memory.
func TestClosedExecutable(t *testing.T) {
	text, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Join(place(t), "exe")
	if err := os.WriteFile(own, text, 0o700); err != nil {
		t.Fatal(err)
	}
	exe, err := os.Open(own)
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	w, err := StartWorker(place(t), anyKind(t), exe)
	if err != nil {
		t.Fatal(err)
	}
	w.Close()
}

func TestBadExecutable(t *testing.T) {
	exe, err := os.Open("/etc/passwd")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	before, _ := os.ReadDir("/proc/self/fd")
	_, err = StartWorker(place(t), anyKind(t), exe)
	if !errors.Is(err, ErrWorker) || !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.ENOEXEC) {
		t.Errorf("error %v", err)
	}
	_, err = StartWorker("/nonexistent", anyKind(t), nil)
	if !errors.Is(err, ErrWorker) || !errors.Is(err, unix.ENOENT) || !strings.Contains(err.Error(), "/nonexistent") {
		t.Errorf("error %v", err)
	}
	after, _ := os.ReadDir("/proc/self/fd")
	// Fewer is no fault: a finalizer may have closed what an earlier test left.
	for _, fd := range after {
		if !slices.ContainsFunc(before, func(b os.DirEntry) bool { return b.Name() == fd.Name() }) {
			t.Errorf("descriptors %v, before %v", after, before)
		}
	}
}

// SKIFF_GZIP=std reaches the worker: the standard library words its errors otherwise.
func TestStandardGzip(t *testing.T) {
	l := image.L(image.File("a", "b"))
	blob := l.Bytes()
	blob[len(blob)-1] ^= 1
	l.Blob = func(w io.Writer) error { _, err := w.Write(blob); return err }
	for env, word := range map[string]string{"": "gzip: byte ", "std": "gzip: gzip: invalid checksum"} {
		t.Setenv("SKIFF_GZIP", env)
		staging := place(t)
		_, err := unpack(t, start(t, staging, anyKind(t)), staging, "a", l, Job{})
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), word) {
			t.Errorf("SKIFF_GZIP=%s: %v", env, err)
		}
	}
}
