package relay

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"skiff/netns/dns"
)

// nameserverAt answers every query at an address with 198.51.100.7.
func nameserverAt(t *testing.T, address string) {
	t.Helper()
	u, err := net.ListenPacket("udp4", address)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.Close(); l.Close() })
	answer := func(q []byte) []byte {
		q[2] |= 0x80
		q[7], q[11] = 1, 0
		end := 12
		for q[end] != 0 {
			end += 1 + int(q[end])
		}
		return append(q[:end+5:end+5], 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 198, 51, 100, 7)
	}
	go func() {
		b := make([]byte, 2000)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo(answer(b[:n]), from)
		}
	}()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			var size [2]byte
			io.ReadFull(c, size[:])
			b := make([]byte, binary.BigEndian.Uint16(size[:]))
			if _, err := io.ReadFull(c, b); err == nil {
				b = answer(b)
				c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
			}
			c.Close()
		}
	}()
}

// TestOwnNames looks names up from inside: ours and the host's, over both
// transports, on every rung.
func TestOwnNames(t *testing.T) {
	needWorld(t)
	nameserverAt(t, "127.0.0.1:53")
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(conf, []byte("nameserver 127.0.0.1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	names := dns.Table{"web": {netip.MustParseAddr("10.9.8.7"), netip.MustParseAddr("fd00::7")}}
	for _, hold := range []Hold{HoldAny, HoldNone} {
		for _, o := range []Options{{Hold: hold, Resolver: conf}, {Hold: hold, Resolver: conf, Names: names}} {
			c, r := network(t, o)
			for _, transport := range []string{"udp", "tcp"} {
				at := transport + " " + netip.AddrPortFrom(r.Gateway(), 53).String()
				if got := c.do(t, "lookup %s www.example.org.", at); got != "[198.51.100.7]" {
					t.Errorf("hold %v, names %v: %s: of others: %s", r.Hold(), o.Names != nil, transport, got)
				}
				want := "[198.51.100.7]"
				if o.Names != nil {
					want = "[10.9.8.7]"
				}
				if got := c.do(t, "lookup %s WEB.", at); got != want {
					t.Errorf("hold %v, names %v: %s: of ours: %s", r.Hold(), o.Names != nil, transport, got)
				}
			}
			r.Close()
			c.stop()
		}
	}
}
