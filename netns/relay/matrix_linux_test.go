package relay

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// fromEnv is a size that the environment may raise.
func fromEnv(name string, normal int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil {
		return n
	}
	return normal
}

// What a container sees through the relay is what a process of the host sees over
// the same link, whichever way SYNs are held.
func TestMatrix(t *testing.T) {
	size := fromEnv("SKIFF_TRANSFER", 64<<20)
	for _, h := range []Hold{HoldQueue, HoldCompat, HoldNone} {
		t.Run(h.String(), func(t *testing.T) {
			c, r := network(t, Options{Hold: h, IPv6: Always})
			if r.Hold() > h {
				t.Skipf("this kernel holds SYNs by %v", r.Hold())
			}
			for _, to := range []string{outsideIP, "[2001:db8:1::2]"} {
				for _, what := range []string{
					"dial %s:7",
					"echo %s:7 " + strconv.Itoa(size),
					"half in %s:9 1000000",
					"half out %s:22 1000000",
					"rst %s:21",
					"abort %s:24",
					"slow %h 67108864",
					"udp %s:7 0 1",
					"udp %s:7 1 20",
					"udp %s:7 1472 5",
					"udp %s:7 1473 5",
					"udp %s:7 9000 5",
					"udp %s:7 65507 3",
					"udp %s:4 10 1",
					"tell %s:4",
				} {
					what = strings.ReplaceAll(what, "%h", strings.Trim(to, "[]"))
					compare(t, c, strings.ReplaceAll(what, "%s", to))
				}
			}
			for _, what := range []string{
				"gone " + outsideIP + ":26", // who answers is told
				"tell [2001:db8:3::9]:7",    // a router has no route
				"tell 203.0.113.9:7",        // nobody has
				"tell [2001:db8:9::9]:7",    // nobody has
			} {
				compare(t, c, what)
			}
			for _, group := range []string{"224.0.0.251:5353", "255.255.255.255:67", "[ff0e::fb]:5353"} {
				if got := c.do(t, "tell %s", group); got != "nothing" {
					t.Errorf("tell %s: %s", group, got)
				}
			}
			if h == HoldNone {
				return // connections succeed and are then reset
			}
			for _, what := range []string{
				"dial " + outsideIP + ":4",
				"dial [2001:db8:1::2]:4",
				"dial [2001:db8:3::9]:7",
				"dial 203.0.113.9:7",
				"dial [2001:db8:9::9]:7",
			} {
				compare(t, c, what)
			}
		})
	}
}

// compare does the same in the container and here.
func compare(t *testing.T, c *child, what string) {
	t.Helper()
	words := strings.Fields(what)
	noted := words[0] == "abort" || words[0] == "gone" // outside
	native := parts[words[0]](words[1:])
	if noted {
		native += ", outside " + outside.do(t, "end")
	}
	if words[0] == "gone" && !strings.HasSuffix(native, "ECONNREFUSED") {
		t.Errorf("%s: natively %s: who answers is not told", what, native)
	}
	got := c.do(t, "%s", what)
	if noted {
		got += ", outside " + outside.do(t, "end")
	}
	if !alike(got, native) {
		t.Errorf("%s: %s, natively %s", what, got, native)
	}
}

// alike reports whether two answers are the same, but for who says that there is
// no route: the container has a gateway, and a process of the host itself.
func alike(got, native string) bool {
	if got == native {
		return true
	}
	switch native {
	case "ENETUNREACH":
		return got == fmt.Sprintf("3/0 from %v", DefaultGateway) || got == fmt.Sprintf("1/0 from %v", gateway6)
	}
	return false
}

// A byte that TCP marks as urgent is not lost: it comes in line.
func TestUrgent(t *testing.T) {
	c, _ := network(t, Options{})
	if got := c.do(t, "urgent %s:25", outsideIP); got != "abc ok" {
		t.Error(got)
	}
}

// The gateway answers names by the host's nameservers, over UDP and TCP, also when the
// first of them is not there.
func TestNames(t *testing.T) {
	for _, conf := range []string{"nameserver 192.0.2.2\n", "nameserver 192.0.2.1\nnameserver 192.0.2.2\n", "nameserver 2001:db8:1::2\n"} {
		file := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
			t.Fatal(err)
		}
		c, r := network(t, Options{Resolver: file, IPv6: Always})
		for _, over := range []string{"udp", "tcp"} {
			for _, gateway := range []string{r.Gateway().String(), "[" + gateway6.String() + "]"} {
				if got := c.do(t, "lookup %s %s:53 some.name.test.", over, gateway); got != "[192.0.2.53]" {
					t.Errorf("%q, %s, %s: %s", conf, over, gateway, got)
				}
			}
		}
	}
}

// Many connections are open at once, as many as the limit of descriptors allows: four
// for each, two of the relay's and one at either end.
func TestManyOpen(t *testing.T) {
	var n unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &n)
	many := fromEnv("SKIFF_CONNECTIONS", min(2000, int(n.Cur)/4))
	c, _ := network(t, Options{})
	if got := c.do(t, "many %s:7 %d", outsideIP, many); got != "ok" {
		t.Error(got)
	}
}
