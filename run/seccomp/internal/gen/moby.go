package main

import (
	"bytes"
	"encoding/json"
	"fmt"

	moby "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"skiff/run/seccomp/internal/profile"
)

// rule is one line of profile.json.
type rule struct {
	Names    []string                 `json:"names"`
	Action   specs.LinuxSeccompAction `json:"action"`
	ErrnoRet *uint                    `json:"errnoRet,omitempty"`
	Args     []specs.LinuxSeccompArg  `json:"args,omitempty"`
	Includes *moby.Filter             `json:"includes,omitempty"`
	Excludes *moby.Filter             `json:"excludes,omitempty"`
}

// oldest is the kernel below which skiff does not run at all (clone3): rules
// that want an older one apply always.
var oldest = moby.KernelVersion{Kernel: 5, Major: 3}

// defaultProfile is moby's profile for our architectures, after our own rules:
//
//   - no injection of input into a terminal (ioctl TIOCSTI and TIOCLINUX; the
//     kernel looks at the low 32 bits of the command only);
//   - calls that are newer than every call of moby's list answer ENOSYS: nobody
//     has judged them yet, and a C library then falls back to an older one.
func defaultProfile(tables map[string]profile.Table) ([]byte, error) {
	nosys, perm := uint(unix.ENOSYS), uint(unix.EPERM)
	var rules []rule
	for _, cmd := range []uint64{unix.TIOCSTI, unix.TIOCLINUX} {
		rules = append(rules, rule{
			Names: []string{"ioctl"}, Action: specs.ActErrno, ErrnoRet: &perm,
			Args: []specs.LinuxSeccompArg{{Index: 1, Value: 1<<32 - 1, ValueTwo: cmd, Op: specs.OpMaskedEqual}},
		})
	}
	source := moby.DefaultProfile()
	if source.DefaultAction != specs.ActErrno || *source.DefaultErrnoRet != perm {
		return nil, fmt.Errorf("moby's default action is %s now", source.DefaultAction)
	}
	known := func(name string) bool {
		for _, t := range tables {
			if _, ok := t.Number(name); ok {
				return true
			}
		}
		return false
	}
	newest, err := uint32(0), error(nil)
	for _, s := range source.Syscalls {
		r := rule{Action: s.Action, ErrnoRet: s.ErrnoRet, Args: s.Args}
		for _, name := range s.Names {
			if known(name) {
				r.Names = append(r.Names, name)
			}
			if nr, ok := tables["amd64"].Number(name); ok {
				newest = max(newest, nr)
			}
		}
		if r.Includes, err = ours(s.Includes, true); err != nil {
			return nil, fmt.Errorf("%s: includes: %w", s.Names[0], err)
		}
		if r.Excludes, err = ours(s.Excludes, false); err != nil {
			return nil, fmt.Errorf("%s: excludes: %w", s.Names[0], err)
		}
		if s.Includes != nil && len(s.Includes.Arches) > 0 && len(r.Includes.Arches) == 0 {
			continue // for other machines only
		}
		if len(r.Names) > 0 {
			rules = append(rules, r)
		}
	}
	late := rule{Action: specs.ActErrno, ErrnoRet: &nosys}
	for _, name := range tables["amd64"].Names() {
		if nr, _ := tables["amd64"].Number(name); nr > newest {
			late.Names = append(late.Names, name)
		}
	}
	if len(late.Names) > 0 {
		rules = append(rules, late)
	}
	return document(rules)
}

// ours leaves in a condition what matters on our machines. A minimum kernel is
// dropped from includes if skiff's own is no older.
func ours(f *moby.Filter, include bool) (*moby.Filter, error) {
	if f == nil {
		return nil, nil
	}
	out := &moby.Filter{Caps: f.Caps}
	for _, arch := range f.Arches {
		if arch == "amd64" || arch == "arm64" {
			out.Arches = append(out.Arches, arch)
		}
	}
	if k := f.MinKernel; k != nil && (!include || k.Kernel > oldest.Kernel || k.Kernel == oldest.Kernel && k.Major > oldest.Major) {
		return nil, fmt.Errorf("depends on kernel %s", k)
	}
	if !include && len(out.Caps)+len(out.Arches) == 0 || include && len(f.Arches)+len(out.Caps) == 0 {
		return nil, nil // nothing is left to depend on
	}
	return out, nil
}

// document lays rules out, one a line, so that an update reads well as a diff.
func document(rules []rule) ([]byte, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "{\n\t\"defaultAction\": \"SCMP_ACT_ERRNO\",\n\t\"defaultErrnoRet\": %d,\n\t%s,\n\t\"syscalls\": [", unix.EPERM, archMap)
	for i, r := range rules {
		line, err := json.Marshal(r)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString("\n\t\t")
		b.Write(line)
	}
	b.WriteString("\n\t]\n}\n")
	if !json.Valid(b.Bytes()) {
		return nil, fmt.Errorf("profile.json is not valid")
	}
	return b.Bytes(), nil
}
