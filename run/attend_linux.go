package run

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// catch begins to collect the signals that are for the container. It comes
// before the start, so that none is lost or ends skiff in between.
//
// By name, and never reset: signal.Reset and signal.Stop wait for the runtime
// to be idle, which costs a start milliseconds.
func catch() <-chan os.Signal {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded[:]...)
	return signals
}

// forward hands the signals to the container's init, for the rest of the
// process's life.
//
// A program that runs as process 1 is not ended by a signal it does not
// handle. So the second interrupt in a row, if the first went unhandled, kills
// it; ignored is called after the first. A terminal that goes away kills it a
// second later. Source: pid_namespaces(7).
func forward(pr *Process, signals <-chan os.Signal, ignored func()) {
	interrupted := false
	for s := range signals {
		n := s.(syscall.Signal)
		switch {
		case n == syscall.SIGHUP && !handles(pr.PID, n):
			// First it may find the end of its input by itself.
			time.AfterFunc(time.Second, pr.kill)
		case n == syscall.SIGINT && !handles(pr.PID, n):
			if interrupted {
				n = syscall.SIGKILL
			} else if interrupted = true; ignored != nil {
				ignored()
			}
		}
		unix.PidfdSendSignal(pr.Pidfd, n, nil, 0)
	}
}

// forwarded are the signals that mean something to a program and nothing to
// skiff. SIGCHLD, SIGURG and SIGPIPE are skiff's own, SIGWINCH goes by the
// terminal, and SIGTSTP, SIGTTIN and SIGTTOU stop skiff itself.
var forwarded = [...]os.Signal{
	syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT,
	syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGALRM, syscall.SIGVTALRM, syscall.SIGIO, syscall.SIGPWR, syscall.SIGABRT, syscall.SIGTRAP,
	syscall.SIGXCPU, syscall.SIGXFSZ,
}

// attach carries bytes between the caller's stdio and the container's
// terminal, with the caller's own terminal in raw mode and of the same size.
// finish must be called once the container has ended: it drains the output and
// restores the terminal.
func attach(pr *Process, interactive bool) (finish func(), err error) {
	master, err := pr.terminal()
	if err != nil {
		return nil, err
	}
	pr.Master = master
	var undo []func()
	in := int(os.Stdin.Fd())
	if interactive && term.IsTerminal(in) {
		old, err := term.MakeRaw(in)
		if err != nil {
			return nil, err
		}
		undo = append(undo, func() { term.Restore(in, old) })
	}
	if terminalSize() != nil {
		changed := make(chan os.Signal, 1)
		signal.Notify(changed, syscall.SIGWINCH)
		go func() {
			for range changed {
				if size := terminalSize(); size != nil {
					unix.IoctlSetWinsize(int(master.Fd()), unix.TIOCSWINSZ, size)
				}
			}
		}()
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
	}, nil
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
