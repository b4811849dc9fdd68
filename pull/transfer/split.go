package transfer

import (
	"context"
	"errors"
	"io"
	"time"
)

const (
	// SegmentSize is what one further connection fetches at a time, and has in memory.
	SegmentSize = 2 << 20

	// splitFrom is the least size that is worth it.
	splitFrom = 16 << 20

	maxAhead = 4 // segments of one body

	// lastSegment is the size of the last ones. They come at the same time, and then
	// all wait to be unpacked: the less, the sooner is the end.
	lastSegment = 256 << 10

	// A body is split if for splitAfter most of the time went by waiting for its one connection.
	splitAfter = 200 * time.Millisecond
)

// ErrNoRange is a server that sends a whole where a part was asked for.
var ErrNoRange = errors.New("the server sends no ranges")

// A Budget bounds what the Splits of one pull have in memory, and how many
// further connections they open.
type Budget chan []byte

// NewBudget is for n segments in all.
func NewBudget(n int) Budget {
	b := make(Budget, n)
	for range n {
		b <- nil // made when first used
	}
	return b
}

// take returns a buffer, or nil if none is left.
func (b Budget) take() []byte {
	select {
	case buf := <-b:
		if buf == nil {
			buf = make([]byte, SegmentSize)
		}
		return buf
	default:
		return nil
	}
}

// A Split reads the bytes of a layer in their order, by one connection as long as
// that keeps the reader busy, and by several, which fetch ranges ahead, if the reader
// mostly waits: many networks give each connection a share of its own. A server that sends
// no ranges is read by one.
type Split struct {
	ctx    context.Context
	stop   context.CancelFunc
	open   func(ctx context.Context, from, to int64) (io.ReadCloser, error)
	size   int64
	p      Patience
	budget Budget

	pos               int64 // that has been read
	direct            *Body // what is read without a buffer, from direct0 to directTo
	direct0, directTo int64
	ahead             []*segment
	next              int64 // where the first segment that is not yet begun is

	began   time.Time
	waited  time.Duration
	split   bool
	noRange bool
}

// NewSplit opens nothing yet. open opens the bytes from one offset to another; from
// 0 to size is the whole. It returns ErrNoRange if it gets all where it asked for a part that does not reach the end.
func NewSplit(ctx context.Context, size int64, p Patience, budget Budget, open func(ctx context.Context, from, to int64) (io.ReadCloser, error)) *Split {
	ctx, stop := context.WithCancel(ctx)
	s := &Split{ctx: ctx, stop: stop, open: open, size: size, p: p, budget: budget}
	s.readDirect(size)
	return s
}

// readDirect begins to read from here to an offset.
func (s *Split) readDirect(to int64) {
	from := s.pos
	s.direct0, s.directTo = from, to
	s.direct = NewBody(s.ctx, to-from, s.p, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		return s.open(ctx, from+offset, to)
	})
}

func (s *Split) Read(b []byte) (int, error) {
	if s.began.IsZero() {
		s.began = time.Now()
	}
	for {
		switch {
		case s.direct != nil:
			n, err := s.readFrom(b)
			if n > 0 || err != nil {
				return n, err
			}
		case len(s.ahead) > 0:
			n, err := s.ahead[0].read(b)
			s.pos += int64(n)
			if err == io.EOF {
				s.drop(1)
				s.fetch()
				err = nil
			}
			if errors.Is(err, ErrNoRange) {
				s.noRange = true
				s.drop(len(s.ahead))
				s.readDirect(s.size)
				err = nil
			}
			if n > 0 || err != nil {
				return n, err
			}
		case s.pos == s.size:
			return 0, io.EOF
		default:
			if s.fetch(); len(s.ahead) == 0 {
				// Others have all the buffers: this stretch goes without.
				s.readDirect(min(s.pos+SegmentSize, s.size))
				s.next = s.directTo
			}
		}
	}
}

