package relay

import (
	"context"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"

	"skiff/netns/dns"

	"golang.org/x/sys/unix"
)

// A Relay is the network of one container.
type Relay struct {
	options  Options
	address  netip.Prefix
	address6 netip.Prefix // or invalid
	gateway  netip.Addr
	gateway4 address // as tuples have it
	gateway6 address // or zero
	resolver resolver
	host     outwardAddr
	dns      *dns.Forwarder // or nil: see names_linux.go
	log      func(string)
	hold     Hold
	in       inside

	first, second *loop
	listeners     [2]*listener // of IPv4 and IPv6
	open          atomic.Int64 // TCP sockets
	most          int64
	mostFlows     int
	stock         *stock // where ports are published
	wake          int    // eventfd(2) of Forward
	closed        atomic.Bool
	done          sync.WaitGroup // both loops
}

// Start makes the router namespace beside the container's, wires the two and
// begins to relay. It may run while the container's init makes its root; it
// needs to be allowed to read the init's namespaces (ptrace(2), "access mode
// checking"), so the init must not have become another user yet.
//
// Traffic is served by a thread that lives as long as the process. Nothing has
// to be taken back when that ends. The error is an *Error; ctx is looked at
// before the work, not during it.
func Start(ctx context.Context, o Options) (*Relay, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r := &Relay{options: o, address: o.Address, gateway: o.Gateway, log: o.Log, resolver: newResolver(o.Resolver)}
	if !r.address.IsValid() {
		r.address, r.gateway = DefaultAddress, DefaultGateway
	}
	if !r.gateway.Is4() || !r.address.Contains(r.gateway) || r.gateway == r.address.Addr() {
		return nil, &Error{Step: "look at addresses", Err: unix.EINVAL}
	}
	r.gateway4 = addressOf(r.gateway)
	r.dns = r.newForwarder(&o)
	r.limit(o.descriptors())
	started := make(chan error, 1)
	r.done.Add(1)
	go func() {
		defer r.done.Done()
		// The task's parent is this thread, which therefore stays.
		runtime.LockOSThread()
		err := r.setUp(&o)
		if err == nil {
			err = r.serve()
		}
		if err == nil && len(o.Ports) > 0 {
			err = r.first.enter(r.stock, o.Ports)
		}
		o.Laps.Lap("relay: watch sockets")
		started <- err
		if err == nil {
			r.first.run()
			if r.second != nil {
				r.second.inbox.wake()
			}
		}
	}()
	if err := <-started; err != nil {
		r.closeInside()
		return nil, err
	}
	return r, nil
}

// Address is eth0's, with the length of its network.
func (r *Relay) Address() netip.Prefix { return r.address }

// Gateway is the container's router and nameserver.
func (r *Relay) Gateway() netip.Addr { return r.gateway }

// Hold is the rung that SYNs are held on, worth remembering until the next boot.
func (r *Relay) Hold() Hold { return r.hold }

// Close ends the relay, its connections and R. No one who is about to exit
// needs it.
func (r *Relay) Close() error {
	if r.closed.Swap(true) {
		return nil
	}
	if r.wake > 0 {
		one := [8]byte{0: 1}
		unix.Write(r.wake, one[:])
	} else {
		unix.Shutdown(r.in.four.tcp, unix.SHUT_RDWR) // wakes the first loop
	}
	r.done.Wait()
	if r.dns != nil {
		r.dns.Close()
	}
	r.closeInside()
	return nil
}

// reserve is how many descriptors are left to the rest of skiff.
const reserve = 64

// limit settles how many connections there may be. The Go runtime has raised
// RLIMIT_NOFILE to its hard limit (os/rlimit.go); half of it is for TCP, which
// takes two descriptors a connection, a quarter for UDP. others are in use already.
func (r *Relay) limit(others int) {
	var n unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &n); err != nil {
		n.Cur = 1024
	}
	files := max(int64(min(n.Cur, 1<<20))-reserve-int64(others), 64)
	r.most = files / 4 * 3
	r.mostFlows = int(min(files/4, 4096))
}

// serve makes the loop and has it watch what setUp made.
func (r *Relay) serve() error {
	l, err := newLoop(r)
	if err != nil {
		return err
	}
	r.first = l
	l.held, l.flows, l.pings = map[tuple]*held{}, map[tuple]*flow{}, map[tuple]*ping{}
	watch := func(fd int, h handler) {
		if e := l.watch(fd, h, unix.EPOLLIN); e != 0 && err == nil {
			err = &Error{Step: "epoll_ctl", Err: e}
		}
	}
	for i, s := range []*sockets{&r.in.four, &r.in.six} {
		if s.tcp == 0 {
			continue
		}
		r.listeners[i] = &listener{s.tcp}
		watch(s.tcp, r.listeners[i])
		watch(s.udp, &datagrams{fd: s.udp})
		watch(s.echo, &echoes{s.echo})
	}
	if r.hold != HoldNone {
		watch(r.in.netfilter, &synQueue{r.in.netfilter})
	}
	return err
}

// say writes to the log.
func (r *Relay) say(line string) {
	if r.log != nil {
		r.log("relay: " + line)
	}
}

// closeInside closes the sockets of R, and with them R.
func (r *Relay) closeInside() {
	four, six := &r.in.four, &r.in.six
	for _, fd := range []int{four.tcp, four.udp, four.raw, four.echo, six.tcp, six.udp, six.raw, six.echo, r.in.netfilter, r.wake} {
		if fd > 0 {
			unix.Close(fd)
		}
	}
}

// of is the sockets of R for what goes to or comes from an address.
func (in *inside) of(a address) *sockets {
	if a.is4() {
		return &in.four
	}
	return &in.six
}

func (r *Relay) listenerFor(a address) *listener {
	if a.is4() {
		return r.listeners[0]
	}
	return r.listeners[1]
}

// gatewayFor is the gateway of an address's family.
func (r *Relay) gatewayFor(a address) address {
	if a.is4() {
		return r.gateway4
	}
	return r.gateway6
}

// unreachableFor is the gateway's error about a packet to dst.
func (l *loop) unreachableFor(dst address, why reason) icmpError {
	return unreachableFrom(l.relay.gatewayFor(dst), why, dst)
}

// raw is the socket that packets to the container's address are written to.
func (l *loop) raw(to address) int { return l.relay.in.of(to).raw }

// write sends a packet to the container. Where its link is full it is lost, as
// any may be.
func (l *loop) write(to address, packet []byte) {
	switch {
	case len(packet) > linkMTU:
		l.writeFragments(to, packet)
	case len(packet) > 0:
		send(l.raw(to), packet)
	}
}
