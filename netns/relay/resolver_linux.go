package relay

import (
	"net/netip"
	"strconv"
	"strings"

	"skiff/internal/smallfile"

	"golang.org/x/sys/unix"
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
	path    string
	checked int64 // second at which the file was last looked at
	mtime   unix.Timespec
	servers []nameserver
}

// at returns the nameservers; now is the loop's second. The file is looked at
// once a second at most. As resolv.conf(5) has it, no nameserver means the one
// on this machine.
func (r *resolver) at(now int64) []nameserver {
	if r.servers != nil && r.checked == now {
		return r.servers
	}
	r.checked = now
	var st unix.Stat_t
	if err := unix.Stat(r.path, &st); err == nil && st.Mtim == r.mtime && r.servers != nil {
		return r.servers
	}
	r.mtime = st.Mtim
	text, _ := smallfile.Read(r.path)
	if r.servers = nameservers(string(text)); len(r.servers) == 0 {
		r.servers = []nameserver{{addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), 53)}}
	}
	return r.servers
}

// maxServers is MAXNS of resolv.conf(5).
const maxServers = 3

// nameservers reads resolv.conf(5). Lines that make no sense are passed over.
func nameservers(text string) []nameserver {
	var all []nameserver
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 || f[0] != "nameserver" || len(all) == maxServers {
			continue
		}
		a, err := netip.ParseAddr(f[1])
		if err != nil {
			continue
		}
		s := nameserver{addr: netip.AddrPortFrom(a.WithZone("").Unmap(), 53)}
		if zone := a.Zone(); zone != "" {
			s.zone = interfaceIndex(zone)
		}
		all = append(all, s)
	}
	return all
}

// interfaceIndex is the index of an interface of the host, given by name or
// number; 0 if there is none.
func interfaceIndex(zone string) uint32 {
	if n, err := strconv.ParseUint(zone, 10, 32); err == nil {
		return uint32(n)
	}
	if strings.ContainsAny(zone, "/.") {
		return 0
	}
	text, _ := smallfile.Read("/sys/class/net/" + zone + "/ifindex")
	n, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	return uint32(n)
}
