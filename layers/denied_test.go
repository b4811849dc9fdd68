package layers

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"skiff/internal/need"

	"golang.org/x/sys/unix"
)

// tryDenied closes the worker's door in this process, which was made for that,
// and tries what must not work any more, on threads old and new.
func tryDenied() {
	fmt.Fprintln(os.Stderr, "before", unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), denyAllElse())
	try := func(name string, nr uintptr, args ...uintptr) {
		var a [6]uintptr
		copy(a[:], args)
		_, _, errno := unix.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		fmt.Printf("%s %s\n", name, unix.ErrnoName(errno))
	}
	done := make(chan bool)
	go func() {
		try("socket", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM)
		try("connect", unix.SYS_CONNECT, 3)
		try("execve", unix.SYS_EXECVE)
		try("execveat", unix.SYS_EXECVEAT)
		try("clone", unix.SYS_CLONE, uintptr(unix.SIGCHLD))
		try("clone3", unix.SYS_CLONE3)
		try("unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
		try("setns", unix.SYS_SETNS)
		try("mount", unix.SYS_MOUNT)
		try("open_tree", unix.SYS_OPEN_TREE)
		try("ptrace", unix.SYS_PTRACE)
		try("process_vm_writev", unix.SYS_PROCESS_VM_WRITEV)
		try("setuid", unix.SYS_SETUID, 0)
		try("bpf", unix.SYS_BPF)
		try("io_uring_setup", unix.SYS_IO_URING_SETUP)
		try("keyctl", unix.SYS_KEYCTL)
		try("kill", unix.SYS_KILL, 1, 0)
		try("chroot", unix.SYS_CHROOT)
		try("mmap-exec", unix.SYS_MMAP, 0, 4096, unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uintptr(0))
		try("prctl", unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1)
		close(done)
	}()
	<-done
}

func TestDenied(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LAYERS_TEST_DENIED=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for line := range strings.Lines(string(out)) {
		n++
		if !strings.HasSuffix(line, " EPERM\n") {
			t.Errorf("not denied: %s", line)
		}
	}
	if n != 20 {
		t.Errorf("%d system calls tried, output:\n%s", n, out)
	}
}

// What a worker may and sees, as the kernel says it.
func TestConfined(t *testing.T) {
	for name, ids := range kinds(t) {
		t.Run(name, func(t *testing.T) {
			staging := place(t)
			if err := os.Mkdir(filepath.Join(staging, "only-this"), 0o755); err != nil {
				t.Fatal(err)
			}
			w := start(t, staging, ids)
			pid := w.life.task.PID
			for field, want := range map[string]uint64{
				"NoNewPrivs": 1, "Seccomp": 2, "CapEff": 0x8800001b, "CapPrm": 0x8800001b, "CapBnd": 0x8800001b, "CapInh": 0, "CapAmb": 0,
			} {
				if got := statusField(t, pid, field); got != want {
					t.Errorf("%s is %x, want %x", field, got, want)
				}
			}
			proc := fmt.Sprintf("/proc/%d/", pid)
			for _, ns := range []string{"user", "mnt", "pid", "net", "ipc", "uts"} {
				// In another user namespace these links can't always be read.
				theirs, err := os.Readlink(proc + "ns/" + ns)
				ours, _ := os.Readlink("/proc/self/ns/" + ns)
				if err == nil && theirs == ours {
					t.Errorf("shares the %s namespace", ns)
				}
			}
			if os.Geteuid() != 0 {
				return // the rest of /proc is the worker's own
			}
			entries, err := os.ReadDir(proc + "root/")
			if err != nil || len(entries) != 1 || entries[0].Name() != "only-this" {
				t.Errorf("root holds %v, %v", entries, err)
			}
			mounts, err := os.ReadFile(proc + "mountinfo")
			if err != nil || strings.Count(string(mounts), "\n") != 1 || !strings.Contains(string(mounts), "nosuid,nodev,noexec") {
				t.Errorf("mounts %q, %v", mounts, err)
			}
			fds, err := os.ReadDir(proc + "fd")
			if err != nil {
				t.Error(err)
			}
			for _, fd := range fds {
				to, _ := os.Readlink(proc + "fd/" + fd.Name())
				if strings.HasPrefix(to, "/") && to != "/" && to != "/dev/null" || strings.HasPrefix(to, "memfd") {
					t.Errorf("descriptor %s is %s", fd.Name(), to)
				}
			}
			limits, _ := os.ReadFile(proc + "limits")
			for _, want := range []string{"Max core file size 0", "Max open files 4096 4096", "Max cpu time 3600 3600", "Max file size 1099511627776"} {
				if !strings.Contains(strings.Join(strings.Fields(string(limits)), " "), want) {
					t.Errorf("limits lack %q:\n%s", want, limits)
				}
			}
		})
	}
}

// As root the worker is nobody on the host, and files are the container's all
// the same.
func TestRootWorkerIsNobody(t *testing.T) {
	need.Root(t)
	ids, ok := kinds(t)["root"]
	if !ok {
		need.That(t, "subuid", errors.New("there is no range of ids for root"))
	}
	w := start(t, place(t), ids)
	if uid := statusField(t, w.life.task.PID, "Uid"); uid != uint64(ids.UIDs[0].Host) {
		t.Errorf("its uid on the host is %d, want %d", uid, ids.UIDs[0].Host)
	}
}
