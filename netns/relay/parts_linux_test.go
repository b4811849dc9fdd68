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
	"net/netip"
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
		"burst":  burst,
		"gone":   gone,
		"garble": garble,
		"slow":   slow,
		"abort":  abortHere,
		"end":    lastEnd,
		"tell":   tell,
		"urgent": urgent,
		"flood":  flood,
		"lookup": lookup,
		"links":  links,
		"relay":  relayHere,
		"ping":   pingOnce,
		"sysctl": sysctl,
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
//	23: as 9, but waits for one to 27    24: notes how the connection ends
//	26 udp: answers late and often, and notes when it is told that nobody listens
//	25: echoes when it has everything    53 tcp and udp: all names are 192.0.2.53
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
	b.AddrAdd(index, outside6)
	b.AddrAdd(index, netip.MustParsePrefix("fe80::2/64"))
	b.LinkUp(netlink.Link{Index: index})
	b.RouteAdd(netlink.Route{Dst: through6Net, Gateway: hostAddress6.Addr(), Index: index})
	b.RouteAdd(netlink.Route{Dst: throughNet, Gateway: hostAddress.Addr(), Index: index})
	if err := c.Do(&b); err != nil {
		return word(err)
	}
	for name, value := range map[string]string{
		"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1",
		"net/ipv4/icmp_ratemask": "0", "net/ipv6/icmp/ratelimit": "0", // errors are counted on
	} {
		if answer := sysctl([]string{name, value}); answer != "ok" {
			return answer
		}
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
	begin := make(chan bool, 1)
	serve[23] = func(c *net.TCPConn) {
		<-begin
		serve[9](c)
	}
	serve[27] = func(*net.TCPConn) { begin <- true }
	serve[24] = func(c *net.TCPConn) {
		_, err := io.Copy(io.Discard, c)
		lastEnds <- word(err)
	}
	serve[25] = func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		c.Write(b)
	}
	serve[53] = func(c *net.TCPConn) {
		b := make([]byte, 514)
		if n, _ := c.Read(b); n > 2 {
			a := answerName(b[2:n])
			c.Write(append([]byte{byte(len(a) >> 8), byte(len(a))}, a...))
		}
	}
	go serveLate()
	if err := serveUDP(":53", answerName); err != nil {
		return word(err)
	}
	for port, f := range serve {
		if err := serveTCP(fmt.Sprint(":", port), f); err != nil {
			return word(err)
		}
	}
	return word(serveUDP(":7", nil))
}

func serveTCP(address string, f func(*net.TCPConn)) error {
	l, err := net.Listen("tcp", address)
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

// serveUDP answers each datagram with f of it; nil is an echo.
func serveUDP(address string, f func([]byte) []byte) error {
	u, err := net.ListenPacket("udp", address)
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
			answer := b[:n]
			if f != nil {
				answer = f(answer)
			}
			u.WriteTo(answer, from)
		}
	}()
	return nil
}

// listenHere [tcp|udp] ADDRESS answers echoes on an address of this namespace.
func listenHere(a []string) string {
	if a[0] == "udp" {
		return word(serveUDP(a[1], nil))
	}
	return word(serveTCP(a[1], func(c *net.TCPConn) { io.Copy(c, struct{ io.Reader }{c}) }))
}

// noise is an endless stream, the same each time.
func noise() io.Reader { return rand.NewChaCha8([32]byte{1}) }

// dial ADDRESS connects, says a word to an echo and returns ok or the errno.
func dial(a []string) string {
	c, err := net.DialTimeout("tcp", a[0], 10*time.Second)
	if err != nil {
		return word(err)
	}
	defer c.Close()
	return "ok"
}

