// Package again has the system calls on files that are made again when a signal
// interrupts them.
//
// Go's runtime asks for SA_RESTART and sends itself signals all the time, and
// FUSE, NFS and CIFS return EINTR all the same, from calls that on a disk never do. Package
// os copes; package unix leaves it to its caller.
// Source: signal(7), Go issue 40846.
//
// Limits: a call that was carried out before it was interrupted finds its own
// work the second time: EEXIST, or ENOENT. close(2) is not here: on Linux it has
// closed the descriptor when it is interrupted.
package again

import (
	"errors"
	"io"

	"golang.org/x/sys/unix"
)

// Later says whether an error is of what this process or machine has left, which
// may be more the next time: it says nothing of the file that it was met at.
func Later(err error) bool {
	for _, errno := range [...]unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.EAGAIN, unix.EINTR, unix.ENOSPC, unix.EDQUOT} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

func do(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// Open is open(2).
func Open(path string, flags int, mode uint32) (fd int, err error) {
	return Openat(unix.AT_FDCWD, path, flags, mode)
}

// Openat is openat(2).
func Openat(dir int, path string, flags int, mode uint32) (fd int, err error) {
	err = do(func() error { fd, err = unix.Openat(dir, path, flags, mode); return err })
	return fd, err
}

// Mkdirat is mkdirat(2).
func Mkdirat(dir int, path string, mode uint32) error {
	return do(func() error { return unix.Mkdirat(dir, path, mode) })
}

// Mknodat is mknodat(2).
func Mknodat(dir int, path string, mode uint32, dev int) error {
	return do(func() error { return unix.Mknodat(dir, path, mode, dev) })
}

// Symlinkat is symlinkat(2).
func Symlinkat(target string, dir int, path string) error {
	return do(func() error { return unix.Symlinkat(target, dir, path) })
}

// Linkat is linkat(2).
func Linkat(from int, old string, to int, path string, flags int) error {
	return do(func() error { return unix.Linkat(from, old, to, path, flags) })
}

// Renameat is renameat(2).
func Renameat(from int, old string, to int, path string) error {
	return do(func() error { return unix.Renameat(from, old, to, path) })
}

// Renameat2 is renameat2(2).
func Renameat2(from int, old string, to int, path string, flags uint) error {
	return do(func() error { return unix.Renameat2(from, old, to, path, flags) })
}

// Unlinkat is unlinkat(2).
func Unlinkat(dir int, path string, flags int) error {
	return do(func() error { return unix.Unlinkat(dir, path, flags) })
}

// Fchmodat is fchmodat(2), or fchmodat2(2) if there are flags.
func Fchmodat(dir int, path string, mode uint32, flags int) error {
	return do(func() error { return unix.Fchmodat(dir, path, mode, flags) })
}

// Fchmod is fchmod(2).
func Fchmod(fd int, mode uint32) error {
	return do(func() error { return unix.Fchmod(fd, mode) })
}

// UtimesNanoAt is utimensat(2).
func UtimesNanoAt(dir int, path string, times []unix.Timespec, flags int) error {
	return do(func() error { return unix.UtimesNanoAt(dir, path, times, flags) })
}

// Fchown is fchown(2).
func Fchown(fd, uid, gid int) error {
	return do(func() error { return unix.Fchown(fd, uid, gid) })
}

// Fchownat is fchownat(2).
func Fchownat(dir int, path string, uid, gid, flags int) error {
	return do(func() error { return unix.Fchownat(dir, path, uid, gid, flags) })
}

// Ftruncate is ftruncate(2).
func Ftruncate(fd int, size int64) error {
	return do(func() error { return unix.Ftruncate(fd, size) })
}

// Fsetxattr is fsetxattr(2).
func Fsetxattr(fd int, name string, value []byte, flags int) error {
	return do(func() error { return unix.Fsetxattr(fd, name, value, flags) })
}

// Syncfs is syncfs(2).
func Syncfs(fd int) error {
	return do(func() error { return unix.Syncfs(fd) })
}

// Write is write(2) until all of b is written: what fits on a disk that fills
// up, or below a limit, is written and is no error.
func Write(fd int, b []byte) error {
	for {
		var n int
		err := do(func() (err error) { n, err = unix.Write(fd, b); return err })
		if err != nil {
			return err
		}
		if n == 0 && len(b) > 0 {
			return io.ErrShortWrite
		}
		if b = b[n:]; len(b) == 0 {
			return nil
		}
	}
}
