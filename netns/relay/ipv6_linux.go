package relay

import (
	"encoding/binary"
	"net/netip"

	"skiff/netns/netlink"

	"golang.org/x/sys/unix"
)

// wantIPv6 decides whether the container gets IPv6. The host has a way out if it
// would send to an address of the internet: connecting a datagram socket sends nothing.
func (r *Relay) wantIPv6() bool {
	switch r.options.IPv6 {
	case Never:
		return false
	case Always:
		return true
	}
	fd, errno := socket(unix.AF_INET6, unix.SOCK_DGRAM)
	if errno != 0 {
		return false
	}
	defer closeFD(fd)
	return connect(fd, internet6, 0) == 0
}

// internet6 is an address of those that the internet has (IANA: 2000::/3).
var internet6 = netip.AddrPortFrom(netip.AddrFrom16([16]byte{0x20}), 9)

// listen6 is listen for IPv6.
func (in *sockets) listen6() error {
	for _, fd := range []int{in.tcp, in.udp} {
		for _, o := range []int{unix.IPV6_TRANSPARENT, unix.IPV6_V6ONLY} {
			if err := unix.SetsockoptInt(fd, unix.SOL_IPV6, o, 1); err != nil {
				return &Error{Step: "make socket transparent", Err: err}
			}
		}
	}
	if err := in.settle(); err != nil {
		return err
	}
	if err := unix.Bind(in.tcp, &unix.SockaddrInet6{Port: tcpPort}); err != nil {
		return &Error{Step: "bind tcp socket", Err: err}
	}
	if err := unix.Bind(in.udp, &unix.SockaddrInet6{Port: udpPort}); err != nil {
		return &Error{Step: "bind udp socket", Err: err}
	}
	if err := unix.Listen(in.tcp, queueLength); err != nil {
		return &Error{Step: "listen", Err: err}
	}
	for _, o := range [][2]int{{in.udp, unix.IPV6_RECVORIGDSTADDR}, {in.echo, unix.IPV6_RECVPKTINFO}, {in.echo, unix.IPV6_RECVHOPLIMIT}} {
		if err := unix.SetsockoptInt(o[0], unix.SOL_IPV6, o[1], 1); err != nil {
			return &Error{Step: "ask for original destinations", Err: err}
		}
	}
	filter := icmp6Pass(icmp6Echo, icmp6Unreachable)
	if errno := setBytes(in.echo, unix.SOL_ICMPV6, icmpFilter, filter[:]); errno != 0 {
		return &Error{Step: "choose types of icmp", Err: errno}
	}
	return nil
}

// without6 takes back that there shall be IPv6.
func (r *Relay) without6() {
	six := &r.in.six
	for _, fd := range []int{six.tcp, six.udp, six.raw, six.echo} {
		closeFD(fd)
	}
	*six = sockets{}
	r.address6, r.gateway6 = netip.Prefix{}, address{}
}

// may says of the last request that the relay starts without it, unless it was asked for:
// this namespace has IPv6 turned off (sysctl net.ipv6.conf.default.disable_ipv6).
func (r *Relay) may(b *netlink.Batch) {
	if r.options.IPv6 == Auto {
		b.Ignore(unix.EACCES, unix.EPERM, unix.EAFNOSUPPORT, unix.EOPNOTSUPP, unix.ENETUNREACH, unix.EHOSTUNREACH, unix.EINVAL, unix.ENODEV)
	}
}

// configure6 appends what eth0 gets of IPv6.
func (r *Relay) configure6(b *netlink.Batch, eth0 int) {
	if r.address6.IsValid() {
		b.AddrAdd(eth0, r.address6)
		r.may(b)
		b.RouteAdd(netlink.Route{Index: eth0, Gateway: gateway6})
		r.may(b)
	}
}

// route6 appends what R gets of IPv6.
func (r *Relay) route6(b *netlink.Batch, np0 int) {
	if r.address6.IsValid() {
		b.AddrAdd(np0, netip.PrefixFrom(gateway6, r.address6.Bits()))
		r.may(b)
		b.AddrAdd(np0, routerLinkLocal)
		r.may(b)
		b.RouteAdd(netlink.Route{Index: 1, Local: true, IPv6: true})
		r.may(b)
	}
}

func (r *Relay) connect6() error {
	if !r.address6.IsValid() {
		return nil
	}
	if err := unix.Connect(r.in.six.raw, &unix.SockaddrInet6{Addr: r.address6.Addr().As16()}); err != nil && r.options.IPv6 != Auto {
		return &Error{Step: "connect raw socket", Err: err}
	}
	return nil
}

// writeFragments sends an IPv6 packet that is larger than the link takes, which
// only one of the largest datagrams is. IPv4's are not: its length counts the header.
// Source: RFC 8200, 4.5.
func (l *loop) writeFragments(to address, packet []byte) {
	const piece = 32 << 10 // a multiple of 8
	l.fragmented++
	payload := packet[ip6Len:]
	b := make([]byte, 0, ip6Len+fragmentLen+piece)
	for at := 0; at < len(payload); at += piece {
		part, more := payload[at:min(at+piece, len(payload))], uint16(0)
		if at+piece < len(payload) {
			more = 1
		}
		b = append(b[:0], packet[:ip6Len]...)
		binary.BigEndian.PutUint16(b[4:], uint16(fragmentLen+len(part)))
		b[6] = protoFragment
		b = append(b, packet[6], 0)
		b = binary.BigEndian.AppendUint16(b, uint16(at)|more)
		b = binary.BigEndian.AppendUint32(b, l.fragmented)
		send(l.raw(to), append(b, part...))
	}
}

const (
	fragmentLen   = 8
	protoFragment = 44
)