// echo ADDRESS BYTES sends to an echo and compares, both directions at once.
func echo(a []string) string {
	n, _ := strconv.ParseInt(a[1], 10, 64)
	c, err := net.Dial("tcp", a[0])
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
	c, err := net.Dial("tcp", a[1])
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
	c, err := net.Dial("tcp", a[0])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte{1}); err != nil {
		return word(err) // the reset was there before, and reading gives the end
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
			conns[i], errs[i] = net.Dial("tcp", a[0])
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
	c, err := net.Dial("udp", a[0])
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

// burst ADDRESS SIZE COUNT sends datagrams one after the other, the last but one of half
// the size, and wants all of them back.
func burst(a []string) string {
	size, _ := strconv.Atoi(a[1])
	count, _ := strconv.Atoi(a[2])
	c, err := net.Dial("udp", a[0])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	want := map[string]bool{}
	for i := range count {
		b := make([]byte, size)
		io.ReadFull(noise(), b)
		b[0] = byte(i)
		if i == count-2 {
			b = b[:size/2]
		}
		want[string(b)] = true
		if _, err := c.Write(b); err != nil {
			return word(err)
		}
	}
	got := make([]byte, 65536)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	for len(want) > 0 {
		n, err := c.Read(got)
		if err != nil {
			return fmt.Sprint(len(want), " did not come back: ", word(err))
		}
		if !want[string(got[:n])] {
			return fmt.Sprint("a stranger of ", n, " bytes")
		}
		delete(want, string(got[:n]))
	}
	return "ok"
}

// slow HOST BYTES sends to a server that does not read until it is told to. It says
// whether the way there was full before, and whether all of it arrived then.
func slow(a []string) string {
	n, _ := strconv.ParseInt(a[1], 10, 64)
	c, err := net.Dial("tcp", net.JoinHostPort(a[0], "23"))
	if err != nil {
		return word(err)
	}
	defer c.Close()
	h := sha256.New()
	full, b := false, make([]byte, 64<<10)
	for sent := int64(0); sent < n; {
		// Whoever takes all of it before the server reads, keeps it in memory.
		if !full {
			c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		}
		m, err := c.Write(b)
		h.Write(b[:m])
		sent += int64(m)
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			full = true
			c.SetWriteDeadline(time.Time{})
			if answer := dial([]string{net.JoinHostPort(a[0], "27")}); answer != "ok" {
				return answer
			}
		case err != nil:
			return word(err)
		}
	}
	if !full {
		return "it takes everything"
	}
	c.(*net.TCPConn).CloseWrite()
	digest, err := io.ReadAll(c)
	if err != nil || string(digest) != hex.EncodeToString(h.Sum(nil)) {
		return "digest differs, " + word(err)
	}
	return "ok"
}

// abortHere ADDRESS connects, says a word, and ends with a reset.
func abortHere(a []string) string {
	c, err := net.Dial("tcp", a[0])
	if err != nil {
		return word(err)
	}
	c.Write([]byte{1})
	time.Sleep(20 * time.Millisecond)
	c.(*net.TCPConn).SetLinger(0)
	return word(c.Close())
}

// serveLate serves one datagram after the other. It tells how that ended when it is
// there for the next.
func serveLate() {
	for end := ""; ; {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrInet4{Port: 26})
		}
		if end != "" {
			lastEnds <- end
		}
		var from unix.Sockaddr
		if err == nil {
			_, from, err = unix.Recvfrom(fd, make([]byte, 10), 0)
		}
		if err == nil {
			err = unix.Connect(fd, from)
		}
		for try := 0; err == nil && try < 100; try++ {
			time.Sleep(10 * time.Millisecond)
			_, err = unix.Write(fd, []byte("late"))
		}
		unix.Close(fd)
		end = word(err)
	}
}

// gone ADDRESS sends a datagram and does not wait for the answer.
func gone(a []string) string {
	c, err := net.Dial("udp", a[0])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	_, err = c.Write([]byte("word"))
	return word(err)
}

// lastEnds are how connections to 24 and flows to 26 ended.
var lastEnds = make(chan string, 100)

// lastEnd waits for one of them.
func lastEnd([]string) string {
	select {
	case s := <-lastEnds:
		return s
	case <-time.After(3 * time.Second):
		return "does not end"
	}
}

