package seccomp

import (
	_ "embed"

	"golang.org/x/sys/unix"
)

const (
	nativeArch = unix.AUDIT_ARCH_X86_64
	compatArch = unix.AUDIT_ARCH_I386
)

//go:embed data/default_amd64.bpf
var defaultFilter []byte

//go:embed data/bare_amd64.bpf
var bareFilter []byte

//go:embed data/fakeids_amd64.bpf
var fakeIDs []byte

//go:embed data/syscalls_amd64.txt
var nativeTable string

//go:embed data/syscalls_386.txt
var compatTable string
