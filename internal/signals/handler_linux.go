//go:build amd64 || arm64

package signals

import (
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// writeEnd is where the handler writes.
var writeEnd int32

// sigaction is the kernel's struct, of the same shape on both architectures.
type sigaction struct {
	handler, flags, restorer, mask uint64
}

// Flags of asm/signal.h, the same on both architectures.
const (
	onStack  = 0x08000000
	restart  = 0x10000000
	restorer = 0x04000000
)

// code returns the addresses of the handler and of what returns from it to the
// kernel.
func code() (handler, back uintptr)

func catch(fd int, signals []syscall.Signal) error {
	atomic.StoreInt32(&writeEnd, int32(fd))
	handler, back := code()
	// On the alternate stack that Go gives each thread: a goroutine's is too small.
	a := sigaction{
		handler: uint64(handler), restorer: uint64(back), mask: ^uint64(0),
		flags: onStack | restart | restorer,
	}
	for _, s := range signals {
		_, _, errno := syscall.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&a)), 0, 8, 0, 0)
		if errno != 0 {
			return errno
		}
	}
	return nil
}
