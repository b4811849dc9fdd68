package netlink

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/need"
)

// inNetns reports whether the test runs in a network namespace of its own.
// Outside it runs the same test again inside a new one, in a new user
// namespace, and passes on how that went.
func inNetns(t *testing.T) bool {
	t.Helper()
	if os.Getenv("NETLINK_TEST_INSIDE") != "" {
		return true
	}
	need.Netns(t)
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "NETLINK_TEST_INSIDE=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNET,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}},
		Pdeathsig:   syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("inside: %v\n%s", err, out)
	}
	if strings.Contains(string(out), "--- SKIP") {
		need.That(t, "inside", fmt.Errorf("skipped in there:\n%s", out))
	}
	return false
}

// The main goroutine keeps the main thread, which the runtime never ends: a
// network namespace on it would live as long as the process (runtime.mexit).
func init() { runtime.LockOSThread() }

// otherNetns makes a network namespace; route is a socket inside it.
func otherNetns(t *testing.T) (ns int, route *Conn) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread dies with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			ns, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		if err == nil {
			route, err = Open(unix.NETLINK_ROUTE)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(ns); route.Close() })
	return ns, route
}

func open(t *testing.T, protocol int) *Conn {
	t.Helper()
	c, err := Open(protocol)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func do(t *testing.T, c *Conn, b *Batch) {
	t.Helper()
	if err := c.Do(b); err != nil {
		t.Fatal(err)
	}
}

func TestVethBetweenNamespaces(t *testing.T) {
	if !inNetns(t) {
		return
	}
	c := open(t, unix.NETLINK_ROUTE)
	ns, inside := otherNetns(t)

	mac, peerMAC := []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}
	var b Batch
	b.LinkUp(Lo)
	b.Veth(LinkSpec{Name: "np0", MAC: mac, MTU: 9000, Up: true},
		LinkSpec{Name: "eth0", MAC: peerMAC, MTU: 9000}, ns)
	do(t, c, &b)
	np0, err := c.Link(Link{Name: "np0"})
	if err != nil {
		t.Fatal(err)
	}
	eth0, err := inside.Link(Link{Name: "eth0"})
	if err != nil {
		t.Fatal(err)
	}
	if string(np0.MAC) != string(mac) || string(eth0.MAC) != string(peerMAC) || np0.MTU != 9000 || eth0.MTU != 9000 ||
		np0.Kind != "veth" || np0.Flags&unix.IFF_UP == 0 || np0.Peer != eth0.Index || eth0.Peer != np0.Index {
		t.Errorf("np0 %+v, eth0 %+v", np0, eth0)
	}

	gw, addr := netip.MustParsePrefix("10.9.0.1/24"), netip.MustParsePrefix("10.9.0.2/24")
	gw6, addr6 := netip.MustParsePrefix("fd09::1/64"), netip.MustParsePrefix("fd09::2/64")
	b.Reset()
	b.AddrAdd(np0.Index, gw)
	b.AddrAdd(np0.Index, gw6)
	b.RouteAdd(Route{Local: true, Index: Lo.Index})
	do(t, c, &b)
	b.Reset()
	b.LinkUp(Lo)
	b.LinkNoIPv6LinkLocal(Link{Name: "eth0"})
	b.LinkUp(Link{Name: "eth0"})
	b.AddrAdd(eth0.Index, addr)
	b.AddrAdd(eth0.Index, addr6)
	b.RouteAdd(Route{Gateway: gw.Addr()})
	b.RouteAdd(Route{Gateway: gw6.Addr(), Index: eth0.Index})
	b.RouteAdd(Route{Dst: netip.MustParsePrefix("192.0.2.0/24"), Gateway: netip.MustParseAddr("198.51.100.1"), Index: eth0.Index, OnLink: true})
	do(t, inside, &b)

	routes, err := inside.Routes(unix.AF_INET)
	if err != nil {
		t.Fatal(err)
	}
	has := func(want RouteInfo) {
		t.Helper()
		for _, r := range routes {
			if r == want {
				return
			}
		}
		t.Errorf("no %+v in %+v", want, routes)
	}
	has(RouteInfo{Dst: netip.MustParsePrefix("0.0.0.0/0"), Gateway: gw.Addr(), Index: eth0.Index, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST})
	has(RouteInfo{Dst: netip.MustParsePrefix("192.0.2.0/24"), Gateway: netip.MustParseAddr("198.51.100.1"), Index: eth0.Index, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_UNICAST})
	if routes, err = c.Routes(unix.AF_INET); err != nil {
		t.Fatal(err)
	}
	has(RouteInfo{Dst: netip.MustParsePrefix("0.0.0.0/0"), Index: 1, Table: unix.RT_TABLE_MAIN, Type: unix.RTN_LOCAL})

	if r, err := inside.RouteTo(netip.MustParseAddr("198.51.100.7")); err != nil || r.Gateway != gw.Addr() || r.Index != eth0.Index {
		t.Errorf("route to: %+v, %v", r, err)
	}

	addrs, err := inside.Addrs(unix.AF_UNSPEC)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, a := range addrs {
		switch {
		case a.Prefix == addr && a.Index == eth0.Index:
			found++
		case a.Prefix == addr6 && a.Index == eth0.Index:
			found++
			if a.Flags&unix.IFA_F_TENTATIVE != 0 {
				t.Error("IPv6 address is tentative")
			}
		case a.Prefix.Addr().IsLinkLocalUnicast():
			t.Errorf("link-local address %v", a.Prefix)
		}
	}
	if found != 2 {
		t.Errorf("addresses %+v", addrs)
	}

	// AnyIP: this namespace answers for an address nobody gave it.
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.DialTimeout("tcp4", netip.AddrPortFrom(netip.MustParseAddr("203.0.113.9"), uint16(l.Addr().(*net.TCPAddr).Port)).String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}

func TestBridgePorts(t *testing.T) {
	if !inNetns(t) {
		return
	}
	c := open(t, unix.NETLINK_ROUTE)
	ns, inside := otherNetns(t)
	var b Batch
	b.Bridge(LinkSpec{Name: "br0", MAC: []byte{2, 0, 0, 0, 0, 9}, Up: true})
	do(t, c, &b)
	br, err := c.LinkIndex("br0")
	if err != nil {
		t.Fatal(err)
	}
	b.Reset()
	b.Veth(LinkSpec{Name: "p1", Master: br}, LinkSpec{Name: "e1"}, ns)
	b.LinkNoIPv6LinkLocal(Link{Name: "p1"})
	b.LinkIsolated(Link{Name: "p1"})
	b.LinkUp(Link{Name: "p1"})
	do(t, c, &b)
	if got, err := os.ReadFile("/sys/class/net/p1/brport/isolated"); err == nil && string(got) != "1\n" {
		t.Errorf("isolated: %q", got) // sysfs shows this namespace only if it was mounted in it
	}
	p1, err := c.Link(Link{Name: "p1"})
	if err != nil || p1.Master != br {
		t.Fatalf("%+v, %v", p1, err)
	}
	e1, err := inside.LinkIndex("e1")
	if err != nil {
		t.Fatal(err)
	}
	b.Reset()
	b.LinkName(e1, "eth0")
	b.LinkMTU(Link{Index: e1}, 1400)
	b.LinkMAC(Link{Index: e1}, []byte{2, 0, 0, 0, 0, 3})
	do(t, inside, &b)
	if l, err := inside.Link(Link{Name: "eth0"}); err != nil || l.MTU != 1400 || l.MAC[5] != 3 {
		t.Errorf("%+v, %v", l, err)
	}
	b.Reset()
	b.LinkMaster(Link{Name: "p1"}, 0)
	b.LinkDown(Link{Name: "br0"})
	b.LinkDelete(Link{Name: "br0"})
	do(t, c, &b)
	links, err := c.Links()
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if l.Name == "br0" || l.Name == "p1" && l.Master != 0 {
			t.Errorf("still %+v", l)
		}
	}
}

