package run

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// idleAfter is when a container counts as one that goes on for a while, in
// milliseconds.
const idleAfter = 200

// segment is Elf64_Phdr of elf(5).
type segment struct {
	kind, flags               uint32
	offset, virtual, physical uintptr
	inFile, inMemory, align   uintptr
}

const (
	loaded   = 1 // PT_LOAD
	writable = 2 // PF_W

	// Of the auxiliary vector. Source: getauxval(3).
	headersAt   = 3 // AT_PHDR
	headerSize  = 4 // AT_PHENT
	headerCount = 5 // AT_PHNUM
)

// forgetProgram takes the pages of skiff's own program out of its memory, ten
// megabytes of which next to nothing is needed while a container runs. What is
// comes back from the page cache by itself.
//
// Not right after the start: the kernel needs longer to take the pages out than
// a short container lives.
func forgetProgram() {
	vector, err := unix.Auxv()
	if err != nil {
		return
	}
	var headers unsafe.Pointer // of the program: never moved or freed
	var size, count uintptr
	for i := range vector {
		switch value := &vector[i][1]; vector[i][0] {
		case headersAt:
			headers = *(*unsafe.Pointer)(unsafe.Pointer(value))
		case headerSize:
			size = *value
		case headerCount:
			count = *value
		}
	}
	if headers == nil || size != unsafe.Sizeof(segment{}) {
		return
	}
	for _, s := range unsafe.Slice((*segment)(headers), count) {
		// Addresses are the file's: a static Go program is not moved.
		if s.kind == loaded && s.flags&writable == 0 {
			unix.Syscall(unix.SYS_MADVISE, s.virtual, s.inMemory, unix.MADV_DONTNEED)
		}
	}
}
