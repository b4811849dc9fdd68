package relay

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"

	"skiff/netns/netlink"

	"golang.org/x/sys/unix"
)

// A Network is a named network: a router namespace that all its containers are
// wired to, each by its own relay.
//
//	C1 eth0 10.89.0.2 ──── s0a590002 ┐
//	                                 R     10.89.0.1 on each of its links
//	C2 eth0 10.89.0.3 ──── s0a590003 ┘
//
// R forwards from container to container and leads everything else to the relay
// of the container that sent it, which has a table, a queue and listeners of its
// own there. So no process serves another, and one that is killed takes but its
// own container's way out with it. R lives as long as any of them has a socket of it.
//
// It routes and does not bridge: whom a packet is from is known by the link it came
// by, and no container can claim the address of another, or answer for it (SECURITY case
// 115). What it costs is broadcasts and multicasts from container to container.
//
// What a relay that was killed has left in R waits for packets that no longer
// come, and is replaced by whoever is next to have the address.
type Network struct {
	// Router is the namespace, or -1 to make it: as a user in the container's
	// user namespace, which must be the one of all members, and as root in the caller's.
	Router int

	Subnet       netip.Prefix
	Interface    string           // of the container
	MAC          net.HardwareAddr // of that, or nil
	DefaultRoute bool
	Internal     bool // there is no way out but names
}

// outside says whether R belongs to the caller's own user namespace.
func (s *Network) outside() bool { return s != nil && os.Geteuid() == 0 }

func (s *Network) router() int {
	if s == nil {
		return -1
	}
	return s.Router
}

// A place is what a relay calls its things in R.
type place struct {
	table, port string // of nftables; R's end of the veth
	eth         string // C's end
	mac         net.HardwareAddr
	queue       uint16
	tcp, udp    uint16 // ports of the listeners; 0: the kernel chooses
}

// alone is the place of who has R to himself.
var alone = place{table: "relay", port: "np0", eth: "eth0", tcp: 40001, udp: 40002}

// place is named after the container's address, which nobody else has there.
func (s *Network) place(address netip.Addr) place {
	if s == nil {
		return alone
	}
	a := address.As4()
	name := fmt.Sprintf("s%08x", binary.BigEndian.Uint32(a[:]))
	return place{table: name, port: name, eth: s.Interface, mac: s.MAC, queue: binary.BigEndian.Uint16(a[2:])}
}

// learn reads which ports the kernel chose.
func (at *place) learn(in *sockets) error {
	for _, l := range []struct {
		fd   int
		port *uint16
	}{{in.tcp, &at.tcp}, {in.udp, &at.udp}} {
		if *l.port != 0 {
			continue
		}
		sa, err := unix.Getsockname(l.fd)
		if err != nil {
			return &Error{Step: "getsockname", Err: err}
		}
		*l.port = uint16(sa.(*unix.SockaddrInet4).Port)
	}
	return nil
}

// container appends what C gets: one address, and all others by the router.
func (s *Network) container(b *netlink.Batch, eth int, r *Relay) {
	l := netlink.Link{Index: eth}
	b.AddrAdd(eth, netip.PrefixFrom(r.address.Addr(), 32))
	b.LinkUp(netlink.Lo)
	b.LinkUp(l)
	b.RouteAdd(netlink.Route{Dst: s.Subnet, Gateway: r.gateway, Index: eth, OnLink: true})
	if s.DefaultRoute && !s.Internal {
		b.RouteAdd(netlink.Route{Gateway: r.gateway, Index: eth, OnLink: true})
	}
}

// routes appends what R gets. What is there already is another member's doing.
// An address of the network that nobody has is unreachable, for all others are R's own.
func (s *Network) routes(b *netlink.Batch, port int, r *Relay) {
	b.LinkForwarding(netlink.Link{Index: port})
	b.AddrAddPeer(port, r.gateway, r.address.Addr())
	b.LinkUp(netlink.Link{Index: port})
	b.RouteAdd(netlink.Route{Index: 1, Local: true})
	b.Ignore(unix.EEXIST)
	b.RouteAdd(netlink.Route{Dst: s.Subnet, Unreachable: true})
	b.Ignore(unix.EEXIST)
}

// neighbours is what R forwards by itself.
func (s *Network) neighbours(r *Relay) netlink.Expr {
	return netlink.All(netlink.Dest(s.Subnet), netlink.NotDest(netip.PrefixFrom(r.gateway, 32)))
}

// Router is R's namespace; the caller owns the descriptor.
func (r *Relay) Router() (int, error) {
	fd, err := unix.IoctlRetInt(r.in.netfilter, unix.SIOCGSKNS)
	if err != nil {
		return -1, &Error{Step: "get router namespace", Err: err}
	}
	return fd, nil
}
