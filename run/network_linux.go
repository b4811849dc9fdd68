package run

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"time"

	"skiff/internal/idmap"
	"skiff/internal/plan"
	"skiff/netns/bridge"
	"skiff/netns/dns"
	"skiff/netns/lease"
	"skiff/netns/netlink"
	"skiff/netns/ports"
	"skiff/netns/relay"
	"skiff/pull/store"

	"golang.org/x/sys/unix"
)

// bridgeDir is where root's network keeps what lasts until the next boot.
const bridgeDir = "/run/skiff/networks/bridge"

// A NetworkError is a network that could not be made: another --network may do.
type NetworkError struct {
	Err     error
	Missing string // the kernel module that would have been needed, or ""
}

func (e *NetworkError) Error() string { return e.Err.Error() }
func (e *NetworkError) Unwrap() error { return e.Err }

// A network is what the run holds of its container's network while it lives.
type network struct {
	link Link // what the container sees; empty without a default network
	to   connector
	laps *plan.Laps // of what it took, with SKIFF_TRACE
}

// A connector gives a container its network, in two steps on the way up.
type connector interface {
	// begin is called as soon as the container's init exists; what takes its
	// time goes on beside the caller. ready waits for the init's namespaces.
	begin(pr *Process, ids idmap.Map, ready func() error)

	// connect returns when the container has its address. inside is a
	// NETLINK_ROUTE socket of the container's network namespace, shared with
	// the init, and stays the caller's.
	connect(pr *Process, inside int) error

	// unpublish ends what serves published ports.
	unpublish()

	// close gives back what the host lent. The links go by themselves, with the
	// network namespaces.
	close()
}

// network makes ready what a container's network needs before its namespace
// exists: for root a link of the host's, and else the relay, which needs
// nothing of the host. The relay also serves root where the host's firewall or
// kernel is in the way.
func (r *Runner) network(o *Options, id string, published []ports.Socket) (*network, error) {
	if o.Network != NetworkDefault {
		return &network{}, nil
	}
	var laps *plan.Laps
	if o.Trace {
		laps = plan.NewLaps()
	}
	if os.Geteuid() == 0 && o.Relay == nil {
		n, err := r.bridge(o, id, published, laps)
		var missing *bridge.MissingError
		if err == nil || !errors.As(err, &missing) && !errors.Is(err, bridge.ErrForwardBlocked) && !errors.Is(err, bridge.ErrNoSubnet) {
			return n, err
		}
	}
	return &network{
		link: Link{Address: relay.DefaultAddress.Addr(), Gateway: relay.DefaultGateway, DNS: []string{relay.DefaultGateway.String()}},
		to:   &relayed{say: r.Say, store: r.Store, options: o.Relay, ports: published, hostGateway: o.wantsHost(), laps: laps},
		laps: laps,
	}, nil
}

// unpublish leaves published ports to another try. A network that is nil has none.
func (n *network) unpublish() {
	if n != nil && n.to != nil {
		n.to.unpublish()
	}
}

func (n *network) close() {
	if n.to != nil {
		n.to.close()
	}
}

// bridged is root's network: package bridge.
type bridged struct {
	container bridge.Container
	host      *bridge.Host
	lease     *lease.Lease
	attached  *bridge.Network
	say       func(format string, args ...any)
	ports     []ports.Socket
	owner     *netlink.Conn // of the rules for ports, or nil
	forward   *relay.Relay  // what serves the ports, or nil
}

func (r *Runner) bridge(o *Options, id string, published []ports.Socket, laps *plan.Laps) (_ *network, err error) {
	b := &bridged{container: bridge.Container{ID: id, Laps: laps}, say: r.Say, ports: published}
	defer func() {
		if err != nil {
			b.close()
			err = &NetworkError{Err: err}
		}
	}()
	file := dns.Open("/etc/resolv.conf")
	config := file.Config()
	b.host, err = bridge.Prepare(bridge.Options{
		Dir: bridgeDir, Avoid: config.Servers,
		Forwarding: func() { r.Say("turned net.ipv4.ip_forward on, for the containers' network") },
	})
	if err != nil {
		return nil, err
	}
	laps.Lap("bridge: prepare host")
	leases, err := lease.Open(bridgeDir + "/leases")
	if err != nil {
		return nil, err
	}
	defer leases.Close()
	b.lease, err = leases.Acquire(b.host.Subnet, b.host.Gateway, lease.Info{
		ID: id, Name: o.Name, PID: os.Getpid(), Created: time.Now().UTC(),
	})
	if err != nil {
		return nil, err
	}
	laps.Lap("bridge: lease address")
	b.container.Addr = b.lease.Addr
	n := &network{link: Link{Address: b.lease.Addr, Gateway: b.host.Gateway}, to: b, laps: laps}
	servers := config.Servers
	if o.DNS == nil && !config.Direct() {
		b.container.DNS = dns.New(nil, file.Upstreams)
		servers = []netip.Addr{b.host.Gateway}
	}
	for _, s := range servers {
		n.link.DNS = append(n.link.DNS, s.String())
	}
	return n, nil
}

