package bridge

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skiff/internal/need"
	"skiff/netns/dns"
	"skiff/netns/lease"
	"skiff/netns/netlink"
)

// TestReach checks what a container reaches and what it does not (SECURITY
// cases 112, 116, 117, 122).
func TestReach(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	h := w.prepare()
	if h.MTU != 1450 {
		t.Errorf("MTU %d", h.MTU)
	}
	one, c1, _ := w.container(h)
	two, c2, _ := w.container(h)
	if l, err := one.route.Link(netlink.Link{Name: "eth0"}); err != nil || l.MTU != 1450 {
		t.Errorf("%+v, %v", l, err)
	}

	// The outside, near and far, over TCP and UDP, sees the host's address.
	for _, s := range []*space{one, two} {
		w.expect(s, "udp4", outsideAddr+":80", hostAddr)
		w.expect(s, "tcp4", outsideAddr+":80", hostAddr)
		w.expect(s, "tcp4", farAddr+":80", hostAddr)
	}
	// A closed port outside is refused as by the host's own stack.
	w.fails(one, "tcp4", outsideAddr+":81", unix.ECONNREFUSED)

	// The host's services on all addresses are reached, those on loopback not.
	listenIn(t, nil, "0.0.0.0:8001")
	listenIn(t, nil, "127.0.0.1:8002")
	w.expect(one, "tcp4", h.Gateway.String()+":8001", c1.Addr.String())
	w.expect(one, "tcp4", hostAddr+":8001", c1.Addr.String())
	for _, a := range []string{"127.0.0.1", h.Gateway.String(), hostAddr, "[::1]", "[::ffff:127.0.0.1]", "10.0.2.2"} {
		w.refuse(one, "tcp", a+":8002")
	}
	// Not even by a packet that names 127.0.0.1 on the wire, where the host
	// routes those (kube-proxy's setting).
	w.must(os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0))
	one.do(func() {
		w.must(os.WriteFile("/proc/sys/net/ipv4/conf/all/route_localnet", []byte("1"), 0))
		out, err := exec.Command("sh", "-c", "ip route del local 127.0.0.0/8 dev lo table local; ip route del local 127.0.0.1 dev lo table local; "+
			"ip route add 127.0.0.1 via "+h.Gateway.String()+" dev eth0 onlink src "+c1.Addr.String()).CombinedOutput()
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
	})
	if err := w.refuse(one, "udp4", "127.0.0.1:8002"); !isTimeout(err) {
		t.Errorf("host's loopback: %v", err)
	}
	// Cloud metadata, which the host itself reaches.
	if c, err := net.DialTimeout("tcp4", metadata+":80", patience); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if err := w.refuse(two, "tcp4", metadata+":80"); !isTimeout(err) {
		t.Errorf("metadata: %v", err)
	}

	// Containers do not reach each other, and are told so.
	listenIn(t, two, ":80")
	w.fails(one, "tcp4", c2.Addr.String()+":80", unix.EHOSTUNREACH)
	// The host reaches them, as with docker.
	if c, err := net.DialTimeout("tcp4", c2.Addr.String()+":80", patience); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	// A neighbour that routes to a container through the host does not.
	var b netlink.Batch
	b.RouteAdd(netlink.Route{Dst: h.Subnet, Gateway: netip.MustParseAddr(hostAddr)})
	w.must(w.outside.route.Do(&b))
	if err := w.refuse(w.outside, "tcp4", c2.Addr.String()+":80"); !isTimeout(err) {
		t.Errorf("neighbour: %v", err)
	}
}

