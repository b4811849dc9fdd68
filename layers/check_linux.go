package layers

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"strings"

	"skiff/internal/again"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// Check holds a layer on disk against its archive, as Assemble makes it, and
// returns the digest that this archive has: the layer's DiffID, unless a content has changed.
// damaged is told of every file, directory and link that is gone, that is of another kind,
// mode, owner, time or target than its entry says, or that has no entry.
//
// opt is as it was for Apply; the archive has no more than MaxBytes, if that is set. Extended attributes, hard links among each other and
// times that the file system may not keep are not looked at.
func Check(root *os.File, split io.Reader, opt Options, damaged func(Damage)) (v1.Hash, error) {
	s := newStream()
	sum := make(chan [sha256.Size]byte, 1)
	go func() { sum <- s.sum() }()
	c := &checker{root: int(root.Fd()), opt: opt, want: map[string]wanted{".": {kind: unix.S_IFDIR, any: true}}, emptied: map[string]int{}}
	listed := make(chan error, 1)
	go func() { listed <- c.list(s) }()

	archive, w := io.Pipe()
	assembled := make(chan error, 1)
	go func() {
		err := Assemble(root, split, atMost(w, opt.MaxBytes), damaged)
		w.CloseWithError(err)
		assembled <- err
	}()
	s.fill(archive, 0)
	archive.Close()
	err := <-listed
	digest := <-sum
	if aerr := <-assembled; aerr != nil && aerr != io.ErrClosedPipe {
		err = aerr
	}
	if err == nil {
		err = c.walk(damaged)
	}
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(digest[:])}, err
}

// A checker knows what a layer should hold.
type checker struct {
	root int
	opt  Options
	want map[string]wanted // by path, which has no link in it

	// What was wanted below a directory is not any more after it gave way to something else: emptied has
	// the number of the entry that it gave way to.
	entries int
	emptied map[string]int

	// name and path are the last directory that was looked up and where it is.
	name, path string
}

// wanted is what the last entry of a path says.
type wanted struct {
	kind     uint32 // S_IFREG, …; 0: whatever it is
	any      bool   // no entry names it, or one that says nothing of mode, owner and time
	mode     uint32
	uid, gid int64
	size     int64
	sec      int64
	link     string
	absent   bool // left out when it was unpacked
	seen     bool
	entry    int // its number
}

// get returns what is wanted at a path at this point of the archive.
func (c *checker) get(path string) (wanted, bool) {
	w, ok := c.want[path]
	if ok && len(c.emptied) > 0 {
		for p := path; p != "."; {
			if p, _ = split(p); c.emptied[p] > w.entry {
				return wanted{}, false
			}
		}
	}
	return w, ok
}

// set says what is wanted at a path from now on.
func (c *checker) set(path string, w wanted) {
	old, _ := c.get(path)
	if old.kind == unix.S_IFDIR && w.kind != unix.S_IFDIR {
		c.emptied[path] = c.entries
		c.name = ""
	}
	if w.kind == unix.S_IFLNK || old.kind == unix.S_IFLNK {
		c.name = "" // it may lead elsewhere now
	}
	w.entry = c.entries
	c.want[path] = w
}

// list reads the archive.
func (c *checker) list(s *stream) error {
	defer s.stop()
	t := tarReader{s: s}
	var h header
	for {
		err := t.next(&h)
		if err == io.EOF {
			return s.drain()
		}
		if err != nil {
			return archiveError(err)
		}
		name, err := clean(h.name)
		if err != nil {
			return &EntryError{h.name, "name", err}
		}
		if !isMeta(name) {
			c.entry(name, &h)
		}
	}
}

