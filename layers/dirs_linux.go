package layers

import (
	"strings"
	"sync/atomic"

	"skiff/internal/again"

	"golang.org/x/sys/unix"
)

// A dir is an open directory of the layer.
type dir struct {
	fd   int    // O_PATH; the cache's own
	path string // below the root, no symbolic link in it; "." is the root

	users atomic.Int32 // files that are being made in it, aside

	name       string // as looked up
	prev, next *dir
}

// dirCache keeps directories open, those used last. The root is always there.
type dirCache struct {
	settle func() // waits until no directory has users

	root   dir
	byName map[string]*dir
	most   int // of byName
	ring   dir // sentinel; ring.next was used last
}

// maxDirs bounds the descriptors that one Apply holds, if its Options do not.
const maxDirs = 256

func (c *dirCache) init(root, most int, settle func()) {
	if most <= 0 {
		most = maxDirs
	}
	c.most, c.settle = most, settle
	c.root.fd, c.root.path = root, "."
	c.byName = make(map[string]*dir, most)
	c.ring.prev, c.ring.next = &c.ring, &c.ring
}

func (c *dirCache) get(name string) *dir {
	// Archives come directory by directory.
	if d := c.ring.next; d != &c.ring && d.name == name {
		return d
	}
	d := c.byName[name]
	if d != nil {
		d.prev.next, d.next.prev = d.next, d.prev
		c.front(d)
	}
	return d
}

func (c *dirCache) front(d *dir) {
	d.prev, d.next = &c.ring, c.ring.next
	d.next.prev, c.ring.next = d, d
}

// put hands fd over. It may close the descriptor of a directory that was not
// used for most-1 look-ups.
func (c *dirCache) put(name, path string, fd int) *dir {
	if len(c.byName) == c.most {
		old := c.ring.prev
		if old.users.Load() > 0 {
			c.settle()
		}
		old.prev.next, c.ring.prev = &c.ring, old.prev
		delete(c.byName, old.name)
		unix.Close(old.fd)
	}
	d := &dir{fd: fd, path: path, name: name}
	c.byName[name] = d
	c.front(d)
	return d
}

// flush closes all but the root.
func (c *dirCache) flush() {
	c.settle()
	for _, d := range c.byName {
		unix.Close(d.fd)
	}
	clear(c.byName)
	c.ring.prev, c.ring.next = &c.ring, &c.ring
}

// dir opens the directory that name leads to, and makes what is missing on the
// way. The result is valid until the cache is flushed or many others are opened.
func (u *unpacker) dir(name string) (*dir, error) { return u.lookup(name, true) }

// existingDir is dir that makes nothing.
func (u *unpacker) existingDir(name string) (*dir, error) { return u.lookup(name, false) }

func (u *unpacker) lookup(name string, makeMissing bool) (*dir, error) {
	if name == "." {
		return &u.dirs.root, nil
	}
	if d := u.dirs.get(name); d != nil {
		return d, nil
	}
	fd, err := openBeneath(u.root, name, unix.O_PATH|unix.O_DIRECTORY)
	if err == nil {
		return u.dirs.put(name, name, fd), nil
	}
	if err != unix.ENOENT && err != unix.ELOOP && err != unix.ENOTDIR {
		return nil, err
	}
	u.aside.settle() // a file may stand on the way
	path, err := u.resolve(name, makeMissing)
	if err != nil {
		return nil, err
	}
	if path == "." {
		return &u.dirs.root, nil
	}
	if fd, err = openBeneath(u.root, path, unix.O_PATH|unix.O_DIRECTORY); err != nil {
		return nil, err
	}
	return u.dirs.put(name, path, fd), nil
}

const (
	maxLinks = 40   // as path_resolution(7)
	maxSteps = 8192 // components that one name may lead through
)

// resolve finds the path without links that name leads to, one component at a
// time, with symbolic links and ".." kept inside the root. It makes missing
// directories if told so, and puts one in the place of a whiteout.
//
// Nobody else is in the layer, so what it finds stays so.
func (u *unpacker) resolve(name string, makeMissing bool) (string, error) {
	at := "."
	here := u.root // at, open
	defer func() {
		if here != u.root {
			unix.Close(here)
		}
	}()
	move := func(path string, fd int) {
		if here != u.root {
			unix.Close(here)
		}
		at, here = path, fd
	}
	links := 0
	rest := name
	for steps := 0; rest != ""; {
		var c string
		c, rest, _ = strings.Cut(rest, "/")
		if steps++; steps > maxSteps {
			return "", unix.ELOOP
		}
		switch c {
		case "", ".":
			continue
		case "..":
			parent, _ := split(at)
			fd := u.root
			if parent != "." {
				var err error
				if fd, err = openBeneath(u.root, parent, unix.O_PATH|unix.O_DIRECTORY); err != nil {
					return "", err
				}
			}
			move(parent, fd)
			continue
		}
		next := join(at, c)
		if len(next) >= unix.PathMax {
			return "", unix.ENAMETOOLONG
		}
		fd, err := openComponent(here, c)
		if err == unix.ENOTDIR || err == unix.ELOOP {
			target, lerr := readlink(here, c)
			if lerr == nil {
				if links++; links > maxLinks {
					return "", unix.ELOOP
				}
				if strings.HasPrefix(target, "/") {
					move(".", u.root)
				}
				rest = target + "/" + rest
				continue
			}
			if lerr != unix.EINVAL {
				return "", lerr
			}
		}
		if err != nil && makeMissing {
			if err = u.imply(here, next, c, err); err == nil {
				fd, err = openComponent(here, c)
			}
		}
		if err != nil {
			return "", err
		}
		move(next, fd)
	}
	return at, nil
}

func openComponent(dir int, name string) (int, error) {
	return openBeneath(dir, name, unix.O_PATH|unix.O_DIRECTORY)
}

// imply makes a directory that no entry has named, where openComponent said
// why there is none.
func (u *unpacker) imply(here int, path, name string, why error) error {
	opaque := false
	switch why {
	case unix.ENOENT:
	case unix.ENOTDIR:
		var st unix.Stat_t
		if err := unix.Fstatat(here, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return err
		}
		if !isWhiteout(&st) {
			return why
		}
		if err := again.Unlinkat(here, name, 0); err != nil {
			return err
		}
		opaque = true
	default:
		return why
	}
	if strings.HasPrefix(name, whiteoutPrefix) {
		return malformed("a whiteout that is a directory")
	}
	made, err := u.mkdir(here, name, 0o755)
	if err != nil {
		return err
	}
	u.aside.other(path)
	u.result.Implied++
	err = u.addMeta(dirMeta{path: path, mode: 0o755, made: made, nsec: timeOmit, uid: uint32(u.uid), gid: uint32(u.gid)})
	if err != nil {
		return err
	}
	if opaque {
		return u.markOpaque(path)
	}
	return nil
}

func readlink(dir int, name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(dir, name, buf[:])
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}
