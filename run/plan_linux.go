package run

import (
	"encoding/binary"
	"strings"
	"unsafe"

	"skiff/internal/idmap"
	"skiff/internal/plan"
	"skiff/rootfs"
	"skiff/run/caps"

	"golang.org/x/sys/unix"
)

// A birthPlan is the first part of the plan of a container's init, up to where
// it needs to know its root. A start sends the task on its way by it and works
// out the rest meanwhile.
type birthPlan struct {
	*plan.Plan
	flags uint64 // namespaces to clone

	mapped   plan.Gate // opened by the parent when the ids are there
	unshared plan.Gate // signalled when the namespaces exist
	inside   plan.Reg  // a netlink socket of the new network namespace

	forks bool
	fork  plan.Fork // where another task goes on
}

// newBirthPlan makes the namespaces. self is a pidfd of the process that will
// start it.
func newBirthPlan(ns *Namespaces, self int) *birthPlan {
	p := &birthPlan{Plan: plan.New(), flags: unix.CLONE_NEWPID}
	p.mapped, p.unshared = p.Gate(), p.Gate()

	// First of all: the task waits for its parent to give it ids and a network,
	// and without the tie would do so for ever. Each change of credentials
	// clears it.
	p.Tie(self)
	enter := func(step string, fd int, kind int) { p.Call(step, unix.SYS_SETNS, plan.Int(fd), plan.Int(kind)) }
	join := ns.Join
	if join == nil {
		join = &Join{User: -1, Net: -1}
	}
	net := join.Net >= 0 // still to be entered
	switch {
	case join.User >= 0:
		// Only there may it make the rest, process 1 of a pid namespace among it.
		enter("enter user namespace", join.User, unix.CLONE_NEWUSER)
		p.another(self, unix.CLONE_NEWPID)
	case net && ns.mapsIDs():
		// The host's, which nobody may enter from a user namespace of his own.
		enter("enter network namespace", join.Net, unix.CLONE_NEWNET)
		p.another(self, unix.CLONE_NEWUSER|unix.CLONE_NEWPID)
		net = false
	case ns.mapsIDs():
		p.flags |= unix.CLONE_NEWUSER
	}
	// The task makes the other namespaces by itself: they take most of a
	// millisecond, in which the parent has something else to do.
	// The root of its cgroup namespace is the group that it is born in.
	late := uint64(unix.CLONE_NEWNS | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP)
	if ns.Network != NetworkHost && join.Net < 0 {
		late |= unix.CLONE_NEWNET
	}
	p.Call("unshare", unix.SYS_UNSHARE, plan.Int(late))
	if net {
		enter("enter network namespace", join.Net, unix.CLONE_NEWNET)
	}
	if ns.Network == NetworkDefault {
		p.inside = p.Reg()
		p.Call("netlink socket", unix.SYS_SOCKET, plan.Int(unix.AF_NETLINK), plan.Int(unix.SOCK_RAW|unix.SOCK_CLOEXEC), plan.Int(unix.NETLINK_ROUTE)).Into(p.inside)
	}
	p.Signal("namespaces made", p.unshared)
	if ns.Network == NetworkNone {
		p.loopback()
	}
	if ns.mapsIDs() {
		p.Wait("wait for id map", p.mapped)
	}
	if ns.IDs.Kind == idmap.Root {
		p.becomeRoot()
		p.Tie(self)
	}
	rootfs.BuildKernel(p.Plan, &ns.Kernel)
	return p
}

// another has a new task go on, with new namespaces.
func (p *birthPlan) another(self int, namespaces uint64) {
	p.flags &^= unix.CLONE_NEWPID
	p.forks, p.fork = true, p.Fork("clone", namespaces)
	p.Tie(self)
}

// An initPlan is the rest of the plan and what its parent must know to play
// its part.
type initPlan struct {
	*plan.Plan
	root *rootfs.Built
	spec *Spec // keeps what the plan points to alive

	connected plan.Gate // opened by the parent when the network is there
	opened    plan.Gate // signalled when the terminal is open and its slave copied
	execs     []execTry
}

