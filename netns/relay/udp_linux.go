package relay

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A flow is the datagrams between one socket of the container and one
// destination. Outside it is a connected socket, so that only the destination
// can answer.
type flow struct {
	tuple
	fd       int
	last     int64 // second of the last datagram
	answered bool
	server   int    // nameserver that is asked, for the gateway's port 53
	query    []byte // last query to it, until it is answered
	resolve  bool
	outward  bool
}

// Seconds of silence after which a flow is forgotten (RFC 4787, REQ-5, wants
// two minutes at least once there is an exchange).
const (
	idleUnanswered = 30
	idleAnswered   = 180
	idleDNS        = 5 // after an answer
)

const (
	batchLen = 32
	slotLen  = 64 << 10 // any datagram, with headroom for its headers
	headroom = ipLen + udpLen
	queryMax = 4096 // a larger query is not asked again elsewhere
)

// A batch is the buffers for many datagrams at once. They are mapped, and only
// the pages that datagrams touched are real.
type batch struct {
	memory []byte
	msgs   [batchLen]mmsghdr
	iovs   [batchLen]unix.Iovec
	names  [batchLen]unix.RawSockaddrInet4
	oob    [batchLen][64]byte
	tuples [batchLen]tuple
}

func newBatch() (*batch, syscall.Errno) {
	m, err := unix.Mmap(-1, 0, batchLen*slotLen, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err.(syscall.Errno)
	}
	return &batch{memory: m}, 0
}

func (b *batch) slot(i int) []byte { return b.memory[i*slotLen : (i+1)*slotLen] }

// receive reads datagrams, each behind the headroom of its slot.
func (b *batch) receive(fd int, named bool) (int, syscall.Errno) {
	for i := range b.msgs {
		p := b.slot(i)[headroom:]
		b.iovs[i] = unix.Iovec{Base: &p[0]}
		b.iovs[i].SetLen(len(p))
		h := &b.msgs[i].hdr
		*h = unix.Msghdr{Iov: &b.iovs[i]}
		h.SetIovlen(1)
		if named {
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.names[i])), unix.SizeofSockaddrInet4
			h.Control = &b.oob[i][0]
			h.SetControllen(len(b.oob[i]))
		}
	}
	return recvmmsg(fd, b.msgs[:])
}

// prepare turns received messages i to j into ones to send, on a connected
// socket: with their headers, which are in the headroom, or without.
func (b *batch) prepare(i, j int, headers bool) {
	for k := i; k < j; k++ {
		size, from := int(b.msgs[k].n), headroom
		if headers {
			size, from = size+headroom, 0
		}
		b.iovs[k].Base = &b.slot(k)[from]
		b.iovs[k].SetLen(size)
		b.msgs[k].hdr = unix.Msghdr{Iov: &b.iovs[k]}
		b.msgs[k].hdr.SetIovlen(1)
	}
}

// datagrams watches the socket that TPROXY gives datagrams to.
type datagrams struct{ fd int }

func (d *datagrams) event(l *loop, _ uint32) {
	b := l.datagramBatch()
	if b == nil {
		return
	}
	for range 8 {
		n, errno := b.receive(d.fd, true)
		if errno != 0 {
			return
		}
		for i := range n {
			b.tuples[i] = b.tuple(i)
		}
		for i := 0; i < n; {
			j := i + 1
			for j < n && b.tuples[j] == b.tuples[i] {
				j++
			}
			l.outward(b, i, j)
			i = j
		}
		if n < batchLen {
			return
		}
	}
}

// datagramBatch is the loop's one batch.
func (l *loop) datagramBatch() *batch {
	if l.batch == nil {
		b, errno := newBatch()
		if errno != 0 {
			l.relay.say("datagram buffers: " + errno.Error())
			return nil
		}
		l.batch = b
	}
	return l.batch
}

// tuple is whence and whereto a received datagram was sent. The destination
// is in a control message of type IP_ORIGDSTADDR (ip(7)).
func (b *batch) tuple(i int) tuple {
	t := tuple{src: b.names[i].Addr, srcPort: getPort(&b.names[i].Port)}
	oob := b.oob[i][:min(int(b.msgs[i].hdr.Controllen), len(b.oob[i]))]
	if len(oob) >= unix.SizeofCmsghdr+unix.SizeofSockaddrInet4 {
		c := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
		if c.Level == unix.SOL_IP && c.Type == unix.IP_ORIGDSTADDR {
			sa := oob[unix.SizeofCmsghdr:]
			t.dstPort, t.dst = binary.BigEndian.Uint16(sa[2:]), [4]byte(sa[4:8])
		}
	}
	return t
}

// outward sends messages i to j, which are of one flow.
func (l *loop) outward(b *batch, i, j int) {
	if l.queried(b, i, j) {
		return
	}
	f := l.flows[b.tuples[i]]
	if f == nil {
		if f = l.newFlow(b.tuples[i]); f == nil {
			return
		}
	}
	f.last = l.now
	if f.resolve {
		l.ask(f, b.slot(j - 1)[headroom:][:b.msgs[j-1].n])
	}
	b.prepare(i, j, false)
	for m, retried := b.msgs[i:j], false; len(m) > 0; {
		n, errno := sendmmsg(f.fd, m)
		switch {
		case errno == 0:
			m, retried = m[n:], false
		case errno == unix.EAGAIN:
			return // the way out is full, as it may be natively
		case !retried && l.broken(f, errno):
			retried = true // the error was an earlier datagram's
		default:
			m, retried = m[1:], false
		}
	}
}

