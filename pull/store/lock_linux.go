package store

import (
	"context"
	"errors"
	"time"

	"skiff/internal/again"

	"golang.org/x/sys/unix"
)

// A lock is a flock'ed file below locks/. flock, not fcntl: the lock is the open
// file's, so another descriptor that this process closes cannot drop it, and the
// kernel drops it when the process dies.
type lock struct{ fd int }

// errBusy: another holder has it.
var errBusy = errors.New("locked")

// tryLock takes the exclusive lock of a name, or says errBusy. Where the file
// system knows no flock it holds nothing, and the work may be done twice.
//
// Lock files may be removed by who holds them (see Collect), so the file that
// was locked must still be the one with the name: else another would be locked
// by whoever comes next, and two would hold the lock.
func (s *Store) tryLock(name string) (*lock, error) {
	path := "locks/" + name
	for {
		fd, err := again.Openat(s.fd, path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, explain("open lock", s.Path(path), err)
		}
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			unix.Close(fd)
			return nil, errBusy
		case errors.Is(err, unix.EINTR):
			unix.Close(fd)
			continue
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOLCK):
			return &lock{fd}, nil
		case err != nil:
			unix.Close(fd)
			return nil, explain("lock", s.Path(path), err)
		}
		if s.same(fd, path) {
			return &lock{fd}, nil
		}
		unix.Close(fd)
	}
}

// same says whether path still names the open file.
func (s *Store) same(fd int, path string) bool {
	var have, want unix.Stat_t
	return unix.Fstat(fd, &have) == nil &&
		unix.Fstatat(s.fd, path, &want, unix.AT_SYMLINK_NOFOLLOW) == nil &&
		have.Ino == want.Ino && have.Dev == want.Dev
}

// waitLock takes the lock of a name, waiting as long as the context allows.
// What it waits for is said once. flock itself cannot be interrupted from Go
// without a signal, so it is asked again: every 5 ms at first, then every 50.
func (s *Store) waitLock(ctx context.Context, name, what string) (*lock, error) {
	for pause, told := 5*time.Millisecond, false; ; pause = min(2*pause, 50*time.Millisecond) {
		l, err := s.tryLock(name)
		if !errors.Is(err, errBusy) {
			return l, err
		}
		if !told && pause > 20*time.Millisecond {
			if told = true; s.Waiting != nil {
				s.Waiting(what)
			}
		}
		if err := sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

// unlock gives the lock back.
func (l *lock) unlock() {
	if l != nil {
		unix.Close(l.fd)
	}
}
