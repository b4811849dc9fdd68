package seccomp

import (
	_ "embed"

	"golang.org/x/sys/unix"
)

const (
	nativeArch = unix.AUDIT_ARCH_AARCH64
	compatArch = unix.AUDIT_ARCH_ARM
)

//go:embed data/default_arm64.bpf
var defaultFilter []byte

//go:embed data/bare_arm64.bpf
var bareFilter []byte

//go:embed data/fakeids_arm64.bpf
var fakeIDs []byte

//go:embed data/syscalls_arm64.txt
var nativeTable string

//go:embed data/syscalls_arm.txt
var compatTable string
