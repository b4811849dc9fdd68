package netlink

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"skiff/internal/need"

	"golang.org/x/sys/unix"
)

// unspace decodes hexadecimal written with spaces and line breaks.
func unspace(t *testing.T, s string) string {
	t.Helper()
	p, err := hex.DecodeString(strings.Join(strings.Fields(s), ""))
	if err != nil {
		t.Fatal(err)
	}
	return string(p)
}

// TestGolden holds messages against bytes worked out by hand from
// linux/netlink.h, rtnetlink.h, if_link.h, nf_tables.h and nfnetlink_queue.h,
// as a little-endian machine writes them.
func TestGolden(t *testing.T) {
	if binary.NativeEndian.Uint16([]byte{1, 0}) != 1 {
		need.That(t, "little-endian", errors.New("this machine is none"))
	}
	batch := func(fill func(b *Batch)) string {
		var b Batch
		fill(&b)
		if b.err != nil {
			t.Fatal(b.err)
		}
		return string(b.buf)
	}
	transaction := func(fill func(tx *Transaction)) string {
		tx := NewTransaction(FamilyIPv4)
		skip := len(tx.b.buf)
		fill(tx)
		if tx.b.err != nil {
			t.Fatal(tx.b.err)
		}
		return string(tx.b.buf[skip:])
	}
	for _, c := range []struct{ name, got, want string }{
		{"link up", batch(func(b *Batch) { b.LinkUp(Lo) }), `
			20000000 1000 0500 00000000 00000000
			00 00 0000 01000000 01000000 01000000`},
		{"address", batch(func(b *Batch) { b.AddrAdd(2, netip.MustParsePrefix("10.88.0.5/16")) }), `
			30000000 1400 0506 00000000 00000000
			02 10 00 00 02000000
			0800 0200 0a580005  0800 0100 0a580005  0800 0400 0a58ffff`},
		{"IPv6 address", batch(func(b *Batch) { b.AddrAdd(2, netip.MustParsePrefix("fd00::5/64")) }), `
			40000000 1400 0506 00000000 00000000
			0a 40 02 00 02000000
			1400 0200 fd000000000000000000000000000005
			1400 0100 fd000000000000000000000000000005`},
		{"default route", batch(func(b *Batch) { b.RouteAdd(Route{Gateway: netip.MustParseAddr("10.88.0.1"), Index: 2}) }), `
			34000000 1800 0506 00000000 00000000
			02 00 00 00 00 04 00 01 00000000
			0800 0f00 fe000000  0800 0500 0a580001  0800 0400 02000000`},
		{"local default", batch(func(b *Batch) { b.RouteAdd(Route{Local: true, Index: 1}) }), `
			2c000000 1800 0506 00000000 00000000
			02 00 00 00 00 04 fe 02 00000000
			0800 0f00 fe000000  0800 0400 01000000`},
		{"veth", batch(func(b *Batch) {
			b.Veth(LinkSpec{Name: "np0", Up: true, Master: 3}, LinkSpec{Name: "eth0", MAC: []byte{2, 1, 1, 1, 1, 1}, MTU: 1400}, 9)
		}), `
			a0000000 1000 0506 00000000 00000000
			00 00 0000 00000000 01000000 01000000
			0800 0300 6e703000  0800 0a00 03000000
			0800 1f00 01000000  0800 2000 01000000
			6000 1280
			  0900 0100 7665746800 000000
			  5000 0280  4c00 0180
			    00 00 0000 00000000 00000000 00000000
			    0900 0300 6574683000 000000
			    0a00 0100 020101010101 0000
			    0800 0400 78050000
			    0800 1f00 01000000  0800 2000 01000000
			    0800 1c00 09000000`},
		{"owner table", transaction(func(tx *Transaction) { tx.NewTable("run", TableOwner) }), `
			24000000 000a 0104 00000000 00000000  02 00 0000
			0800 0100 72756e00  0800 0200 00000002`},
		{"base chain", transaction(func(tx *Transaction) {
			tx.NewChain(Chain{Table: "run", Name: "pre", Type: "filter", Hook: unix.NF_INET_PRE_ROUTING, Priority: -150})
		}), `
			4c000000 030a 0104 00000000 00000000  02 00 0000
			0800 0100 72756e00  0800 0300 70726500
			1400 0480  0800 0100 00000000  0800 0200 ffffff6a
			0800 0500 00000001
			0b00 0700 66696c74657200 00`},
		{"rule", transaction(func(tx *Transaction) { tx.Rule("run", "pre", L4Proto(6), Accept()) }), `
			a8000000 060a 010c 00000000 00000000  02 00 0000
			0800 0100 72756e00  0800 0200 70726500
			8400 0480
			  2400 0180  0900 0100 6d65746100 000000
			    1400 0280  0800 0100 00000001  0800 0200 00000010
			  2c00 0180  0800 0100 636d7000
			    2000 0280  0800 0100 00000001  0800 0200 00000000
			      0c00 0380  0500 0100 06 000000
			  3000 0180  0e00 0100 696d6d65646961746500 0000
			    1c00 0280  0800 0100 00000000
			      1000 0280  0c00 0280  0800 0100 00000001`},
		{"tproxy", string(TProxy(FamilyIPv4, 0, 1).list), `
			2400 0180  0b00 0100 7470726f787900 00
			  1400 0280  0800 0100 00000002  0800 0300 00000001`},
		{"queue", string(Queue(7, 1, unix.NFT_QUEUE_FLAG_BYPASS).list), `
			2c00 0180  0a00 0100 717565756500 0000
			  1c00 0280  0600 0100 0007 0000  0600 0200 0001 0000  0600 0300 0001 0000`},
		{"xt NFQUEUE", string(QueueCompat(7, 1).list), `
			3400 0180  0b00 0100 74617267657400 00
			  2400 0280  0c00 0100 4e46515545554500  0800 0200 00000001
			    0c00 0300 0700 0100 00000000`},
		{"queue bind", batch(func(b *Batch) { b.QueueBind(5) }), `
			1c000000 0203 0500 00000000 00000000  00 00 0005  0800 0100 01 00 0000`},
		{"queue copy", batch(func(b *Batch) { b.QueueCopy(5, 128) }), `
			20000000 0203 0500 00000000 00000000  00 00 0005  0900 0200 00000080 02 000000`},
		{"verdict", string(AppendVerdict(nil, 5, 0x01020304, true)), `
			20000000 0103 0100 00000000 00000000  00 00 0005  0c00 0200 00000001 01020304`},
	} {
		if want := unspace(t, c.want); c.got != want {
			t.Errorf("%s\n got %x\nwant %x", c.name, c.got, want)
		}
	}
}

