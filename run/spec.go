// Package run is a container's life: a specification becomes a plan, the plan
// a process, and the process a status.
//
// Limits: it runs containers in the foreground, as the only parent of their
// init. It trusts its caller to have checked names and sizes.
package run

import (
	"skiff/internal/idmap"
	"skiff/rootfs"
	"skiff/run/caps"
)

// A Spec is what a container shall be, in the words of runtime-spec's
// config.json. The plan follows from it and from nothing else.
type Spec struct {
	ID       string // 64 hexadecimal digits
	Hostname string
	Domain   string // NIS domain name, "" for the kernel's

	Args     []string // Args[0] is looked for in Env's PATH unless it has a slash
	Env      []string // K=V
	Cwd      string   // absolute; made if missing
	User     User
	Terminal bool
	Console  Size   // the terminal's first size; zero leaves the kernel's
	Init     string `json:"-"` // the program to run Args under, as package init has it, or ""

	Root rootfs.Root
	Namespaces

	Capabilities    caps.Set
	NoNewPrivileges bool
	Seccomp         [][]byte // filters as arrays of struct sock_filter, loaded in order
	Rlimits         []Rlimit
	Umask           uint32

	StopSignal int
}

// Namespaces are what a container's init is born into.
type Namespaces struct {
	IDs        idmap.Map
	Network    Network
	Join       *Join         // or nil: all are new
	Kernel     rootfs.Kernel // what the init makes of it
	CgroupPath string        // directory of a cgroup of its own to make, or "" for the caller's
}

// A Join is what an init enters where it makes nothing new. The descriptors are
// skiff's, and open until the init has entered.
type Join struct {
	User  int // a user namespace that skiff's user owns, or -1: a new one, by the id map
	Net   int // a network namespace, or -1: a new one
	Files *EtcFiles
}

// mapsIDs says whether the init has a user namespace of its own, which waits
// for its id map.
func (ns *Namespaces) mapsIDs() bool {
	return ns.IDs.Kind != idmap.Host && (ns.Join == nil || ns.Join.User < 0)
}

// A Size is a terminal's, in characters. Source: runtime-spec config.md,
// "consoleSize".
type Size struct{ Rows, Columns uint16 }

// A User is whom the process runs as, in the container's ids.
type User struct {
	UID, GID uint32
	Groups   []uint32 // all supplementary groups, the primary among them
}

// A Network is which network namespace the container gets.
type Network string

const (
	NetworkNone    Network = "none"    // a new one with lo alone
	NetworkHost    Network = "host"    // the caller's
	NetworkDefault Network = "default" // a new one with an address
	NetworkJoined  Network = "joined"  // one that is there, of Namespaces.Join
)

// An Rlimit is a resource limit by its number. Source: setrlimit(2).
type Rlimit struct {
	Name       string
	Resource   int
	Soft, Hard uint64
}
