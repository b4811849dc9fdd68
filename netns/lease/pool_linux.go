package lease

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A Pool is a directory of leases of one network.
type Pool struct {
	dir string
	fd  int
}

// Open opens the directory, and makes it (0700) if it is missing.
func Open(dir string) (*Pool, error) {
	const flags = unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC
	fd, err := openat(unix.AT_FDCWD, dir, flags)
	if err == unix.ENOENT {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("lease directory: %w", err)
		}
		fd, err = openat(unix.AT_FDCWD, dir, flags)
	}
	if err != nil {
		return nil, fmt.Errorf("lease directory %s: %w", dir, err)
	}
	return &Pool{dir: dir, fd: fd}, nil
}

// Close closes the directory. Leases stay.
func (p *Pool) Close() error { return unix.Close(p.fd) }

// A Lease is an address that is this process's until it dies or calls Release.
type Lease struct {
	Addr    netip.Addr
	Prefix  netip.Prefix // the network, masked
	Gateway netip.Addr

	pool *Pool
	fd   int
}

// hintName holds the address given out last, as text.
const hintName = "last"

// Acquire takes the next free address of prefix after the one taken last;
// gateway and the network's own addresses are never given out. It makes eight
// system calls when that address is free, and three more for each one that is not.
//
// The error is a *FullError if all are held, or wraps an errno.
func (p *Pool) Acquire(prefix netip.Prefix, gateway netip.Addr, info Info) (*Lease, error) {
	if !prefix.IsValid() {
		return nil, fmt.Errorf("lease: no network given")
	}
	body, err := json.Marshal(info)
	if err != nil {
		return nil, fmt.Errorf("lease: %w", err)
	}
	hint, err := openat(p.fd, hintName, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC)
	if err != nil {
		return nil, p.wrap(hintName, err)
	}
	defer unix.Close(hint)
	list := newCandidates(prefix, gateway, readHint(hint))
	for {
		addr, ok := list.take()
		if !ok {
			return nil, &FullError{Prefix: prefix.Masked()}
		}
		fd, err := p.lock(addr.String())
		if err == unix.EWOULDBLOCK {
			continue
		}
		if err != nil {
			return nil, p.wrap(addr.String(), err)
		}
		// Others look past this address from here on. A hint that cannot be
		// written makes them slower, not wrong.
		writeHint(hint, addr)
		l := &Lease{Addr: addr, Prefix: prefix.Masked(), Gateway: gateway, pool: p, fd: fd}
		if err := replace(fd, append(body, '\n')); err != nil {
			l.Release()
			return nil, p.wrap(addr.String(), err)
		}
		return l, nil
	}
}

// Update replaces what is said of the holder. Who reads meanwhile may find nothing.
func (l *Lease) Update(info Info) error {
	body, err := json.Marshal(info)
	if err != nil {
		return err
	}
	return l.pool.wrap(l.Addr.String(), replace(l.fd, append(body, '\n')))
}

// Take takes one address of prefix. The error wraps ErrHeld if somebody has it.
func (p *Pool) Take(addr netip.Addr, prefix netip.Prefix, gateway netip.Addr, info Info) (*Lease, error) {
	list := newCandidates(prefix, gateway, addr)
	if !prefix.Contains(addr) || addr == gateway || list.reserved(addr) {
		return nil, fmt.Errorf("%s is no address for a container in %s", addr, prefix)
	}
	fd, err := p.lock(addr.String())
	for try := 0; err == unix.EWOULDBLOCK && try < 10; try++ {
		time.Sleep(2 * time.Millisecond) // who looks whether it is free has it for a moment
		fd, err = p.lock(addr.String())
	}
	if err == unix.EWOULDBLOCK {
		return nil, fmt.Errorf("%s: %w", addr, ErrHeld)
	}
	if err != nil {
		return nil, p.wrap(addr.String(), err)
	}
	l := &Lease{Addr: addr, Prefix: prefix.Masked(), Gateway: gateway, pool: p, fd: fd}
	if err := l.Update(info); err != nil {
		l.Release()
		return nil, err
	}
	return l, nil
}

