package transfer

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/iotest"
	"time"
)

var soon = Patience{Idle: 5 * time.Second, First: time.Millisecond, Limit: time.Second}

// A slow server gives each connection 20 MB/s.
type slowServer struct {
	data   []byte
	broken int  // connections that break off after 1 MB
	whole  bool // knows no ranges
	chunk  int  // bytes each 5 ms; 0: 100,000

	mu         sync.Mutex
	open, most int
	asked      int64 // bytes that were sent
}

func (s *slowServer) get(ctx context.Context, from, to int64) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.whole && to < int64(len(s.data)) {
		return nil, ErrNoRange
	}
	s.open++
	s.most = max(s.most, s.open)
	var r io.Reader = bytes.NewReader(s.data[from:to])
	if s.broken > 0 {
		s.broken--
		r = io.MultiReader(io.LimitReader(r, 1<<20), iotest.ErrReader(io.ErrUnexpectedEOF))
	}
	return &slowBody{s: s, ctx: ctx, r: r}, nil
}

type slowBody struct {
	s      *slowServer
	ctx    context.Context
	r      io.Reader
	closed bool
}

func (b *slowBody) Read(p []byte) (int, error) {
	p = p[:min(len(p), cmp.Or(b.s.chunk, 100_000))]
	if err := Wait(b.ctx, 5*time.Millisecond); err != nil {
		return 0, err
	}
	n, err := b.r.Read(p)
	b.s.mu.Lock()
	b.s.asked += int64(n)
	b.s.mu.Unlock()
	return n, err
}

func (b *slowBody) Close() error {
	b.s.mu.Lock()
	defer b.s.mu.Unlock()
	if !b.closed {
		b.closed = true
		b.s.open--
	}
	return nil
}

func noise(n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(n)})
	src.Read(b)
	return b
}

func TestSplit(t *testing.T) {
	for name, c := range map[string]struct {
		server *slowServer
		budget int
		least  int // connections at once
		most   int
	}{
		"slow":       {&slowServer{data: noise(30 << 20)}, 6, 4, maxAhead + 1},
		"small":      {&slowServer{data: noise(splitFrom - 1)}, 6, 1, 1},
		"no ranges":  {&slowServer{data: noise(20 << 20), whole: true}, 6, 1, 2}, // the last segment reaches the end and is served
		"no buffers": {&slowServer{data: noise(20 << 20)}, 0, 1, 1},
		"one buffer": {&slowServer{data: noise(25 << 20)}, 1, 2, 2},
		"broken":     {&slowServer{data: noise(25<<20 + 3), broken: 5}, 6, 3, maxAhead + 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, budget := c.server, NewBudget(c.budget)
			s := NewSplit(context.Background(), int64(len(server.data)), soon, budget, server.get)
			h := sha256.New()
			n, err := io.CopyBuffer(struct{ io.Writer }{h}, struct{ io.Reader }{s}, make([]byte, 128<<10))
			if err != nil || n != int64(len(server.data)) || [32]byte(h.Sum(nil)) != sha256.Sum256(server.data) {
				t.Errorf("%d of %d bytes, or others: %v", n, len(server.data), err)
			}
			if server.most < c.least || server.most > c.most {
				t.Errorf("%d connections at once, not %d to %d", server.most, c.least, c.most)
			}
			if extra := server.asked - n; extra > n/10 {
				t.Errorf("%d bytes were fetched in vain", extra)
			}
			if _, err := s.Read(make([]byte, 1)); err != io.EOF {
				t.Errorf("after the end: %v", err)
			}
			s.Close()
			if server.open != 0 || len(budget) != c.budget {
				t.Errorf("%d connections are open, %d of %d buffers are back", server.open, len(budget), c.budget)
			}
		})
	}
}

// A reader that is busy is served by one connection.
func TestSplitNotForBusyReaders(t *testing.T) {
	server := &slowServer{data: noise(splitFrom), chunk: 1 << 20}
	s := NewSplit(context.Background(), int64(len(server.data)), soon, NewBudget(6), server.get)
	defer s.Close()
	b := make([]byte, 1<<20)
	for {
		_, err := s.Read(b)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(60 * time.Millisecond) // ten times what the server takes
	}
	if server.most != 1 {
		t.Errorf("%d connections", server.most)
	}
}

func TestSplitFails(t *testing.T) {
	gone := errors.New("gone")
	server := &slowServer{data: noise(30 << 20)}
	s := NewSplit(context.Background(), int64(len(server.data)), soon, NewBudget(6), func(ctx context.Context, from, to int64) (io.ReadCloser, error) {
		if from > 12<<20 {
			return nil, fmt.Errorf("no: %w", gone)
		}
		return server.get(ctx, from, to)
	})
	n, err := io.Copy(io.Discard, s)
	if !errors.Is(err, gone) || n == 0 {
		t.Errorf("after %d bytes: %v", n, err)
	}
	s.Close()

	// Stopped from outside while it is read.
	server = &slowServer{data: noise(60 << 20)}
	budget := NewBudget(6)
	s = NewSplit(context.Background(), int64(len(server.data)), soon, budget, server.get)
	time.AfterFunc(500*time.Millisecond, s.Stop)
	if _, err := io.Copy(io.Discard, s); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped: %v", err)
	}
	s.Close()
	if server.open != 0 || len(budget) != 6 {
		t.Errorf("%d connections are open, %d buffers are back", server.open, len(budget))
	}
}
