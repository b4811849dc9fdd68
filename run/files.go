package run

import (
	"fmt"
	"net/netip"
	"strings"

	"skiff/internal/smallfile"
	"skiff/rootfs"
)

// A Link is what the container's network looks like from inside.
type Link struct {
	Address netip.Addr // of eth0; not valid without one
	Gateway netip.Addr
	DNS     []string // nameservers to use unless the user named some
}

// etcFiles are the files that skiff provides in /etc.
func etcFiles(o *Options, hostname string, link Link, join *Join) []rootfs.File {
	if join != nil && join.Files != nil {
		return []rootfs.File{
			{Path: "/etc/hostname", Content: hostname + "\n"},
			{Path: "/etc/hosts", Content: join.Files.Hosts},
			{Path: "/etc/resolv.conf", Content: join.Files.Resolv},
		}
	}
	return []rootfs.File{
		{Path: "/etc/hostname", Content: hostname + "\n"},
		{Path: "/etc/hosts", Content: hostsFile(o, hostname, link)},
		{Path: "/etc/resolv.conf", Content: resolvFile(o, link)},
	}
}

// hostsFile is hosts(5): localhost, what the user added, and the container's
// own name at its own address.
func hostsFile(o *Options, hostname string, link Link) string {
	var b strings.Builder
	if o.Network == NetworkHost {
		// The host's names are true here too.
		text, _ := smallfile.Read("/etc/hosts")
		b.Write(text)
		if n := len(text); n > 0 && text[n-1] != '\n' {
			b.WriteByte('\n')
		}
	} else {
		b.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
	}
	for _, h := range o.AddHosts {
		address := h.Address
		if address == "host-gateway" {
			address = "127.0.0.1" // --network host: the host is here
			if link.Gateway.IsValid() {
				address = link.Gateway.String()
			}
		}
		fmt.Fprintf(&b, "%s\t%s\n", address, h.Name)
	}
	switch {
	case o.Network == NetworkHost:
	case link.Address.IsValid():
		fmt.Fprintf(&b, "%s\t%s\n", link.Address, hostname)
		fmt.Fprintf(&b, "%s\thost.docker.internal host.containers.internal\n", link.Gateway)
	default:
		fmt.Fprintf(&b, "127.0.1.1\t%s\n", hostname)
	}
	return b.String()
}

// resolvFile is resolv.conf(5): what the user named, else the network's
// nameservers with the host's search list.
func resolvFile(o *Options, link Link) string {
	text, _ := smallfile.Read("/etc/resolv.conf")
	host := o.Network == NetworkHost || o.Network == NetworkJoined // the host's nameservers are all that is known
	if host && o.DNS == nil && o.DNSSearch == nil && o.DNSOptions == nil {
		return string(text)
	}
	servers, search, options := o.DNS, o.DNSSearch, o.DNSOptions
	if servers == nil {
		servers = link.DNS
	}
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		switch {
		case f[0] == "search" && o.DNSSearch == nil:
			search = f[1:]
		case f[0] == "options" && o.DNSOptions == nil:
			options = f[1:]
		case f[0] == "nameserver" && o.DNS == nil && host:
			servers = append(servers, f[1])
		}
	}
	if o.Network == NetworkNone && o.DNS == nil {
		return ""
	}
	var b strings.Builder
	if len(search) > 0 && !(len(search) == 1 && search[0] == ".") {
		b.WriteString("search " + strings.Join(search, " ") + "\n")
	}
	for _, s := range servers {
		b.WriteString("nameserver " + s + "\n")
	}
	if len(options) > 0 {
		b.WriteString("options " + strings.Join(options, " ") + "\n")
	}
	return b.String()
}