// readFrom reads from the direct body, and measures how long that is waited for.
func (s *Split) readFrom(b []byte) (int, error) {
	left := s.directTo - s.pos
	if left == 0 && s.directTo < s.size {
		s.direct.Close()
		s.direct = nil
		return 0, nil
	}
	// At the end of the whole one byte more is asked for: there must be none.
	b = b[:min(int64(len(b)), max(left, 1))]
	start := time.Now()
	n, err := s.direct.Read(b)
	now := time.Now()
	s.waited += now.Sub(start)
	s.pos += int64(n)
	if err == io.EOF {
		s.direct.Close()
		s.direct = nil
		return n, nil
	}
	if errors.Is(err, ErrNoRange) {
		// A stretch in between: all the rest at once, which skips what has been read.
		s.noRange = true
		s.direct.Close()
		s.readDirect(s.size)
		return n, nil
	}
	if total := now.Sub(s.began); !s.split && !s.noRange && s.size-s.pos >= splitFrom/2 && s.size >= splitFrom && total >= splitAfter && s.waited > total*6/10 {
		s.split = true
		// This connection goes on while the others set out.
		s.directTo = min(s.pos+SegmentSize/2, s.size)
		s.next = s.directTo
	}
	if s.split && !s.noRange {
		s.fetch()
	}
	return n, err
}

// fetch begins as many segments as there is room for.
func (s *Split) fetch() {
	for len(s.ahead) < maxAhead && s.next < s.size {
		buf := s.budget.take()
		if buf == nil {
			return
		}
		size := min(max((s.size-s.next)/(2*maxAhead), lastSegment), SegmentSize)
		from, to := s.next, min(s.next+size, s.size)
		s.next = to
		s.ahead = append(s.ahead, s.begin(from, to, buf))
	}
}

// drop ends the first n segments and gives their buffers back.
func (s *Split) drop(n int) {
	for _, g := range s.ahead[:n] {
		g.body.Stop()
		<-g.done
		s.budget <- g.buf
	}
	s.ahead = append(s.ahead[:0], s.ahead[n:]...)
}

// Stop ends the transfer, and a Read that waits; from any goroutine.
func (s *Split) Stop() { s.stop() }

// Close ends the transfer. It must not run beside a Read; Stop may.
func (s *Split) Close() error {
	s.stop()
	if s.direct != nil {
		s.direct.Close()
		s.direct = nil
	}
	s.drop(len(s.ahead))
	return nil
}

// A segment is a range that is fetched ahead.
type segment struct {
	body *Body
	buf  []byte
	size int
	came chan int // how many bytes are there so far; the last one is kept
	done chan struct{}
	err  error // before done is closed

	have, taken int // of the reader
}

func (s *Split) begin(from, to int64, buf []byte) *segment {
	g := &segment{buf: buf, size: int(to - from), came: make(chan int, 1), done: make(chan struct{})}
	g.body = NewBody(s.ctx, to-from, s.p, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		return s.open(ctx, from+offset, to)
	})
	go func() {
		defer close(g.done)
		defer g.body.Close()
		for n := 0; n < g.size; {
			k, err := g.body.Read(g.buf[n:g.size])
			if n += k; k > 0 {
				select {
				case <-g.came:
				default:
				}
				g.came <- n
			}
			if err != nil {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				g.err = err
				return
			}
		}
	}()
	return g
}

// read returns what is there, and waits if there is nothing. io.EOF is the segment's end.
func (g *segment) read(b []byte) (int, error) {
	for g.taken == g.have {
		if g.taken == g.size {
			return 0, io.EOF
		}
		select {
		case g.have = <-g.came:
		case <-g.done:
			select {
			case g.have = <-g.came: // the last that came
			default:
				if g.err != nil {
					return 0, g.err
				}
				g.have = g.size
			}
		}
	}
	n := copy(b, g.buf[g.taken:g.have])
	g.taken += n
	return n, nil
}
