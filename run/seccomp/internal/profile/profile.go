// Package profile reads seccomp profiles in docker's and OCI's JSON format and
// turns one into a filter for a given machine and set of capabilities.
//
// Limits: it knows amd64 with its i386 calls and arm64 with its arm calls, and
// takes the tables of system calls from its caller. The x32 ABI is never
// offered. The flags of a profile are checked but have no effect here, since a
// filter does not carry them; profiles that need a listener are refused.
package profile

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"skiff/internal/bpf"
)

// MaxSize is the largest profile that Parse reads, in bytes. Docker's own
// default is some 20 KiB.
const MaxSize = 1 << 20

// A Profile is a parsed and checked profile.
type Profile struct {
	Default bpf.Action
	Arches  []string // SCMP_ARCH_*, or nil for ArchMap
	ArchMap []ArchMap
	Rules   []Rule
}

// ArchMap says which other architectures' calls go with those of Arch.
type ArchMap struct {
	Arch      string   `json:"architecture"`
	SubArches []string `json:"subArchitectures"`
}

// A Rule gives one action to the named system calls.
type Rule struct {
	Names   []string
	Action  bpf.Action
	Conds   []bpf.Cond // all must hold
	AnyCond bool       // or one of them
	Include When
	Exclude When
}

// When restricts a rule to some containers and hosts. The zero value says nothing.
type When struct {
	Caps      []string // "CAP_SYS_ADMIN"
	Arches    []string // "amd64"
	MinKernel Kernel
}

// Kernel is a kernel's version and major revision, as in "4.8".
type Kernel [2]uint64

// The JSON form: runtime-spec's linux.seccomp with docker's additions.
// Sources: runtime-spec config-linux.md, "Seccomp"; moby/profiles seccomp.go.
type document struct {
	DefaultAction    string    `json:"defaultAction"`
	DefaultErrnoRet  *uint     `json:"defaultErrnoRet"`
	Architectures    []string  `json:"architectures"`
	ArchMap          []ArchMap `json:"archMap"`
	Flags            []string  `json:"flags"`
	ListenerPath     string    `json:"listenerPath"`
	ListenerMetadata string    `json:"listenerMetadata"`
	Syscalls         []struct {
		Name     string   `json:"name"` // older profiles
		Names    []string `json:"names"`
		Action   string   `json:"action"`
		ErrnoRet *uint    `json:"errnoRet"`
		Args     []struct {
			Index    uint   `json:"index"`
			Value    uint64 `json:"value"`
			ValueTwo uint64 `json:"valueTwo"`
			Op       string `json:"op"`
		} `json:"args"`
		Includes *when `json:"includes"`
		Excludes *when `json:"excludes"`
	} `json:"syscalls"`
}

type when struct {
	Caps      []string `json:"caps"`
	Arches    []string `json:"arches"`
	MinKernel string   `json:"minKernel"`
}

// Parse reads one profile of at most MaxSize bytes. Errors name the entry at
// fault. Names of system calls are not looked up yet.
func Parse(r io.Reader) (*Profile, error) {
	text, err := io.ReadAll(io.LimitReader(r, MaxSize+1))
	if err != nil {
		return nil, err
	}
	if len(text) > MaxSize {
		return nil, fmt.Errorf("seccomp profile is larger than %d bytes", MaxSize)
	}
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	p, err := d.profile()
	if err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	return p, nil
}

