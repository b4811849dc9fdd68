package dns

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func query(id uint16, name string) []byte {
	p := make([]byte, headerLen)
	binary.BigEndian.PutUint16(p, id)
	p[2], p[5] = 1, 1
	p = append(p, byte(len(name)))
	p = append(p, name...)
	return append(p, 0, 0, 1, 0, 1)
}

// reply is a query turned into an answer with some bytes behind.
func reply(q []byte, tail ...byte) []byte {
	p := bytes.Clone(q)
	p[2] |= flagResponse
	return append(p, tail...)
}

// server is an upstream on UDP and TCP at one port of 127.0.0.1.
func server(t *testing.T, answer func(network string, q []byte) [][]byte) netip.AddrPort {
	t.Helper()
	var u net.PacketConn
	var l net.Listener
	for try := 0; l == nil; try++ {
		var err error
		if u, err = net.ListenPacket("udp4", "127.0.0.1:0"); err != nil {
			t.Fatal(err)
		}
		// Somebody's connection may have that port.
		if l, err = net.Listen("tcp4", u.LocalAddr().String()); err != nil {
			u.Close()
			if try == 100 {
				t.Fatal(err)
			}
			l = nil
		}
	}
	t.Cleanup(func() { u.Close(); l.Close() })
	go func() {
		buf := make([]byte, maxMessage)
		for {
			n, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			for _, a := range answer("udp", bytes.Clone(buf[:n])) {
				u.WriteTo(a, from)
			}
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			if q, err := readTCP(c); err == nil {
				for _, a := range answer("tcp", q) {
					writeTCP(c, a)
				}
			}
			c.Close()
		}
	}()
	return netip.MustParseAddrPort(u.LocalAddr().String())
}

// front starts a forwarder and returns a client's connections to it.
func front(t *testing.T, upstreams ...netip.AddrPort) (u, c net.Conn) {
	return frontOf(t, nil, Upstreams{Servers: upstreams, Timeout: 5 * time.Second, Attempts: 2})
}

