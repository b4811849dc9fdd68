package run

import (
	"runtime"

	"skiff/internal/idmap"

	"golang.org/x/sys/unix"
)

// An Early is a container's init that is on its way before anybody has read
// what the container shall be.
//
// To make its namespaces takes half a millisecond, and to write its ids longer
// still where helpers do that. The caller reads flags and looks up the image
// meanwhile. What an Early is born into is a guess, and Run uses it only where
// the guess was right.
type Early struct{ process *Process }

// Anticipate starts an init with these ids, for a container with this network.
// It returns nil if that fails: Run will meet the same, and say it.
//
// Afterwards the caller's goroutine is locked to its thread if the network is
// NetworkDefault, as in Run.
func Anticipate(ids idmap.Map, network Network, traced bool) *Early {
	process, err := bear(newID(), namespaces(ids, network), traced)
	if err != nil {
		return nil
	}
	return &Early{process}
}

// take returns the init if it has those namespaces, and gives it up otherwise.
func (e *Early) take(want Namespaces) *Process {
	if e == nil || e.process == nil {
		return nil
	}
	if have := e.process.ns; have.IDs.Kind != want.IDs.Kind || have.Network != want.Network || !have.Kernel.Equal(want.Kernel) {
		e.Abandon()
		return nil
	}
	process := e.process
	e.process = nil
	return process
}

// Abandon ends the init unless a container has it by now. An Early that is nil
// has none.
func (e *Early) Abandon() {
	if e == nil || e.process == nil {
		return
	}
	process := e.process
	e.process = nil
	process.abandon(nil)
	if process.writing != nil {
		process.writing.Wait() // its helpers
	}
	unix.Close(process.Pidfd)
	unix.Close(process.self)
	if process.ns.Network == NetworkDefault {
		runtime.UnlockOSThread()
	}
}
