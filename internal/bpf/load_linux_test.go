package bpf

import (
	"os"
	"os/exec"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestKernelAgrees loads a program in a subprocess, since a filter cannot be
// taken back, and asks the kernel instead of Run.
func TestKernelAgrees(t *testing.T) {
	if os.Getenv("BPF_TEST_CHILD") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKernelAgrees$", "-test.v")
		cmd.Env = append(os.Environ(), "BPF_TEST_CHILD=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	arch := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	const nr = unix.SYS_GETPRIORITY // has two arguments and no side effect
	prog, err := Compile(Policy{Foreign: KillProcess, Tables: []Table{{Arch: arch, Default: Allow, X32: Errno(unix.ENOSYS), Rules: []Rule{
		{NR: nr, Action: Errno(50), Conds: []Cond{{Arg: 1, Op: MaskedEqual, Mask: 0xff << 32, Value: 7 << 32}}},
		{NR: nr, Action: Errno(51), Conds: []Cond{{Arg: 2, Op: Greater, Value: 1 << 33}, {Arg: 3, Op: NotEqual, Value: 1}}},
		{NR: nr, Action: Errno(52), Conds: []Cond{{Arg: 2, Value: 5}}},
		{NR: nr, Action: Errno(52), Conds: []Cond{{Arg: 2, Value: 9}}},
		{NR: nr, Action: Errno(53)},
		{NR: 999, Action: Errno(54)},
	}}}})
	if err != nil {
		t.Fatal(err)
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	fprog := unix.SockFprog{Len: uint16(len(prog)), Filter: &prog[0]}
	if _, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog))); e != 0 {
		t.Fatalf("seccomp: %v", e)
	}
	for _, c := range []struct {
		nr   uintptr
		args [6]uintptr
		want unix.Errno
	}{
		{nr, [6]uintptr{}, 53},
		{nr, [6]uintptr{1: 0x107 << 32}, 50},
		{nr, [6]uintptr{1: 7}, 53},
		{nr, [6]uintptr{2: 1<<33 + 1}, 51},
		{nr, [6]uintptr{2: 1 << 33}, 53},
		{nr, [6]uintptr{2: 1<<33 + 1, 3: 1}, 53},
		{nr, [6]uintptr{2: 5}, 52},
		{nr, [6]uintptr{2: 9}, 52},
		{nr, [6]uintptr{2: 9 | 1<<32}, 53},
		{999, [6]uintptr{}, 54},
		{998, [6]uintptr{}, unix.ENOSYS}, // allowed, and not there
		{unix.SYS_GETPID, [6]uintptr{}, 0},
	} {
		_, _, got := unix.RawSyscall6(c.nr, c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], c.args[5])
		if got != c.want {
			t.Errorf("%d%#x: errno %d, want %d", c.nr, c.args, got, c.want)
		}
	}
}
