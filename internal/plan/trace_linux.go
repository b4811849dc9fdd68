package plan

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"
)

// A Trace is the times at which a traced plan's operations ended.
type Trace struct {
	plan  *Plan
	clock Arg   // timespecs, the first before operation 0
	of    []int // of[i] is the index, in the traced plan, of the original's operation i
}

// Traced returns a copy of the plan with a reading of the clock after each
// operation. It is data like any other, so the executor knows nothing of it.
// Registers, gates and arguments of p are valid for the copy.
func (p *Plan) Traced() (*Plan, *Trace) {
	t := &Plan{data: append([]byte(nil), p.data...), reloc: p.reloc, regs: p.regs, preset: p.preset, next: p.next}
	clock := t.Buffer(16 * (len(p.ops) + 1))
	read := func(i int) {
		slot := clock
		slot.value += uint64(16 * i)
		t.Call("clock", unix.SYS_CLOCK_GETTIME, Int(unix.CLOCK_MONOTONIC), slot)
	}
	read(0)
	trace := &Trace{plan: t, clock: clock}
	for i := range p.ops {
		trace.of = append(trace.of, len(t.ops))
		t.ops = append(t.ops, p.ops[i])
		t.steps = append(t.steps, p.steps[i])
		read(i + 1)
	}
	return t, trace
}

// Each calls f for every operation that ended, with the time it took. The last
// operation of a successful plan is an exec, which leaves no time behind.
func (tr *Trace) Each(t *Task, f func(line string, took time.Duration)) {
	clock := t.Data(tr.clock)
	at := func(i int) time.Duration {
		b := clock[16*i:]
		return time.Duration(binary.NativeEndian.Uint64(b))*time.Second + time.Duration(binary.NativeEndian.Uint64(b[8:]))
	}
	for i, index := range tr.of {
		if at(i+1) == 0 {
			return
		}
		f(tr.plan.Line(index), at(i+1)-at(i))
	}
}