// garble SEED N sends N packets to the router that are wrong in a place or two, as
// one with raw sockets may.
func garble(a []string) string {
	seed, _ := strconv.ParseUint(a[0], 10, 64)
	n, _ := strconv.Atoi(a[1])
	pingOnce([]string{"raw", DefaultGateway.String(), "0", "64"}) // for its link address
	text, _ := os.ReadFile("/proc/net/arp")
	var mac net.HardwareAddr
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); f[0] == DefaultGateway.String() {
			mac, _ = net.ParseMAC(f[3])
		}
	}
	link, err := net.InterfaceByName("eth0")
	if err != nil || mac == nil {
		return "no link address, " + word(err)
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	own4, other4 := addressOf(DefaultAddress.Addr()), addressOf(outsideAddress.Addr())
	own6, other6 := addressOf(address6.Addr()), addressOf(outside6.Addr())
	router := addressOf(routerLinkLocal.Addr())
	var seeds [][]byte
	for _, f := range [][2]address{{own4, other4}, {own6, other6}, {own4, addressOf(DefaultGateway)}, {own6, addressOf(gateway6)}} {
		tcp := []byte{1, 2, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, tcpSYN, 0xff, 0xff, 0, 0, 0, 0}
		udp := appendUDP(nil, f[0], f[1], 9, 7, []byte("garbled"))
		echo := byte(icmp4Echo)
		if !f[0].is4() {
			echo = icmp6Echo
		}
		seeds = append(seeds, append(appendIP(nil, protoTCP, f[0], f[1], len(tcp)), tcp...), udp,
			appendEcho(nil, echo, f[0], f[1], 7, 7, []byte("garbled")),
			appendError(nil, unreachableFrom(f[0], icmpPort, f[1]), appendUDP(nil, f[1], f[0], 7, 9, nil)))
	}
	for _, typ := range []byte{neighbourSolicitation, neighbourAdvertisement, 134} { // RA
		m := make([]byte, icmpLen+24)
		m[0] = typ
		copy(m[8:], router[:])
		icmpChecksum(m, router, own6)
		seeds = append(seeds, append(appendIP(nil, protoICMP6, own6, router, len(m)), m...))
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for range n {
		p := slices.Clone(seeds[r.IntN(len(seeds))])
		for range r.IntN(3) {
			p[r.IntN(len(p))] ^= 1 << r.IntN(8)
		}
		if r.IntN(8) == 0 {
			p = p[:1+r.IntN(len(p))]
		}
		sa := &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: link.Index, Halen: 6}
		if p[0]>>4 == 6 {
			sa.Protocol = 0xdd86
		}
		copy(sa.Addr[:], mac)
		unix.Sendto(fd, p, 0, sa)
	}
	return "ok"
}

// tell ADDRESS sends a datagram, waits a moment, and says whether the socket was told of
// an ICMP error: which and whose, as with IP_RECVERR.
func tell(a []string) string {
	to := netip.MustParseAddrPort(a[0])
	family, level, recverr := unix.AF_INET, unix.SOL_IP, unix.IP_RECVERR
	var sa unix.Sockaddr
	if to.Addr().Is4() {
		sa = &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}
	} else {
		family, level, recverr = unix.AF_INET6, unix.SOL_IPV6, unix.IPV6_RECVERR
		sa = &unix.SockaddrInet6{Addr: to.Addr().As16(), Port: int(to.Port())}
	}
	fd, err := unix.Socket(family, unix.SOCK_DGRAM, 0)
	if err != nil {
		return word(err)
	}
	defer unix.Close(fd)
	unix.SetsockoptInt(fd, level, recverr, 1)
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)
	if err := unix.Sendto(fd, []byte("word"), 0, sa); err != nil {
		return word(err)
	}
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 300)
	answer := "nothing"
	eachError(fd, func(e icmpError, _ []byte) { answer = fmt.Sprintf("%d/%d from %v", e.kind, e.code, e.from.addr()) })
	return answer
}

// urgent ADDRESS sends three bytes, the second of them urgent, and says what comes back.
func urgent(a []string) string {
	c, err := net.Dial("tcp", a[0])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	raw, _ := c.(*net.TCPConn).SyscallConn()
	for i, b := range "abc" {
		raw.Write(func(fd uintptr) bool {
			unix.Sendto(int(fd), []byte{byte(b)}, i%2*unix.MSG_OOB, nil)
			return true
		})
		time.Sleep(5 * time.Millisecond)
	}
	c.(*net.TCPConn).CloseWrite()
	got, err := io.ReadAll(c)
	return fmt.Sprintf("%s %s", got, word(err))
}

