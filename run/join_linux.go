package run

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"skiff/internal/idmap"
	"skiff/internal/plan"
	"skiff/run/state"

	"golang.org/x/sys/unix"
)

// EtcFiles are the files of /etc that a container has from another, whose network
// it is in.
type EtcFiles struct{ Hostname, Hosts, Resolv string }

// join opens what a container enters that is not to have a network of its own, and
// says by which ids it lives there. It is nil for all others.
//
// A user's container enters the user namespace that the network belongs to, for
// from a sibling of that nothing could be done in it; root's enters the other
// container's as well, so that the two agree on who owns what.
func (r *Runner) join(o *Options, ids idmap.Map) (_ *Join, _ idmap.Map, err error) {
	if o.Network != NetworkJoined {
		return nil, ids, nil
	}
	j := &Join{User: -1, Net: -1}
	defer func() {
		if err != nil {
			j.close()
		}
	}()
	if name, ok := strings.CutPrefix(o.Join, "container:"); ok {
		ids, err = r.joinContainer(j, name, ids)
		return j, ids, err
	}
	ids, err = joinPath(j, strings.TrimPrefix(o.Join, "ns:"), ids)
	return j, ids, err
}

func (j *Join) close() {
	for _, fd := range []int{j.User, j.Net} {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// joinContainer enters the network of a container that runs.
func (r *Runner) joinContainer(j *Join, name string, ids idmap.Map) (idmap.Map, error) {
	c, err := r.Containers().Find(name)
	if err != nil {
		return ids, err
	}
	if c.Status != state.Running || c.PID == 0 {
		return ids, fmt.Errorf("%s: %w", name, errNotRunning)
	}
	proc := "/proc/" + strconv.Itoa(c.PID)
	if j.Net, err = openNamespace(proc + "/ns/net"); err != nil {
		return ids, err
	}
	if j.User, err = openNamespace(proc + "/ns/user"); err != nil {
		return ids, err
	}
	if j.Files, err = etcFilesOf(proc + "/root"); err != nil {
		return ids, err
	}
	if own, err := sameNamespace(j.User, "user"); err != nil {
		return ids, err
	} else if own {
		unix.Close(j.User)
		j.User, ids = -1, idmap.Map{}
	} else if err = sameMap(j.User, ids); err != nil {
		return ids, fmt.Errorf("%s: %w", name, err)
	}
	// What was opened is that container's only if it still runs.
	if again, err := r.Containers().Find(c.ID); err != nil || again.Status != state.Running {
		return ids, fmt.Errorf("%s: %w", name, errNotRunning)
	}
	return ids, nil
}

var errNotRunning = errors.New("the container does not run")

// joinPath enters a network namespace that has a name, such as those of ip-netns(8).
func joinPath(j *Join, path string, ids idmap.Map) (_ idmap.Map, err error) {
	if j.Net, err = openNamespace(path); err != nil {
		return ids, err
	}
	kind, err := unix.IoctlRetInt(j.Net, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return ids, fmt.Errorf("%s: no network namespace", path)
	}
	// Source: ioctl_ns(2). EPERM: it is beyond the user namespaces that are ours.
	owner, err := unix.IoctlRetInt(j.Net, unix.NS_GET_USERNS)
	if err == unix.EPERM {
		return ids, fmt.Errorf("%s: %w", path, err)
	}
	if err != nil {
		return ids, fmt.Errorf("%s: user namespace: %w", path, err)
	}
	unix.CloseOnExec(owner)
	own, err := sameNamespace(owner, "user")
	if err != nil || own {
		unix.Close(owner)
		if err == nil && os.Geteuid() != 0 {
			err = fmt.Errorf("%s: %w", path, unix.EPERM)
		}
		return ids, err
	}
	j.User = owner
	if err := sameMap(owner, ids); err != nil {
		return ids, fmt.Errorf("%s: %w", path, err)
	}
	return ids, nil
}

// foreign says whether the network belongs to another user namespace than the
// container's, which then cannot have a sysfs of its own.
func (j *Join) foreign(ids idmap.Map) bool { return j.User < 0 && ids.Kind != idmap.Host }

func openNamespace(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("%s: %w", path, err)
	}
	return fd, nil
}

// sameNamespace tells whether a namespace is the caller's.
func sameNamespace(fd int, kind string) (bool, error) {
	var it, own unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &it), unix.Stat("/proc/self/ns/"+kind, &own)); err != nil {
		return false, err
	}
	return it.Ino == own.Ino && it.Dev == own.Dev, nil
}

// sameMap says whether a user namespace lives by the ids that this user's
// containers have, by which layers are owned.
//
// A descriptor tells nothing of a map, so a task enters and reads its own. Source:
// user_namespaces(7).
func sameMap(userns int, ids idmap.Map) error {
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("pidfd_open: %w", err)
	}
	defer unix.Close(self)
	p := plan.New()
	p.Tie(self)
	p.Call("enter user namespace", unix.SYS_SETNS, plan.Int(userns), plan.Int(unix.CLONE_NEWUSER))
	var texts [2]plan.Arg
	for i, file := range [...]string{"/proc/self/uid_map", "/proc/self/gid_map"} {
		fd := p.Reg()
		texts[i] = p.Buffer(4096)
		p.Call("open", unix.SYS_OPENAT, plan.Int(unix.AT_FDCWD), p.Str(file), plan.Int(unix.O_CLOEXEC), plan.Int(0)).Into(fd).At(file)
		p.Call("read", unix.SYS_READ, fd.Arg(), texts[i], plan.Int(4095)).At(file)
		p.Call("close", unix.SYS_CLOSE, fd.Arg())
	}
	p.Call("exit", unix.SYS_EXIT_GROUP, plan.Int(0))
	task, err := p.Start(plan.Clone{})
	if err != nil {
		return err
	}
	defer task.Free()
	defer unix.Close(task.Pidfd)
	if _, err := task.Wait(); err != nil {
		return err
	}
	for i, want := range [...][]idmap.Range{ids.UIDs, ids.GIDs} {
		text, _, _ := strings.Cut(string(task.Data(texts[i])), "\x00")
		f := strings.Fields(text)
		same := len(f) == 3*len(want)
		for k, r := range want {
			same = same && strings.Join(f[3*k:3*k+3], " ") == fmt.Sprintf("%d %d %d", r.Container, r.Host, r.Size)
		}
		if !same {
			return fmt.Errorf("its user namespace has the ids %q, and this run those of %s", strings.Join(strings.Fields(text), " "), ids)
		}
	}
	return nil
}

// maxEtcFile bounds what is read of a file in a container.
const maxEtcFile = 1 << 20

// etcFilesOf reads another container's files. Its root is whatever it has made of
// it, so nothing is followed out of there, and what is no file counts as empty.
func etcFilesOf(root string) (*EtcFiles, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", root, err)
	}
	defer unix.Close(dir)
	read := func(name string) string {
		fd, err := unix.Openat2(dir, name, &unix.OpenHow{
			Flags: unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
		})
		if err != nil {
			return ""
		}
		f := os.NewFile(uintptr(fd), name)
		defer f.Close()
		if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
			return ""
		}
		text, _ := io.ReadAll(io.LimitReader(f, maxEtcFile))
		return string(text)
	}
	name, _, _ := strings.Cut(read("etc/hostname"), "\n")
	if len(name) > 64 || strings.ContainsAny(name, " \t\x00/") {
		name = ""
	}
	return &EtcFiles{Hostname: name, Hosts: read("etc/hosts"), Resolv: read("etc/resolv.conf")}, nil
}
