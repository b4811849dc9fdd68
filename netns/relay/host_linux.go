package relay

import (
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// An outwardAddr is the address that the host reaches out from. It is looked up
// when it is needed, once a second at most: hosts move.
type outwardAddr struct {
	checked int64 // second of the loop at which it was looked up; 0: never
	addr    netip.Addr
	errno   syscall.Errno
}

// elsewhere is an address for looking up the way out: TEST-NET-3 (RFC 5737).
// Nothing is sent to it.
var elsewhere = netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, 1}), 9)

// at returns the address with a port; now is the loop's second. A host that has
// none but loopback gives ENETUNREACH.
func (h *outwardAddr) at(now int64, port uint16) (netip.AddrPort, syscall.Errno) {
	if h.checked != now+1 {
		h.checked = now + 1
		h.addr, h.errno = lookUpOutward()
	}
	return netip.AddrPortFrom(h.addr, port), h.errno
}

// lookUpOutward asks the kernel which address it would send from. Without a way
// out it is the first that an interface has.
func lookUpOutward() (netip.Addr, syscall.Errno) {
	fd, errno := socket(unix.AF_INET, unix.SOCK_DGRAM)
	if errno != 0 {
		return netip.Addr{}, errno
	}
	defer closeFD(fd)
	if connect(fd, elsewhere, 0) == 0 {
		sa, err := unix.Getsockname(fd)
		if own, ok := sa.(*unix.SockaddrInet4); err == nil && ok && own.Addr[0] != 127 {
			return netip.AddrFrom4(own.Addr), 0
		}
	}
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr(), 0
		}
	}
	return netip.Addr{}, unix.ENETUNREACH
}
