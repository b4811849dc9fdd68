package relay

import (
	"testing"
)

func TestPing(t *testing.T) {
	c, r := network(t, Options{})
	if got := c.do(t, "sysctl net/ipv4/ping_group_range 0 0"); got != "ok" {
		t.Fatal(got)
	}
	// A new network namespace allows nobody ping sockets.
	for _, host := range []string{"raw sockets", "ping sockets"} {
		t.Run(host, func(t *testing.T) {
			if host == "ping sockets" {
				if got := sysctl([]string{"net/ipv4/ping_group_range", "0", "0"}); got != "ok" {
					t.Fatal(got)
				}
			}
			for _, at := range []struct{ what, want string }{
				{"raw " + outsideIP + " 56 64", "ok"},
				{"dgram " + outsideIP + " 56 64", "ok"},
				{"dgram " + outsideIP + " 0 64", "ok"},
				{"dgram " + outsideIP + " 1500 64", "ok"},
				{"raw " + outsideIP + " 65507 64", "ok"},
				{"dgram 192.0.2.1 56 64", "ok"}, // the host
				{"dgram " + r.Gateway().String() + " 56 64", "ok"},
				{"raw " + r.Gateway().String() + " 9000 1", "ok"},
				{"dgram 203.0.113.1 56 64", "3/0 from " + r.Gateway().String()},
				{"dgram 127.0.0.2 56 64", "ok"}, // its own
				{"dgram 169.254.169.254 56 64", "3/13 from " + r.Gateway().String()},
				{"dgram " + outsideIP + " 56 1", "11/0 from " + r.Gateway().String()},
				{"dgram 198.51.100.9 56 2", "11/0 from " + outsideIP},
				{"dgram 198.18.0.9 56 64", "3/0 from " + outsideIP},
			} {
				if got := c.do(t, "ping %s", at.what); got != at.want {
					t.Errorf("ping %s: %s, want %s", at.what, got, at.want)
				}
			}
		})
	}
}
