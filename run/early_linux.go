package run

import (
	"os"
	"runtime"
	"strings"
	"sync"

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

// Anticipate starts an init if the arguments, of a whole command line, are those
// of a `skiff run`. It returns nil if they are not, and if it fails: Run will
// meet the same, and say it.
//
// Of the arguments it looks at those alone that may change what the init is born
// into, and at no more of these than is usual.
//
// Afterwards the caller's goroutine is locked to its thread if the network is
// NetworkDefault, as in Run.
func Anticipate(args []string) *Early {
	if len(args) < 3 || args[1] != "run" {
		return nil
	}
	network := os.Getenv("SKIFF_NETWORK")
	for i, a := range args {
		flag, value, joined := strings.Cut(a, "=")
		switch flag {
		case "--network", "--net":
			if joined {
				network = value
			} else if i+1 < len(args) {
				network = args[i+1]
			}
		case "--userns", "--privileged", "--security-opt", "--help":
			return nil
		}
	}
	mode := NetworkDefault
	switch n := Network(network); n {
	case NetworkNone, NetworkHost:
		mode = n
	case "", NetworkDefault, "bridge":
	default:
		return nil // a name may lead into another user namespace
	}
	// The ids themselves are looked up while it is being born.
	kind := idmap.Single
	if os.Geteuid() == 0 {
		kind = idmap.Root
	}
	process, err := bear(newID(), namespaces(idmap.Map{Kind: kind}, mode), Traced())
	if err != nil {
		return nil
	}
	e := &Early{process}
	if ids := IDs(); ids.Kind == idmap.Host || (ids.Kind == idmap.Root) != (kind == idmap.Root) || process.identify(ids) != nil {
		e.Abandon()
	}
	return e
}

// IDs is the map of the containers of the process's user.
var IDs = sync.OnceValue(func() idmap.Map {
	ids, _ := idmap.Choose()
	if os.Getenv("SKIFF_SINGLE_ID") == "1" && ids.Kind == idmap.Subordinate {
		ids = idmap.OwnID()
	}
	return ids
})

// Traced reports whether the user wants to see what each step took.
func Traced() bool { return os.Getenv("SKIFF_TRACE") == "1" }

// take returns the init if it has those namespaces, and gives it up otherwise.
func (e *Early) take(want Namespaces) *Process {
	if e == nil || e.process == nil {
		return nil
	}
	if have := e.process.ns; want.Join != nil || have.IDs.Kind != want.IDs.Kind || have.Network != want.Network || !have.Kernel.Equal(want.Kernel) {
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
		// The task shared skiff's descriptors, and this one keeps its network alive. It
		// is 0 if the task has not got so far.
		if fd := process.born.Reg(process.birth.inside); fd > 0 {
			unix.Close(fd)
		}
		runtime.UnlockOSThread()
	}
}
