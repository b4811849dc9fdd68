package run

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"skiff/internal/again"
	"skiff/pull/store"

	"golang.org/x/sys/unix"
)

// skeletonDir is a layer of skiff's own below those of every image. It holds
// what a container's mounts need to be put on, so that for most images nothing
// has to be made, and removed again, in the writable layer. The image's own
// files and modes come before it.
const skeletonDir = "skeleton/fs"

var skeleton = struct{ dirs, files []string }{
	dirs:  []string{"proc", "sys", "dev", "etc", "run", "tmp", "var", "var/tmp"},
	files: []string{"etc/hostname", "etc/hosts", "etc/resolv.conf"},
}

// makeSkeleton makes the layer if it is not there. It appears whole or not at
// all; to lose the race to make it is to succeed.
func makeSkeleton(st *store.Store) error {
	root := st.Root()
	if unix.Access(filepath.Join(root, skeletonDir), unix.F_OK) == nil {
		return nil
	}
	t, err := st.NewTemp("skeleton")
	if err != nil {
		return err
	}
	defer t.Remove()
	temp := filepath.Join(t.Path(), "new")
	base := filepath.Join(temp, "fs")
	if err := os.MkdirAll(base, 0o755); err != nil {
		return err
	}
	for _, d := range skeleton.dirs {
		if err := os.Mkdir(filepath.Join(base, d), 0o755); err != nil {
			return err
		}
	}
	for _, d := range []string{"tmp", "var/tmp"} {
		if err := os.Chmod(filepath.Join(base, d), 0o1777|os.ModeSticky); err != nil {
			return err
		}
	}
	for _, f := range skeleton.files {
		if err := os.WriteFile(filepath.Join(base, f), nil, 0o644); err != nil {
			return err
		}
	}
	if err := os.Chmod(temp, 0o755); err != nil {
		return err
	}
	err = again.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, filepath.Join(root, filepath.Dir(skeletonDir)), unix.RENAME_NOREPLACE)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return &fs.PathError{Op: "rename", Path: temp, Err: err}
	}
	return nil
}
