package profile

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"skiff/internal/bpf"
	"skiff/run/caps"
)

// host is a machine with a handful of system calls.
func host(t testing.TB) Host {
	t.Helper()
	native, err := ParseTable(unix.AUDIT_ARCH_X86_64, "clone 56\nioctl 16\nread 0\nsocket 41\nwrite 1\n")
	if err != nil {
		t.Fatal(err)
	}
	compat, err := ParseTable(unix.AUDIT_ARCH_I386, "clone 120\nread 3\nwrite 4\n")
	if err != nil {
		t.Fatal(err)
	}
	return Host{Arch: "amd64", Tables: []Table{native, compat}, Kernel: func() (Kernel, error) { return Kernel{6, 1}, nil }}
}

func rule(body string) string {
	return `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{` + body + `}]}`
}

// Each case is a profile, one call of number and first two arguments, and what becomes of it.
func TestMeaning(t *testing.T) {
	const (
		allow = bpf.Allow
		perm  = bpf.Action(unix.SECCOMP_RET_ERRNO | unix.EPERM)
		nosys = bpf.Action(unix.SECCOMP_RET_ERRNO | unix.ENOSYS)
	)
	read := `"names": ["read"], "action": "SCMP_ACT_ALLOW"`
	ioctl := func(args string) string {
		return rule(`"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [` + args + `]`)
	}
	for _, c := range []struct {
		name, json string
		nr         uint32
		a, b       uint64
		want       bpf.Action
	}{
		{"allowed", rule(read), 0, 0, 0, allow},
		{"not named", rule(read), 1, 0, 0, perm},
		{"newer than the table", rule(read), 2, 0, 0, nosys},
		{"x32", rule(read), x32, 0, 0, nosys},
		{"x32, all allowed", `{"defaultAction": "SCMP_ACT_ALLOW"}`, x32, 0, 0, nosys},
		{"newer, all allowed", `{"defaultAction": "SCMP_ACT_ALLOW"}`, 2, 0, 0, allow},
		{"newer, all logged", `{"defaultAction": "SCMP_ACT_LOG"}`, 2, 0, 0, bpf.Log},
		{"default errno", `{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13}`, 0, 0, 0, bpf.Errno(13)},
		{"default kill", `{"defaultAction": "SCMP_ACT_KILL"}`, 0, 0, 0, bpf.KillThread},
		{"default kill process", `{"defaultAction": "SCMP_ACT_KILL_PROCESS"}`, 0, 0, 0, bpf.KillProcess},
		{"old name", rule(`"name": "read", "action": "SCMP_ACT_ALLOW"`), 0, 0, 0, allow},
		{"unknown name", rule(`"names": ["nosuch", "read"], "action": "SCMP_ACT_ALLOW"`), 0, 0, 0, allow},
		{"errno", rule(`"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38`), 0, 0, 0, nosys},
		{"errno 0", rule(`"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0`), 0, 0, 0, bpf.Errno(0)},
		{"trace", rule(`"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 600`), 0, 0, 0, bpf.Trace(600)},
		{"trap", rule(`"names": ["read"], "action": "SCMP_ACT_TRAP"`), 0, 0, 0, bpf.Trap},
		{"eq", ioctl(`{"index": 1, "value": 5, "op": "SCMP_CMP_EQ"}`), 16, 0, 5, allow},
		{"eq not", ioctl(`{"index": 1, "value": 5, "op": "SCMP_CMP_EQ"}`), 16, 5, 6, perm},
		{"ne", ioctl(`{"index": 1, "value": 5, "op": "SCMP_CMP_NE"}`), 16, 0, 6, allow},
		{"lt", ioctl(`{"index": 1, "value": 5, "op": "SCMP_CMP_LT"}`), 16, 0, 5, perm},
		{"le", ioctl(`{"index": 1, "value": 5, "op": "SCMP_CMP_LE"}`), 16, 0, 5, allow},
		{"ge", ioctl(`{"index": 1, "value": 5, "op": "SCMP_CMP_GE"}`), 16, 0, 5, allow},
		{"gt", ioctl(`{"index": 1, "value": 5, "op": "SCMP_CMP_GT"}`), 16, 0, 5, perm},
		{"masked: value is the mask", ioctl(`{"index": 1, "value": 240, "valueTwo": 48, "op": "SCMP_CMP_MASKED_EQ"}`), 16, 0, 0xf3f, allow},
		{"masked not", ioctl(`{"index": 1, "value": 240, "valueTwo": 48, "op": "SCMP_CMP_MASKED_EQ"}`), 16, 0, 0x4f, perm},
		{"two arguments: both", ioctl(`{"index": 0, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}`), 16, 1, 3, perm},
		{"one argument twice: either", ioctl(`{"index": 1, "value": 1, "op": "SCMP_CMP_EQ"}, {"index": 1, "value": 2, "op": "SCMP_CMP_EQ"}`), 16, 0, 2, allow},
		{"includes cap", rule(read + `, "includes": {"caps": ["CAP_CHOWN"]}`), 0, 0, 0, allow},
		{"includes caps, one lacks", rule(read + `, "includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}`), 0, 0, 0, perm},
		{"includes unknown cap", rule(read + `, "includes": {"caps": ["CAP_NOSUCH"]}`), 0, 0, 0, perm},
		{"excludes cap", rule(read + `, "excludes": {"caps": ["CAP_SYS_ADMIN", "CAP_CHOWN"]}`), 0, 0, 0, perm},
		{"excludes other cap", rule(read + `, "excludes": {"caps": ["CAP_SYS_ADMIN"]}`), 0, 0, 0, allow},
		{"includes arch", rule(read + `, "includes": {"arches": ["arm64", "amd64"]}`), 0, 0, 0, allow},
		{"includes other arch", rule(read + `, "includes": {"arches": ["arm64"]}`), 0, 0, 0, perm},
		{"excludes arch", rule(read + `, "excludes": {"arches": ["amd64"]}`), 0, 0, 0, perm},
		{"kernel", rule(read + `, "includes": {"minKernel": "6.1"}`), 0, 0, 0, allow},
		{"newer kernel", rule(read + `, "includes": {"minKernel": "6.2"}`), 0, 0, 0, perm},
		{"older major kernel", rule(read + `, "includes": {"minKernel": "5.19"}`), 0, 0, 0, allow},
		{"excludes kernel", rule(read + `, "excludes": {"minKernel": "5.19"}`), 0, 0, 0, perm},
		{"excludes newer kernel", rule(read + `, "excludes": {"minKernel": "7.0"}`), 0, 0, 0, allow},
		{"first rule decides", `{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [
			{"names": ["read"], "action": "SCMP_ACT_LOG", "args": [{"index": 0, "value": 7, "op": "SCMP_CMP_EQ"}]},
			{"names": ["read"], "action": "SCMP_ACT_ALLOW"}, {"names": ["read"], "action": "SCMP_ACT_TRAP"}]}`, 0, 7, 0, bpf.Log},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := run(t, c.json, bpf.Data{Arch: unix.AUDIT_ARCH_X86_64, NR: c.nr, Args: [6]uint64{c.a, c.b}}); got != c.want {
				t.Errorf("got %#x, want %#x", got, c.want)
			}
		})
	}
}

