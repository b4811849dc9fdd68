// Package caps names Linux capabilities and works out which a container has.
//
// Limits: it knows the capabilities up to CAP_CHECKPOINT_RESTORE (Linux 5.9)
// and changes nothing: dropping and setting them is part of the plan. A kernel
// that is older than a capability ignores its bit in capset(2) and answers
// EINVAL to PR_CAPBSET_DROP.
package caps

import (
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"skiff/internal/smallfile"

	"golang.org/x/sys/unix"
)

// A Cap is one capability's number. Source: capabilities(7), linux/capability.h.
type Cap uint8

// A Set holds capability n as bit n, as capset(2) and /proc/PID/status do.
type Set uint64

const (
	count = unix.CAP_LAST_CAP + 1

	// All is every capability known here.
	All Set = 1<<count - 1

	// Default is what a container's root has: podman's eleven.
	Default Set = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID |
		1<<unix.CAP_KILL | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_SETGID |
		1<<unix.CAP_SETPCAP | 1<<unix.CAP_SETUID | 1<<unix.CAP_SYS_CHROOT
)

var names = [count]string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// An UnknownError is a name that is no capability.
type UnknownError struct{ Name string }

func (e *UnknownError) Error() string { return fmt.Sprintf("unknown capability %q", e.Name) }

// Parse reads a capability's name in any case, with or without CAP_.
// The error is an *UnknownError.
func Parse(name string) (Cap, error) {
	bare := name
	if len(bare) > 4 && strings.EqualFold(bare[:4], "CAP_") {
		bare = bare[4:]
	}
	for i, n := range names {
		if strings.EqualFold(n, bare) {
			return Cap(i), nil
		}
	}
	return 0, &UnknownError{name}
}

// String is the name as capabilities(7) spells it.
func (c Cap) String() string {
	if int(c) >= len(names) {
		return "CAP_" + strconv.Itoa(int(c))
	}
	return "CAP_" + names[c]
}

// Has reports whether s holds c.
func (s Set) Has(c Cap) bool { return s>>c&1 == 1 }

// With returns s and c.
func (s Set) With(c Cap) Set { return s | 1<<c }

// Names are the set's capabilities, sorted by name.
func (s Set) Names() []string {
	out := make([]string, 0, bits.OnesCount64(uint64(s)))
	for ; s != 0; s &= s - 1 {
		out = append(out, Cap(bits.TrailingZeros64(uint64(s))).String())
	}
	slices.Sort(out)
	return out
}

// String is Names separated by commas.
func (s Set) String() string { return strings.Join(s.Names(), ",") }

// Apply works out a container's set from --cap-add and --cap-drop, in docker's
// way: what is added wins over what is dropped. "ALL" (also "CAP_ALL") adds
// everything but what is dropped by name, or drops everything but what is added.
//
// The error is an *UnknownError.
// Source: moby daemon/pkg/oci/caps, TweakCapabilities; docker/cli opts,
// EffectiveCapAddCapDrop.
func Apply(base Set, add, drop []string) (Set, error) {
	added, addAll, err := parse(add)
	if err != nil {
		return 0, err
	}
	dropped, dropAll, err := parse(drop)
	if err != nil {
		return 0, err
	}
	switch {
	case addAll && dropAll:
		return All, nil
	case addAll:
		return All &^ dropped, nil
	case dropAll:
		return added, nil
	}
	return base&^dropped | added, nil
}

func parse(list []string) (set Set, all bool, err error) {
	for _, name := range list {
		if strings.EqualFold(name, "ALL") || strings.EqualFold(name, "CAP_ALL") {
			all = true
			continue
		}
		c, err := Parse(name)
		if err != nil {
			return 0, false, err
		}
		set = set.With(c)
	}
	return set, all, nil
}

// Last is the highest capability that the running kernel knows, or that this
// package knows if /proc does not say. It reads a file: not for the start of a
// container, where an EINVAL for a capability too many is ignored.
func Last() Cap {
	text, err := smallfile.Read("/proc/sys/kernel/cap_last_cap")
	if err == nil {
		if n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 6); err == nil {
			return Cap(n)
		}
	}
	return unix.CAP_LAST_CAP
}
