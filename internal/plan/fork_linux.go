package plan

import (
	"encoding/binary"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Fork is where a task has another go on in its place, as is due after
// entering a user namespace: a pid namespace is made by a clone alone, and needs
// what the task is only now allowed to do.
type Fork struct {
	args Arg // struct clone_args
	pid  Arg
	fd   Arg
	born Gate
}

// Fork appends a clone with the given CLONE_NEW* flags. What follows is done by
// the new task, which is the same parent's child (CLONE_PARENT) and shares what the first
// one shares. The first one sleeps until the new one executes or ends
// (CLONE_VFORK), and then ends too: so the two never touch a register at the same time. Neither
// uses its stack.
//
// A tie to the parent is not inherited: PR_SET_PDEATHSIG(2const).
func (p *Plan) Fork(step string, flags uint64) Fork {
	f := Fork{pid: p.Buffer(8), fd: p.Buffer(8), born: p.Gate()}
	flags |= unix.CLONE_VM | unix.CLONE_FILES | unix.CLONE_PARENT | unix.CLONE_VFORK |
		unix.CLONE_PIDFD | unix.CLONE_PARENT_SETTID | unix.CLONE_CLEAR_SIGHAND
	args := make([]byte, 88) // the exit signal is the first one's
	binary.NativeEndian.PutUint64(args, flags)
	f.args = p.Bytes(args)
	p.Point(f.args, 8, f.fd)
	p.Point(f.args, 24, f.pid) // parent_tid
	r := p.Reg()
	p.Call(step, unix.SYS_CLONE3, f.args, Int(len(args))).Into(r).Zero(unix.ESRCH).Ignore(unix.ESRCH)
	p.Call("end of the first", unix.SYS_EXIT_GROUP, Int(0)).Unless(r)
	p.Signal("forked", f.born)
	return f
}

// Forked waits for the fork. From then on t stands for the new process, and Wait
// reaps both. The descriptor of the first is the task's to close.
func (t *Task) Forked(f Fork) error {
	if err := t.Passed(f.born); err != nil {
		return err
	}
	t.first = process{t.PID, t.Pidfd}
	t.PID = int(binary.NativeEndian.Uint32(t.Data(f.pid)))
	t.Pidfd = int(binary.NativeEndian.Uint32(t.Data(f.fd)))
	return nil
}

// A process is the one that a task was before it forked.
type process struct{ pid, pidfd int }

// reap waits for the first process of a task that forked.
func (p process) reap() {
	if p.pid == 0 {
		return
	}
	for {
		if _, err := syscall.Wait4(p.pid, nil, 0, nil); err != syscall.EINTR {
			break
		}
	}
	unix.Close(p.pidfd)
}
