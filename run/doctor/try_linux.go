package doctor

import (
	"fmt"
	"os"
	"strconv"

	"skiff/internal/idmap"
	"skiff/internal/plan"

	"golang.org/x/sys/unix"
)

// A trial is what a task shall do in namespaces as a container's init has them.
type trial struct {
	ids idmap.Map

	// fill adds what is tried.
	fill func(p *plan.Plan)

	// beside, if not nil, runs while the task waits, with its ids and in its
	// namespaces, for what it tries.
	beside func(task *plan.Task) error
}

// run returns what went wrong first, an *plan.Error as a rule.
func (t trial) run() error {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(self)
	p := plan.New()
	mapped, made, ready := p.Gate(), p.Gate(), p.Gate()
	flags := uint64(unix.CLONE_NEWPID)
	if t.ids.Kind != idmap.Host {
		flags |= unix.CLONE_NEWUSER
	}
	p.Tie(self)
	p.Call("unshare", unix.SYS_UNSHARE, plan.Int(unix.CLONE_NEWNS|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS|unix.CLONE_NEWCGROUP|unix.CLONE_NEWNET))
	p.Wait("wait for id map", mapped)
	if t.ids.Kind == idmap.Root {
		p.Call("setgroups", unix.SYS_SETGROUPS, plan.Int(0), plan.Int(0))
		p.Call("setresgid", unix.SYS_SETRESGID, plan.Int(0), plan.Int(0), plan.Int(0))
		p.Call("setresuid", unix.SYS_SETRESUID, plan.Int(0), plan.Int(0), plan.Int(0))
		p.Tie(self)
	}
	p.Signal("made", made)
	p.Wait("wait", ready)
	// Nothing that is mounted here shows on the host.
	p.Call("make mounts private", unix.SYS_MOUNT, plan.Int(0), p.Str("/"), plan.Int(0), plan.Int(unix.MS_REC|unix.MS_PRIVATE), plan.Int(0))
	if t.fill != nil {
		t.fill(p)
	}
	p.Call("exit", unix.SYS_EXIT_GROUP, plan.Int(0))
	task, err := p.Start(plan.Clone{Flags: flags})
	if err != nil {
		return err
	}
	defer unix.Close(task.Pidfd)
	err = t.attend(task, mapped, made, ready)
	if err != nil {
		unix.PidfdSendSignal(task.Pidfd, unix.SIGKILL, nil, 0)
	}
	if _, failure := task.Wait(); failure != nil {
		return failure // ours may only follow from it
	}
	return err
}

func (t trial) attend(task *plan.Task, mapped, made, ready plan.Gate) error {
	if t.ids.Kind != idmap.Host {
		if err := idmap.Write(task.PID, t.ids); err != nil {
			return err
		}
	}
	task.Open(mapped)
	if t.beside != nil {
		if err := task.Passed(made); err != nil {
			return err
		}
		if err := t.beside(task); err != nil {
			return err
		}
	}
	task.Open(ready)
	return nil
}

// mount adds a mount at /tmp, which every root has; the task's own.
func mount(p *plan.Plan, kind, options string) {
	p.Call("mount "+kind, unix.SYS_MOUNT, p.Str(kind), p.Str("/tmp"), p.Str(kind), plan.Int(0), p.Str(options))
}

// mapTree is a directory as a detached tree in which the ids of the disk are
// those of the task.
func mapTree(dir string, task *plan.Task) (int, error) {
	ns, err := unix.Open("/proc/"+strconv.Itoa(task.PID)+"/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open user namespace: %w", err)
	}
	defer unix.Close(ns)
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("open_tree: %w", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns), Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		unix.Close(tree)
		return -1, fmt.Errorf("mount_setattr: %w", err)
	}
	return tree, nil
}
