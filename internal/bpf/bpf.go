// Package bpf compiles system call rules into a classic BPF program for
// seccomp(2), laid out as a balanced binary tree over system call numbers.
//
// The shape matters because the kernel runs a new filter once for every number
// of every architecture it knows, to build a bitmap of what is always allowed
// (kernel/seccomp.c, seccomp_cache_prepare, since 5.11). A tree answers in
// about eight comparisons where a list needs hundreds.
//
// Limits: little-endian machines only, since the two halves of an argument are
// addressed by offset. A program is correct for the numbers it was given; that
// they belong to Arch is the caller's care. User notification is not offered:
// nobody here would listen.
package bpf

import (
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"
)

// MaxLen is the kernel's limit on instructions in one program.
// Source: linux/bpf_common.h, BPF_MAXINSNS.
const MaxLen = unix.BPF_MAXINSNS

// x32Bit marks a system call number of the x32 ABI, which shares AUDIT_ARCH
// with amd64. Source: asm/unistd.h, __X32_SYSCALL_BIT.
const x32Bit = 0x40000000

// An Action is what a program returns: SECCOMP_RET_* with its 16 bits of data.
type Action uint32

const (
	KillProcess Action = unix.SECCOMP_RET_KILL_PROCESS
	KillThread  Action = unix.SECCOMP_RET_KILL_THREAD
	Trap        Action = unix.SECCOMP_RET_TRAP
	Log         Action = unix.SECCOMP_RET_LOG
	Allow       Action = unix.SECCOMP_RET_ALLOW
)

// Errno makes the system call fail with e without running it. Errno(0) makes it
// seem to succeed. The kernel caps e at 4095.
func Errno(e syscall.Errno) Action { return unix.SECCOMP_RET_ERRNO | Action(e)&unix.SECCOMP_RET_DATA }

// Trace hands the call to a ptracer with data; without one it fails with ENOSYS.
func Trace(data uint16) Action { return unix.SECCOMP_RET_TRACE | Action(data) }

// An Op compares an argument with a value, both as unsigned 64-bit numbers.
type Op uint8

const (
	Equal Op = iota
	NotEqual
	Less
	LessEqual
	GreaterEqual
	Greater
	MaskedEqual // argument & Mask == Value
)

// A Cond is one comparison of one argument.
type Cond struct {
	Arg   uint8 // 0 to 5
	Op    Op
	Value uint64
	Mask  uint64 // for MaskedEqual
}

// A Rule gives Action to calls of number NR for which every one of Conds holds.
type Rule struct {
	NR     uint32
	Conds  []Cond
	Action Action
}

// A Table is the rules of one architecture.
type Table struct {
	Arch uint32 // AUDIT_ARCH_*

	// Rules of different numbers stand in any order. Of several rules with one
	// number the first that applies decides, as written.
	Rules []Rule

	Default Action // where no rule applies
	X32     Action // for numbers with the x32 bit, if Arch is AUDIT_ARCH_X86_64; they have no rules
}

// A Policy is what a program decides: one table per architecture, and what
// becomes of calls from any other.
type Policy struct {
	Tables  []Table
	Foreign Action
}

// Compile returns p as a program. It fails if a rule makes no sense or if the
// program would be longer than MaxLen.
func Compile(p Policy) ([]unix.SockFilter, error) {
	a := assembler{}
	// Instructions are emitted last to first, so that every jump knows its target.
	next := a.ret(p.Foreign)
	for _, t := range slices.Backward(p.Tables) {
		body, err := a.table(t)
		if err != nil {
			return nil, err
		}
		next = a.jump(unix.BPF_JEQ, t.Arch, body, next)
	}
	a.load(offArch)
	if n := len(a.code); n > MaxLen {
		return nil, fmt.Errorf("seccomp filter of %d instructions: the kernel takes %d: %w", n, MaxLen, unix.E2BIG)
	}
	slices.Reverse(a.code)
	return a.code, nil
}

// span is a run of numbers, from its start to the next span's, that are treated alike.
type span struct {
	start uint32
	rules []Rule // of the one number in this span, if arguments matter
	act   Action // else, and where no rule applies
}

// table emits the load of the number and the tree over it.
func (a *assembler) table(t Table) (label, error) {
	spans, err := t.spans()
	if err != nil {
		return 0, err
	}
	if root := a.tree(spans); int(root) != len(a.code)-1 {
		a.same(root) // a lone span may end in a return that stands further on
	}
	return a.load(offNR), nil
}

// tree emits a balanced tree over spans.
func (a *assembler) tree(spans []span) label {
	if len(spans) == 1 {
		return a.leaf(spans[0])
	}
	mid := len(spans) / 2
	right := a.tree(spans[mid:])
	left := a.tree(spans[:mid])
	return a.jump(unix.BPF_JGE, spans[mid].start, right, left)
}

