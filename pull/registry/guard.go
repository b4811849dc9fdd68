package registry

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A guard is the bottom of every request of one registry: what is not allowed
// does not leave the machine, whatever the code above it was told by the registry.
//
//   - Plain http goes to loopback and to hosts the user named, and to no other, so that
//     neither a redirect nor a realm can turn https into http.
//   - A token request follows no redirect.
//   - A redirect or a realm reaches an address of a private network, of this machine or of
//     the link only where the registry itself is on such a one: checked after DNS, at connect(2).
//   - Certificates are verified except for hosts the user named. Client certificates and
//     headers of a configuration go to the registry and to nobody else.
//
// Source: GHSA-2qjp-425j-52j9, CVE-2026-33540 and their like; SSRF.
type guard struct {
	rules

	// own is for the registry's host and has the client certificates; lax, besides,
	// verifies none.
	strict, own, lax *http.Transport

	mu      sync.Mutex
	class   class           // of the registry's address; the widest seen
	proxies map[string]bool // host:port of the user's own proxies
}

// rules are what a guard lets through.
type rules struct {
	registry   string                 // host[:port] of the registry, as requests have it
	insecure   func(host string) bool // plain http, and any certificate; may be nil
	plain      bool                   // the registry is spoken to without TLS
	unverified bool                   // the registry's certificate may be any
	root       string                 // the path of its API
	header     http.Header            // for the registry
	roots      *x509.CertPool         // nil: the system's
	pairs      []tls.Certificate
	connect    time.Duration // how long a connect may take
	idle       time.Duration // how long an answer
}

// A class of addresses, from everybody's to this machine's.
type class int

const (
	public class = iota
	private
	loopback
	link // never reached by way of another class
)

func classify(ip netip.Addr) class {
	ip = ip.Unmap()
	switch {
	case ip.IsLinkLocalUnicast(), ip.IsMulticast(), ip == netip.MustParseAddr("fd00:ec2::254"):
		return link
	case ip.IsLoopback(), ip.IsUnspecified():
		return loopback
	case ip.IsPrivate(), netip.MustParsePrefix("100.64.0.0/10").Contains(ip):
		return private
	}
	return public
}

// isLoopback is for names: plain http is for these without being asked.
func isLoopback(host string) bool {
	name := hostname(host)
	if name == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.IsLoopback()
}

// hostname is a host without its port and brackets.
func hostname(host string) string {
	u := url.URL{Host: host}
	return u.Hostname()
}

// newGuard makes one for a registry. Nothing is connected yet.
func newGuard(r rules) *guard {
	g := &guard{rules: r, proxies: map[string]bool{}}
	make := func(verify bool, pairs []tls.Certificate) *http.Transport {
		return &http.Transport{
			Proxy:                 g.proxy,
			DialContext:           g.dial,
			TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: !verify, RootCAs: r.roots, Certificates: pairs},
			TLSHandshakeTimeout:   15 * time.Second,
			ResponseHeaderTimeout: r.idle,
			IdleConnTimeout:       30 * time.Second,
			MaxIdleConnsPerHost:   8,
			ReadBufferSize:        64 << 10,
			DisableCompression:    true, // the bytes are what the digest is of
			// HTTP/1 alone: HTTP/2 would put what is to go over several connections, to
			// have the share of several, on one.
			TLSNextProto: map[string]func(string, *tls.Conn) http.RoundTripper{},
		}
	}
	g.strict, g.own, g.lax = make(true, nil), make(true, r.pairs), make(false, r.pairs)
	return g
}

func (g *guard) close() {
	g.strict.CloseIdleConnections()
	g.own.CloseIdleConnections()
	g.lax.CloseIdleConnections()
}

// mayPlain says whether a host may be spoken to without TLS.
func (g *guard) mayPlain(host string) bool {
	return isLoopback(host) || g.plain && host == g.registry || g.insecure != nil && g.insecure(host)
}

// A RefusedError is a request that the guard did not send.
type RefusedError struct{ URL, Why string }

func (e *RefusedError) Error() string { return fmt.Sprintf("%s: %s", e.URL, e.Why) }

