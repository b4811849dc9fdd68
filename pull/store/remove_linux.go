package store

import (
	"errors"

	"skiff/internal/again"
	"skiff/internal/rmtree"

	"golang.org/x/sys/unix"
)

// removeTree removes a directory below the store, with the store's Remove where
// the caller's rights do not suffice. ENOENT is success.
func (s *Store) removeTree(path string) error {
	err := s.walkRemove(path)
	if err != nil && s.Remove != nil && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
		if err := s.Remove(s.Path(path)); err != nil {
			return explain("remove", s.Path(path), err)
		}
		err = s.walkRemove(path)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return explain("remove", s.Path(path), err)
	}
	return nil
}

func (s *Store) walkRemove(path string) error {
	dir, base := s.fd, path
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			fd, err := again.Openat(s.fd, path[:i], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			dir, base = fd, path[i+1:]
			break
		}
	}
	return rmtree.At(dir, base)
}
