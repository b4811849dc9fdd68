package relay

import (
	"net"
	"os"

	"skiff/netns/dns"
)

// Queries to the gateway's port 53 go to the host's nameservers as they come,
// by the loop, unless there are names to answer. Then package dns has them all,
// beside the loop, which only takes them in. Without names none of this runs.

// queried gives messages i to j, which are of one flow, to the forwarder. It
// says whether they were queries to the gateway.
func (l *loop) queried(b *batch, i, j int) bool {
	r := l.relay
	t := b.tuples[i]
	if r.dns == nil || r.rule(t.dst, t.dstPort) != resolve {
		return false
	}
	for k := i; k < j; k++ {
		r.dns.Handle(b.slot(k)[headroom:][:b.msgs[k].n], func(answer []byte) {
			p := make([]byte, 0, headroom+len(answer))
			p = appendUDP(p, t.dst, t.src, t.dstPort, t.srcPort, answer)
			send(l.raw(t.src), append(p, answer...))
		})
	}
	return true
}

// answered lets the SYN of a connection to the gateway pass: it is answered here.
func (l *loop) answered(h *held) {
	h.passed, h.since = true, l.now
	l.held[h.tuple] = h
	l.verdict(h.id, true)
	l.relay.listenerFor(h.dst).accept(l, 1)
}

// converse gives an accepted connection to the forwarder.
func (l *loop) converse(fd int) {
	f := os.NewFile(uintptr(fd), "dns")
	c, err := net.FileConn(f) // has a descriptor of its own
	f.Close()
	if err == nil {
		l.relay.dns.HandleConn(c)
	}
}

// newForwarder is nil if there are no names.
func (r *Relay) newForwarder(o *Options) *dns.Forwarder {
	if o.Names == nil {
		return nil
	}
	return dns.New(o.Names, r.resolver.file.Upstreams)
}
