package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"skiff/internal/idmap"
	"skiff/netns/netlink"

	"golang.org/x/sys/unix"
)

// The addresses of documentation (RFC 5737): a host that is not the machine's,
// and the server beyond its link.
var (
	netHost    = netip.MustParsePrefix("192.0.2.1/24")
	netOutside = netip.MustParsePrefix("192.0.2.2/24")
)

// netTime is how long one measurement lasts, after a warm-up of a fifth.
const netTime = 400 * time.Millisecond

// A netKind is one thing that is measured.
type netKind struct {
	name    string // of measureTraffic
	streams int    // at once
	title   string // with the unit of a cell
	format  string
	unit    float64
}

var netKinds = []netKind{
	{"up", 1, "up Gbit/s", "%.2f", 1e9}, {"down", 1, "down Gbit/s", "%.2f", 1e9},
	{"rr", 1, "requests/s", "%.0f", 1}, {"crr", 1, "connections/s", "%.0f", 1},
	{"urr", 1, "UDP req./s", "%.0f", 1}, {"flood", 1, "flood Gbit/s", "%.2f", 1e9},
	{"up", 4, "up 4", "%.2f", 1e9}, {"down", 4, "down 4", "%.2f", 1e9},
	{"rr", 16, "req. 16", "%.0f", 1}, {"crr", 8, "conn. 8", "%.0f", 1},
}

// A netContender is a client with a way out.
type netContender struct {
	name   string
	why    string // why it cannot be measured, or ""
	client *talker
	server *talker // where the client has one of its own
	helper *talker
	rates  map[netKind][]float64 // one a round; 0 for a failure
}

// net measures ways out of a container, one after the other in each round.
// Everything happens in two network namespaces that are made here.
func (h *host) net(out io.Writer, rounds int) {
	user := h.netUser()
	if user == nil {
		fmt.Fprintln(out, "\nnetworks: not measured: that needs root, and -users NAME for whom the containers are")
		return
	}
	w, err := h.newNetWorld()
	if err != nil {
		fmt.Fprintf(out, "\nnetworks: not measured: %v\n", err)
		return
	}
	defer w.close()
	rounds = max(rounds/10, 1)
	compare(out, "Networks, "+user.kind()+"; the last four with several connections at once", w.contenders(h, user), rounds)
	compare(out, "Published ports, "+user.kind()+": the client is outside", w.publishers(h, user), rounds)
}

// compare measures contenders and prints a table of them, with the first one's
// quotients. It ends their processes.
func compare(out io.Writer, title string, list []*netContender, rounds int) {
	defer func() {
		for _, c := range list {
			c.helper.close()
			c.client.close()
			c.server.close()
		}
	}()
	failed := failures{}
	for range rounds {
		for _, k := range netKinds {
			for _, i := range rand.Perm(len(list)) {
				c := list[i]
				if c.why != "" {
					continue
				}
				rate, err := c.client.rate(k)
				if err != nil {
					failed.add(c.name+", "+k.name, err)
				}
				c.rates[k] = append(c.rates[k], rate)
			}
		}
	}
	columns := []string{"", "n"}
	for _, k := range netKinds {
		columns = append(columns, k.title)
	}
	t := newTable(out, title, columns...)
	for _, c := range list {
		if c.why != "" {
			t.without(c.name, c.why)
			continue
		}
		row := []string{c.name, strconv.Itoa(rounds)}
		for _, k := range netKinds {
			row = append(row, fmt.Sprintf(k.format, medianFloat(c.rates[k])/k.unit))
		}
		t.row(row...)
	}
	relay := list[0]
	for _, c := range list[1:] {
		if relay.why != "" || c.why != "" {
			continue
		}
		row := []string{"relay : " + c.name, ""}
		for _, k := range netKinds {
			row = append(row, fmt.Sprintf("%.2f", medianFloat(quotients(relay.rates[k], c.rates[k]))))
		}
		t.row(row...)
	}
	t.flush()
	failed.print(out)
}

// netUser is whose containers are measured: a user's with subordinate ids, if
// one is named. The data path is the same for all. nil: there is none.
func (h *host) netUser() *account {
	var user *account
	for _, a := range h.accounts {
		if !a.self && (user == nil || user.ids.Kind != idmap.Subordinate) {
			user = a
		}
	}
	return user
}

// quotients are a/b of the rounds in which both are there.
func quotients(a, b []float64) (q []float64) {
	for i := range min(len(a), len(b)) {
		if a[i] > 0 && b[i] > 0 {
			q = append(q, a[i]/b[i])
		}
	}
	return q
}

// A netWorld is the namespaces in which networks are measured.
//
//	container ── way out ── [host 192.0.2.1] ── [outside 192.0.2.2]
type netWorld struct {
	program string
	work    chan func() // performed on the thread that is in the host
	server  *talker
	root    *account
}

