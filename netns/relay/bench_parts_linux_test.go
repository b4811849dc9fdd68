package relay

import (
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// What is measured is served and asked with blocking system calls, so that the
// Go scheduler has as little part in it as can be. The first byte says what a
// connection is for: 'u' the server reads, 'd' it writes, 'r' it echoes.
const benchPort = 5201

func serveBench() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: benchPort}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 1024); err != nil {
		return err
	}
	for range 24 { // threads, so that nothing is started for a connection
		go func() {
			runtime.LockOSThread()
			for {
				c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
				if err == nil {
					serveOne(c)
				}
			}
		}()
	}
	return nil
}

func serveOne(fd int) {
	defer unix.Close(fd)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	b := make([]byte, 64)
	n, err := unix.Read(fd, b)
	if err != nil || n == 0 {
		return
	}
	switch b[0] {
	case 'u':
		b = make([]byte, 128<<10)
		for err == nil && n > 0 {
			n, err = unix.Read(fd, b)
		}
	case 'd':
		b = make([]byte, 128<<10)
		for err == nil {
			_, err = unix.Write(fd, b)
		}
	default:
		for err == nil && n > 0 {
			unix.Write(fd, b[:n])
			n, err = unix.Read(fd, b)
		}
	}
}

func benchDial(to netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// bench WHAT ADDRESS MILLISECONDS STREAMS returns a rate: bits per second of
// up and down, round trips per second of rr, connections per second of crr.
func bench(a []string) string {
	to := netip.MustParseAddrPort(a[1])
	ms, _ := strconv.Atoi(a[2])
	streams, _ := strconv.Atoi(a[3])
	fewTimeWait()
	total := make(chan float64, streams)
	for range streams {
		go func() {
			runtime.LockOSThread()
			n, err := measure(a[0], to, time.Duration(ms)*time.Millisecond)
			if err != nil {
				fmt.Println(word(err))
			}
			total <- n
		}()
	}
	sum := 0.0
	for range streams {
		sum += <-total
	}
	return fmt.Sprintf("%.0f", sum)
}

// fewTimeWait keeps the closed connections of one measurement from slowing the
// next one's search for a port.
func fewTimeWait() {
	os.WriteFile("/proc/sys/net/ipv4/tcp_max_tw_buckets", []byte("16"), 0)
}

func measure(what string, to netip.AddrPort, d time.Duration) (float64, error) {
	begin := time.Now()
	count := 0.0
	if what == "crr" {
		b := make([]byte, 64)
		for time.Since(begin) < d {
			fd, err := benchDial(to)
			if err != nil {
				return 0, err
			}
			unix.Write(fd, b)
			n, err := unix.Read(fd, b)
			unix.Close(fd)
			if err != nil || n != len(b) {
				return 0, fmt.Errorf("short answer: %d %w", n, err)
			}
			count++
		}
		return count / time.Since(begin).Seconds(), nil
	}
	fd, err := benchDial(to)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	// Neither the handshake nor the slow start is counted.
	warm := begin.Add(d / 5)
	b := make([]byte, 128<<10)
	if what == "rr" {
		b = b[:64]
	} else {
		unix.Write(fd, []byte(what[:1]))
	}
	for started := false; ; {
		now := time.Now()
		if !started && now.After(warm) {
			started, begin, count = true, now, 0
		}
		if now.Sub(begin) > d {
			break
		}
		n := 0
		switch what {
		case "up":
			n, err = unix.Write(fd, b)
			count += float64(n) * 8
		case "down":
			n, err = unix.Read(fd, b)
			count += float64(n) * 8
		case "rr":
			if _, err = unix.Write(fd, b); err == nil {
				n, err = unix.Read(fd, b)
			}
			count++
		}
		if err != nil || n == 0 {
			return 0, fmt.Errorf("%s: %w", what, err)
		}
	}
	return count / time.Since(begin).Seconds(), nil
}
