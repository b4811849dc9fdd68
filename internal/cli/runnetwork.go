package cli

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"skiff/run"

	"github.com/urfave/cli/v2"
)

// parseNetwork reads --network and what goes with it. A mode stands alone; names of
// networks may be several.
func parseNetwork(c *cli.Context, o *run.Options) error {
	values := c.StringSlice("network")
	if len(values) == 0 {
		values = []string{""}
	}
	for _, v := range values {
		if err := addNetwork(o, v, c.Args().First()); err != nil {
			return err
		}
	}
	if len(values) > 1 && len(o.Networks) < len(values) {
		return flagError("network", strings.Join(values, ", "), "several networks are several names; a mode stands alone")
	}
	if err := parseAddresses(c, o); err != nil {
		return err
	}
	return networkConflicts(c, o)
}

func addNetwork(o *run.Options, value, image string) error {
	mode, relay, err := relayOptions(value)
	if err != nil {
		return flagError("network", value, "%v", err)
	}
	if relay != nil {
		o.Relay = relay
	}
	switch mode {
	case "":
		o.Network = run.NetworkDefault
		if image == helloReference {
			o.Network = run.NetworkNone
		}
		return nil
	case "none":
		o.Network = run.NetworkNone
		return nil
	case "host":
		o.Network = run.NetworkHost
		return nil
	case "default", "bridge", "private": // the last two are docker's and podman's words
		o.Network = run.NetworkDefault
		return nil
	}
	if target, ok := strings.CutPrefix(value, "container:"); ok {
		if target == "" {
			return flagError("network", value, "container:NAME wants a container")
		}
		o.Network, o.Join = run.NetworkJoined, value
		return nil
	}
	if path, ok := strings.CutPrefix(value, "ns:"); ok {
		if !strings.HasPrefix(path, "/") {
			return flagError("network", value, "ns:PATH wants an absolute path")
		}
		o.Network, o.Join = run.NetworkJoined, value
		return nil
	}
	use, err := networkUse(value)
	if err != nil {
		return flagError("network", value, "%v", err)
	}
	for _, u := range o.Networks {
		if u.Name == use.Name {
			return flagError("network", value, "named twice")
		}
	}
	o.Network = run.NetworkDefault
	o.Networks = append(o.Networks, use)
	return nil
}

// networkUse reads NAME[:ip=ADDRESS,mac=ADDRESS,alias=NAME,interface_name=NAME], as podman
// has it, or name=NAME,ip=ADDRESS,mac-address=ADDRESS,alias=NAME, as docker has it.
func networkUse(value string) (use run.NetworkUse, err error) {
	name, options, _ := strings.Cut(value, ":")
	if strings.HasPrefix(value, "name=") || strings.Contains(name, "=") {
		name, options = "", value
	}
	use.Name = name
	if name != "" && !run.ValidNetworkName(name) {
		return use, errNoNetwork
	}
	if options != "" {
		for option := range strings.SplitSeq(options, ",") {
			key, text, ok := strings.Cut(option, "=")
			if !ok || text == "" {
				return use, fmt.Errorf("%q is no option; ip=ADDRESS is one", option)
			}
			switch key {
			case "name":
				use.Name = text
			case "ip", "ip6":
				err = use.SetAddress(text)
			case "mac", "mac-address":
				use.MAC, err = macAddress(text)
			case "alias":
				use.Aliases = append(use.Aliases, text)
			case "interface_name":
				use.Interface = text
			default:
				return use, fmt.Errorf("no option %q: ip, ip6, mac, alias and interface_name are", key)
			}
			if err != nil {
				return use, err
			}
		}
	}
	if !run.ValidNetworkName(use.Name) {
		return use, errNoNetwork
	}
	return use, use.Check()
}

var errNoNetwork = errors.New("default, none, host, container:NAME, ns:PATH, or the name of a network")

// macAddress is an address that one card may have: six bytes, for one receiver.
func macAddress(text string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(text)
	if err != nil || len(mac) != 6 || mac[0]&1 != 0 {
		return nil, fmt.Errorf("%q is no address of a network card, as 02:42:ac:11:00:02", text)
	}
	return mac, nil
}

// parseAddresses reads the flags that say more of the one network.
func parseAddresses(c *cli.Context, o *run.Options) error {
	for _, flag := range []string{"ip", "ip6", "mac-address", "network-alias"} {
		if !c.IsSet(flag) {
			continue
		}
		switch {
		case len(o.Networks) == 0:
			return flagError(flag, flagText(c, flag), "only with --network NAME, of a network that `skiff network create` made")
		case len(o.Networks) > 1 && flag != "network-alias":
			return flagError(flag, flagText(c, flag), "with several networks it is said of one: --network NAME:ip=ADDRESS")
		}
		use := &o.Networks[0]
		var err error
		switch flag {
		case "ip", "ip6":
			a, errA := netip.ParseAddr(c.String(flag))
			if errA == nil && a.Is4() != (flag == "ip") {
				errA = errors.New("the other family's")
			}
			if errA != nil {
				return flagError(flag, c.String(flag), "no address")
			}
			err = use.SetAddress(c.String(flag))
		case "mac-address":
			use.MAC, err = macAddress(c.String(flag))
		case "network-alias":
			for i := range o.Networks {
				o.Networks[i].Aliases = append(o.Networks[i].Aliases, c.StringSlice(flag)...)
			}
		}
		if err == nil {
			err = use.Check()
		}
		if err != nil {
			return flagError(flag, flagText(c, flag), "%v", err)
		}
	}
	return nil
}

func flagText(c *cli.Context, flag string) string {
	if list := c.StringSlice(flag); len(list) > 0 {
		return strings.Join(list, ",")
	}
	return c.String(flag)
}

// networkConflicts refuses what another container's network decides already.
func networkConflicts(c *cli.Context, o *run.Options) error {
	if !strings.HasPrefix(o.Join, "container:") {
		return nil
	}
	for _, flag := range []string{"publish", "publish-all", "expose", "hostname", "dns", "dns-search", "dns-option", "add-host"} {
		if c.IsSet(flag) {
			return flagError("network", o.Join, "--%s is that container's to say", flag)
		}
	}
	return nil
}
