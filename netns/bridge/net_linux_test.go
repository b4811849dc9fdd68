package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/need"
	"skiff/netns/netlink"
)

// inHost reports whether the test runs in a network namespace that plays the
// host. Outside it runs the same test again inside a new one.
func inHost(t *testing.T) bool {
	t.Helper()
	if os.Getenv("BRIDGE_TEST_INSIDE") != "" {
		return true
	}
	need.Netns(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "BRIDGE_TEST_INSIDE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("inside: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		t.Skipf("inside:\n%s", out)
	}
	if testing.Verbose() {
		t.Logf("inside:\n%s", out)
	}
	return false
}

// The main goroutine keeps the main thread, which the runtime never ends: a
// space on it would live as long as the process (runtime.mexit).
func init() { runtime.LockOSThread() }

// A space is a network namespace with a thread of its own.
type space struct {
	fd    int
	route *netlink.Conn
	work  chan func()
}

func newSpace(t *testing.T) *space {
	t.Helper()
	s := &space{work: make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			s.fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		if err == nil {
			s.route, err = netlink.Open(unix.NETLINK_ROUTE)
		}
		ready <- err
		for fn := range s.work {
			fn()
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	return s
}

// end gives the namespace up; the kernel takes it down in the background.
func (s *space) end() {
	if s.work == nil {
		return
	}
	close(s.work)
	s.work = nil
	unix.Close(s.fd)
	s.route.Close()
}

// do runs fn on the namespace's thread.
func (s *space) do(fn func()) {
	done := make(chan struct{})
	s.work <- func() { defer close(done); fn() }
	<-done
}

// patience is for answers that must come, on however busy a machine.
const patience = 20 * time.Second

// ask connects from the namespace, over TCP or UDP, and returns what the server
// says within limit.
func (s *space) ask(network, to string, limit time.Duration) (answer string, err error) {
	s.do(func() {
		var c net.Conn
		if c, err = net.DialTimeout(network, to, limit); err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(limit))
		if _, err = c.Write([]byte("hello")); err != nil {
			return
		}
		buf := make([]byte, 100)
		var n int
		n, err = c.Read(buf)
		answer = string(buf[:n])
	})
	return answer, err
}

// listenIn starts servers in the namespace that tell each client its address as
// they see it. nil stands for the host.
func listenIn(t *testing.T, s *space, at string) {
	t.Helper()
	var l net.Listener
	var u net.PacketConn
	var err error
	open := func() {
		if l, err = net.Listen("tcp", at); err == nil {
			u, err = net.ListenPacket("udp", at)
		}
	}
	if s == nil {
		open()
	} else {
		s.do(open)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); u.Close() })
	host := func(a net.Addr) string { return netip.MustParseAddrPort(a.String()).Addr().Unmap().String() }
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				c.Read(make([]byte, 5))
				fmt.Fprint(c, host(c.RemoteAddr()))
				c.Close()
			}()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			u.WriteTo([]byte(host(from)), from)
		}
	}()
}

const (
	hostAddr    = "203.0.113.1"
	outsideAddr = "203.0.113.2"
	farAddr     = "198.51.100.7" // behind the outside
	metadata    = "169.254.169.254"
)

// A world is a host with an uplink to an outside.
type world struct {
	t       *testing.T
	dir     string
	route   *netlink.Conn
	nf      *netlink.Conn
	outside *space
	ids     int
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), outside: newSpace(t)}
	// A new namespace inherits it from the host (net.core.devconf_inherit_init_net).
	err := os.WriteFile(ipForward, []byte("0"), 0)
	if err != nil {
		t.Fatal(err)
	}
	if w.route, err = netlink.Open(unix.NETLINK_ROUTE); err != nil {
		t.Fatal(err)
	}
	if w.nf, err = netlink.Open(unix.NETLINK_NETFILTER); err != nil {
		t.Fatal(err)
	}
	var b netlink.Batch
	b.LinkUp(netlink.Lo)
	b.Veth(netlink.LinkSpec{Name: "up0", MTU: 1450}, netlink.LinkSpec{Name: "out0", MTU: 1450}, w.outside.fd)
	b.LinkNoIPv6LinkLocal(netlink.Link{Name: "up0"}) // it would come and go in dumps
	b.LinkUp(netlink.Link{Name: "up0"})
	w.must(w.route.Do(&b))
	up0, err := w.route.LinkIndex("up0")
	w.must(err)
	out0, err := w.outside.route.LinkIndex("out0")
	w.must(err)
	b.Reset()
	b.AddrAdd(up0, netip.MustParsePrefix(hostAddr+"/24"))
	b.LinkUp(netlink.Lo)
	w.must(w.route.Do(&b))
	b.Reset()
	b.LinkUp(netlink.Lo)
	b.LinkUp(netlink.Link{Name: "out0"})
	b.AddrAdd(out0, netip.MustParsePrefix(outsideAddr+"/24"))
	b.AddrAdd(1, netip.MustParsePrefix(farAddr+"/32"))
	b.AddrAdd(1, netip.MustParsePrefix(metadata+"/32"))
	w.must(w.outside.route.Do(&b))
	b.Reset()
	b.RouteAdd(netlink.Route{Gateway: netip.MustParseAddr(outsideAddr)})
	w.must(w.route.Do(&b))
	listenIn(t, w.outside, ":80")
	// The uplink's own first packets may be lost; wait for that to be over.
	c, err := net.DialTimeout("tcp4", outsideAddr+":80", 10*time.Second)
	w.must(err)
	c.Close()
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) prepare() *Host {
	w.t.Helper()
	h, err := Prepare(Options{Dir: w.dir})
	w.must(err)
	w.t.Cleanup(func() { h.Close() })
	return h
}

