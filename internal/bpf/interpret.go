package bpf

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Data is what the kernel shows a filter of one system call.
// Source: linux/seccomp.h, struct seccomp_data; its instruction pointer is left
// out, since no filter made here reads it.
type Data struct {
	NR   uint32
	Arch uint32
	Args [6]uint64
}

// Run interprets prog on d as the kernel would. steps is the number of
// instructions executed. It is an error to leave the program, to load what is
// not in Data, or to use an instruction that this package never emits.
func Run(prog []unix.SockFilter, d Data) (act Action, steps int, err error) {
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		in := prog[pc]
		steps++
		var taken bool
		switch in.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			var ok bool
			if acc, ok = d.word(in.K); !ok {
				return 0, steps, fmt.Errorf("instruction %d: load from offset %d", pc, in.K)
			}
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= in.K
			continue
		case unix.BPF_RET | unix.BPF_K:
			return Action(in.K), steps, nil
		case unix.BPF_JMP | unix.BPF_JA:
			if in.K >= MaxLen {
				return 0, steps, fmt.Errorf("instruction %d: jump by %d", pc, in.K)
			}
			pc += int(in.K)
			continue
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			taken = acc == in.K
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			taken = acc > in.K
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			taken = acc >= in.K
		default:
			return 0, steps, fmt.Errorf("instruction %d: unknown code %#x", pc, in.Code)
		}
		if taken {
			pc += int(in.Jt)
		} else {
			pc += int(in.Jf)
		}
	}
	return 0, steps, fmt.Errorf("the program of %d instructions ends without a return", len(prog))
}

// word is the 32 bits at offset in struct seccomp_data.
func (d Data) word(offset uint32) (uint32, bool) {
	switch {
	case offset == offNR:
		return d.NR, true
	case offset == offArch:
		return d.Arch, true
	case offset >= offArgs && offset < offArgs+6*8 && offset%4 == 0:
		arg := d.Args[(offset-offArgs)/8]
		return uint32(arg >> (offset % 8 * 8)), true
	}
	return 0, false
}