// answerName answers a query for an address.
func answerName(query []byte) []byte {
	a := append([]byte(nil), query...)
	if len(a) < 12 {
		return nil
	}
	end := 12
	for end < len(a) && a[end] != 0 {
		end += int(a[end]) + 1
	}
	a = append(a[:min(end+5, len(a))], 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 192, 0, 2, 53)
	a[2], a[3] = 0x81, 0x80                                 // an answer
	a[6], a[7], a[8], a[9], a[10], a[11] = 0, 1, 0, 0, 0, 0 // one record
	return a
}

// flood ADDRESS SIZE COUNT sends datagrams for whoever counts them.
func flood(a []string) string {
	size, _ := strconv.Atoi(a[1])
	count, _ := strconv.Atoi(a[2])
	c, err := net.Dial("udp", a[0])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	b := make([]byte, size)
	for range count {
		c.Write(b)
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

// pingOnce [dgram|raw] ADDRESS SIZE HOPS sends an echo request with that many bytes
// of data, and tells what comes back: ok if it is the same, an ICMP error with who
// sent it, or an errno. Half a second is waited.
func pingOnce(a []string) string {
	to := netip.MustParseAddr(a[1])
	size, _ := strconv.Atoi(a[2])
	hops, _ := strconv.Atoi(a[3])
	kind := map[string]int{"dgram": unix.SOCK_DGRAM, "raw": unix.SOCK_RAW}[a[0]]
	family, proto, level, recverr, ttl := unix.AF_INET, unix.IPPROTO_ICMP, unix.SOL_IP, unix.IP_RECVERR, unix.IP_TTL
	m := []byte{icmp4Echo, 0, 0, 0, 0x12, 0x34, 0, 7}
	var sa unix.Sockaddr
	if to.Is4() {
		sa = &unix.SockaddrInet4{Addr: to.As4()}
	} else {
		family, proto, level, recverr, ttl = unix.AF_INET6, unix.IPPROTO_ICMPV6, unix.SOL_IPV6, unix.IPV6_RECVERR, unix.IPV6_UNICAST_HOPS
		m[0] = icmp6Echo
		sa = &unix.SockaddrInet6{Addr: to.As16()}
	}
	body := make([]byte, size)
	io.ReadFull(noise(), body)
	m = append(m, body...)
	icmpChecksum(m, address{10: 0xff, 11: 0xff}, address{10: 0xff, 11: 0xff}) // of ICMPv6 the kernel does it
	fd, err := unix.Socket(family, kind, proto)
	if err != nil {
		return "socket: " + word(err)
	}
	defer unix.Close(fd)
	unix.SetsockoptInt(fd, level, recverr, 1)
	unix.SetsockoptInt(fd, level, ttl, hops)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 500_000})
	if err := unix.Connect(fd, sa); err != nil {
		return "connect: " + word(err)
	}
	if _, err := unix.Write(fd, m); err != nil {
		return "send: " + word(err)
	}
	for {
		b, oob := make([]byte, 70000), make([]byte, 512)
		n, err := unix.Read(fd, b)
		if err != nil {
			_, on, _, _, err2 := unix.Recvmsg(fd, b, oob, unix.MSG_ERRQUEUE|unix.MSG_DONTWAIT)
			answer := word(err)
			if err2 == nil {
				eachControl(oob[:on], func(level, typ int32, data []byte) {
					if e, ok := icmpErrorOf(level, typ, data); ok {
						answer = fmt.Sprintf("%d/%d from %v", e.kind, e.code, e.from.addr())
					}
				})
			}
			return answer
		}
		got := b[:n]
		if kind == unix.SOCK_RAW && to.Is4() {
			_, _, got, _ = parseIP(got)
		}
		if got[0] == icmp4Echo || got[0] == icmp6Echo { // of this namespace's own address
			continue
		}
		if got[0] != icmp4Reply && got[0] != icmp6Reply || got[7] != 7 || kind == unix.SOCK_RAW && (got[4] != 0x12 || got[5] != 0x34) {
			return fmt.Sprintf("message %d, %x", got[0], got[4:8])
		}
		if !slices.Equal(got[icmpLen:], body) {
			return fmt.Sprint("differs: ", len(got)-icmpLen, " bytes")
		}
		return "ok"
	}
}

// sysctl NAME VALUE... sets one of this namespace's.
func sysctl(a []string) string {
	return word(os.WriteFile("/proc/sys/"+a[0], []byte(strings.Join(a[1:], " ")), 0))
}
