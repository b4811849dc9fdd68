package relay

import "golang.org/x/sys/unix"

// A pipe carries bulk data from socket to socket without copying it.
type pipe struct {
	r, w int
	size int // capacity, bytes
}

const (
	// pipeSize is what a pipe is asked to hold; fs.pipe-max-size allows 1 MiB to
	// everybody unless it was lowered.
	pipeSize = 512 << 10
	// pipeLeast is the least that is worth a pipe. Beyond
	// fs.pipe-user-pages-soft, 64 MiB for all pipes of a user, new ones are a
	// page or two: then data is copied. Source: pipe(7).
	pipeLeast = 64 << 10
	// pipesMost bounds the pipes of a loop, idle or filled.
	pipesMost = 32
	// pipesIdle is how many empty pipes are kept for the next flow.
	pipesIdle = 4
)

// pipes is a loop's stock. A pipe belongs to a connection only while there is
// something in it.
type pipes struct {
	idle []*pipe
	all  int
	none bool // the kernel gave us none of use; ask no more
}

// get returns an empty pipe, or nil if data must be copied.
func (s *pipes) get() *pipe {
	if n := len(s.idle); n > 0 {
		p := s.idle[n-1]
		s.idle = s.idle[:n-1]
		return p
	}
	if s.none || s.all == pipesMost {
		return nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		s.none = true
		return nil
	}
	p := &pipe{r: fds[0], w: fds[1]}
	size, err := unix.FcntlInt(uintptr(p.w), unix.F_SETPIPE_SZ, pipeSize)
	if err != nil {
		size, _ = unix.FcntlInt(uintptr(p.w), unix.F_GETPIPE_SZ, 0)
	}
	if p.size = size; size < pipeLeast {
		s.none = true
		closeFD(p.r)
		closeFD(p.w)
		return nil
	}
	s.all++
	return p
}

// put takes back a pipe that is empty, or closes it if enough are idle.
func (s *pipes) put(p *pipe) {
	if len(s.idle) < pipesIdle {
		s.idle = append(s.idle, p)
		return
	}
	s.discard(p)
}

// discard closes a pipe, with whatever is in it.
func (s *pipes) discard(p *pipe) {
	closeFD(p.r)
	closeFD(p.w)
	s.all--
}
