package lease

import (
	"bufio"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

var (
	network = netip.MustParsePrefix("10.88.0.0/16")
	gateway = netip.MustParseAddr("10.88.0.1")
)

// TestMain plays a lease owner when asked: it takes as many addresses as it
// reads lines and prints them.
func TestMain(m *testing.M) {
	dir := os.Getenv("LEASE_TEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	p, err := Open(dir)
	if err != nil {
		panic(err)
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		l, err := p.Acquire(network, gateway, Info{ID: in.Text(), PID: os.Getpid()})
		if err != nil {
			panic(err)
		}
		fmt.Println(l.Addr)
	}
}

func pool(t testing.TB, dir string) *Pool {
	t.Helper()
	p, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func acquire(t testing.TB, p *Pool, prefix string) *Lease {
	t.Helper()
	l, err := p.Acquire(netip.MustParsePrefix(prefix), gateway, Info{ID: "x"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestOrder(t *testing.T) {
	p := pool(t, filepath.Join(t.TempDir(), "new", "net"))
	var got []string
	for range 3 {
		l := acquire(t, p, "10.88.0.0/29")
		got = append(got, l.Addr.String())
		if l.Addr.String() != "10.88.0.3" {
			defer l.Release()
		} else if err := l.Release(); err != nil {
			t.Fatal(err)
		}
	}
	// A released address is not given out again before the others.
	for range 3 {
		got = append(got, acquire(t, p, "10.88.0.0/29").Addr.String())
	}
	if s := strings.Join(got, " "); s != "10.88.0.2 10.88.0.3 10.88.0.4 10.88.0.5 10.88.0.6 10.88.0.3" {
		t.Errorf("order: %s", s)
	}
	_, err := p.Acquire(netip.MustParsePrefix("10.88.0.0/29"), gateway, Info{})
	var full *FullError
	if !errors.As(err, &full) || full.Prefix.String() != "10.88.0.0/29" {
		t.Errorf("full: %v", err)
	}
}

// TestFiles checks what lies in the directory: bodies, links, nonsense.
func TestFiles(t *testing.T) {
	dir := t.TempDir()
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.Symlink(outside, filepath.Join(dir, "10.88.0.2")); err != nil {
		t.Fatal(err)
	}
	p := pool(t, dir)
	if _, err := p.Acquire(network, gateway, Info{}); !errors.Is(err, unix.ELOOP) {
		t.Errorf("through a link: %v", err)
	}
	if _, err := os.Lstat(outside); err == nil {
		t.Error("a link was followed")
	}
	os.Remove(filepath.Join(dir, "10.88.0.2"))
	os.WriteFile(filepath.Join(dir, "last"), []byte("nonsense, and much longer than any address, without an end of line at all......"), 0o600)
	os.WriteFile(filepath.Join(dir, "10.88.0.2"), []byte(strings.Repeat("old", 100)), 0o600)
	l, err := p.Acquire(network, gateway, Info{ID: "abc", Name: "web", Aliases: []string{"www"}, PID: 7})
	if err != nil {
		t.Fatal(err)
	}
	body, _ := os.ReadFile(filepath.Join(dir, l.Addr.String()))
	if want := `{"id":"abc","name":"web","aliases":["www"],"pid":7}` + "\n"; string(body) != want {
		t.Errorf("body %s", body)
	}
	if flags, err := unix.FcntlInt(uintptr(l.fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("descriptor flags %x, %v", flags, err)
	}
	os.WriteFile(filepath.Join(dir, "10.88.0.9"), nil, 0o600) // a dead one
	held, err := p.Held()
	if err != nil || len(held) != 1 || held[0].Addr != l.Addr || held[0].Info.Name != "web" {
		t.Errorf("held %+v, %v", held, err)
	}
	if n, err := p.Sweep(); n != 1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	if err := l.Release(); err != nil {
		t.Error(err)
	}
	left, _ := os.ReadDir(dir)
	if len(left) != 1 || left[0].Name() != hintName {
		t.Errorf("left: %v", left)
	}
}

// owner starts a process that holds n leases, and returns them.
func owner(dir string, n int) (*exec.Cmd, []string, error) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LEASE_TEST_DIR="+dir)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	fmt.Fprint(in, strings.Repeat("id\n", n))
	var got []string
	for s := bufio.NewScanner(out); len(got) < n && s.Scan(); {
		got = append(got, s.Text())
	}
	if len(got) < n {
		return cmd, got, fmt.Errorf("owner took %d of %d addresses", len(got), n)
	}
	return cmd, got, nil
}

// TestConcurrent is hostile case 119: 300 leases taken at once by 10 processes
// and 100 goroutines are unique, and SIGKILL of the owners frees them at once.
func TestConcurrent(t *testing.T) {
	dir := t.TempDir()
	p := pool(t, dir)
	var mu sync.Mutex
	var wg sync.WaitGroup
	seen := map[string]bool{}
	note := func(a string) {
		mu.Lock()
		defer mu.Unlock()
		if seen[a] {
			t.Errorf("%s twice", a)
		}
		seen[a] = true
	}
	var owners []*exec.Cmd
	for range 10 {
		wg.Go(func() {
			cmd, got, err := owner(dir, 20)
			if err != nil {
				t.Error(err)
			}
			for _, a := range got {
				note(a)
			}
			mu.Lock()
			defer mu.Unlock()
			owners = append(owners, cmd)
		})
	}
	for range 100 {
		wg.Go(func() {
			l, err := p.Acquire(network, gateway, Info{})
			if err != nil {
				t.Error(err)
				return
			}
			note(l.Addr.String())
		})
	}
	wg.Wait()
	if len(seen) != 300 || seen[gateway.String()] {
		t.Errorf("%d addresses", len(seen))
	}
	if held, err := p.Held(); err != nil || len(held) != 300 {
		t.Errorf("%d held, %v", len(held), err)
	}
	for _, cmd := range owners {
		if cmd == nil {
			continue
		}
		cmd.Process.Kill()
		cmd.Wait()
	}
	if held, err := p.Held(); err != nil || len(held) != 100 {
		t.Errorf("%d held after the kills, %v", len(held), err)
	}
	if n, err := p.Sweep(); err != nil || n != 200 {
		t.Errorf("%d swept, %v", n, err)
	}
}

// TestKilledIsReused fills a small network by a process, kills it, and takes
// every address again.
func TestKilledIsReused(t *testing.T) {
	dir := t.TempDir()
	p := pool(t, dir)
	cmd, got, err := owner(dir, 5)
	if err != nil {
		t.Fatal(err)
	}
	small := netip.MustParsePrefix("10.88.0.0/29")
	if _, err := p.Acquire(small, gateway, Info{}); err == nil {
		t.Fatal("got an address of a full network")
	}
	cmd.Process.Kill()
	cmd.Wait()
	seen := map[string]bool{}
	for range got {
		l, err := p.Acquire(small, gateway, Info{})
		if err != nil {
			t.Fatal(err)
		}
		seen[l.Addr.String()] = true
	}
	for _, a := range got {
		if !seen[a] {
			t.Errorf("%s was not reused", a)
		}
	}
}

// TestReleaseRace has many take and release the two addresses of one network:
// never may two hold the same.
func TestReleaseRace(t *testing.T) {
	p := pool(t, t.TempDir())
	var mu sync.Mutex
	var wg sync.WaitGroup
	holder := map[netip.Addr]bool{}
	for range 8 {
		wg.Go(func() {
			for range 300 {
				l, err := p.Acquire(netip.MustParsePrefix("10.88.0.0/29"), gateway, Info{})
				if err != nil {
					continue
				}
				mu.Lock()
				if holder[l.Addr] {
					t.Errorf("%s held twice", l.Addr)
				}
				holder[l.Addr] = true
				mu.Unlock()
				mu.Lock()
				delete(holder, l.Addr)
				mu.Unlock()
				if err := l.Release(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestCandidates(t *testing.T) {
	for _, c := range []struct{ prefix, last, want string }{
		{"10.0.0.0/30", "", "10.0.0.1 10.0.0.2"},
		{"10.0.0.0/30", "10.0.0.1", "10.0.0.2 10.0.0.1"},
		{"10.0.0.0/31", "", "10.0.0.1 10.0.0.0"},
		{"255.255.255.252/30", "255.255.255.254", "255.255.255.253 255.255.255.254"},
		{"fd00::/126", "fd00::3", "fd00::1 fd00::2 fd00::3"},
		{"10.0.0.8/30", "192.0.2.1", "10.0.0.9 10.0.0.10"},
	} {
		last, _ := netip.ParseAddr(c.last)
		list := newCandidates(netip.MustParsePrefix(c.prefix), gateway, last)
		var got []string
		for a, ok := list.take(); ok; a, ok = list.take() {
			got = append(got, a.String())
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s after %q: %s, want %s", c.prefix, c.last, s, c.want)
		}
	}
}

func BenchmarkAcquire(b *testing.B) {
	p := pool(b, b.TempDir())
	for b.Loop() {
		l, err := p.Acquire(network, gateway, Info{ID: "0123456789abcdef", PID: 1})
		if err != nil {
			b.Fatal(err)
		}
		l.Release()
	}
}

// One address may be asked for; who has it keeps it, and the next one's word about
// himself replaces the last one's.
func TestTake(t *testing.T) {
	pool, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	net, gateway := netip.MustParsePrefix("10.9.0.0/24"), netip.MustParseAddr("10.9.0.1")
	addr := netip.MustParseAddr("10.9.0.7")
	l, err := pool.Take(addr, net, gateway, Info{ID: "a", Name: "first"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Take(addr, net, gateway, Info{}); !errors.Is(err, ErrHeld) {
		t.Errorf("taken twice: %v", err)
	}
	if err := l.Update(Info{ID: "a", Name: "x"}); err != nil {
		t.Fatal(err)
	}
	if held, err := pool.Held(); err != nil || len(held) != 1 || held[0].Info.Name != "x" {
		t.Errorf("held: %v, %v", held, err)
	}
	l.Release()
	if l, err = pool.Take(addr, net, gateway, Info{}); err != nil {
		t.Fatal(err)
	}
	l.Release()
	for _, bad := range []string{"10.9.0.0", "10.9.0.1", "10.9.0.255", "10.9.1.7", "fd00::7"} {
		if _, err := pool.Take(netip.MustParseAddr(bad), net, gateway, Info{}); err == nil {
			t.Errorf("%s was given out", bad)
		}
	}
}
