package run

import (
	"os"
	"syscall"
)

// SweepVerb is the verb by which skiff executes itself to sweep a store.
const SweepVerb = "sweep"

// SweepBehind leaves what is to be deleted to a process of its own, which goes on
// when this one has ended: a large image takes seconds. It has its own
// session, so that ^C and the end of a terminal do not meet it. If it cannot be
// started, or is killed, the next command sweeps.
func (r *Runner) SweepBehind() {
	if r.Store.Swept() {
		return
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return
	}
	defer null.Close()
	child, err := os.StartProcess("/proc/self/exe", []string{"skiff", SweepVerb}, &os.ProcAttr{
		Dir: "/", Env: append(os.Environ(), "SKIFF_ROOT="+r.Store.Root()),
		Files: []*os.File{null, null, null},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err == nil {
		child.Release()
	}
}