// newNetWorld makes them. The host is a network namespace, and a mount
// namespace in which every user may open /dev/net/tun, as on distributions with
// udev, and in which root's skiff keeps its state apart from the machine's.
func (h *host) newNetWorld() (_ *netWorld, err error) {
	w := &netWorld{program: filepath.Join(h.programs, "bench"), work: make(chan func()), root: h.caller}
	if err := copyProgram(w.program, "/proc/self/exe"); err != nil {
		return nil, err
	}
	made := make(chan error)
	go func() {
		// Not unlocked: the thread and its namespaces end with the goroutine.
		runtime.LockOSThread()
		made <- becomeHost()
		for f := range w.work {
			f()
		}
	}()
	if err := <-made; err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	root := h.caller
	w.do(func() {
		w.server, err = startTalker(command{argv: []string{w.program, trafficServer}, as: root, env: trafficEnv}, syscall.CLONE_NEWNET)
	})
	if err != nil {
		return nil, err
	}
	w.do(func() { err = linkOutside(w.server.pid) })
	if err != nil {
		return nil, err
	}
	return w, w.server.heard("ready")
}

func (w *netWorld) do(f func()) {
	done := make(chan struct{})
	w.work <- func() { f(); close(done) }
	<-done
}

func (w *netWorld) close() {
	w.server.close()
	close(w.work)
}

// becomeHost gives the thread namespaces of its own.
func becomeHost() error {
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Without the directory or the driver, who needs it says so.
	if unix.Mount("tun", "/dev/net", "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "mode=755") == nil {
		const tun = "/dev/net/tun"
		unix.Mknod(tun, unix.S_IFCHR|0o666, int(unix.Mkdev(10, 200))) // Documentation/admin-guide/devices.txt
		unix.Chmod(tun, 0o666)                                        // whatever the umask
	}
	if err := os.MkdirAll("/run/skiff", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("skiff", "/run/skiff", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil {
		return fmt.Errorf("mount /run/skiff: %w", err)
	}
	fewTimeWait()
	return nil
}

// fewTimeWait keeps connections that one measurement closed from slowing the
// next one's search for a port.
func fewTimeWait() { os.WriteFile("/proc/sys/net/ipv4/tcp_max_tw_buckets", []byte("16"), 0) }

// linkOutside lays the link to the server's namespace, from both its ends.
func linkOutside(pid int) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer c.Close()
	var b netlink.Batch
	b.LinkUp(netlink.Lo)
	b.Veth(netlink.LinkSpec{Name: "out0", Up: true}, netlink.LinkSpec{Name: "wan0"}, int(ns.Fd()))
	if err := c.Do(&b); err != nil {
		return err
	}
	err = configureLink(c, "wan0", netOutside, ns)
	if err == nil {
		err = configureLink(c, "out0", netHost, nil)
	}
	if err != nil {
		return err
	}
	index, err := c.LinkIndex("out0")
	if err != nil {
		return err
	}
	b.Reset()
	b.RouteAdd(netlink.Route{Index: index, Gateway: netOutside.Addr()})
	return c.Do(&b)
}

// configureLink gives a link its address, on a thread in ns if that is not nil.
func configureLink(c *netlink.Conn, name string, address netip.Prefix, ns *os.File) error {
	if ns != nil {
		return inNetns(ns, func() error {
			c, err := netlink.Open(unix.NETLINK_ROUTE)
			if err != nil {
				return err
			}
			defer c.Close()
			fewTimeWait()
			return configureLink(c, name, address, nil)
		})
	}
	index, err := c.LinkIndex(name)
	if err != nil {
		return err
	}
	var b netlink.Batch
	b.LinkUp(netlink.Lo)
	b.AddrAdd(index, address)
	b.LinkUp(netlink.Link{Index: index})
	return c.Do(&b)
}

// inNetns runs f on a thread in ns, which ends with it.
func inNetns(ns *os.File, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET)
		if err == nil {
			err = f()
		}
		done <- err
	}()
	return <-done
}

// contenders start the clients. The relay comes first. All but the last are the
// same program in the same container, with skiff's seccomp filter.
func (w *netWorld) contenders(h *host, user *account) []*netContender {
	root := h.caller
	to := netip.AddrPortFrom(netOutside.Addr(), trafficPort).String()
	inside := func(a *account, network string) command {
		return command{as: a, argv: []string{h.skiff, "run", "--rm", "-i", "-v", w.program + ":/traffic:ro",
			"-e", trafficEnv[0], "-e", trafficEnv[1],
			"--network", network, h.one, "/traffic", trafficClient, to}}
	}
	pasta := func(pid string) []string {
		return []string{"pasta", "-f", "-q", "-4", "--config-net", "--no-map-gw", "-i", "out0",
			"-a", netHost.Addr().String(), "-n", "24", "-g", netOutside.Addr().String(),
			"-t", "none", "-u", "none", "-T", "none", "-U", "none", pid}
	}
	slirp := func(pid string) []string {
		return []string{"slirp4netns", "--configure", "--mtu=65520", "--disable-host-loopback", pid, "tap0"}
	}
	list := []*netContender{w.contender("skiff, relay", inside(user, "default"), nil)}
	if h.versus != "" {
		cmd := inside(user, "default")
		cmd.argv[0] = h.versus
		list = append(list, w.contender("another skiff, relay", cmd, nil))
	}
	return append(list,
		w.contender("pasta", inside(user, "none"), pasta),
		w.contender("slirp4netns", inside(user, "none"), slirp),
		w.contender("root's veth and masquerade", inside(root, "default"), nil),
		w.contender("no container", command{as: root, argv: []string{w.program, trafficClient, to}, env: trafficEnv}, nil),
	)
}

