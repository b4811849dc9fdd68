// Package dns answers a container's DNS queries: those for names of ours by
// itself, all others as the host's resolvers do.
//
// Queries and answers pass unmodified but for their ID: whatever the host's
// resolver does (split DNS, DNSSEC, private zones, a stub on 127.0.0.53), the
// container gets. The upstream side is dialled by ordinary sockets of the run
// process, thus from the host's network namespace; the container's side is any
// sockets the caller made, in whichever namespace.
//
// An answer is taken only from whom was asked: each query upstream has a
// connected socket of its own, so a port that the kernel chose, and an ID of its
// own at random (RFC 5452). Addresses in answers are the container's to judge: one
// of 127.0.0.0/8 leads to its own loopback.
//
// There is no cache. The host's resolver is one, as a rule on this machine, and
// knows better: a cache here would go on answering from the VPN that was left.
// Measured with a server on 127.0.0.1, a forwarded query takes 0.04 to 0.08 ms longer.
//
// Source: RFC 1035 (messages), RFC 7766 (TCP), resolv.conf(5).
//
// Limits: no DNS over TLS or HTTPS to the container. Truncated answers are passed
// on as they are; asking again over TCP is the client's part (RFC 7766, 5).
package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxInFlight    = 256              // UDP queries; more are dropped, clients repeat them
	maxConns       = 32               // TCP connections of one container
	maxPipelined   = 16               // queries of one connection that wait at once
	maxMessage     = 65535            // bytes (RFC 1035, 4.2.2)
	headerLen      = 12               // bytes (RFC 1035, 4.1.1)
	idleTimeout    = 30 * time.Second // for a container's TCP connection
	rcodeServFail  = 2
	flagResponse   = 0x80 // in byte 2
	flagAvailable  = 0x80 // in byte 3: recursion available
	opcodeAndFlags = 0x79 // in byte 2: what an answer repeats of the query
)

// A Forwarder answers queries. It holds no sockets while nothing is asked.
type Forwarder struct {
	names     Names
	upstreams func() Upstreams
	slots     chan struct{}
	conns     chan struct{}
	rotation  atomic.Uint32

	ctx    context.Context // of all queries
	cancel context.CancelFunc
	busy   sync.WaitGroup
}

// New makes a forwarder. names, if not nil, are answered here. upstreams is
// called for each other query, from any goroutine; File.Upstreams is one such
// function.
func New(names Names, upstreams func() Upstreams) *Forwarder {
	f := &Forwarder{
		names:     names,
		upstreams: upstreams,
		slots:     make(chan struct{}, maxInFlight),
		conns:     make(chan struct{}, maxConns),
	}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

// Close gives up the queries and connections that were begun, and waits until
// nobody is called any more. The sockets of ServeUDP and ServeTCP are to be closed before.
func (f *Forwarder) Close() {
	f.cancel()
	f.busy.Wait()
}

// ServeUDP answers queries on c until it is closed, and returns the error that
// ended it, net.ErrClosed as a rule.
func (f *Forwarder) ServeUDP(c net.PacketConn) error {
	buf := make([]byte, maxMessage)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			var timeout net.Error
			if errors.As(err, &timeout) && timeout.Timeout() {
				return err
			}
			continue // an ICMP error of an earlier answer
		}
		f.Handle(buf[:n], func(answer []byte) { _, _ = c.WriteTo(answer, from) })
	}
}

// Handle has a datagram answered, if it is a query and not too many wait. It
// returns at once and keeps nothing of query; reply is called from another goroutine.
func (f *Forwarder) Handle(query []byte, reply func(answer []byte)) {
	if !isQuery(query) {
		return
	}
	select {
	case f.slots <- struct{}{}:
	default:
		return
	}
	query = bytes.Clone(query)
	f.busy.Go(func() {
		defer func() { <-f.slots }()
		answer := f.Answer(f.ctx, "udp", query)
		if f.ctx.Err() == nil {
			reply(answer)
		}
	})
}

// ServeTCP answers queries on connections of l until it is closed.
func (f *Forwarder) ServeTCP(l net.Listener) error {
	for {
		c, err := l.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			time.Sleep(10 * time.Millisecond) // out of descriptors: others may close some
			continue
		}
		f.HandleConn(c)
	}
}

// HandleConn has the queries of a connection answered, and the connection
// closed. It returns at once; where there are too many of them, it is closed at once.
func (f *Forwarder) HandleConn(c net.Conn) {
	select {
	case f.conns <- struct{}{}:
	default:
		c.Close()
		return
	}
	f.busy.Go(func() {
		defer func() { <-f.conns }()
		defer c.Close()
		defer context.AfterFunc(f.ctx, func() { c.Close() })()
		f.serveConn(c)
	})
}

// serveConn answers the queries of a connection, each as soon as it can be
// (RFC 7766, 6.2.1.1 and 7).
func (f *Forwarder) serveConn(c net.Conn) {
	var writing sync.Mutex
	var pending sync.WaitGroup
	defer pending.Wait()
	room := make(chan struct{}, maxPipelined)
	for {
		_ = c.SetReadDeadline(time.Now().Add(idleTimeout))
		query, err := readTCP(c)
		if err != nil || !isQuery(query) {
			return
		}
		room <- struct{}{}
		pending.Go(func() {
			defer func() { <-room }()
			answer := f.Answer(f.ctx, "tcp", query)
			writing.Lock()
			defer writing.Unlock()
			_ = c.SetWriteDeadline(time.Now().Add(idleTimeout))
			if writeTCP(c, answer) != nil {
				c.Close()
			}
		})
	}
}

