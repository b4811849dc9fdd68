// Package seccomp provides the filters that containers run under.
//
// The default filter is moby's profile for podman's eleven capabilities, with
// our stricter rules in front (internal/gen), compiled ahead and embedded: at
// run time it is bytes for the kernel and no work at all. What deviates from it
// is compiled on demand from the same profile or from a user's.
//
// Limits: amd64 (with i386 calls) and arm64 (with arm calls). A filter cannot
// look behind a pointer: through i386's socketcall(2), which moby allows since
// many 32-bit C libraries know nothing else, every socket family is open to a
// 32-bit program. Loading is the caller's part (seccomp(2); without
// CAP_SYS_ADMIN it needs no_new_privs first), and so is refusing to run where
// the kernel has no seccomp.
package seccomp

import (
	"bytes"
	_ "embed"
	"io"
	"runtime"

	"golang.org/x/sys/unix"

	"skiff/run/caps"
	"skiff/run/seccomp/internal/profile"
)

//go:generate go run ./internal/gen

// A Filter is an array of struct sock_filter (8 bytes each) as sock_fprog
// points to. It is shared: nobody writes to it.
type Filter []byte

// Len is the number of instructions, for sock_fprog's len.
func (f Filter) Len() int { return len(f) / 8 }

// Default is the filter for caps.Default. It costs nothing.
func Default() Filter { return defaultFilter }

// FakeIDs is a second filter, to be loaded besides another one, that makes
// chown(2), setuid(2), setgid(2), setgroups(2) and their variants seem to
// succeed without doing anything. It is for user namespaces with a single id,
// where they cannot succeed and package managers would give up. Everything else
// is allowed (x32 calls get ENOSYS): the kernel takes the most restrictive
// answer of all filters, and an errno of 0 is more restrictive than to allow.
//
// The task must have its final ids before it loads this.
func FakeIDs() Filter { return fakeIDs }

// relevant are the capabilities that the default profile's rules ask for.
const relevant = 1<<unix.CAP_DAC_READ_SEARCH | 1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_SYS_BOOT |
	1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_SYS_MODULE | 1<<unix.CAP_SYS_PACCT | 1<<unix.CAP_SYS_PTRACE |
	1<<unix.CAP_SYS_RAWIO | 1<<unix.CAP_SYS_TIME | 1<<unix.CAP_SYS_TTY_CONFIG | 1<<unix.CAP_SYS_NICE |
	1<<unix.CAP_SYSLOG | 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON

// ForCaps is the default profile's filter for a container that has set in its
// bounding set. Where only capabilities matter that no rule asks for, it is as
// free as Default, and so is the filter for none at all; else it is compiled,
// in 0.7 ms as measured.
func ForCaps(set caps.Set) (Filter, error) {
	switch set & relevant {
	case caps.Default & relevant:
		return Default(), nil
	case 0: // --cap-drop ALL
		return bareFilter, nil
	}
	return Load(bytes.NewReader(defaultProfile), set)
}

// Load reads a profile in docker's or OCI's JSON format, of at most 1 MiB, and
// compiles it for a container that has set in its bounding set.
//
// Names of system calls that are not known are ignored, as docker does; an
// action, operator or flag that is not known is an error that names the entry.
// Where docker (libseccomp) lets a rule without conditions win over any other,
// here the first rule that applies decides. Numbers newer than this program
// answer ENOSYS unless the profile allows by default.
func Load(r io.Reader, set caps.Set) (Filter, error) {
	p, err := profile.Parse(r)
	if err != nil {
		return nil, err
	}
	t, err := tables()
	if err != nil {
		return nil, err
	}
	return p.Compile(profile.Host{Arch: runtime.GOARCH, Tables: t, Kernel: kernel}, set)
}

//go:embed data/profile.json
var defaultProfile []byte

// tables are this machine's system calls, native ones first. A run needs them
// once at most, so they are not kept.
func tables() ([]profile.Table, error) {
	native, err := profile.ParseTable(nativeArch, nativeTable)
	if err != nil {
		return nil, err
	}
	compat, err := profile.ParseTable(compatArch, compatTable)
	return []profile.Table{native, compat}, err
}