// spans sorts the rules and merges neighbours that do not differ.
func (t Table) spans() ([]span, error) {
	// Sorting number and place as one integer is several times faster than
	// slices.SortStableFunc, whose time was half of Compile's.
	keys := make([]uint64, len(t.Rules))
	for i, r := range t.Rules {
		keys[i] = uint64(r.NR)<<32 | uint64(i)
	}
	slices.Sort(keys)
	rules := make([]Rule, len(keys))
	for i, k := range keys {
		rules[i] = t.Rules[uint32(k)]
	}
	out := []span{{act: t.Default}}
	add := func(s span) {
		last := &out[len(out)-1]
		switch {
		case last.start == s.start:
			*last = s
			if n := len(out); n > 1 && out[n-2].rules == nil && s.rules == nil && out[n-2].act == s.act {
				out = out[:n-1]
			}
		case last.rules == nil && s.rules == nil && last.act == s.act:
		default:
			out = append(out, s)
		}
	}
	x32 := t.Arch == unix.AUDIT_ARCH_X86_64
	for i := 0; i < len(rules); {
		nr, s := rules[i].NR, span{start: rules[i].NR, act: t.Default}
		if x32 && nr >= x32Bit {
			return nil, fmt.Errorf("system call %#x: x32 numbers have no rules", nr)
		}
		j := i
		for ; j < len(rules) && rules[j].NR == nr; j++ {
			if err := check(rules[j]); err != nil {
				return nil, err
			}
		}
		if k := slices.IndexFunc(rules[i:j], func(r Rule) bool { return len(r.Conds) == 0 }); k >= 0 {
			s.rules, s.act = rules[i:i+k], rules[i+k].Action
		} else {
			s.rules = rules[i:j]
		}
		if len(s.rules) == 0 {
			s.rules = nil
		}
		add(s)
		if nr != ^uint32(0) {
			add(span{start: nr + 1, act: t.Default})
		}
		i = j
	}
	if x32 {
		add(span{start: x32Bit, act: t.X32})
	}
	return out, nil
}

func check(r Rule) error {
	for _, c := range r.Conds {
		if c.Arg > 5 || c.Op > MaskedEqual {
			return fmt.Errorf("system call %d: no such condition: argument %d, operator %d", r.NR, c.Arg, c.Op)
		}
	}
	return nil
}

// leaf emits what happens to the numbers of one span.
func (a *assembler) leaf(s span) label {
	next := a.ret(s.act)
	for i := len(s.rules); i > 0; {
		n := together(s.rules[:i])
		group := s.rules[i-n : i]
		i -= n
		match := a.ret(group[0].Action)
		if n > 1 {
			next = a.anyOf(group, match, next)
			continue
		}
		for _, c := range slices.Backward(group[0].Conds) {
			match = a.cond(c, match, next)
		}
		next = match
	}
	return next
}

// together counts the rules at the end of rules that differ only in the low
// half of the value that one argument is compared with: these need one load.
func together(rules []Rule) int {
	last := rules[len(rules)-1]
	if len(last.Conds) != 1 {
		return 1
	}
	want, ok := masked(last.Conds[0])
	if !ok {
		return 1
	}
	n := 1
	for _, r := range slices.Backward(rules[:len(rules)-1]) {
		if r.Action != last.Action || len(r.Conds) != 1 {
			break
		}
		c, ok := masked(r.Conds[0])
		if !ok || c.Arg != want.Arg || c.Mask != want.Mask || c.Value>>32 != want.Value>>32 {
			break
		}
		n++
	}
	return n
}

// masked returns c as a MaskedEqual, if it is a test for equality that can hold.
func masked(c Cond) (Cond, bool) {
	switch c.Op {
	case Equal:
		c.Op, c.Mask = MaskedEqual, ^uint64(0)
		return c, true
	case MaskedEqual:
		return c, c.Value&^c.Mask == 0
	}
	return c, false
}

// anyOf emits one load and a comparison for each rule of a group.
func (a *assembler) anyOf(group []Rule, match, fail label) label {
	c, _ := masked(group[0].Conds[0])
	next := fail
	for _, r := range slices.Backward(group) {
		next = a.jump(unix.BPF_JEQ, uint32(r.Conds[0].Value), match, next)
	}
	next = a.half(c.Arg, 0, uint32(c.Mask))
	if high := uint32(c.Mask >> 32); high != 0 {
		a.jump(unix.BPF_JEQ, uint32(c.Value>>32), next, fail)
		next = a.half(c.Arg, 1, high)
	}
	return next
}

// cond emits one comparison.
func (a *assembler) cond(c Cond, match, fail label) label {
	low, high := uint32(c.Value), uint32(c.Value>>32)
	switch c.Op {
	case NotEqual:
		return a.cond(Cond{Arg: c.Arg, Op: Equal, Value: c.Value}, fail, match)
	case Less:
		return a.cond(Cond{Arg: c.Arg, Op: GreaterEqual, Value: c.Value}, fail, match)
	case LessEqual:
		return a.cond(Cond{Arg: c.Arg, Op: Greater, Value: c.Value}, fail, match)
	case Greater, GreaterEqual:
		op := uint16(unix.BPF_JGT)
		if c.Op == GreaterEqual {
			op = unix.BPF_JGE
		}
		a.jump(op, low, match, fail)
		next := a.half(c.Arg, 0, ^uint32(0))
		next = a.jump(unix.BPF_JEQ, high, next, fail)
		a.jump(unix.BPF_JGT, high, match, next)
		return a.half(c.Arg, 1, ^uint32(0))
	}
	c, possible := masked(c)
	if !possible {
		return fail
	}
	if mask := uint32(c.Mask); mask != 0 {
		a.jump(unix.BPF_JEQ, low, match, fail)
		match = a.half(c.Arg, 0, mask)
	}
	if mask := uint32(c.Mask >> 32); mask != 0 {
		a.jump(unix.BPF_JEQ, high, match, fail)
		match = a.half(c.Arg, 1, mask)
	}
	return match
}
