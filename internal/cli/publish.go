package cli

import (
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"skiff/netns/ports"
	"skiff/run"

	"github.com/urfave/cli/v2"
)

// publishAddressEnv names the addresses of ports that are published without one.
const publishAddressEnv = "SKIFF_PUBLISH_ADDRESS"

func publishFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "publish", Aliases: []string{"p"}, Usage: "have a port of this host lead to one of the container: `[ADDRESS:][PORT]:PORT[/udp]`; without an address, of 127.0.0.1 and ::1"},
		&cli.BoolFlag{Name: "publish-all", Aliases: []string{"P"}, Usage: "publish all ports that the image exposes, at ports that are free"},
		&cli.StringSliceFlag{Name: "expose", Usage: "expose `PORT[/udp]` as an image does"},
	}
}

func parsePublish(c *cli.Context, o *run.Options) error {
	for _, text := range c.StringSlice("publish") {
		list, err := published(text)
		if err != nil {
			return flagError("publish", text, "%v", err)
		}
		o.Publish = append(o.Publish, list...)
	}
	o.PublishAll, o.Expose = c.Bool("publish-all"), c.StringSlice("expose")
	for _, text := range o.Expose {
		if _, _, _, err := run.ParseExposed(text); err != nil {
			return fmt.Errorf("--expose: %w", err)
		}
	}
	if len(o.Publish) == 0 && !o.PublishAll {
		return nil
	}
	for text := range strings.FieldsFuncSeq(os.Getenv(publishAddressEnv), func(r rune) bool { return r == ',' || r == ' ' }) {
		a, err := publishAddress(text)
		if err != nil {
			return fmt.Errorf("%s: %w", publishAddressEnv, err)
		}
		o.PublishAddresses = append(o.PublishAddresses, a)
	}
	return nil
}

// published reads what docker has -p for: [[ADDRESS:][PORT]:]PORT[/PROTO], where a
// port may be a range. An address of IPv6 is in brackets.
func published(text string) ([]ports.Port, error) {
	p := ports.Port{Proto: ports.TCP}
	rest, proto, found := strings.Cut(text, "/")
	if found {
		p.Proto = ports.Proto(strings.ToLower(proto))
	}
	switch p.Proto {
	case ports.TCP, ports.UDP:
	case "sctp":
		return nil, fmt.Errorf("sctp cannot be published; tcp and udp can")
	default:
		return nil, fmt.Errorf("protocol %q is neither tcp nor udp", proto)
	}
	host, container := "", rest
	if i := strings.LastIndexByte(rest, ':'); i >= 0 {
		host, container = rest[:i], rest[i+1:]
	}
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		if i > 0 {
			var err error
			if p.Address, err = publishAddress(host[:i]); err != nil {
				return nil, err
			}
		}
		host = host[i+1:]
	} else if a, err := publishAddress(host); host != "" && err == nil {
		return nil, fmt.Errorf("which port of %s? %s::%s has the kernel choose", a, host, container)
	}
	first, last, err := portRange("container", container)
	if err != nil {
		return nil, err
	}
	if first == 0 {
		return nil, fmt.Errorf("container port 0 is none")
	}
	if host != "" {
		if p.First, p.Last, err = portRange("host", host); err != nil {
			return nil, err
		}
		if p.First == 0 && p.Last != 0 {
			return nil, fmt.Errorf("host port 0 has the kernel choose, and begins no range")
		}
	}
	if first == last {
		p.Container = first
		return []ports.Port{p}, nil
	}
	if p.First != 0 && p.Last-p.First != last-first {
		return nil, fmt.Errorf("%d ports of the host and %d of the container", int(p.Last-p.First)+1, int(last-first)+1)
	}
	var list []ports.Port
	for n := 0; n <= int(last-first); n++ {
		one := p
		one.Container = first + uint16(n)
		if p.First != 0 {
			one.First = p.First + uint16(n)
			one.Last = one.First
		}
		list = append(list, one)
	}
	return list, nil
}

// publishAddress is an address of the host. The brackets are those of IPv6.
func publishAddress(text string) (netip.Addr, error) {
	inner := text
	if strings.HasPrefix(text, "[") && strings.HasSuffix(text, "]") {
		inner = text[1 : len(text)-1]
	}
	a, err := netip.ParseAddr(inner)
	switch {
	case err != nil:
		return a, fmt.Errorf("%q is no address", text)
	case a.Zone() != "":
		return a, fmt.Errorf("%q: an address with a zone cannot be published", text)
	case a.Is4() && inner != text:
		return a, fmt.Errorf("%q: brackets are for IPv6", text)
	}
	return a.Unmap(), nil
}

// portRange reads a port, or two with a hyphen between them.
func portRange(whose, text string) (first, last uint16, err error) {
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 16)
	b, errB := strconv.ParseUint(to, 10, 16)
	switch {
	case errA != nil || errB != nil:
		return 0, 0, fmt.Errorf("%s port %q is no number up to 65535", whose, text)
	case a > b:
		return 0, 0, fmt.Errorf("%s ports %s: a range goes upwards", whose, text)
	}
	return uint16(a), uint16(b), nil
}
