package ports

import (
	"errors"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"
)

// Bind binds all of list, or nothing. defaults are the addresses of those that
// have none; nil stands for loopback, of which a host without IPv6 has one. The
// sockets are in the order of list. The error is an *Error.
//
// The ports that are named come first, then ranges, then the kernel's choice,
// so that none of the latter takes what is named further down.
func Bind(list []Port, defaults []netip.Addr) (_ []Socket, err error) {
	bound := make([][]Socket, len(list))
	defer func() {
		if err != nil {
			Close(slices.Concat(bound...))
		}
	}()
	for _, turn := range []func(Port) bool{
		func(p Port) bool { return !p.Chosen() },
		func(p Port) bool { return p.Chosen() && p.First != 0 },
		func(p Port) bool { return p.First == 0 },
	} {
		for i, p := range list {
			if !turn(p) {
				continue
			}
			addresses, optional := []netip.Addr{p.Address}, false
			if !p.Address.IsValid() {
				if addresses = defaults; len(addresses) == 0 {
					addresses, optional = loopback, true
				}
			}
			if bound[i], err = bindOne(p, addresses, optional); err != nil {
				var e *Error
				if errors.As(err, &e) && e.Err == unix.EADDRINUSE && !p.Chosen() && ours(slices.Concat(bound...), e) {
					e.Err = ErrTwice
				}
				return nil, err
			}
		}
	}
	return slices.Concat(bound...), nil
}

// ours says whether one of the sockets is in the way of a port.
func ours(sockets []Socket, e *Error) bool {
	return slices.ContainsFunc(sockets, func(s Socket) bool { return e.InTheWay(s.Binding) })
}

// Close closes sockets.
func Close(sockets []Socket) {
	for _, s := range sockets {
		unix.Close(s.FD)
	}
}

// bindTries is how often the kernel is asked for a port that is free at all addresses.
const bindTries = 64

// bindOne binds a port at all addresses, at each the same. Where they are optional,
// those but the first may be missing.
func bindOne(p Port, addresses []netip.Addr, optional bool) (sockets []Socket, err error) {
	for try, n := 0, int(p.First); ; try++ {
		sockets, err = bindAt(p, uint16(n), addresses, optional)
		switch {
		case err == nil:
			return sockets, nil
		case !errors.Is(err, unix.EADDRINUSE):
			return nil, err
		case p.First == 0 && try < bindTries:
			continue
		case n >= int(p.Last):
			return nil, err
		}
		n++
	}
}

func bindAt(p Port, port uint16, addresses []netip.Addr, optional bool) (sockets []Socket, err error) {
	for i, a := range addresses {
		s := Socket{Binding: Binding{Host: netip.AddrPortFrom(a, port), Container: p.Container, Proto: p.Proto}, Chosen: p.Chosen()}
		err := s.open()
		if optional && i > 0 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			continue
		}
		if err != nil {
			Close(sockets)
			return nil, &Error{At: p.host(a), Host: netip.AddrPortFrom(a, port), Proto: p.Proto, Err: err}
		}
		port = s.Host.Port()
		sockets = append(sockets, s)
	}
	return sockets, nil
}

const (
	// backlog is how many connections may wait to be accepted; cut to net.core.somaxconn.
	backlog = 4096
	// receiveBuffer is what UDP may have waiting, bytes; cut to net.core.rmem_max.
	receiveBuffer = 4 << 20
)

// open makes the socket, and fills in the port that the kernel chose.
//
// The options of a listening socket are those of the connections it takes.
// Keep-alives find clients that went without a word, which the container's
// own cannot, since the connection is split here.
func (s *Socket) open() (err error) {
	a := s.Host.Addr()
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	var at unix.Sockaddr = &unix.SockaddrInet4{Port: int(s.Host.Port()), Addr: as4(a)}
	if a.Is6() {
		family, at = unix.AF_INET6, &unix.SockaddrInet6{Port: int(s.Host.Port()), Addr: a.As16()}
	}
	if s.Proto == UDP {
		kind = unix.SOCK_DGRAM
	}
	s.FD, err = unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unix.Close(s.FD)
		}
	}()
	if family == unix.AF_INET6 {
		// 0.0.0.0 is published apart, or not at all.
		if err := unix.SetsockoptInt(s.FD, unix.SOL_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return err
		}
	}
	if s.Proto == TCP {
		// Connections of an earlier run may be in TIME_WAIT. Two that listen still
		// exclude each other; with UDP they would not.
		unix.SetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
		unix.SetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		unix.SetsockoptInt(s.FD, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	} else {
		unix.SetsockoptInt(s.FD, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
		if err := s.askForDestinations(); err != nil {
			return err
		}
	}
	if err := unix.Bind(s.FD, at); err != nil {
		return err
	}
	if s.Proto == TCP {
		if err := unix.Listen(s.FD, backlog); err != nil {
			return err
		}
	}
	if s.Host.Port() != 0 {
		return nil
	}
	own, err := unix.Getsockname(s.FD)
	if err != nil {
		return err
	}
	switch own := own.(type) {
	case *unix.SockaddrInet4:
		s.Host = netip.AddrPortFrom(a, uint16(own.Port))
	case *unix.SockaddrInet6:
		s.Host = netip.AddrPortFrom(a, uint16(own.Port))
	}
	return nil
}

// askForDestinations has datagrams tell which of the host's addresses they were sent to,
// from which they must be answered. Source: ip(7), IP_PKTINFO; RFC 3542.
func (s *Socket) askForDestinations() error {
	if !s.Host.Addr().IsUnspecified() {
		return nil
	}
	if s.Host.Addr().Is6() {
		return unix.SetsockoptInt(s.FD, unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(s.FD, unix.SOL_IP, unix.IP_PKTINFO, 1)
}

func as4(a netip.Addr) (b [4]byte) {
	if a.Is4() {
		return a.As4()
	}
	return b
}
