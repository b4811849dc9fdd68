package registry

import (
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// brief cuts short the answers that are read for what they say and not for what they hold: refusals,
// redirects, those to what was sent, and that at the API's root. go-containerregistry and package http read them to
// their ends, for which a registry could make them wait for ever.
type brief struct {
	next http.RoundTripper
	root string // of the API
	most time.Duration
}

// maxBrief is how much of such an answer is read.
const maxBrief = 64 << 10

func (b *brief) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := b.next.RoundTrip(req)
	if err == nil && (res.StatusCode >= 300 || req.URL.Path == b.root || req.Method != http.MethodGet && req.Method != http.MethodHead) {
		// What has come by then is what there is: the status says the most.
		res.Body = within(res.Body, b.most, maxBrief, io.EOF)
	}
	return res, err
}

// within is a body of so many bytes at most, that is read in so much time in all. late is the error
// when that is over.
func within(body io.ReadCloser, most time.Duration, size int64, late error) io.ReadCloser {
	s := &short{body: body, left: size, late: late}
	s.watch = time.AfterFunc(most, func() {
		s.over.Store(true)
		body.Close()
	})
	return s
}

type short struct {
	body  io.ReadCloser
	left  int64
	late  error
	watch *time.Timer
	over  atomic.Bool
}

func (s *short) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n, err := s.body.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	if err != nil && err != io.EOF && s.over.Load() {
		err = s.late
	}
	return n, err
}

func (s *short) Close() error {
	s.watch.Stop()
	return s.body.Close()
}
