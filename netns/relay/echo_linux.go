package relay

import (
	"encoding/binary"
	"math/rand/v2"
	"syscall"

	"golang.org/x/sys/unix"
)

// A ping is the echo requests of one program of the container to one
// destination. Outside it is a ping socket (ICMP sockets, icmp(7)), which gives
// them an identifier of its own; what comes back gets that of the container.
type ping struct {
	tuple
	fd   int
	raw  bool   // fd is a raw socket: the host allows the caller no ping sockets
	id   uint16 // of the requests outside, if raw
	hops byte   // hop limit that was set last; 0 for the default
	last int64  // second of the last request
}

const (
	// pingsMost bounds the sockets: who sweeps a network has that many in the air.
	pingsMost = 256
	// idlePing is how many seconds an answer may take.
	idlePing = 30
	// defaultHops is what the relay's own packets have, and most others.
	defaultHops = 64
)

// echoes watches the raw socket of R that ICMP comes to, of IPv4 or IPv6.
//
// To have the packets there, and the kernel's own answers dropped, is cheaper
// than a queue of netfilter, and needs none.
type echoes struct{ fd int }

func (q *echoes) event(l *loop, _ uint32) {
	for range 64 {
		m, errno := receiveICMP(q.fd, l.buffer())
		if errno != 0 {
			return
		}
		l.icmp(m)
	}
}

// A message is one of ICMP, with what is used of the header before it.
type message struct {
	src, dst address
	hops     byte
	body     []byte // from the type on
}

// receiveICMP reads one from a raw socket. That of IPv4 gives the header too
// (raw(7)), that of IPv6 tells it beside the message (ipv6(7)).
func receiveICMP(fd int, buf []byte) (m message, errno syscall.Errno) {
	var from unix.RawSockaddrInet6
	var oob [128]byte
	n, control, errno := recvmsg(fd, buf, &from, oob[:], 0)
	if errno != 0 {
		return m, errno
	}
	if from.Family == unix.AF_INET {
		t, _, body, ok := parseIP(buf[:n])
		if !ok || len(body) < icmpLen {
			return m, 0
		}
		return message{src: t.src, dst: t.dst, hops: buf[8], body: body}, 0
	}
	if n < icmpLen || from.Addr == (address{}) || address(from.Addr).is4() {
		return m, 0
	}
	m = message{src: from.Addr, hops: defaultHops, body: buf[:n]}
	eachControl(control, func(level, typ int32, data []byte) {
		switch {
		case level == unix.SOL_IPV6 && typ == unix.IPV6_PKTINFO && len(data) >= 16:
			m.dst = address(data[:16])
		case level == unix.SOL_IPV6 && typ == unix.IPV6_HOPLIMIT && len(data) >= 4:
			m.hops = byte(binary.NativeEndian.Uint32(data))
		}
	})
	return m, 0
}

// icmp serves one message of the container.
func (l *loop) icmp(m message) {
	if len(m.body) < icmpLen {
		return
	}
	switch m.body[0] {
	case icmp4Echo, icmp6Echo:
		l.request(m)
	case icmp4Unreachable, icmp6Unreachable:
		l.refused(m)
	}
}

// refused hears that nobody listens any more where answers were sent. The
// socket outside goes, so that who sends more is told the same by the host.
func (l *loop) refused(m message) {
	t, proto, rest, ok := parseIP(m.body[icmpLen:])
	e := unreachableFrom(m.src, icmpPort, m.dst)
	if !ok || proto != protoUDP || len(rest) < udpLen || m.body[0] != e.kind || m.body[1] != e.code {
		return
	}
	t = tuple{src: t.dst, dst: t.src, srcPort: binary.BigEndian.Uint16(rest[2:]), dstPort: binary.BigEndian.Uint16(rest)}
	if f := l.flows[t]; f != nil {
		l.forget(f)
	}
}

