package layers

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"unsafe"

	"skiff/internal/again"
	"skiff/internal/idmap"
	"skiff/internal/plan"

	"golang.org/x/sys/unix"
)

// Limits of a worker. Its heap is a few megabytes a layer, but for zstd windows
// and the directories of huge layers; the Go runtime reserves about 1 GiB of
// addresses that it never touches.
const (
	workerHeap    = 192 << 20 // where the garbage collector begins to try harder
	workerMemory  = 4 << 30   // RLIMIT_AS
	workerFiles   = 4096      // RLIMIT_NOFILE; a layer has at most maxDirs open, and a few
	workerFile    = 1 << 40   // RLIMIT_FSIZE: holes of a sparse file included
	workerSeconds = 3600      // RLIMIT_CPU
)

// workerCaps are for chown, for reaching into directories of any mode, for
// modes and times of files that are owned by others, for keeping set-id bits, for
// devices where allowed, and for security.capability.
var workerCaps = [...]int{
	unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID, unix.CAP_MKNOD, unix.CAP_SETFCAP,
}

var errNoIDMappedMount = errors.New("no id-mapped mount")

// descriptors are what a worker's plan uses of skiff's. They lie above those
// that the plan itself assigns.
type descriptors struct {
	null, stderr, socket, exe int
	tree                      int // the staging directory as a detached mount; -1: the plan makes it
	readOnly                  bool
}

const firstFree = 16

// startConfined makes the process of a worker and returns our end of its
// socket. mapped asks for an id-mapped mount of staging, readOnly for one that
// can't be written to.
func startConfined(staging string, ids idmap.Map, exe *os.File, mapped, readOnly bool) (l *life, sock int, err error) {
	if ids.Kind == idmap.Host {
		if ids, err = identity(); err != nil {
			return nil, -1, err
		}
	}
	if mapped {
		if exe, err = executableByAll(exe); err != nil {
			return nil, -1, err
		}
		defer exe.Close()
	}
	var pair, pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, -1, err
	}
	l = &life{
		ids: ids, stderr: os.NewFile(uintptr(pipe[0]), "worker's stderr"),
		said: make(chan string, 1), ended: make(chan struct{}),
	}
	if pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0); err != nil {
		unix.Close(pipe[1])
		l.stderr.Close()
		return nil, -1, err
	}
	fds := descriptors{readOnly: readOnly}
	var open []int
	high := func(fd int, keep bool) int {
		if err != nil {
			return -1
		}
		var h int
		if h, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, firstFree); err == nil {
			open = append(open, h)
		}
		if !keep {
			unix.Close(fd)
		}
		return h
	}
	fds.stderr, fds.socket = high(pipe[1], false), high(pair[1], false)
	fds.exe = high(int(exe.Fd()), true)
	var null int
	if null, err = again.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC, 0); err == nil {
		fds.null = high(null, false)
	}
	fds.tree = -1
	if err == nil && os.Geteuid() == 0 {
		// Root may do it out here, where its capabilities reach every path.
		var tree int
		if tree, err = unix.OpenTree(unix.AT_FDCWD, staging, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err == nil {
			fds.tree = high(tree, false)
		} else {
			err = &os.PathError{Op: "open_tree", Path: staging, Err: err}
		}
	}
	if err == nil {
		err = l.start(staging, fds, mapped)
	}
	for _, fd := range open {
		unix.Close(fd)
	}
	if err != nil {
		unix.Close(pair[0])
		l.stderr.Close()
		return nil, -1, err
	}
	go l.listenStderr()
	return l, pair[0], nil
}

