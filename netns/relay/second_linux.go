package relay

import (
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"
)

// An inbox is how the first loop gives bulky connections to the second,
// which exists once there were two of them.
type inbox struct {
	mu   sync.Mutex
	ends []*end
	fd   int // eventfd(2)
	load int // connections that the second loop has or will have
}

// handOver moves the connection of e to the second loop. A connection moves
// once, so that two loops never play ball with it.
func (l *loop) handOver(e *end) bool {
	r := l.relay
	if e.moved || l != r.first {
		return false
	}
	if r.second == nil {
		if r.second = r.startSecond(); r.second == nil {
			return false
		}
	}
	h := &r.second.inbox
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.load >= l.bulky {
		return false
	}
	for _, x := range [...]*end{e, e.peer} {
		x.moved = true
		if i := slices.Index(l.again, x); i >= 0 {
			l.again[i] = nil
			x.again = false
		}
		if x.bulky {
			l.bulky--
		}
		if x.pipe != nil {
			l.pipes.all--
		}
		l.unwatch(x.fd)
	}
	h.ends = append(h.ends, e)
	h.load++
	h.wake()
	return true
}

// startSecond makes the second loop and its thread; nil if that cannot be.
func (r *Relay) startSecond() *loop {
	l, err := newLoop(r)
	if err != nil {
		return nil
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(l.epoll)
		return nil
	}
	l.inbox.fd = fd
	l.watch(fd, &l.inbox, unix.EPOLLIN)
	r.done.Add(1)
	go func() {
		defer r.done.Done()
		runtime.LockOSThread()
		l.run()
	}()
	return l
}

// event takes over what was handed here.
func (h *inbox) event(l *loop, events uint32) {
	var count [8]byte
	read(h.fd, count[:])
	h.mu.Lock()
	ends := h.ends
	h.ends = nil
	h.mu.Unlock()
	for _, e := range ends {
		l.adopt(e)
	}
}

// adopt goes on with a connection of the first loop. Watching anew tells of
// everything that happened in between.
func (l *loop) adopt(e *end) {
	for _, x := range [...]*end{e, e.peer} {
		if x.bulky {
			l.bulky++
		}
		if x.pipe != nil {
			l.pipes.all++
		}
	}
	for _, x := range [...]*end{e, e.peer} {
		if l.watch(x.fd, x, edge) != 0 {
			l.reset(e)
			return
		}
	}
	l.pump(e)
	l.pump(e.peer)
}

// wake makes the second loop look around.
func (h *inbox) wake() {
	one := [8]byte{0: 1}
	unix.Write(h.fd, one[:])
}

// left notes that a connection of the second loop is gone.
func (h *inbox) left() {
	h.mu.Lock()
	h.load--
	h.mu.Unlock()
}
