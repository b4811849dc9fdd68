package layers

import "golang.org/x/sys/unix"

// allowedHere are calls that have other names on other architectures.
var allowedHere = []uint32{unix.SYS_FSTATAT}
