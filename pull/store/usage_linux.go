package store

import (
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Usage is what a store takes of its disk, in bytes of allocated blocks, a file
// with several links counted once: what du(1) says.
type Usage struct {
	// At has the bytes of each thing, with all below it: images/<reference>,
	// blobs/<algorithm>/<hex>, layers/<key>, containers/<id>, volumes/<name>,
	// tmp/<name>; and of the rest under "".
	At     map[string]int64
	Total  int64
	Unread int // directories that this user may not read: their content is not counted
}

// Usage measures the store. What is removed meanwhile may be counted or not.
func (s *Store) Usage() (*Usage, error) {
	w := measure{Usage: &Usage{At: map[string]int64{}}, seen: map[[2]uint64]bool{}}
	fd, err := unix.Openat(s.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explain("open", s.root, err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return nil, explain("stat", s.root, err)
	}
	w.add("", &st)
	w.dir(fd, nil)
	return w.Usage, nil
}

type measure struct {
	*Usage
	seen map[[2]uint64]bool // device and inode of files with several links
}

func (w *measure) add(at string, st *unix.Stat_t) {
	if st.Nlink > 1 && st.Mode&unix.S_IFMT != unix.S_IFDIR {
		id := [2]uint64{st.Dev, st.Ino}
		if w.seen[id] {
			return
		}
		w.seen[id] = true
	}
	w.At[at] += st.Blocks * 512 // stat(2): whatever the file system's block is
	w.Total += st.Blocks * 512
}

// dir counts what is in a directory, which it closes. path is where it is in the store.
func (w *measure) dir(fd int, path []string) {
	f := os.NewFile(uintptr(fd), "")
	defer f.Close()
	names, err := f.Readdirnames(-1)
	if err != nil {
		w.Unread++
	}
	for _, name := range names {
		var st unix.Stat_t
		if unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
			continue
		}
		below := path
		if len(below) < 3 {
			below = append(below[:len(below):len(below)], name)
		}
		w.add(thing(below), &st)
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err == unix.ENOENT {
			continue
		}
		if err != nil {
			w.Unread++
			continue
		}
		w.dir(sub, below)
	}
}

// thing is the key of At for a path.
func thing(path []string) string {
	n := 2
	switch path[0] {
	case "blobs":
		n = 3
	case "images", "layers", "containers", "volumes", "tmp":
	default:
		return ""
	}
	if len(path) < n {
		return ""
	}
	return strings.Join(path[:n], "/")
}

// Of is the bytes of several things.
func (u *Usage) Of(names []string) (n int64) {
	for _, name := range names {
		n += u.At[name]
	}
	return n
}

// OfImages is the bytes of images, and of what is left of them.
func (u *Usage) OfImages() int64 { return u.Below("images/") + u.Below("blobs/") + u.Below("layers/") }

// Below is the bytes of all things whose name begins so.
func (u *Usage) Below(prefix string) (n int64) {
	for name, bytes := range u.At {
		if strings.HasPrefix(name, prefix) {
			n += bytes
		}
	}
	return n
}
