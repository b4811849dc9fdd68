package run

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// forwarded are the signals that mean something to a program and nothing to
// skiff, and that of the terminal's size. SIGCHLD, SIGURG and SIGPIPE are
// skiff's own, and SIGTSTP, SIGTTIN and SIGTTOU stop skiff itself.
var forwarded = [...]syscall.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGWINCH,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGVTALRM, syscall.SIGIO, syscall.SIGPWR, syscall.SIGABRT, syscall.SIGTRAP,
	syscall.SIGXCPU, syscall.SIGXFSZ, syscall.SIGCONT,
}

// An attendant waits for a container and passes on what it is sent.
type attendant struct {
	*Process
	signals     int    // descriptor of package signals
	resume      func() // called when skiff itself goes on after a stop; or nil
	ignored     func() // called after the first interrupt that nobody handles
	interrupted bool
}

// wait returns when the container's init has ended.
func (a *attendant) wait() {
	fds := []unix.PollFd{{Fd: int32(a.Pidfd), Events: unix.POLLIN}, {Fd: int32(a.signals), Events: unix.POLLIN}}
	var buf [64]byte
	timeout := idleAfter
	for fds[0].Revents == 0 {
		n, err := unix.Poll(fds, timeout)
		if n == 0 && err == nil {
			forgetProgram()
			timeout = -1
		}
		if n <= 0 {
			fds[0].Revents = 0
			continue
		}
		if fds[1].Revents == 0 {
			continue
		}
		n, _ = unix.Read(a.signals, buf[:])
		for _, s := range buf[:max(n, 0)] {
			a.pass(syscall.Signal(s))
		}
	}
}

// pass hands a signal to the container's init.
//
// A program that runs as process 1 is not ended by a signal it does not
// handle. So the second interrupt in a row, if the first went unhandled, kills
// it. A terminal that goes away kills it a second later.
// Source: pid_namespaces(7).
func (a *attendant) pass(s syscall.Signal) {
	switch {
	case s == syscall.SIGWINCH:
		// The container's terminal tells its own.
		if size := terminalSize(); size != nil && a.Master != nil {
			unix.IoctlSetWinsize(int(a.Master.Fd()), unix.TIOCSWINSZ, size)
		}
		return
	case s == syscall.SIGCONT && a.resume != nil:
		a.resume()
	case s == syscall.SIGHUP && !handles(a.PID, s):
		// First it may find the end of its input by itself.
		time.AfterFunc(time.Second, a.kill)
	case s == syscall.SIGINT && !handles(a.PID, s):
		if a.interrupted {
			s = syscall.SIGKILL
		} else {
			a.interrupted = true
			a.ignored()
		}
	}
	unix.PidfdSendSignal(a.Pidfd, s, nil, 0)
}

// attach carries bytes between the caller's stdio and the container's
// terminal, with the caller's own terminal in raw mode and of the same size.
// finish must be called once the container has ended: it drains the output and
// restores the terminal. resume makes the terminal raw again after a stop, in
// which the shell set its own mode.
func attach(pr *Process, interactive bool) (finish, resume func(), err error) {
	master, err := pr.terminal()
	if err != nil {
		return nil, nil, err
	}
	pr.Master = master
	var undo []func()
	resume = func() {}
	in := int(os.Stdin.Fd())
	if interactive && term.IsTerminal(in) {
		old, err := term.MakeRaw(in)
		if err != nil {
			return nil, nil, err
		}
		resume = func() { term.MakeRaw(in) }
		undo = append(undo, func() { term.Restore(in, old) })
	}
	// It may have changed since the container was told.
	if size := terminalSize(); size != nil {
		unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, size)
	}
	if interactive {
		go copyInput(master)
	}
	var output sync.WaitGroup
	output.Go(func() {
		// The end of the last slave is EIO, not an end of file.
		if _, err := io.Copy(os.Stdout, master); err != nil && !errors.Is(err, syscall.EIO) {
			unix.PidfdSendSignal(pr.Pidfd, unix.SIGHUP, nil, 0)
		}
	})
	return func() {
		output.Wait()
		for _, f := range undo {
			f()
		}
		master.Close()
	}, resume, nil
}

// copyInput passes stdin on. Its end is the terminal's end-of-file character,
// if the terminal is in the mode that knows one.
func copyInput(master *os.File) {
	io.Copy(master, os.Stdin)
	const endOfTransmission = 4
	if t, err := unix.IoctlGetTermios(int(master.Fd()), unix.TCGETS); err == nil && t.Lflag&unix.ICANON != 0 {
		master.Write([]byte{endOfTransmission})
	}
}

// ConsoleSize is the size of the caller's terminal, if it has one.
func ConsoleSize() Size {
	if size := terminalSize(); size != nil {
		return Size{Rows: size.Row, Columns: size.Col}
	}
	return Size{}
}

// terminalSize is that of the first of the caller's stdio that is a terminal.
func terminalSize() *unix.Winsize {
	for fd := range 3 {
		if size, err := unix.IoctlGetWinsize(fd, unix.TIOCGWINSZ); err == nil {
			return size
		}
	}
	return nil
}