// start runs the plan to the point from which it needs nothing of skiff's
// descriptors.
func (l *life) start(staging string, fds descriptors, mapped bool) error {
	p := plan.New()
	idsWritten, copied := p.Gate(), p.Gate()
	self, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return err
	}
	defer unix.Close(self)
	confine(p, self, staging, fds, idsWritten, copied)
	dumpable, _, _ := unix.RawSyscall(unix.SYS_PRCTL, unix.PR_GET_DUMPABLE, 0, 0)

	started := make(chan error, 1)
	// A goroutine of its own: its thread must live as long as the task, whose
	// PDEATHSIG is tied to it.
	go func() {
		task, err := p.Start(plan.Clone{Flags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID |
			unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS})
		if err != nil {
			started <- err
			return
		}
		l.task = task
		err = l.admit(fds, mapped, idsWritten, copied)
		if err != nil {
			l.kill()
		}
		started <- err
		l.wait()
	}()
	err = <-started
	if err != nil && l.task != nil {
		<-l.ended
	}
	// The task shares skiff's memory until it execs; when it took on its new ids
	// the kernel made that undumpable, which nobody asked for.
	if dumpable == 1 {
		unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0)
	}
	return err
}

// admit writes the task's id map, prepares its root and lets it go.
func (l *life) admit(fds descriptors, mapped bool, idsWritten, copied plan.Gate) error {
	if err := idmap.Write(l.task.PID, l.ids); err != nil {
		return err
	}
	if fds.tree >= 0 {
		attr := fds.rootAttr()
		if mapped {
			userns, err := os.Open("/proc/" + strconv.Itoa(l.task.PID) + "/ns/user")
			if err != nil {
				return err
			}
			defer userns.Close()
			attr.Attr_set |= unix.MOUNT_ATTR_IDMAP
			attr.Userns_fd = uint64(userns.Fd())
		}
		err := unix.MountSetattr(fds.tree, "", unix.AT_EMPTY_PATH, &attr)
		if err != nil && mapped {
			return fmt.Errorf("%w: %w", errNoIDMappedMount, err)
		}
		if err != nil && err != unix.ENOSYS {
			return &plan.Error{Index: -1, Step: "mount_setattr", Err: err}
		}
	}
	l.task.Open(idsWritten)
	return l.task.Passed(copied)
}

// rootAttr is what a worker's root is mounted with. Under systemd every
// mount is shared, and so is a clone of it; pivot_root(2) refuses such a root.
func (fds descriptors) rootAttr() unix.MountAttr {
	attr := unix.MountAttr{
		Propagation: unix.MS_PRIVATE,
		Attr_set:    unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC,
	}
	if fds.readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	return attr
}

