// Package rmtree deletes trees that hostile hands may have made.
package rmtree

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// maxOpen bounds the directories that a removal holds open, one below the
// other. What lies deeper is moved up and removed by itself.
const maxOpen = 64

// maxTries bounds how often a directory is emptied that others fill.
const maxTries = 100

// A remover deletes what is below one directory.
type remover struct {
	top   int // directory that what lies too deep is moved to
	moved int // how many were
}

// At deletes a name of dir, a single component, and all below it; a name that is
// gone is success. The error is an errno.
//
// It follows no link and crosses no mount (EXDEV). Directories of the caller's
// that lack permission bits get them first, as overlay's work/work. The depth of the
// tree does not matter. If another process deletes the same tree, both succeed.
func At(dir int, name string) error {
	err := unlink(dir, name, 0)
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	top, terr := enter(dir, name)
	if terr == unix.ENOTDIR {
		return err // an immutable file, or another's in a sticky directory
	}
	if terr == unix.ENOENT {
		return nil
	}
	if terr != nil {
		return terr
	}
	defer unix.Close(top)
	r := remover{top: top}
	for try := 0; ; try++ {
		before := r.moved
		if err := r.empty(top, 1); err != nil {
			return err
		}
		if r.moved != before {
			continue
		}
		// Who deletes it too may have made a lock file in it since.
		if err := unlink(dir, name, unix.AT_REMOVEDIR); err != unix.ENOTEMPTY || try == maxTries {
			return err
		}
	}
}

// tree deletes the directory name of dir, which is at depth.
func (r *remover) tree(dir int, name string, depth int) error {
	if depth == maxOpen {
		return r.moveUp(dir, name)
	}
	fd, err := enter(dir, name)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := r.empty(fd, depth+1); err != nil {
		return err
	}
	return unlink(dir, name, unix.AT_REMOVEDIR)
}

// moveUp puts a directory into top, under a name of its own there.
func (r *remover) moveUp(dir int, name string) error {
	// Moving a directory changes its "..", which takes the right to write it.
	fd, err := enter(dir, name)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return err
	}
	unix.Close(fd)
	for {
		r.moved++
		err := unix.Renameat2(dir, name, r.top, ".deep-"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
		switch err {
		case unix.EEXIST, unix.EINTR:
		case unix.ENOENT:
			return nil
		default:
			return err
		}
	}
}

// empty deletes all that is in the directory fd, which stays open. In top it may
// miss what was moved there meanwhile.
func (r *remover) empty(fd, depth int) error {
	buf := make([]byte, 16<<10)
	var names []string
	for again := true; again; {
		again = false
		if _, err := unix.Seek(fd, 0, 0); err != nil {
			return err
		}
		for {
			n, err := unix.ReadDirent(fd, buf)
			if err == unix.EINTR {
				continue
			}
			if err == unix.ENOENT {
				return nil // the directory itself is gone
			}
			if err != nil {
				return err
			}
			if n == 0 {
				break
			}
			_, _, names = unix.ParseDirent(buf[:n], -1, names[:0])
			for _, name := range names {
				if err := r.remove(fd, name, depth); err != nil {
					return err
				}
			}
			// File systems differ in what they list of a directory that shrinks
			// meanwhile, so a second look is taken; the first pass does nearly all.
			again = again || len(names) > 0
		}
	}
	return nil
}

func (r *remover) remove(dir int, name string, depth int) error {
	err := unlink(dir, name, 0)
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	terr := r.tree(dir, name, depth)
	if terr == unix.ENOTDIR {
		return err
	}
	return terr
}

// enter opens a directory to read it, and gives its owner the right to if that
// is what it lacks.
func enter(dir int, name string) (int, error) {
	const flags = unix.O_RDONLY | unix.O_DIRECTORY
	fd, err := open(dir, name, flags)
	if err == unix.EACCES {
		// O_PATH takes no permission of the directory's own, and its link in /proc
		// leads to it and nothing else. Without /proc the name itself has to do.
		if path, perr := open(dir, name, unix.O_PATH|unix.O_DIRECTORY); perr == nil {
			perr = unix.Chmod("/proc/self/fd/"+strconv.Itoa(path), 0o700)
			unix.Close(path)
			if perr == unix.ENOENT {
				perr = unix.Fchmodat(dir, name, 0o700, 0)
			}
			if perr != nil {
				return -1, unix.EACCES
			}
			return open(dir, name, flags)
		}
	}
	if err != nil {
		return fd, err
	}
	// Removing its entries takes more than reading it.
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err == nil && st.Mode&0o700 != 0o700 {
		unix.Fchmod(fd, 0o700)
	}
	return fd, nil
}

// unlink is unlinkat(2) to which a name that is gone is removed.
func unlink(dir int, name string, flags int) error {
	for {
		switch err := unix.Unlinkat(dir, name, flags); err {
		case unix.ENOENT:
			return nil
		case unix.EINTR:
		default:
			return err
		}
	}
}

// open opens a name of dir that is no link and no mount.
func open(dir int, name string, flags int) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_NOFOLLOW),
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
	}
	for {
		// EAGAIN: a rename raced with "..", which says nothing about this name.
		fd, err := unix.Openat2(dir, name, &how)
		if err != unix.EINTR && err != unix.EAGAIN {
			return fd, err
		}
	}
}
