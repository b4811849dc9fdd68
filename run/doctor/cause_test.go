package doctor

import (
	"strings"
	"syscall"
	"testing"

	"skiff/internal/plan"
)

// Each reason for which there are no user namespaces has a cure of its own.
func TestUserNamespaces(t *testing.T) {
	const filtered = "Name:\tskiff\nSeccomp:\t2\nSeccomp_filters:\t1\n"
	for _, c := range []struct {
		errno    syscall.Errno
		settings map[string]string
		want     string
	}{
		{syscall.ENOSPC, map[string]string{"/proc/sys/user/max_user_namespaces": "0"}, "sysctl user.max_user_namespaces="},
		{syscall.ENOSPC, map[string]string{"/proc/sys/user/max_net_namespaces": "0"}, "sysctl user.max_net_namespaces="},
		{syscall.ENOSPC, nil, "too deeply nested"},
		{syscall.EPERM, map[string]string{"/proc/sys/kernel/unprivileged_userns_clone": "0"}, "sysctl kernel.unprivileged_userns_clone=1"},
		{syscall.EPERM, map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, "AppArmor"},
		{syscall.EACCES, map[string]string{"/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1"}, "AppArmor"},
		{syscall.EPERM, map[string]string{"/proc/self/status": filtered}, "seccomp filter around skiff"},
		{syscall.EPERM, nil, "chroot"},
		{syscall.ENOSYS, nil, "clone3"},
		{syscall.EINVAL, nil, "CONFIG_USER_NS"},
		{syscall.EAGAIN, nil, "ulimit -u"},
	} {
		err := &plan.Error{Index: -1, Step: "clone3", Err: c.errno}
		hint := UserNamespaces(err, func(path string) string { return c.settings[path] }).String()
		if !strings.Contains(hint, c.want) {
			t.Errorf("%v, %v: %q, not %q", c.errno, c.settings, hint, c.want)
		}
	}
}
