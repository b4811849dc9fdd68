package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"skiff/internal/idmap"
)

// A contender is one row of a table: a way to run a program in a container.
type contender struct {
	name string
	as   *account
	role role
	why  string // why it cannot be measured, or ""

	// slow contenders take part in one round of five.
	slow bool

	// run is the command that runs a program with the given arguments in a
	// container. keepStdin is the flag that passes stdin through, for those that
	// want one.
	run       func(args ...string) command
	keepStdin string

	stored []string // directories that are empty again after a run
}

// A role is what ratios and sums are made from.
type role int

const (
	other role = iota
	skiffNone
	skiffMany // 20 layers
	skiffDefault
	skiffHost
	reference
	bwrap
	crun
	podman
)

// contenders are those of one account. Peers that cannot run stay in the list,
// with the reason.
func (h *host) contenders(a *account) []*contender {
	list := []*contender{
		h.byReference(a, "C, same work", reference),
		h.byBwrap(a),
		h.bySkiff(a, "skiff, network none", skiffNone, h.one, "none"),
		h.bySkiff(a, "skiff, network none, 20 layers", skiffMany, h.many, "none"),
		h.bySkiff(a, "skiff, default network", skiffDefault, h.one, "default"),
		h.bySkiff(a, "skiff, host network", skiffHost, h.one, "host"),
		h.byCrun(a),
		h.byPodman(a, "none"),
		h.byPodman(a, "default"),
		h.byDocker(a, "none"),
	}
	if h.versus != "" {
		c := h.bySkiff(a, "another skiff, network none", other, h.one, "none")
		same := c.run
		c.run = func(args ...string) command {
			cmd := same(args...)
			cmd.argv[0] = h.versus
			return cmd
		}
		list = append(list, c)
	}
	for _, c := range list {
		if c.why == "" {
			c.probe()
		}
	}
	return list
}

// attended is run with stdin passed through.
func (c *contender) attended(args ...string) command {
	cmd := c.run(args...)
	if i := slices.Index(cmd.argv, "run"); i >= 0 && c.keepStdin != "" {
		cmd.argv = slices.Insert(cmd.argv, i+1, c.keepStdin)
	}
	return cmd
}

// probe runs the contender twice: whether it works, and to warm it.
func (c *contender) probe() {
	for range 2 {
		if s := c.run("/bin/true").measure(); s.err != nil {
			c.why = "does not run here: " + firstLines(s.err.Error())
			return
		}
	}
}

// firstLines shortens what a program said to one line.
func firstLines(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 200 {
		s = s[:200] + "…"
	}
	return s
}

func installed(program string) string {
	if _, err := exec.LookPath(program); err != nil {
		return program + ": not installed"
	}
	return ""
}

func (h *host) bySkiff(a *account, name string, role role, image, network string) *contender {
	return &contender{name: name, as: a, role: role,
		keepStdin: "-i", stored: []string{a.store() + "/containers", a.store() + "/tmp"},
		run: func(args ...string) command {
			return command{argv: append([]string{h.skiff, "run", "--rm", "--network", network, image}, args...), as: a}
		}}
}

// byReference runs the C program on skiff's own store: the same layers, on the
// same file system.
func (h *host) byReference(a *account, name string, role role) *contender {
	c := &contender{name: name, as: a, role: role, why: h.noReference, stored: []string{a.store() + "/containers"}}
	argv := []string{h.reference, "-f", h.seccomp[0]}
	switch a.ids.Kind {
	case idmap.Root:
		argv = append(argv, "-m", fmt.Sprint("root:", a.ids.UIDs[0].Host))
	case idmap.Subordinate:
		argv = append(argv, "-m", fmt.Sprintf("sub:%d:%d", a.ids.UIDs[1].Host, a.ids.UIDs[1].Size))
	case idmap.Single:
		argv = append(argv, "-f", h.seccomp[1], "-m", "single")
	default:
		c.why = "root has too few ids here for a user namespace"
	}
	layers, err := h.layers(a)
	if err != nil && c.why == "" {
		c.why = err.Error()
	}
	argv = append(append(append(argv, a.store()), layers...), "--")
	c.run = func(args ...string) command { return command{argv: append(argv[:len(argv):len(argv)], args...), as: a} }
	return c
}

