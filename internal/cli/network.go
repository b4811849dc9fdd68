package cli

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"skiff/netns/dns"
	"skiff/run"
	"skiff/run/networks"

	"github.com/urfave/cli/v2"
)

func networkCommand() *cli.Command {
	return group("network", "named networks, in which containers reach each other",
		networkCreateCommand(), networkListCommand(), networkInspectCommand(), networkRemoveCommand(),
		networkPruneCommand(), networkExistsCommand())
}

func networkCreateCommand() *cli.Command {
	return &cli.Command{
		Name: "create", Usage: "make a network", ArgsUsage: "NAME",
		UsageText: "skiff network create web\nskiff network create --subnet 10.99.0.0/24 --internal db",
		Flags: []cli.Flag{
			&cli.StringSliceFlag{Name: "subnet", Usage: "the network's addresses, `PREFIX`; a free one of 10.89.0.0/24 and up by default"},
			&cli.StringSliceFlag{Name: "gateway", Usage: "`ADDRESS` of the way out and of the nameserver; the first by default"},
			&cli.StringSliceFlag{Name: "ip-range", Usage: "give out addresses of `PREFIX` alone"},
			&cli.BoolFlag{Name: "internal", Usage: "no way out"},
			&cli.BoolFlag{Name: "ipv6", Usage: "IPv6, which networks do not have yet"},
			&cli.StringSliceFlag{Name: "label", Usage: "label the network `KEY=VALUE`"},
			&cli.StringFlag{Name: "driver", Aliases: []string{"d"}, Value: "bridge", Usage: "the one `DRIVER` that there is, bridge"},
			&cli.StringSliceFlag{Name: "opt", Aliases: []string{"o"}, Usage: "note `KEY=VALUE` with the network"},
			&cli.BoolFlag{Name: "ignore", Usage: "it may be there already"},
			&cli.BoolFlag{Name: "attachable", Usage: "accepted; any container may join"},
		},
		Action: action("network create", networkCreate),
	}
}

func networkCreate(c *cli.Context) error {
	if err := count(c, 1, 1, "by what name?"); err != nil {
		return err
	}
	n := networks.Network{Name: c.Args().First(), Internal: c.Bool("internal")}
	fail := func(err error) error { return &verbError{verb: "network create", object: n.Name, err: err} }
	if !run.ValidNetworkName(n.Name) {
		return fail(errors.New("a name is a letter or digit, and then letters, digits, _, . or -; default, none, host and such are taken"))
	}
	if d := c.String("driver"); d != "bridge" {
		return fail(fmt.Errorf("driver %q: there is bridge alone", d))
	}
	if c.Bool("ipv6") {
		return fail(errors.New("networks have no IPv6 yet"))
	}
	var err error
	if n.Labels, err = keyValues("label", c.StringSlice("label")); err != nil {
		return fail(err)
	}
	if n.Options, err = keyValues("opt", c.StringSlice("opt")); err != nil {
		return fail(err)
	}
	if err := networkAddresses(c, &n); err != nil {
		return fail(err)
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	made, err := r.CreateNetwork(n, dns.Open("/etc/resolv.conf").Config().Servers)
	if errors.Is(err, networks.ErrExists) && c.Bool("ignore") {
		made, err = r.Networks().Find(n.Name)
	}
	if err != nil {
		return fail(err)
	}
	fmt.Fprintln(stdout, made.ID)
	return nil
}

// networkAddresses reads the flags about addresses and holds them against each other.
func networkAddresses(c *cli.Context, n *networks.Network) error {
	for _, flag := range []string{"subnet", "gateway", "ip-range"} {
		if len(c.StringSlice(flag)) > 1 {
			return fmt.Errorf("--%s: a network has one", flag)
		}
	}
	one := func(flag string) string { return strings.Join(c.StringSlice(flag), "") }
	if text := one("subnet"); text != "" {
		p, err := netip.ParsePrefix(text)
		if err != nil || !p.Addr().Is4() {
			return fmt.Errorf("--subnet %q: no IPv4 prefix, as 10.99.0.0/24", text)
		}
		if p.Bits() < 8 || p.Bits() > 30 {
			return fmt.Errorf("--subnet %q: a prefix of 8 to 30 bits", text)
		}
		n.Subnet = p.Masked()
	} else if one("gateway") != "" || one("ip-range") != "" {
		return errors.New("--gateway and --ip-range want a --subnet")
	}
	if text := one("gateway"); text != "" {
		a, err := netip.ParseAddr(text)
		if err != nil || !n.Subnet.Contains(a) {
			return fmt.Errorf("--gateway %q: no address in %s", text, n.Subnet)
		}
		n.Gateway = a
	}
	if text := one("ip-range"); text != "" {
		p, err := netip.ParsePrefix(text)
		if err != nil || !n.Subnet.Contains(p.Addr()) || p.Bits() < n.Subnet.Bits() {
			return fmt.Errorf("--ip-range %q: no part of %s", text, n.Subnet)
		}
		n.Range = p.Masked()
	}
	return nil
}

// keyValues reads KEY=VALUE, or KEY for an empty value.
func keyValues(flag string, list []string) (map[string]string, error) {
	if len(list) == 0 {
		return nil, nil
	}
	m := map[string]string{}
	for _, text := range list {
		k, v, _ := strings.Cut(text, "=")
		if k == "" {
			return nil, fmt.Errorf("--%s %q: it is KEY=VALUE", flag, text)
		}
		m[k] = v
	}
	return m, nil
}

func networkRemoveCommand() *cli.Command {
	return &cli.Command{
		Name: "rm", Aliases: []string{"remove"}, Usage: "remove networks that nobody is in", ArgsUsage: "NAME...",
		Flags: []cli.Flag{&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "one that is not there is no error"}},
		Action: action("network rm", func(c *cli.Context) error {
			if err := count(c, 1, -1, "which one?"); err != nil {
				return err
			}
			r, err := openRunner(c)
			if err != nil {
				return err
			}
			failed := false
			for _, name := range c.Args().Slice() {
				err := removeNetwork(r, name)
				if errors.Is(err, networks.ErrAbsent) && c.Bool("force") {
					continue
				}
				if err != nil {
					complain(os.Stderr, &verbError{verb: "network rm", object: name, err: err})
					failed = true
					continue
				}
				fmt.Fprintln(stdout, name)
			}
			if failed {
				return exitStatus(1)
			}
			return nil
		}),
	}
}

