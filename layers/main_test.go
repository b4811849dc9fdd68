package layers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"skiff/internal/idmap"
	"skiff/internal/need"
	"skiff/testdata/image"

	"golang.org/x/sys/unix"
)

// Decompress is codec.Decompress. A package that imports this one cannot be
// imported by its inner tests; codec_test.go sets it from outside.
var Decompress Decompressor

func TestMain(m *testing.M) {
	WorkerMain(func() Decompressor { return Decompress })
	if os.Getenv("LAYERS_TEST_DENIED") != "" {
		tryDenied()
		return
	}
	os.Exit(m.Run())
}

// place is a directory for a test, that files of subordinate ids are removed
// from.
func place(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "layers-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ids, _ := idmap.Choose()
		if err := Remove(dir, ids); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// applyHere unpacks in this very process: as root with every id, otherwise
// squashed.
func applyHere(t testing.TB, dir string, l image.Layer, opt Options) (Result, error) {
	t.Helper()
	opt.Squash = os.Geteuid() != 0
	if !opt.Squash && opt.IDs.Kind == idmap.Host {
		same := []idmap.Range{{Container: 0, Host: 0, Size: 65536}}
		opt.IDs = idmap.Map{Kind: idmap.Root, UIDs: same, GIDs: same}
	}
	root, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	r, err := Decompress(bytes.NewReader(l.Bytes()), Detect)
	if err != nil {
		return Result{}, err
	}
	defer r.Close()
	opt.Split = splitFile(t)
	result, err := Apply(root, r, opt)
	if err == nil && result.Split {
		wantWhole(t, root, bytes.NewReader(written(t, opt.Split)), opt, result)
	}
	return result, err
}

// splitFile is a file for Options.Split, in no directory: a test may have a umask that
// lets none be entered.
func splitFile(t testing.TB) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("split", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "split")
	t.Cleanup(func() { f.Close() })
	return f
}

// written is all of a file.
func written(t testing.TB, f *os.File) []byte {
	t.Helper()
	_, err := f.Seek(0, io.SeekStart)
	b, rerr := io.ReadAll(f)
	if err := errors.Join(err, rerr); err != nil {
		t.Fatal(err)
	}
	return b
}

// apply is applyHere into a fresh directory of a layer that is fine.
func apply(t testing.TB, l image.Layer, opt Options) (string, Result) {
	t.Helper()
	dir := filepath.Join(place(t), "fs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	result, err := applyHere(t, dir, l, opt)
	if err != nil {
		t.Fatal(err)
	}
	return dir, result
}

// kinds are the id maps that the calling user can have.
func kinds(t testing.TB) map[string]idmap.Map {
	t.Helper()
	need.Userns(t)
	maps := map[string]idmap.Map{"single": idmap.OwnID()}
	if ids, _ := idmap.Choose(); ids.Kind != idmap.Single {
		maps[ids.Kind.String()] = ids
	}
	if os.Geteuid() == 0 {
		maps["host"] = idmap.Map{Kind: idmap.Host}
	}
	return maps
}

func start(t testing.TB, staging string, ids idmap.Map) *Worker {
	t.Helper()
	w, err := StartWorker(staging, ids, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// unpack makes dir below staging and unpacks into it.
func unpack(t testing.TB, w *Worker, staging, dir string, l image.Layer, job Job) (Result, error) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(staging, dir), 0o755); err != nil {
		t.Fatal(err)
	}
	job.Dir = dir
	return w.Unpack(context.Background(), job, bytes.NewReader(l.Bytes()))
}

// snapshot is all there is to see below a directory, but for what skip names.
func snapshot(t testing.TB, dir string, skip string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || path == skip {
			if path == skip {
				return fs.SkipDir
			}
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		// A directory's own time changes with what is made beside the marker.
		fmt.Fprintf(&b, "%s %o %d:%d %d %d\n", path, st.Mode, st.Uid, st.Gid, st.Nlink, st.Ino)
		if st.Mode&unix.S_IFMT == unix.S_IFREG {
			text, _ := os.ReadFile(path)
			fmt.Fprintf(&b, "%q %d\n", text, st.Mtim.Nano())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// noMoreGoroutines fails the test if there are more than before.
func noMoreGoroutines(t testing.TB, before int) {
	t.Helper()
	for range 200 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	buf := make([]byte, 1<<16)
	t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
}