// layers are the lower directories of the image with 1 layer, relative to the
// account's store, top first.
func (h *host) layers(a *account) ([]string, error) {
	text, err := command{argv: []string{h.skiff, "explain", "run", "--rm", "--network", "none", h.one, "true"}, as: a}.output()
	if err != nil {
		return nil, err
	}
	_, rest, ok := strings.Cut(text, `"lowerdir=`)
	list, _, ok2 := strings.Cut(rest, ",")
	if !ok || !ok2 {
		return nil, fmt.Errorf("skiff explain shows no lowerdir")
	}
	return strings.Split(list, ":"), nil
}

// byBwrap binds the unpacked root: no overlay, no seccomp filter, no masks.
func (h *host) byBwrap(a *account) *contender {
	return &contender{name: "bwrap --unshare-all", as: a, role: bwrap, why: installed("bwrap"),
		run: func(args ...string) command {
			return command{as: a, argv: append([]string{"bwrap", "--unshare-all", "--bind", h.rootfs, "/",
				"--proc", "/proc", "--dev", "/dev"}, args...)}
		}}
}

// byCrun runs a bundle: no image, no overlay, a fresh id each time. Arguments
// other than the bundle's own make another bundle.
func (h *host) byCrun(a *account) *contender {
	c := &contender{name: "crun run, default seccomp", as: a, role: crun, why: installed("crun")}
	if c.why != "" {
		return c
	}
	bundle, err := h.makeBundle(a)
	if err != nil {
		c.why = err.Error()
		return c
	}
	count := 0
	cgroups := []string{}
	c.run = func(args ...string) command {
		count++
		argv := append([]string{"crun", "--root", a.dir + "/run/crun"}, cgroups...)
		return command{argv: append(argv, "run", "-b", bundle, fmt.Sprintf("bench%d", count)), as: a, pureCgroups: hybrid() && os.Geteuid() == 0}
	}
	if s := c.run().measure(); s.err != nil {
		// No permission for cgroups, or limits that cannot be raised.
		cgroups = []string{"--cgroup-manager=disabled"}
		c.name += ", no cgroup"
	}
	return c
}

// hybrid reports whether cgroup v2 is mounted below v1.
func hybrid() bool {
	_, err := os.Stat("/sys/fs/cgroup/unified/cgroup.procs")
	return err == nil
}

func (h *host) podman(a *account, args ...string) []string {
	at := filepath.Join(a.dir, "podman")
	return append([]string{"podman", "--root", at + "/root", "--runroot", at + "/run", "--storage-driver", "overlay"}, args...)
}

func (h *host) byPodman(a *account, network string) *contender {
	c := &contender{name: "podman run, network " + network, as: a, slow: true, keepStdin: "-i", why: installed("podman")}
	if network == "none" {
		c.role = podman
	}
	if c.why != "" {
		return c
	}
	c.run = func(args ...string) command {
		argv := h.podman(a, "run", "--rm", "--log-driver", "none")
		if network != "default" {
			argv = append(argv, "--network", network)
		}
		return command{argv: append(append(argv, "localhost/bench:one"), args...), as: a}
	}
	if err := h.preparePodman(a); err != nil {
		c.why = firstLines(err.Error())
	}
	return c
}

// preparePodman gives podman a configuration that works without systemd, and
// the image.
func (h *host) preparePodman(a *account) error {
	conf := a.dir + "/containers.conf"
	if _, err := os.Stat(conf); err == nil {
		return nil
	}
	text := "[containers]\ndefault_ulimits = []\n[engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"none\"\nlock_type = \"file\"\ntmp_dir = \"" + a.dir + "/podman/tmp\"\n"
	if hybrid() && installed("runc") == "" {
		text += "runtime = \"runc\"\n" // crun refuses hybrid cgroups
	}
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return err
	}
	_, err := command{argv: h.podman(a, "load", "-q", "-i", h.archive), as: a}.output()
	return err
}

// byDocker takes part if a daemon runs; it starts none.
func (h *host) byDocker(a *account, network string) *contender {
	c := &contender{name: "docker run, network " + network, as: a, slow: true, keepStdin: "-i", why: installed("docker")}
	if c.why != "" {
		return c
	}
	c.run = func(args ...string) command {
		return command{argv: append([]string{"docker", "run", "--rm", "--network", network, "localhost/bench:one"}, args...), as: a}
	}
	if _, err := (command{argv: []string{"docker", "info"}, as: a}).output(); err != nil {
		c.why = "docker: no daemon runs that " + a.name + " can use"
	} else if _, err := (command{argv: []string{"docker", "load", "-q", "-i", h.archive}, as: a}).output(); err != nil {
		c.why = firstLines(err.Error())
	}
	return c
}
