package relay

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"skiff/netns/ports"

	"golang.org/x/sys/unix"
)

// publish binds ports of the host, one for each of the container's.
func publish(t testing.TB, address string, proto ports.Proto, inside ...uint16) []ports.Socket {
	t.Helper()
	var list []ports.Port
	for _, p := range inside {
		list = append(list, ports.Port{Address: netip.MustParseAddr(address), Container: p, Proto: proto})
	}
	sockets, err := ports.Bind(list, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ports.Close(sockets) })
	return sockets
}

// published is a container that serves as outside does, and its ports of the host.
func published(t testing.TB, address string, proto ports.Proto, inside ...uint16) (*child, *Relay, []netip.AddrPort) {
	t.Helper()
	needWorld(t)
	sockets := publish(t, address, proto, inside...)
	c, r := network(t, Options{Ports: sockets})
	if answer := c.do(t, "inside"); answer != "ok" {
		t.Fatal(answer)
	}
	var at []netip.AddrPort
	for _, s := range sockets {
		at = append(at, s.Host)
	}
	return c, r, at
}

// forwarded is the same where the container is reached without an R.
func forwarded(t testing.TB, address string, proto ports.Proto, inside ...uint16) []netip.AddrPort {
	t.Helper()
	needWorld(t)
	sockets := publish(t, address, proto, inside...)
	r, err := Forward(context.Background(), hostAddress.Addr(), netip.MustParseAddr(outsideIP), sockets, func(line string) { t.Log(line) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	var at []netip.AddrPort
	for _, s := range sockets {
		at = append(at, s.Host)
	}
	return at
}

// inward runs a test with a client on the host, and with one beyond it.
func inward(t *testing.T, proto ports.Proto, inside uint16, test func(t *testing.T, do func(format string, a ...any) string, at netip.AddrPort)) {
	local := func(t *testing.T) func(string, ...any) string {
		return func(format string, a ...any) string {
			words := strings.Fields(fmt.Sprintf(format, a...))
			return parts[words[0]](words[1:])
		}
	}
	t.Run("loopback", func(t *testing.T) {
		_, _, at := published(t, "127.0.0.1", proto, inside)
		test(t, local(t), at[0])
	})
	t.Run("outside", func(t *testing.T) {
		_, _, at := published(t, "192.0.2.1", proto, inside)
		test(t, func(format string, a ...any) string { return outside.do(t, format, a...) }, at[0])
	})
	t.Run("all addresses", func(t *testing.T) {
		_, _, at := published(t, "0.0.0.0", proto, inside)
		test(t, local(t), netip.AddrPortFrom(hostAddress.Addr(), at[0].Port()))
	})
	t.Run("forward", func(t *testing.T) { test(t, local(t), forwarded(t, "127.0.0.1", proto, inside)[0]) })
}

func TestInwardEcho(t *testing.T) {
	inward(t, ports.TCP, 7, func(t *testing.T, do func(string, ...any) string, at netip.AddrPort) {
		for _, n := range []int{0, 1, 100, 70_000, 20 << 20} {
			if got := do("echo %s %d", at, n); got != "ok" {
				t.Errorf("%d bytes: %s", n, got)
			}
		}
	})
}

// An end of one direction passes, and the other goes on.
func TestInwardHalfClose(t *testing.T) {
	inward(t, ports.TCP, 9, func(t *testing.T, do func(string, ...any) string, at netip.AddrPort) {
		if got := do("half in %s %d", at, 3<<20); got != "ok" {
			t.Error(got)
		}
	})
	inward(t, ports.TCP, 22, func(t *testing.T, do func(string, ...any) string, at netip.AddrPort) {
		if got := do("half out %s %d", at, 3<<20); got != "ok" {
			t.Error(got)
		}
	})
}

// A reset inside resets outside, and so does nobody who listens.
func TestInwardReset(t *testing.T) {
	inward(t, ports.TCP, 21, func(t *testing.T, do func(string, ...any) string, at netip.AddrPort) {
		if got := do("rst %s", at); got != "ECONNRESET" {
			t.Error(got)
		}
	})
	inward(t, ports.TCP, 1, func(t *testing.T, do func(string, ...any) string, at netip.AddrPort) {
		if got := do("rst %s", at); got != "ECONNRESET" && got != "EPIPE" {
			t.Error(got)
		}
	})
}

// A client's reset resets inside.
func TestInwardClientReset(t *testing.T) {
	c, r, at := published(t, "127.0.0.1", ports.TCP, 23)
	conn, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(at[0]))
	if err != nil {
		t.Fatal(err)
	}
	conn.Write([]byte{1})
	conn.Read(make([]byte, 1)) // it is there
	conn.SetLinger(0)
	conn.Close()
	if got := c.do(t, "ended"); got != "ECONNRESET" {
		t.Error(got)
	}
	empty(t, r)
}

// empty waits until no connection is counted any more.
func empty(t *testing.T, r *Relay) {
	t.Helper()
	for range 500 {
		if r.open.Load() == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d sockets are still counted", r.open.Load())
}

// The container sees who its clients are.
func TestInwardClientAddress(t *testing.T) {
	for _, proto := range []ports.Proto{ports.TCP, ports.UDP} {
		_, _, at := published(t, "0.0.0.0", proto, 24)
		remote := netip.AddrPortFrom(hostAddress.Addr(), at[0].Port())
		local := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), at[0].Port())
		const port = 40100 // not one of R's
		for _, c := range []struct{ got, want string }{
			{outside.do(t, "whoami %s %s:%d %s", proto, outsideIP, port, remote), outsideIP + ":" + strconv.Itoa(port)},
			{outside.do(t, "whoami %s %s:%d %s", proto, outsideIP, tcpPort, remote), outsideIP + ":"},
			{outside.do(t, "whoami %s %s:%d %s", proto, outsideIP, udpPort, remote), outsideIP + ":"},
			{parts["whoami"]([]string{string(proto), hostAddress.Addr().String() + ":0", remote.String()}), hostAddress.Addr().String() + ":"},
			{parts["whoami"]([]string{string(proto), "127.0.0.1:0", local.String()}), DefaultGateway.String() + ":"},
		} {
			if !strings.HasPrefix(c.got, c.want) {
				t.Errorf("%s: the container saw %s, not %s", proto, c.got, c.want)
			}
		}
	}
	_, _, at := published(t, "::1", ports.TCP, 24)
	if got := parts["whoami"]([]string{"tcp", "[::1]:0", at[0].String()}); !strings.HasPrefix(got, DefaultGateway.String()+":") {
		t.Errorf("IPv6: the container saw %s", got)
	}
}