// TestErrors checks that the first refused request of a batch is named, with
// errno and the kernel's words, and that later ones were still performed.
func TestErrors(t *testing.T) {
	if !inNetns(t) {
		return
	}
	c := open(t, unix.NETLINK_ROUTE)
	var b Batch
	b.LinkUp(Lo)
	b.RouteAdd(Route{Gateway: netip.MustParseAddr("10.1.2.3")})
	b.LinkUp(Link{Name: "nosuch"})
	b.AddrAddPeer(1, netip.MustParseAddr("10.5.0.1"), netip.MustParseAddr("10.5.0.9"))
	err := c.Do(&b)
	var e *Error
	if !errors.As(err, &e) || e.Op != "add route default via 10.1.2.3" || !errors.Is(err, unix.ENETUNREACH) || e.Msg == "" {
		t.Errorf("got %#v", err)
	}
	addrs, err := c.Addrs(unix.AF_INET)
	if err != nil || len(addrs) != 2 {
		t.Errorf("%v, %v", addrs, err)
	}
	if r, err := c.RouteTo(netip.MustParseAddr("10.5.0.9")); err != nil || r.Index != 1 {
		t.Errorf("route to the peer: %+v, %v", r, err)
	}
	b.Reset()
	b.LinkUp(Link{Name: "nosuch"})
	b.Ignore(unix.EEXIST, unix.ENODEV)
	do(t, c, &b)
	if _, err := c.LinkIndex("nosuch"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("look up: %v", err)
	}
	b.Reset()
	b.LinkUp(Link{Name: "a-name-that-is-too-long"})
	if err := c.Do(&b); !errors.Is(err, unix.EINVAL) {
		t.Errorf("long name: %v", err)
	}
	b.Reset()
	b.Veth(LinkSpec{Name: "v0"}, LinkSpec{Name: "v1"}, None)
	b.Veth(LinkSpec{Name: "v0"}, LinkSpec{Name: "v2"}, None)
	if err := c.Do(&b); !errors.Is(err, unix.EEXIST) {
		t.Errorf("second v0: %v", err)
	}
	if _, err := Open(4711); !errors.Is(err, unix.EPROTONOSUPPORT) {
		t.Errorf("protocol: %v", err)
	}
}
