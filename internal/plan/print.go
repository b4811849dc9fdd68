package plan

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// String prints the plan, one operation a line, in a form that is the same on
// every architecture, for golden files and `skiff explain`.
func (p *Plan) String() string {
	var b strings.Builder
	for i := range p.ops {
		fmt.Fprintf(&b, "%3d  %s\n", i, p.Line(i))
	}
	return b.String()
}

// Lines are the lines of String without their numbers.
func (p *Plan) Lines() []string {
	lines := make([]string, len(p.ops))
	for i := range lines {
		lines[i] = p.Line(i)
	}
	return lines
}

// Line prints operation i: its step, the call, and what qualifies it.
func (p *Plan) Line(i int) string {
	o, s := &p.ops[i], p.steps[i]
	var b strings.Builder
	fmt.Fprintf(&b, "%-28s %s(", s.Name, callName(o.nr))
	for j, a := range s.Args {
		if j > 0 {
			b.WriteString(", ")
		}
		b.WriteString(p.arg(a))
	}
	b.WriteByte(')')
	if o.out != 0 {
		fmt.Fprintf(&b, " -> r%d", o.out)
	}
	switch o.cond & 3 {
	case 1:
		fmt.Fprintf(&b, " when r%d", o.cond>>2)
	case 2:
		fmt.Fprintf(&b, " unless r%d", o.cond>>2)
	}
	if o.zero != 0 {
		fmt.Fprintf(&b, " zero or %s", errnoName(syscall.Errno(o.zero)))
	}
	if o.ignore[0] == ^uint64(0) {
		b.WriteString(" ignore all")
	} else if o.ignore != [3]uint64{} {
		b.WriteString(" ignore")
		for e := range syscall.Errno(192) {
			if o.ignore[e/64]>>(e%64)&1 != 0 {
				b.WriteString(" " + errnoName(e))
			}
		}
	}
	return b.String()
}

// Steps are the names of the operations, in order.
func (p *Plan) Steps() []Step { return p.steps }

func (p *Plan) arg(a Arg) string {
	switch a.kind {
	case argReg:
		return "r" + strconv.FormatUint(a.value, 10)
	case argStr:
		return strconv.Quote(p.cstring(int(a.value)))
	case argBytes:
		return fmt.Sprintf("[%d bytes]", a.size)
	case argStatic:
		return fmt.Sprintf("[%d static bytes]", a.size)
	case argStrs:
		var words []string
		for i := range a.size {
			at := int(a.value) + 8*i
			for _, r := range p.reloc {
				if r.at == at {
					words = append(words, strconv.Quote(p.cstring(r.to)))
				}
			}
		}
		return "[" + strings.Join(words, " ") + "]"
	}
	if n := int64(a.value); n == -100 {
		return "AT_FDCWD"
	} else if n < 4096 {
		return strconv.FormatInt(n, 10)
	}
	return "0x" + strconv.FormatUint(a.value, 16)
}

func (p *Plan) cstring(at int) string {
	s := p.data[at:]
	for i, c := range s {
		if c == 0 {
			return unsafe.String(unsafe.SliceData(s), i)
		}
	}
	return string(s)
}
