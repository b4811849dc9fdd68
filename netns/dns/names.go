package dns

import "net/netip"

// Names are names that a Forwarder answers by itself, before any server is
// asked. Both methods are called for each query, from any goroutine.
type Names interface {
	// Lookup returns the addresses of a name, of both families. name is in lower
	// case, without a dot at its end. ok is false for names of others; a name
	// that is known and has no address is one without records.
	Lookup(name string) (addrs []netip.Addr, ok bool)

	// Reverse returns the names of an address, the preferred one first. ok is
	// false for addresses of others.
	Reverse(a netip.Addr) (names []string, ok bool)
}

// Several are Names of which the first that knows one answers.
type Several []Names

func (s Several) Lookup(name string) ([]netip.Addr, bool) {
	for _, n := range s {
		if addrs, ok := n.Lookup(name); ok {
			return addrs, true
		}
	}
	return nil, false
}

func (s Several) Reverse(a netip.Addr) ([]string, bool) {
	for _, n := range s {
		if names, ok := n.Reverse(a); ok {
			return names, true
		}
	}
	return nil, false
}

// A Table is Names that do not change, in lower case.
type Table map[string][]netip.Addr

func (t Table) Lookup(name string) ([]netip.Addr, bool) {
	addrs, ok := t[name]
	return addrs, ok
}

// Reverse knows nothing: what a table holds are further names of something that
// has one.
func (Table) Reverse(netip.Addr) ([]string, bool) { return nil, false }
