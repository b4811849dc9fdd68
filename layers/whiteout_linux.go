package layers

import (
	"fmt"
	"strings"

	"skiff/internal/again"

	"golang.org/x/sys/unix"
)

// Source: image-spec layer.md, "Whiteouts"; overlayfs.rst, "whiteouts and
// opaque directories". ".wh..wh." is what aufs kept for itself.
const (
	whiteoutPrefix = ".wh."
	metaPrefix     = ".wh..wh."
	opaqueName     = ".wh..wh..opq"
	opaqueXattr    = "user.overlay.opaque"
)

// isMeta finds leftovers of aufs in a name; the opaque mark is none.
func isMeta(name string) bool {
	if !strings.Contains(name, metaPrefix) {
		return false
	}
	parent, base := split(name)
	if base != opaqueName && strings.HasPrefix(base, metaPrefix) {
		return true
	}
	return strings.HasPrefix(parent, metaPrefix) || strings.Contains(parent, "/"+metaPrefix)
}

// whiteout performs an entry whose name begins with ".wh.", whatever its type.
//
// It hides what layers below have at that name, never what this layer has: a
// directory of this layer becomes opaque, anything else of this layer hides the
// one below by being there. That holds in either order within the archive.
func (u *unpacker) whiteout(d *dir, base string) error {
	if base == opaqueName {
		if d.path == "." {
			u.result.OpaqueRoot = true
		}
		return u.markOpaque(d.path)
	}
	name := base[len(whiteoutPrefix):]
	if name == "" || name == "." || name == ".." {
		return fmt.Errorf("%w: removes %q", ErrEscape, name)
	}
	u.aside.touch(join(d.path, name))
	// Mode 0: overlayfs looks at the device number only (kernel commit
	// a3c751a50fe6 lets a user namespace make these).
	err := again.Mknodat(d.fd, name, unix.S_IFCHR, 0)
	if err != unix.EEXIST {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return u.markOpaque(join(d.path, name))
	}
	return nil
}

func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// markOpaque hides what layers below have in a directory of this layer.
func (u *unpacker) markOpaque(path string) error {
	fd, err := openBeneath(u.root, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return setOpaque(fd)
}

func setOpaque(fd int) error {
	if err := again.Fsetxattr(fd, opaqueXattr, []byte("y"), 0); err != nil {
		return fmt.Errorf("set %s: %w", opaqueXattr, err)
	}
	return nil
}
