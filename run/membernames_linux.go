package run

import (
	"net/netip"
	"slices"
	"strings"

	"skiff/netns/lease"
	"skiff/run/networks"
)

// memberNames are the names of those who are in a container's networks: of the
// container, its aliases, its host name and the first twelve digits of its id. It is a dns.Names.
//
// Each question looks at the leases: a look at thirty takes 0.2 ms, and no answer
// is about somebody who is gone.
type memberNames struct {
	dir networks.Dir
	in  []networks.Network
}

func (m *memberNames) each(f func(e lease.Entry)) {
	for _, n := range m.in {
		members, err := m.dir.Members(n)
		if err != nil {
			continue
		}
		for _, e := range members {
			f(e)
		}
	}
}

// Lookup finds all who are called so: several containers may share an alias.
func (m *memberNames) Lookup(name string) (addrs []netip.Addr, ok bool) {
	m.each(func(e lease.Entry) {
		if slices.ContainsFunc(namesOf(e.Info), func(s string) bool { return strings.EqualFold(s, name) }) {
			addrs = append(addrs, e.Addr)
		}
	})
	return addrs, len(addrs) > 0
}

func (m *memberNames) Reverse(a netip.Addr) (names []string, ok bool) {
	m.each(func(e lease.Entry) {
		if e.Addr == a {
			names = append(names, e.Info.Name)
		}
	})
	if len(names) > 0 {
		return names, true
	}
	// Nobody else knows anything of the network's addresses.
	return nil, slices.ContainsFunc(m.in, func(n networks.Network) bool { return n.Subnet.Contains(a) })
}

func namesOf(i lease.Info) []string {
	names := append([]string{i.Name, i.Hostname}, i.Aliases...)
	if len(i.ID) >= 12 {
		names = append(names, i.ID[:12])
	}
	return names
}
