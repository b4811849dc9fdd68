package cli

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"slices"
	"sort"
	"strings"
	"time"

	"skiff/internal/format"
	"skiff/run/networks"

	"github.com/urfave/cli/v2"
)

// A networkRow is a network as `network ls` has it, with docker's fields.
type networkRow struct {
	ID        string `title:"NETWORK ID"`
	Name      string
	Driver    string
	Scope     string
	CreatedAt string
	IPv6      string
	Internal  string
	Labels    string

	labels  map[string]string
	created time.Time
	builtin bool
}

// builtinNetworks are not made and not removed.
var builtinNetworks = []networkRow{
	{Name: "default", Driver: "bridge", Scope: "local", IPv6: "false", Internal: "false", builtin: true},
	{Name: "host", Driver: "host", Scope: "local", IPv6: "false", Internal: "false", builtin: true},
	{Name: "none", Driver: "null", Scope: "local", IPv6: "false", Internal: "false", builtin: true},
}

// builtinID is the same everywhere.
func builtinID(name string) string {
	sum := sha256.Sum256([]byte("skiff network " + name))
	return hex.EncodeToString(sum[:])
}

func networkRowOf(n networks.Network) networkRow {
	var labels []string
	for k, v := range n.Labels {
		labels = append(labels, k+"="+v)
	}
	sort.Strings(labels)
	return networkRow{
		ID: n.ID, Name: n.Name, Driver: "bridge", Scope: "local", CreatedAt: n.Created.Local().String(),
		IPv6: "false", Internal: fmt.Sprint(n.Internal), Labels: strings.Join(labels, ","),
		labels: n.Labels, created: n.Created,
	}
}

func networkListCommand() *cli.Command {
	return &cli.Command{
		Name: "ls", Aliases: []string{"list"}, Usage: "list networks", ArgsUsage: " ",
		UsageText: "skiff network ls\nskiff network ls -q --filter label=app=web",
		Flags: []cli.Flag{
			&cli.BoolFlag{Name: "quiet", Aliases: []string{"q"}, Usage: "ids alone"},
			&cli.BoolFlag{Name: "no-trunc", Usage: "whole ids"},
			&cli.BoolFlag{Name: "noheading", Aliases: []string{"n"}, Usage: "no titles"},
			&cli.StringSliceFlag{Name: "filter", Aliases: []string{"f"}, Usage: "only networks that match `KEY=VALUE`: name, id, driver, type, label, until"},
			&cli.StringFlag{Name: "format", Usage: "print as the Go `TEMPLATE` says, \"table TEMPLATE\", or \"json\""},
		},
		Action: action("network ls", networkList),
	}
}

func networkList(c *cli.Context) error {
	if err := count(c, 0, 0, ""); err != nil {
		return err
	}
	f, err := format.Parse(c.String("format"), "{{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}")
	if err != nil {
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
	all, err := r.Networks().List()
	if err != nil {
		return err
	}
	var rows []networkRow
	for _, b := range builtinNetworks {
		b.ID = builtinID(b.Name)
		rows = append(rows, b)
	}
	for _, n := range all {
		rows = append(rows, networkRowOf(n))
	}
	rows = slices.DeleteFunc(rows, func(n networkRow) bool { return !match(n) })
	slices.SortFunc(rows, func(a, b networkRow) int { return strings.Compare(a.Name, b.Name) })
	for i := range rows {
		if !c.Bool("no-trunc") {
			rows[i].ID = rows[i].ID[:12]
		}
	}
	if c.Bool("quiet") {
		for _, n := range rows {
			fmt.Fprintln(stdout, n.ID)
		}
		return nil
	}
	return format.Rows(f, stdout, !c.Bool("noheading"), rows)
}

// networkFilter reads docker's filters: several of a key are alternatives, but for labels.
func networkFilter(filters []string) (func(networkRow) bool, error) {
	some := map[string][]func(networkRow) bool{}
	var every []func(networkRow) bool
	for _, text := range filters {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, fmt.Errorf("filter %q: a filter is KEY=VALUE", text)
		}
		switch key {
		case "name":
			some[key] = append(some[key], func(n networkRow) bool { return strings.Contains(n.Name, value) })
		case "id":
			some[key] = append(some[key], func(n networkRow) bool { return strings.HasPrefix(n.ID, value) })
		case "driver":
			some[key] = append(some[key], func(n networkRow) bool { return n.Driver == value })
		case "type":
			if value != "builtin" && value != "custom" {
				return nil, fmt.Errorf("filter %q: type is builtin or custom", text)
			}
			some[key] = append(some[key], func(n networkRow) bool { return n.builtin == (value == "builtin") })
		case "label":
			k, v, exact := strings.Cut(value, "=")
			every = append(every, func(n networkRow) bool {
				have, ok := n.labels[k]
				return ok && (!exact || have == v)
			})
		case "until":
			t, err := moment(value)
			if err != nil {
				return nil, err
			}
			every = append(every, func(n networkRow) bool { return n.created.Before(t) })
		default:
			return nil, fmt.Errorf("filter %q: there are name, id, driver, type, label and until", text)
		}
	}
	return func(n networkRow) bool {
		for _, f := range every {
			if !f(n) {
				return false
			}
		}
		for _, list := range some {
			if !slices.ContainsFunc(list, func(f func(networkRow) bool) bool { return f(n) }) {
				return false
			}
		}
		return true
	}, nil
}

