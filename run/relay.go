package run

import "skiff/netns/relay"

// RelayOptions are what the relay lets a container do beyond its defaults.
type RelayOptions struct {
	HostLoopback bool  // the gateway's address stands for the host's 127.0.0.1 and ::1
	LinkLocal    bool  // 169.254.0.0/16 and fd00:ec2::254, where clouds tell machines about themselves
	IPv6         *bool // nil: if the host has a way out by it
}

// to fills in what they are for package relay; nil is the defaults.
func (o *RelayOptions) to(r *relay.Options) {
	if o == nil {
		return
	}
	r.AllowHostLoopback, r.AllowLinkLocal = o.HostLoopback, o.LinkLocal
	if o.IPv6 != nil {
		r.IPv6 = relay.Never
		if *o.IPv6 {
			r.IPv6 = relay.Always
		}
	}
}