// container attaches a new namespace with the next ID and address.
func (w *world) container(h *Host) (*space, Container, *Network) {
	w.t.Helper()
	s := newSpace(w.t)
	w.ids++
	addr := h.Gateway
	for range w.ids {
		addr = addr.Next()
	}
	c := Container{ID: fmt.Sprintf("%011xffff", w.ids), Addr: addr, NSFD: s.fd, InsideFD: s.route.FD()}
	n, err := h.Attach(c)
	w.must(err)
	return s, c, n
}

// expect asks and wants that answer.
func (w *world) expect(s *space, network, to, want string) {
	w.t.Helper()
	if got, err := s.ask(network, to, patience); err != nil || got != want {
		w.t.Errorf("%s to %s: %q, %v, want %q", network, to, got, err, want)
	}
}

// fails asks and wants that error, from a packet that says so.
func (w *world) fails(s *space, network, to string, errno error) {
	w.t.Helper()
	if got, err := s.ask(network, to, patience); !errors.Is(err, errno) {
		w.t.Errorf("%s to %s: %q, %v, want %v", network, to, got, err, errno)
	}
}

// refuse asks and wants no answer, for whatever reason.
func (w *world) refuse(s *space, network, to string) error {
	w.t.Helper()
	got, err := s.ask(network, to, 400*time.Millisecond)
	if err == nil {
		w.t.Errorf("%s to %s: reached %q", network, to, got)
	}
	return err
}

// dump is all of nftables but its counters, all links, addresses and routes, as nft and ip
// print them.
func (w *world) dump() string {
	w.t.Helper()
	out, err := exec.Command("nft", "-s", "list", "ruleset").CombinedOutput()
	if err != nil {
		w.t.Fatalf("%v\n%s", err, out)
	}
	for _, args := range [][]string{{"-o", "link"}, {"-o", "addr"}, {"route", "show", "table", "all"}} {
		list, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			w.t.Fatalf("%v\n%s", err, list)
		}
		out = append(out, list...)
	}
	return string(bytes.TrimSpace(out))
}

// same compares two dumps and shows the lines that differ.
func (w *world) same(before, after string) {
	w.t.Helper()
	if before == after {
		return
	}
	had, has := strings.Split(before, "\n"), strings.Split(after, "\n")
	for _, l := range had {
		if !slices.Contains(has, l) {
			w.t.Errorf("gone: %s", l)
		}
	}
	for _, l := range has {
		if !slices.Contains(had, l) {
			w.t.Errorf("new:  %s", l)
		}
	}
	w.t.Error("the host is not as it was")
}

// waitGone waits until the host has no container's link.
func (w *world) waitGone() {
	w.t.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		links, err := w.route.Links()
		w.must(err)
		left := ""
		for _, l := range links {
			if strings.HasPrefix(l.Name, linkPrefix) {
				left = l.Name
			}
		}
		if left == "" {
			return
		}
		// The kernel takes all namespaces of the machine apart in one row, with
		// RCU barriers: beside the tests of other packages that took over a minute.
		if time.Since(start) > 5*time.Minute {
			w.t.Fatalf("%s is still there", left)
		}
	}
}

// isTimeout tells a dropped packet from a refused one.
func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