// An execTry is one attempt to execute; its register holds minus the errno.
type execTry struct {
	path   string
	result plan.Reg
}

// newInitPlan fills p with what the init of s does once it is born. It is the
// specification turned into system calls, in order, each with its reason. self
// is a pidfd of the process that will start it.
func newInitPlan(list *plan.Plan, s *Spec, self int) *initPlan {
	p := &initPlan{Plan: list, spec: s}
	p.connected, p.opened = p.Gate(), p.Gate()

	p.root = rootfs.Build(p.Plan, &s.Root)

	p.Call("hostname", unix.SYS_SETHOSTNAME, p.Str(s.Hostname), plan.Int(len(s.Hostname)))
	if s.Domain != "" {
		p.Call("domain name", unix.SYS_SETDOMAINNAME, p.Str(s.Domain), plan.Int(len(s.Domain)))
	}
	// A keyring of its own, so that the caller's keys are out of reach.
	p.Call("session keyring", unix.SYS_KEYCTL, plan.Int(unix.KEYCTL_JOIN_SESSION_KEYRING), plan.Int(0)).
		Ignore(unix.ENOSYS, unix.EPERM, unix.EDQUOT)
	for _, l := range s.Rlimits {
		p.rlimit(l)
	}
	p.Call("new session", unix.SYS_SETSID)
	if s.Terminal {
		p.terminal(s)
	}
	if s.Network == NetworkDefault {
		p.Wait("wait for network", p.connected)
	}
	p.privileges(s)
	p.Tie(self)
	p.closeDescriptors(s)
	// Only now: the working directory and the program are paths of the image,
	// and no descriptor of the host is left for them to name (CVE-2024-21626).
	p.Call("enter working directory", unix.SYS_CHDIR, p.Str(s.Cwd)).At(s.Cwd)
	if s.Init != "" {
		p.execInit(s)
	} else {
		p.exec(s)
	}
	return p
}

// becomeRoot takes the ids that the map gave to 0. A user's task has them
// already: its own id is what 0 is mapped to.
func (p *birthPlan) becomeRoot() {
	p.Call("setgroups", unix.SYS_SETGROUPS, plan.Int(0), plan.Int(0))
	p.Call("setresgid", unix.SYS_SETRESGID, plan.Int(0), plan.Int(0), plan.Int(0))
	p.Call("setresuid", unix.SYS_SETRESUID, plan.Int(0), plan.Int(0), plan.Int(0))
}

func (p *birthPlan) loopback() {
	fd := p.Reg()
	ifreq := make([]byte, 40) // struct ifreq
	copy(ifreq, "lo")
	binary.NativeEndian.PutUint16(ifreq[16:], unix.IFF_UP)
	p.Call("socket", unix.SYS_SOCKET, plan.Int(unix.AF_INET), plan.Int(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), plan.Int(0)).Into(fd)
	p.Call("lo up", unix.SYS_IOCTL, fd.Arg(), plan.Int(unix.SIOCSIFFLAGS), p.Bytes(ifreq))
	p.Call("close", unix.SYS_CLOSE, fd.Arg())
}

func (p *initPlan) rlimit(l Rlimit) {
	b := make([]byte, 16)
	binary.NativeEndian.PutUint64(b, l.Soft)
	binary.NativeEndian.PutUint64(b[8:], l.Hard)
	p.Call("set limit "+l.Name, unix.SYS_PRLIMIT64, plan.Int(0), plan.Int(l.Resource), p.Bytes(b), plan.Int(0))
}

