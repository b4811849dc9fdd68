package run

import (
	"net/netip"

	"skiff/netns/ports"
	"skiff/rootfs"
)

// Options are what the user asked for on the command line of `skiff run`,
// checked for their form but not yet held against an image.
type Options struct {
	Image   string   // the reference as typed
	Command []string // replaces the image's Cmd
	Name    string   // "" for a name made from the id
	Labels  map[string]string
	CIDFile string
	Remove  bool

	Interactive bool
	Terminal    bool
	Console     Size
	Init        bool
	Entrypoint  *[]string // nil: the image's; empty: none
	Env         []string  // K=V, after the image's
	Workdir     string
	User        string   // user[:group], names or numbers
	Groups      []string // --group-add
	Hostname    string
	Domain      string
	StopSignal  string
	Umask       uint32

	Network    Network
	Relay      *RelayOptions // not nil: root's default network is the relay, too
	AddHosts   []Host
	DNS        []string
	DNSSearch  []string
	DNSOptions []string

	Publish          []ports.Port
	PublishAll       bool         // and what the image exposes, at ports of the kernel's choice
	Expose           []string     // as in the image's config: 80/tcp, 8000-8010/udp
	PublishAddresses []netip.Addr // for ports without an address; nil: loopback

	Mounts   []rootfs.Mount // bind and tmpfs
	ReadOnly bool
	ShmSize  int64

	CapAdd, CapDrop []string
	Privileged      bool
	NoNewPrivileges bool
	Seccomp         string   // a profile's file, "unconfined", or "" for the default
	Mask, Unmask    []string // absolute paths to hide, or not to; Unmask "ALL" and patterns of path.Match
	HostUsers       bool     // --userns=host
	NoFakeIDs       bool     // in single-id mode, let chown and setuid fail
	Rlimits         []Rlimit

	Trace bool
}

// A Host is a line of /etc/hosts. Address "host-gateway" is the host's.
type Host struct{ Name, Address string }
