package caps

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestParse(t *testing.T) {
	for name, want := range map[string]Cap{
		"CAP_CHOWN": unix.CAP_CHOWN, "chown": unix.CAP_CHOWN, "cap_sys_admin": unix.CAP_SYS_ADMIN,
		"Sys_Admin": unix.CAP_SYS_ADMIN, "CAP_CHECKPOINT_RESTORE": unix.CAP_CHECKPOINT_RESTORE,
		"setfcap": unix.CAP_SETFCAP, "SYSLOG": unix.CAP_SYSLOG, "bpf": unix.CAP_BPF, "perfmon": unix.CAP_PERFMON,
	} {
		if got, err := Parse(name); err != nil || got != want {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	for _, name := range []string{"", "CAP_", "CAP_CAP_CHOWN", "ALL", "CHOWN ", "nosuch", "3", "\x00"} {
		var unknown *UnknownError
		if _, err := Parse(name); !errors.As(err, &unknown) || unknown.Name != name {
			t.Errorf("%q: got %v", name, err)
		}
	}
}

// Every bit has the name that the kernel's headers give it.
func TestNames(t *testing.T) {
	for c := range Cap(count) {
		if back, err := Parse(c.String()); err != nil || back != c {
			t.Errorf("%d: %s reads back as %d, %v", c, c, back, err)
		}
	}
	for c, want := range map[Cap]string{
		unix.CAP_DAC_READ_SEARCH: "CAP_DAC_READ_SEARCH", unix.CAP_NET_RAW: "CAP_NET_RAW", unix.CAP_SYS_RAWIO: "CAP_SYS_RAWIO",
		unix.CAP_LEASE: "CAP_LEASE", unix.CAP_MAC_ADMIN: "CAP_MAC_ADMIN", unix.CAP_AUDIT_READ: "CAP_AUDIT_READ",
		unix.CAP_SYS_TTY_CONFIG: "CAP_SYS_TTY_CONFIG", unix.CAP_WAKE_ALARM: "CAP_WAKE_ALARM", 63: "CAP_63",
	} {
		if c.String() != want {
			t.Errorf("%d is %s, want %s", c, c, want)
		}
	}
	if n := len(All.Names()); n != 41 {
		t.Errorf("ALL holds %d", n)
	}
}

func TestDefault(t *testing.T) {
	const want = "CAP_CHOWN,CAP_DAC_OVERRIDE,CAP_FOWNER,CAP_FSETID,CAP_KILL,CAP_NET_BIND_SERVICE,CAP_SETFCAP," +
		"CAP_SETGID,CAP_SETPCAP,CAP_SETUID,CAP_SYS_CHROOT"
	if got := Default.String(); got != want {
		t.Errorf("got %s", got)
	}
	if uint64(Default) != 0x800405fb { // as podman's containers show it in /proc/self/status
		t.Errorf("got %#x", uint64(Default))
	}
}

func TestApply(t *testing.T) {
	two := Set(0).With(unix.CAP_CHOWN).With(unix.CAP_KILL)
	for _, c := range []struct {
		add, drop, want string
	}{
		{"", "", "CAP_CHOWN,CAP_KILL"},
		{"net_raw", "", "CAP_CHOWN,CAP_KILL,CAP_NET_RAW"},
		{"", "kill", "CAP_CHOWN"},
		{"", "net_raw", "CAP_CHOWN,CAP_KILL"},
		{"kill", "kill", "CAP_CHOWN,CAP_KILL"},
		{"net_raw", "net_raw", "CAP_CHOWN,CAP_KILL,CAP_NET_RAW"},
		{"", "all", ""},
		{"net_raw,CAP_BPF", "ALL", "CAP_BPF,CAP_NET_RAW"},
		{"ALL", "", All.String()},
		{"all", "ALL", All.String()},
		{"ALL", "sys_admin", (All &^ Set(0).With(unix.CAP_SYS_ADMIN)).String()},
		{"ALL,sys_admin", "sys_admin", (All &^ Set(0).With(unix.CAP_SYS_ADMIN)).String()},
		{"", "ALL,kill", ""},
	} {
		got, err := Apply(two, list(c.add), list(c.drop))
		if err != nil || got.String() != c.want {
			t.Errorf("add %s drop %s: got %s, %v", c.add, c.drop, got, err)
		}
	}
	for _, bad := range [][2]string{{"nosuch", ""}, {"", "nosuch"}, {"ALL,nosuch", ""}, {"", "ALL,nosuch"}} {
		var unknown *UnknownError
		if _, err := Apply(two, list(bad[0]), list(bad[1])); !errors.As(err, &unknown) || unknown.Name != "nosuch" {
			t.Errorf("%v: got %v", bad, err)
		}
	}
}

func list(s string) []string {
	return slices.DeleteFunc(strings.Split(s, ","), func(s string) bool { return s == "" })
}

// The kernel agrees on which capabilities there are.
func TestLast(t *testing.T) {
	last := Last()
	if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(last), 0, 0, 0); err != nil {
		t.Errorf("kernel does not know capability %d: %v", last, err)
	}
	if _, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(last)+1, 0, 0, 0); err == nil {
		t.Errorf("kernel knows capability %d", last+1)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"CAP_CHOWN", "all", "cap_", "é"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c, err := Parse(s)
		if err != nil {
			return
		}
		if back, err := Parse(c.String()); err != nil || back != c {
			t.Errorf("%q is %s, which reads back as %s, %v", s, c, back, err)
		}
	})
}
