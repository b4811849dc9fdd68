package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// An UnsafeError is a store that others could have written to.
type UnsafeError struct {
	Path string
	UID  int // who owns it
	Mode fs.FileMode
}

func (e *UnsafeError) Error() string {
	if e.Mode&0o022 != 0 {
		return fmt.Sprintf("store %s: others may write to it (mode %04o)", e.Path, uint32(e.Mode))
	}
	return fmt.Sprintf("store %s: it belongs to user id %d", e.Path, e.UID)
}

// A VersionError is a store whose layout this skiff does not know.
type VersionError struct {
	Path    string
	Version string // what the store says
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("store %s: layout %q is none that this skiff knows, which is %d", e.Path, e.Version, Version)
}

// A SpaceError is a file system with no room left: no bytes, no inodes, or a
// quota used up. It unwraps to ENOSPC or EDQUOT.
type SpaceError struct {
	Op, Path  string
	Free      uint64 // bytes left on the file system of Path, for this user
	FreeFiles uint64 // inodes left; 0 also where the file system does not count them
	Err       error
}

func (e *SpaceError) Error() string {
	return fmt.Sprintf("%s %s: %v (%d bytes and %d files free)", e.Op, e.Path, e.Err, e.Free, e.FreeFiles)
}

func (e *SpaceError) Unwrap() error { return e.Err }

// A ReadOnlyError is a write to a store on a read-only file system, or a store
// in a directory that this user may not write to. It unwraps to EROFS or EACCES.
type ReadOnlyError struct {
	Op, Path string
	Err      error
}

func (e *ReadOnlyError) Error() string { return fmt.Sprintf("%s %s: %v", e.Op, e.Path, e.Err) }
func (e *ReadOnlyError) Unwrap() error { return e.Err }

// An AbsentError is an image that is not in the store.
type AbsentError struct{ Name string }

func (e *AbsentError) Error() string { return fmt.Sprintf("image %s is not here", e.Name) }
func (e *AbsentError) Unwrap() error { return fs.ErrNotExist }

// An AmbiguousError is the beginning of more than one image id.
type AmbiguousError struct {
	Prefix string
	IDs    []string
}

func (e *AmbiguousError) Error() string {
	return fmt.Sprintf("image id %s begins %d ids", e.Prefix, len(e.IDs))
}

// Explain adds the facts to an error met at path: the free space where there
// was none, and that the file system is read-only where it is. Other errors get the operation
// and the path, unless they carry them. nil stays nil.
func (s *Store) Explain(op, path string, err error) error { return explain(op, path, err) }

func explain(op, path string, err error) error {
	var space *SpaceError
	var readonly *ReadOnlyError
	var has *fs.PathError
	switch {
	case err == nil, errors.As(err, &space), errors.As(err, &readonly):
		return err
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		e := &SpaceError{Op: op, Path: path, Err: err}
		var st unix.Statfs_t
		for at := path; ; at = filepath.Dir(at) {
			if unix.Statfs(at, &st) == nil {
				e.Free, e.FreeFiles = st.Bavail*uint64(st.Bsize), st.Ffree
				return e
			}
			if at == "/" || at == "." {
				return e
			}
		}
	case errors.Is(err, unix.EROFS):
		return &ReadOnlyError{Op: op, Path: path, Err: err}
	case errors.As(err, &has):
		return err
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}
