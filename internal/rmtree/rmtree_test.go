package rmtree

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// What layers.Remove promises of depth, links, mounts and closed directories is
// tested there; here is what several processes do to one tree.

func tree(t *testing.T) (parent int, path string) {
	t.Helper()
	path = t.TempDir()
	parent, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(parent) })
	for i := range 40 {
		dir := filepath.Join(path, "tree", strconv.Itoa(i), "a/b/c")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"f", "g", "../f", "../../f"} {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return parent, filepath.Join(path, "tree")
}

func TestTogether(t *testing.T) {
	for range 20 {
		parent, path := tree(t)
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if err := At(parent, "tree"); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

// A sweep looks for the lock of a directory that is being deleted, and makes it.
func TestLockMadeAgain(t *testing.T) {
	parent, path := tree(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for made := 0; made < 1000; {
			select {
			case <-stop:
				return
			default:
			}
			if f, err := os.OpenFile(path+"/lock", os.O_CREATE|os.O_EXCL, 0o600); err == nil {
				f.Close()
				made++
			}
		}
	})
	if err := At(parent, "tree"); err != nil {
		t.Error(err)
	}
	close(stop)
	wg.Wait()
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}
