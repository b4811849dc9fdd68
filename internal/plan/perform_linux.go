package plan

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Perform runs the plan on the calling thread, in plain Go. It is the second
// executor: what the assembler does must equal it, operation by operation.
//
// The caller has locked its goroutine to the thread and is a process made for
// this purpose; what the plan changes (namespaces, credentials, root) is not
// taken back. It returns the registers, and an *Error for the operation that
// failed; a plan that ends in execveat does not return.
func (p *Plan) Perform() ([]int, error) {
	t, err := p.load()
	if err != nil {
		return nil, &Error{Index: -1, Step: "map memory", Err: err}
	}
	ops := t.ops
	if p.next != (handOver{}) {
		ops = ops[:len(ops)-2] // nobody hands over the plan that follows
	}
	for i := range ops {
		if errno := t.perform(&t.ops[i]); errno != 0 {
			return t.registers(), p.failure(i, errno)
		}
	}
	return t.registers(), nil
}

func (t *Task) perform(o *op) syscall.Errno {
	if r := int64(t.regs[o.cond>>2]); o.cond&1 != 0 && r < 0 || o.cond&2 != 0 && r >= 0 {
		return 0
	}
	var a [6]uintptr
	for i := range a {
		a[i] = uintptr(o.args[i])
		if o.regs&(1<<i) != 0 {
			a[i] = uintptr(t.regs[o.args[i]])
		}
	}
	switch o.nr {
	case nrWait:
		for atomic.LoadUint32(t.wordAt(a[0])) == 0 {
			syscall.RawSyscall6(unix.SYS_FUTEX, a[0], futexWait, 0, 0, 0, 0)
		}
		return 0
	case nrSignal:
		atomic.StoreUint32(t.wordAt(a[0]), 1)
		syscall.RawSyscall6(unix.SYS_FUTEX, a[0], futexWake, 1<<31-1, 0, 0, 0)
		return 0
	}
	r, _, errno := syscall.RawSyscall6(uintptr(o.nr), a[0], a[1], a[2], a[3], a[4], a[5])
	for errno == unix.EINTR && o.nr != unix.SYS_CLOSE || errno == unix.EAGAIN && o.nr == unix.SYS_OPENAT2 {
		r, _, errno = syscall.RawSyscall6(uintptr(o.nr), a[0], a[1], a[2], a[3], a[4], a[5])
	}
	if errno == 0 && o.zero != 0 && r != 0 {
		errno = syscall.Errno(o.zero)
	}
	if errno != 0 {
		if errno/64 >= 3 || o.ignore[errno/64]>>(errno%64)&1 == 0 {
			return errno
		}
		r = -uintptr(errno)
	}
	t.regs[o.out] = uint64(r)
	return 0
}

// wordAt is the gate at an address inside the arena.
func (t *Task) wordAt(address uintptr) *uint32 {
	base := uintptr(unsafe.Pointer(&t.arena[0]))
	return (*uint32)(unsafe.Pointer(&t.arena[address-base]))
}

func (t *Task) registers() []int {
	regs := make([]int, t.plan.regs)
	for i := range regs {
		regs[i] = int(t.regs[i])
	}
	return regs
}
