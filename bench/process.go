package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A command is a program with its arguments, run as an account.
type command struct {
	argv []string
	as   *account
	env  []string // besides the account's

	// Without the cgroup v2 tree of a hybrid host, which crun refuses.
	pureCgroups bool
}

// A sample is one run from fork to reaped.
type sample struct {
	round  int
	wall   time.Duration
	cpu    time.Duration // user and system, of the process and what it waited for
	faults int64         // page faults, likewise
	peak   int64         // bytes resident of the largest of these processes
	err    error         // with what was said on stderr
}

// start forks and executes. stdin and stdout may be nil, for /dev/null. What the
// process says on stderr is kept in memory and returned by the second function.
func (c command) start(stdin, stdout *os.File) (pid int, said func() string, err error) {
	path, err := exec.LookPath(c.argv[0])
	if err != nil {
		return 0, nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	fd, err := unix.MemfdCreate("stderr", unix.MFD_CLOEXEC)
	if err != nil {
		return 0, nil, err
	}
	stderr := os.NewFile(uintptr(fd), "stderr")
	if stdin == nil {
		stdin = null
	}
	if stdout == nil {
		stdout = null
	}
	attr := &syscall.ProcAttr{
		Dir: c.as.dir, Env: append(c.as.environment(), c.env...),
		Files: []uintptr{stdin.Fd(), stdout.Fd(), uintptr(fd)},
		Sys:   c.as.credential(),
	}
	run := func() { pid, err = syscall.ForkExec(path, c.argv, attr) }
	if c.pureCgroups {
		withoutUnified(run)
	} else {
		run()
	}
	if err != nil {
		stderr.Close()
		return 0, nil, fmt.Errorf("%s: %w", path, err)
	}
	return pid, func() string {
		defer stderr.Close()
		text, _ := io.ReadAll(io.NewSectionReader(stderr, 0, 1<<16))
		return strings.TrimSpace(string(text))
	}, nil
}

// measure runs the command once.
//
// The time is from fork to reaped. What detaches itself, as podman's monitor
// does, is not in the CPU time.
func (c command) measure() sample {
	begin := time.Now()
	pid, said, err := c.start(nil, nil)
	if err != nil {
		return sample{err: err}
	}
	var ws syscall.WaitStatus
	var ru syscall.Rusage
	for {
		if _, err = syscall.Wait4(pid, &ws, 0, &ru); err != syscall.EINTR {
			break
		}
	}
	s := sample{wall: time.Since(begin), err: err}
	text := said()
	s.cpu = time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
	s.faults = ru.Minflt + ru.Majflt
	s.peak = ru.Maxrss << 10
	if err == nil {
		s.err = failure(ws, text)
	}
	return s
}

// failure is nil for an exit status of 0.
func failure(ws syscall.WaitStatus, said string) error {
	switch {
	case ws.Signaled():
		return fmt.Errorf("killed by %v: %s", ws.Signal(), said)
	case ws.ExitStatus() != 0:
		return fmt.Errorf("status %d: %s", ws.ExitStatus(), said)
	}
	return nil
}

// output runs the command and returns what it printed.
func (c command) output() (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	pid, said, err := c.start(nil, w)
	w.Close()
	if err != nil {
		return "", err
	}
	text, _ := io.ReadAll(r)
	var ws syscall.WaitStatus
	syscall.Wait4(pid, &ws, 0, nil)
	errText := said()
	if err := failure(ws, errText); err != nil {
		return string(text), fmt.Errorf("%s: %w", strings.Join(c.argv, " "), err)
	}
	return string(text) + errText, nil
}

// withoutUnified runs f on a thread with a mount namespace of its own, in
// which /sys/fs/cgroup/unified is not mounted. What f forks inherits it, at no
// cost to what is measured. Source: mount_namespaces(7); crun, "cgroups in
// hybrid mode not supported".
func withoutUnified(f func()) {
	unifiedThread.Do(func() {
		unifiedWork = make(chan func())
		go func() {
			runtime.LockOSThread()
			if unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS) == nil {
				unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
				unix.Unmount("/sys/fs/cgroup/unified", unix.MNT_DETACH)
			}
			for f := range unifiedWork {
				f()
			}
		}()
	})
	done := make(chan struct{})
	unifiedWork <- func() { f(); close(done) }
	<-done
}

var (
	unifiedThread sync.Once
	unifiedWork   chan func()
)
