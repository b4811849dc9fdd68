package rootfs

import (
	"encoding/binary"

	"skiff/internal/plan"

	"golang.org/x/sys/unix"
)

func put(b []byte, v uint64) { binary.NativeEndian.PutUint64(b, v) }

// devices are those that every container has. Source: runtime-spec
// config-linux.md, "Default Devices".
var devices = []struct {
	name         string
	major, minor uint32
}{{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}}

var devLinks = []struct{ name, target string }{
	{"dev/fd", "/proc/self/fd"}, {"dev/stdin", "/proc/self/fd/0"}, {"dev/stdout", "/proc/self/fd/1"},
	{"dev/stderr", "/proc/self/fd/2"}, {"dev/ptmx", "pts/ptmx"},
}

// dev mounts a fresh /dev, so that nothing of the image's own is ever opened
// as a device or a terminal.
//
// Its shm and the terminal are the root's.
func (b *builder) dev(k *Kernel) {
	b.mkdir("dev")
	b.mount("mount dev", "tmpfs", "dev", "tmpfs", nosuid|unix.MS_STRICTATIME, "mode=0755,size=65536k")
	for _, dir := range []string{"dev/pts", "dev/shm", "dev/mqueue"} {
		b.mkdir(dir)
	}
	b.mount("mount pts", "devpts", "dev/pts", "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
	b.mount("mount mqueue", "mqueue", "dev/mqueue", "mqueue", nosdx, "").Ignore(unix.ENODEV)
	for _, d := range devices {
		name := "dev/" + d.name
		if k.UserNS {
			// A device made in a user namespace cannot be opened: the host's
			// node is bound over an empty file.
			b.mknod(name, unix.S_IFREG|0o666, 0)
			b.mount("bind /"+name, "/"+name, name, "", unix.MS_BIND, "").At("/" + name)
		} else {
			b.mknod(name, unix.S_IFCHR|0o666, unix.Mkdev(d.major, d.minor))
			b.Call("chmod /"+name, unix.SYS_FCHMODAT, plan.Int(unix.AT_FDCWD), b.Str(name), plan.Int(0o666))
		}
	}
	for _, l := range devLinks {
		b.Call("link /"+l.name, unix.SYS_SYMLINKAT, b.Str(l.target), plan.Int(unix.AT_FDCWD), b.Str(l.name))
	}
}

// terminal opens a pair in the container's own devpts, so that ttyname(3)
// finds it there, and shows it as /dev/console.
func (b *builder) terminal(out *Built) {
	b.openat("open terminal", plan.Int(unix.AT_FDCWD), "dev/pts/ptmx", unix.O_RDWR|unix.O_NOCTTY, 0).Into(out.Master)
	b.Call("unlock terminal", unix.SYS_IOCTL, out.Master.Arg(), plan.Int(unix.TIOCSPTLCK), b.Buffer(4))
	b.Call("open terminal", unix.SYS_IOCTL, out.Master.Arg(), plan.Int(unix.TIOCGPTPEER), plan.Int(unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)).Into(out.Slave)
	b.mknod("dev/console", unix.S_IFREG|0o600, 0)
	b.mount("bind console", "dev/pts/0", "dev/console", "", unix.MS_BIND, "")
}

func (b *builder) mknod(name string, mode uint32, dev uint64) {
	b.Call("make /"+name, unix.SYS_MKNODAT, plan.Int(unix.AT_FDCWD), b.Str(name), plan.Int(mode), plan.Int(dev))
}
