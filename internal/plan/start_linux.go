package plan

import (
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// cloneArgs is struct clone_args of clone3(2), kernel 5.7.
type cloneArgs struct {
	flags, pidfd     uint64
	_, _             uint64 // child_tid, parent_tid
	exitSignal       uint64
	stack, stackSize uint64
	_, _, _          uint64 // tls, set_tid, set_tid_size
	cgroup           uint64
}

// header is what the assembler knows of a plan.
type header struct {
	ops, count, regs   uint64
	failIndex, failErr uint64
}

// Clone says what task Start makes.
type Clone struct {
	Flags  uint64 // CLONE_NEW*; Start adds what its executor needs
	Cgroup int    // descriptor of a cgroup v2 directory to be born in; 0 = the caller's
}

// A Task is a process that performs a plan. Until it execs, it shares memory
// and descriptors with skiff.
type Task struct {
	PID    int
	Pidfd  int // pollable; owned by the caller
	plan   *Plan
	arena  []byte
	ops    []op
	data   int // offset of the plan's data in arena
	regs   []uint64
	header *header
	before *Task // what performed the plan that this one's follows
}

const stackSize = 4096 // the task has no handlers and calls nothing

// Start makes a task that performs the plan.
//
// A plan that sets PR_SET_PDEATHSIG is tied to the thread that made it. Go ends
// a thread only with a goroutine that is locked to it; where there are such
// goroutines, the caller keeps its thread from them by being locked to it as well.
// The memory of the plan is never unmapped, since no one tells when the task
// execs.
//
// The error is an *Error with Index -1 whose Err is clone3's errno.
// Source: clone(2); kernel 5.5 for CLONE_CLEAR_SIGHAND, 5.7 for Cgroup.
func (p *Plan) Start(c Clone) (*Task, error) {
	t, err := p.load()
	if err != nil {
		return nil, &Error{Index: -1, Step: "map memory", Err: err}
	}
	var pidfd int32 = -1
	args := &cloneArgs{
		flags:      c.Flags | unix.CLONE_VM | unix.CLONE_FILES | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		pidfd:      uint64(uintptr(unsafe.Pointer(&pidfd))),
		exitSignal: uint64(unix.SIGCHLD),
		stack:      uint64(uintptr(unsafe.Pointer(&t.arena[0]))),
		stackSize:  stackSize,
	}
	if c.Cgroup > 0 {
		args.flags |= unix.CLONE_INTO_CGROUP
		args.cgroup = uint64(c.Cgroup)
	}

	// The task inherits the mask, so no handler of Go's ever runs in it. Nothing
	// here gives the thread away: the calls check no stack, and with its signals
	// blocked it is not preempted.
	all, old := ^uint64(0), uint64(0)
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), 8, 0, 0)
	r := cloneRun(args, unsafe.Sizeof(*args), t.header)
	syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&old)), 0, 8, 0, 0)
	runtime.KeepAlive(args)
	if r > ^uintptr(4095) {
		unix.Munmap(t.arena)
		return nil, &Error{Index: -1, Step: "clone3", Err: syscall.Errno(-r)}
	}
	t.PID, t.Pidfd = int(r), int(pidfd)
	return t, nil
}

// load copies the plan into memory that the Go runtime does not manage, and
// makes its pointers real.
func (p *Plan) load() (*Task, error) {
	ops := len(p.ops) * opSize
	regs := stackSize + int(unsafe.Sizeof(header{}))
	fixed := regs + p.regs*8
	data := (fixed + ops + 15) &^ 15
	// The child would otherwise take a page fault for each page.
	arena, err := unix.Mmap(-1, 0, data+len(p.data)+8, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, err
	}
	t := &Task{
		plan:   p,
		arena:  arena,
		data:   data,
		regs:   unsafe.Slice((*uint64)(unsafe.Pointer(&arena[regs])), p.regs),
		header: (*header)(unsafe.Pointer(&arena[stackSize])),
	}
	copy(arena[data:], p.data)
	base := uint64(uintptr(unsafe.Pointer(&arena[data])))
	for _, r := range p.reloc {
		*(*uint64)(unsafe.Pointer(&arena[data+r.at])) = base + uint64(r.to)
	}
	t.header.regs = uint64(uintptr(unsafe.Pointer(&t.regs[0])))
	for _, s := range p.preset {
		t.regs[s.reg] = uint64(s.value)
	}
	t.header.count = uint64(len(p.ops))
	if ops == 0 {
		return t, nil
	}
	t.header.ops = uint64(uintptr(unsafe.Pointer(&arena[fixed])))
	loaded := unsafe.Slice((*op)(unsafe.Pointer(&arena[fixed])), len(p.ops))
	t.ops = loaded
	copy(loaded, p.ops)
	for i := range loaded {
		for j, a := range p.steps[i].Args {
			switch a.kind {
			case argStr, argBytes, argStrs:
				loaded[i].args[j] = base + a.value
			}
		}
	}
	return t, nil
}

