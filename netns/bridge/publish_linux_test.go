package bridge

import (
	"errors"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"skiff/netns/netlink"
	"skiff/netns/ports"
)

// publish binds ports of the host and has them lead to a container.
func (w *world) publish(h *Host, n *Network, c Container, list ...ports.Port) (*netlink.Conn, []ports.Socket) {
	w.t.Helper()
	sockets, err := ports.Bind(list, nil)
	w.must(err)
	owner, err := h.Publish(n, c.Addr, sockets)
	w.must(err)
	return owner, sockets
}

var everywhere = netip.IPv4Unspecified()

// TestPublish checks that the container sees its clients, with the packet filters that
// hosts have.
func TestPublish(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	w.firewall("filter", netlink.FamilyIPv4, forwardDrop, dockerUser)
	h := w.prepare()
	one, c1, n1 := w.container(h)
	listenIn(t, one, ":80")
	before := w.dump()
	owner, sockets := w.publish(h, n1, c1,
		ports.Port{Address: everywhere, First: 8080, Last: 8080, Container: 80, Proto: ports.TCP},
		ports.Port{Address: everywhere, First: 8081, Last: 8081, Container: 80, Proto: ports.UDP},
		ports.Port{Address: netip.MustParseAddr(hostAddr), First: 8082, Last: 8082, Container: 80, Proto: ports.TCP},
		ports.Port{Address: netip.MustParseAddr("127.0.0.1"), First: 8083, Last: 8083, Container: 80, Proto: ports.TCP},
	)
	w.expect(w.outside, "tcp4", hostAddr+":8080", outsideAddr)
	w.expect(w.outside, "udp4", hostAddr+":8081", outsideAddr)
	w.expect(w.outside, "tcp4", hostAddr+":8082", outsideAddr)
	// What is bound to loopback is nobody else's.
	w.fails(w.outside, "tcp4", hostAddr+":8083", unix.ECONNREFUSED)
	// The host itself, by its own address.
	if got := askHost(t, "tcp4", hostAddr+":8080"); got != hostAddr {
		t.Errorf("the host is seen as %q", got)
	}
	// What other containers and loopback send is left to the sockets, of TCP in line.
	two, _, _ := w.container(h)
	two.do(func() { connects(t, hostAddr+":8080") })
	one.do(func() { connects(t, hostAddr+":8080") })
	connects(t, "127.0.0.1:8080")

	w.must(owner.Close())
	ports.Close(sockets)
	two.end()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if links, err := w.route.Links(); err == nil && len(links) == 3 { // lo, up0, one's
			break
		} else if time.Since(start) > patience {
			break
		}
	}
	w.same(before, w.dump())
}

func askHost(t *testing.T, network, to string) string {
	t.Helper()
	c, err := net.DialTimeout(network, to, patience)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	c.Write([]byte("hello"))
	b := make([]byte, 100)
	n, _ := c.Read(b)
	return string(b[:n])
}

func connects(t *testing.T, to string) {
	c, err := net.DialTimeout("tcp4", to, patience)
	if err != nil {
		t.Errorf("%s: %v", to, err)
		return
	}
	c.Close()
}

// TestPublishLoopback: no rule is made for what needs none.
func TestPublishLoopback(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	h := w.prepare()
	_, c, n := w.container(h)
	before := w.dump()
	owner, sockets := w.publish(h, n, c, ports.Port{First: 8080, Last: 8080, Container: 80, Proto: ports.TCP})
	if owner != nil {
		t.Error("a table for ports of loopback")
	}
	w.same(before, w.dump())
	ports.Close(sockets)
}

// TestPublishMany has more ports than one message holds.
func TestPublishMany(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	h := w.prepare()
	s, c, n := w.container(h)
	listenIn(t, s, ":12345")
	var sockets []ports.Socket
	for p := 10_000; p < 13_000; p++ {
		sockets = append(sockets, ports.Socket{Binding: ports.Binding{Host: netip.AddrPortFrom(everywhere, uint16(p)), Container: uint16(p), Proto: ports.TCP}})
	}
	owner, err := h.Publish(n, c.Addr, sockets)
	w.must(err)
	defer owner.Close()
	w.expect(w.outside, "tcp4", hostAddr+":12345", outsideAddr)
	w.fails(w.outside, "tcp4", hostAddr+":12344", unix.ECONNREFUSED)
	w.fails(w.outside, "tcp4", hostAddr+":13000", unix.ECONNREFUSED)
}

// TestPublishAgain: datagrams of a client that never falls silent go to the container
// that has the port, not to the one that had it.
func TestPublishAgain(t *testing.T) {
	if !inHost(t) {
		return
	}
	w := newWorld(t)
	h := w.prepare()
	port := ports.Port{Address: everywhere, First: 8081, Last: 8081, Container: 80, Proto: ports.UDP}
	first, c1, n1 := w.container(h) // nobody listens there, but it is tracked
	owner, sockets := w.publish(h, n1, c1, port)
	var client net.Conn
	w.outside.do(func() {
		var err error
		client, err = net.Dial("udp4", hostAddr+":8081")
		w.must(err)
	})
	defer client.Close()
	answered := func() error {
		client.Write([]byte("hello"))
		client.SetReadDeadline(time.Now().Add(patience))
		_, err := client.Read(make([]byte, 100))
		return err
	}
	if err := answered(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("the first container: %v", err)
	}
	owner.Close()
	ports.Close(sockets)
	first.end()
	second, c2, n2 := w.container(h)
	listenIn(t, second, ":80")
	owner, sockets = w.publish(h, n2, c2, port)
	defer owner.Close()
	defer ports.Close(sockets)
	if err := answered(); err != nil {
		t.Errorf("the second container: %v", err)
	}
}
