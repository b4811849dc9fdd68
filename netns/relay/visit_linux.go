package relay

import (
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A mailbox watches a published UDP port.
type mailbox struct {
	fd   int
	port uint16     // inside
	at   netip.Addr // of the host; unspecified: each datagram says to which
}

// A visitor is who sends datagrams to a mailbox, and to which of the host's addresses.
type visitor struct {
	box  *mailbox
	from netip.AddrPort
	at   netip.Addr
}

// A visit is the datagrams between a visitor and the container. Inside it is a
// socket that is connected to the container, so that the answers are the visitor's.
type visit struct {
	visitor
	fd       int
	last     int64 // second of the last datagram
	answered bool
	name     unix.RawSockaddrInet6 // the visitor's, for sendmsg(2)
	nameLen  uint32
	control  []byte // from which address to answer, or nil: the socket has but one
}

// names are whose a batch's datagrams are.
type names struct {
	from [batchLen]unix.RawSockaddrInet6
	oob  [batchLen][64]byte
	who  [batchLen]visitor
}

func (m *mailbox) socket() int { return m.fd }

// event carries datagrams inside. No more are read than there are sockets for,
// if all are of new visitors.
func (m *mailbox) event(l *loop, _ uint32) {
	b := l.datagramBatch()
	if b == nil {
		return
	}
	e := l.entrance
	if e.names == nil {
		e.names, e.visits = &names{}, map[visitor]*visit{}
	}
	for range 8 {
		if !l.stocked(unix.SOCK_DGRAM, batchLen) {
			l.shut(m)
			return
		}
		n, errno := m.receive(b, e.names)
		if errno != 0 {
			return
		}
		for i := 0; i < n; {
			j := i + 1
			for j < n && e.names.who[j] == e.names.who[i] {
				j++
			}
			l.visit(b, i, j)
			i = j
		}
		if n < batchLen {
			return
		}
	}
}

// receive reads datagrams, and whose they are.
func (m *mailbox) receive(b *batch, names *names) (int, syscall.Errno) {
	for i := range b.msgs {
		p := b.slot(i)
		b.iovs[i] = unix.Iovec{Base: &p[0]}
		b.iovs[i].SetLen(len(p))
		h := &b.msgs[i].hdr
		*h = unix.Msghdr{Iov: &b.iovs[i], Name: (*byte)(unsafe.Pointer(&names.from[i])), Namelen: unix.SizeofSockaddrInet6}
		h.SetIovlen(1)
		if m.at.IsUnspecified() {
			h.Control = &names.oob[i][0]
			h.SetControllen(len(names.oob[i]))
		}
	}
	n, errno := recvmmsg(m.fd, b.msgs[:])
	if errno != 0 {
		return 0, errno
	}
	for i := range n {
		at := m.at
		if at.IsUnspecified() {
			at = destination(names.oob[i][:min(int(b.msgs[i].hdr.Controllen), len(names.oob[i]))])
		}
		names.who[i] = visitor{m, addrPortOf(&names.from[i]), at}
	}
	return n, 0
}

// destination reads the control message of type IP_PKTINFO or IPV6_PKTINFO: struct
// in_pktinfo has the address last, struct in6_pktinfo first. Source: ip(7), ipv6(7).
func destination(oob []byte) netip.Addr {
	if len(oob) < unix.SizeofCmsghdr {
		return netip.Addr{}
	}
	c := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	info := oob[unix.SizeofCmsghdr:]
	switch {
	case c.Level == unix.SOL_IP && c.Type == unix.IP_PKTINFO && len(info) >= unix.SizeofInet4Pktinfo:
		return netip.AddrFrom4([4]byte(info[8:12]))
	case c.Level == unix.SOL_IPV6 && c.Type == unix.IPV6_PKTINFO && len(info) >= unix.SizeofInet6Pktinfo:
		return netip.AddrFrom16([16]byte(info[:16]))
	}
	return netip.Addr{}
}

// answerFrom is the control message that has an answer come from an address. It has
// the kernel choose the link, but for one that the address needs.
func answerFrom(at netip.Addr) []byte {
	level, kind, size := unix.SOL_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo
	if at.Is6() {
		level, kind, size = unix.SOL_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo
	}
	oob := make([]byte, unix.CmsgSpace(size))
	c := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
	c.Level, c.Type = int32(level), int32(kind)
	c.SetLen(unix.CmsgLen(size))
	info := oob[unix.SizeofCmsghdr:]
	if at.Is6() {
		copy(info, at.AsSlice())
	} else {
		copy(info[4:], at.AsSlice()) // ipi_spec_dst
	}
	return oob
}

// visit carries messages i to j, which are one visitor's, inside.
func (l *loop) visit(b *batch, i, j int) {
	e := l.entrance
	v := e.visits[e.names.who[i]]
	if v == nil {
		if v = l.newVisit(e.names.who[i], &e.names.from[i], b.msgs[i].hdr.Namelen); v == nil {
			return
		}
	}
	v.last = l.now
	for k := i; k < j; k++ {
		b.iovs[k].SetLen(int(b.msgs[k].n))
		b.msgs[k].hdr = unix.Msghdr{Iov: &b.iovs[k]}
		b.msgs[k].hdr.SetIovlen(1)
	}
	for m, retried := b.msgs[i:j], false; len(m) > 0; {
		n, errno := sendmmsg(v.fd, m)
		switch {
		case errno == 0:
			m, retried = m[n:], false
		case errno == unix.EAGAIN:
			return // the way in is full, as it may be natively
		case errno == unix.ECONNREFUSED && !retried:
			retried = true // the error was an earlier datagram's, which nobody took
		default:
			m, retried = m[1:], false
		}
	}
}

// newVisit makes the socket inside.
func (l *loop) newVisit(who visitor, name *unix.RawSockaddrInet6, nameLen uint32) *visit {
	e := l.entrance
	if len(e.visits) >= l.relay.mostFlows {
		l.endVisitOf(e)
	}
	fd, errno := l.connectAs(unix.SOCK_DGRAM, who.from, netip.AddrPortFrom(e.to, who.box.port))
	if errno != 0 {
		return nil
	}
	v := &visit{visitor: who, fd: fd, name: *name, nameLen: nameLen}
	if who.box.at.IsUnspecified() && who.at.IsValid() {
		v.control = answerFrom(who.at)
	}
	if l.watch(fd, v, unix.EPOLLIN) != 0 {
		closeFD(fd)
		return nil
	}
	e.visits[who] = v
	return v
}

// event carries answers to the visitor.
func (v *visit) event(l *loop, _ uint32) {
	b := l.datagramBatch()
	if b == nil {
		return
	}
	for range 4 {
		for i := range b.msgs {
			p := b.slot(i)
			b.iovs[i] = unix.Iovec{Base: &p[0]}
			b.iovs[i].SetLen(len(p))
			b.msgs[i].hdr = unix.Msghdr{Iov: &b.iovs[i]}
			b.msgs[i].hdr.SetIovlen(1)
		}
		n, errno := recvmmsg(v.fd, b.msgs[:])
		if errno == unix.EAGAIN {
			return
		}
		if errno != 0 {
			continue // nobody listens inside, which no one can be told
		}
		v.last, v.answered = l.now, true
		for i := range n {
			b.iovs[i].SetLen(int(b.msgs[i].n))
			h := &b.msgs[i].hdr
			*h = unix.Msghdr{Iov: &b.iovs[i], Name: (*byte)(unsafe.Pointer(&v.name)), Namelen: v.nameLen}
			h.SetIovlen(1)
			if v.control != nil {
				h.Control = &v.control[0]
				h.SetControllen(len(v.control))
			}
		}
		for m := b.msgs[:n]; len(m) > 0; {
			sent, errno := sendmmsg(v.box.fd, m)
			if errno == unix.EAGAIN {
				return
			}
			m = m[max(sent, 1):]
		}
		if n < batchLen {
			return
		}
	}
}

func (l *loop) endVisit(v *visit) {
	delete(l.entrance.visits, v.visitor)
	l.drop(v.fd)
}

// endVisitOf makes room: the oldest of a few visits picked at random.
func (l *loop) endVisitOf(e *entrance) {
	var oldest *visit
	looked := 0
	for _, v := range e.visits {
		if oldest == nil || v.last < oldest.last {
			oldest = v
		}
		if looked++; looked == 16 {
			break
		}
	}
	if oldest != nil {
		l.endVisit(oldest)
	}
}

// sweepVisits ends silent visits.
func (e *entrance) sweepVisits(l *loop) {
	for _, v := range e.visits {
		idle := int64(idleUnanswered)
		if v.answered {
			idle = idleAnswered
		}
		if l.now-v.last >= idle {
			l.endVisit(v)
		}
	}
}
