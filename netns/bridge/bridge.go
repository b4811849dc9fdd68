// Package bridge makes root's default network, "bridge": every container has
// an address of a private subnet, reaches out through the host's own address
// (masquerading), and is reached by nobody else.
//
// The word is docker's; there is no bridge device in it. Each container hangs
// on a routed point-to-point veth of its own: the host's end carries the
// gateway's address and the container's as its peer, so the kernel keeps one
// /32 route per container, which goes with the veth. What is alike for all
// containers is one static nftables table, "skiff", made by whoever comes first
// and left. A start makes no nftables transaction and deletes nothing when it
// ends: the veth dies with the container's network namespace, in the
// background.
//
// Both are decisions against a first plan (one bridge, one nftables table per
// run, owned by its socket), measured on kernel 6.18:
//
//	closing the socket of an owner table   8 to 20 ms, on the exit path: an RCU
//	                                       grace period under the namespace's
//	                                       commit_mutex, so that the next run
//	                                       waits as well
//	base chains at one hook                1,024 at most, each of them passed by
//	                                       every packet (MAX_HOOK_COUNT)
//	ports of one bridge                    1,023 at most (BR_PORT_BITS)
//
// On a link of its own a container can neither see nor forge another's frames,
// and strict reverse path filtering drops any source address but its own.
//
// What a container reaches: everything beyond the host that the host reaches,
// and the host's services that listen on more than loopback, as with docker.
// Not: other containers (refused), 127.0.0.0/8, 169.254.0.0/16 (link-local,
// where clouds keep credentials), anything by IPv6.
//
// Limits: IPv4. Someone who flushes all of nftables takes masquerading from
// running containers until the next start makes the table again. The caller
// holds the container's address (package lease) for the container's life and
// has checked that the ID is one of skiff's.
package bridge

import (
	"errors"
	"fmt"
	"net/netip"
)

// ErrForwardBlocked says that the host's firewall drops what would be forwarded, and
// that it is not skiff's to change; or that the host may not forward. The relay
// needs none of it.
var ErrForwardBlocked = errors.New("host does not forward for containers")

// ErrNoSubnet says that the host has routes to every subnet that could be
// chosen.
var ErrNoSubnet = errors.New("no free subnet")

// A MissingError says which part of the kernel is not there or not allowed.
type MissingError struct {
	What string // "nftables", "veth"
	Err  error  // wraps the errno
}

func (e *MissingError) Error() string { return e.What + " is not available: " + e.Err.Error() }
func (e *MissingError) Unwrap() error { return e.Err }

// linkPrefix begins the name of each container's link on the host. The static
// rules go by it.
const linkPrefix = "skf"

// linkName is the host's end: the prefix and the ID's first 11 digits, 14
// bytes of the 15 that a name may have.
func linkName(id string) (string, error) {
	const digits = 11
	if len(id) < digits {
		return "", fmt.Errorf("container id %q is too short for a link name", id)
	}
	for _, c := range id[:digits] {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return "", fmt.Errorf("container id %q is not hexadecimal", id)
		}
	}
	return linkPrefix + id[:digits], nil
}

// hardwareAddrs are the two ends' addresses, locally administered and made
// from the container's own. They are set so that udev does not replace random
// ones after the fact (systemd.link(5), MACAddressPolicy).
func hardwareAddrs(a netip.Addr) (host, container []byte) {
	ip := a.As4()
	return append([]byte{0x02, 0x73}, ip[:]...), append([]byte{0x02, 0x6b}, ip[:]...)
}

// subnets are tried in this order. Docker takes 172.17.0.0/16 and following,
// podman 10.88.0.0/16 and following, whether or not they are there already.
func subnets(yield func(netip.Prefix) bool) {
	for i := range 10 {
		if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(77 + i), 0, 0}), 16)) {
			return
		}
	}
	for i := range 4 {
		if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{172, byte(28 + i), 0, 0}), 16)) {
			return
		}
	}
	for i := range 4 {
		if !yield(netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, byte(192 + 16*i), 0}), 20)) {
			return
		}
	}
}

// chooseSubnet returns the first subnet that overlaps none of used. Prefixes
// shorter than 8 bits are halves of a default route, as VPNs set them.
func chooseSubnet(used []netip.Prefix) (netip.Prefix, error) {
next:
	for p := range subnets {
		for _, u := range used {
			if u.Bits() >= 8 && u.Overlaps(p) {
				continue next
			}
		}
		return p, nil
	}
	return netip.Prefix{}, ErrNoSubnet
}

// gatewayOf is the subnet's first address.
func gatewayOf(p netip.Prefix) netip.Addr { return p.Masked().Addr().Next() }
