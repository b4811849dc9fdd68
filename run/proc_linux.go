package run

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// handles reports whether a process has a handler for a signal, or true if
// that cannot be told. Source: proc_pid_status(5), SigCgt.
func handles(pid int, s syscall.Signal) bool {
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return true
	}
	for line := range strings.Lines(string(text)) {
		if mask, ok := strings.CutPrefix(line, "SigCgt:"); ok {
			caught, err := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
			return err != nil || caught>>(s-1)&1 == 1
		}
	}
	return true
}
