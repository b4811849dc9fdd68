package relay

import (
	"net/netip"
	"testing"
)

// What a container reaches by default, and with everything opened (SECURITY
// cases 112 and 116).
func TestRule(t *testing.T) {
	const (
		d = "default"
		o = "opened"
	)
	relays := map[string]*Relay{d: {}, o: {options: Options{AllowHostLoopback: true, AllowLinkLocal: true}}}
	for _, r := range relays {
		r.address, r.gateway4 = DefaultAddress, addressOf(DefaultGateway)
		r.address6, r.gateway6 = address6, addressOf(gateway6)
	}
	for _, at := range []struct {
		to             string
		normal, opened ruling
	}{
		{"192.0.2.1:80", allow, allow},
		{"10.0.0.1:80", allow, allow},
		{"10.254.110.1:53", resolve, resolve},
		{"10.254.110.1:80", refuse, home},
		{"10.254.110.1:0", refuse, refuse},
		{"10.254.110.2:80", refuse, refuse},
		{"10.254.110.3:80", refuse, refuse},
		{"192.0.2.1:0", forbid, forbid},
		{"0.0.0.0:80", forbid, forbid},
		{"0.1.2.3:80", forbid, forbid},
		{"127.0.0.1:80", forbid, forbid},
		{"127.255.255.254:53", forbid, forbid},
		{"169.254.169.254:80", forbid, allow},
		{"169.254.0.1:80", forbid, allow},
		{"240.0.0.1:80", forbid, forbid},
		{"224.0.0.251:5353", ignore, ignore},
		{"239.255.255.250:1900", ignore, ignore},
		{"255.255.255.255:67", ignore, ignore},
		{"[2001:db8::1]:80", allow, allow},
		{"[fd00::1]:80", allow, allow},
		{"[fd73:6b69:6666::1]:53", resolve, resolve},
		{"[fd73:6b69:6666::1]:80", refuse, home},
		{"[fd73:6b69:6666::2]:80", refuse, refuse},
		{"[fd73:6b69:6666::9]:80", refuse, refuse},
		{"[::]:80", forbid, forbid},
		{"[::1]:80", forbid, forbid},
		{"[::7f00:1]:80", forbid, forbid},
		{"[::ffff:0:7f00:1]:80", forbid, forbid}, // SIIT, RFC 2765
		{"[fe80::1]:80", forbid, forbid},
		{"[febf::1]:80", forbid, forbid},
		{"[fec0::1]:80", forbid, forbid},
		{"[ff02::1]:80", ignore, ignore},
		{"[fd00:ec2::254]:80", forbid, allow},
		{"[64:ff9b::c000:201]:80", allow, allow},
		{"[64:ff9b::7f00:1]:80", forbid, forbid},
		{"[64:ff9b::a9fe:a9fe]:80", forbid, allow},
		{"[64:ff9b::e000:fb]:80", forbid, forbid},
		{"[2002:c000:201::1]:80", allow, allow},
		{"[2002:7f00:1::1]:80", forbid, forbid},
		{"[2002:a9fe:a9fe::1]:80", forbid, allow},
	} {
		to := netip.MustParseAddrPort(at.to)
		if got := relays[d].rule(addressOf(to.Addr()), to.Port()); got != at.normal {
			t.Errorf("%s: %d, want %d", at.to, got, at.normal)
		}
		if got := relays[o].rule(addressOf(to.Addr()), to.Port()); got != at.opened {
			t.Errorf("%s, opened: %d, want %d", at.to, got, at.opened)
		}
	}
	four := &Relay{address: DefaultAddress, gateway4: addressOf(DefaultGateway)}
	if got := four.rule(address{}, 53); got != forbid {
		t.Errorf("without IPv6 :: is %d, want %d", got, forbid)
	}
}

// Whatever the container sends, an error about it is well-formed or nothing.
func FuzzPacket(f *testing.F) {
	syn := appendIP(nil, protoTCP, address4([4]byte{10, 254, 110, 2}), address4([4]byte{192, 0, 2, 2}), tcpLen)
	syn = append(syn, 1, 2, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, tcpSYN, 0xff, 0xff, 0, 0, 0, 0)
	f.Add(syn)
	own, other := addressOf(address6.Addr()), addressOf(netip.MustParseAddr("2001:db8::1"))
	f.Add(append(appendIP(nil, protoTCP, own, other, tcpLen), syn[ip4Len:]...))
	f.Add(appendUDP(nil, own, other, 1, 2, []byte("payload")))
	f.Add(appendEcho(nil, icmp4Echo, address4([4]byte{10, 254, 110, 2}), address4([4]byte{192, 0, 2, 2}), 1, 2, []byte("payload")))
	f.Fuzz(func(t *testing.T, p []byte) {
		tuple, ok := parseSYN(p)
		if ok {
			if r, _, seg, ok := parseIP(appendReset(nil, p)); !ok || len(seg) != tcpLen || r.src != tuple.dst || r.dst != tuple.src {
				t.Errorf("reset of %x", p)
			}
		}
		from := address4([4]byte{10, 254, 110, 1})
		if len(p) > 0 && p[0]>>4 == 6 {
			from = addressOf(gateway6)
		}
		e := appendError(nil, unreachableFrom(from, icmpHost, tuple.dst), p)
		if len(e) == 0 {
			return
		}
		got, proto, m, ok := parseIP(e)
		if !ok || got.src != from || len(m) < icmpLen || proto != protoICMP && proto != protoICMP6 {
			t.Fatalf("error %x about %x", e, p)
		}
		s := sum(0, m)
		if proto == protoICMP6 {
			s = sum(pseudo(proto, got.src, got.dst, len(m)), m)
		}
		if fold(s) != 0 {
			t.Errorf("checksum of %x", e)
		}
	})
}

// The quick sum is the one of RFC 1071.
func FuzzSum(f *testing.F) {
	f.Add(uint64(0), []byte{1})
	f.Add(uint64(0xffff_ffff_ffff_ffff), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add(uint64(7), make([]byte, 1000))
	f.Fuzz(func(t *testing.T, start uint64, b []byte) {
		slow := start%0xffff + 0xffff // keeps apart 0 and what is congruent to it
		for i, c := range b {
			slow += uint64(c) << (8 * (1 - i%2))
		}
		quick := sum(start, b)
		if quick%0xffff != slow%0xffff {
			t.Errorf("sum(%x, %x) is %x, want %x", start, b, quick%0xffff, slow%0xffff)
		}
	})
}
