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
	gateway netip.Addr
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
func (l *loop) enter(s *stock, sockets []ports.Socket) error {
	r := l.relay
	l.entrance = &entrance{to: r.address.Addr(), inside: r.address.Masked(), gateway: r.gateway, stock: s}
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
// its address and port, or else its address and any port, or as the gateway.
//
// On the host TIME_WAIT may have used up the gateway's ports, after 28,000 connections in a
// minute that clients ended. For a port that is named, unlike one that it chooses, the kernel passes over
// that (tcp_twsk_unique), and the client's is as good as any. It is not the first choice, since a port that was
// named is no one else's to be chosen.
func (l *loop) connectAs(kind int, from, to netip.AddrPort) (fd int, errno syscall.Errno) {
	e := l.entrance
	as := [...]netip.AddrPort{from, netip.AddrPortFrom(from.Addr(), 0), {}}
	if !e.visible(from.Addr()) {
		as = [...]netip.AddrPort{{}, netip.AddrPortFrom(e.gateway, from.Port()), {}}
	}
	for _, a := range as {
		// EADDRINUSE: the port is skiff's own in R, or somebody's on the host. EADDRNOTAVAIL: the
		// client has a connection to this very port from there, by another of the host's.
		fd, errno = l.connectFrom(kind, a, to)
		if errno != unix.EADDRINUSE && errno != unix.EADDRNOTAVAIL {
			break
		}
	}
	return fd, errno
}

// visible says whether an address can be a client's inside.
func (e *entrance) visible(a netip.Addr) bool {
	return e.stock != nil && a.Is4() && !a.IsLoopback() && !a.IsUnspecified() && !a.IsMulticast() && !e.inside.Contains(a)
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
