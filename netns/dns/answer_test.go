package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// some are two names of one container, and one that has no address.
type some struct{}

func (some) Lookup(name string) ([]netip.Addr, bool) {
	switch name {
	case "web", "web.example":
		return []netip.Addr{netip.MustParseAddr("10.89.0.2"), netip.MustParseAddr("::ffff:10.89.0.3"), netip.MustParseAddr("fd00::2")}, true
	case "none":
		return nil, true
	case "crowd":
		return slices.Repeat([]netip.Addr{netip.MustParseAddr("10.89.0.9")}, 200), true
	}
	return nil, false
}

func (some) Reverse(a netip.Addr) ([]string, bool) {
	if a.String() == "10.89.0.2" || a.String() == "fd00::2" {
		return []string{"web", "web.example"}, true
	}
	return nil, false
}

// queryFor is a query for a name, with an OPT record if size is not 0.
func queryFor(name string, kind uint16, size uint16) []byte {
	p := []byte{0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		p = append(append(p, byte(len(label))), label...)
	}
	p = append(p, 0)
	p = binary.BigEndian.AppendUint16(p, kind)
	p = append(p, 0, classINET)
	if size != 0 {
		p[11] = 1
		p = binary.BigEndian.AppendUint16(append(p, 0, 0, typeOPT), size)
		p = append(p, 0, 0, 0, 0, 0, 0)
	}
	return p
}

func TestLocal(t *testing.T) {
	const soon = "00000005"
	for _, c := range []struct {
		name string
		kind uint16
		want string // the records, in hexadecimal; "-" if not ours
	}{
		{"web", typeA, "c00c00010001" + soon + "00040a590002" + "c00c00010001" + soon + "00040a590003"},
		{"WeB.eXample", typeAAAA, "c00c001c0001" + soon + "0010fd000000000000000000000000000002"},
		{"web", 15, ""},
		{"none", typeA, ""},
		{"other", typeA, "-"},
		{"x.web", typeA, "-"},
		{"2.0.89.10.in-addr.arpa", typePTR, "c00c000c0001" + soon + "000503776562" + "00" + "c00c000c0001" + soon + "000d03776562076578616d706c6500"},
		{"2.0.89.10.in-addr.arpa", typeA, ""},
		{"3.0.89.10.in-addr.arpa", typePTR, "-"},
		{"02.0.89.10.in-addr.arpa", typePTR, "-"},
		{"0.89.10.in-addr.arpa", typePTR, "-"},
		{"in-addr.arpa", typePTR, "-"},
		{"2" + strings.Repeat(".0", 29) + ".d.f.ip6.arpa", typePTR, "c00c000c0001" + soon + "000503776562" + "00" + "c00c000c0001" + soon + "000d03776562076578616d706c6500"},
		{"22" + strings.Repeat(".0", 29) + ".d.f.ip6.arpa", typePTR, "-"},
		{strings.Repeat("::", 15) + "-:.ip6.arpa", typePTR, "-"},
	} {
		q := queryFor(c.name, c.kind, 0)
		got := local(some{}, "udp", q)
		if got == nil {
			if c.want != "-" {
				t.Errorf("%s %d: is not ours", c.name, c.kind)
			}
			continue
		}
		if rest := hex.EncodeToString(got[len(q):]); rest != c.want {
			t.Errorf("%s %d: records %s, want %s", c.name, c.kind, rest, c.want)
		}
		// ID and question come back as they were, in the case they had.
		if !bytes.Equal(got[:2], q[:2]) || !bytes.Equal(got[headerLen:len(q)], q[headerLen:]) || !answers(got, q) {
			t.Errorf("%s %d: %x does not answer %x", c.name, c.kind, got, q)
		}
		if got[2] != 0x85 || got[3] != 0x80 { // QR AA RD, RA NOERROR
			t.Errorf("%s %d: flags %x", c.name, c.kind, got[2:4])
		}
	}
	for what, q := range map[string][]byte{
		"a notification":    func() []byte { q := queryFor("web", typeA, 0); q[2] |= 4 << 3; return q }(),
		"two questions":     func() []byte { q := queryFor("web", typeA, 0); q[5] = 2; return q }(),
		"of class CH":       func() []byte { q := queryFor("web", typeA, 0); q[len(q)-1] = 3; return q }(),
		"cut off":           queryFor("web", typeA, 0)[:18],
		"compressed":        {0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 12, 0, 1, 0, 1},
		"the root":          {0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1},
		"with a dot inside": append([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 11}, "web.example\x00\x00\x01\x00\x01"...),
	} {
		if got := local(some{}, "udp", q); got != nil {
			t.Errorf("%s: answered %x", what, got)
		}
	}
}

