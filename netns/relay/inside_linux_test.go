package relay

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endings are how connections to port 23 ended.
var endings = make(chan error, 16)

// serveInside is what answers in a container whose ports are published: as outside does, and
//
//	23: echoes, and tells ended how it ended     24 tcp and udp: says who the client is
func serveInside([]string) string {
	serve := map[int]func(*net.TCPConn){
		7: func(c *net.TCPConn) { io.Copy(c, struct{ io.Reader }{c}) },
		9: func(c *net.TCPConn) {
			h := sha256.New()
			io.Copy(h, c)
			c.Write([]byte(hex.EncodeToString(h.Sum(nil))))
		},
		21: func(c *net.TCPConn) {
			c.Read(make([]byte, 1))
			c.SetLinger(0)
		},
		22: func(c *net.TCPConn) {
			c.CloseWrite()
			io.Copy(io.Discard, c)
		},
		23: func(c *net.TCPConn) {
			_, err := io.Copy(c, struct{ io.Reader }{c})
			endings <- err
		},
		24: func(c *net.TCPConn) {
			fmt.Fprint(c, c.RemoteAddr())
			c.Read(make([]byte, 1))
		},
	}
	for port, f := range serve {
		if err := serveTCP(fmt.Sprint(":", port), f); err != nil {
			return word(err)
		}
	}
	if err := serveUDP(":7", nil); err != nil {
		return word(err)
	}
	u, err := net.ListenPacket("udp4", ":24")
	if err != nil {
		return word(err)
	}
	go func() {
		b := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(b)
			if err != nil {
				return
			}
			u.WriteTo([]byte(from.String()), from)
		}
	}()
	return "ok"
}

// ended is how the next connection to port 23 ends.
func ended([]string) string {
	select {
	case err := <-endings:
		return word(err)
	case <-time.After(5 * time.Second):
		return "timeout"
	}
}

// from dials from an address of this machine. The port may be in use, as long as the
// connection is another.
func from(proto, local, to string) (net.Conn, error) {
	d := net.Dialer{Timeout: 5 * time.Second, Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
	}}
	var err error
	if proto == "tcp" {
		d.LocalAddr, err = net.ResolveTCPAddr(proto, local)
	} else {
		d.LocalAddr, err = net.ResolveUDPAddr(proto, local)
	}
	if err != nil {
		return nil, err
	}
	return d.Dial(proto, to)
}

// whoami tcp|udp LOCAL ADDRESS asks port 24 who we are.
func whoami(a []string) string {
	c, err := from(a[0], a[1], a[2])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if a[0] == "udp" {
		c.Write([]byte{1})
	}
	var b [100]byte
	n, err := c.Read(b[:])
	if err != nil {
		return word(err)
	}
	return string(b[:n])
}

// twice LOCAL ADDRESS ADDRESS has two connections to port 24 at once, from the same port.
func twice(a []string) string {
	for _, to := range a[1:] {
		c, err := from("tcp", a[0], to)
		if err != nil {
			return word(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(make([]byte, 100)); n == 0 {
			return to + ": " + word(err)
		}
	}
	return "ok"
}

// crowd ADDRESS N sends from N sockets at once, each of which wants its own word back.
func crowd(a []string) string {
	n, _ := strconv.Atoi(a[1])
	answers := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			answers[i] = func() string {
				c, err := net.Dial("udp4", a[0])
				if err != nil {
					return word(err)
				}
				defer c.Close()
				c.SetDeadline(time.Now().Add(5 * time.Second))
				fmt.Fprint(c, i)
				b := make([]byte, 100)
				got, err := c.Read(b)
				if err != nil || string(b[:got]) != fmt.Sprint(i) {
					return fmt.Sprintf("%d got %q, %s", i, b[:got], word(err))
				}
				return "ok"
			}()
		})
	}
	wg.Wait()
	for _, answer := range answers {
		if answer != "ok" {
			return answer
		}
	}
	return "ok"
}

// udp6 ADDRESS sends a datagram over IPv6 and wants it back from there.
func udp6(a []string) string {
	c, err := net.Dial("udp6", a[0])
	if err != nil {
		return word(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	c.Write([]byte("x"))
	_, err = c.Read(make([]byte, 1))
	return word(err)
}