func removeNetwork(r *run.Runner, name string) error {
	if slices.ContainsFunc(builtinNetworks, func(n networkRow) bool { return n.Name == name }) {
		return errors.New("it is built in")
	}
	n, err := r.Networks().Find(name)
	if err != nil {
		return err
	}
	return r.Networks().Remove(n)
}

func networkPruneCommand() *cli.Command {
	return &cli.Command{
		Name: "prune", Usage: "remove all networks that nobody is in", ArgsUsage: " ",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "force", Aliases: []string{"f"}, Usage: "do not ask"},
			&cli.StringSliceFlag{Name: "filter", Usage: "only networks that match `KEY=VALUE`: name, id, label or until"},
		},
		Action: action("network prune", func(c *cli.Context) error {
			if err := count(c, 0, 0, ""); err != nil {
				return err
			}
			match, err := networkFilter(c.StringSlice("filter"))
			if err != nil {
				return err
			}
			r, err := openRunner(c)
			if err != nil {
				return err
			}
			if ok, err := confirm(c, "WARNING! This will remove all networks that no container is in."); err != nil || !ok {
				return err
			}
			all, err := r.Networks().List()
			if err != nil {
				return err
			}
			for i, n := range all {
				if !match(networkRowOf(n)) {
					continue
				}
				err := r.Networks().Remove(n)
				var busy *networks.InUseError
				if errors.As(err, &busy) || errors.Is(err, networks.ErrAbsent) {
					continue
				}
				if err != nil {
					return err
				}
				if i == 0 {
					fmt.Fprintln(stdout, "Deleted Networks:")
				}
				fmt.Fprintln(stdout, n.Name)
			}
			return nil
		}),
	}
}

func networkExistsCommand() *cli.Command {
	return &cli.Command{
		Name: "exists", Usage: "end with 0 if there is such a network, and with 1 if not", ArgsUsage: "NAME",
		Action: action("network exists", func(c *cli.Context) error {
			if err := count(c, 1, 1, "which one?"); err != nil {
				return err
			}
			r, err := openRunner(c)
			if err != nil {
				return err
			}
			name := c.Args().First()
			if slices.ContainsFunc(builtinNetworks, func(n networkRow) bool { return n.Name == name }) {
				return nil
			}
			_, err = r.Networks().Find(name)
			if errors.Is(err, networks.ErrAbsent) {
				return exitStatus(1)
			}
			return err
		}),
	}
}