// TestLocalSize checks that an answer is as long as the client takes at most.
func TestLocalSize(t *testing.T) {
	for _, c := range []struct {
		network string
		size    uint16
		most    int
		records int
		cut     bool
	}{
		{"udp", 0, 512, 30, true},
		{"udp", 100, 512, 29, true},
		{"udp", 1000, 1000, 60, true},
		{"udp", 65000, 1232, 74, true},
		{"tcp", 0, 65535, 200, false},
	} {
		q := queryFor("crowd", typeA, c.size)
		got := local(some{}, c.network, q)
		n := int(binary.BigEndian.Uint16(got[6:]))
		if len(got) > c.most || n != c.records || got[2]&flagTruncated != 0 != c.cut {
			t.Errorf("%+v: %d bytes, %d records, flags %x", c, len(got), n, got[2])
		}
		size, _, ok := edns(got[len(queryFor("crowd", typeA, 0)):], n, 0, int(got[11]))
		if ok != (c.size != 0) || ok && size != ourDatagram {
			t.Errorf("%+v: OPT %v, %d", c, ok, size)
		}
	}
	// A version of EDNS that is not known is said to be (RFC 6891, 6.1.3).
	q := queryFor("web", typeA, 1232)
	q[len(q)-5] = 1
	if got := local(some{}, "udp", q); got[7] != 0 || got[len(got)-6] != 1 {
		t.Errorf("EDNS version 1: %x", got)
	}
}

// TestNames asks over both transports for a name of ours and one of the server's.
func TestNames(t *testing.T) {
	var asked atomic.Int32
	up := server(t, func(_ string, q []byte) [][]byte { asked.Add(1); return [][]byte{reply(q)} })
	u, c := frontOf(t, Several{Table{"host": {netip.MustParseAddr("10.1.2.3")}}, some{}}, Upstreams{Servers: []netip.AddrPort{up}, Timeout: 5 * time.Second, Attempts: 1})
	for _, name := range []string{"web", "host"} {
		q := queryFor(name, typeA, 0)
		for how, got := range map[string][]byte{"udp": askUDP(t, u, q), "tcp": askTCP(t, c, q)} {
			if !bytes.Equal(got, local(Several{Table{"host": {netip.MustParseAddr("10.1.2.3")}}, some{}}, how, q)) {
				t.Errorf("%s %s: %x", how, name, got)
			}
		}
	}
	if n := asked.Load(); n != 0 {
		t.Errorf("the server was asked %d times for what is ours", n)
	}
	q := queryFor("elsewhere", typeA, 0)
	if got := askUDP(t, u, q); !bytes.Equal(got, reply(q)) || asked.Load() != 1 {
		t.Errorf("of others: %x, asked %d times", got, asked.Load())
	}
}

// TestPipelined sends many queries down one connection, of which the first is
// answered last.
func TestPipelined(t *testing.T) {
	free := make(chan struct{})
	var done atomic.Int32
	up := server(t, func(_ string, q []byte) [][]byte {
		return [][]byte{reply(q)}
	})
	slow := server(t, func(_ string, q []byte) [][]byte {
		<-free
		return [][]byte{reply(q)}
	})
	var first atomic.Bool
	f := New(nil, func() Upstreams {
		s := up
		if !first.Swap(true) {
			s = slow
		}
		return Upstreams{Servers: []netip.AddrPort{s}, Timeout: 10 * time.Second, Attempts: 1}
	})
	client, ours := net.Pipe()
	f.HandleConn(ours)
	client.SetDeadline(time.Now().Add(20 * time.Second))
	if err := writeTCP(client, query(0, "slow")); err != nil {
		t.Fatal(err)
	}
	for !first.Load() {
		time.Sleep(time.Millisecond)
	}
	go func() {
		for id := range 10 {
			writeTCP(client, query(uint16(id+1), fmt.Sprint("q", id)))
		}
	}()
	for n := range 11 {
		a, err := readTCP(client)
		if err != nil {
			t.Fatal(err)
		}
		if slow := a[1] == 0; slow != (n == 10) {
			t.Errorf("answer %d is to query %d", n, a[1])
		}
		if done.Add(1) == 10 {
			close(free)
		}
	}
	f.Close() // ends the connection, which is idle
	if _, err := readTCP(client); err == nil {
		t.Error("the connection is open after Close")
	}
}

