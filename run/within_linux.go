package run

import (
	"fmt"
	"os"
	"syscall"

	"skiff/internal/idmap"
)

// WithinVerb is the verb by which skiff waits for the ids of its user namespace, and then
// executes itself once more, as root there.
const WithinVerb = "within"

// withinEnv says that this process is the one inside.
const withinEnv = "SKIFF_WITHIN"

// WantsWithin says whether there may be files in the store that only a process inside
// the user namespace of the containers can read: a user's, with subordinate ids.
func (r *Runner) WantsWithin() bool {
	return r.IDs.Kind == idmap.Subordinate && os.Getenv(withinEnv) == ""
}

// Within runs a skiff with the same standard streams in a user namespace with the
// ids of the containers, and returns its exit status. args are without the program's name.
// attend gets the process once it is there, and what it returns is called when that has ended.
//
// The first execve in a new namespace loses its capabilities, since the process has no id
// there yet; hence the second. Source: user_namespaces(7), capabilities(7).
func (r *Runner) Within(args []string, attend func(*os.Process) (stop func())) (status int, err error) {
	wait, ready, err := os.Pipe()
	if err != nil {
		return 0, err
	}
	defer ready.Close()
	child, err := os.StartProcess("/proc/self/exe", append([]string{"skiff", WithinVerb, "--"}, args...), &os.ProcAttr{
		Env:   append(os.Environ(), withinEnv+"=1", "SKIFF_ROOT="+r.Store.Root()),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr, wait},
		Sys:   &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER},
	})
	wait.Close()
	if err != nil {
		return 0, fmt.Errorf("create user namespace: %w", err)
	}
	defer attend(child)()
	if err := idmap.Write(child.Pid, r.IDs); err != nil {
		ready.Close() // it ends at the end of the pipe
		child.Wait()
		return 0, err
	}
	if _, err := ready.Write([]byte{1}); err != nil {
		child.Wait()
		return 0, err
	}
	state, err := child.Wait()
	if err != nil {
		return 0, err
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal()), nil
	}
	return state.ExitCode(), nil
}

// EnterWithin is what WithinVerb does. It returns only an error.
func EnterWithin(args []string) error {
	ready := os.NewFile(3, "ready")
	var b [1]byte
	if n, err := ready.Read(b[:]); n != 1 {
		return fmt.Errorf("the namespace got no ids: %w", err)
	}
	ready.Close()
	return os.NewSyscallError("execve", syscall.Exec("/proc/self/exe", append([]string{"skiff"}, args...), os.Environ()))
}
