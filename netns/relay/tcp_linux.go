package relay

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// An end is one of the two sockets of a relayed connection.
//
// What was read at one end and did not fit into the other waits in out or in
// pipe of that other, and nothing more is read meanwhile: at most bufferSize
// or a pipe's capacity per direction.
type end struct {
	fd    int
	peer  *end
	out   []byte // to be written to fd
	pipe  *pipe  // holds what is to be written to fd, or nil
	piped int    // bytes in pipe

	full       uint8 // reads in a row that filled the buffer, up to bulkAfter
	bulky      bool  // is spliced, and counted in loop.bulky
	connecting bool  // fd is not connected yet
	hung       bool  // an end or an error was announced: read until it comes
	eof        bool  // everything was read from fd
	finish     bool  // nothing will follow what waits to be written
	shut       bool  // all was written
	again      bool  // in loop.again
	moved      bool  // was handed to another loop
	dead       bool
}

const (
	// share is what one direction may carry before others get their turn, bytes.
	share = 4 << 20
	// bulkAfter is how many full buffers in a row make a direction bulky: only
	// then are pages moved through a pipe. Less is cheaper copied.
	bulkAfter = 2
	// bulkLeast is a splice so small that the direction is bulky no more.
	bulkLeast = 16 << 10
)

// pair relays between two sockets. If it returns false both are still to be
// closed by the caller.
func (l *loop) pair(in, out *end) bool {
	in.peer, out.peer = out, in
	return l.watch(in.fd, in, edge) == 0
}

// waiting says whether something is to be written to e.
func (e *end) waiting() bool { return len(e.out) > 0 || e.piped > 0 }

// has says whether e is this loop's still: carrying may close it, or hand it to
// the second loop, which is at work on it at once.
func (l *loop) has(e *end) bool { return l.table[e.fd].handler == handler(e) }

func (e *end) event(l *loop, events uint32) {
	if e.connecting && !l.connected(e, events) || !l.has(e) {
		return
	}
	if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		e.hung = true
	}
	if events&unix.EPOLLOUT != 0 && e.waiting() && l.flush(e) {
		l.pump(e.peer)
	}
	if l.has(e) && (events&unix.EPOLLIN != 0 || e.hung) {
		l.pump(e)
	}
	// Once everything is read, no read tells of a reset, nor while the peer connects.
	if events&unix.EPOLLERR != 0 && l.has(e) && (e.eof || e.peer.connecting) {
		l.reset(e)
	}
}

// pump carries what e has to its peer, until there is no more, the peer takes
// no more, or the share is used up.
//
// A read that does not fill the buffer has emptied the socket: the next byte
// is a new edge. So is an end, unless it had been announced before the read.
func (l *loop) pump(e *end) {
	d := e.peer
	for carried := 0; !e.dead && !e.eof && !d.waiting() && !d.connecting; {
		if carried >= share {
			l.later(e)
			return
		}
		n, errno := l.carry(e, d)
		switch {
		case errno == unix.EAGAIN:
			return
		case errno != 0:
			l.reset(e)
			return
		case n == 0:
			l.ended(e)
			return
		case n < bufferSize && e.full < bulkAfter && !e.hung:
			return
		}
		carried += n
	}
}

// carry moves one piece, by the buffer, or for bulk through a pipe. The result
// is that of reading; what goes wrong in writing resets the connection.
func (l *loop) carry(e, d *end) (int, syscall.Errno) {
	if e.full == bulkAfter {
		if p := l.pipes.get(); p != nil {
			return l.carryBulk(e, d, p)
		}
	}
	buf := l.buffer()
	n, errno := read(e.fd, buf)
	if errno != 0 || n == 0 {
		return n, errno
	}
	if n == len(buf) {
		e.full = min(e.full+1, bulkAfter)
	} else {
		l.slim(e)
	}
	w, errno := send(d.fd, buf[:n])
	switch {
	case errno == unix.EAGAIN:
		w = 0
	case errno != 0:
		l.reset(d)
		return n, 0
	}
	if w < n {
		d.out = append(d.out, buf[w:n]...)
	}
	return n, 0
}

func (l *loop) carryBulk(e, d *end, p *pipe) (int, syscall.Errno) {
	if !e.bulky {
		e.bulky = true
		l.bulky++
	}
	n, errno := splice(e.fd, p.w, p.size)
	if errno != 0 || n == 0 {
		l.pipes.put(p)
		return n, errno
	}
	if n < bulkLeast {
		l.slim(e)
	}
	d.pipe, d.piped = p, n
	l.flush(d)
	return n, 0
}

// slim ends the bulk of a direction.
func (l *loop) slim(e *end) {
	e.full = 0
	if e.bulky {
		e.bulky = false
		l.bulky--
	}
}

// flush writes what waits for e and says whether all of it is written and e
// lives. It writes until the socket is full: only then there will be an edge.
func (l *loop) flush(e *end) bool {
	for len(e.out) > 0 {
		n, errno := send(e.fd, e.out)
		if errno == unix.EAGAIN {
			return false
		}
		if errno != 0 {
			l.reset(e)
			return false
		}
		e.out = e.out[n:]
	}
	e.out = nil
	for e.piped > 0 {
		n, errno := splice(e.pipe.r, e.fd, e.piped)
		if errno == unix.EAGAIN {
			return false
		}
		if errno != 0 || n == 0 {
			l.reset(e)
			return false
		}
		e.piped -= n
	}
	if e.pipe != nil {
		l.pipes.put(e.pipe)
		e.pipe = nil
	}
	if e.finish && !e.shut {
		e.shut = true
		if e.peer.shut {
			l.close(e)
			return false
		}
		unix.Shutdown(e.fd, unix.SHUT_WR)
	}
	return true
}

// ended passes on that e sends no more; the other direction goes on.
func (l *loop) ended(e *end) {
	l.slim(e)
	e.eof = true
	e.peer.finish = true
	l.flush(e.peer)
}

// reset passes on that e broke: its peer sends a RST, as e's partner did.
func (l *loop) reset(e *end) {
	if !e.dead {
		abort(e.peer.fd)
		l.close(e)
	}
}

// close ends both ends of a connection.
func (l *loop) close(e *end) {
	for _, x := range [...]*end{e, e.peer} {
		x.dead = true
		l.slim(x)
		if x.pipe != nil {
			// Whatever is in it belongs to nobody else.
			l.pipes.discard(x.pipe)
			x.pipe = nil
		}
		x.out, x.piped = nil, 0
		l.drop(x.fd)
	}
	l.relay.open.Add(-2)
	if l != l.relay.first {
		l.inbox.left()
	}
}

// later gives e another share when the others have had theirs. Where several
// connections are bulky, one moves to the second loop.
func (l *loop) later(e *end) {
	if l.bulky > 1 && l.handOver(e) {
		return
	}
	if !e.again {
		e.again = true
		l.again = append(l.again, e)
	}
}
