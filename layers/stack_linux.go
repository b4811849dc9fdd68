package layers

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"skiff/internal/again"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// A Stack is an image's layers on disk, base first, in the order of the image
// config's diff_ids. The overlay mount wants the reverse.
type Stack struct {
	ChainID v1.Hash  // image-spec config.md, "Layer ChainID"
	Dirs    []string // absolute; one per layer; never written again
}

// ReadFile reads a regular file of the root file system that the stack makes,
// without mounting it. The error wraps fs.ErrNotExist, ErrQuota if the file is
// longer than max bytes, or an errno.
func (s Stack) ReadFile(name string, max int64) ([]byte, error) {
	fd, size, err := s.openFile(name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	// Not by package os, whose files start the runtime's poller.
	var text []byte
	buf := make([]byte, min(size, max)+1)
	for {
		n, err := unix.Read(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: name, Err: err}
		}
		if n == 0 {
			return text, nil
		}
		if text = append(text, buf[:n]...); int64(len(text)) > max {
			return nil, &fs.PathError{Op: "read", Path: name, Err: fmt.Errorf("%w of %d bytes", ErrQuota, max)}
		}
	}
}

// Open opens a regular file for reading, as a container would find it: the top
// layer first, whiteouts and opaque directories obeyed, symbolic links and ".."
// kept inside the root. Anything else than a regular file is refused unopened.
//
// The layers are not locked here, and are searched with the caller's own
// permissions.
func (s Stack) Open(name string) (*os.File, error) {
	fd, _, err := s.openFile(name)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

func (s Stack) openFile(name string) (fd int, size int64, err error) {
	found, st, err := s.find(name, true)
	if err == nil {
		defer unix.Close(found)
		if st.Mode&unix.S_IFMT != unix.S_IFREG {
			err = errNotRegular
		} else {
			// The link leads to the very file that was looked at.
			fd, err = again.Open("/proc/self/fd/"+strconv.Itoa(found), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		}
	}
	if err != nil {
		return -1, 0, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return fd, st.Size, nil
}

var errNotRegular = errors.New("not a regular file")

// Lookup returns what stands at a name. A symbolic link in the last place is
// followed if follow is set.
func (s Stack) Lookup(name string, follow bool) (unix.Stat_t, error) {
	fd, st, err := s.find(name, follow)
	if err != nil {
		return st, &fs.PathError{Op: "lookup", Path: name, Err: err}
	}
	unix.Close(fd)
	return st, nil
}

// merged is a directory of the root file system: the directories of the layers
// that it is made of, top first, as O_PATH descriptors.
type merged []int

func (m merged) close() {
	for _, fd := range m {
		unix.Close(fd)
	}
}

// find walks to a name. The caller closes the descriptor, which is O_PATH.
func (s Stack) find(name string, follow bool) (int, unix.Stat_t, error) {
	var st unix.Stat_t
	root, err := s.open()
	if err != nil {
		return -1, st, err
	}
	path := []merged{root} // from the root to here
	defer func() {
		for _, m := range path {
			m.close()
		}
	}()
	up := func(n int) {
		for _, m := range path[n:] {
			m.close()
		}
		path = path[:n]
	}
	links, steps := 0, 0
	for rest := name; ; {
		var c string
		var slash bool // after it, which asks for a directory
		c, rest, slash = strings.Cut(strings.TrimLeft(rest, "/"), "/")
		last := strings.Trim(rest, "/") == ""
		if steps++; steps > maxSteps {
			return -1, st, unix.ELOOP
		}
		switch c {
		case "..":
			up(max(1, len(path)-1))
			fallthrough
		case "", ".":
			if !last {
				continue
			}
			here := path[len(path)-1]
			fd, err := unix.FcntlInt(uintptr(here[0]), unix.F_DUPFD_CLOEXEC, 0)
			if err == nil {
				err = unix.Fstat(fd, &st)
			}
			return fd, st, err
		}
		next, fd, err := path[len(path)-1].step(c, &st)
		if err != nil {
			return -1, st, err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			path = append(path, next)
			if last {
				rest = "."
			}
			continue
		case unix.S_IFLNK:
			if last && !slash && !follow {
				return fd, st, nil
			}
			target, err := readlink(fd, "")
			unix.Close(fd)
			if err != nil {
				return -1, st, err
			}
			if links++; links > maxLinks {
				return -1, st, unix.ELOOP
			}
			if strings.HasPrefix(target, "/") {
				up(1)
			}
			if rest = target + "/" + rest; last && !slash {
				rest = target
			}
			continue
		}
		if !last || slash {
			unix.Close(fd)
			return -1, st, unix.ENOTDIR
		}
		return fd, st, nil
	}
}

// open opens the layers, down to one whose root hides the rest. A layer that is
// not there is ESTALE: nothing can be said of the file.
func (s Stack) open() (merged, error) {
	var m merged
	for _, dir := range slices.Backward(s.Dirs) {
		fd, err := again.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			m.close()
			if err == unix.ENOENT {
				err = unix.ESTALE
			}
			return nil, &os.PathError{Op: "open layer", Path: dir, Err: err}
		}
		m = append(m, fd)
		if isOpaque(fd) {
			break
		}
	}
	if len(m) == 0 {
		return nil, unix.ENOENT
	}
	return m, nil
}

// step looks a name up in a merged directory. It fills st and returns either a
// merged directory or the descriptor of anything else.
// Source: overlayfs.rst, "Merged directories".
func (m merged) step(name string, st *unix.Stat_t) (merged, int, error) {
	var next merged
	for _, dir := range m {
		fd, err := openBeneath(dir, name, unix.O_PATH)
		if err == unix.ENOENT {
			continue
		}
		var found unix.Stat_t
		if err == nil {
			if err = unix.Fstat(fd, &found); err != nil {
				unix.Close(fd)
			}
		}
		if err != nil {
			next.close()
			return nil, -1, err
		}
		isDir := found.Mode&unix.S_IFMT == unix.S_IFDIR
		switch {
		case isWhiteout(&found), !isDir && next != nil:
			unix.Close(fd)
			if next == nil {
				return nil, -1, unix.ENOENT
			}
			return next, -1, nil
		case !isDir:
			*st = found
			return nil, fd, nil
		}
		if next == nil {
			*st = found
		}
		next = append(next, fd)
		if isOpaque(fd) {
			break
		}
	}
	if next == nil {
		return nil, -1, unix.ENOENT
	}
	return next, -1, nil
}

// isOpaque reads the mark of a directory that hides those below.
func isOpaque(fd int) bool {
	var value [4]byte
	// fgetxattr refuses O_PATH; the link of /proc leads to the directory itself.
	n, err := unix.Getxattr("/proc/self/fd/"+strconv.Itoa(fd), opaqueXattr, value[:])
	return err == nil && n == 1 && value[0] == 'y'
}