// TestSpoof is SECURITY case 115: packets with a source address that is not
// the container's own are dropped, and so is everything of IPv6.
func TestSpoof(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	h := w.prepare()
	one, c1, _ := w.container(h)
	_, c2, _ := w.container(h)

	// The outside counts what arrives, by source.
	var sniff int
	var err error
	w.outside.do(func() {
		sniff, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	})
	w.must(err)
	defer unix.Close(sniff)
	here, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_UDP)
	w.must(err)
	defer unix.Close(here)
	send := func(source netip.Addr, dest string, port uint16) {
		one.do(func() {
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
			w.must(err)
			defer unix.Close(fd)
			d := netip.MustParseAddr(dest).As4()
			s := source.As4()
			p := make([]byte, 28)
			p[0], p[8], p[9] = 0x45, 64, unix.IPPROTO_UDP
			copy(p[12:], s[:])
			copy(p[16:], d[:])
			binary.BigEndian.PutUint16(p[20:], 4000)
			binary.BigEndian.PutUint16(p[22:], port)
			binary.BigEndian.PutUint16(p[24:], 8)
			w.must(unix.Sendto(fd, p, 0, &unix.SockaddrInet4{Addr: d}))
		})
	}
	arrived := func(fd int) (ports []int) {
		time.Sleep(20 * time.Millisecond)
		buf := make([]byte, 2000)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil {
				return ports
			}
			if n >= 24 {
				ports = append(ports, int(binary.BigEndian.Uint16(buf[22:])))
			}
		}
	}
	for i, source := range []netip.Addr{c2.Addr, h.Gateway, netip.MustParseAddr(hostAddr), netip.MustParseAddr(farAddr),
		netip.MustParseAddr("127.0.0.1"), c1.Addr.Next().Next(), c1.Addr} {
		send(source, outsideAddr, uint16(5000+i))
		send(source, h.Gateway.String(), uint16(6000+i))
	}
	if got := fmt.Sprint(arrived(sniff)); got != "[5006]" {
		t.Errorf("arrived outside: %s", got)
	}
	if got := fmt.Sprint(arrived(here)); got != "[6006]" {
		t.Errorf("arrived at the host: %s", got)
	}

	// IPv6: no addresses, and what the container gives itself leads nowhere.
	addrs, err := one.route.Addrs(unix.AF_INET6)
	w.must(err)
	for _, a := range addrs {
		if a.Index != 1 {
			t.Errorf("container has %v", a.Prefix)
		}
	}
	listenIn(t, nil, "[::]:8003")
	if links, err := w.route.Addrs(unix.AF_INET6); err == nil {
		skf, err := w.route.LinkIndex("skf00000000001")
		w.must(err)
		for _, a := range links {
			if a.Index == skf {
				t.Errorf("host's end has %v", a.Prefix)
			}
		}
		eth0, err := one.route.LinkIndex("eth0")
		w.must(err)
		var b netlink.Batch
		b.AddrAdd(skf, netip.MustParsePrefix("fd77::1/64"))
		w.must(w.route.Do(&b))
		b.Reset()
		b.AddrAdd(eth0, netip.MustParsePrefix("fd77::2/64"))
		w.must(one.route.Do(&b))
		w.refuse(one, "tcp6", "[fd77::1]:8003")
	}
}

// TestFirewallAsFound is SECURITY case 123: after the first use of the network,
// any number of containers leave nftables, links, addresses and routes as they
// were; Remove takes the rest back.
func TestFirewallAsFound(t *testing.T) {
	need.Tool(t, "nft")
	need.Tool(t, "ip")
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	first := w.dump()
	h := w.prepare()
	before := w.dump()
	for range 100 {
		s, _, n := w.container(h)
		w.must(n.Close())
		s.end()
	}
	w.waitGone()
	w.same(before, w.dump())
	w.must(Remove(w.dir))
	w.same(first, w.dump())
	w.must(Remove(w.dir)) // a second time changes nothing
}

