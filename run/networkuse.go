package run

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
)

// A NetworkUse is a named network that a container shall be in.
type NetworkUse struct {
	Name      string
	IP, IP6   netip.Addr // not valid: the next free ones
	MAC       net.HardwareAddr
	Aliases   []string
	Interface string // "" for eth0, eth1 and so on, in order
}

// SetAddress sets the address of its family.
func (u *NetworkUse) SetAddress(text string) error {
	a, err := netip.ParseAddr(text)
	switch {
	case err != nil || a.Zone() != "":
		return fmt.Errorf("%q is no address", text)
	case a.Is4():
		u.IP = a
	default:
		u.IP6 = a
	}
	return nil
}

// Check looks at what can be judged without the network.
func (u *NetworkUse) Check() error {
	for _, a := range u.Aliases {
		if !validHostLabel(a) {
			return fmt.Errorf("%q is no name of a host", a)
		}
	}
	if u.Interface != "" && !validInterface(u.Interface) {
		return fmt.Errorf("%q is no name of an interface", u.Interface)
	}
	if u.IP6.IsValid() {
		return errors.New("networks have no IPv6 yet")
	}
	return nil
}

// validHostLabel is hostname(7): letters, digits, hyphens and dots; underscores
// are common.
func validHostLabel(s string) bool {
	if s == "" || len(s) > 253 || s[0] == '-' || s[0] == '.' {
		return false
	}
	for _, c := range []byte(s) {
		if !alphanumeric(c) && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}

// validInterface is what the kernel takes (dev_valid_name) and people can type.
func validInterface(s string) bool {
	if len(s) > 15 || s == "lo" {
		return false
	}
	for _, c := range []byte(s) {
		if !alphanumeric(c) && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return alphanumeric(s[0])
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// modes are words that no network may be called.
var modes = []string{"default", "bridge", "private", "none", "host", "container", "ns", "pasta", "slirp4netns"}

// ValidNetworkName says whether a network may have a name: a letter or digit, and then
// letters, digits, _, . and -, as docker has it.
func ValidNetworkName(s string) bool {
	if s == "" || len(s) > 128 || !alphanumeric(s[0]) || slices.Contains(modes, s) {
		return false
	}
	for _, c := range []byte(s) {
		if !alphanumeric(c) && c != '-' && c != '.' && c != '_' {
			return false
		}
	}
	return true
}
