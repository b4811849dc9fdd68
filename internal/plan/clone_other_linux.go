//go:build !amd64 && !arm64

package plan

import "syscall"

// cloneRun needs an assembler loop, which this architecture lacks.
func cloneRun(args *cloneArgs, size uintptr, h *header) (pid uintptr) {
	errno := uintptr(syscall.ENOSYS)
	return -errno
}
