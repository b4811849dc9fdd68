package relay

import (
	"net/netip"
	"slices"
	"syscall"

	"skiff/netns/netlink"

	"golang.org/x/sys/unix"
)

// A held connection is one whose SYN waits in the queue, or has passed it and
// is not accepted yet, while the socket outside is made.
type held struct {
	tuple
	outer  *end
	id     uint32 // the kernel's name for the packet
	since  int64  // loop.now
	passed bool   // the SYN was let through
	server int    // for the gateway's port 53: which nameserver is tried
	syn    [synCopy]byte
	size   int
}

// Seconds after which a held connection is given up. The kernel outside tries
// for 127 s (tcp_syn_retries 6, tcp(7)); a container that gave up earlier
// resets the passed SYN's answer, and its connection never arrives.
const (
	holdMost   = 130
	acceptMost = 10
)

// synQueue watches the queue's netlink socket.
type synQueue struct{ fd int }

func (q *synQueue) event(l *loop, _ uint32) {
	for range 64 {
		buf := l.buffer()
		n, errno := read(q.fd, buf)
		if errno != 0 || n == 0 {
			return
		}
		netlink.Packets(buf[:n], func(p netlink.Packet) { l.hold(p) })
	}
}

// verdict lets the SYN pass or drops it.
func (l *loop) verdict(id uint32, accept bool) {
	var b [64]byte
	send(l.relay.in.netfilter, netlink.AppendVerdict(b[:0], l.relay.place.queue, id, accept))
}

// hold begins a connection outside for a SYN.
func (l *loop) hold(p netlink.Packet) {
	t, ok := parseSYN(p.Payload)
	if !ok {
		l.verdict(p.ID, false)
		return
	}
	if h := l.held[t]; h != nil {
		// Sent again. What passed once may pass again; what waits, waits.
		l.verdict(p.ID, h.passed)
		return
	}
	h := &held{tuple: t, id: p.ID, since: l.now}
	h.size = copy(h.syn[:], p.Payload)
	l.dial(h)
}

// dial begins to connect outside. Where that cannot be, the SYN is answered.
func (l *loop) dial(h *held) {
	verdict := l.relay.rule(h.dst, h.dstPort)
	switch verdict {
	case refuse:
		l.fail(h, unix.ECONNREFUSED)
		return
	case forbid:
		l.fail(h, unix.EACCES)
		return
	case resolve:
		if l.relay.dns != nil {
			l.answered(h)
			return
		}
	case ignore:
		l.fail(h, unix.ETIMEDOUT)
		return
	}
	e, errno := l.outer(l.target(h.tuple, verdict, h.server))
	switch errno {
	case 0:
		h.outer = e
		l.held[h.tuple] = h
		if errno = l.watch(e.fd, h, edge); errno != 0 {
			l.discard(e)
			l.fail(h, errno)
		}
	default:
		l.failed(h, errno)
	}
}

// outer makes a socket outside that connects to an address. It counts against
// the limit, together with the one that will be accepted.
func (l *loop) outer(to netip.AddrPort, zone uint32) (*end, syscall.Errno) {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	if l.relay.open.Add(2) > l.relay.most {
		l.relay.open.Add(-2)
		return nil, unix.EMFILE
	}
	fd, errno := socket(family, unix.SOCK_STREAM)
	if errno != 0 {
		l.relay.open.Add(-2)
		return nil, errno
	}
	setInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	setInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) // see settle
	// The container's keep-alives end at the relay, so somebody must ask outside.
	setInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
	if errno = connect(fd, to, zone); errno != 0 {
		closeFD(fd)
		l.relay.open.Add(-2)
		return nil, errno
	}
	return &end{fd: fd}, 0
}

// discard closes an outer socket that got no peer.
func (l *loop) discard(e *end) {
	l.drop(e.fd)
	l.relay.open.Add(-2)
}

// event is the outcome of connecting.
func (h *held) event(l *loop, events uint32) {
	if h.passed {
		return // what happens from now on is seen when the pair is made
	}
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		errno := socketError(h.outer.fd)
		l.discard(h.outer)
		l.failed(h, errno)
		return
	}
	if events&unix.EPOLLOUT == 0 {
		return
	}
	h.passed, h.since = true, l.now
	l.verdict(h.id, true)
	// The handshake has run inside of the verdict: it is there already.
	l.relay.listenerFor(h.dst).accept(l, 1)
}

// failed tries the next nameserver, or answers the SYN.
func (l *loop) failed(h *held, errno syscall.Errno) {
	if l.relay.rule(h.dst, h.dstPort) == resolve && errno != unix.EMFILE {
		if h.server++; h.server < len(l.relay.resolver.at(l.now)) {
			l.dial(h)
			return
		}
	}
	l.fail(h, errno)
}

