package run

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"skiff/netns/netlink"
	"skiff/netns/relay"

	"golang.org/x/sys/unix"
)

// relayVariable chooses a rung of the relay, for tests: queue, compat or none is how SYNs are
// held, pasta is that there is no relay at all.
const relayVariable = "SKIFF_RELAY"

var errNoRelay = &relay.Error{Step: "start", Missing: "nft_tproxy", Err: unix.EOPNOTSUPP}

// pastaTime is how long pasta may take to give a container its address.
const pastaTime = 5 * time.Second

// pasta gives the container its network where the kernel lacks what the relay
// needs, with the same addresses and what o allows; without IPv6. The caller is
// the thread that ends with skiff, and pasta with it; and pasta ends when the
// container's network namespace does. inside is a NETLINK_ROUTE socket of that.
//
// Pasta carries to link-local addresses whatever it is told, so they are made
// the container's own.
//
// The error says what pasta said, and wraps exec.ErrNotFound where there is none.
func pasta(pid, inside int, o *RelayOptions) error {
	program, err := exec.LookPath("pasta")
	if err != nil {
		return err
	}
	var said bytes.Buffer
	args := []string{"--foreground", "--quiet", "--config-net", "--ipv4-only",
		"--address", relay.DefaultAddress.Addr().String(), "--netmask", strconv.Itoa(relay.DefaultAddress.Bits()),
		"--gateway", relay.DefaultGateway.String(), "--dns-forward", relay.DefaultGateway.String(), "--ns-ifname", "eth0",
		"--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none"}
	if o == nil || !o.HostLoopback {
		args = append(args, "--no-map-gw")
	}
	cmd := exec.Command(program, append(args, strconv.Itoa(pid))...)
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true} // ^C is the container's
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	c := netlink.New(inside)
	for begin := time.Now(); ; {
		if hasDefaultRoute(c) {
			if o != nil && o.LinkLocal {
				return nil
			}
			var b netlink.Batch
			b.RouteAdd(netlink.Route{Dst: linkLocal, Index: netlink.Lo.Index, Local: true})
			return c.Do(&b)
		}
		select {
		case err := <-ended:
			// It may say that it cannot log, before what matters.
			lines := strings.Split(strings.TrimSpace(said.String()), "\n")
			return fmt.Errorf("pasta: %s: %w", lines[len(lines)-1], err)
		case <-time.After(2 * time.Millisecond):
		}
		if time.Since(begin) > pastaTime {
			cmd.Process.Kill()
			<-ended
			return errors.New("pasta: the container got no route")
		}
	}
}

// linkLocal holds the metadata services of clouds.
var linkLocal = netip.PrefixFrom(netip.AddrFrom4([4]byte{169, 254}), 16)

// hasDefaultRoute says whether pasta is done: the route comes last.
func hasDefaultRoute(c *netlink.Conn) bool {
	all, err := c.Routes(unix.AF_INET)
	for _, r := range all {
		if err == nil && r.Dst.Bits() == 0 && r.Gateway == relay.DefaultGateway {
			return true
		}
	}
	return false
}
