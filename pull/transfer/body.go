package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

const (
	maxBreaks = 6       // without enough progress between them
	enough    = 1 << 20 // bytes of progress
)

// A Body reads the bytes of a layer, and opens it again where it broke. A
// server that sends slowly is waited for; one that sends nothing is not.
type Body struct {
	ctx  context.Context
	stop func() // ends ctx
	open func(ctx context.Context, offset int64) (io.ReadCloser, error)
	size int64
	idle time.Duration
	wait func(n int) time.Duration // before the n-th new try, from 0
	most int                       // breaks without progress between them

	off    int64 // what has been read
	mark   int64 // off at the last break that counted
	breaks int
	cur    io.ReadCloser
	watch  *time.Timer
	cancel context.CancelCauseFunc
	err    error
}

// NewBody opens nothing yet. size is of the whole: fewer bytes are read for
// again, more are an error.
func NewBody(ctx context.Context, size int64, p Patience, open func(ctx context.Context, offset int64) (io.ReadCloser, error)) *Body {
	ctx, cancel := context.WithCancel(ctx)
	most := maxBreaks
	if p.Tries > 0 {
		most = p.Tries
	}
	return &Body{ctx: ctx, stop: cancel, open: open, size: size, idle: p.Idle, wait: p.Wait, most: most}
}

func (b *Body) Read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	for {
		n, err := b.read(p)
		if n > 0 {
			if b.off += int64(n); b.off > b.size {
				b.err = fmt.Errorf("more than the %d bytes it should have", b.size)
				return 0, b.err
			}
			return n, nil
		}
		if err == nil {
			continue
		}
		transfer := b.cur != nil // it had begun
		b.close()
		if b.off == b.size && b.ctx.Err() == nil {
			// Whole, however it ended; whether it is right the digest says.
			b.err = io.EOF
			return 0, io.EOF
		}
		if err := b.again(err, transfer); err != nil {
			b.err = err
			return 0, err
		}
	}
}

// read reads once, under the watch.
func (b *Body) read(p []byte) (int, error) {
	if b.cur == nil {
		ctx, cancel := context.WithCancelCause(b.ctx)
		b.cancel = cancel
		b.watch = time.AfterFunc(b.idle, func() { cancel(ErrIdle) })
		r, err := b.open(ctx, b.off)
		if err != nil {
			return 0, cause(ctx, err)
		}
		b.cur = &watched{r, ctx}
	}
	// The watch runs while the network is waited for, not while the disk is.
	b.watch.Reset(b.idle)
	defer b.watch.Stop()
	return b.cur.Read(p)
}

// watched gives the reason of a cancelled read.
type watched struct {
	io.ReadCloser
	ctx context.Context
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = cause(w.ctx, err)
	}
	return n, err
}

func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// again decides whether to try again after err, and waits. A transfer that had
// begun may break in many ways, HTTP/2's own among them; a file on this disk may not.
func (b *Body) again(err error, transfer bool) error {
	if b.ctx.Err() != nil {
		return context.Cause(b.ctx)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // it ended short
	}
	var file *fs.PathError
	if errors.As(err, &file) || !transfer && !Passing(err) {
		return err
	}
	if b.off-b.mark >= enough {
		b.breaks = 0
	}
	b.mark = b.off
	if b.breaks++; errors.Is(err, ErrIdle) {
		b.breaks += 2
	}
	if b.breaks >= b.most {
		return fmt.Errorf("broken off %d times, the last time after %d of %d bytes: %w", b.breaks, b.off, b.size, err)
	}
	return Wait(b.ctx, Jitter(b.wait(b.breaks-1)))
}

func (b *Body) close() {
	if b.cur != nil {
		b.cur.Close()
		b.cur = nil
	}
	if b.cancel != nil {
		b.watch.Stop()
		b.cancel(nil)
		b.cancel = nil
	}
}

// Stop ends the transfer, and a Read that waits; from any goroutine.
func (b *Body) Stop() { b.stop() }

// Close ends the transfer. It must not run beside a Read; Stop may.
func (b *Body) Close() error {
	b.stop()
	b.close()
	if b.err == nil {
		b.err = os.ErrClosed
	}
	return nil
}