func (b *bridged) begin(*Process, idmap.Map, func() error) {}

func (b *bridged) connect(pr *Process, inside int) error {
	ns, err := unix.Open("/proc/"+strconv.Itoa(pr.PID)+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &NetworkError{Err: err}
	}
	defer unix.Close(ns)
	b.container.NSFD, b.container.InsideFD = ns, inside
	b.container.Laps.Start()
	if b.attached, err = b.host.Attach(b.container); err != nil {
		return &NetworkError{Err: err}
	}
	if len(b.ports) == 0 {
		return nil
	}
	if b.owner, err = b.host.Publish(b.attached, b.container.Addr, b.ports); err != nil {
		return &NetworkError{Err: err}
	}
	b.container.Laps.Lap("bridge: publish ports")
	if b.forward, err = relay.Forward(context.Background(), b.host.Gateway, b.container.Addr, b.ports, func(line string) { b.say("%s", line) }); err != nil {
		return &NetworkError{Err: err}
	}
	return nil
}

func (b *bridged) unpublish() {
	if b.owner != nil {
		b.owner.Close()
	}
	if b.forward != nil {
		b.forward.Close()
	}
}

func (b *bridged) close() {
	if b.attached != nil {
		b.attached.Close()
	}
	if b.lease != nil {
		b.lease.Release()
	}
	if b.host != nil {
		b.host.Close()
	}
}

// relayed is a user's network: package relay.
type relayed struct {
	say     func(format string, args ...any)
	store   *store.Store
	options *RelayOptions
	ports   []ports.Socket
	started chan started // of the last begin, until it is known
	relay   *relay.Relay

	hostGateway bool
	laps        *plan.Laps
}

// A started is what became of a relay's start.
type started struct {
	relay *relay.Relay
	err   error
}

// holdFact is where the store keeps how the relay holds SYNs on this host: to
// find that a kernel lacks the best way takes 4 to 15 ms, for it waits for an RCU
// grace period when it takes a refused transaction of nftables back.
const holdFact = "networks/.hold"

func (n *relayed) begin(pr *Process, ids idmap.Map, ready func() error) {
	// The init that it was for before was given up, and the ports are wanted for this one.
	n.unpublish()
	n.started = make(chan started, 1)
	o := relay.Options{
		PID: pr.PID, UserNS: ids.Kind != idmap.Host, Ready: ready,
		Hold: relay.ParseHold(n.store.Fact(holdFact)), Ports: n.ports, HostGateway: n.hostGateway, Laps: n.laps,
		Log: func(line string) { n.say("%s", line) },
	}
	known := n.started
	n.options.to(&o)
	switch rung := os.Getenv(relayVariable); rung {
	case "":
	case "pasta":
		known <- started{err: errNoRelay}
		return
	default:
		o.Hold = relay.ParseHold(rung)
	}
	n.laps.Start()
	go func() {
		r, err := relay.Start(context.Background(), o)
		// Not that there is none: a module may come.
		if err == nil && o.Hold == relay.HoldAny && r.Hold() == relay.HoldCompat {
			n.store.KeepFact(holdFact, r.Hold().String()) // or it is found out again
		}
		known <- started{r, err}
	}()
}

func (n *relayed) connect(pr *Process, inside int) error {
	last := <-n.started
	if n.started, n.relay = nil, last.relay; last.err == nil {
		return nil
	}
	failed := &NetworkError{Err: last.err}
	if e, ok := errors.AsType[*relay.Error](last.err); ok {
		failed.Missing = e.Missing
	}
	if failed.Missing != "" && len(n.ports) == 0 {
		err := pasta(pr.PID, inside, n.options)
		if err == nil {
			if n.hostGateway {
				n.say("pasta serves the network, by which host-gateway leads nowhere")
			}
			return nil
		}
		if !errors.Is(err, exec.ErrNotFound) {
			failed.Err = fmt.Errorf("%w; %w", last.err, err)
		}
	}
	return failed
}

func (n *relayed) unpublish() {
	if n.started != nil {
		last := <-n.started
		n.started, n.relay = nil, last.relay
	}
	if n.relay != nil {
		n.relay.Close()
		n.relay = nil
	}
}

// close leaves the relay to the end of the process, which is near.
func (n *relayed) close() {}
