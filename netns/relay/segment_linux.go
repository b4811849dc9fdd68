package relay

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A joined is what a message became when those of one size were joined: which
// was the first, and whether there were more.
type joined struct {
	message int
	joined  bool
}

const (
	segmentSpace = unix.SizeofCmsghdr + 8 // CMSG_SPACE of a uint16
	// segmentsMost is how many datagrams the kernel takes at once (UDP_MAX_SEGMENTS).
	segmentsMost = 64
	// segmentsSize is how much it takes at once, with headers to come, bytes.
	segmentsSize = 65000
)

// join makes one message of each row of prepared messages between i and j that
// have one size; the last of a row may be shorter. The kernel cuts it up again
// when it has passed everything that costs once per packet (udp(7), UDP_SEGMENT,
// kernel 4.18). It returns the end of the messages, which begin at i as before.
//
// Of a flood of 1,400 bytes each it took the relay 3.8 us before, 2.3 us since.
func (b *batch) join(i, j int) (end int) {
	for end = i; i < j; end++ {
		size, total, k := b.size(i), b.size(i), i+1
		for k < j && size > 0 && k-i < segmentsMost && b.size(k) > 0 && b.size(k) <= size && total+b.size(k) <= segmentsSize {
			total += b.size(k)
			if k++; b.size(k-1) < size {
				break
			}
		}
		h := &b.msgs[end].hdr
		*h = unix.Msghdr{Iov: &b.iovs[i]}
		h.SetIovlen(k - i)
		if k-i > 1 {
			oob := &b.sizes[end]
			c := (*unix.Cmsghdr)(unsafe.Pointer(oob))
			c.Level, c.Type = unix.IPPROTO_UDP, unix.UDP_SEGMENT
			c.SetLen(unix.CmsgLen(2))
			binary.NativeEndian.PutUint16(oob[unix.SizeofCmsghdr:], uint16(size))
			h.Control = &oob[0]
			h.SetControllen(len(oob))
		}
		b.first[end] = joined{i, k-i > 1}
		i = k
	}
	return end
}

// size is how long a prepared message is.
func (b *batch) size(i int) int { return int(b.iovs[i].Len) }

// notJoined says whether the kernel does not take joined messages: it does not
// know them, or cannot send them this way.
func notJoined(errno syscall.Errno) bool {
	switch errno {
	case unix.EINVAL, unix.EIO, unix.EMSGSIZE, unix.EOPNOTSUPP, unix.ENOPROTOOPT:
		return true
	}
	return false
}
