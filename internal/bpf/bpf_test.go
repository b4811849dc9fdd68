package bpf

import (
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	amd64 = unix.AUDIT_ARCH_X86_64
	i386  = unix.AUDIT_ARCH_I386
	arm   = unix.AUDIT_ARCH_ARM
)

// naive decides as the documentation of Policy says, with no program.
func naive(p Policy, d Data) Action {
	for _, t := range p.Tables {
		if t.Arch != d.Arch {
			continue
		}
		if t.Arch == amd64 && d.NR >= x32Bit {
			return t.X32
		}
		for _, r := range t.Rules {
			if r.NR == d.NR && holds(r.Conds, d) {
				return r.Action
			}
		}
		return t.Default
	}
	return p.Foreign
}

func holds(conds []Cond, d Data) bool {
	for _, c := range conds {
		v := d.Args[c.Arg]
		if ok := [...]bool{
			Equal: v == c.Value, NotEqual: v != c.Value,
			Less: v < c.Value, LessEqual: v <= c.Value,
			GreaterEqual: v >= c.Value, Greater: v > c.Value,
			MaskedEqual: v&c.Mask == c.Value,
		}[c.Op]; !ok {
			return false
		}
	}
	return true
}

// differ compares the compiled policy with naive: every number around the
// rules', each with arguments around the values of its conditions.
func differ(t *testing.T, p Policy, rnd *rand.Rand) {
	t.Helper()
	prog, err := Compile(p)
	if errors.Is(err, unix.E2BIG) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	try := func(d Data) {
		got, _, err := Run(prog, d)
		if err != nil {
			t.Fatalf("%+v: %v", d, err)
		}
		if want := naive(p, d); got != want {
			t.Fatalf("%+v: got %#x, want %#x\n%+v", d, got, want, p)
		}
	}
	numbers := []uint32{0, 1, 2, 500, x32Bit - 1, x32Bit, x32Bit + 1, 1 << 31, ^uint32(0)}
	interesting := []uint64{0, 1, 1 << 31, 1<<32 - 1, 1 << 32, 1 << 63, ^uint64(0)}
	for _, tab := range p.Tables {
		for _, r := range tab.Rules {
			numbers = append(numbers, r.NR-1, r.NR, r.NR+1)
			for _, c := range r.Conds {
				interesting = append(interesting, c.Value-1, c.Value, c.Value+1, c.Value^1<<32, c.Mask, ^c.Mask, c.Value|^c.Mask)
			}
		}
	}
	arches := []uint32{0, amd64, i386, arm}
	for _, nr := range numbers {
		for _, arch := range arches {
			d := Data{NR: nr, Arch: arch}
			for range 4 {
				for i := range d.Args {
					d.Args[i] = interesting[rnd.IntN(len(interesting))]
					if rnd.IntN(8) == 0 {
						d.Args[i] = rnd.Uint64()
					}
				}
				try(d)
			}
		}
	}
}

// random makes a policy of up to n rules for each of a few architectures.
func random(rnd *rand.Rand, n int) Policy {
	actions := []Action{Allow, Errno(unix.EPERM), Errno(unix.ENOSYS), KillProcess, Log, Errno(0), Trace(7), Trap}
	act := func() Action { return actions[rnd.IntN(len(actions))] }
	value := func() uint64 {
		switch rnd.IntN(4) {
		case 0:
			return rnd.Uint64()
		case 1:
			return uint64(rnd.IntN(8)) << 32
		case 2:
			return uint64(rnd.Uint32())
		}
		return uint64(rnd.IntN(8))
	}
	p := Policy{Foreign: act()}
	for _, arch := range []uint32{amd64, i386, arm}[:rnd.IntN(4)] {
		t := Table{Arch: arch, Default: act(), X32: act()}
		width := 1 + rnd.IntN(600)
		for range rnd.IntN(n + 1) {
			r := Rule{NR: uint32(rnd.IntN(width)), Action: act()}
			for range rnd.IntN(4) * rnd.IntN(2) {
				c := Cond{Arg: uint8(rnd.IntN(6)), Op: Op(rnd.IntN(int(MaskedEqual) + 1)), Value: value()}
				if c.Op == MaskedEqual {
					c.Mask = value()
					if rnd.IntN(4) > 0 {
						c.Value &= c.Mask
					}
				}
				r.Conds = append(r.Conds, c)
			}
			t.Rules = append(t.Rules, r)
			for rnd.IntN(2) == 0 && len(r.Conds) == 1 { // runs that share a load
				r.Conds = []Cond{{Arg: r.Conds[0].Arg, Value: r.Conds[0].Value ^ uint64(rnd.IntN(32))}}
				t.Rules = append(t.Rules, r)
			}
		}
		p.Tables = append(p.Tables, t)
	}
	return p
}

func TestCompileAgainstNaive(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		differ(t, random(rnd, 1+int(seed)*2), rnd)
	}
}

func FuzzCompile(f *testing.F) {
	for n := range uint64(8) {
		f.Add(n, uint16(n*n*8))
	}
	f.Fuzz(func(t *testing.T, seed uint64, n uint16) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		differ(t, random(rnd, int(n)%1200), rnd)
	})
}