// request passes an echo request on, or answers it.
func (l *loop) request(m message) {
	id, seq, body := binary.BigEndian.Uint16(m.body[4:]), binary.BigEndian.Uint16(m.body[6:]), m.body[icmpLen:]
	t := tuple{src: m.src, dst: m.dst, srcPort: id}
	if m.dst == l.relay.gateway4 || m.dst == l.relay.gateway6 {
		l.reply(t, seq, body)
		return
	}
	switch l.relay.rule(m.dst, 1) {
	case refuse:
		l.pingFailed(t, seq, l.unreachableFor(m.dst, icmpHost))
		return
	case forbid:
		l.pingFailed(t, seq, l.unreachableFor(m.dst, icmpProhibited))
		return
	case ignore:
		return
	}
	if m.hops <= 1 {
		l.pingFailed(t, seq, icmpError{from: l.relay.gatewayFor(m.dst), kind: exceeded(m.dst)})
		return
	}
	p, errno := l.pingTo(t)
	if errno == 0 {
		p.last = l.now
		p.limit(m.hops)
		errno = p.send(m.body)
	}
	if why, kind := answerTo(errno); errno != 0 && kind == answerUnreachable && errno != unix.EACCES {
		l.pingFailed(t, seq, l.unreachableFor(m.dst, why))
	}
}

// exceeded is the type of "time exceeded" about a packet to dst.
func exceeded(dst address) byte {
	if dst.is4() {
		return icmp4Exceeded
	}
	return icmp6Exceeded
}

// limit has the packet live as long outside as it would have lived, if it shall
// not live long: who traces a route hears of the routers.
func (p *ping) limit(hops byte) {
	if hops > 32 {
		hops = 0
	}
	if hops == p.hops {
		return
	}
	p.hops = hops
	v := int(hops) - 1 // -1 is the default
	if p.dst.is4() {
		setInt(p.fd, unix.SOL_IP, unix.IP_TTL, v)
	} else {
		setInt(p.fd, unix.SOL_IPV6, unix.IPV6_UNICAST_HOPS, v)
	}
}

// send writes a request. EACCES and EPERM: the host lets nobody send it.
func (p *ping) send(request []byte) syscall.Errno {
	if p.raw {
		binary.BigEndian.PutUint16(request[4:], p.id)
		icmpChecksum(request, p.src, p.dst) // of ICMPv6 the kernel does it, by the address outside
	}
	_, errno := send(p.fd, request)
	if errno != 0 && errno != unix.EAGAIN {
		// An error of an earlier request comes in the way of this one.
		_, errno = send(p.fd, request)
	}
	return errno
}

// reply writes an echo reply to the container.
func (l *loop) reply(t tuple, seq uint16, body []byte) {
	kind := byte(icmp4Reply)
	if !t.dst.is4() {
		kind = icmp6Reply
	}
	// The body is in the loop's buffer: the header goes elsewhere.
	l.write(t.src, appendEcho(make([]byte, 0, ip6Len+icmpLen+len(body)), kind, t.dst, t.src, t.srcPort, seq, body))
}

// pingFailed writes an error about an echo request to the container.
func (l *loop) pingFailed(t tuple, seq uint16, e icmpError) {
	kind := byte(icmp4Echo)
	if !t.dst.is4() {
		kind = icmp6Echo
	}
	var quote, b [128]byte
	q := appendEcho(quote[:0], kind, t.src, t.dst, t.srcPort, seq, nil)
	l.write(t.src, appendError(b[:0], e, q))
}

// pingTo finds or makes the socket outside.
func (l *loop) pingTo(t tuple) (*ping, syscall.Errno) {
	if p := l.pings[t]; p != nil {
		return p, 0
	}
	if len(l.pings) >= pingsMost {
		l.evictPing()
	}
	p := &ping{tuple: t}
	if errno := p.open(); errno != 0 {
		return nil, errno
	}
	errno := connect(p.fd, t.to(), 0)
	if errno == 0 {
		errno = l.watch(p.fd, p, unix.EPOLLIN)
	}
	if errno != 0 {
		closeFD(p.fd)
		return nil, errno
	}
	l.pings[t] = p
	return p, 0
}

