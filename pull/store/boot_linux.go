package store

import (
	"strings"
	"sync"

	"skiff/internal/smallfile"
)

// bootID is the kernel's random id of this boot. Where it cannot be read it is
// one that no later process has, so that nothing unsynced is ever trusted.
// Source: random(4), /proc/sys/kernel/random/boot_id.
var bootID = sync.OnceValue(func() string {
	b, err := smallfile.Read("/proc/sys/kernel/random/boot_id")
	if id := strings.TrimSpace(string(b)); err == nil && id != "" {
		return id
	}
	return "unknown-" + random()
})
