package relay

import "net/netip"

// A ruling is what becomes of traffic to a destination.
type ruling uint8

const (
	allow   ruling = iota
	resolve        // to a nameserver of the host
	outward        // to the host's own address
	refuse         // as a machine without such a service does
	forbid         // as an administrator's filter does
)

// rule decides about a destination before anything is dialled.
//
// The host's loopback is never reachable: 127/8 by name, 0/8 because connect
// takes 0.0.0.0 for 127.0.0.1. 169.254/16 holds clouds' metadata services.
// Everything else is what the user could reach without a container, the
// host's own addresses included. Source: RFC 6890; SECURITY case 112, 116.
func (r *Relay) rule(dst netip.AddrPort) ruling {
	a := dst.Addr()
	if a == r.gateway {
		if dst.Port() == 53 {
			return resolve
		}
		if r.hostGateway && dst.Port() != 0 {
			return outward
		}
		return refuse
	}
	if r.address.Contains(a) {
		return refuse
	}
	switch b := a.As4(); {
	case b[0] == 0, b[0] == 127, b[0] == 169 && b[1] == 254, b[0] >= 224, dst.Port() == 0:
		return forbid
	}
	return allow
}