func frontOf(t *testing.T, names Names, up Upstreams) (u, c net.Conn) {
	t.Helper()
	pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f := New(names, func() Upstreams { return up })
	done := make(chan error, 2)
	go func() { done <- f.ServeUDP(pc) }()
	go func() { done <- f.ServeTCP(l) }()
	if u, err = net.Dial("udp4", pc.LocalAddr().String()); err != nil {
		t.Fatal(err)
	}
	if c, err = net.Dial("tcp4", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	u.SetDeadline(deadline)
	c.SetDeadline(deadline)
	t.Cleanup(func() {
		u.Close()
		c.Close()
		pc.Close()
		l.Close()
		defer f.Close()
		for range 2 {
			if err := <-done; err == nil {
				t.Error("ended without an error")
			}
		}
	})
	return u, c
}

func askUDP(t *testing.T, u net.Conn, q []byte) []byte {
	t.Helper()
	if _, err := u.Write(q); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, maxMessage)
	n, err := u.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func askTCP(t *testing.T, c net.Conn, q []byte) []byte {
	t.Helper()
	if err := writeTCP(c, q); err != nil {
		t.Fatal(err)
	}
	a, err := readTCP(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestForwardUnmodified(t *testing.T) {
	large := bytes.Repeat([]byte{7}, 20000)
	up := server(t, func(network string, q []byte) [][]byte {
		switch network {
		case "tcp":
			return [][]byte{reply(q, large...)}
		}
		// Forged answers go before the true one.
		forged, evil := reply(q), reply(query(0, "evil"))
		forged[0] ^= 1
		copy(evil, q[:2])
		return [][]byte{forged, evil, q, {1}, reply(q, 42)}
	})
	u, c := front(t, up)
	q := query(7, "www")
	u.Write([]byte("no query")) // must be passed over
	u.Write(reply(q))           // an answer is no query
	if got := askUDP(t, u, q); !bytes.Equal(got, reply(q, 42)) {
		t.Errorf("udp: %x", got)
	}
	for range 2 { // two queries on one connection
		if got := askTCP(t, c, q); !bytes.Equal(got, reply(q, large...)) {
			t.Errorf("tcp: %d bytes", len(got))
		}
	}
}

func TestLargeDatagram(t *testing.T) {
	tail := bytes.Repeat([]byte{1}, 6000)
	up := server(t, func(_ string, q []byte) [][]byte { return [][]byte{reply(q, tail...)} })
	u, _ := front(t, up)
	q := query(9, "big")
	if got := askUDP(t, u, q); !bytes.Equal(got, reply(q, tail...)) {
		t.Errorf("%d bytes", len(got))
	}
}

// TestNextServer checks that a dead first server costs nothing when its host
// says so, and that without any answer the container is told.
func TestNextServer(t *testing.T) {
	dead, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refused := netip.MustParseAddrPort(dead.LocalAddr().String())
	dead.Close()
	var asked atomic.Int32
	up := server(t, func(_ string, q []byte) [][]byte { asked.Add(1); return [][]byte{reply(q)} })
	q := query(3, "x")

	u, c := front(t, refused, up)
	start := time.Now()
	if got := askUDP(t, u, q); !bytes.Equal(got, reply(q)) {
		t.Errorf("udp %x", got)
	}
	if got := askTCP(t, c, q); !bytes.Equal(got, reply(q)) {
		t.Errorf("tcp %x", got)
	}
	if d := time.Since(start); d > 5*time.Second/2 || asked.Load() != 2 {
		t.Errorf("took %v, asked %d times", d, asked.Load())
	}

	u, c = front(t, refused)
	want := append([]byte{0, 3, 0x81, 0x82, 0, 1, 0, 0, 0, 0, 0, 0}, q[headerLen:]...)
	if got := askUDP(t, u, q); !bytes.Equal(got, want) {
		t.Errorf("udp %x, want SERVFAIL %x", got, want)
	}
	if got := askTCP(t, c, q); !bytes.Equal(got, want) {
		t.Errorf("tcp %x, want SERVFAIL %x", got, want)
	}
}

// TestFlood checks that queries without an answer are bounded and do not keep
// later ones from being answered.
func TestFlood(t *testing.T) {
	var asked atomic.Int32
	up := server(t, func(network string, q []byte) [][]byte {
		if network == "udp" {
			asked.Add(1)
			return nil
		}
		return [][]byte{reply(q)}
	})
	u, c := front(t, up)
	for i := range 2000 {
		u.Write(query(uint16(i), "x"))
	}
	if got := askTCP(t, c, query(1, "y")); !bytes.Equal(got, reply(query(1, "y"))) {
		t.Errorf("%x", got)
	}
	if n := asked.Load(); n > maxInFlight {
		t.Errorf("%d queries in flight", n)
	}
}

func TestParse(t *testing.T) {
	c := Parse("# x\nnameserver 192.0.2.1\nnameserver\tfe80::1%eth0\nnameserver nonsense\n;nameserver 192.0.2.9\n" +
		"domain a.example\nsearch b.example c.example\noptions ndots:2\noptions edns0 rotate\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n")
	if len(c.Servers) != 3 || c.Servers[0].String() != "192.0.2.1" || c.Servers[1].Zone() != "eth0" || c.Direct() {
		t.Errorf("%+v", c)
	}
	if got, want := c.Text([]string{"10.88.0.1"}), "search b.example c.example\nnameserver 10.88.0.1\noptions ndots:2 edns0 rotate\n"; got != want {
		t.Errorf("%q", got)
	}
	for text, direct := range map[string]bool{
		"":                           false, // the local host
		"nameserver 127.0.0.53":      false,
		"nameserver 169.254.169.253": false,
		"nameserver ::1":             false,
		"nameserver 2001:db8::1":     false,
		"nameserver 0.0.0.0":         false,
		"nameserver 192.0.2.1":       true,
		"nameserver 192.0.2.1\nnameserver 127.0.0.1": false,
	} {
		if got := Parse(text).Direct(); got != direct {
			t.Errorf("%q: direct %v", text, got)
		}
	}
}

func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	f := Open(path)
	expect := func(want string) {
		t.Helper()
		if got := f.Upstreams().Servers; len(got) != 1 || got[0].String() != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
	expect("127.0.0.1:53")
	os.WriteFile(path, []byte("nameserver 192.0.2.1\n"), 0o644)
	expect("192.0.2.1:53")
	os.WriteFile(path, []byte("nameserver 192.0.2.2\n"), 0o644) // same size, same tick
	expect("192.0.2.2:53")
	old := time.Now().Add(-time.Hour)
	os.Chtimes(path, old, old)
	expect("192.0.2.2:53")
	os.WriteFile(path+"~", []byte("nameserver 192.0.2.3\n"), 0o644)
	os.Chtimes(path+"~", old, old)
	os.Rename(path+"~", path)
	expect("192.0.2.3:53")
	os.Remove(path) // while a network manager replaces it
	expect("192.0.2.3:53")
}

func FuzzMessages(f *testing.F) {
	f.Add(query(1, "a"), reply(query(1, "a")))
	f.Fuzz(func(t *testing.T, q, a []byte) {
		if !isQuery(q) {
			return
		}
		answers(a, q)
		if s := servFail(q); !answers(s, q) {
			t.Errorf("SERVFAIL %x does not answer %x", s, q)
		}
	})
}
