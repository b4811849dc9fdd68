package relay

import (
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
	pace     pace // of answers
	verdict  ruling
	apart    bool   // datagrams of one size cannot be sent together
	server   int    // nameserver that is asked, for the gateway's port 53
	query    []byte // last query to it, until it is answered
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
	slotLen  = 68 << 10 // any datagram, with headroom for its headers
	headroom = ip6Len + udpLen
	queryMax = 4096 // a larger query is not asked again elsewhere
)

// A batch is the buffers for many datagrams at once. They are mapped, and only
// the pages that datagrams touched are real.
type batch struct {
	memory []byte
	msgs   [batchLen]mmsghdr
	iovs   [batchLen]unix.Iovec
	names  [batchLen]unix.RawSockaddrInet6 // or Inet4, which is shorter
	oob    [batchLen][64]byte
	tuples [batchLen]tuple
	first  [batchLen]joined
	sizes  [batchLen][segmentSpace]byte // control messages
}

func newBatch() (*batch, syscall.Errno) {
	m, err := unix.Mmap(-1, 0, batchLen*slotLen, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, err.(syscall.Errno)
	}
	return &batch{memory: m}, 0
}

func (b *batch) slot(i int) []byte { return b.memory[i*slotLen : (i+1)*slotLen] }

// A pace is how many datagrams are asked for at once: as many as came the last
// time, and more when all came that were asked for. To ask for what is not there
// costs 0.2 us, a fifteenth of what it takes to carry one.
type pace int

func (p pace) ask() int { return max(int(p), 1) }

// came notes that n came. It says whether it is worth asking for more at once; who
// had asked for one only is told of the next.
func (p *pace) came(n int) (more bool) {
	asked := p.ask()
	if n < asked {
		*p = pace(n)
		return false
	}
	*p = pace(min(4*asked, batchLen))
	return asked > 1
}

// receive reads up to most datagrams, each behind the headroom of its slot.
func (b *batch) receive(fd int, named bool, most int) (int, syscall.Errno) {
	for i := range most {
		p := b.slot(i)[headroom:]
		b.iovs[i] = unix.Iovec{Base: &p[0]}
		b.iovs[i].SetLen(len(p))
		h := &b.msgs[i].hdr
		*h = unix.Msghdr{Iov: &b.iovs[i]}
		h.SetIovlen(1)
		if named {
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&b.names[i])), unix.SizeofSockaddrInet6
			h.Control = &b.oob[i][0]
			h.SetControllen(len(b.oob[i]))
		}
	}
	return recvmmsg(fd, b.msgs[:most])
}

// prepare turns received messages i to j into ones to send, on a connected
// socket: with the last bytes of their headroom, which hold headers, or without.
func (b *batch) prepare(i, j int, header int) {
	for k := i; k < j; k++ {
		size, from := int(b.msgs[k].n)+header, headroom-header
		b.iovs[k].Base = &b.slot(k)[from]
		b.iovs[k].SetLen(size)
		b.msgs[k].hdr = unix.Msghdr{Iov: &b.iovs[k]}
		b.msgs[k].hdr.SetIovlen(1)
	}
}

// datagrams watches the socket that TPROXY gives datagrams to.
type datagrams struct {
	fd   int
	pace pace
}

func (d *datagrams) event(l *loop, _ uint32) {
	b := l.datagramBatch()
	if b == nil {
		return
	}
	for range 8 {
		n, errno := b.receive(d.fd, true, d.pace.ask())
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
		if !d.pace.came(n) {
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
	var t tuple
	t.src, t.srcPort = fromSockaddr(&b.names[i])
	oob := b.oob[i][:min(int(b.msgs[i].hdr.Controllen), len(b.oob[i]))]
	if len(oob) < unix.SizeofCmsghdr+unix.SizeofSockaddrInet4 {
		return t
	}
	switch c := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0])); {
	case c.Level == unix.SOL_IP && c.Type == unix.IP_ORIGDSTADDR,
		c.Level == unix.SOL_IPV6 && c.Type == unix.IPV6_ORIGDSTADDR && len(oob) >= unix.SizeofCmsghdr+unix.SizeofSockaddrInet6:
		t.dst, t.dstPort = fromSockaddr((*unix.RawSockaddrInet6)(unsafe.Pointer(&oob[unix.SizeofCmsghdr])))
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
	if f.verdict == resolve {
		l.ask(f, b.slot(j - 1)[headroom:][:b.msgs[j-1].n])
	}
	b.prepare(i, j, 0)
	l.sendOut(f, b, i, j)
}

