package seccomp

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"skiff/internal/bpf"
	"skiff/run/caps"
	"skiff/run/seccomp/internal/profile"
)

const (
	allow = bpf.Allow
	perm  = bpf.Action(unix.SECCOMP_RET_ERRNO | unix.EPERM)
	nosys = bpf.Action(unix.SECCOMP_RET_ERRNO | unix.ENOSYS)
	zero  = bpf.Action(unix.SECCOMP_RET_ERRNO)
)

// A call is "name arg0 arg1 ..." of one architecture, or "#number".
type call struct {
	line string
	want bpf.Action
}

// machines are the precompiled filters of both, whatever runs the test.
var machines = []struct {
	arch, compat             string
	nativeAudit, compatAudit uint32
}{
	{"amd64", "386", unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386},
	{"arm64", "arm", unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM},
}

func data(t *testing.T, name string) []byte {
	t.Helper()
	text, err := os.ReadFile("data/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func table(t *testing.T, audit uint32, arch string) profile.Table {
	t.Helper()
	tab, err := profile.ParseTable(audit, string(data(t, "syscalls_"+arch+".txt")))
	if err != nil {
		t.Fatal(err)
	}
	return tab
}

// decide runs a filter on one call; ok is false if the architecture lacks it.
func decide(t *testing.T, f []byte, tab profile.Table, line string) (act bpf.Action, ok bool) {
	t.Helper()
	d := bpf.Data{Arch: tab.Arch}
	for i, word := range strings.Fields(line) {
		if i > 0 {
			v, err := strconv.ParseUint(word, 0, 64)
			if err != nil {
				t.Fatal(err)
			}
			d.Args[i-1] = v
		} else if number, is := strings.CutPrefix(word, "#"); is {
			v, err := strconv.ParseUint(number, 0, 32)
			if err != nil {
				t.Fatal(err)
			}
			d.NR = uint32(v)
		} else if d.NR, ok = tab.Number(word); !ok {
			return 0, false
		}
	}
	act, _, err := bpf.Run(profile.Decode(f), d)
	if err != nil {
		t.Fatal(err)
	}
	return act, true
}

// What the default filter decides, on every architecture that has the call.
var decisions = []call{
	{"read", allow}, {"write", allow}, {"openat", allow}, {"openat2", allow}, {"execve", allow}, {"execveat", allow},
	{"exit_group", allow}, {"futex", allow}, {"mmap", allow}, {"mseal", allow}, {"statx", allow}, {"fchmodat2", allow},
	{"chown", allow}, {"setuid", allow}, {"setgroups", allow}, {"chroot", allow}, {"mknodat", allow}, {"prctl", allow},
	{"seccomp", allow}, {"landlock_create_ruleset", allow}, {"rseq", allow}, {"vfork", allow}, {"fork", allow},
	{"ptrace", allow}, {"process_vm_readv", allow}, {"memfd_create", allow}, {"pidfd_open", allow}, {"close_range", allow},

	{"mount", perm}, {"umount2", perm}, {"pivot_root", perm}, {"unshare 0x10000000", perm}, {"unshare", perm}, {"setns", perm},
	{"fsopen", perm}, {"fsconfig", perm}, {"fsmount", perm}, {"fspick", perm}, {"open_tree", perm}, {"move_mount", perm},
	{"mount_setattr", perm}, {"keyctl", perm}, {"add_key", perm}, {"request_key", perm}, {"userfaultfd", perm}, {"bpf", perm},
	{"io_uring_setup", perm}, {"io_uring_enter", perm}, {"io_uring_register", perm}, {"perf_event_open", perm},
	{"open_by_handle_at", perm}, {"kexec_load", perm}, {"kexec_file_load", perm}, {"init_module", perm}, {"finit_module", perm},
	{"delete_module", perm}, {"reboot", perm}, {"sethostname", perm}, {"swapon", perm}, {"syslog", perm}, {"acct", perm},
	{"settimeofday", perm}, {"clock_settime", perm}, {"iopl", perm}, {"ioperm", perm}, {"quotactl", perm}, {"nfsservctl", perm},
	{"kcmp", perm}, {"pidfd_getfd", perm}, {"mbind", perm}, {"vhangup", perm}, {"fanotify_init", perm}, {"lookup_dcookie", perm},

	{"clone3", nosys}, {"open_tree_attr", nosys}, {"file_getattr", nosys}, {"listns", nosys},
	{"#999", nosys}, {"#472", nosys}, {"#0x3fffffff", nosys}, {"#0x40000000", nosys}, {"#0x40000001", nosys},
	{"#0x400001ff", nosys}, {"#0xffffffff", nosys},

	{"clone 0x11", allow}, {"clone 0x3d0f00", allow}, {"clone 0x10000011", perm}, {"clone 0x20000", perm}, {"clone 0x40000000", perm},
	{"clone 0x2000000", perm}, {"clone 0x4000000", perm}, {"clone 0x8000000", perm}, {"clone 0x20000000", perm}, {"clone 0x7e020000", perm},

	{"ioctl 0 0x5401", allow}, {"ioctl 0 0x5413", allow}, {"ioctl 0 0x5412", perm}, {"ioctl 0 0x541c", perm},
	{"ioctl 9 0x100005412", perm}, {"ioctl 9 0xffffffff0000541c", perm}, {"ioctl 0x5412 0x541b", allow},

	{"socket 1", allow}, {"socket 2", allow}, {"socket 10", allow}, {"socket 16", allow}, {"socket 17", allow},
	{"socket 38", perm}, {"socket 40", perm}, {"socket 3", perm}, {"socket 0x100000026", perm}, {"socket 0x100000002", perm},
	{"socketpair 1", allow},

	{"personality", allow}, {"personality 8", allow}, {"personality 0xffffffff", allow}, {"personality 0x40000", perm},
}

func TestDefaultDecisions(t *testing.T) {
	for _, m := range machines {
		f := data(t, "default_"+m.arch+".bpf")
		for _, tab := range []profile.Table{table(t, m.nativeAudit, m.arch), table(t, m.compatAudit, m.compat)} {
			for _, c := range decisions {
				if got, ok := decide(t, f, tab, c.line); ok && got != c.want {
					t.Errorf("%s, architecture %#x: %s: got %#x, want %#x", m.arch, tab.Arch, c.line, got, c.want)
				}
			}
		}
		foreign := table(t, unix.AUDIT_ARCH_RISCV64, m.arch)
		if got, _ := decide(t, f, foreign, "read"); got != bpf.KillProcess {
			t.Errorf("%s: foreign architecture: got %#x", m.arch, got)
		}
	}
}

// Calls that only one architecture has, or that answer differently there.
func TestDefaultPerArch(t *testing.T) {
	amd := data(t, "default_amd64.bpf")
	arm := data(t, "default_arm64.bpf")
	x86, i386 := table(t, unix.AUDIT_ARCH_X86_64, "amd64"), table(t, unix.AUDIT_ARCH_I386, "386")
	a64, a32 := table(t, unix.AUDIT_ARCH_AARCH64, "arm64"), table(t, unix.AUDIT_ARCH_ARM, "arm")
	for _, c := range []struct {
		f    []byte
		tab  profile.Table
		line string
		want bpf.Action
	}{
		{amd, x86, "arch_prctl", allow}, {amd, x86, "modify_ldt", allow}, {amd, x86, "#340", nosys},
		{amd, i386, "socketcall 1", allow}, {amd, i386, "chown32", allow}, {amd, i386, "umount", perm}, {amd, i386, "vm86", perm},
		{arm, a64, "newfstatat", allow}, {arm, a64, "#79", allow}, {arm, a64, "#244", nosys},
		{arm, a32, "set_tls", allow}, {arm, a32, "cacheflush", allow}, {arm, a32, "#0xf0003", perm}, {arm, a32, "#0xf0006", nosys},
		{arm, a32, "arm_fadvise64_64", allow},
	} {
		if got, ok := decide(t, c.f, c.tab, c.line); !ok || got != c.want {
			t.Errorf("architecture %#x: %s: got %#x, want %#x", c.tab.Arch, c.line, got, c.want)
		}
	}
}

// The sizes are golden: a change of the compiler or of moby's list shows here.
func TestDefaultSize(t *testing.T) {
	want, err := os.ReadFile("testdata/sizes.golden")
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	for _, m := range machines {
		for _, name := range []string{"default", "bare", "fakeids"} {
			fmt.Fprintf(&got, "%s_%s %d\n", name, m.arch, Filter(data(t, name+"_"+m.arch+".bpf")).Len())
		}
	}
	if got.String() != string(want) {
		t.Errorf("instructions:\n%swant:\n%s", got.String(), want)
	}
}

func TestFakeIDs(t *testing.T) {
	for _, m := range machines {
		f := data(t, "fakeids_"+m.arch+".bpf")
		for _, tab := range []profile.Table{table(t, m.nativeAudit, m.arch), table(t, m.compatAudit, m.compat)} {
			faked := 0
			for _, name := range tab.Names() {
				got, _ := decide(t, f, tab, name+" 7 7 7")
				bare := strings.TrimSuffix(name, "32")
				want := allow
				switch bare {
				case "chown", "fchown", "lchown", "fchownat", "setuid", "setgid", "setreuid", "setregid",
					"setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid":
					want = zero
					faked++
				}
				if got != want {
					t.Errorf("%s, architecture %#x: %s: got %#x, want %#x", m.arch, tab.Arch, name, got, want)
				}
			}
			if faked < 11 { // arm64 has neither chown nor lchown
				t.Errorf("%s, architecture %#x: only %d calls faked", m.arch, tab.Arch, faked)
			}
			if got, _ := decide(t, f, tab, "#999"); got != allow {
				t.Errorf("%s: number 999: got %#x", m.arch, got)
			}
		}
	}
}

func TestForCaps(t *testing.T) {
	tab, err := tables()
	if err != nil {
		t.Fatal(err)
	}
	with := func(c caps.Cap) caps.Set { return caps.Default.With(c) }
	for _, c := range []struct {
		set  caps.Set
		line string
		want bpf.Action
	}{
		{0, "chroot", perm}, {0, "read", allow},
		{with(unix.CAP_SYS_ADMIN), "mount", allow}, {with(unix.CAP_SYS_ADMIN), "unshare 0x10000000", allow},
		{with(unix.CAP_SYS_ADMIN), "clone 0x10000000", allow}, {with(unix.CAP_SYS_ADMIN), "clone3", allow},
		{with(unix.CAP_SYS_ADMIN), "ioctl 0 0x5412", perm}, {with(unix.CAP_SYS_ADMIN), "keyctl", perm},
		{with(unix.CAP_SYS_ADMIN), "io_uring_setup", perm}, {with(unix.CAP_SYS_ADMIN), "socket 38", perm},
		{with(unix.CAP_SYS_ADMIN), "userfaultfd", perm}, {with(unix.CAP_SYS_ADMIN), "reboot", perm},
		{with(unix.CAP_SYS_BOOT), "reboot", allow}, {with(unix.CAP_BPF), "bpf", allow}, {with(unix.CAP_BPF), "mount", perm},
		{with(unix.CAP_PERFMON), "perf_event_open", allow}, {with(unix.CAP_SYS_PTRACE), "kcmp", allow},
		{with(unix.CAP_DAC_READ_SEARCH), "open_by_handle_at", allow}, {with(unix.CAP_SYSLOG), "syslog", allow},
		{with(unix.CAP_SYS_NICE), "mbind", allow}, {with(unix.CAP_SYS_MODULE), "init_module", allow},
		{caps.All, "#999", nosys}, {caps.All, "keyctl", perm}, {caps.All, "settimeofday", allow},
	} {
		f, err := ForCaps(c.set)
		if err != nil {
			t.Fatal(err)
		}
		for _, tab := range tab {
			if got, ok := decide(t, f, tab, c.line); ok && got != c.want {
				t.Errorf("%s: architecture %#x: %s: got %#x, want %#x", c.set, tab.Arch, c.line, got, c.want)
			}
		}
	}
}

// Compiling for the default capabilities at run time gives the embedded bytes,
// and so does every set that differs in irrelevant capabilities only. The same
// holds for no capabilities.
func TestPrecompiled(t *testing.T) {
	f, err := Load(bytes.NewReader(defaultProfile), caps.Default)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f, Default()) {
		t.Error("the embedded filter is not the one compiled now")
	}
	for _, set := range []caps.Set{0, caps.All &^ relevant} {
		if f, err = Load(bytes.NewReader(defaultProfile), set); err != nil {
			t.Fatal(err)
		}
		quick, err := ForCaps(set)
		if err != nil || !bytes.Equal(f, quick) || &quick[0] != &bareFilter[0] {
			t.Errorf("%#x: not the embedded filter without capabilities: %v", uint64(set), err)
		}
	}
	for c := range caps.Cap(41) {
		set := caps.Default ^ 1<<c
		quick, err := ForCaps(set)
		if err != nil {
			t.Fatal(err)
		}
		full, err := Load(bytes.NewReader(defaultProfile), set)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(quick, full) {
			t.Errorf("%s: ForCaps and Load differ", c)
		}
		free := &quick[0] == &defaultFilter[0] || &quick[0] == &bareFilter[0]
		if want := relevant>>c&1 == 0 || c == unix.CAP_SYS_CHROOT; free != want {
			t.Errorf("%s: compiled though not relevant, or the other way round", c)
		}
	}
}

// The constant names just the capabilities that the profile asks for.
func TestRelevant(t *testing.T) {
	var doc struct {
		Syscalls []struct{ Includes, Excludes struct{ Caps []string } }
	}
	if err := json.Unmarshal(defaultProfile, &doc); err != nil {
		t.Fatal(err)
	}
	var want caps.Set
	for _, s := range doc.Syscalls {
		for _, name := range append(s.Includes.Caps, s.Excludes.Caps...) {
			c, err := caps.Parse(name)
			if err != nil {
				t.Fatal(err)
			}
			want = want.With(c)
		}
	}
	if want != relevant {
		t.Errorf("the profile asks for %s, the constant has %s", want, caps.Set(relevant))
	}
}

func TestDefaultIsFree(t *testing.T) {
	n := testing.AllocsPerRun(100, func() {
		if Default().Len() == 0 || FakeIDs().Len() == 0 {
			t.Fatal("empty")
		}
		if f, err := ForCaps(caps.Default); err != nil || f.Len() == 0 {
			t.Fatal(err)
		}
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkForCapsAll(b *testing.B) {
	for b.Loop() {
		if _, err := ForCaps(caps.All); err != nil {
			b.Fatal(err)
		}
	}
}
