package relay

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"skiff/netns/netlink"

	"golang.org/x/sys/unix"
)

// parts are what a child can be asked to do.
var parts map[string]func(args []string) string

func init() {
	parts = map[string]func([]string) string{
		"serve":  serveOutside,
		"listen": listenHere,
		"dial":   dial,
		"echo":   echo,
		"half":   half,
		"rst":    rst,
		"many":   many,
		"udp":    udp,
		"lookup": lookup,
		"links":  links,
		"relay":  relayHere,
		"ping":   ping,
		"inside": serveInside,
		"ended":  ended,
		"whoami": whoami,
		"twice":  twice,
		"crowd":  crowd,
		"udp6":   udp6,
	}
}

func word(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case errors.Is(err, io.EOF):
		return "EOF"
	}
	return strings.ReplaceAll(err.Error(), "\n", " ")
}

// serveOutside is what answers at outsideIP.
//
//	7 tcp and udp: echo          9: discards, answers the digest at the end
//	19: reads a number n, sends n bytes, closes
//	21: resets after the first byte      22: closes its side at once, then echoes what it got
func serveOutside([]string) string {
	c, err := netlink.Open(unix.NETLINK_ROUTE)
	if err != nil {
		return word(err)
	}
	index, err := c.LinkIndex("wan0")
	if err != nil {
		return word(err)
	}
	var b netlink.Batch
	b.LinkUp(netlink.Lo)
	b.AddrAdd(index, outsideAddress)
	b.LinkUp(netlink.Link{Index: index})
	if err := c.Do(&b); err != nil {
		return word(err)
	}
	serve := map[int]func(*net.TCPConn){
		7: func(c *net.TCPConn) { io.Copy(c, struct{ io.Reader }{c}) },
		9: func(c *net.TCPConn) {
			h := sha256.New()
			io.Copy(h, c)
			c.Write([]byte(hex.EncodeToString(h.Sum(nil))))
		},
		19: func(c *net.TCPConn) {
			var n int64
			fmt.Fscanf(c, "%d\n", &n)
			io.CopyN(c, noise(), n)
		},
		21: func(c *net.TCPConn) {
			c.Read(make([]byte, 1))
			c.SetLinger(0)
		},
		22: func(c *net.TCPConn) {
			c.CloseWrite()
			n, _ := io.Copy(io.Discard, c)
			fmt.Fprintln(os.Stderr, "outside: after half-close got", n)
		},
	}
	for port, f := range serve {
		if err := serveTCP(fmt.Sprint(":", port), f); err != nil {
			return word(err)
		}
	}
	return word(serveUDP(":7"))
}

func serveTCP(address string, f func(*net.TCPConn)) error {
	l, err := net.Listen("tcp4", address)
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				f(c.(*net.TCPConn))
			}()
		}
	}()
	return nil
}

func serveUDP(address string) error {
	u, err := net.ListenPacket("udp4", address)
	if err != nil {
		return err
	}
	go func() {
		b := make([]byte, 65536)
		for {
			n, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo(b[:n], from)
		}
	}()
	return nil
}

// listenHere [tcp|udp] ADDRESS answers echoes on an address of this namespace.
func listenHere(a []string) string {
	if a[0] == "udp" {
		return word(serveUDP(a[1]))
	}
	return word(serveTCP(a[1], func(c *net.TCPConn) { io.Copy(c, struct{ io.Reader }{c}) }))
}

// noise is an endless stream, the same each time.
func noise() io.Reader { return rand.NewChaCha8([32]byte{1}) }

// dial ADDRESS connects, says a word to an echo and returns ok or the errno.
func dial(a []string) string {
	c, err := net.DialTimeout("tcp4", a[0], 10*time.Second)
	if err != nil {
		return word(err)
	}
	defer c.Close()
	return "ok"
}

// echo ADDRESS BYTES sends to an echo and compares, both directions at once.
func echo(a []string) string {
	n, _ := strconv.ParseInt(a[1], 10, 64)
	c, err := net.Dial("tcp4", a[0])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	sent, got := sha256.New(), sha256.New()
	var wg sync.WaitGroup
	wg.Go(func() {
		io.CopyN(io.MultiWriter(c, sent), noise(), n)
		c.(*net.TCPConn).CloseWrite()
	})
	m, err := io.Copy(got, c)
	wg.Wait()
	if err != nil || m != n || !slices.Equal(sent.Sum(nil), got.Sum(nil)) {
		return fmt.Sprint(m, " of ", n, " bytes came back, ", word(err))
	}
	return "ok"
}

