package netlink

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// kernel is the address of the kernel: port 0, no groups.
var kernel = unix.RawSockaddrNetlink{Family: unix.AF_NETLINK}

// sendto sends p to the kernel. unix.Sendto would allocate an address.
func sendto(fd int, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n, _, e := unix.Syscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)), 0,
		uintptr(unsafe.Pointer(&kernel)), unix.SizeofSockaddrNetlink)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

// recv reads a datagram without waiting. MSG_TRUNC makes the result the
// datagram's true length, which exceeds len(p) when it did not fit.
func recv(fd int, p []byte) (int, error) {
	n, _, e := unix.Syscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&p[0])), uintptr(len(p)),
		unix.MSG_DONTWAIT|unix.MSG_TRUNC, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}