// TestKill is SECURITY case 123 with SIGKILL: a killed owner, whose container
// dies with it, leaves nothing; its address can be leased again.
func TestKill(t *testing.T) {
	if dir := os.Getenv("BRIDGE_TEST_OWNER"); dir != "" {
		playOwner(t, dir)
	}
	need.Tool(t, "nft")
	need.Tool(t, "ip")
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	w.prepare()
	before := w.dump()
	pool, err := lease.Open(filepath.Join(w.dir, "leases"))
	w.must(err)
	for range 5 {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestKill$")
		cmd.Env = append(os.Environ(), "BRIDGE_TEST_OWNER="+w.dir)
		cmd.Stderr = os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		out, err := cmd.StdoutPipe()
		w.must(err)
		w.must(cmd.Start())
		line, err := bufio.NewReader(out).ReadString('\n')
		if err != nil || line != "attached\n" {
			t.Fatalf("owner: %q, %v", line, err)
		}
		if during := w.dump(); during == before {
			t.Fatal("the owner has changed nothing")
		}
		if held, err := pool.Held(); err != nil || len(held) != 1 {
			t.Fatalf("%+v, %v", held, err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		w.waitGone()
		w.same(before, w.dump())
		if held, err := pool.Held(); err != nil || len(held) != 0 {
			t.Errorf("%+v, %v", held, err)
		}
	}
}

// playOwner attaches a container, with a redirecting table besides, and waits
// to be killed.
func playOwner(t *testing.T, dir string) {
	h, err := Prepare(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	pool, err := lease.Open(filepath.Join(dir, "leases"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := pool.Acquire(h.Subnet, h.Gateway, lease.Info{ID: "abcdef012345"})
	if err != nil {
		t.Fatal(err)
	}
	taken, err := net.ListenPacket("udp4", "0.0.0.0:53")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	s := newSpace(t)
	n, err := h.Attach(Container{ID: "abcdef012345", Addr: l.Addr, NSFD: s.fd, InsideFD: s.route.FD(),
		DNS: dns.New(nil, func() dns.Upstreams { return dns.Upstreams{} })})
	if err != nil {
		t.Fatal(err)
	}
	if n.dns.owner == nil {
		t.Fatal("no redirecting table")
	}
	fmt.Println("attached")
	select {}
}

// TestDNS checks the forwarder at the gateway's address: each container has its
// own, also where a server of the host's has port 53.
func TestDNS(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	h := w.prepare()
	upstream, err := net.ListenPacket("udp4", "127.0.0.53:5353") // a stub on the host's loopback
	w.must(err)
	defer upstream.Close()
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := upstream.ReadFrom(buf)
			if err != nil {
				return
			}
			buf[2] |= 0x80
			upstream.WriteTo(append(buf[:n:n], "stub"...), from)
		}
	}()
	query := append([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3}, "abc\x00\x00\x01\x00\x01"...)
	run := func(taken bool) {
		var asked [2]atomic.Int32
		for i := range 2 {
			s := newSpace(t)
			w.ids++
			c := Container{ID: fmt.Sprintf("%011x", 100+w.ids), Addr: netip.AddrFrom4([4]byte{10, 77, 1, byte(w.ids)}), NSFD: s.fd, InsideFD: s.route.FD(),
				DNS: dns.New(nil, func() dns.Upstreams {
					asked[i].Add(1)
					return dns.Upstreams{Servers: []netip.AddrPort{netip.MustParseAddrPort("127.0.0.53:5353")}, Timeout: 5 * time.Second, Attempts: 2}
				})}
			n, err := h.Attach(c)
			w.must(err)
			if (n.dns.owner != nil) != taken {
				t.Errorf("redirecting table: %v", n.dns.owner)
			}
			for range 2 {
				s.do(func() {
					conn, err := net.Dial("udp4", h.Gateway.String()+":53")
					w.must(err)
					defer conn.Close()
					conn.SetDeadline(time.Now().Add(patience))
					conn.Write(query)
					buf := make([]byte, 512)
					k, err := conn.Read(buf)
					if err != nil || !strings.HasSuffix(string(buf[:k]), "stub") {
						t.Errorf("%q, %v", buf[:k], err)
					}
				})
			}
			s.do(func() { // TCP: the stub has none, so SERVFAIL comes through
				conn, err := net.Dial("tcp4", h.Gateway.String()+":53")
				w.must(err)
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				conn.Write(append([]byte{0, byte(len(query))}, query...))
				buf := make([]byte, 512)
				k, err := conn.Read(buf)
				if err != nil || k < 6 || buf[5]&15 != 2 {
					t.Errorf("tcp: %x, %v", buf[:k], err)
				}
			})
			if err := n.Close(); err != nil {
				t.Error(err)
			}
		}
		for i := range asked {
			if n := asked[i].Load(); n < 3 {
				t.Errorf("forwarder %d was asked %d times", i, n)
			}
		}
	}
	run(false)
	for _, network := range []string{"udp4", "tcp4"} {
		var c interface{ Close() error }
		if network == "udp4" {
			c, err = net.ListenPacket(network, "0.0.0.0:53")
		} else {
			c, err = net.Listen(network, "0.0.0.0:53")
		}
		w.must(err)
		run(true)
		c.Close()
	}
}
