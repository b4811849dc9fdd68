package run

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"skiff/internal/smallfile"
	"skiff/netns/dns"
	"skiff/rootfs"
)

// A Link is what the container's network looks like from inside.
type Link struct {
	Address netip.Addr // of eth0; not valid without one
	Gateway netip.Addr
	DNS     []string // nameservers to use unless the user named some
	Names   bool     // they answer other containers' names
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
		fmt.Fprintf(&b, "%s\t%s\n", link.Address, ownNames(hostname))
		var names []string
		for _, name := range hostNames {
			// All lines of a name count with some resolvers, not the first alone.
			if !slices.ContainsFunc(o.AddHosts, func(h Host) bool { return strings.EqualFold(h.Name, name) }) {
				names = append(names, name)
			}
		}
		if names != nil {
			fmt.Fprintf(&b, "%s\t%s\n", link.Gateway, strings.Join(names, " "))
		}
	default:
		fmt.Fprintf(&b, "127.0.1.1\t%s\n", ownNames(hostname))
	}
	return b.String()
}

// hostNames are docker's and podman's names for the host.
var hostNames = [...]string{"host.docker.internal", "host.containers.internal"}

// wantsHost reports whether the user asks for a way to the host by naming it.
func (o *Options) wantsHost() bool {
	return slices.ContainsFunc(o.AddHosts, func(h Host) bool { return h.Address == "host-gateway" })
}

// ownNames are the host name and, of one with a domain, its first label.
func ownNames(hostname string) string {
	if first, _, ok := strings.Cut(hostname, "."); ok && first != "" {
		return hostname + " " + first
	}
	return hostname
}

// resolvFile is resolv.conf(5): what the user named, else the network's
// nameservers with the host's search list and options. Who has the host's
// network, and wants nothing else, gets the host's file as it is.
func resolvFile(o *Options, link Link) string {
	own := o.DNS != nil || o.DNSSearch != nil || o.DNSOptions != nil
	switch {
	case o.hostNames() && !own:
		text, _ := smallfile.Read(resolvConf)
		return string(text)
	case o.Network == NetworkNone && o.DNS == nil:
		return ""
	}
	return resolvText(o, link, dns.Open(resolvConf).Config())
}

// hostNames says whether names are asked of the host's nameservers, as the host does:
// of a network that was joined by its path nothing else is known.
func (o *Options) hostNames() bool { return o.Network == NetworkHost || o.Network == NetworkJoined }

const resolvConf = "/etc/resolv.conf"

// resolvText is the file where host is what the host's own says.
func resolvText(o *Options, link Link, host dns.Config) string {
	c := dns.Config{Search: o.DNSSearch, Options: o.DNSOptions}
	if c.Search == nil {
		c.Search = host.Search
	}
	if c.Options == nil {
		c.Options = host.Options
	}
	if slices.Contains(c.Search, ".") {
		c.Search = nil // docker's and podman's word for none
	}
	if link.Names && !slices.ContainsFunc(c.Options, func(s string) bool { return strings.HasPrefix(s, "ndots:") }) {
		// Containers' names have no dot: they are asked for before the search list is gone through.
		c.Options = append(slices.Clip(c.Options), "ndots:0")
	}
	servers := o.DNS
	switch {
	case servers != nil:
	case o.hostNames():
		for _, a := range host.Servers {
			servers = append(servers, a.String())
		}
	default:
		servers = link.DNS
	}
	return c.Text(servers)
}
