package doctor

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"skiff/internal/plan"
	"skiff/run/cgroup"

	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
)

// fileSystem is the name of a kind that stores are found on, and what speaks
// against it. Source: statfs(2), linux/magic.h.
func fileSystem(kind int64) (name, against string) {
	switch kind {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4", ""
	case unix.XFS_SUPER_MAGIC:
		return "xfs", ""
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs", ""
	case unix.F2FS_SUPER_MAGIC:
		return "f2fs", ""
	case 0x2fc12fc1:
		return "zfs", ""
	case 0xca451a4e:
		return "bcachefs", ""
	case unix.TMPFS_MAGIC:
		return "tmpfs", "it is in memory, and gone with the next boot"
	case unix.NFS_SUPER_MAGIC:
		return "nfs", "overlay cannot write to it; put the store on a local disk with --root or SKIFF_ROOT"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay", "overlay cannot write to itself; put the store on a volume with --root or SKIFF_ROOT"
	case unix.FUSE_SUPER_MAGIC:
		return "fuse", "slow for layers; put the store on a local disk with --root or SKIFF_ROOT"
	}
	return fmt.Sprintf("file system %#x", kind), ""
}

// little is so little room that an image may not fit, bytes.
const little = 1 << 30

// space looks at the store and what is free for it.
func space(h *Host) Finding {
	if h.Store == nil {
		return Finding{Status: Missing, Uses: h.StoreErr.Error(), Why: "see --root and SKIFF_ROOT", Needed: true}
	}
	root := h.Store.Root()
	var st unix.Statfs_t
	if err := unix.Statfs(root, &st); err != nil {
		return Finding{Status: Missing, Uses: err.Error(), Needed: true}
	}
	kind, against := fileSystem(int64(st.Type))
	free := int64(st.Bavail) * int64(st.Bsize)
	f := Finding{Status: OK, Uses: fmt.Sprintf("%s, %s, %s free", root, kind, units.HumanSizeWithPrecision(float64(free), 3)), Why: against, Needed: true}
	switch {
	case h.Store.ReadOnly():
		f.Status, f.Why = Limited, "it is read-only: images can be run, and none pulled"
	case h.Store.Writable() != nil:
		f.Status, f.Why = Limited, h.Store.Writable().Error()
	case against != "":
		f.Status = Limited
	case free < little:
		f.Status, f.Why, f.Cure = Limited, "there is little room", "skiff system prune --all"
	case st.Files > 0 && st.Ffree < 10_000:
		f.Status, f.Why, f.Cure = Limited, fmt.Sprintf("there is room for %d more files", st.Ffree), "skiff system prune --all"
	}
	return f
}

// cgroups makes a group as a container gets one.
func cgroups(*Host) Finding {
	const none = "none of the container's own: nothing is limited or counted"
	var st unix.Statfs_t
	unified := unix.Statfs("/sys/fs/cgroup", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
	path := cgroup.Path(fmt.Sprintf("%064x", os.Getpid())) // as of a container, so that it is swept if skiff is killed
	switch {
	case path == "" && !unified:
		f := Finding{Status: Limited, Uses: none, Why: "the host has version 1 of control groups, or both; version 2 is needed"}
		if _, err := os.Stat("/run/systemd/system"); err == nil {
			f.Cure = "sudo grubby --update-kernel=ALL --args=systemd.unified_cgroup_hierarchy=1"
			if _, err := os.Stat("/usr/sbin/update-grub"); err == nil {
				f.Cure = "echo 'GRUB_CMDLINE_LINUX=\"systemd.unified_cgroup_hierarchy=1\"' | sudo tee /etc/default/grub.d/cgroup2.cfg && sudo update-grub"
			}
		}
		return f
	case path == "":
		return Finding{Status: Limited, Uses: none, Why: "skiff's own group is not the user's to divide", Cure: "systemd-run --user --scope -p Delegate=yes skiff run …"}
	}
	group, err := cgroup.Make(path, cgroup.DefaultPids)
	if err != nil {
		return Finding{Status: Limited, Uses: none, Why: err.Error()}
	}
	defer cgroup.Remove(path)
	defer unix.Close(group)
	p := plan.New()
	p.Call("exit", unix.SYS_EXIT_GROUP, plan.Int(0))
	task, err := p.Start(plan.Clone{Cgroup: group})
	if err != nil {
		return Finding{Status: Limited, Uses: none, Why: "a container cannot be started in its group: " + err.Error(), Cure: "systemd-run --user --scope -p Delegate=yes skiff run …"}
	}
	task.Wait()
	unix.Close(task.Pidfd)
	f := Finding{Status: OK, Uses: "each container has a group of its own"}
	if given := Setting(path + "/cgroup.controllers"); given != "" {
		f.Uses += ", with " + strings.Join(strings.Fields(given), ", ")
	} else {
		f.Status, f.Why = Limited, "the group above gives it no controllers, so nothing is limited"
	}
	return f
}

// filters loads a filter in a task.
func filters(*Host) Finding {
	allow := binary.NativeEndian.AppendUint16(nil, unix.BPF_RET|unix.BPF_K)
	allow = binary.NativeEndian.AppendUint32(append(allow, 0, 0), unix.SECCOMP_RET_ALLOW)
	p := plan.New()
	fprog := binary.NativeEndian.AppendUint16(nil, 1) // struct sock_fprog: one instruction, and where
	program := p.Bytes(append(fprog, make([]byte, 14)...))
	p.Point(program, 8, p.Bytes(allow))
	p.Call("no new privileges", unix.SYS_PRCTL, plan.Int(unix.PR_SET_NO_NEW_PRIVS), plan.Int(1), plan.Int(0), plan.Int(0), plan.Int(0))
	p.Call("seccomp", unix.SYS_SECCOMP, plan.Int(unix.SECCOMP_SET_MODE_FILTER), plan.Int(0), program)
	p.Call("exit", unix.SYS_EXIT_GROUP, plan.Int(0))
	task, err := p.Start(plan.Clone{})
	if err == nil {
		_, err = task.Wait()
		unix.Close(task.Pidfd)
	}
	switch {
	case err == nil:
		return Finding{Status: OK, Uses: "the default profile", Needed: true}
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOSYS):
		return Finding{Status: Missing, Uses: err.Error(), Why: "this kernel is built without seccomp filters (CONFIG_SECCOMP_FILTER): containers run with --security-opt seccomp=unconfined alone", Needed: true}
	}
	return Finding{Status: Missing, Uses: err.Error(), Needed: true}
}

// landlock asks for the version; the unpacker of layers is confined by it.
func landlock(*Host) Finding {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(nil)), 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch errno {
	case 0:
		return Finding{Status: OK, Uses: fmt.Sprintf("version %d, confines what unpacks layers", version)}
	case unix.EOPNOTSUPP:
		return Finding{Status: Limited, Uses: "unpacking goes on without it", Why: "Landlock is not among the security modules that the kernel was started with: boot it with landlock in lsm="}
	}
	return Finding{Status: Limited, Uses: "unpacking goes on without it", Why: "this kernel has no Landlock, which came with Linux 5.13"}
}
