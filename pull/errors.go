package pull

import (
	"fmt"
	"time"
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
	Push                bool // it was to be written to
	Err                 error
}

func (e *UnauthorizedError) Error() string {
	if e.Push {
		return fmt.Sprintf("registry %s does not take %s: %v", e.Registry, e.Reference, e.Err)
	}
	if e.Anonymous {
		return fmt.Sprintf("registry %s: repository of %s does not exist or may require a login", e.Registry, e.Reference)
	}
	return fmt.Sprintf("registry %s does not give %s for the stored login", e.Registry, e.Reference)
}
func (e *UnauthorizedError) Unwrap() error { return e.Err }

// A BlockedError is a registry, or a part of one, that a file of this machine forbids.
type BlockedError struct{ Name, File string }

func (e *BlockedError) Error() string { return fmt.Sprintf("%s is blocked by %s", e.Name, e.File) }

// A Reason is why a registry could not be reached.
type Reason string

const (
	DNS     Reason = "dns"     // its name is not known
	Refused Reason = "refused" // nobody listens
	Timeout Reason = "timeout"
	Cert    Reason = "certificate" // its certificate does not hold
	TLS     Reason = "tls"         // it speaks no TLS that we understand
	Proxy   Reason = "proxy"       // the proxy before it could not
	Other   Reason = "network"
)

// An UnreachableError is a registry that could not be spoken to.
type UnreachableError struct {
	Registry string
	Reason   Reason
	Err      error
}

func (e *UnreachableError) Error() string {
	s := fmt.Sprintf("registry %s: %s", e.Registry, e.Cause())
	switch e.Reason {
	case Cert:
		s += " (--tls-verify=false trusts it all the same)"
	case TLS:
		s += " (--tls-verify=false allows plain http)"
	}
	return s
}

// Cause is the message without the registry's name, and without a flag that is not for mirrors.
func (e *UnreachableError) Cause() string {
	switch e.Reason {
	case DNS:
		return "the name is not known"
	case Refused:
		return "nobody listens there"
	case Timeout:
		return "no answer in time"
	case Cert:
		return fmt.Sprintf("its certificate does not hold: %v", e.Err)
	case Proxy:
		return fmt.Sprintf("the proxy: %v", e.Err)
	case TLS:
		return "it does not speak https"
	}
	return e.Err.Error()
}
func (e *UnreachableError) Unwrap() error { return e.Err }

// A BusyError is a registry that asks for patience, longer than we have.
type BusyError struct {
	Registry string
	Status   int           // 429, or 5xx
	Phrase   string        // what the status means: "Too Many Requests"
	After    time.Duration // what Retry-After said; 0 if nothing
	Err      error
}

func (e *BusyError) Error() string {
	s := fmt.Sprintf("registry %s: status %d %s", e.Registry, e.Status, e.Phrase)
	if e.After > 0 {
		s += fmt.Sprintf(", asks to wait %s", e.After)
	}
	return s
}
func (e *BusyError) Unwrap() error { return e.Err }
