package relay

import (
	"net"
	"net/netip"
	"strconv"

	"skiff/netns/dns"
)

// A nameserver is one of the host's, as the host itself reaches it. That of a
// local stub, 127.0.0.53, is as good as any: it is dialled from the host's
// network namespace.
type nameserver struct {
	addr netip.AddrPort
	zone uint32 // interface index of a link-local IPv6 address
}

// A resolver knows the host's nameservers and notices when they change.
type resolver struct {
	file    *dns.File
	checked int64 // second at which the file was last looked at
	servers []nameserver
}

// newResolver reads nothing yet.
func newResolver(path string) resolver {
	if path == "" {
		path = "/etc/resolv.conf"
	}
	return resolver{file: dns.Open(path)}
}

// at returns the nameservers, of which there is one at least; now is the loop's
// second. The file is looked at once a second at most.
func (r *resolver) at(now int64) []nameserver {
	if r.servers == nil || r.checked != now {
		r.checked = now
		r.servers = nameservers(r.file.Config().Servers)
	}
	return r.servers
}

func nameservers(servers []netip.Addr) []nameserver {
	var all []nameserver
	for _, a := range servers {
		s := nameserver{addr: netip.AddrPortFrom(a.WithZone("").Unmap(), 53)}
		if zone := a.Zone(); zone != "" {
			s.zone = interfaceIndex(zone)
		}
		all = append(all, s)
	}
	return all
}

// interfaceIndex is the index of an interface of the host, given by name or
// number; 0 if there is none. The kernel is asked, not sysfs, which shows the
// network namespace that it was mounted in.
func interfaceIndex(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	link, err := net.InterfaceByName(zone)
	if err != nil {
		return 0
	}
	return uint32(link.Index)
}
