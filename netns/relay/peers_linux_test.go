package relay

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"skiff/internal/need"
	"skiff/netns/netlink"

	"golang.org/x/sys/unix"
)

// TestPeers measures the relay against pasta and slirp4netns, one after the
// other in one loop, and prints medians. It is asked for by
// RELAY_BENCH=ROUNDS[,MILLISECONDS], and needs root to be an ordinary user, as
// whom pasta behaves.
func TestPeers(t *testing.T) {
	asked := os.Getenv("RELAY_BENCH")
	if asked == "" {
		t.Skip("RELAY_BENCH is not set")
	}
	need.Root(t)
	needWorld(t)
	rounds, ms := 5, 1000
	first, second, both := strings.Cut(asked, ",")
	rounds, _ = strconv.Atoi(first)
	if both {
		ms, _ = strconv.Atoi(second)
	}
	if err := defaultRoute(); err != nil {
		t.Fatal(err)
	}
	type contender struct {
		name  string
		start func(t *testing.T, c *child)
	}
	contenders := []contender{
		{"host", nil},
		{"relay", func(t *testing.T, c *child) { relayTo(t, c, Options{}, true) }},
		{"pasta", func(t *testing.T, c *child) {
			helper(t, c, "pasta", "-f", "-q", "-4", "-i", "out0", "-a", "192.0.2.1", "-n", "24", "-g", outsideIP, "--config-net", "--no-map-gw", "-t", "none", "-u", "none", "-T", "none", "-U", "none", strconv.Itoa(c.cmd.Process.Pid))
		}},
		{"slirp4netns", func(t *testing.T, c *child) {
			helper(t, c, "slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", strconv.Itoa(c.cmd.Process.Pid), "tap0")
		}},
	}
	fewTimeWait()
	exe := readable(t)
	if only := os.Getenv("RELAY_BENCH_WHO"); only != "" {
		contenders = slices.DeleteFunc(contenders, func(c contender) bool { return !strings.Contains(only, c.name) })
	}
	children := make([]*child, len(contenders))
	for i, n := range contenders {
		// The container's maker must be the user whose helper enters it.
		attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: benchUID, Gid: benchUID}}
		cmd := exec.Command("unshare", "-Urn", exe)
		if n.start == nil {
			cmd = exec.Command(exe)
		}
		c, err := startCommand("container", cmd, attr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.stop)
		if n.start != nil {
			n.start(t, c)
		}
		children[i] = c
	}
	kinds := []struct {
		name    string
		streams int
		unit    float64
		of      string
	}{{"up", 1, 1e9, "Gbit/s"}, {"down", 1, 1e9, "Gbit/s"}, {"up", 4, 1e9, "Gbit/s"}, {"down", 4, 1e9, "Gbit/s"},
		{"rr", 1, 1, "/s"}, {"rr", 16, 1, "/s"}, {"crr", 1, 1, "/s"}, {"crr", 8, 1, "/s"}}
	if only := os.Getenv("RELAY_BENCH_ONLY"); only != "" {
		kinds = slices.DeleteFunc(kinds, func(k struct {
			name    string
			streams int
			unit    float64
			of      string
		}) bool {
			return !slices.Contains(strings.Split(only, ","), fmt.Sprint(k.name, k.streams))
		})
	}
	got := map[string][]float64{}
	for range rounds {
		for _, k := range kinds {
			for i, n := range contenders {
				args := []string{k.name, fmt.Sprintf("%s:%d", outsideIP, benchPort), strconv.Itoa(ms), strconv.Itoa(k.streams)}
				answer := children[i].do(t, "bench %s", strings.Join(args, " "))
				v, err := strconv.ParseFloat(answer, 64)
				if err != nil {
					t.Fatalf("%s %s: %s", n.name, k.name, answer)
				}
				key := fmt.Sprint(n.name, k.name, k.streams)
				got[key] = append(got[key], v/k.unit)
			}
		}
	}
	var out strings.Builder
	fmt.Fprintf(&out, "\n%-12s", "")
	for _, n := range contenders {
		fmt.Fprintf(&out, "%14s", n.name)
	}
	fmt.Fprintf(&out, "%12s\n", "relay/best")
	for _, k := range kinds {
		fmt.Fprintf(&out, "%-5s%2d %-6s", k.name, k.streams, k.of)
		best, own := 0.0, 0.0
		for _, n := range contenders {
			m := median(got[fmt.Sprint(n.name, k.name, k.streams)])
			fmt.Fprintf(&out, "%14.4g", m)
			switch n.name {
			case "relay":
				own = m
			case "pasta", "slirp4netns":
				best = max(best, m)
			}
		}
		fmt.Fprintf(&out, "%12.2f\n", own/best)
	}
	t.Log(out.String())
}

// benchUID is the host's id of the containers and helpers of TestPeers.
const benchUID = 1000

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	if len(v) == 0 {
		return 0
	}
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// readable is a copy of this binary that every user may execute.
func readable(t *testing.T) string {
	dir, err := os.MkdirTemp("", "relay")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	os.Chmod(dir, 0o755)
	b, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(dir+"/relay.test", b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir + "/relay.test"
}

// helper starts a program that brings a container's network, and waits for it.
func helper(t *testing.T, c *child, name string, args ...string) {
	need.Tool(t, name)
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Credential: &syscall.Credential{Uid: benchUID, Gid: benchUID}}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	eventually(t, name, func() bool { return c.do(t, "dial %s:7", outsideIP) == "ok" })
	time.Sleep(50 * time.Millisecond)
}

func defaultRoute() error {
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.Close()
	index, err := c.LinkIndex("out0")
	if err != nil {
		return err
	}
	var b netlink.Batch
	b.RouteAdd(netlink.Route{Index: index, Gateway: netip.MustParseAddr(outsideIP)})
	return c.Do(&b)
}
