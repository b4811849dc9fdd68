package rootfs

import (
	"path"
	"strings"

	"skiff/internal/plan"

	"golang.org/x/sys/unix"
)

// placeFiles binds skiff's own files over the image's, except where a mount of
// the user's covers the very path.
func (b *builder) placeFiles() {
	for i, f := range b.r.Files {
		if b.covered(f.Path) {
			continue
		}
		name := clean(f.Path)
		target, tree := b.Reg(), b.Reg()
		b.openat2("open "+f.Path, b.root, name, unix.O_PATH, inRoot).Into(target).Ignore(unix.ENOENT, unix.ELOOP, unix.ENOTDIR)
		parent := b.directory(path.Dir(name), target)
		// A link that leads nowhere, as /etc/resolv.conf often does.
		b.Call("replace "+f.Path, unix.SYS_UNLINKAT, parent.Arg(), b.Str(path.Base(name)), plan.Int(0)).Ignore(unix.ENOENT).Unless(target)
		b.touch(f.Path, name, parent, target)
		b.Call("bind "+f.Path, unix.SYS_OPEN_TREE, b.stageDir.Arg(), b.Str(fileName(i)), plan.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)).Into(tree)
		b.attach("bind "+f.Path, tree, target, f.Path)
		b.close(parent).When(parent)
	}
}

// makeDir makes a directory that may be missing.
func (b *builder) makeDir(at string) {
	name, found := clean(at), b.Reg()
	if name == "" {
		return
	}
	b.openat2("open "+at, b.root, name, unix.O_PATH, inRoot).Into(found).Ignore(unix.ENOENT).At(at)
	made := b.directory(name, found)
	b.close(found).When(found)
	b.close(made).When(made)
}

// covered reports whether a mount of the user's is at or above name.
func (b *builder) covered(name string) bool {
	for _, m := range b.r.Mounts {
		if m.Destination == name || m.Type == "bind" && strings.HasPrefix(name, strings.TrimSuffix(m.Destination, "/")+"/") {
			return true
		}
	}
	return false
}

// userMount mounts what the user asked for, and returns the register in which
// the parent puts the tree if it is id-mapped.
func (b *builder) userMount(m *Mount) plan.Reg {
	step, name := "mount "+m.Destination, clean(m.Destination)
	target, tree := b.Reg(), b.Reg()
	if m.Dir || m.Type == "tmpfs" {
		b.openat2(step, b.root, name, unix.O_PATH|unix.O_DIRECTORY, inRoot).Into(target).Ignore(unix.ENOENT).At(m.Destination)
		made := b.directory(name, target)
		b.openat2(step, b.root, name, unix.O_PATH|unix.O_DIRECTORY, inRoot).Into(target).Unless(target).At(m.Destination)
		b.close(made).When(made)
	} else {
		b.openat2(step, b.root, name, unix.O_PATH, inRoot).Into(target).Ignore(unix.ENOENT).At(m.Destination)
		parent := b.directory(path.Dir(name), target)
		b.touch(m.Destination, name, parent, target)
		b.close(parent).When(parent)
	}

	if m.Type == "tmpfs" {
		b.Call(step, unix.SYS_FCHDIR, target.Arg())
		flags := uintptr(m.Flags)
		if m.ReadOnly {
			flags |= unix.MS_RDONLY
		}
		b.mount(step, "tmpfs", ".", "tmpfs", flags, m.Data).At(m.Destination)
		b.leave()
		b.close(target)
		return tree
	}

	recursive := unix.AT_RECURSIVE
	if m.Flat {
		recursive = 0
	}
	if !m.IDMapped {
		b.Call(step, unix.SYS_OPEN_TREE, plan.Int(unix.AT_FDCWD), b.Str(m.Source),
			plan.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive)).Into(tree).At(m.Source)
	}
	var set uint64
	if m.ReadOnly {
		set |= unix.MOUNT_ATTR_RDONLY
	}
	for _, f := range []struct{ mount, attr uint64 }{
		{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID}, {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV}, {unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
	} {
		if m.Flags&f.mount != 0 {
			set |= f.attr
		}
	}
	propagation := m.Propagation
	if propagation == 0 {
		propagation = unix.MS_PRIVATE
	}
	b.Call(step, unix.SYS_MOUNT_SETATTR, tree.Arg(), b.Str(""), plan.Int(unix.AT_EMPTY_PATH|recursive),
		b.attr(set, 0, propagation), plan.Int(sizeofMountAttr)).At(m.Destination)
	b.attach(step, tree, target, m.Destination)
	return tree
}

// attach moves a detached tree onto a descriptor and closes both.
func (b *builder) attach(step string, tree, target plan.Reg, at string) {
	b.Call(step, unix.SYS_MOVE_MOUNT, tree.Arg(), b.Str(""), target.Arg(), b.Str(""),
		plan.Int(unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)).At(at)
	b.close(tree)
	b.close(target)
}

// directory makes the directory name and those above it, unless found is a
// descriptor already. It returns a register that holds a descriptor of it if
// there was something to make, and -1 otherwise.
//
// Each prefix is resolved from the root again, so that links in the image lead
// where the container would go.
func (b *builder) directory(name string, found plan.Reg) plan.Reg {
	parent, dir := b.Reg(), b.Preset(-1)
	b.openat("open /", b.root.Arg(), ".", unix.O_PATH|unix.O_DIRECTORY, 0).Into(parent).Unless(found)
	var parts []string
	if name != "." && name != "" {
		parts = strings.Split(name, "/")
	}
	for i, part := range parts {
		// An operation has one condition: missing stays 0, which is not
		// negative, where found was a descriptor.
		prefix, missing := strings.Join(parts[:i+1], "/"), b.Reg()
		at := "/" + prefix
		b.openat2("open "+at, b.root, prefix, unix.O_PATH|unix.O_DIRECTORY, inRoot).Into(missing).Ignore(unix.ENOENT).Unless(found).At(at)
		b.Call("make "+at, unix.SYS_MKDIRAT, parent.Arg(), b.Str(part), plan.Int(0o755)).Unless(missing).At(at)
		b.openat2("open "+at, b.root, prefix, unix.O_PATH|unix.O_DIRECTORY, inRoot).Into(missing).Unless(missing).At(at)
		b.close(parent).Unless(found)
		parent = missing
	}
	b.Call("keep", unix.SYS_FCNTL, parent.Arg(), plan.Int(unix.F_DUPFD_CLOEXEC), plan.Int(0)).Into(dir).Unless(found)
	b.close(parent).Unless(found)
	return dir
}

// touch makes the empty file name in the directory parent, unless target is a
// descriptor already, and leaves a descriptor in target. A link is refused.
func (b *builder) touch(at, name string, parent, target plan.Reg) {
	file := b.Reg()
	b.openat("make "+at, parent.Arg(), path.Base(name), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, 0o644).Into(file).Unless(target).At(at)
	b.close(file).Unless(target)
	b.openat2("open "+at, b.root, name, unix.O_PATH, inRoot).Into(target).Unless(target).At(at)
}