// Two tables of 500 lone numbers each are far longer than a jump's 8 bits.
func TestLongJumps(t *testing.T) {
	var rules []Rule
	for nr := range uint32(500) {
		rules = append(rules, Rule{NR: nr * 2, Action: Errno(unix.EPERM)},
			Rule{NR: nr*2 + 1, Action: Allow, Conds: []Cond{{Arg: 1, Op: Less, Value: uint64(nr) << 30}}})
	}
	p := Policy{Foreign: KillProcess, Tables: []Table{{Arch: i386, Rules: rules[:400]}, {Arch: arm, Rules: rules[400:]}}}
	prog, err := Compile(p)
	if err != nil {
		t.Fatal(err)
	}
	long := 0
	for _, in := range prog {
		if in.Code == unix.BPF_JMP|unix.BPF_JA {
			long++
		}
	}
	if long == 0 {
		t.Error("no long jump in a program that needs them")
	}
	differ(t, p, rand.New(rand.NewPCG(1, 1)))
}

func TestTooLong(t *testing.T) {
	var rules []Rule
	for nr := range uint32(3000) {
		rules = append(rules, Rule{NR: nr * 2, Action: Errno(unix.Errno(nr % 100))})
	}
	_, err := Compile(Policy{Tables: []Table{{Arch: amd64, Rules: rules}}})
	if !errors.Is(err, unix.E2BIG) {
		t.Errorf("got %v, want E2BIG", err)
	}
}

func TestRefused(t *testing.T) {
	for _, r := range []Rule{
		{NR: x32Bit | 1},
		{NR: 1, Conds: []Cond{{Arg: 6}}},
		{NR: 1, Conds: []Cond{{Op: MaskedEqual + 1}}},
	} {
		if _, err := Compile(Policy{Tables: []Table{{Arch: amd64, Rules: []Rule{r}}}}); err == nil {
			t.Errorf("%+v compiled", r)
		}
	}
}

// A tree over n spans costs log2(n) comparisons; the numbers before it are two
// loads, one or two architectures and the return.
func TestDepth(t *testing.T) {
	tab := Table{Arch: amd64, Default: Allow}
	for nr := range uint32(256) {
		tab.Rules = append(tab.Rules, Rule{NR: nr * 2, Action: Errno(unix.EPERM)})
	}
	prog, err := Compile(Policy{Tables: []Table{tab}})
	if err != nil {
		t.Fatal(err)
	}
	for nr := range uint32(600) {
		// 512 spans need 9 or 10 comparisons; trampolines may add 3.
		if _, steps, _ := Run(prog, Data{NR: nr, Arch: amd64}); steps > 4+10+3 {
			t.Fatalf("number %d takes %d instructions", nr, steps)
		}
	}
}

// Rules that differ in one value share a load: socket families, ioctl commands.
func TestSharedLoad(t *testing.T) {
	tab := Table{Arch: i386, Default: Errno(unix.EPERM)}
	for family := range uint64(20) {
		tab.Rules = append(tab.Rules, Rule{NR: 41, Action: Allow, Conds: []Cond{{Value: family * 2}}})
	}
	prog, err := Compile(Policy{Tables: []Table{tab}})
	if err != nil {
		t.Fatal(err)
	}
	if len(prog) > 36 {
		t.Errorf("%d instructions", len(prog))
	}
	differ(t, Policy{Tables: []Table{tab}}, rand.New(rand.NewPCG(3, 3)))
}

func TestRunRefuses(t *testing.T) {
	for name, prog := range map[string][]unix.SockFilter{
		"empty":   nil,
		"no ret":  {{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}},
		"offset":  {{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 64}},
		"odd":     {{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 17}},
		"unknown": {{Code: 0xffff}},
		"outside": {{Code: unix.BPF_JMP | unix.BPF_JA, K: 1 << 31}},
	} {
		if _, _, err := Run(prog, Data{}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// A conditional jump lands where it should whatever lies between, around the
// 255 instructions that it reaches. Targets are returns, which are copied, and
// loads, which are reached by a trampoline.
func TestJumpDistances(t *testing.T) {
	distances := []int{0, 1, 250, 251, 252, 253, 254, 255, 256, 257, 258, 600}
	for _, far := range distances {
		for _, near := range distances {
			for _, swap := range []bool{false, true} {
				for _, viaLoad := range []bool{false, true} {
					a := assembler{rets: map[Action]label{}}
					target := func(act Action, distance int) label {
						l := a.emit(unix.BPF_RET|unix.BPF_K, uint32(act))
						if viaLoad {
							l = a.load(offNR)
						}
						for range distance {
							a.emit(unix.BPF_RET|unix.BPF_K, uint32(KillProcess)) // never to be reached
						}
						return l
					}
					one := target(Errno(1), far)
					two := target(Errno(2), near)
					if swap {
						one, two = two, one
					}
					a.jump(unix.BPF_JEQ, 7, one, two)
					a.load(offNR)
					slices.Reverse(a.code)
					for nr, want := range map[uint32]Action{7: Errno(1), 8: Errno(2)} {
						if swap {
							want ^= 3
						}
						if got, _, err := Run(a.code, Data{NR: nr}); err != nil || got != want {
							t.Errorf("distances %d, %d, swapped %t, loads %t: number %d: got %#x, %v", far, near, swap, viaLoad, nr, got, err)
						}
					}
				}
			}
		}
	}
}
