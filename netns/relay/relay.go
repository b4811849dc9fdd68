// Package relay gives a container a network with no privilege on the host: a
// private router namespace whose every destination is local, and a loop that
// carries what arrives there over sockets of skiff's own network namespace.
//
//	C (container)          R (router)                      host
//	eth0 10.254.110.2 ──── np0 10.254.110.1                sockets of skiff
//	                       local default dev lo  ─ TPROXY ─┘ connect, copy, splice
//
// R exists as long as a socket of it does, and all of those are skiff's: when
// skiff ends, by SIGKILL too, R goes with its veth, rules and listeners.
// Nothing has to be taken back.
//
// A SYN waits in an NFQUEUE until the connection outside stands, so refused is
// refused and unreachable is unreachable. UDP goes through one transparent
// socket inward and one connected socket per flow outward; answers are written
// with the header of whoever was asked, through a raw socket. Queries to the
// gateway's port 53 go to the host's own nameservers, or through package dns
// where there are names to answer.
//
// skiff stays outside of the container's user namespace. As its creator it
// holds every capability over it (user_namespaces(7)), so what a small task
// opened inside works from outside: netlink looks at the opener of the socket
// and at the sender, transparent binds at the sender.
//
// There is no bridge in R, so the br_netfilter trap does not apply: where one
// is added, net.bridge.bridge-nf-call-iptables must be 0 in R, or the bridge
// runs prerouting first and the socket that TPROXY chose is lost.
//
// ICMP echo requests go out through ping sockets of the host, if it lets the
// caller have some, and the gateway answers for itself.
//
// IPv6 has sockets and a table of rules of its own, and is the same otherwise.
//
// Limits: of ICMP there is echo, and errors about what was sent. Nothing goes to
// groups (multicast, broadcast). The transport is split at the relay, so TCP
// options, the mark of urgent data and path MTU end there, and keep-alives are
// answered there. A UDP socket inside that talks to many has a port of its own
// outside for each of them. The caller must not reap the container's init before Start
// has returned, and must not have left the network namespace whose reach the
// container shall have.
package relay

import (
	"fmt"
	"net/netip"

	"skiff/internal/plan"
	"skiff/netns/dns"
	"skiff/netns/ports"
)

// The default addresses. RFC 1918, a little used corner, and four addresses
// only: the container cannot reach real hosts that bear one of them. All
// containers may have the same, since each has a router namespace of its own.
var (
	DefaultAddress = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 254, 110, 2}), 30)
	DefaultGateway = netip.AddrFrom4([4]byte{10, 254, 110, 1})
)

// The addresses of IPv6, of a unique local network (RFC 4193) whose identifier
// spells skiff. Programs that may choose take IPv4 for destinations that have
// both, since such an address is unlike one of the internet (RFC 6724).
var (
	address6 = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, 's', 'k', 'i', 'f', 'f', 15: 2}), 64)
	gateway6 = netip.AddrFrom16([16]byte{0xfd, 's', 'k', 'i', 'f', 'f', 15: 1})

	// Neighbour discovery asks from it for the container's link address.
	routerLinkLocal = netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfe, 0x80, 15: 1}), 64)
)

// A Choice is whether something is made.
type Choice int

const (
	Auto   Choice = iota // if the host has it
	Never                // not
	Always               // or Start fails
)

// A Hold is how SYNs wait for the connection outside, best first.
type Hold int

const (
	HoldAny    Hold = iota // the best that the kernel has
	HoldQueue              // nftables' queue expression
	HoldCompat             // iptables' NFQUEUE target through nft_compat
	HoldNone               // not at all: connections succeed and are then reset
)

var holdNames = [...]string{"any", "queue", "compat", "none"}

func (h Hold) String() string { return holdNames[h] }

// ParseHold reads what String wrote; HoldAny is all else.
func ParseHold(name string) Hold {
	for h, n := range holdNames {
		if n == name {
			return Hold(h)
		}
	}
	return HoldAny
}

// Options say what Start makes. The zero value of a field is its default.
type Options struct {
	PID    int  // the container's init, in its own network namespace once Ready returns
	UserNS bool // the init is in a user namespace that the caller made

	// Ready waits until the init is in its network namespace. It runs while R is
	// being made. nil: it is there already.
	Ready func() error

	// IPv6 gives the container an address and a way out. Auto does if the host has a
	// route to the internet.
	IPv6 Choice

	// By default the host's loopback and link-local addresses are forbidden, and
	// with them the metadata services of clouds.
	AllowHostLoopback bool // the gateway's address stands for the host's 127.0.0.1 and ::1
	AllowLinkLocal    bool // 169.254.0.0/16 and fd00:ec2::254 can be reached

	Address  netip.Prefix // of eth0, with the network's length
	Gateway  netip.Addr   // of R on that network
	Resolver string       // path of resolv.conf(5); /etc/resolv.conf
	// HostGateway lets the gateway's address stand for the host: what listens
	// there at all addresses, or at the one it reaches out from, is reached by it.
	HostGateway bool

	Names dns.Names // answered at the gateway's port 53 before the host's nameservers are asked; or nil

	// Hold is the rung to begin with. Asking for one that an earlier run found
	// spares the kernel a search for a module.
	Hold Hold

	// Ports are sockets of the host that lead to the container. They stay the
	// caller's, open until the relay is closed or the process ends.
	Ports []ports.Socket

	// Network is a router namespace that others are in, too; nil: one of its own.
	Network *Network

	// Laps gets the times of the steps, or is nil.
	Laps *plan.Laps

	// Log gets one line about what is wrong with a running relay, or is nil.
	Log func(string)
}

// An Error is a step of Start that failed.
type Error struct {
	Step    string // "create veth", in the words of a message
	Missing string // the kernel module that would have been needed, or ""
	Err     error  // wraps the errno
}

func (e *Error) Error() string {
	if e.Missing != "" {
		return fmt.Sprintf("relay: %s: the kernel has no %s: %v", e.Step, e.Missing, e.Err)
	}
	return fmt.Sprintf("relay: %s: %v", e.Step, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }
