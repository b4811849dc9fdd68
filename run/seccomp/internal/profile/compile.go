package profile

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"skiff/internal/bpf"
	"skiff/run/caps"
)

// A Host is the machine that a filter is for.
type Host struct {
	Arch   string // GOARCH
	Tables []Table
	Kernel func() (Kernel, error) // asked only if a rule names a kernel; nil: every kernel will do
}

// Compile returns the filter of p for a container with the capabilities set:
// struct sock_filter instructions, 8 bytes each, little-endian.
//
// Names that no table has are ignored, as docker does. A number that a table
// lacks is of a system call newer than this program: unless everything is
// allowed by default it answers ENOSYS, so that a C library falls back to an
// older call (as runc does), and so do all x32 numbers. Calls from an
// architecture that the profile leaves out kill the process (as libseccomp
// does). Of several rules for one call the first that applies decides.
func (p *Profile) Compile(h Host, set caps.Set) ([]byte, error) {
	rules, err := p.rules(h, set)
	if err != nil {
		return nil, err
	}
	policy := bpf.Policy{Foreign: bpf.KillProcess}
	for i, t := range h.Tables {
		if i == 0 || p.wants(h.Tables[0].scmp(), t.scmp()) {
			policy.Tables = append(policy.Tables, p.table(rules, t))
		}
	}
	prog, err := bpf.Compile(policy)
	if err != nil {
		return nil, err
	}
	return Encode(prog), nil
}

// Encode returns prog as the kernel of a little-endian machine reads it.
func Encode(prog []unix.SockFilter) []byte {
	out := make([]byte, 0, 8*len(prog))
	for _, in := range prog {
		out = binary.LittleEndian.AppendUint16(out, in.Code)
		out = append(out, in.Jt, in.Jf)
		out = binary.LittleEndian.AppendUint32(out, in.K)
	}
	return out
}

// Decode is the reverse of Encode.
func Decode(b []byte) []unix.SockFilter {
	out := make([]unix.SockFilter, 0, len(b)/8)
	for ; len(b) >= 8; b = b[8:] {
		out = append(out, unix.SockFilter{
			Code: binary.LittleEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.LittleEndian.Uint32(b[4:]),
		})
	}
	return out
}

// wants reports whether the profile covers calls of arch on a native machine.
func (p *Profile) wants(native, arch string) bool {
	if slices.Contains(p.Arches, arch) {
		return true
	}
	return slices.ContainsFunc(p.ArchMap, func(m ArchMap) bool {
		return m.Arch == native && slices.Contains(m.SubArches, arch)
	})
}

// table applies the rules to one architecture's numbers.
func (p *Profile) table(rules []Rule, t Table) bpf.Table {
	out := bpf.Table{Arch: t.Arch, Default: p.Default, X32: bpf.Errno(unix.ENOSYS)}
	for _, r := range rules {
		for _, name := range r.Names {
			nr, ok := t.Number(name)
			switch {
			case !ok:
			case r.AnyCond:
				for i := range r.Conds {
					out.Rules = append(out.Rules, bpf.Rule{NR: nr, Conds: r.Conds[i : i+1], Action: r.Action})
				}
			default:
				out.Rules = append(out.Rules, bpf.Rule{NR: nr, Conds: r.Conds, Action: r.Action})
			}
		}
	}
	if p.Default != bpf.Allow && p.Default != bpf.Log {
		for _, c := range t.calls {
			out.Rules = append(out.Rules, bpf.Rule{NR: c.nr, Action: p.Default})
		}
		out.Default = bpf.Errno(unix.ENOSYS)
	}
	return out
}

// rules are those that hold on this host and for these capabilities.
func (p *Profile) rules(h Host, set caps.Set) ([]Rule, error) {
	var out []Rule
	for _, r := range p.Rules {
		ok, err := r.applies(h, set)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, r)
		}
	}
	return out, nil
}

// applies follows docker: every included capability is needed, one excluded
// capability suffices. Source: moby/profiles seccomp_linux.go, setupSeccomp.
func (r Rule) applies(h Host, set caps.Set) (bool, error) {
	held := func(name string) bool {
		c, err := caps.Parse(name)
		return err == nil && set.Has(c)
	}
	lacks := func(name string) bool { return !held(name) }
	in, ex := r.Include, r.Exclude
	switch {
	case slices.Contains(ex.Arches, h.Arch), slices.ContainsFunc(ex.Caps, held):
		return false, nil
	case len(in.Arches) > 0 && !slices.Contains(in.Arches, h.Arch), slices.ContainsFunc(in.Caps, lacks):
		return false, nil
	}
	if h.Kernel == nil || in.MinKernel == (Kernel{}) && ex.MinKernel == (Kernel{}) {
		return ex.MinKernel == (Kernel{}), nil
	}
	k, err := h.Kernel()
	if err != nil {
		return false, err
	}
	if ex.MinKernel != (Kernel{}) && slices.Compare(k[:], ex.MinKernel[:]) >= 0 {
		return false, nil
	}
	return slices.Compare(k[:], in.MinKernel[:]) >= 0, nil
}
