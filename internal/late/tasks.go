//go:build go1.26 && !go1.27 && (amd64 || arm64) && !skiff_late_off

package late

import "unsafe"

// lastmoduledatap points to what the linker tells the runtime of the program:
// runtime.moduledata, of which a static program has one.
//
//go:linkname lastmoduledatap runtime.lastmoduledatap
var lastmoduledatap unsafe.Pointer

// tasksOffset is that of moduledata.inittasks in Go 1.26. Source: runtime/symtab.go.
const tasksOffset = 472

func tasks() []*task {
	list := *(*[]*task)(unsafe.Add(lastmoduledatap, tasksOffset))
	if n := len(list); n == 0 || n > 4096 || n != cap(list) {
		return nil
	}
	return list
}