// Load makes a plan ready that follows the task's, which ends by Then. The
// result stands for the same process; once its registers are set, Continue lets
// it go on.
func (t *Task) Load(p *Plan) (*Task, error) {
	next, err := p.load()
	if err != nil {
		return nil, &Error{Index: -1, Step: "map memory", Err: err}
	}
	next.PID, next.Pidfd, next.before = t.PID, t.Pidfd, t
	return next, nil
}

// Continue hands the task the plan that Load has made ready.
func (t *Task) Continue() {
	last := t.before
	last.Set(last.plan.next.at, int(uintptr(unsafe.Pointer(t.header))))
	last.Open(last.plan.next.gate)
}

// Reg reads a register: the value is settled once the task has passed a gate
// that it signals afterwards, or has ended.
func (t *Task) Reg(r Reg) int { return int(atomic.LoadUint64(&t.regs[r])) }

// Set fills a register before the gate behind which the task reads it is
// opened.
func (t *Task) Set(r Reg, v int) { atomic.StoreUint64(&t.regs[r], uint64(v)) }

// Data is the task's copy of what a Bytes or Buffer argument points to.
func (t *Task) Data(a Arg) []byte {
	return t.arena[t.data+int(a.value):][:a.size]
}

// Open lets the task pass the gate.
func (t *Task) Open(g Gate) {
	word := t.word(g)
	atomic.StoreUint32(word, 1)
	syscall.RawSyscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWake, 1<<31-1, 0, 0, 0)
}

// Passed waits until the task has signalled the gate. It returns the task's
// failure if it ends before.
func (t *Task) Passed(g Gate) error {
	word := t.word(g)
	for wait := 20 * time.Millisecond; atomic.LoadUint32(word) == 0; wait = min(2*wait, time.Second) {
		if err := t.Failure(); err != nil {
			return err
		}
		// A task that dies wakes nobody: look at its pidfd between waits. They grow,
		// so that a thousand starts at once do not spend their time in looking.
		timeout := unix.NsecToTimespec(int64(wait))
		_, _, errno := syscall.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(word)), futexWait, 0, uintptr(unsafe.Pointer(&timeout)), 0, 0)
		if errno == syscall.ETIMEDOUT && t.ended() && atomic.LoadUint32(word) == 0 {
			if err := t.Failure(); err != nil {
				return err
			}
			return &Error{Index: -1, Step: "wait for task", Err: syscall.ESRCH}
		}
	}
	return nil
}

const (
	futexWait = 0
	futexWake = 1
)

func (t *Task) word(g Gate) *uint32 {
	return (*uint32)(unsafe.Pointer(&t.arena[t.data+int(g.arg.value)]))
}

func (t *Task) ended() bool {
	fds := []unix.PollFd{{Fd: int32(t.Pidfd), Events: unix.POLLIN}}
	n, _ := unix.Poll(fds, 0)
	return n > 0
}

// Failure is the operation that failed, an *Error, or nil while none has.
func (t *Task) Failure() error {
	errno := atomic.LoadUint64(&t.header.failErr)
	if errno == 0 && t.before != nil {
		return t.before.Failure()
	}
	if errno == 0 {
		return nil
	}
	return t.plan.failure(int(t.header.failIndex), syscall.Errno(errno))
}

func (p *Plan) failure(index int, errno syscall.Errno) *Error {
	s := p.steps[index]
	return &Error{Index: index, Step: s.Name, Path: s.Path, Err: errno}
}

// Wait reaps the task and returns its status, and the operation that failed
// if it was the plan that ended it.
func (t *Task) Wait() (syscall.WaitStatus, error) {
	var ws syscall.WaitStatus
	for {
		_, err := syscall.Wait4(t.PID, &ws, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return ws, &Error{Index: -1, Step: "wait4", Err: err}
		}
		return ws, t.Failure()
	}
}

// Free gives back the memory of a plan whose task Wait has reaped. Neither
// registers nor data can be read any more.
func (t *Task) Free() {
	if t.before != nil {
		t.before.Free()
	}
	unix.Munmap(t.arena)
	t.arena, t.regs, t.header, t.ops = nil, nil, nil, nil
}
