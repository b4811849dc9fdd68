package layers

import (
	"fmt"
	"io"
	"strings"
	"unsafe"

	"skiff/internal/again"

	"golang.org/x/sys/unix"
)

// makeFile makes a regular file with its content.
func (u *unpacker) makeFile(d *dir, base string, h *header) error {
	path := join(d.path, base)
	uid, gid, chown, err := u.owner(h, path)
	if err != nil {
		return err
	}
	if !h.isSparse && len(h.xattrs) == 0 && h.size <= asideSize && !u.opt.inLine {
		if made, err := u.makeAside(d, base, path, h, uid, gid, chown); made || err != nil {
			return err
		}
	}
	fd, err := create(d.fd, base, h.mode)
	if err == unix.EEXIST {
		if d, _, err = u.vacate(d, base); err != nil {
			return err
		}
		fd, err = create(d.fd, base, h.mode)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if h.isSparse {
		err = u.writeSparse(fd, path, h)
	} else {
		err = u.write(fd, path, 0, h.size)
	}
	if err != nil {
		return err
	}
	if err := own(fd, h.mode, u.masked, uid, gid, chown); err != nil {
		return err
	}
	if err := u.setXattrs(fd, h); err != nil {
		return err
	}
	return setTime(fd, h.mtime)
}

// makeAside hands a file over whose content is at hand.
func (u *unpacker) makeAside(d *dir, base, path string, h *header, uid, gid int, chown bool) (bool, error) {
	s := u.tar.s
	var content []byte
	if h.size > 0 {
		c, err := s.chunk()
		if err != nil {
			return false, unexpected(err)
		}
		if int64(len(c)) < h.size {
			return false, nil
		}
		content = c[:h.size]
	} else if s.current == nil {
		return false, nil
	}
	j := smallFile{d, base, path, h.name, u.kept.files(), h.mode, uid, gid, chown, h.mtime, content, s.current}
	if !u.aside.take(j) {
		return false, nil
	}
	if h.size > 0 {
		if s.split != nil {
			s.split.Begin(path, 0)
		}
		s.took(int(h.size))
		u.tar.content -= h.size
	}
	return true, nil
}

// own gives a new file its owner and mode. masked are the bits of a mode that a
// new file has lost.
func own(fd int, mode, masked uint32, uid, gid int, chown bool) error {
	if chown {
		if err := again.Fchown(fd, uid, gid); err != nil {
			return fmt.Errorf("chown to %d:%d: %w", uid, gid, err)
		}
	}
	// After chown and write, which take set-id bits and capabilities away.
	if mode&^0o777 != 0 || mode&masked != 0 {
		if err := again.Fchmod(fd, mode); err != nil {
			return err
		}
	}
	return nil
}

func create(dir int, base string, mode uint32) (int, error) {
	for {
		fd, err := again.Openat(dir, base, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, mode&0o777)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// write moves n bytes of the entry's content to fd, straight from the stream's
// blocks. In the file of that path they begin at offset.
func (u *unpacker) write(fd int, path string, offset, n int64) error {
	if n > 0 && u.tar.s.split != nil {
		u.tar.s.split.Begin(path, offset)
	}
	for n > 0 {
		c, err := u.tar.s.chunk()
		if err != nil {
			return unexpected(err)
		}
		c = c[:min(n, int64(len(c)))]
		k, err := unix.Write(fd, c)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		if k == 0 {
			return io.ErrShortWrite
		}
		u.tar.s.took(k)
		u.tar.content -= int64(k)
		n -= int64(k)
	}
	return nil
}

// writeSparse writes fragments where they belong and leaves holes between.
func (u *unpacker) writeSparse(fd int, path string, h *header) error {
	for _, f := range h.sparse {
		if _, err := unix.Seek(fd, f.offset, io.SeekStart); err != nil {
			return err
		}
		if err := u.write(fd, path, f.offset, f.size); err != nil {
			return err
		}
	}
	return again.Ftruncate(fd, h.size)
}

// makeDir makes a directory, or gives one that is there new metadata. The root
// has no parent and is there.
func (u *unpacker) makeDir(d *dir, base string, h *header) error {
	path := base
	if d != nil {
		path = join(d.path, base)
	}
	uid, gid, _, err := u.owner(h, path)
	if err != nil {
		return err
	}
	opaque := false
	var made uint16
	if d != nil {
		u.aside.other(path)
		made, err = u.mkdir(d.fd, base, uint32(h.mode))
		if err == unix.EEXIST {
			var st unix.Stat_t
			if err = unix.Fstatat(d.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
				if d, opaque, err = u.vacate(d, base); err == nil {
					made, err = u.mkdir(d.fd, base, uint32(h.mode))
				}
			}
		}
		if err != nil {
			return err
		}
	}
	if opaque || len(h.xattrs) > 0 {
		fd, err := openBeneath(u.root, path, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := u.setXattrs(fd, h); err != nil {
			return err
		}
		if opaque {
			if err := setOpaque(fd); err != nil {
				return err
			}
		}
	}
	return u.addMeta(dirMeta{
		path: path, sec: h.mtime.sec, nsec: h.mtime.nsec, mode: uint16(h.mode), made: made, uid: uint32(uid), gid: uint32(gid),
	})
}

// mkdir makes a directory that can be worked in until it gets its own mode, and
// returns the mode that it has, 0 if it did not make it.
func (u *unpacker) mkdir(dir int, name string, mode uint32) (uint16, error) {
	mode = mode&0o777 | 0o700
	if err := again.Mkdirat(dir, name, mode); err != nil {
		return 0, err
	}
	if u.masked&mode != 0 {
		if err := again.Fchmodat(dir, name, mode, 0); err != nil { // no link: made just now
			return 0, err
		}
	}
	return uint16(mode), nil
}

func (u *unpacker) makeSymlink(d *dir, base string, h *header) error {
	uid, gid, chown, err := u.owner(h, join(d.path, base))
	if err != nil {
		return err
	}
	if h.link == "" {
		return malformed("a symbolic link to nothing")
	}
	u.aside.other(join(d.path, base))
	err = again.Symlinkat(h.link, d.fd, base)
	if err == unix.EEXIST {
		if d, _, err = u.vacate(d, base); err != nil {
			return err
		}
		err = again.Symlinkat(h.link, d.fd, base)
	}
	if err != nil {
		return err
	}
	return u.finishAt(d, base, h, uid, gid, chown)
}

// finishAt gives owner and time to what can't be opened.
func (u *unpacker) finishAt(d *dir, base string, h *header, uid, gid int, chown bool) error {
	if chown {
		if err := again.Fchownat(d.fd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("chown to %d:%d: %w", uid, gid, err)
		}
	}
	u.result.Skipped.Xattrs += int64(len(h.xattrs))
	return again.UtimesNanoAt(d.fd, base, times(h.mtime), unix.AT_SYMLINK_NOFOLLOW)
}

// makeLink makes a hard link to what the layer has made before, a symbolic link
// itself included. The owner, mode and time stay the target's.
func (u *unpacker) makeLink(d *dir, base string, h *header) error {
	name, err := clean(h.link)
	if err != nil {
		return fmt.Errorf("to %s: %w", quote(h.link), err)
	}
	if name == "." {
		return malformed("to the root")
	}
	parent, targetBase := split(name)
	from, err := u.existingDir(parent)
	var st unix.Stat_t
	if err == nil {
		u.aside.touch(join(from.path, targetBase))
		u.aside.other(join(d.path, base)) // it may be a symbolic link's
		err = unix.Fstatat(from.fd, targetBase, &st, unix.AT_SYMLINK_NOFOLLOW)
	}
	switch {
	case err != nil:
		return fmt.Errorf("to %s, which this layer has not made: %w", quote(h.link), err)
	case isWhiteout(&st):
		return malformed("to %s, which this layer removes", quote(h.link))
	case from.path == d.path && targetBase == base:
		return malformed("to itself")
	}
	err = again.Linkat(from.fd, targetBase, d.fd, base, 0)
	if err == unix.EEXIST {
		if d, _, err = u.vacate(d, base); err != nil {
			return err
		}
		// vacate may have dropped the descriptors.
		if from, err = u.existingDir(parent); err != nil {
			return err
		}
		err = again.Linkat(from.fd, targetBase, d.fd, base, 0)
	}
	return err
}

// makeNode makes a FIFO, or a device where allowed. A character device 0:0 is
// overlayfs's whiteout and is never taken from an archive.
func (u *unpacker) makeNode(d *dir, base string, h *header) error {
	kind, dev := uint32(unix.S_IFIFO), 0
	if h.typ != typeFIFO {
		whiteout := h.typ == typeChar && h.major == 0 && h.minor == 0
		if whiteout || !u.opt.Devices {
			u.result.Skipped.Devices++
			return u.record(h, join(d.path, base))
		}
		if h.major != int64(uint32(h.major)) || h.minor != int64(uint32(h.minor)) {
			return malformed("device %d:%d", h.major, h.minor)
		}
		kind = unix.S_IFBLK
		if h.typ == typeChar {
			kind = unix.S_IFCHR
		}
		dev = int(unix.Mkdev(uint32(h.major), uint32(h.minor)))
	}
	uid, gid, chown, err := u.owner(h, join(d.path, base))
	if err != nil {
		return err
	}
	err = again.Mknodat(d.fd, base, kind|h.mode&0o777, dev)
	if err == unix.EEXIST {
		if d, _, err = u.vacate(d, base); err != nil {
			return err
		}
		err = again.Mknodat(d.fd, base, kind|h.mode&0o777, dev)
	}
	if err == unix.EPERM && kind != unix.S_IFIFO {
		u.result.Skipped.Devices++
		return u.record(h, join(d.path, base))
	}
	if err != nil {
		return err
	}
	if chown {
		if err := again.Fchownat(d.fd, base, uid, gid, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("chown to %d:%d: %w", uid, gid, err)
		}
	}
	if h.mode&^0o777 != 0 || h.mode&u.masked != 0 {
		// It is no link: it was made just now, and nobody else is here.
		if err := again.Fchmodat(d.fd, base, h.mode, 0); err != nil {
			return err
		}
	}
	return u.finishAt(d, base, h, uid, gid, false)
}

// vacate removes what stands at a name, for an entry that takes its place. It
// returns the directory again, since a removal may drop descriptors, and
// whether the name was a whiteout.
func (u *unpacker) vacate(d *dir, base string) (*dir, bool, error) {
	u.aside.settle()
	var st unix.Stat_t
	if err := unix.Fstatat(d.fd, base, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return d, false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		if err := u.kept.tree(d.fd, base, join(d.path, base)); err != nil {
			return d, false, err
		}
	default:
		if err := u.kept.unlink(d.fd, base, join(d.path, base), &st, u.kept.files()); err != nil {
			return d, false, err
		}
		if st.Mode&unix.S_IFMT != unix.S_IFLNK {
			return d, isWhiteout(&st), nil
		}
	}
	// Paths that led through it lead elsewhere now.
	path := d.path
	u.dirs.flush()
	d, err := u.dir(path)
	return d, false, err
}

// setXattrs sets the attributes that are on the list. None that can't be had is
// worth failing for: a file system without them is common, and so are images with SELinux
// labels. A disk that fails or is full is: without its capabilities a program does
// not work, and nobody would know why. ENOSPC of others may only mean that they
// are longer than a block (setxattr(2)).
func (u *unpacker) setXattrs(fd int, h *header) error {
	for _, x := range h.xattrs {
		err := unix.EPERM
		if KeepXattr(x.name) {
			err, _ = again.Fsetxattr(fd, x.name, []byte(x.value), 0).(unix.Errno)
		}
		switch {
		case err == 0:
		case err == unix.EIO, x.name == "security.capability" && (err == unix.ENOSPC || err == unix.EDQUOT):
			return fmt.Errorf("set %s: %w", x.name, err)
		default:
			u.result.Skipped.Xattrs++
		}
	}
	return nil
}

// KeepXattr is the list of the extended attributes that a layer may have.
// security.capability is converted by the kernel to version 3, with the namespace's
// root as its root, when set from inside a user namespace (user_namespaces(7),
// capabilities(7)). What overlayfs reads is never taken from an archive: it could
// show other files than those that were verified.
func KeepXattr(name string) bool {
	return name == "security.capability" ||
		strings.HasPrefix(name, "user.") && !strings.HasPrefix(name, "user.overlay.")
}

func times(t timestamp) []unix.Timespec {
	ts := unix.Timespec{Sec: t.sec, Nsec: int64(t.nsec)}
	return []unix.Timespec{ts, ts}
}

// setTime is futimens(3): utimensat(2) of a descriptor, with a null path.
func setTime(fd int, t timestamp) error {
	ts := [2]unix.Timespec{{Sec: t.sec, Nsec: int64(t.nsec)}, {Sec: t.sec, Nsec: int64(t.nsec)}}
	for {
		_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
		if errno == 0 {
			return nil
		}
		if errno != unix.EINTR {
			return errno
		}
	}
}