// Answer returns the answer to one query: ours, an upstream's, or SERVFAIL if
// none of them gave one. network is "udp" or "tcp" and is used upstream as well.
// query must be at least a header long.
func (f *Forwarder) Answer(ctx context.Context, network string, query []byte) []byte {
	if f.names != nil {
		if answer := local(f.names, network, query); answer != nil {
			return answer
		}
	}
	answer, err := f.Exchange(ctx, network, query)
	if err != nil {
		return servFail(query)
	}
	return answer
}

// Exchange asks the upstreams in turn until one answers. A server that says it
// cannot is followed by the next, and its answer is the last resort, as with
// glibc. The error is the last one's.
func (f *Forwarder) Exchange(ctx context.Context, network string, query []byte) ([]byte, error) {
	err := error(errNoServer)
	if !isQuery(query) {
		return nil, errNoQuery
	}
	up := f.upstreams()
	first := 0
	if up.Rotate {
		first = int(f.rotation.Add(1) - 1)
	}
	for range up.Attempts {
		var unable []byte
		for i := range up.Servers {
			var answer []byte
			server := up.Servers[(first+i)%len(up.Servers)]
			if answer, err = ask(ctx, network, server, query, up.Timeout); err == nil {
				if able(answer) {
					return answer, nil
				}
				unable = answer
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
		if unable != nil {
			return unable, nil
		}
	}
	return nil, err
}

// able reports whether an answer is none of SERVFAIL, NOTIMP and REFUSED.
func able(answer []byte) bool {
	rcode := answer[3] & 15
	return rcode != rcodeServFail && rcode != 4 && rcode != 5
}

var (
	errNoServer = errors.New("no name server")
	errNoQuery  = errors.New("not a DNS query")
)

// ask sends the query to one server, from a socket and with an ID of its own
// (RFC 5452, 9.2), and returns the answer with the query's.
func ask(ctx context.Context, network string, server netip.AddrPort, query []byte, timeout time.Duration) ([]byte, error) {
	id := [2]byte(query)
	query = bytes.Clone(query)
	if _, err := unix.Getrandom(query[:2], 0); err != nil {
		return nil, err
	}
	answer, err := exchange(ctx, network, server, query, timeout)
	if err == nil {
		copy(answer, id[:])
	}
	return answer, err
}

func exchange(ctx context.Context, network string, server netip.AddrPort, query []byte, timeout time.Duration) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })()
	if network == "tcp" {
		if err := writeTCP(c, query); err != nil {
			return nil, err
		}
		answer, err := readTCP(c)
		if err == nil && !answers(answer, query) {
			err = errors.New("answer to another query")
		}
		return answer, err
	}
	if _, err := c.Write(query); err != nil {
		return nil, err
	}
	buf := make([]byte, 4096) // what resolvers offer by EDNS(0) at most; grown if need be
	for {
		n, err := c.Read(buf)
		if err != nil {
			return nil, err
		}
		if n == len(buf) && n < maxMessage {
			// A longer datagram has lost its tail: ask again with room.
			buf = make([]byte, maxMessage)
			if _, err := c.Write(query); err != nil {
				return nil, err
			}
			continue
		}
		if answers(buf[:n], query) {
			return buf[:n], nil
		}
	}
}

// isQuery reports whether p may be a query: a whole header, QR clear.
func isQuery(p []byte) bool { return len(p) >= headerLen && p[2]&flagResponse == 0 }

// answers reports whether p is a response with the query's ID and, where it
// repeats a question, the query's (RFC 5452, 9.1). Names are compared without
// regard to ASCII case.
func answers(p, query []byte) bool {
	if len(p) < headerLen || p[2]&flagResponse == 0 || p[0] != query[0] || p[1] != query[1] {
		return false
	}
	if binary.BigEndian.Uint16(p[4:]) == 0 {
		return true // FORMERR and the like need not repeat it
	}
	q := question(query)
	return q != nil && len(p) >= headerLen+len(q) && bytes.EqualFold(p[headerLen:headerLen+len(q)], q)
}

// question is the first question of a message: name, type and class. It is nil
// if the message has none, or a name that is compressed or cut off.
func question(p []byte) []byte {
	if binary.BigEndian.Uint16(p[4:]) == 0 {
		return nil
	}
	for at := headerLen; at < len(p); {
		n := int(p[at])
		switch {
		case n == 0:
			if at+5 > len(p) {
				return nil
			}
			return p[headerLen : at+5]
		case n > 63:
			return nil
		}
		at += 1 + n
	}
	return nil
}

// servFail makes the answer that says: could not find out. It repeats the
// question, if the query has one.
func servFail(query []byte) []byte {
	q := question(query)
	p := make([]byte, headerLen, headerLen+len(q))
	copy(p, query[:2])
	p[2] = query[2]&opcodeAndFlags | flagResponse
	p[3] = flagAvailable | rcodeServFail
	if q != nil {
		p[5] = 1
	}
	return append(p, q...)
}

func readTCP(r io.Reader) ([]byte, error) {
	var n [2]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, err
	}
	p := make([]byte, binary.BigEndian.Uint16(n[:]))
	_, err := io.ReadFull(r, p)
	return p, err
}

func writeTCP(w io.Writer, p []byte) error {
	if len(p) > maxMessage {
		return errors.New("message too long")
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(p)), uint16(len(p))), p...))
	return err
}
