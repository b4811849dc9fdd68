package run

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"skiff/internal/again"
	"skiff/internal/idmap"
	"skiff/internal/plan"
	"skiff/run/cgroup"

	"golang.org/x/sys/unix"
)

// A Process is a container's init, from its birth to its status.
type Process struct {
	ID     string // of the container
	PID    int
	Pidfd  int
	Master *os.File // the terminal's master, or nil

	ns      *Namespaces
	self    int // pidfd of skiff, for the task
	birth   *birthPlan
	born    *plan.Task // performs birth
	rest    *plan.Plan // what follows birth, empty at first
	writing *idmap.Writing
	plan    *initPlan
	task    *plan.Task
	traces  []trace // with SKIFF_TRACE
}

// A trace is that of one part of the plan.
type trace struct {
	*plan.Trace
	task *plan.Task
}

// errNoIDMap is a file system that cannot be id-mapped: root's container then
// shares the host's user namespace.
var errNoIDMap = errors.New("file system cannot be id-mapped")

// bear makes the init of container id, which is tied to the thread: see
// plan.Start. It makes its namespaces, waits for identify, makes the kernel's file
// systems, and waits for start. Without these it must be abandoned.
func bear(id string, ns Namespaces, traced bool) (_ *Process, err error) {
	ns.CgroupPath = cgroup.Path(id)
	if ns.Network == NetworkDefault {
		// The relay locks threads of its own, and ends them: not the container's.
		runtime.LockOSThread()
		defer func() {
			if err != nil {
				runtime.UnlockOSThread()
			}
		}()
	}
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return nil, fmt.Errorf("pidfd_open: %w", err)
	}
	birth := newBirthPlan(&ns, self)
	pr := &Process{ID: id, ns: &ns, self: self, birth: birth, rest: birth.Then()}
	list := birth.Plan
	var tr *plan.Trace
	if traced {
		list, tr = birth.Traced()
	}
	if pr.task, err = startIn(&ns, list, birth.flags); err != nil {
		unix.Close(self)
		return nil, err
	}
	if traced {
		pr.traces = append(pr.traces, trace{tr, pr.task})
	}
	if birth.forks {
		if err := pr.task.Forked(birth.fork); err != nil {
			pr.task.Wait()
			unix.Close(self)
			return nil, err
		}
	}
	pr.born, pr.PID, pr.Pidfd = pr.task, pr.task.PID, pr.task.Pidfd
	return pr, nil
}

// identify begins to give the init its ids, which are of the kind that it was
// born for. Helpers go on beside the caller; start waits for them.
func (pr *Process) identify(ids idmap.Map) (err error) {
	pr.ns.IDs = ids
	if !pr.ns.mapsIDs() {
		return nil
	}
	if pr.writing, err = idmap.Begin(pr.PID, ids); err != nil {
		return err
	}
	if ids.Kind != idmap.Subordinate {
		pr.born.Open(pr.birth.mapped)
	}
	return nil
}

// bearIdentified does both.
func bearIdentified(id string, ns Namespaces, traced bool) (*Process, error) {
	pr, err := bear(id, ns, traced)
	if err != nil {
		return nil, err
	}
	if err := pr.identify(ns.IDs); err != nil {
		return nil, pr.abandon(err)
	}
	return pr, nil
}

// abandon ends an init that cannot be started for the reason err, and returns
// the reason that people should see: what the task met comes first, since ours
// may only follow from it.
func (pr *Process) abandon(err error) error {
	pr.kill()
	_, failure := pr.task.Wait()
	if pr.ns.CgroupPath != "" {
		cgroup.Remove(pr.ns.CgroupPath) // or Sweep does
	}
	if failure == nil {
		return err
	}
	if pr.plan != nil {
		return pr.plan.failure(pr.task, failure)
	}
	return failure
}

// ready waits until the init has its namespaces.
func (pr *Process) ready() error { return pr.born.Passed(pr.birth.unshared) }

