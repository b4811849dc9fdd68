package relay

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"skiff/internal/need"
	"skiff/netns/netlink"

	"golang.org/x/sys/unix"
)

// The tests run in a network namespace of their own, which plays the host: lo,
// and a veth to another one, outside, where a server answers. TestMain starts
// the test binary again in it; an ordinary user gets a user namespace with it.
//
//	container ── R ── [host 192.0.2.1] ── [outside 192.0.2.2]
const (
	roleEnv   = "RELAY_TEST_ROLE"
	worldEnv  = "RELAY_TEST_WORLD"
	outsideIP = "192.0.2.2"
)

var (
	hostAddress    = netip.MustParsePrefix("192.0.2.1/24")
	hostAddress6   = netip.MustParsePrefix("2001:db8:1::1/64")
	outside6       = netip.MustParsePrefix("2001:db8:1::2/64")
	through6Net    = netip.MustParsePrefix("2001:db8:2::/64") // as throughNet
	outsideAddress = netip.MustParsePrefix("192.0.2.2/24")
	throughNet     = netip.MustParsePrefix("198.51.100.0/24") // outside routes it back
	nowhereNet     = netip.MustParsePrefix("198.18.0.0/24")   // outside has no route to it, and says so five times and then once a second
	nowhere6Net    = netip.MustParsePrefix("2001:db8:3::/64") // says so always
	worldErr       error                                      // why there is no world
	outside        *child                                     // the server; ends when its input is closed
)

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleEnv); {
	case role != "":
		os.Unsetenv(roleEnv)
		play(role)
	case os.Getenv(worldEnv) != "":
		if worldErr = makeWorld(); worldErr != nil {
			fmt.Fprintln(os.Stderr, "world:", worldErr)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), worldEnv+"=1")
	cmd.SysProcAttr = namespaces(os.Geteuid() != 0)
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit):
		os.Exit(exit.ExitCode())
	}
	worldErr = err
	os.Exit(m.Run())
}

// namespaces asks for a network namespace, and a user namespace about it.
func namespaces(user bool) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if user {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	return a
}

// needWorld skips a test that needs the namespaces if there are none.
func needWorld(t testing.TB) {
	t.Helper()
	need.That(t, "netns", worldErr)
}

// makeWorld furnishes the namespace that this process is in.
func makeWorld() error {
	out, err := startRole("server", namespaces(false))
	if outside = out; err != nil {
		return err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", out.cmd.Process.Pid))
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
	index, err := c.LinkIndex("out0")
	if err != nil {
		return err
	}
	b.Reset()
	b.AddrAdd(index, hostAddress)
	b.AddrAdd(index, hostAddress6)
	b.AddrAdd(index, netip.MustParsePrefix("fe80::1/64")) // neighbours are asked from it, without the delay of the kernel's own
	if err := c.Do(&b); err != nil {
		return err
	}
	if _, err = out.ask("serve"); err != nil {
		return err
	}
	if _, err := c.LinkIndex("out0"); err != nil { // see configure
		return err
	}
	b.Reset()
	for _, n := range []netip.Prefix{throughNet, nowhereNet} {
		b.RouteAdd(netlink.Route{Dst: n, Gateway: outsideAddress.Addr(), Index: index})
	}
	for _, n := range []netip.Prefix{through6Net, nowhere6Net} {
		b.RouteAdd(netlink.Route{Dst: n, Gateway: outside6.Addr(), Index: index})
	}
	return c.Do(&b)
}

// A child is this binary in another part.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

// forks is a thread for whoever starts a child, which dies with the thread that
// started it: that of a relay ends with the relay.
var forks = make(chan func())

func init() {
	go func() {
		runtime.LockOSThread()
		for f := range forks {
			f()
		}
	}()
}

// startRole starts the binary in a part and returns once it has spoken.
func startRole(role string, attr *syscall.SysProcAttr) (*child, error) {
	return startCommand(role, exec.Command("/proc/self/exe"), attr)
}

func startCommand(role string, cmd *exec.Cmd, attr *syscall.SysProcAttr) (*child, error) {
	c := &child{cmd: cmd}
	c.cmd.Env = append(os.Environ(), roleEnv+"="+role, "GOMAXPROCS=64") // what blocks there shall not wait for the scheduler
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = attr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	started := make(chan error)
	forks <- func() { started <- c.cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	c.out = bufio.NewScanner(out)
	if !c.out.Scan() {
		return nil, fmt.Errorf("%s said nothing", role)
	}
	return c, nil
}

// ask has the child do something and returns its answer.
func (c *child) ask(line string) (string, error) {
	if _, err := io.WriteString(c.in, line+"\n"); err != nil {
		return "", err
	}
	if !c.out.Scan() {
		return "", fmt.Errorf("%s: no answer", line)
	}
	return c.out.Text(), nil
}

// do is ask for tests.
func (c *child) do(t testing.TB, format string, a ...any) string {
	t.Helper()
	answer, err := c.ask(fmt.Sprintf(format, a...))
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// stop ends the child.
func (c *child) stop() {
	c.cmd.Process.Kill()
	c.cmd.Wait()
}

// play is the other side of ask: lines in, lines out.
func play(role string) {
	unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0, 0, 0)
	fmt.Println("here")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		f := parts[words[0]]
		if f == nil {
			fmt.Println("no such part")
			continue
		}
		fmt.Println(f(words[1:]))
	}
	os.Exit(0)
}

// container starts a process in a network namespace of its own, as a
// container's init is: with a user namespace too, or as root without.
func container(t testing.TB, user bool) *child {
	t.Helper()
	c, err := startRole("container", namespaces(user))
	need.That(t, "netns", err)
	t.Cleanup(c.stop)
	return c
}

// relayTo starts a relay for a child.
func relayTo(t testing.TB, c *child, o Options, user bool) *Relay {
	t.Helper()
	o.PID, o.UserNS = c.cmd.Process.Pid, user
	if o.Log == nil {
		o.Log = func(line string) { t.Log(line) }
	}
	r, err := Start(context.Background(), o)
	var e *Error
	if errors.As(err, &e) && e.Missing != "" {
		need.That(t, "relay", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// network is a container with a relay.
func network(t testing.TB, o Options) (*child, *Relay) {
	t.Helper()
	needWorld(t)
	c := container(t, true)
	return c, relayTo(t, c, o, true)
}
