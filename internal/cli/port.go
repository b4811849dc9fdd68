package cli

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"skiff/run"
	"skiff/run/state"

	"github.com/urfave/cli/v2"
)

func portCommand() *cli.Command {
	return &cli.Command{
		Name: "port", Usage: "list the published ports of a container", ArgsUsage: "CONTAINER [PORT[/PROTOCOL]]",
		UsageText: "skiff port web\nskiff port web 80",
		Action: func(c *cli.Context) error {
			name := c.Args().First()
			status, err := port(c, name)
			if err != nil {
				err = &verbError{verb: "port", object: name, err: err}
			}
			if status != 0 {
				complain(os.Stderr, err)
				return exitStatus(status)
			}
			return err
		},
	}
}

// port prints what docker does. The status, if not 0, is docker's for the error.
func port(c *cli.Context, name string) (status int, err error) {
	if err := count(c, 1, 2, "of which container?"); err != nil {
		return 0, err
	}
	r, err := openRunner(c)
	if err != nil {
		return 0, err
	}
	l, err := r.Containers().Find(name)
	if errors.Is(err, state.ErrAbsent) {
		return 1, err
	} else if err != nil {
		return 0, err
	}
	list := portsOf(l)
	if c.NArg() == 1 {
		for _, p := range list {
			if p.HostPort != 0 {
				fmt.Fprintf(stdout, "%s -> %s\n", p.inside(), p.host())
			}
		}
		return 0, nil
	}
	first, last, proto, err := run.ParseExposed(c.Args().Get(1))
	if err == nil && first != last {
		err = errors.New("one port at a time")
	}
	if err != nil {
		return 1, err
	}
	wanted, found := shownPort{state.Port{ContainerPort: first, Protocol: string(proto)}}, false
	for _, p := range list {
		if p.inside() == wanted.inside() && p.HostPort != 0 {
			found = true
			fmt.Fprintln(stdout, p.host())
		}
	}
	if !found {
		return 1, fmt.Errorf("%s is not published", wanted.inside())
	}
	return 0, nil
}

// A shownPort is a container's port, published or, without one of the host's, exposed.
type shownPort struct{ state.Port }

func (p shownPort) inside() string { return strconv.Itoa(int(p.ContainerPort)) + "/" + p.Protocol }
func (p shownPort) host() string {
	return net.JoinHostPort(p.HostIP, strconv.Itoa(int(p.HostPort)))
}

// portsOf are the ports of a container that runs, in docker's order: those that are
// published, and those that are only exposed.
func portsOf(l state.Listed) []shownPort {
	if l.Status != state.Running {
		return nil
	}
	var list []shownPort
	for _, p := range l.Ports {
		list = append(list, shownPort{p})
	}
	published := map[string]bool{}
	for _, p := range list {
		published[p.inside()] = true
	}
	exposed, _ := run.Exposed(l.Exposed) // of an image that nobody checked
	for _, e := range exposed {
		if p := (shownPort{state.Port{ContainerPort: e.Container, Protocol: string(e.Proto)}}); !published[p.inside()] {
			list = append(list, p)
		}
	}
	slices.SortStableFunc(list, func(a, b shownPort) int {
		if a.ContainerPort != b.ContainerPort {
			return int(a.ContainerPort) - int(b.ContainerPort)
		}
		if c := strings.Compare(a.HostIP, b.HostIP); c != 0 {
			return c
		}
		if a.HostPort != b.HostPort {
			return int(a.HostPort) - int(b.HostPort)
		}
		return strings.Compare(a.Protocol, b.Protocol)
	})
	return list
}

// portsColumn is docker's PORTS. Ports of one address that follow each other, and have the
// same number outside and inside, are one range.
func portsColumn(list []shownPort) string {
	type span struct {
		ip, proto   string
		first, last uint16
	}
	show := func(s span) string {
		text := strconv.Itoa(int(s.first))
		if s.first != s.last {
			text += "-" + strconv.Itoa(int(s.last))
		}
		if s.ip != "" {
			text = net.JoinHostPort(s.ip, text) + "->" + text
		}
		return text + "/" + s.proto
	}
	var ended, other []string
	var spans []*span // that may go on: one for each address and protocol
	for _, p := range list {
		if p.HostPort != 0 && p.HostPort != p.ContainerPort {
			other = append(other, p.host()+"->"+p.inside())
			continue
		}
		one := span{p.HostIP, p.Protocol, p.ContainerPort, p.ContainerPort}
		i := slices.IndexFunc(spans, func(s *span) bool { return s.ip == one.ip && s.proto == one.proto })
		switch {
		case i < 0:
			spans = append(spans, &one)
		case spans[i].last+1 == p.ContainerPort:
			spans[i].last++
		default:
			ended = append(ended, show(*spans[i]))
			*spans[i] = one
		}
	}
	for _, s := range spans {
		ended = append(ended, show(*s))
	}
	return strings.Join(append(ended, other...), ", ")
}

// A portBinding is docker's, of an inspected container.
type portBinding struct{ HostIp, HostPort string }

// portMap is docker's NetworkSettings.Ports: what is only exposed has null.
func portMap(list []shownPort) map[string][]portBinding {
	m := map[string][]portBinding{}
	for _, p := range list {
		if p.HostPort == 0 {
			m[p.inside()] = nil
			continue
		}
		m[p.inside()] = append(m[p.inside()], portBinding{p.HostIP, strconv.Itoa(int(p.HostPort))})
	}
	return m
}
