package run

import (
	"errors"
	"fmt"
	"io"
	"os"

	"skiff/pull/store"

	"golang.org/x/sys/unix"
)

// reader reads files of an image without mounting it: from the topmost layer
// that has the path, resolved inside that layer. A whiteout or anything that
// is no regular file counts as missing.
func (r *Runner) reader(img *store.Image) fileReader {
	return func(name string, limit int64) ([]byte, error) {
		for i := len(img.DiffIDs) - 1; i >= 0; i-- {
			text, err := readIn(r.Store.LayerDir(img.DiffIDs[i]), name, limit)
			if !errors.Is(err, unix.ENOENT) {
				return text, err
			}
		}
		return nil, unix.ENOENT
	}
}

func readIn(root, name string, limit int64) ([]byte, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	fd, err := unix.Openat2(dir, name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), name)
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s: no regular file", name)
	}
	return io.ReadAll(io.LimitReader(file, limit))
}
