package relay

import (
	"encoding/binary"
	"net/netip"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// None of these waits, so the Go scheduler is not told of them: that saves a
// good part of their time. An error is an errno, 0 for none.

func read(fd int, p []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

// send writes to a socket; a peer that is gone gives EPIPE and no signal.
func send(fd int, p []byte) (int, syscall.Errno) {
	for {
		n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
			unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT, 0, 0)
		if e != unix.EINTR {
			return int(n), e
		}
	}
}

func splice(from, to, n int) (int, syscall.Errno) {
	for {
		r, _, e := syscall.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		if e != unix.EINTR {
			return int(r), e
		}
	}
}

func closeFD(fd int) { syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

func socket(family, kind int) (int, syscall.Errno) { return socketOf(family, kind, 0) }

func socketOf(family, kind, proto int) (int, syscall.Errno) {
	fd, _, e := syscall.RawSyscall(unix.SYS_SOCKET, uintptr(family), uintptr(kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC), uintptr(proto))
	return int(fd), e
}

// connect begins a connection; EINPROGRESS is success.
func connect(fd int, to netip.AddrPort, zone uint32) syscall.Errno {
	var e syscall.Errno
	if to.Addr().Is4() {
		sa := inet4(to)
		_, _, e = syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet4)
	} else {
		sa := unix.RawSockaddrInet6{Family: unix.AF_INET6, Addr: to.Addr().As16(), Scope_id: zone}
		putPort(&sa.Port, to.Port())
		_, _, e = syscall.RawSyscall(unix.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&sa)), unix.SizeofSockaddrInet6)
	}
	if e == unix.EINPROGRESS {
		return 0
	}
	return e
}

// fromSockaddr reads a sockaddr of IPv4, which is shorter, or IPv6.
func fromSockaddr(sa *unix.RawSockaddrInet6) (address, uint16) {
	if sa.Family == unix.AF_INET {
		s := (*unix.RawSockaddrInet4)(unsafe.Pointer(sa))
		return address4(s.Addr), getPort(&s.Port)
	}
	return sa.Addr, getPort(&sa.Port)
}

// accept takes a connection; its peer's and its own address make the tuple.
func accept(fd int) (int, tuple, syscall.Errno) {
	var peer, own unix.RawSockaddrInet6
	size := uint32(unix.SizeofSockaddrInet6)
	c, _, e := syscall.RawSyscall6(unix.SYS_ACCEPT4, uintptr(fd), uintptr(unsafe.Pointer(&peer)), uintptr(unsafe.Pointer(&size)),
		unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
	if e != 0 {
		return -1, tuple{}, e
	}
	size = unix.SizeofSockaddrInet6
	_, _, e = syscall.RawSyscall(unix.SYS_GETSOCKNAME, c, uintptr(unsafe.Pointer(&own)), uintptr(unsafe.Pointer(&size)))
	if e != 0 {
		closeFD(int(c))
		return -1, tuple{}, unix.ECONNABORTED
	}
	var t tuple
	t.src, t.srcPort = fromSockaddr(&peer)
	t.dst, t.dstPort = fromSockaddr(&own)
	return int(c), t, 0
}

func setInt(fd, level, name, v int) syscall.Errno {
	n := int32(v)
	_, _, e := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&n)), 4, 0)
	return e
}

func setBytes(fd, level, name int, v []byte) syscall.Errno {
	_, _, e := syscall.RawSyscall6(unix.SYS_SETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&v[0])), uintptr(len(v)), 0)
	return e
}

// recvmsg reads one message with its sender and its control messages.
func recvmsg(fd int, p []byte, from *unix.RawSockaddrInet6, oob []byte, flags int) (n int, control []byte, e syscall.Errno) {
	iov := unix.Iovec{Base: unsafe.SliceData(p)}
	iov.SetLen(len(p))
	h := unix.Msghdr{Name: (*byte)(unsafe.Pointer(from)), Namelen: unix.SizeofSockaddrInet6, Iov: &iov, Control: unsafe.SliceData(oob)}
	h.SetIovlen(1)
	h.SetControllen(len(oob))
	r, _, e := syscall.RawSyscall(unix.SYS_RECVMSG, uintptr(fd), uintptr(unsafe.Pointer(&h)), uintptr(flags|unix.MSG_DONTWAIT))
	if e != 0 {
		return 0, nil, e
	}
	return int(r), oob[:min(int(h.Controllen), len(oob))], 0
}

// eachControl calls fn for each control message (cmsg(3)).
func eachControl(oob []byte, fn func(level, typ int32, data []byte)) {
	for len(oob) >= unix.SizeofCmsghdr {
		c := (*unix.Cmsghdr)(unsafe.Pointer(&oob[0]))
		n := int(c.Len)
		if n < unix.SizeofCmsghdr || n > len(oob) {
			return
		}
		fn(c.Level, c.Type, oob[unix.SizeofCmsghdr:n])
		oob = oob[min(unix.CmsgSpace(n-unix.SizeofCmsghdr), len(oob)):]
	}
}

// socketError is the error that waits on a socket, and is then gone.
func socketError(fd int) syscall.Errno {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err.(syscall.Errno)
	}
	return syscall.Errno(n)
}

// abort makes the coming close of a TCP socket send a RST (SO_LINGER of 0, socket(7)).
func abort(fd int) {
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// edge is how sockets are watched: told once of each change.
const edge = unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | 1<<31 // EPOLLET

// mmsghdr is struct mmsghdr of sendmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
	_   [4]byte
}

func recvmmsg(fd int, m []mmsghdr) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_RECVMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), unix.MSG_DONTWAIT, 0, 0)
	return int(n), e
}

func sendmmsg(fd int, m []mmsghdr) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&m[0])), uintptr(len(m)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	return int(n), e
}

func inet4(a netip.AddrPort) unix.RawSockaddrInet4 {
	sa := unix.RawSockaddrInet4{Family: unix.AF_INET, Addr: a.Addr().As4()}
	putPort(&sa.Port, a.Port())
	return sa
}

// A port is in network byte order whatever the machine's.
func putPort(p *uint16, v uint16) { binary.BigEndian.PutUint16((*[2]byte)(unsafe.Pointer(p))[:], v) }
func getPort(p *uint16) uint16    { return binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(p))[:]) }
