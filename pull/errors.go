package pull

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// An UnknownImageError is an image that its registry does not have.
type UnknownImageError struct {
	Reference string // familiar form
	Err       error
}

func (e *UnknownImageError) Error() string {
	return fmt.Sprintf("image %s: no such repository or tag, or it needs a login", e.Reference)
}
func (e *UnknownImageError) Unwrap() error { return e.Err }

// An UnauthorizedError is a registry that refuses. Many say so too of a repository
// that does not exist.
type UnauthorizedError struct {
	Registry, Reference string
	Anonymous           bool // no credentials are stored for it
	Err                 error
}

func (e *UnauthorizedError) Error() string {
	if e.Anonymous {
		return fmt.Sprintf("registry %s: repository of %s does not exist or may require a login", e.Registry, e.Reference)
	}
	return fmt.Sprintf("registry %s does not give %s for the stored login", e.Registry, e.Reference)
}
func (e *UnauthorizedError) Unwrap() error { return e.Err }

// A Reason is why a registry could not be reached.
type Reason string

const (
	DNS     Reason = "dns"     // its name is not known
	Refused Reason = "refused" // nobody listens
	Timeout Reason = "timeout"
	Cert    Reason = "certificate" // its certificate does not hold
	TLS     Reason = "tls"         // it speaks no TLS that we understand
	Other   Reason = "network"
)

// An UnreachableError is a registry that could not be spoken to.
type UnreachableError struct {
	Registry string
	Reason   Reason
	Err      error
}

func (e *UnreachableError) Error() string {
	switch e.Reason {
	case DNS:
		return fmt.Sprintf("registry %s: the name is not known", e.Registry)
	case Refused:
		return fmt.Sprintf("registry %s: nobody listens there", e.Registry)
	case Timeout:
		return fmt.Sprintf("registry %s: no answer in time", e.Registry)
	case Cert:
		return fmt.Sprintf("registry %s: its certificate does not hold: %v (--tls-verify=false trusts it all the same)", e.Registry, e.Err)
	case TLS:
		return fmt.Sprintf("registry %s: it does not speak https (--tls-verify=false allows plain http)", e.Registry)
	}
	return fmt.Sprintf("registry %s: %v", e.Registry, e.Err)
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// A BusyError is a registry that asks for patience, longer than we have.
type BusyError struct {
	Registry string
	Status   int           // 429, or 5xx
	After    time.Duration // what Retry-After said; 0 if nothing
	Err      error
}

func (e *BusyError) Error() string {
	s := fmt.Sprintf("registry %s: status %d %s", e.Registry, e.Status, http.StatusText(e.Status))
	if e.After > 0 {
		s += fmt.Sprintf(", asks to wait %s", e.After)
	}
	return s
}
func (e *BusyError) Unwrap() error { return e.Err }

// fault gives an error of a request the type that its message and its cure
// follow from.
func (c *client) fault(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var status *transport.Error
	if errors.As(err, &status) {
		return c.answered(status)
	}
	var refused *RefusedError
	if errors.As(err, &refused) {
		return refused // and not the URL that *url.Error shows, which may be signed
	}
	e := &UnreachableError{Registry: c.host, Reason: Other, Err: bare(err)}
	var dns *net.DNSError
	var timeout net.Error
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var cert x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dns) && !dns.IsTimeout:
		e.Reason = DNS
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Reason = Refused
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &cert):
		e.Reason = Cert
	case isPlainServer(err):
		e.Reason = TLS
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, errIdle):
		e.Reason = Timeout
	}
	return e
}

// bare takes the URL off an error: a redirect's may be signed, which makes it
// a credential.
func bare(err error) error {
	var u *url.Error
	for errors.As(err, &u) {
		err = u.Err
	}
	return err
}

// answered is the error of an answer with a status.
func (c *client) answered(e *transport.Error) error {
	has := func(codes ...transport.ErrorCode) bool {
		for _, d := range e.Errors {
			for _, code := range codes {
				if d.Code == code {
					return true
				}
			}
		}
		return false
	}
	// What the registry wrote, without the URL of the request.
	said := &StatusError{Status: e.StatusCode}
	for _, d := range e.Errors {
		said.Said = append(said.Said, strings.TrimSuffix(string(d.Code)+": "+d.Message, ": "))
	}
	switch {
	case e.StatusCode == http.StatusTooManyRequests || e.StatusCode >= 500:
		return &BusyError{Registry: c.host, Status: e.StatusCode, Err: said}
	case e.StatusCode == http.StatusUnauthorized, e.StatusCode == http.StatusForbidden:
		return &UnauthorizedError{Registry: c.host, Reference: c.ref.Familiar(), Anonymous: c.anonymous, Err: said}
	case e.StatusCode == http.StatusNotFound, has(transport.ManifestUnknownErrorCode, transport.NameUnknownErrorCode):
		return &UnknownImageError{Reference: c.ref.Familiar(), Err: said}
	}
	return fmt.Errorf("registry %s: %w", c.host, said)
}

// A StatusError is what a registry answered.
type StatusError struct {
	Status int
	Said   []string // its own words; to be escaped
}

func (e *StatusError) Error() string {
	s := fmt.Sprintf("status %d %s", e.Status, http.StatusText(e.Status))
	if len(e.Said) > 0 {
		s += ": " + clip(strings.Join(e.Said, "; "))
	}
	return s
}

// status is the error of a response that is not wanted, with the first of its body.
func (c *client) status(res *http.Response) error {
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, 32<<10), res.Body}
	err := transport.CheckError(res)
	var e *transport.Error
	if errors.As(err, &e) {
		fault := c.answered(e)
		var busy *BusyError
		if errors.As(fault, &busy) {
			busy.After, _ = retryAfter(res.Header.Get("Retry-After"), time.Now())
		}
		return fault
	}
	return c.fault(res.Request.Context(), err)
}
