package seccomp

import (
	"os"
	"os/exec"
	"runtime"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"skiff/internal/bpf"
	"skiff/run/caps"
	"skiff/run/seccomp/internal/profile"
)

// install puts f on the calling thread for good and returns how long the kernel
// took to load it.
func install(t testing.TB, f Filter) time.Duration {
	t.Helper()
	runtime.LockOSThread() // never unlocked: the thread ends with its goroutine
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	fprog := unix.SockFprog{Len: uint16(f.Len()), Filter: (*unix.SockFilter)(unsafe.Pointer(&f[0]))}
	start := time.Now()
	_, _, e := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&fprog)))
	took := time.Since(start)
	if e != 0 {
		t.Fatalf("seccomp: %v", e)
	}
	return took
}

// child reports whether this is the subprocess that may load filters; in the
// test's own process it runs that one.
func child(t *testing.T) bool {
	t.Helper()
	if os.Getenv("SECCOMP_TEST_CHILD") != "" {
		return true
	}
	cmd := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "SECCOMP_TEST_CHILD=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return false
}

type attempt struct {
	name string
	nr   uintptr
	args [5]uintptr
	want unix.Errno
}

func try(t *testing.T, attempts []attempt) {
	t.Helper()
	for _, a := range attempts {
		if _, _, got := unix.RawSyscall6(a.nr, a.args[0], a.args[1], a.args[2], a.args[3], a.args[4], 0); got != a.want {
			t.Errorf("%s: %v, want %v", a.name, got, a.want)
		}
	}
}

const none = ^uintptr(0) // a bad descriptor, address or process

