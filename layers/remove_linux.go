package layers

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"

	"skiff/internal/idmap"

	"golang.org/x/sys/unix"
)

// Remove deletes a file or a tree, and is content if there is none.
//
// It follows no link, crosses no mount (EXDEV) and opens what it may not: the
// directories of others' making that lack permission bits get them first. Where
// a tree belongs to subordinate ids of the caller's, a Worker in the user
// namespace of ids finishes it. The depth of a tree does not matter.
//
// The error names path; what is left is what could not be deleted and all above
// it. The caller has made sure that nobody else writes there.
func Remove(path string, ids idmap.Map) error {
	path = filepath.Clean(path)
	dir, base := filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	parent, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(parent)
	err = removeAt(parent, base)
	if foreign := err == unix.EACCES || err == unix.EPERM; foreign && ids.Kind == idmap.Subordinate {
		w, werr := StartWorker(dir, ids, nil)
		if werr != nil {
			return &os.PathError{Op: "remove", Path: path, Err: errors.Join(err, werr)}
		}
		defer w.Close()
		return w.Remove(context.Background(), base)
	}
	if err != nil {
		return &os.PathError{Op: "remove", Path: path, Err: err}
	}
	return nil
}

// maxOpen bounds the directories that a removal holds open, one below the
// other. What lies deeper is moved up and removed by itself.
const maxOpen = 64

// A remover deletes what is below one directory.
type remover struct {
	top   int // directory that what lies too deep is moved to
	moved int // how many were
}

// removeAt deletes a name of dir and all below it. It returns an errno.
func removeAt(dir int, name string) error {
	err := unlink(dir, name, 0)
	if err != unix.EISDIR && err != unix.EPERM {
		return err
	}
	top, terr := enter(dir, name)
	if terr == unix.ENOTDIR {
		return err // an immutable file, or another's in a sticky directory
	}
	if terr != nil {
		return terr
	}
	defer unix.Close(top)
	r := remover{top: top}
	for before := -1; before != r.moved; {
		before = r.moved
		if err := r.empty(top, 1); err != nil {
			return err
		}
	}
	return unlink(dir, name, unix.AT_REMOVEDIR)
}

// tree deletes the directory name of dir, which is at depth.
func (r *remover) tree(dir int, name string, depth int) error {
	if depth == maxOpen {
		return r.moveUp(dir, name)
	}
	fd, err := enter(dir, name)
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
	if err != nil {
		return err
	}
	unix.Close(fd)
	for {
		r.moved++
		err := unix.Renameat2(dir, name, r.top, ".deep-"+strconv.Itoa(r.moved), unix.RENAME_NOREPLACE)
		if err != unix.EEXIST && err != unix.EINTR {
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
			again = len(names) > 0
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
	fd, err := openBeneath(dir, name, flags)
	if err == unix.EACCES {
		// O_PATH takes no permission of the directory's own, and its link in /proc
		// leads to it and nothing else. Without /proc the name itself has to do.
		if path, perr := openBeneath(dir, name, unix.O_PATH|unix.O_DIRECTORY); perr == nil {
			perr = unix.Chmod("/proc/self/fd/"+strconv.Itoa(path), 0o700)
			unix.Close(path)
			if perr == unix.ENOENT {
				perr = unix.Fchmodat(dir, name, 0o700, 0)
			}
			if perr != nil {
				return -1, unix.EACCES
			}
			return openBeneath(dir, name, flags)
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