// An inspectedNetwork is what docker's `network inspect` prints.
type inspectedNetwork struct {
	Name       string
	ID         string `json:"Id"`
	Created    time.Time
	Scope      string
	Driver     string
	EnableIPv6 bool
	IPAM       struct {
		Driver  string
		Options map[string]string
		Config  []ipamConfig
	}
	Internal   bool
	Attachable bool
	Ingress    bool
	Containers map[string]inspectedMember
	Options    map[string]string
	Labels     map[string]string
}

type ipamConfig struct {
	Subnet  string
	IPRange string `json:",omitempty"`
	Gateway string
}

// An inspectedMember is a container that runs in the network.
type inspectedMember struct {
	Name        string
	EndpointID  string
	MacAddress  string
	IPv4Address string
	IPv6Address string
	Aliases     []string `json:",omitempty"` // not docker's
}

func networkInspectCommand() *cli.Command {
	return &cli.Command{
		Name: "inspect", Usage: "print all that is known of networks, with who is in them", ArgsUsage: "NAME...",
		Flags:  []cli.Flag{inspectFormat()},
		Action: action("network inspect", networkInspect),
	}
}

func networkInspect(c *cli.Context) error {
	if err := count(c, 1, -1, "of what?"); err != nil {
		return err
	}
	f, err := format.Parse(c.String("format"), "")
	if err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	found := []any{}
	failed := false
	for _, name := range c.Args().Slice() {
		v, err := inspectNetwork(r.Networks(), name)
		if err != nil {
			complain(os.Stderr, &verbError{verb: "network inspect", object: name, err: err})
			failed = true
			continue
		}
		found = append(found, v)
	}
	if c.String("format") == "" {
		err = format.Indented(stdout, found)
	} else {
		err = each(f, found)
	}
	if err == nil && failed {
		err = exitStatus(1)
	}
	return err
}

func inspectNetwork(dir networks.Dir, name string) (*inspectedNetwork, error) {
	v := &inspectedNetwork{Scope: "local", Driver: "bridge", Attachable: true, Containers: map[string]inspectedMember{}, Options: map[string]string{}, Labels: map[string]string{}}
	v.IPAM.Driver, v.IPAM.Options, v.IPAM.Config = "default", map[string]string{}, []ipamConfig{}
	n, err := dir.Find(name)
	if errors.Is(err, networks.ErrAbsent) {
		for _, b := range builtinNetworks {
			if id := builtinID(b.Name); name == b.Name || len(name) >= 4 && strings.HasPrefix(id, name) {
				v.Name, v.ID, v.Driver = b.Name, id, b.Driver
				return v, nil
			}
		}
	}
	if err != nil {
		return nil, err
	}
	v.Name, v.ID, v.Created, v.Internal = n.Name, n.ID, n.Created, n.Internal
	config := ipamConfig{Subnet: n.Subnet.String(), Gateway: n.Gateway.String()}
	if n.Range.IsValid() {
		config.IPRange = n.Range.String()
	}
	v.IPAM.Config = append(v.IPAM.Config, config)
	if n.Labels != nil {
		v.Labels = n.Labels
	}
	if n.Options != nil {
		v.Options = n.Options
	}
	members, err := dir.Members(n)
	if err != nil {
		return nil, err
	}
	for _, m := range members {
		v.Containers[m.Info.ID] = inspectedMember{
			Name: m.Info.Name, EndpointID: m.Info.ID, MacAddress: m.Info.MAC,
			IPv4Address: fmt.Sprintf("%s/%d", m.Addr, n.Subnet.Bits()), Aliases: m.Info.Aliases,
		}
	}
	return v, nil
}

// An inspectedEndpoint is what a container has of a network, with docker's fields.
type inspectedEndpoint struct {
	Aliases     []string
	NetworkID   string
	EndpointID  string
	Gateway     string
	IPAddress   string
	IPPrefixLen int
	MacAddress  string
}

// endpoints are those of a container, by the names of the networks.
func endpoints(dir networks.Dir, id string) (map[string]inspectedEndpoint, error) {
	all, err := dir.List()
	if err != nil {
		return nil, err
	}
	of := map[string]inspectedEndpoint{}
	for _, n := range all {
		members, err := dir.Members(n)
		if err != nil {
			return nil, err
		}
		for _, m := range members {
			if m.Info.ID == id {
				of[n.Name] = inspectedEndpoint{
					Aliases: m.Info.Aliases, NetworkID: n.ID, EndpointID: id, Gateway: n.Gateway.String(),
					IPAddress: m.Addr.String(), IPPrefixLen: n.Subnet.Bits(), MacAddress: m.Info.MAC,
				}
			}
		}
	}
	return of, nil
}
