package idmap

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"skiff/internal/again"
	"skiff/internal/plan"

	"golang.org/x/sys/unix"
)

// An Error is a map that could not be written.
type Error struct {
	Helper string // newuidmap or newgidmap, or "" if skiff wrote itself
	Output string // what the helper said
	Err    error
}

func (e *Error) Error() string {
	if e.Helper == "" {
		return fmt.Sprintf("write id map: %v", e.Err)
	}
	if e.Output != "" {
		return fmt.Sprintf("%s: %s", e.Helper, e.Output)
	}
	return fmt.Sprintf("%s: %v", e.Helper, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Write gives the user namespace of task pid its map. For Subordinate it runs
// newuidmap and newgidmap side by side. The task must not have gone on to
// anything that needs ids.
//
// The error is an *Error. Source: user_namespaces(7), newuidmap(1).
func Write(pid int, m Map) error {
	w, err := Begin(pid, m)
	if err != nil {
		return err
	}
	return w.Wait()
}

// A Writing is a map on its way.
type Writing struct{ running []*helper }

// Begin starts to write the map and returns at once, so that the caller can do
// something else while the helpers run. Wait must be called.
func Begin(pid int, m Map) (*Writing, error) {
	proc := "/proc/" + strconv.Itoa(pid) + "/"
	switch m.Kind {
	case Host:
		return &Writing{}, nil
	case Single:
		// An unprivileged writer of gid_map gives up setgroups first.
		if err := put(proc+"setgroups", "deny"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, &Error{Err: err}
		}
		fallthrough
	case Root:
		if err := put(proc+"uid_map", lines(m.UIDs, " ", "\n")); err != nil {
			return nil, &Error{Err: err}
		}
		if err := put(proc+"gid_map", lines(m.GIDs, " ", "\n")); err != nil {
			return nil, &Error{Err: err}
		}
		return &Writing{}, nil
	}
	w := &Writing{}
	for i, ranges := range [][]Range{m.UIDs, m.GIDs} {
		h, err := startHelper(helpers[i], pid, ranges)
		if err != nil {
			w.Wait()
			return nil, &Error{Helper: helpers[i], Err: err}
		}
		w.running = append(w.running, h)
	}
	return w, nil
}

// Wait returns when the map is written.
func (w *Writing) Wait() error {
	var first error
	for _, h := range w.running {
		if err := h.wait(); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// put writes a file of /proc in one write, as id maps demand.
func put(path, text string) error {
	fd, err := again.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	if err := again.Write(fd, []byte(text)); err != nil {
		return &os.PathError{Op: "write", Path: path, Err: err}
	}
	return nil
}

// A helper is a running newuidmap or newgidmap.
type helper struct {
	name string
	task *plan.Task
	pipe [2]int // its stderr
}

// startHelper runs the helper by a plan: with os/exec the caller would wait,
// for each helper, until it has reached its exec.
//
// The helper has a process group of its own: ^C is for skiff, which ends the
// container, and no helper that was interrupted is taken for one that refused.
func startHelper(name string, pid int, ranges []Range) (*helper, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return nil, err
	}
	argv := []string{name, strconv.Itoa(pid)}
	argv = append(argv, strings.Fields(lines(ranges, " ", " "))...)
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return nil, err
	}
	p := plan.New()
	p.Call("own process group", unix.SYS_SETPGID, plan.Int(0), plan.Int(0))
	p.Call("own descriptors", unix.SYS_UNSHARE, plan.Int(unix.CLONE_FILES))
	p.Call("stderr", unix.SYS_DUP3, plan.Int(pipe[1]), plan.Int(2), plan.Int(0))
	p.Call("signal mask", unix.SYS_RT_SIGPROCMASK, plan.Int(unix.SIG_SETMASK), p.Buffer(8), plan.Int(0), plan.Int(8))
	p.Call("exec", unix.SYS_EXECVEAT, plan.Int(unix.AT_FDCWD), p.Str(path), p.Strs(argv),
		p.Strs([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}), plan.Int(0)).At(path)
	task, err := p.Start(plan.Clone{})
	if err != nil {
		unix.Close(pipe[0])
		unix.Close(pipe[1])
		return nil, err
	}
	return &helper{name, task, pipe}, nil
}

func (h *helper) wait() error {
	ws, failure := h.task.Wait()
	unix.Close(h.task.Pidfd)
	// Not earlier: the helper shared our descriptors until it had its own.
	unix.Close(h.pipe[1])
	defer unix.Close(h.pipe[0])
	if failure != nil {
		return &Error{Helper: h.name, Err: failure}
	}
	if ws.Exited() && ws.ExitStatus() == 0 {
		return nil
	}
	var b [512]byte
	n, _ := unix.Read(h.pipe[0], b[:])
	text := strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(string(b[:max(n, 0)])), h.name+":"))
	if ws.Signaled() {
		return &Error{Helper: h.name, Output: "killed by " + ws.Signal().String(), Err: syscall.EINTR}
	}
	return &Error{Helper: h.name, Output: text, Err: syscall.EPERM}
}
