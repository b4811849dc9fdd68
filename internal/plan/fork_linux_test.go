package plan

import (
	"strings"
	"testing"

	"skiff/internal/need"

	"golang.org/x/sys/unix"
)

// What follows a fork is done by process 1 of a new pid namespace that is the
// caller's child, in the user namespace that was entered before.
func TestFork(t *testing.T) {
	need.Userns(t)
	holder := New()
	hold := holder.Gate()
	holder.Wait("hold", hold)
	owner, err := holder.Start(Clone{Flags: unix.CLONE_NEWUSER})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		owner.Open(hold)
		owner.Wait()
	}()
	p := New()
	pid, self, ns := p.Reg(), p.Buffer(64), p.Reg()
	p.Call("enter", unix.SYS_SETNS, Int(owner.Pidfd), Int(unix.CLONE_NEWUSER))
	fork := p.Fork("fork", unix.CLONE_NEWPID)
	p.Call("pid", unix.SYS_GETPID).Into(pid)
	p.Call("link", unix.SYS_READLINKAT, Int(unix.AT_FDCWD), p.Str("/proc/thread-self/ns/user"), self, Int(64)).IgnoreAll().Into(ns)
	p.Call("exit", unix.SYS_EXIT_GROUP, Int(7))
	task, err := p.Start(Clone{})
	if err != nil {
		t.Fatal(err)
	}
	first := task.PID
	if err := task.Forked(fork); err != nil {
		t.Fatal(err)
	}
	if task.PID == first || task.PID <= 0 {
		t.Errorf("pid %d, the first is %d", task.PID, first)
	}
	ws, err := task.Wait()
	if err != nil || ws.ExitStatus() != 7 {
		t.Errorf("status %d, %v", ws.ExitStatus(), err)
	}
	if task.Reg(pid) != 1 {
		t.Errorf("pid %d inside", task.Reg(pid))
	}
	if err := unix.Kill(first, 0); err != unix.ESRCH {
		t.Errorf("the first is still there: %v", err)
	}
}

// A failure after the fork is the task's, and both processes end.
func TestForkFails(t *testing.T) {
	need.Userns(t)
	p := New()
	fork := p.Fork("fork", unix.CLONE_NEWUSER|unix.CLONE_NEWPID)
	p.Call("no such call", 4000)
	task, err := p.Start(Clone{})
	if err != nil {
		t.Fatal(err)
	}
	first := task.PID
	task.Forked(fork)
	if ws, err := task.Wait(); err == nil || !strings.Contains(err.Error(), "no such call") {
		t.Errorf("status %v, %v", ws, err)
	}
	if err := unix.Kill(first, 0); err != unix.ESRCH {
		t.Errorf("the first is still there: %v", err)
	}
	// A fork that is refused fails the task itself.
	p = New()
	fork = p.Fork("fork", 1<<63)
	if task, err = p.Start(Clone{}); err != nil {
		t.Fatal(err)
	}
	if err := task.Forked(fork); err == nil {
		t.Error("forked with flags that are none")
	}
	task.Wait()
}