// open makes the socket: a ping socket, which the sysctl net.ipv4.ping_group_range
// allows to users, or else a raw one, which CAP_NET_RAW does.
func (p *ping) open() (errno syscall.Errno) {
	family, proto := unix.AF_INET, unix.IPPROTO_ICMP
	if !p.dst.is4() {
		family, proto = unix.AF_INET6, unix.IPPROTO_ICMPV6
	}
	if p.fd, errno = socketOf(family, unix.SOCK_DGRAM, proto); errno != 0 {
		if p.fd, errno = socketOf(family, unix.SOCK_RAW, proto); errno != 0 {
			return errno
		}
		p.raw, p.id = true, nextID()
	}
	if p.dst.is4() {
		setInt(p.fd, unix.SOL_IP, unix.IP_RECVERR, 1)
		setInt(p.fd, unix.SOL_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DONT)
		if p.raw {
			setInt(p.fd, unix.SOL_RAW, icmpFilter, int(^uint32(1<<icmp4Reply)))
		}
		return 0
	}
	setInt(p.fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
	setInt(p.fd, unix.SOL_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DONT)
	if p.raw {
		filter := icmp6Pass(icmp6Reply)
		setBytes(p.fd, unix.SOL_ICMPV6, icmpFilter, filter[:])
	}
	return 0
}

// nextID is an identifier for raw sockets, which nobody hands out: others that
// ping from this host choose theirs at random as well.
func nextID() uint16 { return uint16(rand.Uint32()) }

// icmpFilter is ICMP_FILTER (linux/icmp.h) of SOL_RAW and ICMPV6_FILTER (linux/icmpv6.h) of
// SOL_ICMPV6: a bit for each type that is not wanted.
const icmpFilter = 1

// icmp6Pass is a filter that passes some types only.
func icmp6Pass(types ...byte) (filter [32]byte) {
	for i := range filter {
		filter[i] = 0xff
	}
	for _, t := range types {
		// An array of 32-bit words in the machine's order.
		word := filter[t/32*4:][:4]
		binary.NativeEndian.PutUint32(word, binary.NativeEndian.Uint32(word)&^(1<<(t%32)))
	}
	return filter
}

// event carries replies and errors to the container.
func (p *ping) event(l *loop, events uint32) {
	if events&unix.EPOLLERR != 0 {
		p.errors(l)
	}
	for range 64 {
		buf := l.buffer()
		n, errno := read(p.fd, buf)
		if errno == unix.EAGAIN {
			return
		}
		if errno != 0 {
			continue // it is in the error queue, too
		}
		m := buf[:n]
		if p.raw && p.dst.is4() {
			_, _, body, ok := parseIP(m)
			if !ok {
				continue
			}
			m = body
		}
		if len(m) < icmpLen || m[0] != icmp4Reply && m[0] != icmp6Reply || p.raw && binary.BigEndian.Uint16(m[4:]) != p.id {
			continue
		}
		l.reply(p.tuple, binary.BigEndian.Uint16(m[6:]), m[icmpLen:])
	}
}

// errors passes on what routers and the destination said of requests.
func (p *ping) errors(l *loop) {
	eachError(p.fd, func(e icmpError, request []byte) {
		if len(request) >= icmpLen && (!p.raw || binary.BigEndian.Uint16(request[4:]) == p.id) {
			l.pingFailed(p.tuple, binary.BigEndian.Uint16(request[6:]), e)
		}
	})
}

func (l *loop) forgetPing(p *ping) {
	delete(l.pings, p.tuple)
	l.drop(p.fd)
}

// evictPing makes room, as evict does.
func (l *loop) evictPing() {
	var oldest *ping
	looked := 0
	for _, p := range l.pings {
		if oldest == nil || p.last < oldest.last {
			oldest = p
		}
		if looked++; looked == 16 {
			break
		}
	}
	if oldest != nil {
		l.forgetPing(oldest)
	}
}

func (l *loop) sweepPings() {
	for _, p := range l.pings {
		if l.now-p.last >= idlePing {
			l.forgetPing(p)
		}
	}
}
