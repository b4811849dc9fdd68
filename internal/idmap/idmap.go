// Package idmap decides which user and group ids a container gets, and writes
// them.
//
// Limits: it trusts the caller to hand it the pid of a task that the caller
// made in a new user namespace and that waits for its map.
package idmap

import (
	"fmt"
	"strings"
)

// A Range maps Size ids from Container inside the user namespace to Host in
// the caller's. Source: user_namespaces(7), "User and group ID mappings".
type Range struct {
	Container, Host, Size uint32
}

// A Kind is how a Map comes to be written.
type Kind int

const (
	Host        Kind = iota // no user namespace: ids are the host's own
	Root                    // a range that root writes itself
	Subordinate             // subordinate ids, written by newuidmap and newgidmap
	Single                  // the caller's own id alone, as 0
)

var kindNames = [...]string{"host", "root", "subordinate", "single"}

func (k Kind) String() string { return kindNames[k] }

// A Map is the id map of one container. UIDs and GIDs are nil for Host.
type Map struct {
	Kind       Kind
	UIDs, GIDs []Range
}

// HostUID returns the host's id of a container's user id, and false where the
// map has none.
func (m Map) HostUID(id uint32) (uint32, bool) { return m.host(m.UIDs, id) }

// HostGID is HostUID for groups.
func (m Map) HostGID(id uint32) (uint32, bool) { return m.host(m.GIDs, id) }

func (m Map) host(ranges []Range, id uint32) (uint32, bool) {
	if m.Kind == Host {
		return id, true
	}
	for _, r := range ranges {
		if id >= r.Container && id-r.Container < r.Size {
			return r.Host + (id - r.Container), true
		}
	}
	return 0, false
}

// HasUID reports whether the container has a user id.
func (m Map) HasUID(id uint32) bool { _, ok := m.HostUID(id); return ok }

// HasGID is HasUID for groups.
func (m Map) HasGID(id uint32) bool { _, ok := m.HostGID(id); return ok }

// String is for `skiff explain` and messages: "0:100000:65536".
func (m Map) String() string {
	if m.Kind == Host {
		return "host"
	}
	return lines(m.UIDs, ":", ",")
}

// lines formats ranges with a separator inside and between them, as
// /proc/PID/uid_map (" ", "\n") and people (":", ",") want them.
func lines(ranges []Range, inside, between string) string {
	var b strings.Builder
	for i, r := range ranges {
		if i > 0 {
			b.WriteString(between)
		}
		fmt.Fprintf(&b, "%d%s%d%s%d", r.Container, inside, r.Host, inside, r.Size)
	}
	return b.String()
}
