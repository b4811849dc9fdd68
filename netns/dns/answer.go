package dns

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"strings"
)

// Numbers of RFC 1035, 3.2; AAAA is RFC 3596's, OPT RFC 6891's.
const (
	typeA     = 1
	typePTR   = 12
	typeAAAA  = 28
	typeOPT   = 41
	typeANY   = 255
	classINET = 1

	opcodeMask        = 0x78 // in byte 2
	flagAuthoritative = 0x04
	flagTruncated     = 0x02
	rcodeBadVersion   = 16 // RFC 6891: its upper bits are in the OPT record

	leastDatagram = 512  // bytes that every client takes (RFC 1035, 4.2.1)
	ourDatagram   = 1232 // what we say to take, and send at most (RFC 9715)

	// ttl is how long an answer of ours may be kept, seconds: containers come and go.
	ttl = 5
)

// local is the answer to a query for one of names, or nil: then others are to
// be asked. It is authoritative. A type that a name has no record of gets an
// answer without records, never NXDOMAIN, which would deny the other types too.
func local(names Names, network string, query []byte) []byte {
	if !isQuery(query) || query[2]&opcodeMask != 0 || binary.BigEndian.Uint16(query[4:]) != 1 {
		return nil
	}
	q := question(query)
	name, ok := nameOf(q)
	if !ok || binary.BigEndian.Uint16(q[len(q)-2:]) != classINET {
		return nil
	}
	want := binary.BigEndian.Uint16(q[len(q)-4:])
	records, ok := recordsOf(names, name, want)
	if !ok {
		return nil
	}
	size, version, extended := edns(query[headerLen+len(q):], int(binary.BigEndian.Uint16(query[6:])),
		int(binary.BigEndian.Uint16(query[8:])), int(binary.BigEndian.Uint16(query[10:])))
	limit := maxMessage
	if network == "udp" {
		limit = leastDatagram
		if extended {
			limit = min(max(int(size), leastDatagram), ourDatagram)
		}
	}
	var opt []byte
	if extended {
		opt = append(opt, 0, 0, typeOPT, ourDatagram>>8, ourDatagram&0xff, 0, 0, 0, 0, 0, 0)
		if version != 0 {
			opt[5], records = rcodeBadVersion>>4, nil
		}
	}
	p := make([]byte, headerLen, leastDatagram)
	copy(p, query[:2])
	p[2] = query[2]&opcodeAndFlags | flagResponse | flagAuthoritative
	p[3] = flagAvailable
	p[5] = 1
	p = append(p, q...)
	n := 0
	for _, r := range records {
		if len(p)+len(r)+len(opt) > limit {
			p[2] |= flagTruncated
			break
		}
		p = append(p, r...)
		n++
	}
	binary.BigEndian.PutUint16(p[6:], uint16(n))
	if extended {
		p[11] = 1
	}
	return append(p, opt...)
}

// recordsOf are the records of a name and type, as they are in a message whose
// question is for the name.
func recordsOf(names Names, name string, want uint16) (records [][]byte, ok bool) {
	if a, is := reversed(name); is {
		owners, ok := names.Reverse(a)
		if !ok {
			return nil, false
		}
		for _, owner := range owners {
			if data, ok := wire(owner); ok && (want == typePTR || want == typeANY) {
				records = append(records, record(typePTR, data))
			}
		}
		return records, true
	}
	addrs, ok := names.Lookup(name)
	if !ok {
		return nil, false
	}
	for _, a := range addrs {
		a = a.Unmap().WithZone("")
		kind := uint16(typeA)
		if a.Is6() {
			kind = typeAAAA
		}
		if want == kind || want == typeANY {
			records = append(records, record(kind, a.AsSlice()))
		}
	}
	return records, true
}

// record is a resource record of the question's name, which is at the end of
// the header (RFC 1035, 4.1.4).
func record(kind uint16, data []byte) []byte {
	b := []byte{0xc0, headerLen}
	b = binary.BigEndian.AppendUint16(b, kind)
	b = binary.BigEndian.AppendUint16(b, classINET)
	b = binary.BigEndian.AppendUint32(b, ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// nameOf is the name of a question in lower case, without its last dot. A name
// that text cannot say, with a dot in a label, is none of ours.
func nameOf(question []byte) (string, bool) {
	var b strings.Builder
	for at := 0; at < len(question) && question[at] != 0; {
		label := question[at+1 : at+1+int(question[at])]
		if b.Len() > 0 {
			b.WriteByte('.')
		}
		for _, c := range label {
			if c == '.' || c == 0 {
				return "", false
			}
			if 'A' <= c && c <= 'Z' {
				c += 'a' - 'A'
			}
			b.WriteByte(c)
		}
		at += 1 + len(label)
	}
	return b.String(), b.Len() > 0
}

// wire is a name as messages have it.
func wire(name string) ([]byte, bool) {
	var b []byte
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 {
			return nil, false
		}
		b = append(append(b, byte(len(label))), label...)
	}
	return append(b, 0), len(b) < 255
}

// reversed is the address that a name of in-addr.arpa or ip6.arpa stands for.
// Source: RFC 1035, 3.5; RFC 3596, 2.5.
func reversed(name string) (netip.Addr, bool) {
	if text, ok := strings.CutSuffix(name, ".in-addr.arpa"); ok {
		labels := strings.Split(text, ".")
		slices.Reverse(labels)
		a, err := netip.ParseAddr(strings.Join(labels, "."))
		return a, err == nil && a.Is4()
	}
	text, ok := strings.CutSuffix(name, ".ip6.arpa")
	if !ok || len(text) != 63 {
		return netip.Addr{}, false
	}
	var b strings.Builder
	for i := 62; i >= 0; i -= 2 {
		b.WriteByte(text[i])
		if i%8 == 0 && i > 0 {
			b.WriteByte(':')
		}
		if i > 0 && text[i-1] != '.' {
			return netip.Addr{}, false
		}
	}
	a, err := netip.ParseAddr(b.String())
	return a, err == nil
}

// edns looks for the OPT record among what follows the question: so many
// records of the answer, authority and additional sections. What cannot be read
// has none.
func edns(p []byte, sections ...int) (size uint16, version byte, ok bool) {
	for i, n := range sections {
		for ; n > 0; n-- {
			at := 0
			for at < len(p) && p[at] != 0 && p[at] < 0xc0 {
				at += 1 + int(p[at])
			}
			if at >= len(p) {
				return 0, 0, false
			}
			root := at == 0 && p[0] == 0
			if at++; p[at-1] >= 0xc0 {
				at++
			}
			if at+10 > len(p) {
				return 0, 0, false
			}
			if i == len(sections)-1 && root && binary.BigEndian.Uint16(p[at:]) == typeOPT {
				return binary.BigEndian.Uint16(p[at+2:]), p[at+5], true
			}
			at += 10 + int(binary.BigEndian.Uint16(p[at+8:]))
			if at > len(p) {
				return 0, 0, false
			}
			p = p[at:]
		}
	}
	return 0, 0, false
}
