package registry

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

	"skiff/pull"
	"skiff/pull/transfer"
)

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
	e := &pull.UnreachableError{Registry: c.host, Reason: pull.Other, Err: bare(err)}
	var dns *net.DNSError
	var timeout net.Error
	var op *net.OpError
	var unknown x509.UnknownAuthorityError
	var name x509.HostnameError
	var cert x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	switch {
	case errors.As(err, &op) && op.Op == "proxyconnect":
		e.Reason, e.Err = pull.Proxy, op.Err
	case errors.As(err, &dns) && !dns.IsTimeout:
		e.Reason = pull.DNS
	case errors.Is(err, syscall.ECONNREFUSED):
		e.Reason = pull.Refused
	case errors.As(err, &verify), errors.As(err, &unknown), errors.As(err, &name), errors.As(err, &cert):
		e.Reason = pull.Cert
	case isPlainServer(err):
		e.Reason = pull.TLS
	case errors.As(err, &timeout) && timeout.Timeout(), errors.Is(err, transfer.ErrIdle):
		e.Reason = pull.Timeout
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
		return &pull.BusyError{Registry: c.host, Status: e.StatusCode, Phrase: http.StatusText(e.StatusCode), Err: said}
	case e.StatusCode == http.StatusUnauthorized, e.StatusCode == http.StatusForbidden:
		return &pull.UnauthorizedError{Registry: c.host, Reference: c.ref.Familiar(), Anonymous: c.anonymous, Push: c.push, Err: said}
	case e.StatusCode == http.StatusNotFound, has(transport.ManifestUnknownErrorCode, transport.NameUnknownErrorCode):
		return &pull.UnknownImageError{Reference: c.ref.Familiar(), Err: said}
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
		said := strings.Join(e.Said, "; ")
		if len(said) > 300 {
			said = said[:300] + "…"
		}
		s += ": " + said
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
		var busy *pull.BusyError
		if errors.As(fault, &busy) {
			busy.After, _ = retryAfter(res.Header.Get("Retry-After"), time.Now())
		}
		return fault
	}
	return c.fault(res.Request.Context(), err)
}
