// Package netlink writes and reads the few netlink messages that skiff needs:
// links, addresses and routes (rtnetlink), nftables transactions and packet
// queues (nfnetlink).
//
// A request is data until it is sent: a Batch collects rtnetlink and queue
// requests, a Transaction collects nftables changes, and Conn.Do or
// Conn.Commit sends all of it with one system call. The socket may have been
// opened in any network namespace: it acts on that one for life, from
// whichever thread (netlink(7), network_namespaces(7)).
//
// The kernel answers a netlink request before sendto returns (netlink_unicast
// runs the handler in the sender's context), so nothing here ever waits for an
// answer, and a missing one is an error instead of a hang.
//
// Every length is checked while encoding: an attribute that does not fit its
// 16-bit length turns into an Error with EMSGSIZE, and nothing is sent.
//
// Limits: no multicast groups, no asynchronous events. Names and prefixes must
// come from the caller already validated as to meaning; only their sizes are
// checked here. A Conn, a Batch or a Transaction is for one goroutine at a time.
package netlink

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// An Error is the first request of a batch that the kernel refused, or that
// could not be encoded (EMSGSIZE, EINVAL) or sent.
type Error struct {
	Op    string        // what was asked, such as "create veth skf0123"
	Errno syscall.Errno // as the kernel gave it
	Msg   string        // the kernel's own words (NLMSGERR_ATTR_MSG), often empty
}

func (e *Error) Error() string {
	s := e.Op + ": " + e.Errno.Error()
	if e.Msg != "" {
		s += " (" + e.Msg + ")"
	}
	return s
}

// Unwrap gives the errno, for errors.Is.
func (e *Error) Unwrap() error { return e.Errno }

// Header sizes, bytes (linux/netlink.h).
const (
	headerLen = 16 // struct nlmsghdr
	attrLen   = 4  // struct nlattr
)

// maxRequests bounds one Batch. Each refusal waits in the socket's receive
// buffer, 208 KiB by default, at under 1 KiB each.
const maxRequests = 128

// A request is one message inside a Batch: where it starts and its name.
type request struct {
	at     int
	op     string
	ignore []syscall.Errno
}

// A Batch is a list of requests that are sent together and performed in order.
// rtnetlink performs the later ones even when an earlier one failed.
//
// The zero Batch is empty and ready.
type Batch struct {
	buf  []byte
	reqs []request
	err  *Error // the first thing that could not be encoded
}

// Len is the number of requests.
func (b *Batch) Len() int { return len(b.reqs) }

// Reset empties the batch and keeps its memory.
func (b *Batch) Reset() { b.buf, b.reqs, b.err = b.buf[:0], b.reqs[:0], nil }

// Ignore says that the last request may fail with any of these errnos.
func (b *Batch) Ignore(errnos ...syscall.Errno) {
	if n := len(b.reqs); n > 0 {
		b.reqs[n-1].ignore = errnos
	}
}

// fail notes the first encoding error; Conn.Do returns it.
func (b *Batch) fail(errno syscall.Errno, msg string) {
	if b.err != nil {
		return
	}
	op := "encode"
	if n := len(b.reqs); n > 0 {
		op = b.reqs[n-1].op
	}
	b.err = &Error{Op: op, Errno: errno, Msg: msg}
}

// message starts a request; end closes it. The sequence number is filled in
// when the batch is sent.
func (b *Batch) message(op string, typ uint16, flags uint16) {
	if b.buf == nil {
		b.buf = make([]byte, 0, 2048)
	}
	b.reqs = append(b.reqs, request{at: len(b.buf), op: op})
	if len(b.reqs) > maxRequests {
		b.fail(unix.E2BIG, "too many requests in a batch")
	}
	b.buf = append(b.buf, make([]byte, headerLen)...)
	h := b.buf[len(b.buf)-headerLen:]
	binary.NativeEndian.PutUint16(h[4:], typ)
	binary.NativeEndian.PutUint16(h[6:], flags)
}

// end writes the length of the request that message began. All attributes are
// padded to 4 bytes, so the next message starts aligned.
func (b *Batch) end() {
	at := b.reqs[len(b.reqs)-1].at
	binary.NativeEndian.PutUint32(b.buf[at:], uint32(len(b.buf)-at))
}

// acknowledge says whether a request asks for an answer if it succeeds.
func (b *Batch) acknowledge(r request, yes bool) {
	flags := b.buf[r.at+6:]
	v := binary.NativeEndian.Uint16(flags) &^ unix.NLM_F_ACK
	if yes {
		v |= unix.NLM_F_ACK
	}
	binary.NativeEndian.PutUint16(flags, v)
}