// newFlow makes the socket outside, or tells the container why there is none.
func (l *loop) newFlow(t tuple) *flow {
	f := &flow{tuple: t}
	switch l.relay.rule(t.to()) {
	case refuse:
		l.unreachable(t, icmpPort)
		return nil
	case forbid:
		l.unreachable(t, icmpProhibited)
		return nil
	case resolve:
		f.resolve = true
	case outward:
		f.outward = true
	}
	if len(l.flows) >= l.relay.mostFlows {
		l.evict()
	}
	if errno := l.open(f); errno != 0 {
		if code, kind := answerTo(errno); kind == answerUnreachable {
			l.unreachable(t, code)
		}
		return nil
	}
	l.flows[t] = f
	return f
}

// open connects the flow's socket outside.
func (l *loop) open(f *flow) syscall.Errno {
	to, zone := f.to(), uint32(0)
	if f.resolve {
		servers := l.relay.resolver.at(l.now)
		s := servers[f.server%len(servers)]
		to, zone = s.addr, s.zone
	}
	if f.outward {
		var errno syscall.Errno
		if to, errno = l.relay.host.at(l.now, to.Port()); errno != 0 {
			return errno
		}
	}
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, errno := socket(family, unix.SOCK_DGRAM)
	if errno != 0 {
		return errno
	}
	if errno = connect(fd, to, zone); errno == 0 {
		errno = l.watch(fd, f, unix.EPOLLIN)
	}
	if errno != 0 {
		closeFD(fd)
		return errno
	}
	f.fd = fd
	return 0
}

// ask notes a query. One that comes again while the last is unanswered goes to
// the next nameserver.
func (l *loop) ask(f *flow, query []byte) {
	if f.query != nil && len(query) >= 2 && [2]byte(query) == [2]byte(f.query) {
		l.nextServer(f)
	}
	f.query = nil
	if len(query) >= 2 && len(query) <= queryMax {
		f.query = append([]byte(nil), query...)
	}
}

// nextServer turns the flow to the next of the host's nameservers.
func (l *loop) nextServer(f *flow) bool {
	if len(l.relay.resolver.at(l.now)) < 2 {
		return false
	}
	old := f.fd
	f.server++
	if l.open(f) != 0 {
		f.fd = old
		return false
	}
	l.drop(old)
	return true
}

// event carries answers to the container.
func (f *flow) event(l *loop, _ uint32) {
	b := l.datagramBatch()
	if b == nil {
		return
	}
	for range 4 {
		n, errno := b.receive(f.fd, false)
		if errno == unix.EAGAIN {
			return
		}
		if errno != 0 {
			l.broken(f, errno)
			return
		}
		f.last, f.answered, f.query = l.now, true, nil
		for i := range n {
			appendUDP(b.slot(i)[:0], f.dst, f.src, f.dstPort, f.srcPort, int(b.msgs[i].n))
		}
		b.prepare(0, n, true)
		for m := b.msgs[:n]; len(m) > 0; {
			sent, errno := sendmmsg(l.relay.in.raw, m)
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

// broken passes on an ICMP error that came for the flow, and says whether it
// was one. A nameserver that is not there gives way to the next.
func (l *loop) broken(f *flow, errno syscall.Errno) bool {
	code := byte(icmpPort)
	if errno != unix.ECONNREFUSED {
		c, kind := answerTo(errno)
		if kind != answerUnreachable {
			return false
		}
		code = c
	}
	if f.resolve && f.query != nil && f.server+1 < len(l.relay.resolver.at(l.now)) && l.nextServer(f) {
		send(f.fd, f.query)
		return true
	}
	l.unreachable(f.tuple, code)
	return true
}

// unreachable answers a datagram as the network or machine outside did.
func (l *loop) unreachable(t tuple, code byte) {
	var quote [headroom]byte
	var b [96]byte
	appendUDP(quote[:0], t.src, t.dst, t.srcPort, t.dstPort, 0)
	quote[3] = headroom // the total length, which the kernel fills in only outside
	send(l.relay.in.raw, appendUnreachable(b[:0], l.relay.gateway.As4(), code, quote[:]))
}

func (l *loop) forget(f *flow) {
	delete(l.flows, f.tuple)
	l.drop(f.fd)
}

// evict makes room: the oldest of a few flows picked at random.
func (l *loop) evict() {
	var oldest *flow
	looked := 0
	for _, f := range l.flows {
		if oldest == nil || f.last < oldest.last {
			oldest = f
		}
		if looked++; looked == 16 {
			break
		}
	}
	if oldest != nil {
		l.forget(oldest)
	}
}

// sweepFlows forgets silent flows. When the last is gone, so is the memory of
// the buffers.
func (l *loop) sweepFlows() {
	for _, f := range l.flows {
		idle := int64(idleUnanswered)
		if f.answered {
			idle = idleAnswered
			if f.dstPort == 53 {
				idle = idleDNS
			}
		}
		if l.now-f.last >= idle {
			l.forget(f)
		}
	}
	if l.batch != nil && len(l.flows) == 0 && !l.entrance.visited() {
		unix.Munmap(l.batch.memory)
		l.batch = nil
	}
}