func (c *checker) entry(name string, h *header) {
	c.entries++
	parent, base := split(name)
	parent = c.dir(parent)
	name = join(parent, base)
	// A directory that no entry names is made on the way.
	for p := parent; p != "."; p, _ = split(p) {
		if w, ok := c.get(p); ok && w.kind != unix.S_IFCHR { // not a whiteout that it replaces
			break
		}
		c.set(p, wanted{kind: unix.S_IFDIR, any: true})
	}
	if base == opaqueName {
		return
	}
	if hidden, ok := strings.CutPrefix(base, whiteoutPrefix); ok {
		at := join(parent, hidden)
		if w, _ := c.get(at); w.kind == 0 && !w.any {
			c.set(at, wanted{kind: unix.S_IFCHR, any: true})
		}
		return
	}
	w := wanted{mode: h.mode, uid: h.uid, gid: h.gid, size: h.size, sec: h.mtime.sec, link: h.link}
	switch h.typ {
	case typeRegular, typeContiguous:
		w.kind = unix.S_IFREG
	case typeDir:
		w.kind = unix.S_IFDIR
	case typeSymlink:
		w.kind = unix.S_IFLNK
	case typeFIFO:
		w.kind = unix.S_IFIFO
	case typeLink:
		// What it is another name of has no other metadata than that one's entry says.
		to, _ := clean(h.link) // as it was unpacked
		to, base := split(to)
		target, _ := c.get(join(c.dir(to), base))
		w.any, w.kind, w.link = true, target.kind, target.link
	case typeChar, typeBlock:
		w.any, w.absent = true, true
	}
	c.set(name, w)
}

// dir is where a directory's name leads at this point of the archive, as
// unpacker.resolve finds it.
func (c *checker) dir(name string) string {
	if name == c.name {
		return c.path
	}
	at, links := ".", 0
	for rest := name; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "/")
		switch part {
		case "", ".":
			continue
		case "..":
			at, _ = split(at)
			continue
		}
		next := join(at, part)
		if w, _ := c.get(next); w.kind == unix.S_IFLNK && links < maxLinks {
			if links++; strings.HasPrefix(w.link, "/") {
				at = "."
			}
			rest = w.link + "/" + rest
			continue
		}
		at = next
	}
	c.name, c.path = name, at
	return at
}

// walk compares the tree. Its error is that it could not.
func (c *checker) walk(damaged func(Damage)) error {
	stack := []string{"."}
	for len(stack) > 0 {
		path := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		fd, err := openBeneath(c.root, path, unix.O_RDONLY|unix.O_DIRECTORY)
		if again.Later(err) {
			return &os.PathError{Op: "open", Path: path, Err: err}
		}
		if err != nil {
			damaged(Damage{path, err.Error()})
			continue
		}
		f := os.NewFile(uintptr(fd), path)
		names, err := f.Readdirnames(-1)
		if err != nil {
			damaged(Damage{path, err.Error()})
		}
		for _, name := range names {
			var st unix.Stat_t
			at := join(path, name)
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				damaged(Damage{at, err.Error()})
				continue
			}
			if why := c.compare(fd, name, at, &st); why != "" {
				damaged(Damage{at, why})
			}
			if st.Mode&unix.S_IFMT == unix.S_IFDIR {
				stack = append(stack, at)
			}
		}
		f.Close()
	}
	for path := range c.want {
		if w, ok := c.get(path); ok && !w.seen && !w.absent && path != "." {
			damaged(Damage{path, "it is gone"})
		}
	}
	return nil
}

// compare says what is wrong with a file, if anything is.
func (c *checker) compare(dir int, name, path string, st *unix.Stat_t) string {
	w, ok := c.get(path)
	if !ok {
		return "the layer has no such entry"
	}
	w.seen = true
	c.want[path] = w
	kind := st.Mode & unix.S_IFMT
	switch {
	case w.kind != 0 && kind != w.kind:
		return "it is of another type"
	case w.any:
		return ""
	case kind != unix.S_IFLNK && st.Mode&0o7777 != w.mode:
		return fmt.Sprintf("its mode is %04o, not %04o", st.Mode&0o7777, w.mode)
	case !c.opt.Squash && (int64(st.Uid) != w.uid || int64(st.Gid) != w.gid):
		return fmt.Sprintf("it belongs to %d:%d, not to %d:%d", st.Uid, st.Gid, w.uid, w.gid)
	case kind == unix.S_IFREG && st.Size != w.size:
		return fmt.Sprintf("it has %d bytes, not %d", st.Size, w.size)
	}
	if kind == unix.S_IFLNK {
		if target, err := readlink(dir, name); err != nil || target != w.link {
			return fmt.Sprintf("it leads to %s, not to %s", quote(target), quote(w.link))
		}
	}
	if w.sec >= 0 && w.sec < 1<<31 && st.Mtim.Sec != w.sec {
		return "it was changed later"
	}
	return ""
}
