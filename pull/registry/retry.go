package registry

import (
	"io"
	"net/http"
	"strconv"
	"time"

	"skiff/pull/transfer"
)

// retry sends a request again that failed in a way that may pass: a connection
// that broke, a busy or broken server. It waits twice as long each time, with jitter,
// or as long as Retry-After says, and gives up when the next wait would end
// after the limit; where a number of tries is set, after these, or when a wait is longer than the limit.
type retry struct {
	next     http.RoundTripper
	patience transfer.Patience
}

func (r *retry) RoundTrip(req *http.Request) (*http.Response, error) {
	start := time.Now()
	for try := 0; ; try++ {
		res, err := r.next.RoundTrip(req)
		if req.Body != nil || req.Method != http.MethodGet && req.Method != http.MethodHead {
			return res, err
		}
		pause := transfer.Jitter(r.patience.Wait(try))
		var asked time.Duration
		switch {
		case err != nil:
			if req.Context().Err() != nil || !transfer.Passing(err) {
				return nil, err
			}
		case res.StatusCode == http.StatusTooManyRequests, res.StatusCode == http.StatusRequestTimeout,
			res.StatusCode >= 500 && res.StatusCode != http.StatusNotImplemented && res.StatusCode != http.StatusHTTPVersionNotSupported:
			if after, ok := retryAfter(res.Header.Get("Retry-After"), time.Now()); ok {
				asked, pause = after, max(after, pause)
			}
		default:
			return res, nil
		}
		if n := r.patience.Tries; n > 0 && (try+1 >= n || asked > r.patience.Limit) || n == 0 && time.Since(start)+pause > r.patience.Limit {
			return res, err
		}
		if res != nil {
			// So that the connection can be used again.
			io.CopyN(io.Discard, res.Body, 64<<10)
			res.Body.Close()
		}
		if err := transfer.Wait(req.Context(), pause); err != nil {
			return nil, err
		}
	}
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
