package seccomp

import (
	"fmt"

	"golang.org/x/sys/unix"

	"skiff/run/seccomp/internal/profile"
)

// kernel is the running kernel's version, for rules with minKernel.
func kernel() (profile.Kernel, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return profile.Kernel{}, fmt.Errorf("uname: %w", err)
	}
	return profile.ParseKernel(unix.ByteSliceToString(u.Release[:]))
}
