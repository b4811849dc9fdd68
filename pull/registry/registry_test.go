package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"

	"skiff/pull"
	"skiff/pull/transfer"
)

func TestFault(t *testing.T) {
	var u *pull.UnreachableError
	c := &client{host: "q.io"}
	for want, cause := range map[pull.Reason]error{
		pull.DNS:     &net.DNSError{IsNotFound: true},
		pull.Timeout: &net.DNSError{IsTimeout: true},
		pull.Cert:    &tls.CertificateVerificationError{Err: errors.New("x")},
		pull.TLS:     tls.RecordHeaderError{},
		pull.Other:   syscall.ENETUNREACH,
	} {
		err := c.fault(context.Background(), &url.Error{Op: "Get", URL: "https://cdn/?signature=secret", Err: cause})
		if !errors.As(err, &u) || u.Reason != want || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// SECURITY cases 58 and 66.
func TestGuard(t *testing.T) {
	g := newGuard(rules{registry: "registry.example", insecure: func(h string) bool { return h == "plain.example:5000" }})
	request := func(url string, before *http.Request) error {
		req, err := http.NewRequest("GET", url, nil)
		must(t, err)
		if before != nil {
			req.Response = &http.Response{Request: before}
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // what is let through fails by this
		_, err = g.RoundTrip(req.WithContext(ctx))
		return err
	}
	from := func(url string) *http.Request { r, err := http.NewRequest("GET", url, nil); must(t, err); return r }
	for _, c := range []struct {
		url, from string
		refused   bool
	}{
		{"https://registry.example/v2/", "", false},
		{"http://registry.example/v2/", "", true},
		{"http://10.0.0.1/v2/", "", true},
		{"http://plain.example:5000/v2/", "", false},
		{"http://plain.example/v2/", "", true},
		{"http://localhost:5000/v2/", "", false},
		{"http://127.1.2.3/v2/", "", false},
		{"http://[::1]:5000/v2/", "", false},
		{"http://localhost.example/v2/", "", true},
		{"ftp://registry.example/", "", true},
		{"https://cdn.example/x", "https://registry.example/v2/a/blobs/sha256:1", false},
		{"http://localhost/x", "https://registry.example/v2/a/blobs/sha256:1", true},
		{"https://cdn.example/x", "https://auth.example/token", true},
		{"https://auth.example/y", "https://auth.example/token", true},
		{"https://registry.example/v2", "https://registry.example/v2/", false},
	} {
		var before *http.Request
		if c.from != "" {
			before = from(c.from)
		}
		if err := request(c.url, before); errors.As(err, new(*RefusedError)) != c.refused {
			t.Errorf("%s from %q: %v", c.url, c.from, err)
		}
	}
	for ip, want := range map[string]class{"1.2.3.4": public, "10.1.1.1": private, "100.64.0.1": private, "fc00::1": private, "127.0.0.1": loopback, "::ffff:127.0.0.1": loopback, "0.0.0.0": loopback, "169.254.169.254": link, "fd00:ec2::254": link, "fe80::1": link} {
		if got := classify(netip.MustParseAddr(ip)); got != want {
			t.Errorf("%s is %v", ip, got)
		}
	}
	if !isPlainServer(tls.RecordHeaderError{}) {
		t.Error("a server without TLS is not seen")
	}
}

// A registry elsewhere must not lead to this machine, even by a name.
func TestGuardDial(t *testing.T) {
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	g := newGuard(rules{registry: "registry.example"})
	address := strings.TrimPrefix(s.URL, "http://")
	if c, err := g.dial(context.Background(), "tcp", address); !errors.As(err, new(*RefusedError)) {
		t.Errorf("%v", err)
		if c != nil {
			c.Close()
		}
	}
	g.class = loopback
	c, err := g.dial(context.Background(), "tcp", address)
	must(t, err)
	c.Close()
}

// SECURITY case 63.
func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for value, want := range map[string]time.Duration{"7": 7 * time.Second, "Fri, 02 Jan 2026 03:04:15 GMT": 10 * time.Second, "Fri, 02 Jan 2015 03:04:15 GMT": 0} {
		if got, ok := retryAfter(value, now); !ok || got != want {
			t.Errorf("%q: %v %v", value, got, ok)
		}
	}
	for _, value := range []string{"", "-1", "soon", "99999999999999999999"} {
		if got, ok := retryAfter(value, now); ok {
			t.Errorf("%q: %v", value, got)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// A set number of tries is kept to, and no wait is longer than the limit.
func TestRetryTries(t *testing.T) {
	for _, c := range []struct {
		tries int
		after string
		want  int
	}{{1, "", 1}, {3, "", 3}, {3, "3600", 1}} {
		n := 0
		r := &retry{patience: transfer.Patience{First: time.Microsecond, Limit: time.Second, Tries: c.tries, Even: true}, next: roundTripper(func(req *http.Request) (*http.Response, error) {
			n++
			return &http.Response{StatusCode: 503, Header: http.Header{"Retry-After": {c.after}}, Body: http.NoBody}, nil
		})}
		req, err := http.NewRequest("GET", "https://q.io/v2/", nil)
		must(t, err)
		res, err := r.RoundTrip(req)
		must(t, err)
		if n != c.want || res.StatusCode != 503 {
			t.Errorf("%d tries, Retry-After %q: %d requests", c.tries, c.after, n)
		}
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// What a file says is sent to a host is sent to no other, wherever it leads.
func TestHeaderStays(t *testing.T) {
	var other http.Header
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { other = r.Header }))
	defer elsewhere.Close()
	var own http.Header
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		own = r.Header
		http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "http://")
	g := newGuard(rules{registry: host, root: "/v2/", header: http.Header{"X-Key": {"secret"}}})
	res, err := (&client{}).over(g).Get(s.URL + "/v2/a/blobs/sha256:1")
	must(t, err)
	res.Body.Close()
	if own.Get("X-Key") != "secret" || other == nil || other.Get("X-Key") != "" {
		t.Errorf("%v, %v", own, other)
	}
}
