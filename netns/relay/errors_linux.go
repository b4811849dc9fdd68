package relay

import (
	"encoding/binary"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// eachError empties a socket's queue of errors, which is kept with IP_RECVERR: ICMP
// errors with who sent them, and the beginning of the payload that they are about (ip(7)).
// Errors of this host's own are passed over.
func eachError(fd int, fn func(e icmpError, payload []byte)) {
	for range 64 {
		var from unix.RawSockaddrInet6
		var oob [256]byte
		var payload [64]byte
		n, control, errno := recvmsg(fd, payload[:], &from, oob[:], unix.MSG_ERRQUEUE)
		if errno != 0 {
			return
		}
		eachControl(control, func(level, typ int32, data []byte) {
			if e, ok := icmpErrorOf(level, typ, data); ok {
				fn(e, payload[:n])
			}
		})
	}
}

// icmpErrorOf reads a struct sock_extended_err with the address of who sent it
// (linux/errqueue.h).
func icmpErrorOf(level, typ int32, data []byte) (e icmpError, ok bool) {
	const size = 16
	v4 := level == unix.SOL_IP && typ == unix.IP_RECVERR && len(data) >= size+unix.SizeofSockaddrInet4
	v6 := level == unix.SOL_IPV6 && typ == unix.IPV6_RECVERR && len(data) >= size+unix.SizeofSockaddrInet6
	if !v4 && !v6 || data[4] != unix.SO_EE_ORIGIN_ICMP && data[4] != unix.SO_EE_ORIGIN_ICMP6 {
		return e, false
	}
	e.kind, e.code, e.parameter = data[5], data[6], binary.NativeEndian.Uint32(data[8:])
	e.from, _ = fromSockaddr((*unix.RawSockaddrInet6)(unsafe.Pointer(&data[size])))
	return e, true
}

// broken passes on an ICMP error that came for the flow, and says whether it
// was one. A nameserver that is not there gives way to the next.
func (l *loop) broken(f *flow, errno syscall.Errno) bool {
	var errs []icmpError
	eachError(f.fd, func(e icmpError, _ []byte) { errs = append(errs, e) })
	if len(errs) == 0 {
		why := icmpPort
		if errno != unix.ECONNREFUSED {
			w, kind := answerTo(errno)
			if kind != answerUnreachable {
				return false
			}
			why = w
		}
		errs = append(errs, l.unreachableFor(f.dst, why))
	}
	if f.verdict == resolve && f.query != nil && f.server+1 < len(l.relay.resolver.at(l.now)) && l.nextServer(f) {
		send(f.fd, f.query)
		return true
	}
	for _, e := range errs {
		switch {
		case e.tooBig():
			// Datagrams are cut up outside, where the path is known.
			continue
		case f.verdict != allow:
			e = l.unreachableFor(f.dst, icmpPort) // who is behind the gateway is not told
		}
		l.tell(f.tuple, e)
	}
	return true
}

// unreachable answers a datagram as the network or machine outside did.
func (l *loop) unreachable(t tuple, why reason) { l.tell(t, l.unreachableFor(t.dst, why)) }

// tell writes an error about a datagram of a flow to the container.
func (l *loop) tell(t tuple, e icmpError) {
	var quote, b [128]byte
	q := appendUDP(quote[:0], t.src, t.dst, t.srcPort, t.dstPort, nil)
	l.write(t.src, appendError(b[:0], e, q))
}
