package pull

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strconv"
	"syscall"
	"time"
)

// retry sends a request again that failed in a way that may pass: a connection
// that broke, a busy or broken server. It waits twice as long each time, with jitter,
// or as long as Retry-After says, and gives up when the next wait would end
// after limit.
type retry struct {
	next  http.RoundTripper
	first time.Duration // the first wait
	limit time.Duration // of everything
}

func (r *retry) RoundTrip(req *http.Request) (*http.Response, error) {
	start := time.Now()
	for wait := r.first; ; wait *= 2 {
		res, err := r.next.RoundTrip(req)
		if req.Body != nil || req.Method != http.MethodGet && req.Method != http.MethodHead {
			return res, err
		}
		pause := jitter(wait)
		switch {
		case err != nil:
			if req.Context().Err() != nil || !passing(err) {
				return nil, err
			}
		case res.StatusCode == http.StatusTooManyRequests, res.StatusCode == http.StatusRequestTimeout,
			res.StatusCode >= 500 && res.StatusCode != http.StatusNotImplemented && res.StatusCode != http.StatusHTTPVersionNotSupported:
			if after, ok := retryAfter(res.Header.Get("Retry-After"), time.Now()); ok {
				pause = max(after, pause)
			}
		default:
			return res, nil
		}
		if time.Since(start)+pause > r.limit {
			return res, err
		}
		if res != nil {
			// So that the connection can be used again.
			io.CopyN(io.Discard, res.Body, 64<<10)
			res.Body.Close()
		}
		if err := sleep(req.Context(), pause); err != nil {
			return nil, err
		}
	}
}

// passing says whether an error of a connection may be gone the next time. A name that is not known
// and a port where nobody listens are not waited for.
func passing(err error) bool {
	var timeout net.Error
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, errIdle) ||
		errors.As(err, &timeout) && timeout.Timeout() && !isDial(err)
}

// isDial: a connect that timed out has waited long enough.
func isDial(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// retryAfter reads the header, which is seconds or a date. Source: RFC 9110, 10.2.3.
func retryAfter(value string, now time.Time) (time.Duration, bool) {
	if n, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(n) * time.Second, true
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0), true
	}
	return 0, false
}

// jitter is d give or take a quarter, so that many clients do not come back at once.
func jitter(d time.Duration) time.Duration {
	if d < 4 {
		return d
	}
	return d*3/4 + rand.N(d/2)
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
