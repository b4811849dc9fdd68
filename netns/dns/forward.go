// Package dns forwards a container's DNS queries to the host's resolvers.
//
// Queries and answers pass unmodified: whatever the host's resolver does
// (split DNS, DNSSEC, private zones, a stub on 127.0.0.53), the container gets.
// The upstream side is dialled by ordinary sockets of the run process, thus
// from the host's network namespace; the container's side is any sockets the
// caller made, in whichever namespace.
//
// Source: RFC 1035 (messages), RFC 7766 (TCP).
//
// Limits: no cache, no names of its own, no DNS over TLS or HTTPS to the
// container. Truncated answers are passed on as they are; asking again over TCP
// is the client's part (RFC 7766, 5).
package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"
)

const (
	maxInFlight    = 256              // UDP queries; more are dropped, clients repeat them
	maxConns       = 32               // TCP connections of one container
	maxMessage     = 65535            // bytes (RFC 1035, 4.2.2)
	headerLen      = 12               // bytes (RFC 1035, 4.1.1)
	tryTimeout     = 5 * time.Second  // for one upstream, as resolv.conf(5) has it
	idleTimeout    = 30 * time.Second // for a container's TCP connection
	rounds         = 2                // times the list of upstreams is gone through
	rcodeServFail  = 2
	flagResponse   = 0x80 // in byte 2
	flagAvailable  = 0x80 // in byte 3: recursion available
	opcodeAndFlags = 0x79 // in byte 2: what an answer repeats of the query
)

// A Forwarder sends queries on. It holds no sockets while nothing is asked.
type Forwarder struct {
	upstreams func() []netip.AddrPort
	slots     chan struct{}
	conns     chan struct{}
}

// New makes a forwarder. upstreams is called for each query, from any
// goroutine, and gives the servers in order of preference; File.Upstreams is
// one such function.
func New(upstreams func() []netip.AddrPort) *Forwarder {
	return &Forwarder{
		upstreams: upstreams,
		slots:     make(chan struct{}, maxInFlight),
		conns:     make(chan struct{}, maxConns),
	}
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
		if !isQuery(buf[:n]) {
			continue
		}
		select {
		case f.slots <- struct{}{}:
		default:
			continue
		}
		query := bytes.Clone(buf[:n])
		go func() {
			defer func() { <-f.slots }()
			_, _ = c.WriteTo(f.Answer(context.Background(), "udp", query), from)
		}()
	}
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
		select {
		case f.conns <- struct{}{}:
		default:
			c.Close()
			continue
		}
		go func() {
			defer func() { c.Close(); <-f.conns }()
			f.serveConn(c)
		}()
	}
}

// serveConn answers one query after the other, as RFC 7766, 6.2.1.1 allows.
func (f *Forwarder) serveConn(c net.Conn) {
	for {
		_ = c.SetDeadline(time.Now().Add(idleTimeout))
		query, err := readTCP(c)
		if err != nil || !isQuery(query) {
			return
		}
		if writeTCP(c, f.Answer(context.Background(), "tcp", query)) != nil {
			return
		}
	}
}

// Answer returns the answer to one query: an upstream's, or SERVFAIL if none
// of them gave one. network is "udp" or "tcp" and is used upstream as well.
// query must be at least a header long.
func (f *Forwarder) Answer(ctx context.Context, network string, query []byte) []byte {
	answer, err := f.Exchange(ctx, network, query)
	if err != nil {
		return servFail(query)
	}
	return answer
}

// Exchange asks the upstreams in turn, twice at most, until one answers. The
// error is the last one's.
func (f *Forwarder) Exchange(ctx context.Context, network string, query []byte) ([]byte, error) {
	err := error(errNoServer)
	if !isQuery(query) {
		return nil, errNoQuery
	}
	for range rounds {
		for _, server := range f.upstreams() {
			var answer []byte
			if answer, err = ask(ctx, network, server, query); err == nil {
				return answer, nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
		}
	}
	return nil, err
}

var (
	errNoServer = errors.New("no name server")
	errNoQuery  = errors.New("not a DNS query")
)

// ask sends the query to one server from a socket of its own, so that source
// ports are as unforeseeable as the kernel makes them (RFC 5452, 9.2).
func ask(ctx context.Context, network string, server netip.AddrPort, query []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	defer c.Close()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
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
