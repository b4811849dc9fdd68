// Package transfer brings bytes over a network that breaks: what may pass is
// waited for and tried again, and a body goes on where it broke off.
//
// Limits: it knows no protocol. Whether the bytes are the right ones is for the
// caller's digest to say.
package transfer

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"syscall"
	"time"
)

// Patience is how long a silent or broken network is borne with.
type Patience struct {
	Idle  time.Duration // without a byte
	First time.Duration // the wait before the first new try; it doubles
	Limit time.Duration // of one request with its tries; with Tries, of one wait that a server asks for

	Tries int  // of a request, and of a body without progress between them; 0: by Limit
	Even  bool // the wait does not double
}

// Wait is the n-th wait, from 0, before jitter.
func (p Patience) Wait(n int) time.Duration {
	if p.Even {
		return p.First
	}
	return p.First << min(n, 20)
}

// Again is how often a small document that broke off is read again.
func (p Patience) Again() int {
	if p.Tries > 0 {
		return p.Tries - 1
	}
	return 2
}

// ErrIdle is a transfer of which nothing came for the idle time.
var ErrIdle = errors.New("nothing came for too long")

// Passing says whether an error of a connection may be gone the next time. A name that is not known
// and a port where nobody listens are not waited for.
func Passing(err error) bool {
	var timeout net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, ErrIdle) ||
		errors.Is(err, net.ErrClosed) || // package http closes a connection that broke while it writes to it
		errors.As(err, &timeout) && timeout.Timeout() && !isDial(err)
}

// isDial: a connect that timed out has waited long enough.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// Jitter is d give or take a quarter, so that many clients do not come back at once.
func Jitter(d time.Duration) time.Duration {
	if d < 4 {
		return d
	}
	return d*3/4 + rand.N(d/2)
}

// Wait returns the cause if ctx ends first.
func Wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
