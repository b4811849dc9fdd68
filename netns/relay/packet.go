package relay

import (
	"encoding/binary"
	"math/bits"
	"net/netip"
)

// Packets are written for raw sockets that take the header with them (raw(7),
// IP_HDRINCL): of IPv4's the kernel fills in the checksum, the total length and
// an identification.

const (
	ip4Len  = 20
	ip6Len  = 40
	udpLen  = 8
	tcpLen  = 20
	icmpLen = 8
	tcpSYN  = 0x02
	tcpRST  = 0x04
	tcpACK  = 0x10

	protoICMP  = 1
	protoTCP   = 6
	protoUDP   = 17
	protoICMP6 = 58
)

// An address is one of IPv6, or one of IPv4 behind ::ffff:0:0/96. What comes
// over IPv6 to an address of that form is dropped before anyone looks.
type address [16]byte

var mappedPrefix = [12]byte{10: 0xff, 11: 0xff}

func address4(a [4]byte) (m address) {
	copy(m[:], mappedPrefix[:])
	copy(m[12:], a[:])
	return m
}

// addressOf is the address of a netip.Addr, whose zone is lost.
func addressOf(a netip.Addr) address { return a.As16() }

func (a address) is4() bool        { return [12]byte(a[:12]) == mappedPrefix }
func (a address) as4() [4]byte     { return [4]byte(a[12:]) }
func (a address) addr() netip.Addr { return netip.AddrFrom16(a).Unmap() }

// wire is the address as it stands in a header.
func (a *address) wire() []byte {
	if a.is4() {
		return a[12:]
	}
	return a[:]
}

// A tuple names a connection or flow, from the container's side. One of ICMP
// has the identifier of its echo requests for a port.
type tuple struct {
	src, dst         address
	srcPort, dstPort uint16
}

func (t tuple) to() netip.AddrPort { return netip.AddrPortFrom(t.dst.addr(), t.dstPort) }

// parseIP reads the header of a packet that is no fragment and gives what
// follows it. IPv6 extension headers are not looked behind: nobody sends such
// that begins a connection, and who does is answered by nobody.
// Source: RFC 791, RFC 8200.
func parseIP(p []byte) (t tuple, proto byte, rest []byte, ok bool) {
	switch {
	case len(p) >= ip4Len && p[0]>>4 == 4:
		ihl := int(p[0]&15) * 4
		if ihl < ip4Len || len(p) < ihl || binary.BigEndian.Uint16(p[6:])&0x3fff != 0 {
			return t, 0, nil, false
		}
		return tuple{src: address4([4]byte(p[12:])), dst: address4([4]byte(p[16:]))}, p[9], p[ihl:], true
	case len(p) >= ip6Len && p[0]>>4 == 6:
		t = tuple{src: address(p[8:24]), dst: address(p[24:40])}
		return t, p[6], p[ip6Len:], !t.src.is4() && !t.dst.is4()
	}
	return t, 0, nil, false
}

// parseSYN reads the beginning of a packet that may be a TCP SYN; the
// header of TCP must be there as a whole. Source: RFC 9293.
func parseSYN(p []byte) (tuple, bool) {
	t, proto, seg, ok := parseIP(p)
	if !ok || proto != protoTCP || len(seg) < tcpLen || seg[13]&(tcpSYN|tcpACK|tcpRST) != tcpSYN {
		return t, false
	}
	t.srcPort, t.dstPort = binary.BigEndian.Uint16(seg), binary.BigEndian.Uint16(seg[2:])
	return t, true
}

// headerLen is the length of the header that appendIP appends.
func headerLen(dst address) int {
	if dst.is4() {
		return ip4Len
	}
	return ip6Len
}

// appendIP appends a header for length bytes of payload. IPv4's may be
// fragmented, and where IPv6's must be, writeFragments does it.
func appendIP(b []byte, proto byte, src, dst address, length int) []byte {
	if dst.is4() {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(ip4Len+length))
		b = append(b, 0, 0, 0, 0, 64, proto, 0, 0) // ttl 64
	} else {
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(length))
		b = append(b, proto, 64) // hop limit
	}
	b = append(b, src.wire()...)
	return append(b, dst.wire()...)
}

// pseudo begins a checksum with the pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1).
func pseudo(proto byte, src, dst address, length int) uint64 {
	return sum(sum(uint64(proto)+uint64(length), src.wire()), dst.wire())
}

// appendReset appends the answer of a machine where nobody listens to a SYN
// that parseSYN has accepted. Source: RFC 9293, 3.10.7.1.
func appendReset(b, syn []byte) []byte {
	t, _, seg, _ := parseIP(syn)
	b = appendIP(b, protoTCP, t.dst, t.src, tcpLen)
	at := len(b)
	b = append(b, seg[2], seg[3], seg[0], seg[1])
	b = append(b, 0, 0, 0, 0)
	b = binary.BigEndian.AppendUint32(b, binary.BigEndian.Uint32(seg[4:])+1)
	b = append(b, tcpLen/4<<4, tcpRST|tcpACK, 0, 0, 0, 0, 0, 0)
	binary.BigEndian.PutUint16(b[at+16:], fold(sum(pseudo(protoTCP, t.dst, t.src, tcpLen), b[at:])))
	return b
}

// appendUDP appends the headers of a datagram. IPv4's checksum is left out, which
// RFC 768 allows: it never leaves this machine.
func appendUDP(b []byte, src, dst address, srcPort, dstPort uint16, payload []byte) []byte {
	n := udpLen + len(payload)
	b = appendIP(b, protoUDP, src, dst, n)
	at := len(b)
	b = binary.BigEndian.AppendUint16(b, srcPort)
	b = binary.BigEndian.AppendUint16(b, dstPort)
	b = binary.BigEndian.AppendUint16(b, uint16(n))
	b = append(b, 0, 0)
	if !dst.is4() {
		// 0 would be no checksum, which IPv6 does not know (RFC 8200, 8.1).
		c := fold(sum(sum(pseudo(protoUDP, src, dst, n), b[at:]), payload))
		if c == 0 {
			c = 0xffff
		}
		binary.BigEndian.PutUint16(b[at+6:], c)
	}
	return b
}

// sum adds big-endian words to a checksum that fold ends (RFC 1071). All
// pieces but the last have an even length.
func sum(s uint64, b []byte) uint64 {
	var carry uint64
	for ; len(b) >= 8; b = b[8:] {
		s, carry = bits.Add64(s, binary.BigEndian.Uint64(b), carry)
	}
	for ; len(b) >= 2; b = b[2:] {
		s, carry = bits.Add64(s, uint64(b[0])<<8|uint64(b[1]), carry)
	}
	if len(b) == 1 {
		s, carry = bits.Add64(s, uint64(b[0])<<8, carry)
	}
	s, carry = bits.Add64(s, 0, carry)
	return s + carry
}

func fold(s uint64) uint16 {
	for s>>16 != 0 {
		s = s&0xffff + s>>16
	}
	return ^uint16(s)
}
