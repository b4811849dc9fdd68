package netlink

import (
	"encoding/binary"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"
)

func itoa(n int) string { return strconv.Itoa(n) }

// AddrAdd gives the interface an address; p holds the address itself and the
// length of its network, such as 10.88.0.5/16. IPv4 gets the network's
// broadcast address, IPv6 skips duplicate address detection. EEXIST: it has it.
func (b *Batch) AddrAdd(index int, p netip.Prefix) {
	b.addrAdd(index, p, p.Addr())
}

// AddrAddPeer gives a point-to-point interface an address of its own and says
// which one is at its other end; the kernel adds the route to it. Both are of
// one family.
func (b *Batch) AddrAddPeer(index int, local, peer netip.Addr) {
	b.addrAdd(index, netip.PrefixFrom(local, local.BitLen()), peer)
}

func (b *Batch) addrAdd(index int, p netip.Prefix, peer netip.Addr) {
	b.message("add address "+p.String(), unix.RTM_NEWADDR, linkFlags|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	if !p.IsValid() || peer.BitLen() != p.Addr().BitLen() {
		b.fail(unix.EINVAL, "no address")
		return
	}
	family, flags := byte(unix.AF_INET), byte(0)
	if p.Addr().Is6() {
		// usable at once, without the second that duplicate address detection takes
		family, flags = unix.AF_INET6, unix.IFA_F_NODAD
	}
	b.raw(family, byte(p.Bits()), flags, unix.RT_SCOPE_UNIVERSE) // struct ifaddrmsg
	b.rawU32(uint32(index))
	b.attr(unix.IFA_LOCAL, p.Addr().AsSlice())
	b.attr(unix.IFA_ADDRESS, peer.AsSlice())
	if family == unix.AF_INET && p.Bits() < 31 {
		a := p.Addr().As4()
		bcast := binary.BigEndian.Uint32(a[:]) | (1<<(32-p.Bits()) - 1)
		b.attr(unix.IFA_BROADCAST, binary.BigEndian.AppendUint32(nil, bcast))
	}
	b.end()
}

// A Route is one way to send packets. The zero Dst is the default route of
// Gateway's family, or IPv4's where there is no gateway.
type Route struct {
	Dst         netip.Prefix
	Gateway     netip.Addr // zero: directly on the link
	Source      netip.Addr // preferred source; zero: the kernel's choice
	Index       int        // interface
	Local       bool       // RTN_LOCAL: every destination in Dst is this host's own (AnyIP)
	Unreachable bool       // RTN_UNREACHABLE: an error for who sends there
	OnLink      bool       // the gateway is reachable though no address says so
	Table       uint32     // 0: main
	Metric      uint32     // 0: the family's default
	IPv6        bool       // the family of a default route without gateway
}

func (r Route) family() byte {
	if r.IPv6 || r.Dst.Addr().Is6() || r.Gateway.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func (r Route) String() string {
	s := "default"
	if r.Dst.IsValid() && r.Dst.Bits() > 0 {
		s = r.Dst.Masked().String()
	}
	if r.Local {
		s = "local " + s
	}
	if r.Gateway.IsValid() {
		s += " via " + r.Gateway.String()
	}
	return s
}

// RouteAdd adds a route. EEXIST: it is there. ENETUNREACH: the gateway is not
// on a network of the interface, or the interface is down.
func (b *Batch) RouteAdd(r Route) {
	b.message("add route "+r.String(), unix.RTM_NEWROUTE, linkFlags|unix.NLM_F_CREATE|unix.NLM_F_EXCL)
	typ, scope := byte(unix.RTN_UNICAST), byte(unix.RT_SCOPE_UNIVERSE)
	switch {
	case r.Local:
		typ, scope = unix.RTN_LOCAL, unix.RT_SCOPE_HOST
	case r.Unreachable:
		typ = unix.RTN_UNREACHABLE
	case !r.Gateway.IsValid():
		scope = unix.RT_SCOPE_LINK
	}
	var onlink uint32
	if r.OnLink {
		onlink = unix.RTNH_F_ONLINK
	}
	bits := byte(0)
	if r.Dst.IsValid() {
		bits = byte(r.Dst.Bits())
	}
	table := r.Table
	if table == 0 {
		table = unix.RT_TABLE_MAIN
	}
	// struct rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
	b.raw(r.family(), bits, 0, 0, unix.RT_TABLE_UNSPEC, unix.RTPROT_STATIC, scope, typ)
	b.rawU32(onlink)
	b.attrU32(unix.RTA_TABLE, table)
	if bits > 0 {
		b.attr(unix.RTA_DST, r.Dst.Masked().Addr().AsSlice())
	}
	if r.Gateway.IsValid() {
		b.attr(unix.RTA_GATEWAY, r.Gateway.AsSlice())
	}
	if r.Source.IsValid() {
		b.attr(unix.RTA_PREFSRC, r.Source.AsSlice())
	}
	if r.Index != 0 {
		b.attrU32(unix.RTA_OIF, uint32(r.Index))
	}
	if r.Metric != 0 {
		b.attrU32(unix.RTA_PRIORITY, r.Metric)
	}
	b.end()
}

// An AddrInfo is one address of an interface.
type AddrInfo struct {
	Index  int
	Prefix netip.Prefix // the address itself and its network's length
	Flags  uint32       // IFA_F_TENTATIVE and friends
	Scope  uint8        // RT_SCOPE_LINK for fe80::
}

// Addrs lists the addresses of a family: unix.AF_INET, AF_INET6, or AF_UNSPEC
// for both.
func (c *Conn) Addrs(family byte) ([]AddrInfo, error) {
	var b Batch
	b.message("list addresses", unix.RTM_GETADDR, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b.raw(family, 0, 0, 0)
	b.rawU32(0)
	b.end()
	var all []AddrInfo
	err := c.query(&b, func() { all = nil }, func(typ uint16, body []byte) {
		if typ != unix.RTM_NEWADDR || len(body) < unix.SizeofIfAddrmsg {
			return
		}
		a := AddrInfo{Index: int(u32(body[4:])), Flags: uint32(body[2]), Scope: body[3]}
		var local, address []byte
		attrs(body[unix.SizeofIfAddrmsg:], func(typ uint16, data []byte) {
			switch typ {
			case unix.IFA_LOCAL:
				local = data
			case unix.IFA_ADDRESS:
				address = data
			case unix.IFA_FLAGS:
				a.Flags = u32(data)
			}
		})
		if local == nil {
			local = address // IPv6 outside of point-to-point links
		}
		if ip, ok := netip.AddrFromSlice(local); ok {
			a.Prefix = netip.PrefixFrom(ip, int(body[1]))
			all = append(all, a)
		}
	})
	return all, err
}

// A RouteInfo is one route of any table.
type RouteInfo struct {
	Dst     netip.Prefix // zero bits for a default route
	Gateway netip.Addr   // may be invalid
	Index   int          // 0 for multipath
	Table   uint32
	Type    uint8 // RTN_UNICAST, RTN_LOCAL, ...
}

// Routes lists the routes of a family, unix.AF_INET or AF_INET6, of all tables.
func (c *Conn) Routes(family byte) ([]RouteInfo, error) {
	var b Batch
	b.message("list routes", unix.RTM_GETROUTE, unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	b.raw(family, 0, 0, 0, 0, 0, 0, 0)
	b.rawU32(0)
	b.end()
	var all []RouteInfo
	err := c.query(&b, func() { all = nil }, func(typ uint16, body []byte) {
		if typ == unix.RTM_NEWROUTE && len(body) >= unix.SizeofRtMsg && body[0] == family {
			all = append(all, parseRoute(body))
		}
	})
	return all, err
}

// RouteTo looks up which route packets to a would take. ENETUNREACH: none.
func (c *Conn) RouteTo(a netip.Addr) (RouteInfo, error) {
	var b Batch
	b.message("look up route to "+a.String(), unix.RTM_GETROUTE, unix.NLM_F_REQUEST|unix.NLM_F_ACK)
	family := byte(unix.AF_INET)
	if a.Is6() {
		family = unix.AF_INET6
	}
	b.raw(family, byte(a.BitLen()), 0, 0, 0, 0, 0, 0)
	b.rawU32(0)
	b.attr(unix.RTA_DST, a.AsSlice())
	b.end()
	var r RouteInfo
	err := c.query(&b, func() {}, func(typ uint16, body []byte) {
		if typ == unix.RTM_NEWROUTE && len(body) >= unix.SizeofRtMsg {
			r = parseRoute(body)
		}
	})
	return r, err
}

// parseRoute reads a struct rtmsg and its attributes.
func parseRoute(body []byte) RouteInfo {
	zero := netip.IPv4Unspecified()
	if body[0] == unix.AF_INET6 {
		zero = netip.IPv6Unspecified()
	}
	r := RouteInfo{Dst: netip.PrefixFrom(zero, int(body[1])), Table: uint32(body[4]), Type: body[7]}
	attrs(body[unix.SizeofRtMsg:], func(typ uint16, data []byte) {
		switch typ {
		case unix.RTA_DST:
			if ip, ok := netip.AddrFromSlice(data); ok {
				r.Dst = netip.PrefixFrom(ip, int(body[1]))
			}
		case unix.RTA_GATEWAY:
			r.Gateway, _ = netip.AddrFromSlice(data)
		case unix.RTA_OIF:
			r.Index = int(u32(data))
		case unix.RTA_TABLE:
			r.Table = u32(data)
		}
	})
	return r
}
