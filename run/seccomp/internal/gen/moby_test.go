package main

import (
	"os"
	"runtime"
	"slices"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"skiff/internal/bpf"
	"skiff/run/caps"
	"skiff/run/seccomp"
	"skiff/run/seccomp/internal/profile"
)

// wanted is what moby's own resolution of its profile decides on a call, with
// our stricter rules before it.
func wanted(p *specs.LinuxSeccomp, name string, nr uint32, args [6]uint64) bpf.Action {
	perm, nosys := bpf.Errno(unix.EPERM), bpf.Errno(unix.ENOSYS)
	if name == "ioctl" && (uint32(args[1]) == unix.TIOCSTI || uint32(args[1]) == unix.TIOCLINUX) {
		return perm
	}
	for _, s := range p.Syscalls {
		holds := slices.Contains(s.Names, name)
		for _, a := range s.Args {
			v := args[a.Index]
			switch a.Op {
			case specs.OpEqualTo:
				holds = holds && v == a.Value
			case specs.OpLessThan:
				holds = holds && v < a.Value
			case specs.OpMaskedEqual:
				holds = holds && v&a.Value == a.ValueTwo
			default:
				panic("operator " + a.Op)
			}
		}
		if holds && s.Action == specs.ActErrno {
			return bpf.Errno(unix.Errno(*s.ErrnoRet))
		}
		if holds {
			return bpf.Allow
		}
	}
	if nr > 466 && nr < 1000 { // newer than moby's newest, removexattrat
		return nosys
	}
	return perm
}

// Every call of this machine, native and 32-bit, known and unknown, is decided
// as moby decides it, for the capabilities of several containers.
func TestAgainstMoby(t *testing.T) {
	audits := map[string][2]string{"amd64": {"amd64", "386"}, "arm64": {"arm64", "arm"}}
	var values []uint64
	for v := range uint64(48) {
		values = append(values, v, v<<32)
	}
	values = append(values, 0x5412, 0x541c, 1<<32|0x5412, 0x20000, 0x20008, 0xffffffff, 0x10000000, 0x7e020000, 0x3d0f00, 1<<63)
	admin := caps.Default.With(unix.CAP_SYS_ADMIN)
	for _, set := range []caps.Set{caps.Default, 0, caps.All, admin, caps.All &^ admin} {
		spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: set.Names()}}}
		p, err := moby.GetDefaultProfile(spec)
		if err != nil {
			t.Fatal(err)
		}
		f, err := seccomp.ForCaps(set)
		if err != nil {
			t.Fatal(err)
		}
		prog := profile.Decode(f)
		for _, arch := range audits[runtime.GOARCH] {
			text, err := os.ReadFile("../../data/syscalls_" + arch + ".txt")
			if err != nil {
				t.Fatal(err)
			}
			tab, err := profile.ParseTable(audit[arch], string(text))
			if err != nil {
				t.Fatal(err)
			}
			names := map[uint32][]string{}
			for _, name := range tab.Names() {
				nr, _ := tab.Number(name)
				names[nr] = append(names[nr], name)
			}
			for nr := range uint32(0xf0010) {
				for _, v := range values {
					d := bpf.Data{Arch: tab.Arch, NR: nr, Args: [6]uint64{v, v}}
					got, _, err := bpf.Run(prog, d)
					if err != nil {
						t.Fatal(err)
					}
					want := bpf.Errno(unix.ENOSYS)
					if n := names[nr]; len(n) > 0 {
						want = wanted(p, n[0], nr, d.Args)
						if len(n) > 1 && want != bpf.Allow { // one number, two names
							want = wanted(p, n[1], nr, d.Args)
						}
					}
					if got != want {
						t.Errorf("%s, capabilities %s: %d %v (%#x): got %#x, want %#x", arch, set, nr, names[nr], v, got, want)
					}
					if len(names[nr]) == 0 {
						break // arguments do not matter
					}
				}
			}
		}
	}
}
