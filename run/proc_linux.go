package run

import (
	"strconv"
	"strings"
	"syscall"

	"skiff/internal/smallfile"
)

// handles reports whether a process has a handler for a signal or waits for it
// blocked, or true if
// that cannot be told. Source: proc_pid_status(5), SigCgt and SigBlk.
func handles(pid int, s syscall.Signal) bool {
	text, err := smallfile.Read("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(text)) {
		name, mask, _ := strings.Cut(line, ":")
		if name != "SigCgt" && name != "SigBlk" {
			continue
		}
		set, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
		if err != nil || set>>(s-1)&1 == 1 {
			return true
		}
	}
	return false
}
