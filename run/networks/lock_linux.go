package networks

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// lockTimeout is how long to wait for another skiff that joins, or makes a
// network: it takes some ten milliseconds, so whoever takes longer has been stopped.
const lockTimeout = 20 * time.Second

// Lock takes the lock of all networks. It is asked for again and again rather than
// waited for, so that a stopped holder is told from a busy one.
func (d Dir) Lock() (unlock func(), err error) {
	if err := os.MkdirAll(d.path, 0o700); err != nil {
		return nil, err
	}
	path := filepath.Join(d.path, ".lock")
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	for start := time.Now(); ; time.Sleep(time.Millisecond) {
		err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { unix.Close(fd) }, nil
		}
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			unix.Close(fd)
			return nil, &os.PathError{Op: "lock", Path: path, Err: err}
		}
		if time.Since(start) > lockTimeout {
			unix.Close(fd)
			return nil, fmt.Errorf("%s: another skiff has held the lock for %v; it may have been stopped", path, lockTimeout)
		}
	}
}
