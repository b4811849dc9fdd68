package relay

import (
	"encoding/binary"
	"net/netip"
)

// Packets are written for a raw socket with IP_HDRINCL (raw(7)): the kernel
// fills in the header's checksum, its total length and an identification of 0.

const (
	ipLen   = 20
	udpLen  = 8
	tcpLen  = 20
	tcpSYN  = 0x02
	tcpRST  = 0x04
	tcpACK  = 0x10
	icmpLen = 8
)

// A tuple names a connection or flow, from the container's side.
type tuple struct {
	src, dst         [4]byte
	srcPort, dstPort uint16
}

func (t tuple) to() netip.AddrPort { return netip.AddrPortFrom(netip.AddrFrom4(t.dst), t.dstPort) }

// parseSYN reads the beginning of an IPv4 packet that may be a TCP SYN; the
// header of TCP must be there as a whole. Source: RFC 791, RFC 9293.
func parseSYN(p []byte) (t tuple, ok bool) {
	if len(p) < ipLen || p[0]>>4 != 4 || p[9] != 6 {
		return t, false
	}
	ihl := int(p[0]&15) * 4
	if ihl < ipLen || len(p) < ihl+tcpLen {
		return t, false
	}
	if fragment := binary.BigEndian.Uint16(p[6:]); fragment&0x3fff != 0 {
		return t, false
	}
	seg := p[ihl:]
	if seg[13]&(tcpSYN|tcpACK|tcpRST) != tcpSYN {
		return t, false
	}
	t.src, t.dst = [4]byte(p[12:]), [4]byte(p[16:])
	t.srcPort, t.dstPort = binary.BigEndian.Uint16(seg), binary.BigEndian.Uint16(seg[2:])
	return t, true
}

// appendIP appends an IPv4 header.
func appendIP(b []byte, proto byte, src, dst [4]byte, length int) []byte {
	b = append(b, 0x45, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(length))
	b = append(b, 0, 0, 0x40, 0, 64, proto, 0, 0) // do not fragment, ttl 64
	b = append(b, src[:]...)
	return append(b, dst[:]...)
}

// appendReset appends the answer of a machine where nobody listens to a SYN
// that parseSYN has accepted. Source: RFC 9293, 3.10.7.1.
func appendReset(b, syn []byte) []byte {
	ihl := int(syn[0]&15) * 4
	src, dst := [4]byte(syn[16:]), [4]byte(syn[12:])
	b = appendIP(b, 6, src, dst, ipLen+tcpLen)
	at := len(b)
	b = append(b, syn[ihl+2], syn[ihl+3], syn[ihl], syn[ihl+1])
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, binary.BigEndian.Uint32(syn[ihl+4:])+1)
	b = append(b, tcpLen/4<<4, tcpRST|tcpACK, 0, 0, 0, 0, 0, 0)
	seg := b[at:]
	sum := sum16(sum16(0, src[:]), dst[:]) + 6 + tcpLen
	binary.BigEndian.PutUint16(seg[16:], fold(sum16(sum, seg)))
	return b
}

// ICMP codes of destination unreachable, type 3 (RFC 792, RFC 1812).
const (
	icmpNet        = 0
	icmpHost       = 1
	icmpPort       = 3
	icmpProhibited = 13
)

// appendUnreachable appends an ICMP destination unreachable from the gateway
// about a packet, of which the header and at least 8 bytes more are given.
func appendUnreachable(b []byte, from [4]byte, code byte, packet []byte) []byte {
	quote := packet[:min(len(packet), int(packet[0]&15)*4+tcpLen)]
	b = appendIP(b, 1, from, [4]byte(packet[12:]), ipLen+icmpLen+len(quote))
	at := len(b)
	b = append(b, 3, code, 0, 0, 0, 0, 0, 0)
	b = append(b, quote...)
	msg := b[at:]
	binary.BigEndian.PutUint16(msg[2:], fold(sum16(0, msg)))
	return b
}

// appendUDP appends the headers of a datagram with size bytes of payload. The
// checksum is left out, which RFC 768 allows: it never leaves this machine.
func appendUDP(b []byte, src, dst [4]byte, srcPort, dstPort uint16, size int) []byte {
	b = appendIP(b, 17, src, dst, ipLen+udpLen+size)
	b[len(b)-14] = 0 // it may be fragmented
	b = binary.BigEndian.AppendUint16(b, srcPort)
	b = binary.BigEndian.AppendUint16(b, dstPort)
	b = binary.BigEndian.AppendUint16(b, uint16(udpLen+size))
	return append(b, 0, 0)
}

// sum16 adds big-endian words to a checksum that fold ends (RFC 1071).
func sum16(sum uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		sum += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		sum += uint32(b[0]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum>>16 != 0 {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
