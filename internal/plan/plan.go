// Package plan is skiff's one primitive: an ordered list of system calls as
// plain data, and the small executor that performs it in a new task.
//
// Ordinary Go works the list out beforehand, without privilege and without
// side effects. Start then makes a task with clone3(2) that shares the memory
// and the descriptor table of skiff (CLONE_VM, CLONE_FILES), and a loop of Go
// assembler performs the list in it: no Go runtime, no second program start.
// What cannot be known beforehand travels in registers: the result of one
// operation is an argument of a later one, and the parent may read and set
// registers while the task runs. Gates order the two.
//
// Because a plan is data it can be printed, compared with a golden file and
// reviewed; a failing operation reports its index and errno, from which its
// step name and path follow.
//
// Limits: the executor exists for amd64 and arm64. There are no branches but
// Op.When and Op.Unless: whatever can be resolved beforehand is resolved by
// the caller. The task runs with every signal blocked and must end in execveat
// or exit_group; until then the caller must not let anything untrusted trace
// it, since it shares skiff's memory.
package plan

import (
	"fmt"
	"syscall"
	"unsafe"
)

// A Plan is an ordered list of operations under construction. Its zero value
// is not usable; New makes one.
type Plan struct {
	ops    []op
	steps  []Step
	data   []byte  // strings, buffers and pointer tables; offsets are Args
	reloc  []reloc // pointers inside data
	regs   int
	preset []preset
	next   handOver
}

// A handOver is where a task waits for the plan that follows: a gate, and the
// register that then holds the address of its header.
type handOver struct {
	gate Gate
	at   Reg
}

type preset struct{ reg, value int }

// A Step is what people are told of one operation.
type Step struct {
	Name string // "mount proc"; the STEP of an error message
	Path string // the path at fault inside the container or on the host, or ""
	Args []Arg
}

// op is one operation as the assembler reads it: opSize bytes.
type op struct {
	nr     uint64
	args   [6]uint64
	regs   uint64    // bit i: args[i] is the index of a register
	cond   uint64    // 0: always; index<<2|1: register >= 0; index<<2|2: register < 0
	ignore [3]uint64 // bitmap of errnos that do not matter
	out    uint64    // register for the result; register 0 is never read
	zero   uint64    // if not 0: a result other than 0 fails with this errno
}

const (
	opSize = 8 * (1 + 6 + 1 + 1 + 3 + 1 + 1)

	// Operations that are no system calls. Wait blocks until the 32-bit word at
	// args[0] is not 0; signal stores 1 there and wakes waiters. Both go by
	// futex(2). Next goes on with the plan whose header is at args[0].
	nrWait   = 1 << 32
	nrSignal = 1<<32 + 1
	nrNext   = 1<<32 + 2
)

type reloc struct{ at, to int } // the 8 bytes at data[at:] point to data[to:]

// An Arg is one argument of an operation.
type Arg struct {
	kind  argKind
	value uint64 // number, register index, or offset into Plan.data
	size  int    // bytes behind an offset
}

type argKind uint8

const (
	argInt argKind = iota
	argReg
	argStr
	argBytes
	argStrs
	argStatic
)

// A Reg carries the result of one operation to later ones.
type Reg int

// Int is a number.
func Int[T ~int | ~int32 | ~int64 | ~uint | ~uint16 | ~uint32 | ~uint64 | ~uintptr](n T) Arg {
	return Arg{kind: argInt, value: uint64(n)}
}

// Arg is the register's value at the time the operation runs.
func (r Reg) Arg() Arg { return Arg{kind: argReg, value: uint64(r)} }

// New returns an empty plan.
func New() *Plan {
	return &Plan{
		ops:   make([]op, 0, 16),
		steps: make([]Step, 0, 16),
		regs:  1,
	}
}

// Then ends the plan where its task waits for another, which Task.Load hands
// it, and returns that other, empty. So a task can be on its way while it is
// still being worked out what it shall do. The two number their registers
// apart, but have none in common.
func (p *Plan) Then() *Plan {
	p.next = handOver{p.Gate(), p.Reg()}
	p.Wait("wait for the rest", p.next.gate)
	p.add("go on", nrNext, []Arg{p.next.at.Arg()})
	return &Plan{
		ops:   make([]op, 0, 256),
		steps: make([]Step, 0, 256),
		data:  make([]byte, 0, 8<<10),
		regs:  p.regs,
	}
}

// Reg returns a fresh register, 0 until an operation or Task.Set fills it.
func (p *Plan) Reg() Reg {
	p.regs++
	return Reg(p.regs - 1)
}

// Preset returns a fresh register that holds v from the start.
func (p *Plan) Preset(v int) Reg {
	r := p.Reg()
	p.preset = append(p.preset, preset{int(r), v})
	return r
}

// Str is a pointer to s as a C string. A NUL inside s panics: callers refuse
// such input long before.
func (p *Plan) Str(s string) Arg {
	for i := range len(s) {
		if s[i] == 0 {
			panic("plan: NUL in string " + s)
		}
	}
	at := p.grow(len(s) + 1)
	copy(p.data[at:], s)
	return Arg{kind: argStr, value: uint64(at), size: len(s)}
}

// Bytes is a pointer to a copy of b. Task.Data reads it back.
func (p *Plan) Bytes(b []byte) Arg {
	at := p.grow(len(b))
	copy(p.data[at:], b)
	return Arg{kind: argBytes, value: uint64(at), size: len(b)}
}

