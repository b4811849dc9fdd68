package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"skiff/internal/idmap"
	"skiff/internal/plan"
	"skiff/netns/bridge"
	"skiff/netns/relay"

	"golang.org/x/sys/unix"
)

// network starts the relay for a task, which is a user's network, and root's
// where the host is in the way of the other.
func network(h *Host) Finding {
	ids := own(h.IDs)
	var hold relay.Hold
	err := trial{ids: ids, beside: func(task *plan.Task) error {
		r, err := relay.Start(context.Background(), relay.Options{PID: task.PID, UserNS: ids.Kind != idmap.Host})
		if err != nil {
			return err
		}
		hold = r.Hold()
		return r.Close()
	}}.run()
	needed := os.Geteuid() != 0
	var e *relay.Error
	switch {
	case errors.As(err, &e) && e.Missing != "" && pasta() && os.Geteuid() != 0:
		return Finding{Status: Limited, Uses: "pasta, without published ports", Why: err.Error(), Cure: "sudo modprobe " + e.Missing, Needed: needed}
	case errors.As(err, &e):
		f := Finding{Status: Missing, Uses: err.Error(), Why: "containers run with --network none or host alone", Needed: needed}
		if e.Missing != "" {
			f.Cure = "sudo modprobe " + e.Missing // the relay's words are the modules'
		}
		return f
	case err != nil:
		f := missing(err, UserNamespaces(err, Setting))
		f.Needed = needed
		return f
	}
	f := Finding{Status: OK, Needed: needed}
	switch hold {
	case relay.HoldQueue:
		f.Uses = "the relay; a connection waits, by nftables' queue, until there is one outside"
	case relay.HoldCompat:
		f.Uses = "the relay; a connection waits, by iptables' NFQUEUE, until there is one outside"
		f.Why = "the kernel has no nft_queue, which does no more"
	default:
		f.Status, f.Uses = Limited, "the relay; connections are accepted, and reset where there is none to be had outside"
		f.Why, f.Cure = "the kernel has neither nft_queue nor xt_NFQUEUE, or no nfnetlink_queue", "sudo modprobe -a nfnetlink_queue nft_queue"
	}
	return f
}

// pasta reports whether that, which serves where the kernel lacks what the relay
// needs, is installed and may make its device.
func pasta() bool {
	_, err := exec.LookPath("pasta")
	return err == nil && unix.Access("/dev/net/tun", unix.R_OK|unix.W_OK) == nil
}

// bridgeDir is where package run keeps the state of root's network.
const bridgeDir = "/run/skiff/networks/bridge"

// bridged looks whether the host forwards for containers.
func bridged(*Host) Finding {
	if os.Geteuid() != 0 {
		return Finding{}
	}
	report, err := bridge.Examine(bridge.Options{Dir: bridgeDir})
	var lacks *bridge.MissingError
	switch {
	case errors.As(err, &lacks) && errors.Is(err, unix.EPERM):
		return Finding{Status: Limited, Uses: "the relay", Why: "root may not change the host's network here (CAP_NET_ADMIN)"}
	case errors.As(err, &lacks):
		return Finding{Status: Limited, Uses: "the relay", Why: err.Error(), Cure: "sudo modprobe nf_tables"}
	case err != nil:
		return Finding{Status: Limited, Uses: "the relay", Why: err.Error()}
	case report.Forward != "":
		return Finding{Status: Limited, Uses: "the relay", Why: report.Forward + " drops what is forwarded"}
	}
	f := Finding{Status: OK, Uses: "a link of the host's for each container, " + report.Subnet.String()}
	var notes []string
	if !report.Forwarding {
		notes = append(notes, "the first run turns net.ipv4.ip_forward on")
	}
	if report.Excepted != "" {
		notes = append(notes, "of iptables' "+report.Excepted+" chain containers are excepted")
	}
	if report.Input != "" {
		notes = append(notes, report.Input+" keeps containers from a name server of skiff's: those that need one get the relay")
	}
	f.Why = strings.Join(notes, "; ")
	return f
}

// ports are those that a user may publish.
func ports(*Host) Finding {
	if os.Geteuid() == 0 {
		return Finding{Status: OK, Uses: "any port of the host can be published"}
	}
	first := Setting("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if first == "" || first == "0" {
		return Finding{Status: OK, Uses: "any port of the host can be published"}
	}
	return Finding{Status: Limited, Uses: fmt.Sprintf("ports of the host from %s on can be published", first), Why: "lower ones are root's", Cure: "sudo sysctl net.ipv4.ip_unprivileged_port_start=0"}
}

// ping opens what an echo request of a container would go out by.
func ping(*Host) Finding {
	if os.Geteuid() == 0 {
		if fd, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP); err == nil {
			unix.Close(fd)
			return Finding{Status: OK, Uses: "the host lets skiff send echo requests"}
		}
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err == nil {
		unix.Close(fd)
		return Finding{Status: OK, Uses: "the host lets skiff send echo requests"}
	}
	return Finding{Status: Limited, Uses: "containers can ping their gateway alone", Why: "ping_group_range holds no group of the user's: " + err.Error(), Cure: "sudo sysctl net.ipv4.ping_group_range='0 2147483647'"}
}
