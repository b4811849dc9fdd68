package rootfs

import (
	"slices"
	"strings"

	"skiff/internal/plan"

	"golang.org/x/sys/unix"
)

// A Kernel is what the kernel shows of itself: /proc, /sys and /dev, and what
// of it is hidden. It depends on nothing of the image.
type Kernel struct {
	UserNS     bool // the task is in a user namespace: no device can be made
	HostNet    bool // the network namespace is the host's: no sysfs of our own
	Privileged bool // /sys is writable

	Masked        []string // absolute, below /proc or /sys; hidden. Directories end in /
	ReadOnlyPaths []string // absolute, below /proc or /sys
}

// Equal reports whether two are the same.
func (k Kernel) Equal(other Kernel) bool {
	return k.UserNS == other.UserNS && k.HostNet == other.HostNet && k.Privileged == other.Privileged &&
		slices.Equal(k.Masked, other.Masked) && slices.Equal(k.ReadOnlyPaths, other.ReadOnlyPaths)
}

// BuildKernel appends to p what makes these file systems on a stage, which is
// the task's working directory afterwards. There a container's root gets them
// from, by Build: to make them takes as long as all the rest, and can be done
// while it is still being worked out what the root shall be.
//
// The stage is a tmpfs above the root of the task's mount namespace. A path of the
// host's leads there only by ".." of the root, so the paths that Build is given have
// no ".." and no links.
func BuildKernel(p *plan.Plan, k *Kernel) {
	b := &builder{Plan: p, root: p.Reg()}
	// Nothing of ours reaches the host; the host's unmounts still reach us.
	b.mount("own mounts", "", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
	b.stage()
	b.mkdir(filesDir)
	b.proc()
	if !k.HostNet {
		b.network()
	}
	b.sys(k)
	b.dev(k)
	b.masks(k)
	b.close(b.root) // the working directory holds it
}

// filesDir holds skiff's own small files, on the stage.
const filesDir = "files"

// maskDir is the empty directory that hides others, on the stage.
const maskDir = "mask"

const (
	setString = 1 // FSCONFIG_SET_STRING
	create    = 6 // FSCONFIG_CMD_CREATE

	nosdxAttr = unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC
)

func (b *builder) stage() {
	fs := b.Reg()
	b.Call("open stage", unix.SYS_FSOPEN, b.Str("tmpfs"), plan.Int(unix.FSOPEN_CLOEXEC)).Into(fs)
	for _, option := range [][2]string{{"source", "tmpfs"}, {"mode", "0755"}, {"size", "1m"}} {
		b.Call("set "+option[0], unix.SYS_FSCONFIG, fs.Arg(), plan.Int(setString), b.Str(option[0]), b.Str(option[1]), plan.Int(0))
	}
	b.Call("make stage", unix.SYS_FSCONFIG, fs.Arg(), plan.Int(create), plan.Int(0), plan.Int(0), plan.Int(0))
	b.Call("mount stage", unix.SYS_FSMOUNT, fs.Arg(), plan.Int(unix.FSMOUNT_CLOEXEC), plan.Int(nosdxAttr)).Into(b.root)
	b.close(fs)
	b.Call("attach stage", unix.SYS_MOVE_MOUNT, b.root.Arg(), b.Str(""), plan.Int(unix.AT_FDCWD), b.Str("/"), plan.Int(unix.MOVE_MOUNT_F_EMPTY_PATH))
	b.Call("enter stage", unix.SYS_FCHDIR, b.root.Arg())
}

// proc mounts a process table of the container's own pid namespace. Where the
// kernel forbids a new one, because this host's own /proc is partly hidden as
// in many build pods, the host's is shown instead.
func (b *builder) proc() {
	made := b.Reg()
	b.mkdir("proc")
	b.mount("mount proc", "proc", "proc", "proc", nosdx, "").Into(made).Ignore(unix.EPERM)
	b.mount("bind proc", "/proc", "proc", "", unix.MS_BIND|unix.MS_REC, "").Unless(made)
}

// network lets programs without capabilities ping and listen on low ports, in
// the task's own network namespace, whose sysctls /proc/sys/net shows. The range of
// groups must have ids in the task's user namespace: there may be one only.
func (b *builder) network() {
	fd, all := b.Preset(-1), b.Preset(-1)
	write := func(step, value string) plan.Op {
		return b.Call(step, unix.SYS_WRITE, fd.Arg(), b.Str(value), plan.Int(len(value))).IgnoreAll()
	}
	b.openat("open ping_group_range", plan.Int(unix.AT_FDCWD), "proc/sys/net/ipv4/ping_group_range", unix.O_WRONLY, 0).Into(fd).IgnoreAll()
	write("let all groups ping", "0 65535").Into(all).When(fd)
	write("let the one group ping", "0 0").Unless(all)
	b.close(fd).When(fd)
	b.openat("open ip_unprivileged_port_start", plan.Int(unix.AT_FDCWD), "proc/sys/net/ipv4/ip_unprivileged_port_start", unix.O_WRONLY, 0).Into(fd).IgnoreAll()
	write("let all listen", "0").When(fd)
	b.close(fd).When(fd)
}

func (b *builder) sys(k *Kernel) {
	flags := uintptr(nosdx)
	if !k.Privileged {
		flags |= unix.MS_RDONLY
	}
	b.mkdir("sys")
	if k.HostNet && k.UserNS {
		// A new sysfs shows the network namespace, which must be ours.
		b.mount("bind sys", "/sys", "sys", "", unix.MS_BIND|unix.MS_REC, "")
		if !k.Privileged {
			sys := b.Reg()
			b.openat("open sys", plan.Int(unix.AT_FDCWD), "sys", unix.O_PATH, 0).Into(sys)
			b.Call("read-only sys", unix.SYS_MOUNT_SETATTR, sys.Arg(), b.Str(""), plan.Int(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE),
				b.attr(unix.MOUNT_ATTR_RDONLY, 0, 0), plan.Int(sizeofMountAttr)).Ignore(unix.EPERM)
			b.close(sys)
		}
		return
	}
	b.mount("mount sys", "sysfs", "sys", "sysfs", flags, "")
	b.mount("mount cgroup", "cgroup", "sys/fs/cgroup", "cgroup2", flags, "").Ignore(unix.EPERM, unix.ENOENT, unix.EBUSY, unix.ENODEV)
}

// masks hides paths of /proc and /sys, which are our own mounts, so strings
// are safe. Which of them exist depends on the kernel.
func (b *builder) masks(k *Kernel) {
	if len(k.Masked) > 0 {
		b.mkdir(maskDir)
		b.mount("mount mask", "tmpfs", maskDir, "tmpfs", nosdx|unix.MS_RDONLY, "size=0k,mode=0755,nr_inodes=2")
	}
	for _, name := range k.Masked {
		if dir, ok := strings.CutSuffix(name, "/"); ok {
			// One empty directory serves all: a bind keeps its read-only flag.
			b.mount("mask "+dir, maskDir, dir[1:], "", unix.MS_BIND, "").Ignore(unix.ENOENT)
		} else {
			b.mount("mask "+name, "dev/null", name[1:], "", unix.MS_BIND, "").Ignore(unix.ENOENT)
		}
	}
	for _, name := range k.ReadOnlyPaths {
		found := b.Reg()
		b.mount("read-only "+name, name[1:], name[1:], "", unix.MS_BIND|unix.MS_REC, "").Into(found).Ignore(unix.ENOENT)
		b.mount("read-only "+name, "", name[1:], "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY|nosdx, "").When(found)
	}
}
