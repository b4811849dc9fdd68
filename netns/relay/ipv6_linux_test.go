package relay

import (
	"testing"
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
		{"ping dgram fd73:6b69:6666::1 56 64", "ok"},
		{"ping dgram 2001:db8:2::9 56 2", "3/0 from 2001:db8:1::2"},
		{"ping dgram 2001:db8:9::9 56 64", "1/0 from fd73:6b69:6666::1"},
	} {
		if got := c.do(t, "%s", at.do); got != at.want {
			t.Errorf("%s: %s, want %s", at.do, got, at.want)
		}
	}
}
