package main

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
)

// playNameserver is the program nameserver of scripts: it answers each query at the
// given addresses, over both transports, with 198.51.100.7. It says so once it does.
func playNameserver() {
	for _, at := range os.Args[1:] {
		u, err := net.ListenPacket("udp", at)
		if err == nil {
			var l net.Listener
			if l, err = net.Listen("tcp", at); err == nil {
				go answerDatagrams(u)
				go answerConns(l)
				continue
			}
		}
		fmt.Fprintln(os.Stderr, "nameserver:", err)
		os.Exit(1)
	}
	fmt.Println("answering")
	select {}
}

func answerDatagrams(u net.PacketConn) {
	b := make([]byte, 4096)
	for {
		n, from, err := u.ReadFrom(b)
		if err != nil {
			return
		}
		if a := answerTo(b[:n]); a != nil {
			u.WriteTo(a, from)
		}
	}
}

func answerConns(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			for {
				var size [2]byte
				if _, err := io.ReadFull(c, size[:]); err != nil {
					return
				}
				q := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := io.ReadFull(c, q); err != nil {
					return
				}
				a := answerTo(q)
				c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(a))), a...))
			}
		}()
	}
}

// answerTo has an address for any name, and says of other types that there are none.
func answerTo(q []byte) []byte {
	end := 12
	for end < len(q) && q[end] != 0 {
		end += 1 + int(q[end])
	}
	if end+5 > len(q) {
		return nil
	}
	a := append([]byte(nil), q[:end+5]...)
	a[2] |= 0x80
	copy(a[6:12], make([]byte, 6))
	if kind := binary.BigEndian.Uint16(q[end+1:]); kind == 1 {
		a[7] = 1
		a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 198, 51, 100, 7)
	}
	return a
}
