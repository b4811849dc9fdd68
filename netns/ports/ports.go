// Package ports binds the host's side of published ports.
//
// A port is taken by binding it, before the container starts: who comes second
// gets an error and no container. The sockets are skiff's alone, closed on exec,
// so a port is free again the moment skiff has ended, by SIGKILL too. What
// arrives at them is carried by package relay.
//
// A port that is published without an address is bound to the host's loopback,
// 127.0.0.1 and ::1, and not, as with docker, to all addresses: what a developer
// publishes to look at is nobody else's business, and docker's way past the host's
// firewall is what people are bitten by.
//
// Limits: TCP and UDP. An address with a zone (fe80::1%eth0) is refused by the command line.
package ports

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"syscall"
)

// Proto is a transport protocol by its name in flags and records.
type Proto string

const (
	TCP Proto = "tcp"
	UDP Proto = "udp"
)

// A Port is one port of a container that is to be published.
type Port struct {
	Address     netip.Addr // of the host; the zero Addr stands for the default ones
	First, Last uint16     // of the host: the first that is free is taken; 0: the kernel chooses
	Container   uint16
	Proto       Proto
}

// Chosen reports whether it is not known beforehand which port of the host it will be.
func (p Port) Chosen() bool { return p.First == 0 || p.First != p.Last }

// host is what was asked for, for messages.
func (p Port) host(a netip.Addr) string {
	if p.First == p.Last {
		return netip.AddrPortFrom(a, p.First).String()
	}
	return fmt.Sprintf("%s-%d", netip.AddrPortFrom(a, p.First), p.Last)
}

// A Binding is a port of the host that leads to one of the container.
type Binding struct {
	Host      netip.AddrPort
	Container uint16
	Proto     Proto
}

// Inside is the container's port as docker writes it: 80/tcp.
func (b Binding) Inside() string {
	return strconv.Itoa(int(b.Container)) + "/" + string(b.Proto)
}

// A Socket is a bound port, listening if it is TCP's. The descriptor is the
// caller's to close; it does not block and is closed on exec.
type Socket struct {
	Binding
	FD     int
	Chosen bool // the port was not named, but chosen
}

// An Error is a port of the host that cannot be had.
type Error struct {
	At     string         // address and port, or range of ports
	Host   netip.AddrPort // the last one that was tried; port 0 if the kernel was to choose
	Proto  Proto
	Holder string // the container that has it, or ""; the caller knows
	Err    error  // the errno, or ErrTwice
}

// ErrTwice is a port of the host that is to lead to two places.
var ErrTwice = errors.New("is published twice")

func (e *Error) Error() string {
	at := "publish " + e.At + "/" + string(e.Proto)
	switch {
	case e.Holder != "":
		return at + ": in use by container " + e.Holder
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return at + ": the host has no such address"
	}
	return fmt.Sprintf("%s: %v", at, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// InTheWay reports whether a binding keeps the one that failed from being made.
func (e *Error) InTheWay(b Binding) bool {
	a, other := e.Host.Addr(), b.Host.Addr()
	return b.Proto == e.Proto && b.Host.Port() == e.Host.Port() && a.Is4() == other.Is4() &&
		(a == other || a.IsUnspecified() || other.IsUnspecified())
}

// loopback are the default addresses.
var loopback = []netip.Addr{netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()}