const x32 = 0x40000000

func run(t *testing.T, json string, d bpf.Data) bpf.Action {
	t.Helper()
	p, err := Parse(strings.NewReader(json))
	if err != nil {
		t.Fatal(err)
	}
	f, err := p.Compile(host(t), caps.Default)
	if err != nil {
		t.Fatal(err)
	}
	got, _, err := bpf.Run(Decode(f), d)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// i386 calls are there only if the profile says so.
func TestArchitectures(t *testing.T) {
	for head, want := range map[string]bpf.Action{
		``:                                       bpf.KillProcess,
		`"architectures": ["SCMP_ARCH_X86_64"],`: bpf.KillProcess,
		`"architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"],`:                                               bpf.Allow,
		`"architectures": ["SCMP_ARCH_X86"],`:                                                                   bpf.Allow,
		`"archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],`:             bpf.Allow,
		`"archMap": [{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_X86"]}],`:            bpf.KillProcess,
		`"archMap": [{"architecture": "SCMP_ARCH_X86_64"}, {"architecture": "SCMP_ARCH_X86"}],`:                 bpf.KillProcess,
		`"archMap": [], "architectures": null, "flags": ["SECCOMP_FILTER_FLAG_LOG"], "comment": "unknown key",`: bpf.KillProcess,
	} {
		json := `{` + head + `"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}]}`
		if got := run(t, json, bpf.Data{Arch: unix.AUDIT_ARCH_I386, NR: 3}); got != want {
			t.Errorf("%s: got %#x, want %#x", head, got, want)
		}
		if got := run(t, json, bpf.Data{Arch: unix.AUDIT_ARCH_X86_64, NR: 0}); got != bpf.Allow {
			t.Errorf("%s: native call: got %#x", head, got)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	arg := func(a string) string {
		return rule(`"names": ["ioctl"], "action": "SCMP_ACT_ALLOW", "args": [` + a + `]`)
	}
	for json, want := range map[string]string{
		``:                                      "unexpected end",
		`{}`:                                    "defaultAction: no action",
		`{"defaultAction": "SCMP_ACT_ALLOW"} x`: "invalid character",
		`{"defaultAction": "ALLOW"}`:            `unknown action "ALLOW"`,
		`{"defaultAction": "SCMP_ACT_NOTIFY"}`:  "no listener",
		`{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x"}`:                                                               "listenerPath",
		`{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["X"]}`:                                                                     `unknown flag "X"`,
		`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["X"]}`:                                                             `unknown architecture "X"`,
		`{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}`:                                                            "errno 4096",
		`{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"], "archMap": [{"architecture": "SCMP_ARCH_X86"}]}`: "both",
		rule(`"names": ["read"], "action": "SCMP_ACT_FOO"`):                                                                       `syscalls[0] (read): unknown action "SCMP_ACT_FOO"`,
		rule(`"names": ["read"]`): "syscalls[0] (read): no action",
		rule(`"name": "read", "names": ["write"], "action": "SCMP_ACT_ALLOW"`):                      "both name and names",
		arg(`{"index": 0, "value": 1, "op": "SCMP_CMP_FOO"}`):                                       `syscalls[0] (ioctl): unknown operator "SCMP_CMP_FOO"`,
		arg(`{"index": 0, "value": 1}`):                                                             `unknown operator ""`,
		arg(`{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}`):                                        "argument 6",
		arg(`{"index": 0, "value": -1, "op": "SCMP_CMP_EQ"}`):                                       "number -1",
		rule(`"names": ["read"], "action": "SCMP_ACT_TRACE", "errnoRet": 65536`):                    "trace data 65536",
		rule(`"names": ["read"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "five"}`):    `includes: minKernel: kernel version "five"`,
		rule(`"names": ["read"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "99999.1"}`): "excludes: minKernel",
		`{"defaultAction": "SCMP_ACT_ALLOW", "x": "` + strings.Repeat("y", MaxSize) + `"}`:          "larger than",
	} {
		_, err := Parse(strings.NewReader(json))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: got %v, want %s", json, err, want)
		}
	}
}

// A profile may be legal and yet too large for the kernel.
func TestTooLong(t *testing.T) {
	var b strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&b, `{"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 0, "value": %d, "op": "SCMP_CMP_GT"}]},`, i)
	}
	p, err := Parse(strings.NewReader(`{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [` + strings.TrimSuffix(b.String(), ",") + `]}`))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Compile(host(t), 0); !errors.Is(err, unix.E2BIG) {
		t.Errorf("got %v, want E2BIG", err)
	}
}

