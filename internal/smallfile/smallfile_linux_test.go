package smallfile

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestRead(t *testing.T) {
	for _, size := range []int{0, 1, 4095, 4096, 4097, 100_000} {
		path := filepath.Join(t.TempDir(), "f")
		want := bytes.Repeat([]byte("x"), size)
		if err := os.WriteFile(path, want, 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := Read(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%d bytes: read %d, %v", size, len(got), err)
		}
	}
	var pathError *fs.PathError
	if _, err := Read("/nonexistent/f"); !errors.Is(err, fs.ErrNotExist) || !errors.As(err, &pathError) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := Read(t.TempDir()); err == nil {
		t.Error("a directory can be read")
	}
	if got, err := Read("/proc/self/uid_map"); err != nil || len(got) == 0 {
		t.Errorf("a file of proc: %q, %v", got, err)
	}
}