// The kernel under Default really refuses what it should. Arguments are such
// that an allowed call would do no harm and fail with another errno.
func TestDefaultLoaded(t *testing.T) {
	if !child(t) {
		return
	}
	install(t, Default())
	try(t, []attempt{
		{"TIOCSTI", unix.SYS_IOCTL, [5]uintptr{none, unix.TIOCSTI}, unix.EPERM},
		{"TIOCSTI with high bits", unix.SYS_IOCTL, [5]uintptr{none, 1<<32 | unix.TIOCSTI}, unix.EPERM},
		{"TIOCLINUX", unix.SYS_IOCTL, [5]uintptr{none, unix.TIOCLINUX}, unix.EPERM},
		{"other ioctl", unix.SYS_IOCTL, [5]uintptr{none, unix.TCGETS}, unix.EBADF},
		{"unshare user", unix.SYS_UNSHARE, [5]uintptr{unix.CLONE_NEWUSER}, unix.EPERM},
		{"unshare nothing", unix.SYS_UNSHARE, [5]uintptr{}, unix.EPERM},
		{"clone user", unix.SYS_CLONE, [5]uintptr{unix.CLONE_NEWUSER | uintptr(unix.SIGCHLD)}, unix.EPERM},
		{"clone3", unix.SYS_CLONE3, [5]uintptr{none, 1}, unix.ENOSYS},
		{"setns", unix.SYS_SETNS, [5]uintptr{none}, unix.EPERM},
		{"mount", unix.SYS_MOUNT, [5]uintptr{none, none, none}, unix.EPERM},
		{"fsopen", unix.SYS_FSOPEN, [5]uintptr{none}, unix.EPERM},
		{"bpf", unix.SYS_BPF, [5]uintptr{none}, unix.EPERM},
		{"io_uring_setup", unix.SYS_IO_URING_SETUP, [5]uintptr{1, none}, unix.EPERM},
		{"perf_event_open", unix.SYS_PERF_EVENT_OPEN, [5]uintptr{none}, unix.EPERM},
		{"keyctl", unix.SYS_KEYCTL, [5]uintptr{none}, unix.EPERM},
		{"add_key", unix.SYS_ADD_KEY, [5]uintptr{none, none}, unix.EPERM},
		{"request_key", unix.SYS_REQUEST_KEY, [5]uintptr{none, none}, unix.EPERM},
		{"userfaultfd", unix.SYS_USERFAULTFD, [5]uintptr{none}, unix.EPERM},
		{"open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT, [5]uintptr{none, none}, unix.EPERM},
		{"kexec_load", unix.SYS_KEXEC_LOAD, [5]uintptr{none, none}, unix.EPERM},
		{"init_module", unix.SYS_INIT_MODULE, [5]uintptr{none}, unix.EPERM},
		{"AF_ALG", unix.SYS_SOCKET, [5]uintptr{unix.AF_ALG, unix.SOCK_SEQPACKET}, unix.EPERM},
		{"AF_VSOCK", unix.SYS_SOCKET, [5]uintptr{unix.AF_VSOCK, unix.SOCK_STREAM}, unix.EPERM},
		{"AF_INET of no type", unix.SYS_SOCKET, [5]uintptr{unix.AF_INET, 77}, unix.EINVAL},
		{"number 999", 999, [5]uintptr{}, unix.ENOSYS},
		{"getpid", unix.SYS_GETPID, [5]uintptr{}, 0},
		{"ptrace", unix.SYS_PTRACE, [5]uintptr{unix.PTRACE_PEEKTEXT, 1 << 30}, unix.ESRCH},
		{"openat", unix.SYS_OPENAT, [5]uintptr{none, none}, unix.EFAULT},
		{"chroot", unix.SYS_CHROOT, [5]uintptr{none}, unix.EFAULT},
	})
	if runtime.GOARCH == "amd64" {
		try(t, []attempt{{"x32 getpid", 0x40000000 | unix.SYS_GETPID, [5]uintptr{}, unix.ENOSYS}})
	}
}

// A program runs under Default and FakeIDs together, and its changes of owner
// and of id succeed in appearance only.
func TestFakeIDsLoaded(t *testing.T) {
	if !child(t) {
		return
	}
	install(t, Default())
	install(t, FakeIDs())
	uid := unix.Getuid()
	try(t, []attempt{
		{"fchownat", unix.SYS_FCHOWNAT, [5]uintptr{none, none, 7, 7}, 0},
		{"fchown", unix.SYS_FCHOWN, [5]uintptr{none, 7, 7}, 0},
		{"setuid", unix.SYS_SETUID, [5]uintptr{12345}, 0},
		{"setresuid", unix.SYS_SETRESUID, [5]uintptr{12345, 12345, 12345}, 0},
		{"setresgid", unix.SYS_SETRESGID, [5]uintptr{12345, 12345, 12345}, 0},
		{"setgroups", unix.SYS_SETGROUPS, [5]uintptr{none, none}, 0},
		{"keyctl", unix.SYS_KEYCTL, [5]uintptr{none}, unix.EPERM},
		{"clone3", unix.SYS_CLONE3, [5]uintptr{none, 1}, unix.ENOSYS},
		{"fchmod", unix.SYS_FCHMOD, [5]uintptr{none}, unix.EBADF},
	})
	if got := unix.Getuid(); got != uid {
		t.Errorf("user id is %d now", got)
	}
	file := t.TempDir() + "/f"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("/bin/chown", "12345:12345", file).CombinedOutput(); err != nil {
		t.Errorf("chown: %v: %s", err, out)
	}
	var st unix.Stat_t
	if err := unix.Stat(file, &st); err != nil || int(st.Uid) != uid {
		t.Errorf("owner %d, %v", st.Uid, err)
	}
}

// linear is the default filter as a plain list: one comparison for every
// number that is allowed, as a filter without a tree has.
func linear(t testing.TB) Filter {
	t.Helper()
	tab, err := tables()
	if err != nil {
		t.Fatal(err)
	}
	prog := profile.Decode(Default())
	list := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 4}}
	for _, table := range tab {
		body := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}}
		for _, name := range table.Names() {
			nr, _ := table.Number(name)
			if act, _, err := bpf.Run(prog, bpf.Data{Arch: table.Arch, NR: nr}); err == nil && act == bpf.Allow {
				body = append(body, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: nr},
					unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(bpf.Allow)})
			}
		}
		body = append(body, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | 1})
		list = append(list, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jt: 1, K: table.Arch},
			unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(body))})
		list = append(list, body...)
	}
	return profile.Encode(append(list, unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}))
}

// BenchmarkLoad measures seccomp(2) alone, each time on a thread of its own
// that ends afterwards. The median is what counts: "us/load".
func BenchmarkLoad(b *testing.B) {
	all, err := ForCaps(caps.All)
	if err != nil {
		b.Fatal(err)
	}
	for _, c := range []struct {
		name string
		f    Filter
	}{{"tree", Default()}, {"all-caps", all}, {"fakeids", FakeIDs()}, {"linear", linear(b)}} {
		b.Run(c.name, func(b *testing.B) {
			var took []time.Duration
			for b.Loop() {
				done := make(chan time.Duration)
				go func() { done <- install(b, c.f) }()
				took = append(took, <-done)
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "us/load")
			b.ReportMetric(float64(c.f.Len()), "instructions")
		})
	}
}