func TestParseKernel(t *testing.T) {
	for s, want := range map[string]Kernel{
		"4.8": {4, 8}, "6.18.44-generic": {6, 18}, "3.12-1-amd64": {3, 12}, "5.10.0": {5, 10}, "7.1+": {7, 1},
	} {
		if got, err := ParseKernel(s); err != nil || got != want {
			t.Errorf("%s: got %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "4", "4.", ".8", "a.b", "-1.2", "4.x"} {
		if k, err := ParseKernel(s); err == nil {
			t.Errorf("%q: got %v", s, k)
		}
	}
}

func TestParseTable(t *testing.T) {
	for _, text := range []string{"read\n", "read x\n", "write 1\nread 0\n", "read 0\nread 0\n", "read -1\n"} {
		if _, err := ParseTable(1, text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}

// Whatever parses also compiles to a program that ends, or is refused for its length.
func FuzzParse(f *testing.F) {
	f.Add(rule(`"names": ["read", "clone"], "action": "SCMP_ACT_ALLOW", "args": [{"index": 1, "value": 4294967296, "op": "SCMP_CMP_MASKED_EQ"}]`), uint32(56), uint64(1))
	f.Add(`{"defaultAction": "SCMP_ACT_KILL", "architectures": ["SCMP_ARCH_X86"], "syscalls": [{"name": "socket", "action": "SCMP_ACT_LOG", "includes": {"minKernel": "4.8", "caps": ["CAP_CHOWN"]}}]}`, uint32(41), uint64(38))
	f.Fuzz(func(t *testing.T, json string, nr uint32, arg uint64) {
		p, err := Parse(strings.NewReader(json))
		if err != nil {
			return
		}
		out, err := p.Compile(host(t), caps.Default)
		if errors.Is(err, unix.E2BIG) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, arch := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, 0} {
			if _, _, err := bpf.Run(Decode(out), bpf.Data{Arch: arch, NR: nr, Args: [6]uint64{arg, arg, arg}}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
