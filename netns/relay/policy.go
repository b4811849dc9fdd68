package relay

import (
	"encoding/binary"
	"net/netip"
)

// A ruling is what becomes of traffic to a destination.
type ruling uint8

const (
	allow   ruling = iota
	resolve        // to a nameserver of the host
	outward        // to the host's own address
	home           // to the host's loopback, which the gateway stands for
	refuse         // as a machine without such a service does
	forbid         // as an administrator's filter does
	ignore         // nobody answers for a group (RFC 1122, 3.2.2)
)

// rule decides about a destination before anything is dialled.
//
// The host's loopback is not reachable: 127/8 by name, 0/8 because connect
// takes 0.0.0.0 for 127.0.0.1, ::1 and :: likewise. With AllowHostLoopback the
// gateway stands for it, and nothing else does. Link-local addresses hold
// clouds' metadata services. Addresses of IPv6 that hold one of IPv4 are what
// that is. Everything else is what the user could reach without a container,
// the host's own addresses included. Source: RFC 6890; SECURITY case 112, 116.
func (r *Relay) rule(dst address, port uint16) ruling {
	if dst == r.gateway4 || dst == r.gateway6 && r.gateway6 != (address{}) {
		switch {
		case port == 53:
			return resolve
		case r.options.AllowHostLoopback && port != 0:
			return home
		case r.options.HostGateway && port != 0:
			return outward
		}
		return refuse
	}
	if r.address.Contains(dst.addr()) || r.address6.Contains(dst.addr()) {
		return refuse
	}
	out := r.rule6(dst)
	if dst.is4() {
		out = r.rule4(dst.as4())
	}
	if port == 0 && out == allow {
		return forbid
	}
	return out
}

// rule4 is rule for IPv4.
func (r *Relay) rule4(a [4]byte) ruling {
	switch {
	case a[0]&0xf0 == 0xe0, a == [4]byte{255, 255, 255, 255}: // 224/4 multicast
		return ignore
	case a[0] == 0, a[0] == 127, a[0] >= 240: // this host, loopback, reserved
		return forbid
	case a[0] == 169 && a[1] == 254 && !r.options.AllowLinkLocal:
		return forbid
	}
	return allow
}

// rule6 is rule for IPv6.
func (r *Relay) rule6(a address) ruling {
	high, low := binary.BigEndian.Uint64(a[:]), binary.BigEndian.Uint64(a[8:])
	switch {
	case a[0] == 0xff:
		return ignore
	case high == 0: // ::, ::1, ::a.b.c.d and ::ffff:a.b.c.d (RFC 4291, 2.5)
		return forbid
	case high>>54 == 0xfe80>>6, high>>54 == 0xfec0>>6:
		// Without a zone such an address names no host of another link.
		return forbid
	case high == 0xfd00_0ec2_0000_0000 && low == 0x254 && !r.options.AllowLinkLocal: // EC2's 169.254.169.254
		return forbid
	case high == 0x0064_ff9b_0000_0000 && low>>32 == 0: // NAT64, RFC 6052
		return r.embedded([4]byte(a[12:]))
	case high>>48 == 0x2002: // 6to4, RFC 3056
		return r.embedded([4]byte(a[2:]))
	}
	return allow
}

// embedded is the ruling about an address of IPv6 that leads to one of IPv4.
func (r *Relay) embedded(a [4]byte) ruling {
	if r.rule4(a) != allow {
		return forbid
	}
	return allow
}

// target is where the socket outside is connected to, of a nameserver its
// number. The ruling is allow, home, outward or resolve.
func (l *loop) target(t tuple, verdict ruling, server int) (to netip.AddrPort, zone uint32) {
	switch verdict {
	case resolve:
		servers := l.relay.resolver.at(l.now)
		s := servers[server%len(servers)]
		return s.addr, s.zone
	case outward:
		return l.relay.host.at(l.now, t.dstPort), 0
	case home:
		a := netip.AddrFrom4([4]byte{127, 0, 0, 1})
		if !t.dst.is4() {
			a = netip.IPv6Loopback()
		}
		return netip.AddrPortFrom(a, t.dstPort), 0
	}
	return t.to(), 0
}
