package run

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"skiff/pull/store"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// mountsDir is where root's images are mounted, one directory each:
//
//	<store>-<image id>/fs     the mount
//	<store>-<image id>/empty  one more layer: overlay wants two
//	<store>-<image id>/layers the DiffIDs, which stay while fs is a mount
const mountsDir = "/run/skiff/images"

// An ImageMount is an image that is mounted.
type ImageMount struct {
	ID   v1.Hash
	Path string

	dir string
}

// ErrMountNeedsRoot is a user's wish for a mount that outlives the command: its
// namespace would end with it.
var ErrMountNeedsRoot = errors.New("only root can make a mount that stays")

func (r *Runner) imageMount(id v1.Hash) ImageMount {
	of := sha256.Sum256([]byte(r.Store.Root()))
	dir := fmt.Sprintf("%s/%.8x-%s", mountsDir, of, id.Hex)
	return ImageMount{ID: id, Path: dir + "/fs", dir: dir}
}

// MountImage mounts an image read-only, in the mount namespace of the process, and leaves
// it so. An image that is mounted stays as it is.
func (r *Runner) MountImage(img *store.Image) (string, error) {
	if os.Geteuid() != 0 {
		return "", ErrMountNeedsRoot
	}
	done, err := lockMounts()
	if err != nil {
		return "", err
	}
	defer done()
	m := r.imageMount(img.ID)
	if mounted(m.Path) {
		return m.Path, nil
	}
	for _, dir := range []string{m.Path, m.dir + "/empty"} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return "", err
		}
	}
	// Written first, and read once the layers are there: as with a container's record.
	var text strings.Builder
	for _, d := range img.DiffIDs {
		text.WriteString(d.String() + "\n")
	}
	if err := os.WriteFile(m.dir+"/layers", []byte(text.String()), 0o600); err != nil {
		return "", err
	}
	stack := stackOf(r.Store, img)
	if err := mountOverlay(append([]string{m.dir + "/empty"}, stack.Dirs...), m.Path); err != nil {
		m.remove()
		return "", err
	}
	for _, d := range img.DiffIDs {
		if _, ok := r.Store.HasLayer(d); !ok {
			m.unmount()
			return "", fmt.Errorf("layer %.19s: %w", d.String(), ErrLayerGone)
		}
	}
	return m.Path, nil
}

// mountOverlay mounts directories, base first, read-only.
func mountOverlay(base []string, at string) error {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open overlay: %w", err)
	}
	defer unix.Close(fsfd)
	top := slices.Clone(base)
	slices.Reverse(top)
	for _, dir := range top {
		if err = unix.FsconfigSetString(fsfd, "lowerdir+", dir); err != nil {
			break
		}
	}
	if err != nil { // before Linux 6.5: all in one string, which may become too long
		if err = unix.FsconfigSetString(fsfd, "lowerdir", strings.Join(top, ":")); err != nil {
			return fmt.Errorf("mount overlay of %d layers: %w", len(top), err)
		}
	}
	if err := unix.FsconfigSetFlag(fsfd, "userxattr"); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	tree, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOSUID)
	if err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "mount", Path: at, Err: err}
	}
	return nil
}

// lockMounts keeps others from mounting and unmounting images, so that none is mounted
// twice, and no list of layers is written under a mount that it holds for.
func lockMounts() (unlock func(), err error) {
	if err := os.MkdirAll(mountsDir, 0o700); err != nil {
		return nil, err
	}
	f, err := os.Open(mountsDir)
	if err != nil {
		return nil, err
	}
	for err = unix.EINTR; err == unix.EINTR; {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
	}
	if err != nil {
		f.Close()
		return nil, &fs.PathError{Op: "lock", Path: mountsDir, Err: err}
	}
	return func() { f.Close() }, nil
}

// A NotMountedError is an image that can't be unmounted.
type NotMountedError struct{ ID v1.Hash }

func (e *NotMountedError) Error() string { return fmt.Sprintf("image %.12s is not mounted", e.ID.Hex) }

// UnmountImage undoes MountImage. The error is a *NotMountedError if the image is not mounted,
// and wraps EBUSY if somebody is in it.
func (r *Runner) UnmountImage(id v1.Hash) error {
	if os.Geteuid() != 0 {
		return ErrMountNeedsRoot
	}
	m := r.imageMount(id)
	if !mounted(m.Path) {
		return &NotMountedError{id}
	}
	done, err := lockMounts()
	if err != nil {
		return err
	}
	defer done()
	if !mounted(m.Path) {
		return &NotMountedError{id} // by now
	}
	return m.unmount()
}

func (m ImageMount) unmount() error {
	if err := unix.Unmount(m.Path, unix.UMOUNT_NOFOLLOW); err != nil {
		return &fs.PathError{Op: "unmount", Path: m.Path, Err: err}
	}
	return m.remove()
}

// remove removes what MountImage made around the mount, and nothing that another mount shows.
func (m ImageMount) remove() error {
	for _, name := range []string{m.Path, m.dir + "/empty", m.dir + "/layers", m.dir} {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// MountedImages are the images of the store that are mounted.
func (r *Runner) MountedImages() []ImageMount {
	entries, _ := os.ReadDir(mountsDir)
	var list []ImageMount
	for _, e := range entries {
		_, hex, _ := strings.Cut(e.Name(), "-")
		id, err := v1.NewHash("sha256:" + hex)
		if err != nil {
			continue
		}
		if m := r.imageMount(id); filepath.Base(m.dir) == e.Name() && mounted(m.Path) {
			list = append(list, m)
		}
	}
	return list
}

// layers are what the mount is made of.
func (m ImageMount) layers() (list []v1.Hash) {
	text, _ := os.ReadFile(m.dir + "/layers")
	for line := range strings.Lines(string(text)) {
		if h, err := v1.NewHash(strings.TrimSpace(line)); err == nil {
			list = append(list, h)
		}
	}
	return list
}

// mounted says whether a directory is the root of a mount.
func mounted(path string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}