// confine appends all that a worker's task does before it becomes a worker.
// self is a pidfd of skiff's.
func confine(p *plan.Plan, self int, staging string, fds descriptors, idsWritten, copied plan.Gate) {
	p.Tie(self)
	p.Wait("wait for the id map", idsWritten)
	p.Call("own descriptors", unix.SYS_UNSHARE, plan.Int(unix.CLONE_FILES))

	// The staging directory becomes the root, and all else is gone. It is mounted
	// over the old root, which needs no path that might be closed to us.
	p.Call("mounts private", unix.SYS_MOUNT, plan.Int(0), p.Str("/"), plan.Int(0), plan.Int(unix.MS_REC|unix.MS_PRIVATE), plan.Int(0))
	tree := plan.Int(fds.tree)
	if fds.tree < 0 {
		r := p.Reg()
		p.Call("open staging directory", unix.SYS_OPEN_TREE, plan.Int(unix.AT_FDCWD), p.Str(staging),
			plan.Int(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)).Into(r).At(staging)
		attr := fds.rootAttr()
		p.Call("mount options", unix.SYS_MOUNT_SETATTR, r.Arg(), p.Str(""), plan.Int(unix.AT_EMPTY_PATH), p.Bytes(bytesOf(&attr)),
			plan.Int(unsafe.Sizeof(attr))).Ignore(unix.ENOSYS)
		tree = r.Arg()
	}
	p.Call("mount root", unix.SYS_MOVE_MOUNT, tree, p.Str(""), plan.Int(unix.AT_FDCWD), p.Str("/"),
		plan.Int(unix.MOVE_MOUNT_F_EMPTY_PATH)).At(staging)
	p.Call("enter root", unix.SYS_FCHDIR, tree)
	p.Call("pivot_root", unix.SYS_PIVOT_ROOT, p.Str("."), p.Str("."))
	p.Call("leave old root", unix.SYS_UMOUNT2, p.Str("."), plan.Int(unix.MNT_DETACH))
	p.Call("enter root", unix.SYS_CHDIR, p.Str("/"))

	// A single id may not call setgroups.
	p.Call("setresgid", unix.SYS_SETRESGID, plan.Int(0), plan.Int(0), plan.Int(0))
	p.Call("setgroups", unix.SYS_SETGROUPS, plan.Int(0), plan.Int(0)).Ignore(unix.EPERM)
	p.Call("setresuid", unix.SYS_SETRESUID, plan.Int(0), plan.Int(0), plan.Int(0))
	p.Tie(self)
	p.Call("umask", unix.SYS_UMASK, plan.Int(0))
	p.Call("session", unix.SYS_SETSID).Ignore(unix.EPERM)

	for i, from := range []int{fds.null, fds.null, fds.stderr, fds.socket} {
		p.Call("descriptor "+strconv.Itoa(i), unix.SYS_DUP3, plan.Int(from), plan.Int(i), plan.Int(0))
	}
	// Skiff may close its copies: ours are made.
	p.Signal("descriptors copied", copied)

	limit := func(name string, resource int, n uint64) {
		b := p.Bytes(bytesOf(&unix.Rlimit{Cur: n, Max: n}))
		// A hard limit that is lower already can't be raised, and need not be.
		p.Call("limit "+name, unix.SYS_PRLIMIT64, plan.Int(0), plan.Int(resource), b, plan.Int(0)).Ignore(unix.EPERM)
	}
	limit("address space", unix.RLIMIT_AS, workerMemory)
	limit("core", unix.RLIMIT_CORE, 0)
	limit("file size", unix.RLIMIT_FSIZE, workerFile)
	limit("open files", unix.RLIMIT_NOFILE, workerFiles)
	limit("processor time", unix.RLIMIT_CPU, workerSeconds)

	var keep uint64
	for _, c := range workerCaps {
		keep |= 1 << c
	}
	for c := range unix.CAP_LAST_CAP + 1 {
		if keep&(1<<c) == 0 {
			p.Call("bounding set", unix.SYS_PRCTL, plan.Int(unix.PR_CAPBSET_DROP), plan.Int(c)).Ignore(unix.EINVAL)
		}
	}
	who := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	low := unix.CapUserData{Effective: uint32(keep), Permitted: uint32(keep)}
	p.Call("capabilities", unix.SYS_CAPSET, p.Bytes(bytesOf(&who)), p.Bytes(bytesOf(&[2]unix.CapUserData{low, {}})))
	p.Call("no_new_privs", unix.SYS_PRCTL, plan.Int(unix.PR_SET_NO_NEW_PRIVS), plan.Int(1), plan.Int(0), plan.Int(0), plan.Int(0))
	landlock(p, landlockABI())

	p.Call("signal mask", unix.SYS_RT_SIGPROCMASK, plan.Int(unix.SIG_SETMASK), p.Buffer(8), plan.Int(0), plan.Int(8))
	p.Call("close descriptors", unix.SYS_CLOSE_RANGE, plan.Int(workerSocket+1), plan.Int(uint32(1<<32-1)),
		plan.Int(unix.CLOSE_RANGE_CLOEXEC))
	env := []string{"GOTRACEBACK=none"}
	if os.Getenv("SKIFF_GZIP") == "std" { // which package codec asks for
		env = append(env, "SKIFF_GZIP=std")
	}
	p.Call("exec worker", unix.SYS_EXECVEAT, plan.Int(fds.exe), p.Str(""), p.Strs([]string{workerName}),
		p.Strs(env), plan.Int(unix.AT_EMPTY_PATH))
}

