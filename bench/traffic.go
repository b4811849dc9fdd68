package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// The bench program executes itself for both ends of what net measures:
//
//	bench traffic-server           serves until its stdin is closed
//	bench traffic-client ADDRESS   reads "KIND MILLISECONDS STREAMS", answers a number
//
// Both use blocking system calls on threads of their own, so that the Go
// scheduler has as little part in it as can be.
//
// The first byte of a connection says what it is for: 'u' the server reads,
// 'd' it writes, anything else is echoed. So does that of a datagram: 'f' is
// counted, 'q' answered with the bytes so far, anything else is echoed.
//
// trafficEnv keeps the scheduler's signals out of system calls, and gives those
// that wait a processor of its own to return to.
const (
	trafficServer = "traffic-server"
	trafficClient = "traffic-client"
	trafficPort   = 5201
	chunk         = 128 << 10 // of a stream, as iperf3 has it
	message       = 64        // of a request and of an answer
)

var trafficEnv = []string{"GOMAXPROCS=16", "GODEBUG=asyncpreemptoff=1"}

// trafficMain plays one of the ends, if asked for it, and does not return then.
func trafficMain() {
	if len(os.Args) < 2 {
		return
	}
	var err error
	switch os.Args[1] {
	case trafficServer:
		err = serveTraffic()
	case trafficClient:
		var to netip.AddrPort
		if to, err = netip.ParseAddrPort(os.Args[2]); err == nil {
			err = askTraffic(to)
		}
	default:
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serveTraffic has threads ready, so that nothing is started for a connection.
func serveTraffic() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: trafficPort}); err != nil {
		return err
	}
	if err := unix.Listen(fd, 1024); err != nil {
		return err
	}
	for range 24 {
		go func() {
			runtime.LockOSThread()
			for {
				if c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC); err == nil {
					serveOne(c)
				}
			}
		}()
	}
	if err := serveDatagrams(); err != nil {
		return err
	}
	fmt.Println("ready")
	bufio.NewScanner(os.Stdin).Scan()
	return nil
}

// serveDatagrams serves one client at a time.
func serveDatagrams() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
	if err := unix.Bind(fd, &unix.SockaddrInet4{Port: trafficPort}); err != nil {
		return err
	}
	go func() {
		runtime.LockOSThread()
		b := make([]byte, 64<<10)
		for count := uint64(0); ; {
			n, from, err := unix.Recvfrom(fd, b, 0)
			if err != nil || n == 0 {
				continue
			}
			switch b[0] {
			case 'f':
				count += uint64(n)
			case 'q':
				unix.Sendto(fd, binary.BigEndian.AppendUint64(nil, count), 0, from)
				count = 0
			default:
				unix.Sendto(fd, b[:n], 0, from)
			}
		}
	}()
	return nil
}

func serveOne(fd int) {
	defer unix.Close(fd)
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	b := make([]byte, chunk)
	n, err := unix.Read(fd, b[:message])
	if err != nil || n == 0 {
		return
	}
	switch b[0] {
	case 'u':
		for err == nil && n > 0 {
			n, err = unix.Read(fd, b)
		}
	case 'd':
		for err == nil {
			_, err = unix.SendmsgN(fd, b, nil, nil, unix.MSG_NOSIGNAL)
		}
	default:
		for err == nil && n > 0 {
			unix.SendmsgN(fd, b[:n], nil, nil, unix.MSG_NOSIGNAL)
			n, err = unix.Read(fd, b[:message])
		}
	}
}

// askTraffic measures what it is asked for, until stdin ends.
func askTraffic(to netip.AddrPort) error {
	fmt.Println("ready")
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var kind string
		var ms, streams int
		if _, err := fmt.Sscan(in.Text(), &kind, &ms, &streams); err != nil {
			return err
		}
		if sum, err := measureStreams(kind, to, time.Duration(ms)*time.Millisecond, streams); err != nil {
			fmt.Printf("failed: %v\n", err)
		} else {
			fmt.Printf("%g\n", sum)
		}
	}
	return nil
}

