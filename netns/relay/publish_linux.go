package relay

import (
	"net/netip"
	"syscall"
	"unsafe"

	"skiff/netns/ports"

	"golang.org/x/sys/unix"
)

// An entrance is what a loop needs for published ports: connections and
// datagrams that come to the host for the container.
//
// Inside, a client has its own address: the socket that is connected to the container
// is one of R, where every address is local, and is bound to the client's. What cannot
// be a client's address there, such as 127.0.0.1, is the gateway. Without an R, which
// is root's network, all clients are the gateway.
type entrance struct {
	to      netip.Addr // the container
	inside  netip.Prefix
	stock   *stock // sockets of R, or nil: those of the host reach the container
	waiting []door // not watched: for want of sockets, or because there are too many
	visits  map[visitor]*visit
	names   *names // once a datagram came
}

// A door watches a published port.
type door interface {
	handler
	socket() int
}

// enter has the loop serve published ports. The sockets stay the caller's.
func (l *loop) enter(to netip.Prefix, s *stock, sockets []ports.Socket) error {
	l.entrance = &entrance{to: to.Addr(), inside: to.Masked(), stock: s}
	for _, p := range sockets {
		var d door = &publisher{p.FD, p.Container}
		if p.Proto == ports.UDP {
			d = &mailbox{p.FD, p.Container, p.Host.Addr()}
		}
		if errno := l.watch(p.FD, d, unix.EPOLLIN); errno != 0 {
			return &Error{Step: "watch published port", Err: errno}
		}
	}
	return nil
}

// end forgets what is not in the loop's table.
func (e *entrance) end() {
	if e != nil && e.stock != nil {
		e.stock.end()
	}
}

// shut stops watching a door until open.
func (l *loop) shut(d door) {
	l.unwatch(d.socket())
	l.entrance.waiting = append(l.entrance.waiting, d)
}

// open watches all doors again.
func (e *entrance) open(l *loop) {
	for _, d := range e.waiting {
		l.watch(d.socket(), d, unix.EPOLLIN)
	}
	e.waiting = e.waiting[:0]
}

// sweep is called once a second. It says whether there is anything to watch the clock for.
func (e *entrance) sweep(l *loop, again bool) bool {
	if e == nil {
		return false
	}
	if again {
		e.sweepVisits(l)
		e.open(l)
	}
	return len(e.visits) > 0 || len(e.waiting) > 0
}

// visited says whether there are datagrams to expect.
func (e *entrance) visited() bool { return e != nil && len(e.visits) > 0 }

// A publisher watches a listening socket of the host.
type publisher struct {
	fd   int
	port uint16 // inside
}

func (p *publisher) socket() int { return p.fd }

// event takes connections while there are sockets for their other end. What
// is not taken waits in line, and is taken when there are.
func (p *publisher) event(l *loop, _ uint32) {
	r := l.relay
	for range 32 {
		if r.open.Load()+2 > r.most || !l.stocked(unix.SOCK_STREAM, 1) {
			l.shut(p)
			return
		}
		fd, from, errno := acceptFrom(p.fd)
		switch errno {
		case 0:
			l.inward(fd, from, netip.AddrPortFrom(l.entrance.to, p.port))
		case unix.EAGAIN:
			return
		case unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS:
			l.shut(p)
			return
		}
	}
}

// inward connects to the container for a client.
func (l *loop) inward(fd int, from, to netip.AddrPort) {
	l.relay.open.Add(2)
	out := &end{fd: fd}
	inner, errno := l.connectAs(unix.SOCK_STREAM, from, to)
	if errno != 0 {
		abort(fd)
		l.discard(out)
		return
	}
	in := &end{fd: inner, connecting: true}
	if !l.pair(out, in) {
		abort(fd)
		closeFD(inner)
		l.discard(out)
		return
	}
	if l.watch(inner, in, edge) != 0 {
		l.reset(in)
	}
}

// connectAs returns a socket that connects to the container as the client: with
// its address and port, or else its address and any port, or else as the gateway.
func (l *loop) connectAs(kind int, from, to netip.AddrPort) (int, syscall.Errno) {
	e := l.entrance
	if e.stock == nil {
		return l.connectFrom(kind, netip.AddrPort{}, to)
	}
	if e.visible(from.Addr()) {
		for _, as := range [...]netip.AddrPort{from, netip.AddrPortFrom(from.Addr(), 0)} {
			// EADDRINUSE: the port is one of skiff's own in R. EADDRNOTAVAIL: the client
			// has a connection to this very port from there, by another of the host's.
			if fd, errno := l.connectFrom(kind, as, to); errno != unix.EADDRINUSE && errno != unix.EADDRNOTAVAIL {
				return fd, errno
			}
		}
	}
	return l.connectFrom(kind, netip.AddrPort{}, to)
}

// visible says whether an address can be a client's inside.
func (e *entrance) visible(a netip.Addr) bool {
	return a.Is4() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast() && !e.inside.Contains(a)
}

// connectFrom takes a socket and connects it, bound if from is valid.
func (l *loop) connectFrom(kind int, from, to netip.AddrPort) (int, syscall.Errno) {
	fd, errno := l.take(kind)
	if errno != 0 {
		return -1, errno
	}
	if from.IsValid() {
		if from.Port() == 0 {
			setInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		}
		sa := inet4(from)
		_, _, errno = syscall.RawSyscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet4)
	}
	if errno == 0 {
		errno = connect(fd, to, 0)
	}
	if errno != 0 {
		closeFD(fd)
		return -1, errno
	}
	return fd, 0
}

// acceptFrom takes a connection and tells whose it is.
func acceptFrom(fd int) (int, netip.AddrPort, syscall.Errno) {
	var from unix.RawSockaddrInet6
	size := uint32(unix.SizeofSockaddrInet6)
	for {
		c, _, e := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)),
			unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch e {
		case 0:
			return int(c), addrPortOf(&from), 0
		case unix.EINTR:
		default:
			return -1, netip.AddrPort{}, e
		}
	}
}

// addrPortOf reads a socket address of either family. A zone is left out.
func addrPortOf(sa *unix.RawSockaddrInet6) netip.AddrPort {
	if sa.Family == unix.AF_INET6 {
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), getPort(&sa.Port))
	}
	four := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
	return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), getPort(&four.Port))
}
