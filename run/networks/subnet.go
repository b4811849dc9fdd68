package networks

import (
	"errors"
	"fmt"
	"net/netip"

	"skiff/netns/netlink"

	"golang.org/x/sys/unix"
)

// first is where subnets are chosen from on, each of 24 bits: podman's.
var first = [4]byte{10, 89}

// errNoSubnet is a host that has something else in every corner there.
var errNoSubnet = errors.New("no free subnet in 10.89.0.0/16 to 10.255.0.0/16; --subnet names one")

// Place gives a network its subnet and gateway where it does not name them. A subnet that is
// named must not be another network's.
func (d Dir) Place(n Network, avoid []netip.Addr) (Network, error) {
	all, err := d.List()
	if err != nil {
		return n, err
	}
	for _, other := range all {
		if other.Name == n.Name {
			return n, ErrExists
		}
		if n.Subnet.IsValid() && n.Subnet.Overlaps(other.Subnet) {
			return n, fmt.Errorf("subnet %s overlaps with %s of network %s", n.Subnet, other.Subnet, other.Name)
		}
	}
	if !n.Subnet.IsValid() {
		if n.Subnet, err = free(all, avoid); err != nil {
			return n, err
		}
	}
	if !n.Gateway.IsValid() {
		n.Gateway = n.Subnet.Addr().Next()
	}
	return n, nil
}

// free is a subnet that neither networks nor the host have to do with.
func free(all []Network, avoid []netip.Addr) (netip.Prefix, error) {
	var used []netip.Prefix
	for _, n := range all {
		used = append(used, n.Subnet)
	}
	for _, a := range avoid {
		used = append(used, netip.PrefixFrom(a, a.BitLen()))
	}
	route, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return netip.Prefix{}, err
	}
	defer route.Close()
	routes, err := route.Routes(unix.AF_INET)
	if err != nil {
		return netip.Prefix{}, err
	}
	for _, r := range routes {
		used = append(used, r.Dst)
	}
	return choose(used)
}

// choose is the first subnet from there on that overlaps none of used. A route to
// everything, or to halves of it as of a VPN, is in the way of none.
func choose(used []netip.Prefix) (netip.Prefix, error) {
	for b := int(first[1]); b < 256; b++ {
	next:
		for c := range 256 {
			p := netip.PrefixFrom(netip.AddrFrom4([4]byte{first[0], byte(b), byte(c), 0}), 24)
			for _, u := range used {
				if u.Bits() > 1 && u.Overlaps(p) {
					continue next
				}
			}
			return p, nil
		}
	}
	return netip.Prefix{}, errNoSubnet
}
