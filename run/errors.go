package run

import (
	"errors"
	"fmt"
	"syscall"

	"skiff/internal/plan"
)

// Statuses of skiff's own, as docker and podman have them.
const (
	StatusSkiff         = 125 // skiff could not do its part
	StatusNotExecutable = 126 // the program exists but cannot be executed
	StatusNotFound      = 127 // the program was not found
)

// An ExecError is a program that could not be executed.
type ExecError struct {
	Name string // as asked for
	Err  error  // ENOENT: not found; else the errno of the best attempt
	Path bool   // Name was looked for in PATH
}

func (e *ExecError) Error() string {
	if errors.Is(e.Err, syscall.ENOENT) {
		if e.Path {
			return fmt.Sprintf("%s: not found in PATH", e.Name)
		}
		return fmt.Sprintf("%s: not found", e.Name)
	}
	if errors.Is(e.Err, syscall.ENOEXEC) {
		return fmt.Sprintf("%s: exec format error", e.Name)
	}
	return fmt.Sprintf("%s: %v", e.Name, e.Err)
}

func (e *ExecError) Unwrap() error { return e.Err }

// A UserError is a user or group that the image or the id map does not have.
type UserError struct {
	Name   string
	Reason string
}

func (e *UserError) Error() string { return fmt.Sprintf("user %s: %s", e.Name, e.Reason) }

// A NameError is a container name that is taken or no name.
type NameError struct{ Name, Reason string }

func (e *NameError) Error() string { return fmt.Sprintf("name %q: %s", e.Name, e.Reason) }

// ErrWorkdir is a working directory that cannot be entered.
var ErrWorkdir = errors.New("working directory")

// StatusOf is the exit status for an error, by its type alone.
func StatusOf(err error) int {
	var exec *ExecError
	var user *UserError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exec) && errors.Is(exec.Err, syscall.ENOENT):
		return StatusNotFound
	case errors.As(err, &exec), errors.As(err, &user), errors.Is(err, ErrWorkdir):
		return StatusNotExecutable
	}
	return StatusSkiff
}

// failure turns what became of the plan into the error that people see.
func (p *initPlan) failure(t *plan.Task, err error) error {
	var e *plan.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Step {
	case "exec", "look for program":
		errno, _ := e.Err.(syscall.Errno)
		return &ExecError{Name: p.spec.Args[0], Err: errno}
	case "enter working directory":
		return fmt.Errorf("%w %s: %w", ErrWorkdir, e.Path, e.Err)
	}
	return err
}

// notExecuted is the error of a plan whose every exec failed with an errno
// that does not stop the search. EACCES says more than ENOENT. Source: execvp(3).
func (p *initPlan) notExecuted(t *plan.Task) error {
	e := &ExecError{Name: p.spec.Args[0], Err: syscall.ENOENT, Path: len(p.execs) != 1 || p.execs[0].path != p.spec.Args[0]}
	for _, try := range p.execs {
		if errno := syscall.Errno(-t.Reg(try.result)); errno == syscall.EACCES {
			e.Err = errno
		}
	}
	return e
}
