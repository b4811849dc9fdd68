// Package smallfile reads small files by four system calls. os.ReadFile makes
// eleven, and starts the runtime's poller for the first of them; every start of
// a container reads several such files.
//
// Limits: regular files and those of proc and sys.
package smallfile

import (
	"io/fs"

	"golang.org/x/sys/unix"
)

// Read returns the content of a file, whatever its size; beyond 4 KiB it costs
// more calls. The error is an *fs.PathError.
func Read(path string) ([]byte, error) {
	fd, err := openat(path)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	b := make([]byte, 0, 4096)
	for {
		n, err := unix.Read(fd, b[len(b):cap(b)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &fs.PathError{Op: "read", Path: path, Err: err}
		case n == 0:
			return b, nil
		}
		if b = b[:len(b)+n]; len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

func openat(path string) (int, error) {
	for {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOCTTY, 0)
		if err != unix.EINTR {
			return fd, err
		}
	}
}
