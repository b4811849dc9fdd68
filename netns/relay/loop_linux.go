package relay

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A handler is told what happened on the descriptor that it watches.
type handler interface {
	event(l *loop, events uint32)
}

// A slot is who watches a descriptor. The generation tells a late event of a
// descriptor's former life from one of the present.
type slot struct {
	handler    handler
	generation int32
}

// A loop serves many descriptors on one thread. Nothing in it waits but epoll.
type loop struct {
	relay      *Relay
	epoll      int
	table      []slot // by descriptor
	closing    []int  // closed after the present events, so that none is taken anew meanwhile
	again      []*end // had more to carry than their share
	buf        []byte // bufferSize bytes, once something came
	pipes      pipes
	score      int   // of recent waits that were short
	penalty    int   // of looking in vain: how far below 0 the score falls next
	bulky      int   // directions that are spliced
	now        int64 // seconds since start
	swept      int64 // second of the last sweep
	held       map[tuple]*held
	flows      map[tuple]*flow
	pings      map[tuple]*ping
	batch      *batch      // of datagrams, once one came
	muted      []*listener // not watched until the next sweep, for want of descriptors
	fragmented uint32      // packets of IPv6 that were sent in fragments
	inbox      inbox       // of the second loop

	entrance *entrance // of the first, where ports are published
}

// bufferSize is how much is read at once. Much more than this would fall out
// of the processor's caches between read and write.
const bufferSize = 64 << 10

var start = time.Now()

func newLoop(r *Relay) (*loop, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, &Error{Step: "epoll_create1", Err: err}
	}
	return &loop{relay: r, epoll: fd}, nil
}

// watch has events of fd told to h.
func (l *loop) watch(fd int, h handler, events uint32) syscall.Errno {
	for fd >= len(l.table) {
		l.table = append(l.table, slot{})
	}
	s := &l.table[fd]
	s.generation++
	s.handler = h
	ev := unix.EpollEvent{Events: events, Fd: int32(fd), Pad: s.generation}
	_, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.epoll), unix.EPOLL_CTL_ADD, uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
	if e != 0 {
		s.handler = nil
	}
	return e
}

// become replaces who watches fd, which must be watched.
func (l *loop) become(fd int, h handler) { l.table[fd].handler = h }

// unwatch forgets fd without closing it.
func (l *loop) unwatch(fd int) {
	l.table[fd].handler = nil
	var ev unix.EpollEvent
	syscall.RawSyscall6(unix.SYS_EPOLL_CTL, uintptr(l.epoll), unix.EPOLL_CTL_DEL, uintptr(fd), uintptr(unsafe.Pointer(&ev)), 0, 0)
}

// drop closes fd, as soon as the present events are done.
func (l *loop) drop(fd int) {
	if fd < len(l.table) {
		l.table[fd].handler = nil
	}
	l.closing = append(l.closing, fd)
}

// buffer is the loop's one buffer, good until the next read.
func (l *loop) buffer() []byte {
	if l.buf == nil {
		l.buf = make([]byte, bufferSize)
	}
	return l.buf
}

// run serves, on the calling thread, until the relay is closed.
func (l *loop) run() {
	events := make([]unix.EpollEvent, 64)
	for !l.relay.closed.Load() {
		wait := -1
		switch {
		case len(l.again) > 0:
			wait = 0
		case l.sweep():
			wait = 1000
		}
		n := 0
		if wait == 0 {
			n = l.poll(events)
		} else {
			n = l.wait(events, wait)
		}
		l.now = int64(time.Since(start) / time.Second)
		for _, ev := range events[:n] {
			s := l.table[ev.Fd]
			if s.handler != nil && s.generation == ev.Pad {
				s.handler.event(l, ev.Events)
			}
		}
		l.goOn()
		for _, fd := range l.closing {
			closeFD(fd)
		}
		l.closing = l.closing[:0]
	}
	l.end()
}

// end closes everything but the sockets of R.
func (l *loop) end() {
	for fd, s := range l.table {
		switch s.handler.(type) {
		case *end, *held, *flow, *ping, *visit, *inbox:
			closeFD(fd)
		}
	}
	l.entrance.end()
	if l.batch != nil {
		unix.Munmap(l.batch.memory)
	}
	for _, p := range l.pipes.idle {
		l.pipes.discard(p)
	}
	closeFD(l.epoll)
}

// poll is epoll_wait(2) without waiting.
func (l *loop) poll(events []unix.EpollEvent) int {
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), 0, 0, 0)
	if e != 0 {
		return 0
	}
	return int(n)
}

// wait is epoll_wait(2). If events have been following each other closely it
// looks again for a moment first: to be woken costs both sides more.
func (l *loop) wait(events []unix.EpollEvent, ms int) int {
	begin := time.Now()
	if l.lively() {
		for time.Since(begin) < spin {
			if n := l.poll(events); n > 0 {
				l.penalty -= (l.penalty + 3) / 4
				return n
			}
			syscall.RawSyscall(unix.SYS_SCHED_YIELD, 0, 0, 0)
		}
		l.vain(time.Since(begin))
	}
	n, _, e := syscall.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&events[0])), uintptr(len(events)), uintptr(ms), 0, 0)
	if e != 0 {
		return 0
	}
	if time.Since(begin) < spin {
		l.score = min(l.score+1, scoreMost)
	} else {
		l.score = max(l.score-4, min(l.score, 0))
	}
	return int(n)
}

// vain has the loop look no more until many waits were short, twice as many as
// the last time. If yielding took long, somebody who is no partner wants the
// processor, and yielding may give it a slice of milliseconds: sixteen times.
func (l *loop) vain(took time.Duration) {
	more := 2
	if took > 5*spin {
		more = 16
	}
	l.score = -l.penalty
	l.penalty = min(max(more*l.penalty, 2*more), penaltyMost)
}

const (
	// spin is how long wait looks before it sleeps: as long as a partner takes to
	// be woken, to answer and to wake the loop, in a virtual machine where each wake-up
	// is 30 us. With 40 us a request took half as long again, measured there.
	spin = 100 * time.Microsecond
	// A loop is lively after scoreLively more short waits than long ones, which
	// count four times. Traffic now and then never makes it so.
	scoreLively = 8
	scoreMost   = 16
	penaltyMost = 1024
)

// lively says whether looking is worth it. Bulk has its own rhythm, and its
// partners want the processor.
func (l *loop) lively() bool { return l.score >= scoreLively && l.bulky == 0 }

// sweep forgets, once a second, what has waited too long, and says whether
// there is anything left to watch the clock for.
func (l *loop) sweep() bool {
	inward := l.entrance.sweep(l, l.swept != l.now)
	if l.swept != l.now {
		l.swept = l.now
		l.sweepHeld()
		l.sweepFlows()
		l.sweepPings()
		l.unmute()
	}
	return len(l.held) > 0 || len(l.flows) > 0 || len(l.pings) > 0 || len(l.muted) > 0 || inward
}

// goOn gives those that used up their share another one.
func (l *loop) goOn() {
	todo := len(l.again)
	for i := 0; i < todo; i++ {
		e := l.again[i]
		if e == nil { // handed over
			continue
		}
		e.again = false
		if !e.dead {
			l.pump(e)
		}
	}
	l.again = append(l.again[:0], l.again[todo:]...)
}
