// Package late puts off the initialisation of packages that most runs never
// use.
//
// Go initialises every package of a program before main. What only a pull needs
// (TLS, HTTP, the registry's words, decompressors) would take a fifth of a warm
// start, and what reads the command line can wait until the container's init is on its
// way. So main imports those packages last, behind this one, calls them
// nowhere but behind Through, and nothing else imports them.
//
// The linker makes one list of initialisation tasks, in which a package comes
// after those that it imports and, where that leaves a choice, by its name; the
// runtime goes through it and leaves out tasks that are marked as done. This package
// imports nothing and so is among the first. It marks those tasks as done whose
// packages lie behind it in the program, and keeps them for Through. The linker lays
// the packages out in the order of a depth-first walk through the imports: behind
// this one lie those that main imports after it, and what these alone import.
// Source: cmd/link/internal/ld/inittask.go and lib.go (postorder), runtime/proc.go (doInit1).
//
// A test holds the list of what is initialised before main against the
// imports. Where the runtime is not the one whose data is described here, all is
// initialised before main, as usual.
//
// Limits: main must say that it wants this, by a variable main.lateInit that is
// main itself; test binaries do not. crypto's FIPS 140 packages, which the linker lays
// at the end, are initialised before main. Through is not for several goroutines
// at once.
package late

import "unsafe"

// last is main, which the linker lays behind all that it imports, or nil. It is
// data of the program, there before any package is initialised.
//
//go:linkname last main.lateInit
var last func()

// A task is runtime.initTask. Its functions follow, as many as count says.
type task struct {
	state uint32
	count uint32
	first uintptr // entry of the first function
}

const (
	waiting = 0
	doing   = 1
	done    = 2
)

var put []*task // off, in their order

func init() {
	if last == nil {
		return
	}
	all := tasks()
	here := -1
	for i, t := range all {
		if t.state == doing {
			here = i
		}
	}
	if here < 0 {
		return // not what we took it for
	}
	put = make([]*task, 0, len(all))
	own, end := all[here].first, **(**uintptr)(unsafe.Pointer(&last))
	for _, t := range all[here+1:] {
		if t.state == waiting && own < t.first && t.first < end {
			t.state = done
			put = append(put, t)
		}
	}
}

// Through initialises what was put off and lies in the program up to a
// function, by its name: the function's own package, and what that imports. It may be called
// more than once.
func Through[F any](function F) {
	// Beside the tasks up to it the next one after it, which is its package's own
	// if that has one; else one whose imports have all come before.
	entry := **(**uintptr)(unsafe.Pointer(&function))
	next := ^uintptr(0)
	for _, t := range put {
		if t.first > entry && t.first < next {
			next = t.first
		}
	}
	rest := put[:0]
	for _, t := range put {
		if t.first > next {
			rest = append(rest, t)
			continue
		}
		for i := range uintptr(t.count) {
			entry := unsafe.Add(unsafe.Pointer(&t.first), i*unsafe.Sizeof(t.first))
			(*(*func())(unsafe.Pointer(&entry)))()
		}
	}
	put = rest
}