// The same client's port may lead to one port inside twice, by two of the host's.
func TestInwardSamePort(t *testing.T) {
	_, _, at := published(t, "192.0.2.1", ports.TCP, 24, 24)
	if got := outside.do(t, "twice %s:40200 %s %s", outsideIP, at[0], at[1]); got != "ok" {
		t.Error(got)
	}
}

func TestInwardMany(t *testing.T) {
	inward(t, ports.TCP, 7, func(t *testing.T, do func(string, ...any) string, at netip.AddrPort) {
		if got := do("many %s 2000", at); got != "ok" {
			t.Error(got)
		}
	})
}

func TestInwardUDP(t *testing.T) {
	inward(t, ports.UDP, 7, func(t *testing.T, do func(string, ...any) string, at netip.AddrPort) {
		for _, size := range []int{0, 1, 1400, 9000, 60_000} {
			if got := do("udp %s %d 5", at, size); got != "ok" {
				t.Errorf("%d bytes: %s", size, got)
			}
		}
		if got := do("crowd %s 200", at); got != "ok" {
			t.Errorf("a crowd: %s", got)
		}
	})
	// From all addresses of IPv6 the answer comes from the one that was asked.
	_, _, at := published(t, "::", ports.UDP, 7)
	if got := parts["udp6"]([]string{netip.AddrPortFrom(netip.IPv6Loopback(), at[0].Port()).String()}); got != "ok" {
		t.Error("IPv6: ", got)
	}
}

// Nothing is made for who publishes nothing.
func TestNoEntrance(t *testing.T) {
	_, r := network(t, Options{})
	if r.stock != nil || r.first.entrance != nil {
		t.Error("a relay without ports has an entrance")
	}
}

// A relay that may have few connections leaves the others in line.
func TestInwardLimit(t *testing.T) {
	_, r, at := published(t, "127.0.0.1", ports.TCP, 7)
	r.most = 4
	dial := func() *net.TCPConn {
		c, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(at[0]))
		if err != nil {
			t.Fatal(err)
		}
		c.Write([]byte("x"))
		return c
	}
	served := func(c *net.TCPConn, within time.Duration) bool {
		c.SetReadDeadline(time.Now().Add(within))
		_, err := c.Read(make([]byte, 1))
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		return err == nil
	}
	first, second := dial(), dial()
	if !served(first, 5*time.Second) || !served(second, 5*time.Second) {
		t.Fatal("two connections were not served")
	}
	third := dial()
	defer third.Close()
	if served(third, 200*time.Millisecond) {
		t.Error("a third connection was served, beyond the limit")
	}
	first.Close()
	second.Close()
	if !served(third, 10*time.Second) {
		t.Error("a third connection was not served after the others had ended")
	}
}

// The sockets of R are made by tasks that end, and leave nothing behind that would use up
// the gateway's ports.
func TestInwardLeavesNothing(t *testing.T) {
	_, r, at := published(t, "127.0.0.1", ports.TCP, 7)
	for range 20 {
		if got := parts["many"]([]string{at[0].String(), "100"}); got != "ok" {
			t.Fatal(got)
		}
	}
	empty(t, r)
	var info unix.Siginfo
	if err := unix.Waitid(unix.P_ALL, 0, &info, syscall.WEXITED|syscall.WNOHANG|syscall.WNOWAIT, nil); err == nil && info.Signo != 0 {
		t.Error("a task was not reaped")
	}
	sockets := make(chan string)
	go func() {
		runtime.LockOSThread() // and the thread ends in R
		if err := unix.Setns(r.stock.netns, unix.CLONE_NEWNET); err != nil {
			sockets <- err.Error()
			return
		}
		text, err := os.ReadFile("/proc/thread-self/net/sockstat")
		sockets <- fmt.Sprint(string(text), err)
	}()
	if text := <-sockets; !strings.Contains(text, " tw 0 ") {
		t.Error("sockets of R in TIME_WAIT, or what else: ", text)
	}
}