// ErrHeld is an address that another has.
var ErrHeld = errors.New("address is in use")

// Release gives the address back at once and removes its file.
func (l *Lease) Release() error {
	// Removed before unlocked: who opened it meanwhile finds it without a name.
	err := unix.Unlinkat(l.pool.fd, l.Addr.String(), 0)
	if e := unix.Close(l.fd); err == nil {
		err = e
	}
	return l.pool.wrap(l.Addr.String(), err)
}

// lock opens or makes a lease file and locks it. EWOULDBLOCK: it is held.
func (p *Pool) lock(name string) (int, error) {
	for {
		fd, err := openat(p.fd, name, unix.O_RDWR|unix.O_CREAT|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		if err != nil {
			return -1, err
		}
		if err := flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
			unix.Close(fd)
			return -1, err
		}
		// Its last owner may have removed it between our open and our lock.
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			unix.Close(fd)
			return -1, err
		}
		if st.Nlink > 0 {
			return fd, nil
		}
		unix.Close(fd)
	}
}

// An Entry is a lease that someone holds.
type Entry struct {
	Addr netip.Addr
	Info Info
}

// Held lists the leases that are held now, in no order. One whose body is not
// written yet has an empty Info.
func (p *Pool) Held() ([]Entry, error) {
	var all []Entry
	err := p.each(func(fd int, addr netip.Addr, held bool) {
		if !held {
			return
		}
		e := Entry{Addr: addr}
		buf := make([]byte, 4096)
		if n, err := unix.Pread(fd, buf, 0); err == nil {
			_ = json.Unmarshal(buf[:n], &e.Info)
		}
		all = append(all, e)
	})
	return all, err
}

// Sweep removes the files of dead leases and returns how many there were.
// It is housekeeping only: dead leases are reused without it.
func (p *Pool) Sweep() (int, error) {
	n := 0
	err := p.each(func(fd int, addr netip.Addr, held bool) {
		if held {
			return
		}
		var st unix.Stat_t
		if unix.Fstat(fd, &st) == nil && st.Nlink > 0 && unix.Unlinkat(p.fd, addr.String(), 0) == nil {
			n++
		}
	})
	return n, err
}

// each opens every lease file and tries to lock it; unless held, fn runs with
// the lock.
func (p *Pool) each(fn func(fd int, addr netip.Addr, held bool)) error {
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("lease directory: %w", err)
	}
	for _, entry := range entries {
		addr, err := netip.ParseAddr(entry.Name())
		if err != nil {
			continue
		}
		fd, err := openat(p.fd, entry.Name(), unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC)
		if err != nil {
			continue // released meanwhile
		}
		if err = flock(fd, unix.LOCK_EX|unix.LOCK_NB); err == nil || err == unix.EWOULDBLOCK {
			fn(fd, addr, err != nil)
		}
		unix.Close(fd)
	}
	return nil
}

func (p *Pool) wrap(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("lease %s/%s: %w", p.dir, name, err)
}

func readHint(fd int) netip.Addr {
	var buf [64]byte
	n, err := unix.Pread(fd, buf[:], 0)
	if err != nil {
		return netip.Addr{}
	}
	for i := range n {
		if buf[i] == '\n' {
			n = i
			break
		}
	}
	a, _ := netip.ParseAddr(string(buf[:n]))
	return a
}

// writeHint writes one line over another that may have been longer; readers
// stop at its end.
func writeHint(fd int, a netip.Addr) {
	_, _ = unix.Pwrite(fd, append(a.AppendTo(make([]byte, 0, 48)), '\n'), 0)
}

// replace writes the whole body; what a dead owner wrote may be longer.
func replace(fd int, body []byte) error {
	if err := unix.Ftruncate(fd, 0); err != nil {
		return err
	}
	n, err := unix.Pwrite(fd, body, 0)
	if err == nil && n < len(body) {
		err = unix.ENOSPC
	}
	return err
}

func openat(dir int, name string, flags int) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags, 0o600)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

func flock(fd, how int) error {
	for {
		err := unix.Flock(fd, how)
		if err != unix.EINTR {
			return err
		}
	}
}