func (d *document) profile() (*Profile, error) {
	def, err := action(d.DefaultAction, d.DefaultErrnoRet)
	if err != nil {
		return nil, fmt.Errorf("defaultAction: %w", err)
	}
	if len(d.Architectures) > 0 && len(d.ArchMap) > 0 {
		return nil, fmt.Errorf("both architectures and archMap are given")
	}
	if d.ListenerPath != "" || d.ListenerMetadata != "" {
		return nil, fmt.Errorf("listenerPath: there is no listener for system calls")
	}
	for _, f := range d.Flags {
		if !slices.Contains([]string{"SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_LOG",
			"SECCOMP_FILTER_FLAG_SPEC_ALLOW", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}, f) {
			return nil, fmt.Errorf("unknown flag %q", f)
		}
	}
	for _, a := range d.Architectures {
		if !strings.HasPrefix(a, "SCMP_ARCH_") {
			return nil, fmt.Errorf("unknown architecture %q", a)
		}
	}
	p := &Profile{Default: def, Arches: d.Architectures, ArchMap: d.ArchMap}
	for i, s := range d.Syscalls {
		r := Rule{Names: s.Names}
		fail := func(err error) (*Profile, error) {
			name := "no name"
			if len(r.Names) > 0 {
				name = r.Names[0]
			}
			return nil, fmt.Errorf("syscalls[%d] (%s): %w", i, name, err)
		}
		if s.Name != "" {
			if len(s.Names) > 0 {
				return fail(fmt.Errorf("both name and names are given"))
			}
			r.Names = []string{s.Name}
		}
		if r.Action, err = action(s.Action, s.ErrnoRet); err != nil {
			return fail(err)
		}
		seen := 0
		for _, a := range s.Args {
			op, ok := op(a.Op)
			if !ok {
				return fail(fmt.Errorf("unknown operator %q", a.Op))
			}
			if a.Index > 5 {
				return fail(fmt.Errorf("argument %d: a system call has six, from 0", a.Index))
			}
			c := bpf.Cond{Arg: uint8(a.Index), Op: op, Value: a.Value}
			if op == bpf.MaskedEqual {
				c.Mask, c.Value = a.Value, a.ValueTwo
			}
			r.Conds = append(r.Conds, c)
			// Two conditions on one argument are alternatives, as libseccomp
			// cannot express them otherwise. Source: runc, matchCall in
			// libcontainer/seccomp/seccomp_linux.go.
			r.AnyCond = r.AnyCond || seen&(1<<a.Index) != 0
			seen |= 1 << a.Index
		}
		if r.Include, err = s.Includes.parse(); err != nil {
			return fail(fmt.Errorf("includes: %w", err))
		}
		if r.Exclude, err = s.Excludes.parse(); err != nil {
			return fail(fmt.Errorf("excludes: %w", err))
		}
		p.Rules = append(p.Rules, r)
	}
	return p, nil
}

func (w *when) parse() (out When, err error) {
	if w == nil {
		return When{}, nil
	}
	out = When{Caps: w.Caps, Arches: w.Arches}
	if w.MinKernel != "" {
		if out.MinKernel, err = ParseKernel(w.MinKernel); err != nil {
			return When{}, fmt.Errorf("minKernel: %w", err)
		}
	}
	return out, nil
}

// ParseKernel reads the first two numbers of "4.8" or "6.18.44-generic".
func ParseKernel(s string) (k Kernel, err error) {
	major, rest, ok := strings.Cut(s, ".")
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	if end < 0 {
		end = len(rest)
	}
	if !ok || end == 0 {
		return k, fmt.Errorf("kernel version %q is not of the form 4.8", s)
	}
	for i, n := range []string{major, rest[:end]} {
		if k[i], err = strconv.ParseUint(n, 10, 16); err != nil {
			return k, fmt.Errorf("kernel version %q: %w", s, err)
		}
	}
	return k, nil
}

// op reads an SCMP_CMP_ name.
func op(name string) (bpf.Op, bool) {
	i := slices.Index([]string{
		bpf.Equal: "SCMP_CMP_EQ", bpf.NotEqual: "SCMP_CMP_NE", bpf.Less: "SCMP_CMP_LT", bpf.LessEqual: "SCMP_CMP_LE",
		bpf.GreaterEqual: "SCMP_CMP_GE", bpf.Greater: "SCMP_CMP_GT", bpf.MaskedEqual: "SCMP_CMP_MASKED_EQ",
	}, name)
	return bpf.Op(max(i, 0)), i >= 0
}

// action reads an SCMP_ACT_ name. Without a number, errors are EPERM, as in runc.
func action(name string, errno *uint) (bpf.Action, error) {
	n := uint(unix.EPERM)
	if errno != nil {
		n = *errno
	}
	switch name {
	case "SCMP_ACT_ALLOW":
		return bpf.Allow, nil
	case "SCMP_ACT_LOG":
		return bpf.Log, nil
	case "SCMP_ACT_TRAP":
		return bpf.Trap, nil
	case "SCMP_ACT_KILL", "SCMP_ACT_KILL_THREAD":
		return bpf.KillThread, nil
	case "SCMP_ACT_KILL_PROCESS":
		return bpf.KillProcess, nil
	case "SCMP_ACT_ERRNO":
		if n > 4095 { // the kernel's MAX_ERRNO
			return 0, fmt.Errorf("errno %d: the largest is 4095", n)
		}
		return bpf.Errno(syscall.Errno(n)), nil
	case "SCMP_ACT_TRACE":
		if n > 0xffff {
			return 0, fmt.Errorf("trace data %d: the largest is 65535", n)
		}
		return bpf.Trace(uint16(n)), nil
	case "SCMP_ACT_NOTIFY":
		return 0, fmt.Errorf("action %s: there is no listener for system calls", name)
	case "":
		return 0, fmt.Errorf("no action is given")
	}
	return 0, fmt.Errorf("unknown action %q", name)
}
