package store

import (
	"context"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"skiff/internal/again"

	"golang.org/x/sys/unix"
)

// A Temp is a directory below tmp/ that this process holds the lock of. Who
// dies leaves a directory whose lock can be taken: garbage, for Sweep.
type Temp struct {
	s    *Store
	name string // tmp/<kind>-<random>
	lock int
}

// random is 128 bits that no other name has.
func random() string {
	var b [16]byte
	unix.Getrandom(b[:], 0) // up to 256 bytes come whole, random(4)
	return hex.EncodeToString(b[:])
}

// NewTemp makes tmp/<kind>-<random>/, mode 0700. kind is a plain word without "-".
func (s *Store) NewTemp(kind string) (*Temp, error) {
	if err := s.Writable(); err != nil {
		return nil, err
	}
	for {
		t := &Temp{s: s, name: "tmp/" + kind + "-" + random()}
		if err := again.Mkdirat(s.fd, t.name, 0o700); err != nil {
			return nil, explain("make", s.Path(t.name), err)
		}
		// A sweep that comes between the mkdir and the lock takes the directory for
		// garbage, and may: then it is gone or locked, and another one is made.
		fd, err := s.lockTemp(t.name)
		if err == nil {
			t.lock = fd
			return t, nil
		}
		if !errors.Is(err, errBusy) && !errors.Is(err, unix.ENOENT) {
			again.Unlinkat(s.fd, t.name, unix.AT_REMOVEDIR)
			return nil, err
		}
	}
}

// lockTemp locks the directory's own lock file, errBusy if somebody has.
func (s *Store) lockTemp(name string) (int, error) {
	path := name + "/lock"
	fd, err := again.Openat(s.fd, path, unix.O_RDWR|unix.O_CREAT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return -1, explain("create", s.Path(path), err)
	}
	for {
		err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		unix.Close(fd)
		return -1, errBusy
	case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.ENOLCK):
		return fd, nil
	case err != nil:
		unix.Close(fd)
		return -1, explain("lock", s.Path(path), err)
	}
	if !s.same(fd, path) {
		unix.Close(fd)
		return -1, errBusy
	}
	return fd, nil
}

// Path is the directory's absolute path.
func (t *Temp) Path() string { return t.s.Path(t.name) }

// Name is its name below tmp/.
func (t *Temp) Name() string { return strings.TrimPrefix(t.name, "tmp/") }

// Remove removes the directory with all that is in it and gives the lock back. If that
// fails, what is left is garbage that a later Sweep tries again.
func (t *Temp) Remove() error {
	defer unix.Close(t.lock)
	return t.s.removeTree(t.name)
}

// Leave gives the lock back and leaves the directory to Sweep: for what takes
// long to remove and nobody should wait for.
func (t *Temp) Leave() { unix.Close(t.lock) }

// temps lists the directories of a kind that a living process holds; "" is
// every kind. A directory whose lock can be taken is not among them.
func (s *Store) temps(kind string) ([]string, error) {
	names, err := s.names("tmp")
	if err != nil {
		return nil, err
	}
	var live []string
	for _, name := range names {
		if k, _, _ := strings.Cut(name, "-"); kind != "" && k != kind {
			continue
		}
		fd, err := again.Openat(s.fd, "tmp/"+name+"/lock", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if errors.Is(unix.Flock(fd, unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK) {
			live = append(live, name)
		}
		unix.Close(fd)
	}
	return live, nil
}

// Sweep removes what dead processes left in tmp/: directories whose lock can be
// taken, and files older than an hour by the file system's clock. It skips what is in
// use and what it may not remove, and reports the first such error when it
// is through. Then it settles what a killed pull has not, unless another one runs. A read-only store has nothing to sweep.
func (s *Store) Sweep(ctx context.Context) error {
	if !s.exists("tmp") {
		return nil // never written to
	}
	if err := s.Writable(); err != nil {
		var readonly *ReadOnlyError
		if errors.As(err, &readonly) {
			return nil
		}
		return err
	}
	names, err := s.names("tmp")
	if err != nil {
		return err
	}
	var first error
	keep := func(err error) {
		if first == nil && err != nil && !errors.Is(err, errBusy) && !errors.Is(err, unix.ENOENT) {
			first = err
		}
	}
	for _, name := range names {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		path := "tmp/" + name
		if strings.HasPrefix(name, "file-") {
			keep(s.sweepFile(path))
			continue
		}
		fd, err := s.lockTemp(path)
		if err != nil {
			keep(err)
			continue
		}
		keep(s.removeTree(path))
		unix.Close(fd)
	}
	if s.exists("unsynced") && s.recover() == nil {
		if pulls, err := s.temps("pull"); err == nil && len(pulls) == 0 {
			keep(s.Settle(ctx))
		}
	}
	return first
}

// Swept reports that Sweep would find nothing to look at.
func (s *Store) Swept() bool {
	names, err := s.names("tmp")
	return err == nil && len(names) == 0 && !s.exists("unsynced")
}

// sweepFile removes a file of writeFile whose writer must be dead: it is an hour
// old, and writing takes no second.
func (s *Store) sweepFile(path string) error {
	var st unix.Stat_t
	if err := unix.Fstatat(s.fd, path, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	now, err := s.now()
	if err != nil {
		return err
	}
	if now.Sub(time.Unix(st.Ctim.Unix())) < time.Hour {
		return nil
	}
	return again.Unlinkat(s.fd, path, 0)
}
