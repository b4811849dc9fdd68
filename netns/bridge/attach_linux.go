package bridge

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"skiff/internal/plan"
	"skiff/netns/dns"
	"skiff/netns/netlink"
)

// A Container is what a container's link is made from. All descriptors stay
// the caller's.
type Container struct {
	ID       string         // hexadecimal; names the link on the host
	Addr     netip.Addr     // its lease, of the Host's subnet
	NSFD     int            // its network namespace
	InsideFD int            // a NETLINK_ROUTE socket opened inside it
	DNS      *dns.Forwarder // nil: the container asks no forwarder at Host.Gateway
	Laps     *plan.Laps     // gets the times of the steps, or is nil
}

// A Network is a container's link, for the container's life. The kernel takes
// it down with the container's network namespace.
type Network struct {
	Link string // the host's end
	dns  *resolver
}

// Close ends the DNS forwarder and deletes nothing.
func (n *Network) Close() error { return n.dns.close() }

// eth0 is the container's end.
const eth0 = "eth0"

// Attach makes the container's link: a veth with the gateway's address here
// and the container's there, both up, and a default route. Inside, lo comes up
// as well. The container has an address when Attach returns.
//
// An error leaves nothing that outlives the container's network namespace; it
// is a *MissingError where the kernel has no veth, wraps ErrForwardBlocked where the
// DNS forwarder cannot be reached, and an errno else.
func (h *Host) Attach(c Container) (*Network, error) {
	n, err := h.attach(c)
	if err != nil {
		return nil, fmt.Errorf("attach to bridge network: %w", err)
	}
	return n, nil
}

func (h *Host) attach(c Container) (*Network, error) {
	name, err := linkName(c.ID)
	if err != nil {
		return nil, err
	}
	if !h.Subnet.Contains(c.Addr) || c.Addr == h.Gateway {
		return nil, fmt.Errorf("address %s is not one for containers of %s", c.Addr, h.Subnet)
	}
	if c.DNS != nil && h.DNSBlocked != "" {
		return nil, blocked(h.DNSBlocked)
	}
	if err := h.pair(name, c); err != nil {
		return nil, err
	}
	c.Laps.Lap("bridge: create veth")
	in := netlink.New(c.InsideFD)
	if err := h.inside(in, c); err != nil {
		return nil, err
	}
	c.Laps.Lap("bridge: configure eth0")
	if err := h.outside(name, c); err != nil {
		return nil, err
	}
	c.Laps.Lap("bridge: configure the host's end")
	// The end that came up first has got its carrier just now, and may send
	// only after the kernel's link watch has run: its first packets would be
	// lost, and a lost ARP request costs a second. Asking for the link runs it
	// (kernel commit facd15dfd691, 6.9). Older kernels run it soon after; that is
	// why the host's end, which must answer the container's first ARP request,
	// comes up second.
	if _, err := in.Link(netlink.Link{Name: eth0}); err != nil {
		return nil, err
	}
	n := &Network{Link: name}
	if c.DNS != nil {
		if n.dns, err = h.serve(name, c); err != nil {
			return nil, err
		}
		c.Laps.Lap("bridge: listen for queries")
	}
	return n, nil
}

// pair makes the veth, both ends down.
func (h *Host) pair(name string, c Container) error {
	host, container := hardwareAddrs(c.Addr)
	var b netlink.Batch
	b.Veth(netlink.LinkSpec{Name: name, MAC: host, MTU: h.MTU},
		netlink.LinkSpec{Name: eth0, MAC: container, MTU: h.MTU}, c.NSFD)
	err := h.route.Do(&b)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return &MissingError{What: "veth", Err: err}
	}
	return err
}

// outside sets up the host's end. Kernels and links without IPv6 have no
// link-local address to turn off.
func (h *Host) outside(name string, c Container) error {
	link, err := h.route.Link(netlink.Link{Name: name})
	if err != nil {
		return err
	}
	l := netlink.Link{Index: link.Index, Name: name}
	var b netlink.Batch
	b.LinkNoIPv6LinkLocal(l)
	b.Ignore(unix.EAFNOSUPPORT, unix.EOPNOTSUPP)
	b.AddrAddPeer(l.Index, h.Gateway, c.Addr)
	b.LinkUp(l)
	return h.route.Do(&b)
}

// inside sets up the container's end.
func (h *Host) inside(in *netlink.Conn, c Container) error {
	link, err := in.Link(netlink.Link{Name: eth0})
	if err != nil {
		return err
	}
	l := netlink.Link{Index: link.Index, Name: eth0}
	var b netlink.Batch
	b.LinkUp(netlink.Lo)
	b.LinkNoIPv6LinkLocal(l)
	b.Ignore(unix.EAFNOSUPPORT, unix.EOPNOTSUPP)
	b.AddrAdd(l.Index, netip.PrefixFrom(c.Addr, c.Addr.BitLen()))
	b.LinkUp(l)
	b.RouteAdd(netlink.Route{Gateway: h.Gateway, Index: l.Index, OnLink: true})
	return in.Do(&b)
}
