package relay

import (
	"net/netip"
	"strings"
	"testing"

	"skiff/netns/netlink"

	"golang.org/x/sys/unix"
)

func TestIPv6(t *testing.T) {
	c, _ := network(t, Options{IPv6: Always})
	if got := c.do(t, "sysctl net/ipv4/ping_group_range 0 0"); got != "ok" {
		t.Fatal(got)
	}
	for _, at := range []struct{ do, want string }{
		{"dial [2001:db8:1::2]:7", "ok"},
		{"dial [2001:db8:1::2]:4", "ECONNREFUSED"},
		{"dial [2001:db8:9::2]:7", "ENETUNREACH"},
		{"dial 192.0.2.2:7", "ok"},
		{"echo [2001:db8:1::2]:7 67108864", "ok"},
		{"half in [2001:db8:1::2]:9 67108864", "ok"},
		{"half out [2001:db8:1::2]:22 67108864", "ok"},
		{"rst [2001:db8:1::2]:21", "ECONNRESET"},
		{"many [2001:db8:1::2]:7 500", "ok"},
		{"udp [2001:db8:1::2]:7 64 100", "ok"},
		{"udp [2001:db8:1::2]:7 0 2", "ok"},
		{"udp [2001:db8:1::2]:7 1453 4", "ok"},
		{"udp [2001:db8:1::2]:7 65487 4", "ok"},
		{"udp [2001:db8:1::2]:7 65507 4", "ok"},
		{"udp [2001:db8:1::2]:4 64 1", "ECONNREFUSED"},
		{"ping dgram 2001:db8:1::2 56 64", "ok"},
		{"ping raw 2001:db8:1::2 4000 64", "ok"},
		{"ping raw fd73:6b69:6666::1 65500 64", "ok"},
		{"ping dgram ::ffff:192.0.2.2 56 64", "connect: ENETUNREACH"},
		{"ping dgram fe80::1%eth0 56 64", "connect: EINVAL"}, // it has no such address itself
		{"ping dgram fd00:ec2::254 56 64", "1/1 from fd73:6b69:6666::1"},
		{"dial [fd00:ec2::254]:80", "EACCES"},
		{"dial [64:ff9b::7f00:1]:80", "EACCES"},
		{"dial [fd73:6b69:6666::1]:80", "ECONNREFUSED"},
		{"ping dgram fd73:6b69:6666::1 56 64", "ok"},
		{"ping dgram 2001:db8:2::9 56 2", "3/0 from 2001:db8:1::2"},
		{"ping dgram 2001:db8:9::9 56 64", "1/0 from fd73:6b69:6666::1"},
	} {
		if got := c.do(t, "%s", at.do); got != at.want {
			t.Errorf("%s: %s, want %s", at.do, got, at.want)
		}
	}
}

// IPv6 comes by itself where the host has a route to the internet, and only there.
func TestIPv6Auto(t *testing.T) {
	needWorld(t)
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	has := func(o Options) bool {
		c, _ := network(t, o)
		return strings.Contains(c.do(t, "links"), address6.String())
	}
	if has(Options{}) {
		t.Error("IPv6 without a way out")
	}
	// The default route goes with its link.
	var b netlink.Batch
	b.Veth(netlink.LinkSpec{Name: "way0"}, netlink.LinkSpec{Name: "way1"}, netlink.None)
	b.LinkUp(netlink.Link{Name: "way1"})
	b.LinkUp(netlink.Link{Name: "way0"})
	if err := c.Do(&b); err != nil {
		t.Fatal(err)
	}
	defer func() {
		b.Reset()
		b.LinkDelete(netlink.Link{Name: "way0"})
		if err := c.Do(&b); err != nil {
			t.Error(err)
		}
	}()
	index, err := c.LinkIndex("way0")
	if err != nil {
		t.Fatal(err)
	}
	b.Reset()
	b.AddrAdd(index, netip.MustParsePrefix("2001:db8:4::1/64"))
	b.RouteAdd(netlink.Route{Gateway: netip.MustParseAddr("2001:db8:4::2"), Index: index})
	if err := c.Do(&b); err != nil {
		t.Fatal(err)
	}
	if !has(Options{}) {
		t.Error("no IPv6 with a default route")
	}
	if has(Options{IPv6: Never}) {
		t.Error("IPv6, unwanted")
	}

	// A kernel without what IPv6 needs.
	families[1].number = 99
	defer func() { families[1].number = netlink.FamilyIPv6 }()
	child, _ := network(t, Options{})
	if got := child.do(t, "links"); strings.Contains(got, address6.String()) {
		t.Error(got)
	}
	if got := child.do(t, "dial %s:7", outsideIP); got != "ok" {
		t.Error(got)
	}
}
