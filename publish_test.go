package main

import (
	"fmt"
	"net"
	"os"
	"time"
)

// playUDP is the program udp, also within containers:
//
//	udp serve PORT            tells each datagram's sender who it is, and what it said
//	udp ask ADDRESS:PORT TEXT says TEXT until there is an answer, and prints that
func playUDP() {
	err := func() error {
		if len(os.Args) == 3 && os.Args[1] == "serve" {
			return serveUDP(":" + os.Args[2])
		}
		return askUDP(os.Args[2], os.Args[3])
	}()
	fmt.Fprintln(os.Stderr, "udp:", err)
	os.Exit(1)
}

func serveUDP(at string) error {
	u, err := net.ListenPacket("udp4", at)
	if err != nil {
		return err
	}
	b := make([]byte, 1500)
	for {
		n, from, err := u.ReadFrom(b)
		if err != nil {
			return err
		}
		u.WriteTo(fmt.Appendf(nil, "%s: %s", from, b[:n]), from)
	}
}

func askUDP(at, text string) error {
	c, err := net.Dial("udp", at)
	if err != nil {
		return err
	}
	b := make([]byte, 1500)
	for range 50 {
		c.Write([]byte(text))
		c.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if n, err := c.Read(b); err == nil {
			fmt.Printf("%s\n", b[:n])
			os.Exit(0)
		}
		time.Sleep(20 * time.Millisecond)
	}
	return fmt.Errorf("%s does not answer", at)
}
