package netlink

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Commit performs a transaction; a Transaction is committed once. The error is
// an *Error naming the first change that was refused, and then nothing changed.
//
// Only the last change asks for an acknowledgement: all of them have been
// accepted when it comes, and errors come unasked (nfnetlink_rcv_batch).
func (c *Conn) Commit(t *Transaction) error {
	b := &t.b
	if b.err != nil {
		return b.err
	}
	last := len(b.reqs) - 1
	if last == 0 {
		return nil
	}
	b.acknowledge(b.reqs[last], true)
	b.message("end nftables transaction", unix.NFNL_MSG_BATCH_END, unix.NLM_F_REQUEST)
	b.nfgen(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	b.end()
	if b.err != nil {
		return b.err
	}
	first := c.number(b)
	if err := c.Send(b.buf); err != nil {
		return &Error{Op: "commit nftables transaction", Errno: err.(syscall.Errno), Msg: "send"}
	}
	var failed *Error
	for done := false; !done; {
		err := c.receive(func(h header, body []byte) {
			i := int(int32(h.seq - first))
			if h.typ != unix.NLMSG_ERROR || i < 0 || i >= len(b.reqs) {
				return
			}
			if e := answer(b.reqs[i].op, h, body); e != nil && failed == nil {
				failed = e
			}
			// An error of the begin message is the whole transaction's:
			// not permitted, no nf_tables, out of memory.
			done = done || i == last || i == 0
		})
		if err != nil && failed == nil {
			return &Error{Op: "commit nftables transaction", Errno: err.(syscall.Errno), Msg: "receive"}
		}
		done = done || err != nil
	}
	if failed != nil {
		return failed
	}
	return nil
}
