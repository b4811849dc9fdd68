package relay

import (
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

// An outwardAddr is the address that the host reaches out from. It is looked up
// when it is needed, once a second at most: hosts move.
type outwardAddr struct {
	checked int64 // second of the loop at which it was looked up; 0: never
	addr    netip.Addr
}

// elsewhere is an address for looking up the way out: TEST-NET-3 (RFC 5737).
// Nothing is sent to it.
var elsewhere = netip.AddrPortFrom(netip.AddrFrom4([4]byte{203, 0, 113, 1}), 9)

// at returns the address with a port; now is the loop's second. On a host that has
// none but loopback it is that of nobody, to which there is no way.
func (h *outwardAddr) at(now int64, port uint16) netip.AddrPort {
	if h.checked != now+1 {
		h.checked = now + 1
		h.addr = lookUpOutward()
	}
	return netip.AddrPortFrom(h.addr, port)
}

// lookUpOutward asks the kernel which address it would send from. Without a way
// out it is the first that an interface has.
func lookUpOutward() netip.Addr {
	if fd, errno := socket(unix.AF_INET, unix.SOCK_DGRAM); errno == 0 {
		defer closeFD(fd)
		if connect(fd, elsewhere, 0) == 0 {
			sa, err := unix.Getsockname(fd)
			if own, ok := sa.(*unix.SockaddrInet4); err == nil && ok && own.Addr[0] != 127 {
				return netip.AddrFrom4(own.Addr)
			}
		}
	}
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	return netip.AddrFrom4([4]byte{192, 0, 0, 8}) // RFC 7600: a dummy, nobody's
}
