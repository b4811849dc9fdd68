package bpf

import "golang.org/x/sys/unix"

// Offsets into struct seccomp_data. Source: linux/seccomp.h.
const (
	offNR   = 0
	offArch = 4
	offArgs = 16 // six 64-bit arguments, low half first
)

// longest is how far a conditional jump reaches: its offsets have 8 bits.
const longest = 255

// label is an emitted instruction, counted from the end of the program.
type label int

// assembler emits instructions last to first. Jumps in BPF go forward only, so
// every target is there before the jump.
type assembler struct {
	code []unix.SockFilter
	rets map[Action]label // the nearest return of each action
}

func (a *assembler) emit(code uint16, k uint32) label {
	a.code = append(a.code, unix.SockFilter{Code: code, K: k})
	return label(len(a.code) - 1)
}

// load puts 32 bits of the seccomp_data at offset in the accumulator.
func (a *assembler) load(offset uint32) label {
	return a.emit(unix.BPF_LD|unix.BPF_W|unix.BPF_ABS, offset)
}

// half loads one half (0 low, 1 high) of an argument and masks it; the
// instructions that look at it are already there.
func (a *assembler) half(arg uint8, half, mask uint32) label {
	if mask != ^uint32(0) {
		a.emit(unix.BPF_ALU|unix.BPF_AND|unix.BPF_K, mask)
	}
	return a.load(offArgs + 8*uint32(arg) + 4*half)
}

// ret returns act, by an instruction that is already there if one is near.
func (a *assembler) ret(act Action) label {
	if l, ok := a.rets[act]; ok && len(a.code)-int(l) < longest/2 {
		return l
	}
	if a.rets == nil {
		a.rets = map[Action]label{}
	}
	l := a.emit(unix.BPF_RET|unix.BPF_K, uint32(act))
	a.rets[act] = l
	return l
}

// jump compares the accumulator with k and goes on at jt or jf.
func (a *assembler) jump(op uint16, k uint32, jt, jf label) label {
	if jt == jf {
		return a.same(jt)
	}
	jt = a.near(jt, 1) // making jf near may put one more instruction between
	jf = a.near(jf, 0)
	l := a.emit(unix.BPF_JMP|op|unix.BPF_K, k)
	a.code[l].Jt = uint8(l - jt - 1)
	a.code[l].Jf = uint8(l - jf - 1)
	return l
}

// near returns a label that means l and that the next instruction but spare can reach.
func (a *assembler) near(l label, spare int) label {
	if len(a.code)+spare-int(l)-1 <= longest {
		return l
	}
	if target := a.code[l]; target.Code == unix.BPF_RET|unix.BPF_K {
		l = a.emit(target.Code, target.K)
		a.rets[Action(target.K)] = l
		return l
	}
	return a.same(l)
}

// same emits an unconditional jump to l, whose offset has 32 bits.
func (a *assembler) same(l label) label {
	return a.emit(unix.BPF_JMP|unix.BPF_JA, uint32(len(a.code)-int(l)-1))
}