// TestUnable checks that a server that cannot answer gives way to the next, and
// that its answer is given where all are like it.
func TestUnable(t *testing.T) {
	with := func(rcode byte) netip.AddrPort {
		return server(t, func(_ string, q []byte) [][]byte { a := reply(q, rcode); a[3] |= rcode; return [][]byte{a} })
	}
	bad, denies, good := with(5), with(3), with(0)
	for _, c := range []struct {
		servers []netip.AddrPort
		want    byte
	}{
		{[]netip.AddrPort{bad, good}, 0},
		{[]netip.AddrPort{bad, denies, good}, 3}, // there is no such name: nobody else is asked
		{[]netip.AddrPort{bad}, 5},
	} {
		f := New(nil, func() Upstreams { return Upstreams{Servers: c.servers, Timeout: 5 * time.Second, Attempts: 2} })
		if got := f.Answer(context.Background(), "udp", query(1, "x")); got[3]&15 != c.want || got[len(got)-1] != c.want {
			t.Errorf("%+v: %x", c, got)
		}
	}
}

func TestRotate(t *testing.T) {
	var asked [2]atomic.Int32
	var servers []netip.AddrPort
	for i := range asked {
		servers = append(servers, server(t, func(_ string, q []byte) [][]byte { asked[i].Add(1); return [][]byte{reply(q)} }))
	}
	for _, rotate := range []bool{false, true} {
		f := New(nil, func() Upstreams { return Upstreams{servers, 5 * time.Second, 2, rotate} })
		for range 4 {
			f.Answer(context.Background(), "udp", query(1, "x"))
		}
	}
	if asked[0].Load() != 6 || asked[1].Load() != 2 {
		t.Errorf("asked %d and %d times", asked[0].Load(), asked[1].Load())
	}
}

func TestOptions(t *testing.T) {
	for text, want := range map[string]Upstreams{
		"":                               {Timeout: 5 * time.Second, Attempts: 2},
		"options rotate timeout:1":       {Timeout: time.Second, Attempts: 2, Rotate: true},
		"options timeout:99 attempts:99": {Timeout: 30 * time.Second, Attempts: 5},
		"options timeout:0 attempts:x":   {Timeout: 5 * time.Second, Attempts: 2},
	} {
		got := Parse(text).Upstreams()
		if len(got.Servers) != 1 || got.Servers[0].String() != "127.0.0.1:53" {
			t.Errorf("%q: %v", text, got.Servers)
		}
		got.Servers = nil
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: %v, want %v", text, got, want)
		}
	}
}

func FuzzLocal(f *testing.F) {
	f.Add(queryFor("web", typeA, 1232))
	f.Add(queryFor("crowd", typeANY, 0))
	f.Add(queryFor("2.0.89.10.in-addr.arpa", typePTR, 512))
	f.Fuzz(func(t *testing.T, q []byte) {
		for _, network := range []string{"udp", "tcp"} {
			a := local(some{}, network, q)
			if a == nil {
				continue
			}
			if !answers(a, q) {
				t.Errorf("%x does not answer %x", a, q)
			}
			if network == "udp" && len(a) > ourDatagram {
				t.Errorf("%d bytes", len(a))
			}
			n := int(binary.BigEndian.Uint16(a[6:]))
			if _, _, ok := edns(a[headerLen+len(question(a)):], n, 0, int(a[11])); ok != (a[11] == 1) {
				t.Errorf("%x cannot be read to its end", a)
			}
		}
	})
}
