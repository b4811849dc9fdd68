package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// describe is one line about the machine and the moment, to stand above the
// tables: without it numbers cannot be compared.
func describe(h *host) string {
	var u unix.Utsname
	unix.Uname(&u)
	model := "unknown CPU"
	text, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(text)) {
		if key, value, _ := strings.Cut(line, ":"); strings.TrimSpace(key) == "model name" {
			model = strings.TrimSpace(value)
			break
		}
	}
	load, _ := os.ReadFile("/proc/loadavg")
	cgroups := "cgroup v1"
	if hybrid() {
		cgroups += " (hybrid)"
	}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		cgroups = "cgroup v2"
	}
	var fs unix.Statfs_t
	unix.Statfs(h.dir, &fs)
	stores := fmt.Sprintf("stores on file system %#x", fs.Type)
	if fs.Type == unix.TMPFS_MAGIC {
		stores = "stores on tmpfs"
	}
	return fmt.Sprintf("%s, %d cores, kernel %s, %s, %s, load %s, %s", model, runtime.NumCPU(), unix.ByteSliceToString(u.Release[:]),
		cgroups, stores, strings.Join(strings.Fields(string(load))[:1], ""), time.Now().Format(time.DateOnly))
}
