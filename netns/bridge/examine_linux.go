package bridge

import (
	"bytes"
	"net/netip"

	"golang.org/x/sys/unix"

	"skiff/internal/smallfile"
	"skiff/netns/netlink"
)

// A Report is what Prepare would find.
type Report struct {
	Subnet     netip.Prefix
	Forward    string // who drops packets of containers for good, or ""
	Input      string // who drops their packets to the DNS forwarder, or ""
	Excepted   string // the chain of iptables' that gets exceptions, or ""
	Forwarding bool   // ip_forward is on
}

// Examine looks at what Prepare looks at, and changes nothing. The error is
// one that Prepare would return.
func Examine(o Options) (Report, error) {
	nf, err := netlink.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return Report{}, missingNft(err)
	}
	defer nf.Close()
	route, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return Report{}, err
	}
	defer route.Close()
	var r Report
	netns, err := netnsID()
	if err != nil {
		return r, err
	}
	if st := readState(o.Dir); st.netns == netns && st.subnet.IsValid() {
		r.Subnet = st.subnet
	} else if r.Subnet, err = freeSubnet(route, o.Avoid); err != nil {
		return r, err
	}
	s, err := look(nf, r.Subnet)
	if err != nil {
		return r, err
	}
	r.Forward, r.Input = s.forward, s.input
	for _, rule := range s.missing {
		r.Excepted = rule.chain
	}
	now, err := smallfile.Read(ipForward)
	r.Forwarding = err == nil && !bytes.HasPrefix(now, []byte("0"))
	return r, nil
}
