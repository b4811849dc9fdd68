package netlink

import (
	"encoding/binary"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Conn sends requests over one AF_NETLINK socket.
type Conn struct {
	fd  int
	seq uint32
	buf []byte // answers; 32 KiB is the most a dump puts into one (af_netlink.c)
}

// New uses fd, a raw netlink socket that stays the caller's to close. It turns
// on the kernel's error texts; kernels without them (before 4.12) are as good.
func New(fd int) *Conn {
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 1)
	unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 1)
	return &Conn{fd: fd}
}

// Open makes a socket in the calling thread's network namespace, closed on
// exec. protocol is unix.NETLINK_ROUTE or unix.NETLINK_NETFILTER. The error
// wraps the errno; EPROTONOSUPPORT means that the kernel has no such protocol.
func Open(protocol int) (*Conn, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return nil, &Error{Op: "open netlink socket", Errno: err.(syscall.Errno)}
	}
	return New(fd), nil
}

// FD is the socket.
func (c *Conn) FD() int { return c.fd }

// Close closes the socket. A table with TableOwner that was made through it
// is deleted by the kernel, which takes an RCU grace period (milliseconds).
func (c *Conn) Close() error { return unix.Close(c.fd) }

// Do sends all requests of b and collects their answers. The error is the
// first refused request's, an *Error; requests after it were tried all the same.
//
// Only the last request asks for an acknowledgement. Refusals come unasked and
// in order (netlink_rcv_skb), so all has been said when that comes.
func (c *Conn) Do(b *Batch) error {
	if b.err != nil {
		return b.err
	}
	if len(b.reqs) == 0 {
		return nil
	}
	last := len(b.reqs) - 1
	for i, r := range b.reqs {
		b.acknowledge(r, i == last)
	}
	first := c.number(b)
	if err := c.Send(b.buf); err != nil {
		return &Error{Op: b.reqs[0].op, Errno: err.(syscall.Errno), Msg: "send"}
	}
	var failed *Error
	for done := false; !done; {
		err := c.receive(func(h header, body []byte) {
			i := int(int32(h.seq - first))
			if i < 0 || i > last || h.typ != unix.NLMSG_ERROR {
				return // an answer to someone who used the socket before
			}
			done = done || i == last
			e := answer(b.reqs[i].op, h, body)
			if e != nil && failed == nil && !slices.Contains(b.reqs[i].ignore, e.Errno) {
				failed = e
			}
		})
		if err != nil && failed == nil {
			failed = &Error{Op: b.reqs[last].op, Errno: err.(syscall.Errno), Msg: "receive"}
		}
		done = done || err != nil
	}
	if failed != nil {
		return failed
	}
	return nil
}

// number gives every request its sequence number and returns the first.
func (c *Conn) number(b *Batch) uint32 {
	first := c.seq + 1
	for i, r := range b.reqs {
		binary.NativeEndian.PutUint32(b.buf[r.at+8:], first+uint32(i))
	}
	c.seq += uint32(len(b.reqs))
	return first
}

// Send hands encoded messages to the kernel, which performs them before Send
// returns. For verdicts; requests that want an answer go through Do.
func (c *Conn) Send(p []byte) error {
	for {
		_, err := sendto(c.fd, p)
		if err != unix.EINTR {
			return err
		}
	}
}

// receive reads one datagram and calls fn for each message in it. EAGAIN means
// that the kernel has no more to say.
func (c *Conn) receive(fn func(header, []byte)) error {
	if c.buf == nil {
		c.buf = make([]byte, 32<<10)
	}
	n, err := recv(c.fd, c.buf)
	if err != nil {
		return err
	}
	if n > len(c.buf) {
		return unix.EMSGSIZE
	}
	messages(c.buf[:n], fn)
	return nil
}

// answer reads a struct nlmsgerr; nil means acknowledged. With NETLINK_CAP_ACK
// the request's header follows the errno and, unless NLM_F_CAPPED, its body.
func answer(op string, h header, body []byte) *Error {
	if len(body) < 4 {
		return &Error{Op: op, Errno: unix.EBADMSG, Msg: "short answer"}
	}
	n := int32(binary.NativeEndian.Uint32(body))
	if n == 0 {
		return nil
	}
	e := &Error{Op: op, Errno: syscall.Errno(-n)}
	skip := 4 + headerLen
	if h.flags&unix.NLM_F_CAPPED == 0 && len(body) >= 8 {
		skip = 4 + int(min(binary.NativeEndian.Uint32(body[4:]), uint32(len(body))))
	}
	if h.flags&unix.NLM_F_ACK_TLVS != 0 && skip <= len(body) {
		attrs(body[skip:], func(typ uint16, data []byte) {
			if typ == unix.NLMSGERR_ATTR_MSG {
				e.Msg = cstr(data)
			}
		})
	}
	return e
}

// query sends the single request of b, which is a dump or a get, and calls fn
// for each message of the answer.
//
// A dump that the kernel says was disturbed is asked for again, three times at
// most (NLM_F_DUMP_INTR); reset empties what fn gathered.
func (c *Conn) query(b *Batch, reset func(), fn func(typ uint16, body []byte)) error {
	if b.err != nil {
		return b.err
	}
	op := b.reqs[0].op
	for try := 0; ; try++ {
		reset()
		first := c.number(b)
		if err := c.Send(b.buf); err != nil {
			return &Error{Op: op, Errno: err.(syscall.Errno), Msg: "send"}
		}
		var failed *Error
		done, disturbed := false, false
		for !done {
			err := c.receive(func(h header, body []byte) {
				if h.seq != first {
					return
				}
				disturbed = disturbed || h.flags&unix.NLM_F_DUMP_INTR != 0
				switch h.typ {
				case unix.NLMSG_ERROR:
					done, failed = true, answer(op, h, body)
				case unix.NLMSG_DONE:
					done = true
					if len(body) >= 4 && int32(u32(body)) < 0 {
						failed = answer(op, header{flags: unix.NLM_F_CAPPED}, body)
					}
				default:
					fn(h.typ, body)
				}
			})
			if err != nil {
				return &Error{Op: op, Errno: err.(syscall.Errno), Msg: "receive"}
			}
		}
		if failed != nil {
			return failed
		}
		if !disturbed {
			return nil
		}
		if try == 2 {
			return &Error{Op: op, Errno: unix.EINTR, Msg: "dump disturbed"}
		}
	}
}