// half [in|out] ADDRESS BYTES closes one direction and goes on in the other.
func half(a []string) string {
	n, _ := strconv.ParseInt(a[2], 10, 64)
	c, err := net.Dial("tcp4", a[1])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	h := sha256.New()
	if a[0] == "in" { // we close, the digest comes after
		io.CopyN(io.MultiWriter(c, h), noise(), n)
		c.(*net.TCPConn).CloseWrite()
		digest, err := io.ReadAll(c)
		if err == nil && string(digest) != hex.EncodeToString(h.Sum(nil)) {
			return "digest differs"
		}
		return word(err)
	}
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		return "not closed: " + word(err)
	}
	if _, err := io.CopyN(c, noise(), n); err != nil {
		return word(err)
	}
	return "ok"
}

// rst ADDRESS writes a byte and returns how that or reading ends.
func rst(a []string) string {
	c, err := net.Dial("tcp4", a[0])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte{1}); err != nil {
		return word(err) // the reset was there before, and is told once
	}
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = c.Read(make([]byte, 1))
	return word(err)
}

// many ADDRESS N holds N connections at once and has each echo a number.
func many(a []string) string {
	n, _ := strconv.Atoi(a[1])
	conns := make([]net.Conn, n)
	errs := make([]error, n)
	var wg sync.WaitGroup
	gate := make(chan bool, 50)
	for i := range n {
		wg.Go(func() {
			gate <- true
			defer func() { <-gate }()
			conns[i], errs[i] = net.Dial("tcp4", a[0])
		})
	}
	wg.Wait()
	for i := range n {
		if errs[i] != nil {
			return fmt.Sprint(i, ": ", word(errs[i]))
		}
		fmt.Fprintf(conns[i], "%8d", i)
	}
	for i, c := range conns {
		var b [8]byte
		if _, err := io.ReadFull(c, b[:]); err != nil || strings.TrimSpace(string(b[:])) != fmt.Sprint(i) {
			return fmt.Sprintf("%d: got %q, %s", i, b, word(err))
		}
		c.Close()
	}
	return "ok"
}

// udp ADDRESS SIZE COUNT sends datagrams one by one and wants each back.
func udp(a []string) string {
	size, _ := strconv.Atoi(a[1])
	count, _ := strconv.Atoi(a[2])
	c, err := net.Dial("udp4", a[0])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	b, got := make([]byte, size), make([]byte, 65536)
	for i := range count {
		io.ReadFull(noise(), b)
		if size > 0 {
			b[0] = byte(i)
		}
		if _, err := c.Write(b); err != nil {
			return word(err)
		}
		c.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := c.Read(got)
		if err != nil {
			return word(err)
		}
		if !slices.Equal(b, got[:n]) {
			return fmt.Sprint("differs: ", n, " bytes")
		}
	}
	return "ok"
}

// lookup [udp|tcp] SERVER NAME asks a nameserver for an address.
func lookup(a []string) string {
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, a[0], a[1])
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Second)
	defer cancel()
	got, err := r.LookupNetIP(ctx, "ip4", a[2])
	if err != nil {
		return word(err)
	}
	return fmt.Sprint(got)
}

// links lists this namespace's interfaces and addresses.
func links([]string) string {
	all, err := net.Interfaces()
	if err != nil {
		return word(err)
	}
	var out []string
	for _, i := range all {
		addrs, _ := i.Addrs()
		out = append(out, fmt.Sprint(i.Name, addrs))
	}
	return strings.Join(out, " ")
}

// relayHere PID starts a relay for a process in a user and network namespace
// that is a child of this process's.
func relayHere(a []string) string {
	c, err := startRole("container", namespaces(true))
	if err != nil {
		return word(err)
	}
	if _, err := Start(context.Background(), Options{PID: c.cmd.Process.Pid, UserNS: true}); err != nil {
		return word(err)
	}
	answer, err := c.ask("dial " + a[0])
	if err != nil {
		return word(err)
	}
	return fmt.Sprint(c.cmd.Process.Pid, " ", answer)
}

// ping ADDRESS sends an ICMP echo request and waits for an answer.
func ping(a []string) string {
	c, err := net.Dial("ip4:icmp", a[0])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	m := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	sum := fold(sum16(0, m))
	m[2], m[3] = byte(sum>>8), byte(sum)
	if _, err := c.Write(m); err != nil {
		return word(err)
	}
	c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
	_, err = c.Read(make([]byte, 100))
	return word(err)
}
