package image

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// List says what a directory holds, one line each, sorted by path:
//
//	d 0755 etc             a directory; " opaque" is added if it is
//	f 0644 etc/x "body"    a file; one longer than 64 bytes as its size
//	l etc/y -> x           a symbolic link
//	p 0644 fifo            a FIFO
//	w etc/gone             a whiteout
//	c 0600 null 1:3        a device
//
// Names are quoted where they are not plain.
func List(dir string) ([]string, error) {
	var lines []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		lines = append(lines, describe(path, plain(rel), &st))
		return nil
	})
	return lines, err
}

func plain(name string) string {
	if q := strconv.QuoteToASCII(name); len(q) != len(name)+2 {
		return q
	}
	if len(name) > 64 {
		return fmt.Sprintf("%s…%d", name[:16], len(name))
	}
	return name
}

func describe(path, name string, st *unix.Stat_t) string {
	mode := st.Mode & 0o7777
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		var v [4]byte
		if n, err := unix.Lgetxattr(path, "user.overlay.opaque", v[:]); err == nil && n == 1 && v[0] == 'y' {
			return fmt.Sprintf("d %04o %s opaque", mode, name)
		}
		return fmt.Sprintf("d %04o %s", mode, name)
	case unix.S_IFLNK:
		to, _ := os.Readlink(path)
		return fmt.Sprintf("l %s -> %s", name, plain(to))
	case unix.S_IFIFO:
		return fmt.Sprintf("p %04o %s", mode, name)
	case unix.S_IFCHR, unix.S_IFBLK:
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0 {
			return "w " + name
		}
		kind := "b"
		if st.Mode&unix.S_IFMT == unix.S_IFCHR {
			kind = "c"
		}
		return fmt.Sprintf("%s %04o %s %d:%d", kind, mode, name, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	if st.Size > 64 {
		return fmt.Sprintf("f %04o %s %d bytes", mode, name, st.Size)
	}
	body, err := os.ReadFile(path)
	if err != nil {
		return fmt.Sprintf("f %04o %s %v", mode, name, err)
	}
	return fmt.Sprintf("f %04o %s %q", mode, name, body)
}