// terminal makes the slave the session's controlling terminal.
func (p *initPlan) terminal(s *Spec) {
	slave := p.root.Slave
	p.Call("controlling terminal", unix.SYS_IOCTL, slave.Arg(), plan.Int(unix.TIOCSCTTY), plan.Int(0))
	if s.Console != (Size{}) {
		size := make([]byte, 8) // struct winsize
		binary.NativeEndian.PutUint16(size, s.Console.Rows)
		binary.NativeEndian.PutUint16(size[2:], s.Console.Columns)
		p.Call("terminal size", unix.SYS_IOCTL, slave.Arg(), plan.Int(unix.TIOCSWINSZ), p.Bytes(size))
	}
	if s.User.UID != 0 {
		p.Call("own terminal", unix.SYS_FCHOWN, slave.Arg(), plan.Int(s.User.UID), plan.Int(-1))
	}
}

// closeDescriptors ends the sharing of descriptors with the parent and keeps
// 0, 1 and 2 alone. With a terminal those become its slave.
func (p *initPlan) closeDescriptors(s *Spec) {
	const (
		all     = uint64(1<<32 - 1)
		unshare = 1 << 1 // CLOSE_RANGE_UNSHARE
	)
	if s.Terminal {
		// Closes none. Not unshare(2), which the default filter, loaded by now,
		// refuses without CAP_SYS_ADMIN.
		p.Call("own descriptors", unix.SYS_CLOSE_RANGE, plan.Int(all), plan.Int(all), plan.Int(unshare))
		p.Signal("terminal open", p.opened)
		for fd := range 3 {
			p.Call("stdio", unix.SYS_DUP3, p.root.Slave.Arg(), plan.Int(fd), plan.Int(0))
		}
	}
	p.Call("close descriptors", unix.SYS_CLOSE_RANGE, plan.Int(3), plan.Int(all), plan.Int(unshare))
}

// privileges loads the filters and sets user, groups and capabilities from
// zero: nothing of the caller's is kept.
func (p *initPlan) privileges(s *Spec) {
	for c := range uint(64) {
		if c <= unix.CAP_LAST_CAP && s.Capabilities>>c&1 == 0 {
			// A kernel older than the capability says EINVAL.
			p.Call("drop capability", unix.SYS_PRCTL, plan.Int(unix.PR_CAPBSET_DROP), plan.Int(c)).Ignore(unix.EINVAL)
		}
	}
	if s.NoNewPrivileges {
		p.Call("no new privileges", unix.SYS_PRCTL, plan.Int(unix.PR_SET_NO_NEW_PRIVS), plan.Int(1), plan.Int(0), plan.Int(0), plan.Int(0))
	}
	// Before the capabilities go: without no_new_privs a filter needs CAP_SYS_ADMIN.
	for _, f := range s.Seccomp {
		fprog := make([]byte, 16) // struct sock_fprog
		binary.NativeEndian.PutUint16(fprog, uint16(len(f)/8))
		prog := p.Bytes(fprog)
		p.Point(prog, 8, p.Static(unsafe.String(unsafe.SliceData(f), len(f))))
		p.Call("seccomp", unix.SYS_SECCOMP, plan.Int(unix.SECCOMP_SET_MODE_FILTER), plan.Int(0), prog)
	}
	if s.IDs.Kind != idmap.Single {
		groups := make([]byte, 4*len(s.User.Groups))
		for i, g := range s.User.Groups {
			binary.NativeEndian.PutUint32(groups[4*i:], g)
		}
		p.Call("setgroups", unix.SYS_SETGROUPS, plan.Int(len(s.User.Groups)), p.Bytes(groups))
		p.Call("setresgid", unix.SYS_SETRESGID, plan.Int(s.User.GID), plan.Int(s.User.GID), plan.Int(s.User.GID))
		p.Call("setresuid", unix.SYS_SETRESUID, plan.Int(s.User.UID), plan.Int(s.User.UID), plan.Int(s.User.UID))
	}
	effective := s.Capabilities
	if s.User.UID != 0 {
		effective = 0
	}
	p.capset(effective)
	p.Call("umask", unix.SYS_UMASK, plan.Int(s.Umask))
}