func (g *guard) RoundTrip(req *http.Request) (*http.Response, error) {
	// Of a URL only this is ever shown: a signed one is a credential.
	shown := req.URL.Scheme + "://" + req.URL.Host
	refuse := func(why string) (*http.Response, error) {
		if req.Body != nil {
			req.Body.Close()
		}
		return nil, &RefusedError{shown, why}
	}
	if before := req.Response; before != nil && before.Request != nil {
		first := before.Request
		for first.Response != nil && first.Response.Request != nil {
			first = first.Response.Request
		}
		if before.Request.URL.Scheme == "https" && req.URL.Scheme != "https" {
			return refuse("a redirect from https to " + req.URL.Scheme + " is not followed")
		}
		ours := strings.Contains(first.URL.Path, "/manifests/") || strings.Contains(first.URL.Path, "/blobs/")
		ping := (first.URL.Path == "/v2/" || first.URL.Path == g.root) && req.URL.Host == first.URL.Host
		if !ours && !ping {
			return refuse("a redirect of a token request is not followed")
		}
	}
	switch req.URL.Scheme {
	case "https":
	case "http":
		if !g.mayPlain(req.URL.Host) {
			return refuse("plain http is only for this machine and for hosts it is asked for")
		}
	default:
		return refuse("not http")
	}
	own := req.URL.Host == g.registry
	if own && len(g.header) > 0 {
		// Here and not above: a redirect to another host would take them along.
		req = req.Clone(req.Context())
		for k, v := range g.header {
			if req.Header[k] == nil {
				req.Header[k] = v
			}
		}
	}
	switch {
	case own && g.unverified, g.insecure != nil && g.insecure(req.URL.Host):
		return g.lax.RoundTrip(req)
	case own:
		return g.own.RoundTrip(req)
	}
	return g.strict.RoundTrip(req)
}

// proxy is the environment's, remembered so that dial lets it be anywhere.
func (g *guard) proxy(req *http.Request) (*url.URL, error) {
	u, err := http.ProxyFromEnvironment(req)
	if name := strings.ToUpper(req.URL.Scheme) + "_PROXY"; err != nil || !isProxy(name) {
		// The library takes what is no URL for no proxy, or for one of another name. Its
		// errors show the URL, and that may hold a password.
		return nil, &RefusedError{name, "it is no URL of a proxy"}
	}
	if u != nil {
		port := u.Port()
		if port == "" {
			port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
		}
		g.mu.Lock()
		g.proxies[net.JoinHostPort(u.Hostname(), port)] = true
		g.mu.Unlock()
	}
	return u, err
}

// isProxy says whether a variable, in one of its spellings, is empty or may be a proxy's URL.
func isProxy(name string) bool {
	value := cmp.Or(os.Getenv(name), os.Getenv(strings.ToLower(name)))
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	_, err := url.Parse(value)
	return err == nil
}

func (g *guard) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	own := host == hostname(g.registry)
	g.mu.Lock()
	trusted := g.proxies[address] || g.insecure != nil && !own && g.insecure(address)
	g.mu.Unlock()
	d := net.Dialer{
		Timeout:   g.connect,
		KeepAlive: 30 * time.Second,
		Control: func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			c := classify(at.Addr())
			g.mu.Lock()
			defer g.mu.Unlock()
			switch {
			case own:
				// A name that is loopback by its spelling is spoken to in the clear.
				if isLoopback(host) && c != loopback {
					return &RefusedError{host, "it is not this machine"}
				}
				if c > g.class {
					g.class = c
				}
			case trusted, c == public, c == g.class, g.class == loopback && c == private:
			default:
				return &RefusedError{host, "a registry elsewhere does not lead to an address of this network (" + at.Addr().String() + ")"}
			}
			return nil
		},
	}
	return d.DialContext(ctx, network, address)
}

// isPlainServer says whether a TLS handshake failed because the other side
// does not speak TLS at all. A certificate that does not hold is no such case.
func isPlainServer(err error) bool {
	var record tls.RecordHeaderError
	return errors.As(err, &record) || errors.Is(err, http.ErrSchemeMismatch)
}
