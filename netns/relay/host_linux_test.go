package relay

import (
	"net/netip"
	"testing"
)

// TestHostGateway checks that the gateway stands for the host only where that was
// asked for, and then not for its loopback.
func TestHostGateway(t *testing.T) {
	needWorld(t)
	for _, at := range []string{"0.0.0.0:3100", "127.0.0.1:3101"} {
		for _, transport := range []string{"tcp", "udp"} {
			if got := listenHere([]string{transport, at}); got != "ok" {
				t.Fatal(got)
			}
		}
	}
	for _, hold := range []Hold{HoldAny, HoldNone} {
		for _, asked := range []bool{false, true} {
			c, r := network(t, Options{HostGateway: asked, Hold: hold})
			for _, at := range []struct {
				port uint16
				open bool
			}{{3100, asked}, {3101, false}, {3102, false}} {
				to := netip.AddrPortFrom(r.Gateway(), at.port)
				if got := c.do(t, "udp %s 64 3", to); (got == "ok") != at.open {
					t.Errorf("hold %v, asked %v: datagrams to %s: %s", r.Hold(), asked, to, got)
				}
				got := c.do(t, "dial %s", to)
				if r.Hold() == HoldNone {
					got = c.do(t, "echo %s 100", to) // the first connection always succeeds
				}
				if (got == "ok") != at.open {
					t.Errorf("hold %v, asked %v: connect to %s: %s", r.Hold(), asked, to, got)
				}
			}
			r.Close()
			c.stop()
		}
	}
}