// sendOut sends prepared messages i to j, those of one size together.
func (l *loop) sendOut(f *flow, b *batch, i, j int) {
	end := j
	if !f.apart {
		end = b.join(i, j)
	}
	for retried := false; i < end; {
		n, errno := sendmmsg(f.fd, b.msgs[i:end])
		switch {
		case errno == 0:
			i, retried = i+n, false
		case errno == unix.EAGAIN:
			return // the way out is full, as it may be natively
		case b.first[i].joined && notJoined(errno):
			// Larger than a frame of the way out, or its device does not help.
			f.apart = true
			first := b.first[i].message
			b.prepare(first, j, 0)
			l.sendOut(f, b, first, j)
			return
		case !retried && l.broken(f, errno):
			retried = true // the error was an earlier datagram's
		default:
			i, retried = i+1, false
		}
	}
}

// newFlow makes the socket outside, or tells the container why there is none.
func (l *loop) newFlow(t tuple) *flow {
	f := &flow{tuple: t}
	switch f.verdict = l.relay.rule(t.dst, t.dstPort); f.verdict {
	case refuse:
		l.unreachable(t, icmpPort)
		return nil
	case forbid:
		l.unreachable(t, icmpProhibited)
		return nil
	case ignore:
		return nil
	}
	if len(l.flows) >= l.relay.mostFlows {
		l.evict()
	}
	if errno := l.open(f); errno != 0 {
		if why, kind := answerTo(errno); kind == answerUnreachable {
			l.unreachable(t, why)
		}
		return nil
	}
	l.flows[t] = f
	return f
}

// open connects the flow's socket outside.
func (l *loop) open(f *flow) syscall.Errno {
	to, zone := l.target(f.tuple, f.verdict, f.server)
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, errno := socket(family, unix.SOCK_DGRAM)
	if errno != 0 {
		return errno
	}
	if to.Addr().Is4() {
		setInt(fd, unix.SOL_IP, unix.IP_RECVERR, 1)
	} else {
		setInt(fd, unix.SOL_IPV6, unix.IPV6_RECVERR, 1)
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
func (f *flow) event(l *loop, events uint32) {
	b := l.datagramBatch()
	if b == nil {
		return
	}
	if events&unix.EPOLLERR != 0 {
		l.broken(f, socketError(f.fd))
	}
	for range 4 {
		n, errno := b.receive(f.fd, false, f.pace.ask())
		if errno == unix.EAGAIN {
			return
		}
		if errno != 0 {
			l.broken(f, errno)
			return
		}
		f.last, f.answered, f.query = l.now, true, nil
		l.deliver(f, b, n)
		if !f.pace.came(n) {
			return
		}
	}
}

// deliver writes the first n messages to the container, as coming from whom the
// flow goes to.
func (l *loop) deliver(f *flow, b *batch, n int) {
	header, from := headerLen(f.src)+udpLen, 0
	for i := range n {
		s := b.slot(i)[headroom-header:]
		size := header + int(b.msgs[i].n)
		appendUDP(s[:0], f.dst, f.src, f.dstPort, f.srcPort, s[header:size])
		if size > linkMTU {
			l.writeMany(f.src, b, from, i, header)
			l.writeFragments(f.src, s[:size])
			from = i + 1
		}
	}
	l.writeMany(f.src, b, from, n, header)
}

// writeMany sends messages i to j with their headers.
func (l *loop) writeMany(to address, b *batch, i, j, header int) {
	b.prepare(i, j, header)
	for m := b.msgs[i:j]; len(m) > 0; {
		sent, errno := sendmmsg(l.raw(to), m)
		if errno == unix.EAGAIN {
			return
		}
		m = m[max(sent, 1):]
	}
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