// raw appends a fixed-size header such as struct ifinfomsg.
func (b *Batch) raw(p ...byte) { b.buf = append(b.buf, p...) }

func (b *Batch) rawU32(v uint32) { b.buf = binary.NativeEndian.AppendUint32(b.buf, v) }

// attr appends one attribute, padded.
func (b *Batch) attr(typ uint16, data []byte) {
	b.buf = b.appendAttr(b.buf, typ, data)
}

func (b *Batch) appendAttr(to []byte, typ uint16, data []byte) []byte {
	n := attrLen + len(data)
	if n > 0xffff {
		b.fail(unix.EMSGSIZE, "attribute too long")
		return to
	}
	to = binary.NativeEndian.AppendUint16(to, uint16(n))
	to = binary.NativeEndian.AppendUint16(to, typ)
	to = append(to, data...)
	return append(to, make([]byte, -n&3)...)
}

func (b *Batch) attrU8(typ uint16, v uint8) { b.attr(typ, []byte{v}) }

// attrU32 writes host byte order, as rtnetlink wants.
func (b *Batch) attrU32(typ uint16, v uint32) {
	var d [4]byte
	binary.NativeEndian.PutUint32(d[:], v)
	b.attr(typ, d[:])
}

// attrBE32 writes network byte order, as nfnetlink wants.
func (b *Batch) attrBE32(typ uint16, v uint32) {
	var d [4]byte
	binary.BigEndian.PutUint32(d[:], v)
	b.attr(typ, d[:])
}

func (b *Batch) attrBE16(typ uint16, v uint16) {
	b.attr(typ, []byte{byte(v >> 8), byte(v)})
}

func (b *Batch) attrBE64(typ uint16, v uint64) {
	var d [8]byte
	binary.BigEndian.PutUint64(d[:], v)
	b.attr(typ, d[:])
}

// attrStr writes a string with its NUL. max counts the NUL: IFNAMSIZ is 16.
func (b *Batch) attrStr(typ uint16, s string, max int) {
	if s == "" || len(s) >= max {
		b.fail(unix.EINVAL, "name of wrong length")
		return
	}
	for i := range len(s) {
		if s[i] == 0 {
			b.fail(unix.EINVAL, "name with NUL")
			return
		}
	}
	b.attr(typ, append([]byte(s), 0))
}

// nest opens an attribute that holds attributes; unnest closes it.
func (b *Batch) nest(typ uint16) int {
	at := len(b.buf)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, 0)
	b.buf = binary.NativeEndian.AppendUint16(b.buf, typ|unix.NLA_F_NESTED)
	return at
}

func (b *Batch) unnest(at int) {
	n := len(b.buf) - at
	if n > 0xffff {
		b.fail(unix.EMSGSIZE, "nested attribute too long")
		return
	}
	binary.NativeEndian.PutUint16(b.buf[at:], uint16(n))
}

// attrs calls fn for each well-formed attribute of p and stops at the first
// that is not. Type flags (nested, byte order) are taken off.
func attrs(p []byte, fn func(typ uint16, data []byte)) {
	for len(p) >= attrLen {
		n := int(binary.NativeEndian.Uint16(p))
		if n < attrLen || n > len(p) {
			return
		}
		fn(binary.NativeEndian.Uint16(p[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), p[attrLen:n])
		p = p[min((n+3)&^3, len(p)):]
	}
}

// messages calls fn for each well-formed message of p.
func messages(p []byte, fn func(h header, body []byte)) {
	for len(p) >= headerLen {
		n := int(binary.NativeEndian.Uint32(p))
		if n < headerLen || n > len(p) {
			return
		}
		fn(header{
			typ:   binary.NativeEndian.Uint16(p[4:]),
			flags: binary.NativeEndian.Uint16(p[6:]),
			seq:   binary.NativeEndian.Uint32(p[8:]),
		}, p[headerLen:n])
		p = p[min((n+3)&^3, len(p)):]
	}
}

// A header is what is used of a struct nlmsghdr.
type header struct {
	typ, flags uint16
	seq        uint32
}

// cstr is the string up to its NUL.
func cstr(d []byte) string {
	for i, c := range d {
		if c == 0 {
			return string(d[:i])
		}
	}
	return string(d)
}

func u32(d []byte) uint32 {
	if len(d) < 4 {
		return 0
	}
	return binary.NativeEndian.Uint32(d)
}

func be32(d []byte) uint32 {
	if len(d) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(d)
}

func be64(d []byte) uint64 {
	if len(d) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(d)
}
