package run

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ParseSignal reads a signal by number, or by name in any case with or without
// SIG; RTMIN+n and RTMAX-n are known too. Source: signal(7).
func ParseSignal(name string) (int, error) {
	bad := fmt.Errorf("unknown signal %q", name)
	if n, err := strconv.Atoi(name); err == nil {
		if n < 1 || n > 64 {
			return 0, bad
		}
		return n, nil
	}
	upper := strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if n := unix.SignalNum("SIG" + upper); n != 0 {
		return int(n), nil
	}
	const first, last = 34, 64 // as libc counts: the two below are its own
	for _, base := range []struct {
		name string
		n    int
	}{{"RTMIN", first}, {"RTMAX", last}} {
		offset, ok := strings.CutPrefix(upper, base.name)
		if !ok {
			continue
		}
		if offset == "" {
			return base.n, nil
		}
		d, err := strconv.Atoi(offset)
		if err == nil && base.n+d >= first && base.n+d <= last {
			return base.n + d, nil
		}
	}
	return 0, bad
}
