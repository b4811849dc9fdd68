package layers

import (
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"skiff/internal/bpf"

	"golang.org/x/sys/unix"
)

// allowed are the system calls of a worker: what Go's runtime needs to run
// goroutines on threads and to manage memory, and what unpacking needs. There
// is no call to make a process, a socket, a mount or a namespace among them,
// none to execute a file, to trace, or to set ids.
var allowed = []uint32{
	// the stream, the socket, files
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_CLOSE, unix.SYS_LSEEK, unix.SYS_FTRUNCATE, unix.SYS_FSTAT,
	unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT,
	unix.SYS_UNLINKAT, unix.SYS_RENAMEAT2, unix.SYS_READLINKAT, unix.SYS_GETDENTS64, unix.SYS_FCHMOD, unix.SYS_FCHMODAT,
	unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT, unix.SYS_FSETXATTR, unix.SYS_FCNTL,
	unix.SYS_SENDMSG, unix.SYS_RECVMSG,
	// the runtime
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MADVISE, unix.SYS_MINCORE, unix.SYS_BRK,
	unix.SYS_FUTEX, unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_GETTIMEOFDAY,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_TGKILL,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK, unix.SYS_RESTART_SYSCALL,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EPOLL_PWAIT, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
	unix.SYS_GETRANDOM, unix.SYS_GETEUID, unix.SYS_GETEGID, unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_MEMBARRIER,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
}

// newNamespaces are the flags of clone(2) that make a namespace.
const newNamespaces = unix.CLONE_NEWUSER | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWNET |
	unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP

// denyAllElse takes from this process, all threads of it, every system call but
// the allowed ones. A denied call fails with EPERM; one of another
// architecture's kills.
func denyAllElse() error {
	policy := bpf.Policy{Foreign: bpf.KillProcess, Tables: []bpf.Table{{
		Arch: auditArch(), Default: bpf.Errno(unix.EPERM), X32: bpf.KillProcess, Rules: workerRules(),
	}}}
	code, err := bpf.Compile(policy)
	if err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(code)), Filter: &code[0]}
	r, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC,
		uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(code)
	if errno != 0 {
		return errno
	}
	if r != 0 {
		return fmt.Errorf("thread %d has another filter", r)
	}
	return nil
}

func workerRules() []bpf.Rule {
	var rules []bpf.Rule
	for _, nr := range slices.Concat(allowed, allowedHere) {
		rules = append(rules, bpf.Rule{NR: nr, Action: bpf.Allow})
	}
	// Threads, and nothing but threads. clone3 hides its flags in memory; Go
	// does not use it.
	const thread = unix.CLONE_THREAD | unix.CLONE_VM
	rules = append(rules,
		bpf.Rule{NR: unix.SYS_CLONE, Action: bpf.Allow, Conds: []bpf.Cond{
			{Arg: 0, Op: bpf.MaskedEqual, Mask: thread | newNamespaces, Value: thread}}},
		// Memory is never made executable.
		bpf.Rule{NR: unix.SYS_MPROTECT, Action: bpf.Allow, Conds: []bpf.Cond{
			{Arg: 2, Op: bpf.MaskedEqual, Mask: unix.PROT_EXEC, Value: 0}}},
		// The runtime gives names to its memory.
		bpf.Rule{NR: unix.SYS_PRCTL, Action: bpf.Allow, Conds: []bpf.Cond{
			{Arg: 0, Op: bpf.Equal, Value: unix.PR_SET_VMA}}},
	)
	for i := range rules {
		if rules[i].NR == unix.SYS_MMAP {
			rules[i].Conds = []bpf.Cond{{Arg: 2, Op: bpf.MaskedEqual, Mask: unix.PROT_EXEC, Value: 0}}
		}
	}
	return rules
}

func auditArch() uint32 {
	if runtime.GOARCH == "arm64" {
		return unix.AUDIT_ARCH_AARCH64
	}
	return unix.AUDIT_ARCH_X86_64
}