// landlockABI probes; 0: there is none.
func landlockABI() int {
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(abi)
}

// landlock forbids to write outside the root, to use TCP, and to reach other
// processes by signals or abstract sockets. Reading and executing stay allowed,
// because the worker's own executable is outside; there is nothing else to see.
// Source: landlock(7); docs.kernel.org/userspace-api/landlock.html.
func landlock(p *plan.Plan, abi int) {
	if abi == 0 {
		return
	}
	fs := uint64(unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM)
	if abi >= 2 {
		fs |= unix.LANDLOCK_ACCESS_FS_REFER
	}
	if abi >= 3 {
		fs |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if abi >= 5 {
		fs |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	attr := binary.NativeEndian.AppendUint64(nil, fs)
	if abi >= 4 {
		attr = binary.NativeEndian.AppendUint64(attr, unix.LANDLOCK_ACCESS_NET_BIND_TCP|unix.LANDLOCK_ACCESS_NET_CONNECT_TCP)
	}
	if abi >= 6 {
		attr = binary.NativeEndian.AppendUint64(attr, unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET|unix.LANDLOCK_SCOPE_SIGNAL)
	}
	// A rule has its descriptor in memory, so that has to have a known number,
	// taken before the ruleset could get it. EINVAL: it has that number already.
	const rootFD = firstFree - 1
	ruleset, root := p.Reg(), p.Reg()
	p.Call("open root", unix.SYS_OPENAT, plan.Int(unix.AT_FDCWD), p.Str("/"), plan.Int(unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC), plan.Int(0)).Into(root)
	p.Call("root descriptor", unix.SYS_DUP3, root.Arg(), plan.Int(rootFD), plan.Int(unix.O_CLOEXEC)).Ignore(unix.EINVAL)
	p.Call("landlock ruleset", unix.SYS_LANDLOCK_CREATE_RULESET, p.Bytes(attr), plan.Int(len(attr)), plan.Int(0)).Into(ruleset)
	rule := binary.NativeEndian.AppendUint64(nil, fs)
	rule = binary.NativeEndian.AppendUint32(rule, rootFD)
	p.Call("landlock rule", unix.SYS_LANDLOCK_ADD_RULE, ruleset.Arg(), plan.Int(unix.LANDLOCK_RULE_PATH_BENEATH), p.Bytes(rule), plan.Int(0))
	p.Call("landlock", unix.SYS_LANDLOCK_RESTRICT_SELF, ruleset.Arg(), plan.Int(0))
}

// bytesOf is a kernel structure as the bytes that it is.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}

// executableByAll returns exe, or a sealed copy in memory if the host's nobody,
// who the worker is, may not execute it.
func executableByAll(exe *os.File) (*os.File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(exe.Fd()), &st); err != nil {
		return nil, err
	}
	if st.Mode&0o005 == 0o005 {
		fd, err := unix.FcntlInt(exe.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), exe.Name()), nil
	}
	fd, err := unix.MemfdCreate("skiff", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, &os.PathError{Op: "memfd_create", Path: exe.Name(), Err: err}
	}
	defer unix.Close(fd)
	for offset := int64(0); offset < st.Size; {
		n, err := unix.Sendfile(fd, int(exe.Fd()), &offset, int(min(st.Size-offset, 1<<30)))
		if err != nil && err != unix.EINTR {
			return nil, &os.PathError{Op: "copy", Path: exe.Name(), Err: err}
		}
		if n == 0 && err == nil {
			break
		}
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, &os.PathError{Op: "seal", Path: exe.Name(), Err: err}
	}
	// What is open for writing can't be executed.
	return os.Open("/proc/self/fd/" + strconv.Itoa(fd))
}
