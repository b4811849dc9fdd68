package layers

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"skiff/internal/again"
	"skiff/internal/idmap"
	"skiff/internal/rmtree"

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
	parent, err := again.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err == unix.ENOENT {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "open", Path: dir, Err: err}
	}
	defer unix.Close(parent)
	err = rmtree.At(parent, base)
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
