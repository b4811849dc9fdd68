package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// publishers start servers whose port the host publishes, and for each a client outside.
// The relay comes first. All but the last serve in the same container.
//
//	container: the server ── way in ── [host 192.0.2.1] ── [outside 192.0.2.2: the client]
func (w *netWorld) publishers(h *host, user *account) (list []*netContender) {
	root := h.caller
	port := uint16(6000)
	inside := func(a *account, skiff string, flags ...string) command {
		argv := append([]string{skiff, "run", "--rm", "-i", "-v", w.program + ":/traffic:ro", "-e", trafficEnv[0], "-e", trafficEnv[1]}, flags...)
		return command{as: a, argv: append(argv, h.one, "/traffic", trafficServer)}
	}
	add := func(name string, cmd func(published string) command, helper func(pid string, port uint16) (*talker, error)) {
		port++
		at := netip.AddrPortFrom(netHost.Addr(), port)
		c := &netContender{name: name, rates: map[netKind][]float64{}}
		list = append(list, c)
		if err := w.publisher(c, cmd(fmt.Sprintf("%s:%d", at, trafficPort)), at, helper); err != nil {
			c.why = "does not run here: " + firstLines(err.Error()+" "+c.server.said()+" "+c.helper.said())
		}
	}
	published := func(a *account, skiff string) func(string) command {
		return func(at string) command { return inside(a, skiff, "--network", "default", "-p", at) }
	}
	alone := func(string) command { return inside(user, h.skiff, "--network", "none") }
	add("skiff, relay", published(user, h.skiff), nil)
	if h.versus != "" {
		add("another skiff, relay", published(user, h.versus), nil)
	}
	add("pasta", alone, func(pid string, port uint16) (t *talker, err error) {
		return w.helper(command{as: user, argv: []string{"pasta", "-f", "-q", "-4", "--config-net", "--no-map-gw", "-i", "out0",
			"-a", netHost.Addr().String(), "-n", "24", "-g", netOutside.Addr().String(),
			"-t", fmt.Sprintf("%s/%d:%d", netHost.Addr(), port, trafficPort), "-u", "none", "-T", "none", "-U", "none", pid}})
	})
	add("slirp4netns", alone, func(pid string, port uint16) (*talker, error) {
		socket := filepath.Join(user.dir, "slirp")
		t, err := w.helper(command{as: user, argv: []string{"slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", "--api-socket", socket, pid, "tap0"}})
		if err != nil {
			return t, err
		}
		return t, forwardSlirp(socket, port)
	})
	add("root's veth and rewritten destinations", published(root, h.skiff), nil)
	port = trafficPort - 1
	add("no container", func(string) command {
		return command{as: root, argv: []string{w.program, trafficServer}, env: trafficEnv}
	}, nil)
	return list
}

// publisher starts a server, the helper that publishes its port if it needs one, and the
// client, and waits until they have met.
func (w *netWorld) publisher(c *netContender, cmd command, at netip.AddrPort, helper func(pid string, port uint16) (*talker, error)) (err error) {
	w.do(func() { c.server, err = startTalker(cmd, 0) })
	if err != nil {
		return err
	}
	if err := c.server.heard("ready"); err != nil {
		return err
	}
	if helper != nil {
		inits := children(c.server.pid)
		if len(inits) != 1 {
			return errors.New("the container's init is not found")
		}
		if c.helper, err = helper(inits[0], at.Port()); err != nil {
			return err
		}
	}
	w.do(func() {
		c.client, err = startTalker(command{as: w.root, env: trafficEnv, argv: []string{
			"nsenter", fmt.Sprintf("--net=/proc/%d/ns/net", w.server.pid), w.program, trafficClient, at.String(),
		}}, 0)
	})
	if err == nil {
		err = c.client.heard("ready")
	}
	for wait := time.Now(); err == nil; time.Sleep(20 * time.Millisecond) {
		if _, err = c.client.ask("rr 1 1"); err == nil || time.Since(wait) > 5*time.Second {
			return err
		}
		err = nil
	}
	return err
}

func (w *netWorld) helper(cmd command) (t *talker, err error) {
	if why := installed(cmd.argv[0]); why != "" {
		return nil, errors.New(why)
	}
	w.do(func() { t, err = startTalker(cmd, 0) })
	return t, err
}

// forwardSlirp asks slirp4netns to publish a port. Source: slirp4netns(1), "API SOCKET".
func forwardSlirp(socket string, port uint16) error {
	var c net.Conn
	err := os.ErrNotExist
	for wait := time.Now(); err != nil && time.Since(wait) < 5*time.Second; time.Sleep(10 * time.Millisecond) {
		c, err = net.Dial("unix", socket)
	}
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(c, `{"execute":"add_hostfwd","arguments":{"proto":"tcp","host_addr":%q,"host_port":%d,"guest_port":%d}}`, netHost.Addr(), port, trafficPort)
	c.(*net.UnixConn).CloseWrite()
	var answer struct{ Error any }
	if err := json.NewDecoder(c).Decode(&answer); err != nil {
		return err
	}
	if answer.Error != nil {
		return fmt.Errorf("slirp4netns: %v", answer.Error)
	}
	return nil
}