// Buffer is Bytes of n zeros.
func (p *Plan) Buffer(n int) Arg {
	return Arg{kind: argBytes, value: uint64(p.grow(n)), size: n}
}

// Static is a pointer to memory that never moves nor is freed: the bytes of a
// constant or of an embedded file. They are not copied.
func (p *Plan) Static(s string) Arg {
	return Arg{kind: argStatic, value: uint64(uintptr(unsafe.Pointer(unsafe.StringData(s)))), size: len(s)}
}

// Strs is a pointer to a NULL-terminated table of C strings, as execve wants.
func (p *Plan) Strs(ss []string) Arg {
	at := p.grow(8 * (len(ss) + 1))
	for i, s := range ss {
		p.reloc = append(p.reloc, reloc{at + 8*i, int(p.Str(s).value)})
	}
	return Arg{kind: argStrs, value: uint64(at), size: len(ss)}
}

// Point makes the 8 bytes at offset inside buffer b a pointer to what target
// points to. Source: structures such as sock_fprog and iovec.
func (p *Plan) Point(b Arg, offset int, target Arg) {
	at := int(b.value) + offset
	if target.kind == argStatic {
		*(*uint64)(unsafe.Pointer(&p.data[at])) = target.value
		return
	}
	p.reloc = append(p.reloc, reloc{at, int(target.value)})
}

func (p *Plan) grow(n int) int {
	at := (len(p.data) + 7) &^ 7
	if cap(p.data) < at+n {
		bigger := make([]byte, len(p.data), 2*(at+n))
		copy(bigger, p.data)
		p.data = bigger
	}
	p.data = p.data[:at+n]
	return at
}

// An Op refers to an operation of a plan, to qualify it.
type Op struct {
	p *Plan
	i int
}

// Call appends a system call. step names it for people; an argument is an Arg
// or a Reg's Arg().
//
// openat2 is tried again when it says EAGAIN: somebody on this machine renamed
// or mounted something while it followed a "..", which says nothing about the
// path. Source: openat2(2), RESOLVE_IN_ROOT. Every call but close is tried again when
// it says EINTR, as from a store on FUSE or NFS.
func (p *Plan) Call(step string, nr uintptr, args ...Arg) Op {
	return p.add(step, uint64(nr), args)
}

func (p *Plan) add(step string, nr uint64, args []Arg) Op {
	if len(args) > 6 {
		panic("plan: more than six arguments")
	}
	o := op{nr: nr}
	for i, a := range args {
		o.args[i] = a.value
		if a.kind == argReg {
			o.regs |= 1 << i
		}
	}
	p.ops = append(p.ops, o)
	p.steps = append(p.steps, Step{Name: step, Args: args})
	return Op{p, len(p.ops) - 1}
}

// Into keeps the operation's result, or minus the errno if that is ignored, in
// r. An operation that is left out by When or Unless does not touch r.
func (o Op) Into(r Reg) Op { o.p.ops[o.i].out = uint64(r); return o }

// Ignore lists errnos that do not matter: the plan goes on.
func (o Op) Ignore(errnos ...syscall.Errno) Op {
	for _, e := range errnos {
		o.p.ops[o.i].ignore[e/64] |= 1 << (e % 64)
	}
	return o
}

// IgnoreAll makes every errno one that does not matter.
func (o Op) IgnoreAll() Op {
	o.p.ops[o.i].ignore = [3]uint64{^uint64(0), ^uint64(0), ^uint64(0)}
	return o
}

// When leaves the operation out while r is negative, that is after an ignored
// error.
func (o Op) When(r Reg) Op { o.p.ops[o.i].cond = uint64(r)<<2 | 1; return o }

// Unless leaves the operation out unless r is negative.
func (o Op) Unless(r Reg) Op { o.p.ops[o.i].cond = uint64(r)<<2 | 2; return o }

// Zero fails the operation with errno if it succeeds with a result other than 0.
func (o Op) Zero(errno syscall.Errno) Op { o.p.ops[o.i].zero = uint64(errno); return o }

// At names the path that a failure of this operation is about.
func (o Op) At(path string) Op { o.p.steps[o.i].Path = path; return o }

// A Gate is a one-way latch in the memory that task and parent share.
type Gate struct{ arg Arg }

// Gate returns a fresh, closed gate.
func (p *Plan) Gate() Gate { return Gate{p.Buffer(8)} }

// Wait appends an operation that blocks until the gate is open.
func (p *Plan) Wait(step string, g Gate) Op { return p.add(step, nrWait, []Arg{g.arg}) }

// Signal appends an operation that opens the gate for the parent.
func (p *Plan) Signal(step string, g Gate) Op { return p.add(step, nrSignal, []Arg{g.arg}) }

// Len is the number of operations.
func (p *Plan) Len() int { return len(p.ops) }

// An Error is an operation that failed inside a task.
type Error struct {
	Index int    // of the operation; -1 if there was no task
	Step  string // its name
	Path  string // the path at fault, or ""
	Err   error  // the errno
}

func (e *Error) Error() string {
	if e.Path != "" {
		return fmt.Sprintf("%s: %s: %v", e.Step, e.Path, e.Err)
	}
	return fmt.Sprintf("%s: %v", e.Step, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }
