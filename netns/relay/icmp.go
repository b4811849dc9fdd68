package relay

import "encoding/binary"

// Types of ICMP, RFC 792, and of ICMPv6, RFC 4443.
const (
	icmp4Reply       = 0
	icmp4Unreachable = 3
	icmp4Echo        = 8
	icmp4Exceeded    = 11
	icmp6Unreachable = 1
	icmp6TooBig      = 2
	icmp6Exceeded    = 3
	icmp6Echo        = 128
	icmp6Reply       = 129

	neighbourSolicitation  = 135 // RFC 4861
	neighbourAdvertisement = 136
)

// A reason is why a destination is unreachable: the code of ICMP (RFC 792, RFC 1812).
type reason byte

const (
	icmpNet        reason = 0
	icmpHost       reason = 1
	icmpPort       reason = 3
	icmpProhibited reason = 13
)

// code6 is the code of ICMPv6 for a reason (RFC 4443, 3.1).
func (r reason) code6() byte {
	switch r {
	case icmpNet:
		return 0
	case icmpProhibited:
		return 1
	case icmpPort:
		return 4
	}
	return 3
}

// An icmpError is what a router or the destination says about a packet.
type icmpError struct {
	from      address
	kind      byte
	code      byte
	parameter uint32 // of ICMPv6's "packet too big": the MTU
}

// tooBig says whether it is about the size of a packet (RFC 1191, RFC 8201).
func (e icmpError) tooBig() bool {
	if e.from.is4() {
		return e.kind == icmp4Unreachable && e.code == 4
	}
	return e.kind == icmp6TooBig
}

// unreachableFrom is such an error about a packet to dst.
func unreachableFrom(from address, why reason, dst address) icmpError {
	if dst.is4() {
		return icmpError{from: from, kind: icmp4Unreachable, code: byte(why)}
	}
	return icmpError{from: from, kind: icmp6Unreachable, code: why.code6()}
}

// quoteMost is how much of the packet is quoted, after its header: enough for
// everybody to find the socket that sent it.
const quoteMost = 20

// appendError appends an ICMP error about a packet of the container, of which the
// header and at least 8 bytes more are given.
func appendError(b []byte, e icmpError, packet []byte) []byte {
	t, _, rest, ok := parseIP(packet)
	if !ok {
		return b
	}
	proto := byte(protoICMP)
	if !t.src.is4() {
		proto = protoICMP6
	}
	head := len(packet) - len(rest)
	quote := packet[:head+min(len(rest), quoteMost)]
	b = appendIP(b, proto, e.from, t.src, icmpLen+len(quote))
	at := len(b)
	b = append(b, e.kind, e.code, 0, 0)
	b = binary.BigEndian.AppendUint32(b, e.parameter)
	b = append(b, quote...)
	icmpChecksum(b[at:], e.from, t.src)
	return b
}

// appendEcho appends an echo request or reply; body is what follows the header.
func appendEcho(b []byte, kind byte, src, dst address, id, seq uint16, body []byte) []byte {
	proto := byte(protoICMP)
	if !dst.is4() {
		proto = protoICMP6
	}
	b = appendIP(b, proto, src, dst, icmpLen+len(body))
	at := len(b)
	b = append(b, kind, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, seq)
	b = append(b, body...)
	icmpChecksum(b[at:], src, dst)
	return b
}

// icmpChecksum fills in the checksum of a message, which in IPv6 is taken over
// the addresses too (RFC 4443, 2.3).
func icmpChecksum(m []byte, src, dst address) {
	m[2], m[3] = 0, 0
	s := uint64(0)
	if !dst.is4() {
		s = pseudo(protoICMP6, src, dst, len(m))
	}
	binary.BigEndian.PutUint16(m[2:], fold(sum(s, m)))
}
