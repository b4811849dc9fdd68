package store

import (
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxOpen bounds the descriptors of a walk. What lies deeper is renamed up to
// the top of the tree and removed from there, so depth costs nothing.
const maxOpen = 32

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

// RemoveAll removes the tree at path, an absolute path that the caller
// vouches for, by descriptors: no link is followed and no mount is crossed (EXDEV).
// Directories without permissions, as overlay's work/work, are given them first.
// It is the plain walk, also for use inside a user namespace.
func RemoveAll(path string) error {
	at, err := openDir(path + "/..")
	if err != nil {
		return err
	}
	defer unix.Close(at)
	base := path
	for i := len(base) - 1; i >= 0; i-- {
		if base[i] == '/' {
			base = base[i+1:]
			break
		}
	}
	err = removeAt(at, base)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

func (s *Store) walkRemove(path string) error {
	dir, base := s.fd, path
	for i := len(path) - 1; i >= 0; i-- {
		if path[i] == '/' {
			fd, err := unix.Openat(s.fd, path[:i], unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			dir, base = fd, path[i+1:]
			break
		}
	}
	return removeAt(dir, base)
}

// removeAt removes one name, whatever it is.
func removeAt(dir int, name string) error {
	err := unix.Unlinkat(dir, name, 0)
	if !errors.Is(err, unix.EISDIR) {
		return err
	}
	fd, err := enter(dir, name)
	if err != nil {
		return err
	}
	w := walk{top: fd}
	err = w.empty(fd, 0)
	unix.Close(fd)
	if err != nil {
		return err
	}
	return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
}

// enter opens a directory to list it, and makes that possible if it is not.
// Links and mount points are errors (ELOOP, EXDEV). Source: openat2(2).
func enter(dir int, name string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS,
	}
	fd, err := unix.Openat2(dir, name, &how)
	if errors.Is(err, unix.EACCES) {
		how.Flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW
		at, perr := unix.Openat2(dir, name, &how)
		if perr != nil {
			return -1, perr
		}
		// fchmod refuses an O_PATH descriptor; its entry in /proc does not.
		cerr := unix.Chmod("/proc/self/fd/"+strconv.Itoa(at), 0o700)
		unix.Close(at)
		if cerr != nil {
			return -1, err
		}
		how.Flags = unix.O_RDONLY | unix.O_DIRECTORY | unix.O_CLOEXEC | unix.O_NOFOLLOW
		fd, err = unix.Openat2(dir, name, &how)
	}
	return fd, err
}

type walk struct {
	top   int // where deep directories are moved to
	moved int
}

// empty removes everything in the directory fd, which the caller closes. The
// directory is listed again until it is empty, since deep directories may have
// been moved into it.
func (w *walk) empty(fd, depth int) error {
	// Writing and searching in the directory need its bits too, not only listing.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&0o700 != 0o700 {
		unix.Fchmod(fd, 0o700)
	}
	for {
		names, err := list(fd)
		if err != nil {
			return err
		}
		if len(names) == 0 {
			return nil
		}
		for _, name := range names {
			err := unix.Unlinkat(fd, name, 0)
			switch {
			case err == nil, errors.Is(err, unix.ENOENT):
				continue
			case !errors.Is(err, unix.EISDIR):
				return err
			}
			err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
			if err == nil || errors.Is(err, unix.ENOENT) {
				continue
			}
			if depth >= maxOpen {
				w.moved++
				to := ".deep-" + strconv.Itoa(w.moved) + "-" + random()
				err := unix.Renameat(fd, name, w.top, to)
				if errors.Is(err, unix.EACCES) {
					// A directory gets a new "..", for which it must be writable.
					var sub int
					if sub, err = enter(fd, name); err == nil {
						unix.Fchmod(sub, 0o700)
						unix.Close(sub)
						err = unix.Renameat(fd, name, w.top, to)
					}
				}
				if err != nil {
					return err
				}
				continue
			}
			sub, err := enter(fd, name)
			if err != nil {
				return err
			}
			err = w.empty(sub, depth+1)
			unix.Close(sub)
			if err == nil {
				err = unix.Unlinkat(fd, name, unix.AT_REMOVEDIR)
			}
			if err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
		}
	}
}

// list reads up to a few thousand names of a directory from its start.
func list(fd int) ([]string, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "")
	defer f.Close()
	if _, err := f.Seek(0, 0); err != nil {
		return nil, err
	}
	names, err := f.Readdirnames(4096)
	if len(names) > 0 || errors.Is(err, io.EOF) {
		return names, nil
	}
	return nil, err
}
