package run

import (
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"

	"skiff/pull/store"

	"golang.org/x/sys/unix"
)

// A Change is a path that two root file systems do not have in common.
type Change struct {
	Kind byte   // 'A' added, 'C' changed, 'D' deleted
	Path string // absolute
}

// DiffImages yields what changes from the image a to the image b, in the order of the
// paths; what is below a directory that is deleted or added as a whole is yielded only
// where it is added. A nil a is b without its top layer.
//
// Layers are read with the caller's own rights, without following a link.
func DiffImages(st *store.Store, a, b *store.Image, yield func(Change) error) error {
	if a == nil {
		a = parent(st, b)
	}
	old, err := openMerged(stackOf(st, a).Dirs)
	if err != nil {
		return err
	}
	defer old.close()
	new, err := openMerged(stackOf(st, b).Dirs)
	if err != nil {
		return err
	}
	defer new.close()
	_, err = diffDirs("", old, new, yield)
	return err
}

// parent is an image without its top layer.
func parent(st *store.Store, img *store.Image) *store.Image {
	p := &store.Image{IDs: img.IDs, DiffIDs: img.DiffIDs[:max(len(img.DiffIDs)-1, 0)]}
	for n, d := range p.DiffIDs {
		if l, err := st.LayerRecord(d); err == nil && l.Opaque {
			p.First = n
		}
	}
	return p
}

// merged is one directory of a root file system: the directories of the layers that
// make it, top first.
type merged []int

func (m merged) close() {
	for _, fd := range m {
		unix.Close(fd)
	}
}

func openMerged(base []string) (merged, error) {
	var m merged
	for _, dir := range slices.Backward(base) {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			m.close()
			return nil, &fs.PathError{Op: "open layer", Path: dir, Err: err}
		}
		m = append(m, fd)
	}
	return m, nil
}

// An entry is what a name of a merged directory is.
type entry struct {
	st    unix.Stat_t
	from  int // the directory that has it
	parts []int
}

func (e *entry) dir() bool { return e.st.Mode&unix.S_IFMT == unix.S_IFDIR }

// list reads a merged directory: of each name the topmost layer's, and for directories
// all that are merged. Source: overlayfs.rst, "whiteouts and opaque directories".
func (m merged) list(path string) (map[string]*entry, error) {
	all := map[string]*entry{}
	ended := map[string]bool{} // nothing of a name counts in the layers below
	for _, fd := range m {
		names, err := readNames(fd)
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: "/" + path, Err: err}
		}
		for _, name := range names {
			if ended[name] {
				continue
			}
			var st unix.Stat_t
			if err := unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
				return nil, &fs.PathError{Op: "stat", Path: path + "/" + name, Err: err}
			}
			e := all[name]
			kind := st.Mode & unix.S_IFMT
			switch {
			case kind == unix.S_IFCHR && st.Rdev == 0:
				ended[name] = true
			case e != nil && kind != unix.S_IFDIR:
				ended[name] = true
			case e != nil:
				e.parts = append(e.parts, fd)
			default:
				all[name] = &entry{st: st, from: fd, parts: []int{fd}}
				ended[name] = kind != unix.S_IFDIR
			}
			if kind == unix.S_IFDIR && opaque(fd, name) {
				ended[name] = true
			}
		}
	}
	return all, nil
}

func readNames(fd int) ([]string, error) {
	again, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(again), "")
	defer f.Close()
	return f.Readdirnames(-1)
}

// opaque reads the mark of a directory that hides those below.
func opaque(dir int, name string) bool {
	fd, err := unix.Openat(dir, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var value [4]byte
	n, err := unix.Getxattr("/proc/self/fd/"+strconv.Itoa(fd), "user.overlay.opaque", value[:])
	return err == nil && n == 1 && value[0] == 'y'
}

// open opens a directory's parts.
func (e *entry) open(path, name string) (merged, error) {
	var m merged
	for _, part := range e.parts {
		fd, err := unix.Openat(part, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			m.close()
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
		m = append(m, fd)
	}
	return m, nil
}

// diffDirs compares two directories, of which a nil one is not there.
func diffDirs(path string, old, new merged, yield func(Change) error) (changed bool, err error) {
	before, err := old.list(path)
	if err != nil {
		return false, err
	}
	after, err := new.list(path)
	if err != nil {
		return false, err
	}
	names := map[string]bool{}
	for name := range before {
		names[name] = true
	}
	for name := range after {
		names[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		is, err := diffEntry(path+"/"+name, name, before[name], after[name], yield)
		if err != nil {
			return false, err
		}
		changed = changed || is
	}
	return changed, nil
}

func diffEntry(path, name string, old, new *entry, yield func(Change) error) (changed bool, err error) {
	switch {
	case new == nil:
		return true, yield(Change{'D', path})
	case old == nil, old.dir() != new.dir():
		kind := byte('A')
		if old != nil {
			kind = 'C'
		}
		if err := yield(Change{kind, path}); err != nil || !new.dir() {
			return true, err
		}
		now, err := new.open(path, name)
		if err != nil {
			return true, err
		}
		defer now.close()
		_, err = diffDirs(path, nil, now, yield)
		return true, err
	case !new.dir():
		if same(old, new, name) {
			return false, nil
		}
		return true, yield(Change{'C', path})
	}
	was, err := old.open(path, name)
	if err != nil {
		return false, err
	}
	defer was.close()
	now, err := new.open(path, name)
	if err != nil {
		return false, err
	}
	defer now.close()
	if identical(was, now) {
		return false, nil
	}
	// A directory comes before what is in it, and is changed if that is.
	var inside []Change
	below, err := diffDirs(path, was, now, func(c Change) error { inside = append(inside, c); return nil })
	if err != nil {
		return false, err
	}
	if below || !alike(&old.st, &new.st) {
		if err := yield(Change{'C', path}); err != nil {
			return true, err
		}
		changed = true
	}
	for _, c := range inside {
		if err := yield(c); err != nil {
			return true, err
		}
	}
	return changed, nil
}

// identical says whether two directories are made of the same ones.
func identical(a, b merged) bool {
	return slices.EqualFunc(a, b, func(x, y int) bool {
		var s, t unix.Stat_t
		return unix.Fstat(x, &s) == nil && unix.Fstat(y, &t) == nil && s.Dev == t.Dev && s.Ino == t.Ino
	})
}

// alike compares what two files are besides their content.
func alike(a, b *unix.Stat_t) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && a.Mtim == b.Mtim && a.Rdev == b.Rdev
}

// same says whether two files are one, or as like as docker's own diff can tell.
func same(a, b *entry, name string) bool {
	if a.st.Dev == b.st.Dev && a.st.Ino == b.st.Ino {
		return true
	}
	if !alike(&a.st, &b.st) || a.st.Size != b.st.Size {
		return false
	}
	if a.st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return true
	}
	return target(a.from, name) == target(b.from, name)
}

func target(dir int, name string) string {
	var b [4096]byte
	n, err := unix.Readlinkat(dir, name, b[:])
	if err != nil {
		return ""
	}
	return string(b[:n])
}
