// Package rootfs says, as a plan, what a container's process sees as /: an
// overlay of the image's layers under a writable top, the kernel's file
// systems, a /dev of its own, the mounts that were asked for, and the paths
// that are masked.
//
// Everything is mounted in the container's own mount namespace and dies with
// it. A path inside the image is resolved by openat2(2) with RESOLVE_IN_ROOT
// to a descriptor, never as a string: the image may hold any links it likes.
//
// Limits: Build trusts that the store's directories named in Root are not
// being changed, and that the task which performs the plan has a mount
// namespace of its own and its ids mapped.
package rootfs

// A Root is what to show as /. Paths of Lower, Upper and Work are relative to
// Store, so that no path of the host shows in the container's mountinfo and
// none needs escaping in mount options.
type Root struct {
	Store    string   // absolute path of the store, without links
	Lower    []string // layers, base first; in Store, or absolute in one of Shared
	Shared   []string // other stores, absolute paths without links; only read
	Upper    string   // the writable layer's directory, or "" for one in memory
	Work     string   // overlay's work directory, beside Upper
	Volatile bool     // nothing of Upper needs to survive: never synced
	ReadOnly bool     // / itself is read-only; mounts below it are not affected

	IDMapped bool // Store is seen through an id-mapped mount, given in Built.StoreTree

	Terminal bool
	ShmSize  int64    // bytes of /dev/shm
	Dirs     []string // absolute; made if missing, such as the working directory
	Files    []File   // small files that skiff provides, such as /etc/hosts
	Mounts   []Mount
}

// A File is put over a path of the image. If the path's link leads nowhere the
// link is replaced; if its directory is missing it is made.
type File struct {
	Path    string // absolute
	Content string
}

// A Mount is one that the user asked for.
type Mount struct {
	Type        string // "bind" or "tmpfs"
	Source      string // absolute path on the host without links, for bind
	Dir         bool   // what Source is; tmpfs are directories
	Destination string // absolute, clean path in the container
	ReadOnly    bool   // recursively so for bind, kernel 5.12
	Flat        bool   // bind without the mounts below Source
	Propagation uint64 // MS_PRIVATE, MS_SLAVE or MS_SHARED; 0 is private
	Flags       uint64 // MS_NOSUID, MS_NODEV, MS_NOEXEC
	Data        string // mount(2) data, for tmpfs
	IDMapped    bool   // the tree comes id-mapped, in Built.Trees
}

// DefaultMasked is the union of what docker and podman hide, and what tells of
// the kernel.
var DefaultMasked = []string{
	"/proc/acpi/", "/proc/asound/", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/keys",
	"/proc/config.gz", "/proc/kpagecount", "/proc/kpageflags", "/proc/kpagecgroup", "/proc/latency_stats",
	"/proc/sched_debug", "/proc/scsi/", "/proc/timer_list", "/proc/timer_stats",
	"/sys/devices/virtual/powercap/", "/sys/firmware/", "/sys/fs/selinux/",
	"/sys/kernel/debug/", "/sys/kernel/security/", "/sys/kernel/tracing/",
}

// DefaultReadOnly are the paths of /proc that docker and podman make read-only.
var DefaultReadOnly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
