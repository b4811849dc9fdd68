package run

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"skiff/netns/ports"
	"skiff/pull/store"
	"skiff/run/state"

	"golang.org/x/sys/unix"
)

// publish binds the ports of the host that a run asks for, before there is anything
// else of it. Who has no network of its own publishes nothing, as with docker.
func (r *Runner) publish(o *Options, img *store.Image) ([]ports.Socket, error) {
	list := o.Publish
	if len(list) == 0 && !o.PublishAll {
		return nil, nil
	}
	if o.Network != NetworkDefault {
		r.Say("published ports mean nothing with --network %s", o.Network)
		return nil, nil
	}
	if o.PublishAll {
		more, err := Exposed(slices.Concat(img.Config.ExposedPorts, o.Expose))
		if err != nil {
			return nil, fmt.Errorf("exposed ports: %w", err)
		}
		list = slices.Concat(list, r.unpublished(list, more))
	}
	sockets, err := ports.Bind(list, o.PublishAddresses)
	var e *ports.Error
	if errors.As(err, &e) && errors.Is(err, unix.EADDRINUSE) && e.Host.Port() != 0 {
		e.Holder = r.holder(e)
	}
	return sockets, err
}

// unpublished are those of more that list does not publish, each at a port of the
// kernel's choice.
func (r *Runner) unpublished(list []ports.Port, more []ports.Port) (rest []ports.Port) {
	for _, p := range more {
		if p.Proto != ports.TCP && p.Proto != ports.UDP {
			r.Say("%d/%s cannot be published", p.Container, p.Proto)
			continue
		}
		if !slices.ContainsFunc(list, func(q ports.Port) bool { return q.Container == p.Container && q.Proto == p.Proto }) {
			rest = append(rest, p)
		}
	}
	return rest
}

// exposedMost bounds the ports that are exposed: an image may name all of them, and that often.
const exposedMost = 1 << 17

// Exposed are the ports that texts of ParseExposed name, each once, in order. What is no
// port is left out, and the error is about the first of those.
func Exposed(texts []string) (list []ports.Port, err error) {
	for _, text := range texts {
		first, last, proto, wrong := ParseExposed(text)
		if n := int(last) - int(first) + 1; wrong == nil && len(list)+n > exposedMost {
			err = errors.New("there are too many")
			break
		}
		if wrong != nil {
			if err == nil {
				err = wrong
			}
			continue
		}
		for n := int(first); n <= int(last); n++ {
			list = append(list, ports.Port{Container: uint16(n), Proto: proto})
		}
	}
	slices.SortFunc(list, func(a, b ports.Port) int {
		if a.Container != b.Container {
			return int(a.Container) - int(b.Container)
		}
		return strings.Compare(string(a.Proto), string(b.Proto))
	})
	return slices.Compact(list), err
}

// ParseExposed reads a port or a range of them, with its protocol or as TCP's.
// Source: image-spec config.md, "ExposedPorts".
func ParseExposed(s string) (first, last uint16, proto ports.Proto, err error) {
	text, name, _ := strings.Cut(s, "/")
	if name == "" {
		name = "tcp"
	}
	proto = ports.Proto(strings.ToLower(name))
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	a, errA := strconv.ParseUint(from, 10, 16)
	b, errB := strconv.ParseUint(to, 10, 16)
	if errA != nil || errB != nil || a == 0 || b < a || proto != ports.TCP && proto != ports.UDP && proto != "sctp" {
		return 0, 0, "", fmt.Errorf("%q is no port, as 80, 53/udp or 8000-8010", s)
	}
	return uint16(a), uint16(b), proto, nil
}

// holder is the name of the container that has a port of the host, or "".
func (r *Runner) holder(e *ports.Error) string {
	all, _ := r.Containers().List()
	for _, c := range all {
		if c.Status != state.Running {
			continue
		}
		for _, p := range c.Ports {
			a, err := netip.ParseAddr(p.HostIP)
			if err == nil && e.InTheWay(ports.Binding{Host: netip.AddrPortFrom(a, p.HostPort), Proto: ports.Proto(p.Protocol)}) {
				return c.Name
			}
		}
	}
	return ""
}

// recorded are the published ports, as the record has them.
func recorded(sockets []ports.Socket) (list []state.Port) {
	for _, s := range sockets {
		list = append(list, state.Port{
			HostIP: s.Host.Addr().String(), HostPort: s.Host.Port(), ContainerPort: s.Container, Protocol: string(s.Proto),
		})
	}
	return list
}

// announce says which ports of the host were chosen: one line for each, whatever the number
// of its addresses.
func (r *Runner) announce(sockets []ports.Socket) {
	said := map[ports.Binding]bool{}
	for _, s := range sockets {
		key := ports.Binding{Host: netip.AddrPortFrom(netip.Addr{}, s.Host.Port()), Container: s.Container, Proto: s.Proto}
		if s.Chosen && !said[key] {
			said[key] = true
			r.Say("%s is at %s", s.Inside(), s.Host)
		}
	}
}