// capset sets the effective and permitted sets; the inheritable one stays
// empty (CVE-2022-24769).
func (p *initPlan) capset(set caps.Set) {
	header := make([]byte, 8)
	binary.NativeEndian.PutUint32(header, unix.LINUX_CAPABILITY_VERSION_3)
	data := make([]byte, 24)
	for half := range 2 {
		word := uint32(set >> (32 * half))
		binary.NativeEndian.PutUint32(data[12*half:], word)
		binary.NativeEndian.PutUint32(data[12*half+4:], word)
	}
	p.Call("capset", unix.SYS_CAPSET, p.Bytes(header), p.Bytes(data))
}

// exec tries Args[0] as it is, or in each directory of PATH. An attempt that
// succeeds never comes back.
func (p *initPlan) exec(s *Spec) {
	p.Call("signal mask", unix.SYS_RT_SIGPROCMASK, plan.Int(unix.SIG_SETMASK), p.Buffer(8), plan.Int(0), plan.Int(8))
	argv, envp := p.Strs(s.Args), p.Strs(s.Env)
	paths := candidates(s)
	for _, path := range paths {
		r := p.Reg()
		if len(paths) > 1 {
			// An exec that fails costs ten times what this does.
			p.Call("look for program", unix.SYS_FACCESSAT, plan.Int(unix.AT_FDCWD), p.Str(path), plan.Int(unix.F_OK)).
				Into(r).Ignore(unix.ENOENT, unix.ENOTDIR, unix.EACCES).At(path)
		}
		exec := p.Call("exec", unix.SYS_EXECVEAT, plan.Int(unix.AT_FDCWD), p.Str(path), argv, envp, plan.Int(0)).
			Into(r).Ignore(unix.ENOENT, unix.ENOTDIR, unix.EACCES).At(path)
		if len(paths) > 1 {
			exec.When(r)
		}
		p.execs = append(p.execs, execTry{path, r})
	}
	p.Call("exit", unix.SYS_EXIT_GROUP, plan.Int(127))
}

// execInit executes the init, which looks for Args[0] itself. It comes out of a
// memfd of the container's own: nothing in the image has to make room for it.
// Source: memfd_create(2), execveat(2).
func (p *initPlan) execInit(s *Spec) {
	fd, result := p.Reg(), p.Reg()
	p.Call("make init", unix.SYS_MEMFD_CREATE, p.Str("init"), plan.Int(unix.MFD_CLOEXEC)).Into(fd)
	p.Call("write init", unix.SYS_WRITE, fd.Arg(), p.Static(s.Init), plan.Int(len(s.Init)))
	p.Call("signal mask", unix.SYS_RT_SIGPROCMASK, plan.Int(unix.SIG_SETMASK), p.Buffer(8), plan.Int(0), plan.Int(8))
	p.Call("exec init", unix.SYS_EXECVEAT, fd.Arg(), p.Str(""), p.Strs(append([]string{"init"}, s.Args...)), p.Strs(s.Env), plan.Int(unix.AT_EMPTY_PATH)).Into(result)
	p.execs = append(p.execs, execTry{"init", result})
}

// candidates are the paths to try, in order, each once. Source: execvp(3).
func candidates(s *Spec) []string {
	name := s.Args[0]
	if strings.Contains(name, "/") {
		return []string{name}
	}
	var paths []string
	tried := map[string]bool{}
	for _, kv := range s.Env {
		list, ok := strings.CutPrefix(kv, "PATH=")
		if !ok {
			continue
		}
		paths = paths[:0]
		clear(tried)
		for dir := range strings.SplitSeq(list, ":") {
			if dir == "" {
				dir = "."
			}
			if file := strings.TrimSuffix(dir, "/") + "/" + name; !tried[file] {
				tried[file] = true
				paths = append(paths, file)
			}
		}
	}
	return paths
}