// contender starts a client, and the helper that gives it a way out, if it needs
// one.
func (w *netWorld) contender(name string, cmd command, helper func(pid string) []string) *netContender {
	c := &netContender{name: name, rates: map[netKind][]float64{}}
	err := func() (err error) {
		if helper != nil {
			if c.why = installed(helper("")[0]); c.why != "" {
				return nil
			}
		}
		w.do(func() { c.client, err = startTalker(cmd, 0) })
		if err != nil {
			return err
		}
		if err := c.client.heard("ready"); err != nil {
			return err
		}
		inits := children(c.client.pid)
		if len(inits) == 1 {
			ns, err := os.Open("/proc/" + inits[0] + "/ns/net")
			if err != nil {
				return err
			}
			defer ns.Close()
			if err := inNetns(ns, func() error { fewTimeWait(); return nil }); err != nil {
				return err
			}
		}
		if helper == nil {
			return nil
		}
		if len(inits) != 1 {
			return errors.New("the container's init is not found")
		}
		w.do(func() { c.helper, err = startTalker(command{argv: helper(inits[0]), as: cmd.as}, 0) })
		return err
	}()
	for wait := time.Now(); c.why == "" && err == nil; time.Sleep(20 * time.Millisecond) {
		if _, err = c.client.ask("rr 1 1"); err == nil {
			break
		}
		if time.Since(wait) < 5*time.Second {
			err = nil
		}
	}
	if err != nil {
		c.why = "does not run here: " + firstLines(err.Error()+" "+c.client.said()+" "+c.helper.said())
	}
	return c
}

// children are the processes whose parent pid is, of any thread.
func children(pid int) (list []string) {
	files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		list = append(list, strings.Fields(string(text))...)
	}
	return list
}

// A talker is a process that answers lines with lines. A nil one says nothing.
type talker struct {
	pid    int
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
	stderr strings.Builder
}

// startTalker starts a command from the calling thread, and so in its namespaces.
func startTalker(c command, flags uintptr) (*talker, error) {
	t := &talker{cmd: exec.Command(c.argv[0], c.argv[1:]...)}
	t.cmd.Dir, t.cmd.Env = c.as.dir, append(c.as.environment(), c.env...)
	if t.cmd.SysProcAttr = c.as.credential(); t.cmd.SysProcAttr == nil {
		t.cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	t.cmd.SysProcAttr.Cloneflags = flags
	t.cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	t.cmd.Stderr = &t.stderr
	out, err := t.cmd.StdoutPipe()
	if err == nil {
		t.in, err = t.cmd.StdinPipe()
	}
	if err == nil {
		err = t.cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	t.pid, t.out = t.cmd.Process.Pid, bufio.NewScanner(out)
	return t, nil
}

// heard waits for a line.
func (t *talker) heard(want string) error {
	if !t.out.Scan() || t.out.Text() != want {
		return fmt.Errorf("%s: said %q and not %q", t.cmd.Args[0], t.out.Text(), want)
	}
	return nil
}

// ask gives up on a process that does not answer, and ends it.
func (t *talker) ask(line string) (string, error) {
	force := time.AfterFunc(10*time.Second, func() { t.cmd.Process.Kill() })
	defer force.Stop()
	if _, err := io.WriteString(t.in, line+"\n"); err != nil {
		return "", err
	}
	if !t.out.Scan() {
		return "", fmt.Errorf("no answer: %v", t.out.Err())
	}
	if _, why, ok := strings.Cut(t.out.Text(), "failed: "); ok {
		return "", errors.New(why)
	}
	return t.out.Text(), nil
}

func (t *talker) rate(k netKind) (float64, error) {
	answer, err := t.ask(fmt.Sprint(k.name, " ", netTime.Milliseconds(), " ", k.streams))
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(answer, 64)
}

// close ends the process: by the end of its input, or else by force.
func (t *talker) close() {
	if t == nil {
		return
	}
	t.in.Close()
	force := time.AfterFunc(time.Second, func() { t.cmd.Process.Kill() })
	t.cmd.Wait()
	force.Stop()
}

// said is what the process wrote to stderr, once it has ended.
func (t *talker) said() string {
	if t == nil {
		return ""
	}
	t.cmd.Process.Kill()
	t.cmd.Wait()
	return t.stderr.String()
}
