package run

import (
	"net/netip"
	"os"
	"strconv"
	"time"

	"skiff/netns/bridge"
	"skiff/netns/dns"
	"skiff/netns/lease"

	"golang.org/x/sys/unix"
)

// bridgeDir is where root's network keeps what lasts until the next boot.
const bridgeDir = "/run/skiff/networks/bridge"

// A NetworkError is a network that could not be made: another --network may do.
type NetworkError struct{ Err error }

func (e *NetworkError) Error() string { return e.Err.Error() }
func (e *NetworkError) Unwrap() error { return e.Err }

// A network is what the run holds of its container's network while it lives.
// Without a default network it holds nothing.
type network struct {
	link Link

	id       string
	host     *bridge.Host
	lease    *lease.Lease
	dns      *dns.Forwarder
	attached *bridge.Network
}

// network makes ready what a container's network needs before its namespace
// exists: the host, and an address that is the container's until skiff dies.
func (r *Runner) network(o *Options, id string) (*network, error) {
	n := &network{id: id}
	if o.Network != NetworkDefault {
		return n, nil
	}
	if err := n.prepare(r, o); err != nil {
		n.close()
		return nil, &NetworkError{err}
	}
	return n, nil
}

func (n *network) prepare(r *Runner, o *Options) (err error) {
	file := dns.Open("/etc/resolv.conf")
	config := file.Config()
	n.host, err = bridge.Prepare(bridge.Options{
		Dir: bridgeDir, Avoid: config.Servers,
		Forwarding: func() { r.Say("turned net.ipv4.ip_forward on, for the containers' network") },
	})
	if err != nil {
		return err
	}
	leases, err := lease.Open(bridgeDir + "/leases")
	if err != nil {
		return err
	}
	defer leases.Close()
	n.lease, err = leases.Acquire(n.host.Subnet, n.host.Gateway, lease.Info{
		ID: n.id, Name: o.Name, PID: os.Getpid(), Created: time.Now().UTC(),
	})
	if err != nil {
		return err
	}
	n.link = Link{Address: n.lease.Addr, Gateway: n.host.Gateway}
	servers := config.Servers
	if o.DNS == nil && !config.Direct() {
		n.dns = dns.New(file.Upstreams)
		servers = []netip.Addr{n.host.Gateway}
	}
	for _, s := range servers {
		n.link.DNS = append(n.link.DNS, s.String())
	}
	return nil
}

// connect gives the container whose init is pid its link. inside is a netlink
// socket that the init opened; it is closed here, for the init shares it.
func (n *network) connect(pid, inside int) error {
	defer unix.Close(inside)
	ns, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &NetworkError{err}
	}
	defer unix.Close(ns)
	n.attached, err = n.host.Attach(bridge.Container{ID: n.id, Addr: n.link.Address, NSFD: ns, InsideFD: inside, DNS: n.dns})
	if err != nil {
		return &NetworkError{err}
	}
	return nil
}

// close gives back what the host lent. The link goes by itself, with the
// container's network namespace.
func (n *network) close() {
	if n.attached != nil {
		n.attached.Close()
	}
	if n.lease != nil {
		n.lease.Release()
	}
	if n.host != nil {
		n.host.Close()
	}
}
