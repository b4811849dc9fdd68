// Package lease gives out IP addresses. A lease is a file, named after the
// address, whose owner holds a flock on it for life.
//
// There is no daemon, no database and no clean-up to depend on: the kernel
// drops the lock when the owner dies, however it dies, and a file that can be
// locked is a free address. No pid is ever trusted.
//
// Taking an address waits for nobody. The lock on the address's own file is
// all that makes it unique; the hint of where to look first may be read and
// written by many at once, since a wrong hint costs a few system calls only.
//
// Source: flock(2): the lock belongs to the open file description, so it is
// kept by duplicates and gone with the last of them.
//
// Limits: the directory must be on a local file system, private to one user,
// and per boot (below /run) or shared by nobody else. The lock is not
// inherited by programs (close-on-exec), but a forked task that keeps skiff's
// descriptors keeps the lease.
package lease

import (
	"fmt"
	"net/netip"
	"time"
)

// Info says who holds an address. It is for people and for other containers'
// name look-ups; nothing decides by it whether a lease is alive.
type Info struct {
	ID      string    `json:"id"` // the container's
	Name    string    `json:"name,omitempty"`
	Aliases []string  `json:"aliases,omitempty"`
	PID     int       `json:"pid,omitempty"` // the owner's, which is skiff's own
	Created time.Time `json:"created,omitzero"`

	// Of members of named networks; Router and User are descriptors of PID's, which others open by /proc.
	MAC      string `json:"mac,omitempty"`
	Hostname string `json:"hostname,omitempty"`
	Router   int    `json:"router,omitempty"` // the network's namespace, 0 until it is made
	User     int    `json:"user,omitempty"`   // the user namespace that it belongs to, 0 for the host's
}

// FullError says that every address of a network is held.
type FullError struct {
	Prefix netip.Prefix
}

func (e *FullError) Error() string {
	return fmt.Sprintf("no free address in %s", e.Prefix)
}

// A candidate list walks a network's usable addresses once, cyclically.
//
// Of IPv4 the network's first and last address are left out; of IPv6 the
// first, the subnet-router anycast address (RFC 4291, 2.6.1).
type candidates struct {
	prefix  netip.Prefix
	gateway netip.Addr
	next    netip.Addr
	left    int
}

// maxScan bounds the search in large networks.
const maxScan = 1 << 16

func newCandidates(prefix netip.Prefix, gateway, last netip.Addr) candidates {
	prefix = prefix.Masked()
	c := candidates{prefix: prefix, gateway: gateway, left: maxScan}
	if bits := prefix.Addr().BitLen() - prefix.Bits(); bits < 16 {
		c.left = 1 << bits
	}
	if !prefix.Contains(last) {
		last = prefix.Addr()
	}
	c.next = last.Next()
	return c
}

// take returns the next address, or false after one whole round.
func (c *candidates) take() (netip.Addr, bool) {
	for c.left > 0 {
		c.left--
		a := c.next
		if !a.IsValid() || !c.prefix.Contains(a) {
			a = c.prefix.Addr()
		}
		c.next = a.Next()
		if a == c.gateway || c.reserved(a) {
			continue
		}
		return a, true
	}
	return netip.Addr{}, false
}

func (c *candidates) reserved(a netip.Addr) bool {
	if c.prefix.Bits() >= a.BitLen()-1 { // point-to-point networks reserve nothing (RFC 3021)
		return false
	}
	if a == c.prefix.Addr() {
		return true
	}
	next := a.Next()
	return a.Is4() && (!next.IsValid() || !c.prefix.Contains(next))
}