// fail answers the SYN as the machine or the network outside did.
func (l *loop) fail(h *held, errno syscall.Errno) {
	delete(l.held, h.tuple)
	l.verdict(h.id, false)
	var b [128]byte
	switch why, kind := answerTo(errno); kind {
	case answerReset:
		l.write(h.src, appendReset(b[:0], h.syn[:h.size]))
	case answerUnreachable:
		l.write(h.src, appendError(b[:0], l.unreachableFor(h.dst, why), h.syn[:h.size]))
	}
}

type answer uint8

const (
	answerNothing answer = iota // the container tries again, or gives up by itself
	answerReset
	answerUnreachable
)

// answerTo is what makes the container's connect fail with errno, or with the
// nearest that a packet can say. Source: tcp(7), icmp_err_convert of the kernel.
func answerTo(errno syscall.Errno) (why reason, kind answer) {
	switch errno {
	case unix.ECONNREFUSED, unix.ECONNRESET, unix.EPIPE:
		return 0, answerReset
	case unix.ENETUNREACH, unix.EAFNOSUPPORT:
		return icmpNet, answerUnreachable
	case unix.EHOSTUNREACH, unix.EHOSTDOWN, unix.EINVAL:
		return icmpHost, answerUnreachable
	case unix.EACCES, unix.EPERM:
		return icmpProhibited, answerUnreachable
	}
	return 0, answerNothing // ETIMEDOUT; EMFILE, EADDRNOTAVAIL and ENOMEM may pass
}

// sweepHeld gives up connections that will not come.
func (l *loop) sweepHeld() {
	for t, h := range l.held {
		waited := l.now - h.since
		if h.passed && waited < acceptMost || !h.passed && waited < holdMost {
			continue
		}
		delete(l.held, t)
		if !h.passed {
			l.verdict(h.id, false)
		}
		if h.outer != nil {
			abort(h.outer.fd)
			l.discard(h.outer)
		}
	}
}

// A listener watches the socket that TPROXY gives connections to.
type listener struct{ fd int }

func (a *listener) event(l *loop, _ uint32) { a.accept(l, 32) }

// accept takes up to n connections and joins each with its socket outside.
func (a *listener) accept(l *loop, n int) {
	for range n {
		fd, t, errno := accept(a.fd)
		if errno == unix.EAGAIN {
			return
		}
		if errno == unix.EMFILE || errno == unix.ENFILE {
			// The next second's sweep looks again; meanwhile they wait in line.
			l.mute(a)
			return
		}
		if errno != 0 {
			continue
		}
		in := &end{fd: fd}
		if h := l.held[t]; h != nil && h.passed {
			delete(l.held, t)
			if h.outer == nil {
				l.converse(fd)
			} else {
				l.join(in, h.outer)
			}
			continue
		}
		if l.relay.hold != HoldNone {
			// Its socket outside was given up.
			abort(fd)
			closeFD(fd)
			continue
		}
		l.acceptFirst(in, t)
	}
}

// mute stops watching a listener whose connections cannot be taken now.
func (l *loop) mute(a *listener) {
	if !slices.Contains(l.muted, a) {
		l.muted = append(l.muted, a)
		l.unwatch(a.fd)
	}
}

func (l *loop) unmute() {
	for _, a := range l.muted {
		l.watch(a.fd, a, unix.EPOLLIN)
	}
	l.muted = l.muted[:0]
}

// join makes a pair of an accepted and a connected socket.
func (l *loop) join(in, out *end) {
	if !l.pair(in, out) {
		abort(in.fd)
		abort(out.fd)
		closeFD(in.fd)
		l.discard(out)
		return
	}
	l.become(out.fd, out)
	// Whatever happened outside since it connected told only the held one.
	out.hung = true
	l.pump(out)
	if l.has(out) && !out.eof {
		out.hung = false
	}
}

// acceptFirst is the last rung: the connection stands before the one outside
// does, and is reset if that fails.
func (l *loop) acceptFirst(in *end, t tuple) {
	verdict := l.relay.rule(t.dst, t.dstPort)
	switch verdict {
	case refuse, forbid, ignore:
		abort(in.fd)
		closeFD(in.fd)
		return
	case resolve:
		if l.relay.dns != nil {
			l.converse(in.fd)
			return
		}
	}
	out, errno := l.outer(l.target(t, verdict, 0))
	if errno != 0 {
		abort(in.fd)
		closeFD(in.fd)
		return
	}
	out.connecting = true
	if !l.pair(in, out) {
		closeFD(in.fd)
		l.discard(out)
		return
	}
	if l.watch(out.fd, out, edge) != 0 {
		l.reset(out)
	}
}

// connected is the outcome of connecting for acceptFirst. It says whether there
// is anything to carry.
func (l *loop) connected(e *end, events uint32) bool {
	if events&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		l.reset(e)
		return false
	}
	if events&unix.EPOLLOUT == 0 {
		return false
	}
	e.connecting = false
	l.pump(e.peer)
	return true
}