// start lets the init become what s says.
func (pr *Process) start(s *Spec, net *network, traced bool) error {
	pr.plan = newInitPlan(pr.rest, s, pr.self)
	list := pr.plan.Plan
	var tr *plan.Trace
	if traced {
		list, tr = list.Traced()
	}
	task, err := pr.born.Load(list)
	if err != nil {
		return err
	}
	if traced {
		pr.traces = append(pr.traces, trace{tr, task})
	}
	if pr.ns.IDs.Kind == idmap.Subordinate && pr.writing != nil {
		if err := pr.writing.Wait(); err != nil {
			return err
		}
		pr.born.Open(pr.birth.mapped)
	}
	if err := pr.mapTrees(s, task); err != nil {
		return err
	}
	pr.task = task
	task.Continue()
	if net.to == nil {
		return nil
	}
	// While the task makes its root.
	if err := pr.ready(); err != nil {
		return err
	}
	inside := pr.born.Reg(pr.birth.inside)
	err = net.to.connect(pr, inside)
	unix.Close(inside) // shared, so this closes the task's as well
	if err != nil {
		return err
	}
	task.Open(pr.plan.connected)
	return nil
}

// startIn starts the task in a cgroup of its own, or in the caller's where the
// host does not allow that.
func startIn(ns *Namespaces, list *plan.Plan, flags uint64) (*plan.Task, error) {
	if ns.CgroupPath != "" {
		if group, err := cgroup.Make(ns.CgroupPath, cgroup.DefaultPids); err == nil {
			defer unix.Close(group)
			task, err := list.Start(plan.Clone{Flags: flags, Cgroup: group})
			if err == nil || !cgroup.Refused(err) {
				return task, err
			}
		}
	}
	return list.Start(plan.Clone{Flags: flags})
}

// mapTrees hands the task the store and the binds as trees in which the ids of
// the disk are those of the container. Source: mount_setattr(2), "ID-mapped
// mounts", kernel 5.12; as lower layers of overlay 5.19.
func (pr *Process) mapTrees(s *Spec, task *plan.Task) error {
	if !s.Root.IDMapped {
		return nil
	}
	userns, err := again.Open("/proc/"+strconv.Itoa(pr.PID)+"/ns/user", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open user namespace: %w", err)
	}
	defer unix.Close(userns)
	// Private: what is mounted in it must not show on the host, where under
	// systemd every mount is shared.
	tree, err := idMapped(s.Root.Store, userns, false, unix.MS_PRIVATE)
	if err != nil {
		return err
	}
	task.Set(pr.plan.root.StoreTree, tree)
	for i, store := range s.Root.Shared {
		tree, err := idMapped(store, userns, false, unix.MS_PRIVATE)
		if err != nil {
			return err
		}
		task.Set(pr.plan.root.Shared[i], tree)
	}
	for i, m := range s.Root.Mounts {
		if !m.IDMapped {
			continue
		}
		tree, err := idMapped(m.Source, userns, !m.Flat, 0)
		if err != nil {
			return err
		}
		task.Set(pr.plan.root.Trees[i], tree)
	}
	return nil
}

func idMapped(path string, userns int, recursive bool, propagation uint64) (int, error) {
	flags := uint(0)
	if recursive {
		flags = unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|flags)
	if err != nil {
		return -1, fmt.Errorf("open_tree: %s: %w", path, err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns), Propagation: propagation}
	empty := [1]byte{}
	_, _, errno := syscall.RawSyscall6(unix.SYS_MOUNT_SETATTR, uintptr(tree), uintptr(unsafe.Pointer(&empty)),
		uintptr(unix.AT_EMPTY_PATH|flags), uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr), 0)
	if errno != 0 {
		unix.Close(tree)
		return -1, fmt.Errorf("%s: %w: %w", path, errNoIDMap, errno)
	}
	return tree, nil
}

// Wait reaps the container. status is the program's own, or 128+n if signal n
// ended it. The error says why there never was a program.
func (pr *Process) Wait() (status int, err error) {
	ws, failure := pr.task.Wait()
	if failure != nil {
		return 0, pr.plan.failure(pr.task, failure)
	}
	if ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	if n := len(pr.plan.execs); n == 0 || pr.task.Reg(pr.plan.execs[n-1].result) < 0 {
		return 0, pr.plan.notExecuted(pr.task)
	}
	return ws.ExitStatus(), nil
}

// terminal waits until the task has opened its terminal, and returns the master.
func (pr *Process) terminal() (*os.File, error) {
	if err := pr.task.Passed(pr.plan.opened); err != nil {
		return nil, pr.plan.failure(pr.task, err)
	}
	fd := pr.task.Reg(pr.plan.root.Master)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, err
	}
	// The slave is the container's alone: a hang-up must be seen.
	unix.Close(pr.task.Reg(pr.plan.root.Slave))
	return os.NewFile(uintptr(fd), "ptmx"), nil
}

// kill ends the container's init, and with it everything in it.
func (pr *Process) kill() { unix.PidfdSendSignal(pr.Pidfd, unix.SIGKILL, nil, 0) }