// measureStreams is the sum of what streams measure at the same time, each on a
// thread.
func measureStreams(kind string, to netip.AddrPort, d time.Duration, streams int) (sum float64, err error) {
	type result struct {
		rate float64
		err  error
	}
	results := make(chan result, streams)
	for range streams {
		go func() {
			runtime.LockOSThread()
			rate, err := measureTraffic(kind, to, d)
			results <- result{rate, err}
		}()
	}
	for range streams {
		r := <-results
		sum, err = sum+r.rate, errors.Join(err, r.err)
	}
	return sum, err
}

func dialTraffic(to netip.AddrPort) (int, error) {
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

// measureDatagrams is a rate per second: requests of urr, bits of flood, which are
// those that arrive of datagrams sent as fast as they can be.
func measureDatagrams(kind string, to netip.AddrPort, d time.Duration) (float64, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 300_000})
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		return 0, err
	}
	ask := func() (count uint64, err error) {
		b := make([]byte, 8)
		for range 10 {
			if _, err = unix.Write(fd, []byte("q")); err == nil {
				if _, err = unix.Read(fd, b); err == nil {
					return binary.BigEndian.Uint64(b), nil
				}
			}
		}
		return 0, err
	}
	if _, err := ask(); err != nil {
		return 0, err
	}
	b := make([]byte, datagram)
	if kind == "flood" {
		b[0] = 'f'
		begin := time.Now()
		for time.Since(begin) < d {
			unix.Write(fd, b)
		}
		passed := time.Since(begin)
		count, err := ask()
		return float64(count) * 8 / passed.Seconds(), err
	}
	begin, count := time.Now(), 0.0
	for time.Since(begin) < d {
		if err := exchange(fd, b[:message]); err != nil {
			return 0, err // lost, which nobody should do
		}
		count++
	}
	return count / time.Since(begin).Seconds(), nil
}

// datagram is the size of those of a flood, which fit into an Ethernet frame.
const datagram = 1400

// measureTraffic is a rate per second: bits of up and down, requests of rr,
// connections of crr.
func measureTraffic(kind string, to netip.AddrPort, d time.Duration) (float64, error) {
	if kind == "urr" || kind == "flood" {
		return measureDatagrams(kind, to, d)
	}
	b := make([]byte, chunk)
	if kind == "crr" {
		begin, count := time.Now(), 0.0
		for time.Since(begin) < d {
			fd, err := dialTraffic(to)
			if err != nil {
				return 0, err
			}
			err = exchange(fd, b[:message])
			unix.Close(fd)
			if err != nil {
				return 0, err
			}
			count++
		}
		return count / time.Since(begin).Seconds(), nil
	}
	fd, err := dialTraffic(to)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if kind != "rr" {
		if _, err := unix.Write(fd, []byte(kind[:1])); err != nil {
			return 0, err
		}
	}
	// Neither the handshake nor the slow start is counted.
	begin, count, warm := time.Now(), 0.0, false
	for {
		now := time.Now()
		if passed := now.Sub(begin); passed > d {
			return count / passed.Seconds(), nil
		} else if !warm && passed > d/5 {
			begin, count, warm = now, 0, true
		}
		n := 1
		switch kind {
		case "up":
			n, err = unix.Write(fd, b)
			count += float64(n) * 8
		case "down":
			n, err = unix.Read(fd, b)
			count += float64(n) * 8
		default:
			err = exchange(fd, b[:message])
			count++
		}
		if err == nil && n == 0 {
			err = errors.New("closed")
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %w", kind, err)
		}
	}
}

func exchange(fd int, b []byte) error {
	if _, err := unix.Write(fd, b); err != nil {
		return err
	}
	n, err := unix.Read(fd, b)
	if err == nil && n != len(b) {
		err = fmt.Errorf("answer of %d bytes", n)
	}
	return err
}