// TestLengths checks that what does not fit is refused before anything is sent.
func TestLengths(t *testing.T) {
	long := strings.Repeat("x", 300)
	for name, fill := range map[string]func(b *Batch){
		"interface name": func(b *Batch) { b.LinkUp(Link{Name: "1234567890123456"}) },
		"no name":        func(b *Batch) { b.LinkUp(Link{}) },
		"NUL in name":    func(b *Batch) { b.LinkUp(Link{Name: "a\x00b"}) },
		"MAC":            func(b *Batch) { b.LinkMAC(Lo, make([]byte, 5)) },
		"peer name":      func(b *Batch) { b.Veth(LinkSpec{Name: "a"}, LinkSpec{Name: long}, None) },
		"no prefix":      func(b *Batch) { b.AddrAdd(1, netip.Prefix{}) },
		"attribute":      func(b *Batch) { b.LinkUp(Lo); b.attr(1, make([]byte, 0xfffc)) },
		"requests": func(b *Batch) {
			for range maxRequests + 1 {
				b.LinkUp(Lo)
			}
		},
		"nest": func(b *Batch) {
			b.LinkUp(Lo)
			at := b.nest(1)
			b.attr(1, make([]byte, 40000))
			b.attr(1, make([]byte, 40000))
			b.unnest(at)
		},
	} {
		var b Batch
		fill(&b)
		var e *Error
		if err := New(-1).Do(&b); !errors.As(err, &e) || e.Errno == unix.EBADF || e.Op == "" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, fill := range map[string]func(tx *Transaction){
		"table":   func(tx *Transaction) { tx.NewTable(long, 0) },
		"comment": func(tx *Transaction) { tx.NewRule(Rule{Table: "t", Chain: "c", Comment: long}) },
		"jump":    func(tx *Transaction) { tx.Rule("t", "c", Jump(long)) },
		"mask":    func(tx *Transaction) { tx.Rule("t", "c", All(Accept(), Bitwise(1, zeros(4), zeros(3)))) },
		"data":    func(tx *Transaction) { tx.Rule("t", "c", Immediate(1, make([]byte, 70000))) },
		"prefix":  func(tx *Transaction) { tx.Rule("t", "c", Source(netip.Prefix{})) },
		"rule": func(tx *Transaction) {
			many := make([]Expr, 2000)
			for i := range many {
				many[i] = Accept()
			}
			tx.Rule("t", "c", many...)
		},
	} {
		tx := NewTransaction(FamilyIPv4)
		fill(tx)
		var e *Error
		if err := New(-1).Commit(tx); !errors.As(err, &e) || e.Errno == unix.EBADF || !strings.HasPrefix(e.Op, "nftables: ") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAnswer reads answers as kernels with and without NETLINK_CAP_ACK write
// them.
func TestAnswer(t *testing.T) {
	ext := append([]byte{8, 0, 1, 0}, "why\x00"...)
	head := func(errno int32, length uint32) []byte {
		p := binary.NativeEndian.AppendUint32(nil, uint32(errno))
		p = binary.NativeEndian.AppendUint32(p, length)
		return append(p, make([]byte, 12)...)
	}
	const tlvs = unix.NLM_F_ACK_TLVS
	for _, c := range []struct {
		name  string
		flags uint16
		body  []byte
		want  string
	}{
		{"acknowledged", unix.NLM_F_CAPPED, head(0, 32), ""},
		{"capped", unix.NLM_F_CAPPED | tlvs, append(head(-2, 4000), ext...), "op: no such file or directory (why)"},
		{"whole request", tlvs, append(append(head(-2, 24), make([]byte, 8)...), ext...), "op: no such file or directory (why)"},
		{"no text", unix.NLM_F_CAPPED, head(-17, 32), "op: file exists"},
		{"lying length", tlvs, head(-17, 1<<31), "op: file exists"},
		{"short", 0, []byte{1}, "op: bad message (short answer)"},
	} {
		got := ""
		if e := answer("op", header{flags: c.flags}, c.body); e != nil {
			got = e.Error()
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// FuzzParse checks that no datagram makes a parser read out of bounds.
func FuzzParse(f *testing.F) {
	var b Batch
	b.Veth(LinkSpec{Name: "a"}, LinkSpec{Name: "b"}, None)
	f.Add(b.buf)
	f.Add(AppendVerdict(nil, 1, 2, true))
	f.Add([]byte{0x20, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0xb, 0, 1, 0, 0, 0, 0, 1, 8, 0, 1, 0})
	f.Fuzz(func(t *testing.T, p []byte) {
		Packets(p, func(q Packet) {
			if len(q.Payload) > len(p) {
				t.Error("payload longer than the datagram")
			}
		})
		messages(p, func(h header, body []byte) {
			parseLink(body)
			answer("", h, body)
			comment(body)
		})
	})
}

func BenchmarkEncode(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		var batch Batch
		batch.Veth(LinkSpec{Name: "np0", Up: true, Master: 3}, LinkSpec{Name: "eth0"}, 9)
		tx := NewTransaction(FamilyIPv4)
		tx.NewTable("run", TableOwner)
		tx.NewChain(Chain{Table: "run", Name: "pre", Type: "filter", Priority: -150})
		tx.Rule("run", "pre", IIfName("np0"), L4Proto(unix.IPPROTO_TCP), TProxyTo(FamilyIPv4, 40001), Accept())
	}
}
