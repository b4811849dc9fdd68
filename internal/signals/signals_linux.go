// Package signals collects signals as bytes of a pipe.
//
// os/signal hands every signal through goroutines of its own, and to begin with
// each costs several switches between threads, a millisecond in all: a good part
// of a container's start. Here a handler of a few instructions writes the
// signal's number to a pipe, and the one who waits for the container polls it.
//
// Limits: the signals are caught for the rest of the process's life, and must
// not be given to os/signal as well.
package signals

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// Catch catches signals from now on, and returns a descriptor to poll and read,
// which gives one byte for each that arrives: its number. It blocks while there is
// none. It may be called once.
//
// Signals that arrive faster than they are read, by 64 KiB, are lost.
// Source: pipe(7), rt_sigaction(2).
func Catch(signals ...syscall.Signal) (fd int, err error) {
	var pipe [2]int
	if err := unix.Pipe2(pipe[:], unix.O_CLOEXEC); err != nil {
		return -1, err
	}
	// The ends are files of their own: reading still blocks.
	if err := unix.SetNonblock(pipe[1], true); err != nil {
		return -1, err
	}
	return pipe[0], catch(pipe[1], signals)
}
