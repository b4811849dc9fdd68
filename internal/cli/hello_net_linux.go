package cli

import (
	"net"
	"strings"
)

// addresses lists the interfaces and their addresses.
func addresses() string {
	ifaces, err := net.Interfaces()
	if err != nil {
		return err.Error()
	}
	var parts []string
	for _, i := range ifaces {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if i.Flags&net.FlagLoopback == 0 {
				parts = append(parts, a.String()+" ("+i.Name+")")
			}
		}
	}
	if len(parts) == 0 {
		return "none but loopback"
	}
	return strings.Join(parts, ", ")
}
