package profile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A Table is the system calls of one architecture.
type Table struct {
	Arch  uint32 // AUDIT_ARCH_*
	calls []call // sorted by name
}

type call struct {
	name string
	nr   uint32
}

// ParseTable reads "name number" lines sorted by name.
func ParseTable(arch uint32, text string) (Table, error) {
	t := Table{Arch: arch, calls: make([]call, 0, 512)}
	for line := range strings.Lines(text) {
		name, number, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		nr, err := strconv.ParseUint(number, 10, 32)
		if err != nil {
			return Table{}, fmt.Errorf("system call table: %q: %w", line, err)
		}
		if n := len(t.calls); n > 0 && t.calls[n-1].name >= name {
			return Table{}, fmt.Errorf("system call table: %q is not in order", line)
		}
		t.calls = append(t.calls, call{name, uint32(nr)})
	}
	return t, nil
}

// Number is the number of the named system call.
func (t Table) Number(name string) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(t.calls, name, func(c call, name string) int { return strings.Compare(c.name, name) })
	if !ok {
		return 0, false
	}
	return t.calls[i].nr, true
}

// Names are the table's system calls, sorted.
func (t Table) Names() []string {
	names := make([]string, len(t.calls))
	for i, c := range t.calls {
		names[i] = c.name
	}
	return names
}

// scmp is the name that profiles use for the architecture.
func (t Table) scmp() string {
	switch t.Arch {
	case unix.AUDIT_ARCH_X86_64:
		return "SCMP_ARCH_X86_64"
	case unix.AUDIT_ARCH_I386:
		return "SCMP_ARCH_X86"
	case unix.AUDIT_ARCH_AARCH64:
		return "SCMP_ARCH_AARCH64"
	case unix.AUDIT_ARCH_ARM:
		return "SCMP_ARCH_ARM"
	}
	return ""
}
