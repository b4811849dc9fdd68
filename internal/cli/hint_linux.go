package cli

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"skiff/internal/idmap"
	"skiff/internal/plan"
	"skiff/pull/store"
	"skiff/run"
	"skiff/run/state"
)

// hintFor is something to do about an error, or "".
func hintFor(err error) string {
	var step *plan.Error
	var ids *idmap.Error
	var space *store.SpaceError
	var unsafe *store.UnsafeError
	var readOnly *store.ReadOnlyError
	var network *run.NetworkError
	var inUse *run.InUseError
	switch {
	case errors.As(err, &ids) && ids.Helper != "":
		return "check your lines in /etc/subuid and /etc/subgid, and that " + ids.Helper + " is setuid root"
	case errors.As(err, &ids), errors.As(err, &step) && step.Step == "clone3":
		return userNamespaces(err)
	case errors.As(err, &step) && strings.HasPrefix(step.Step, "set limit ") && permission(step.Err):
		return "a container's hard limit can be no higher than yours, which `ulimit -H -a` shows; the system's is in /etc/security/limits.conf"
	case errors.As(err, &step) && strings.Contains(step.Step, "overlay"):
		return overlay(step)
	case errors.As(err, &step) && permission(step.Err) && setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return apparmor
	case errors.As(err, &space):
		return "free some space, or put the store elsewhere with --root or SKIFF_ROOT"
	case errors.As(err, &unsafe):
		return "the store must be yours and writable by nobody else; see --root and SKIFF_ROOT"
	case errors.As(err, &readOnly):
		return "put the store where you may write, with --root or SKIFF_ROOT"
	case errors.As(err, &network):
		return "containers that need no network run with `--network none`, those that may share the host's with `--network host`"
	case errors.As(err, &inUse):
		return "remove that container with `skiff rm`, or untag the image all the same with `skiff rmi -f`"
	case errors.Is(err, state.ErrRunning):
		return "`skiff rm -f` kills it first"
	case errors.Is(err, state.ErrNameTaken):
		return "remove that container with `skiff rm`, or choose another --name"
	}
	return ""
}

func permission(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES)
}

const apparmor = "AppArmor keeps this program from using its user namespace: `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`, or give skiff a profile with the rule \"userns,\""

// userNamespaces tells the reasons for which a user may have no user
// namespaces apart.
func userNamespaces(err error) string {
	switch {
	case errors.Is(err, syscall.ENOSPC) || setting("/proc/sys/user/max_user_namespaces") == "0":
		return "this host allows no user namespaces: `sudo sysctl user.max_user_namespaces=15000`"
	case setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return "this kernel keeps user namespaces for root: `sudo sysctl kernel.unprivileged_userns_clone=1`"
	case setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return apparmor
	case errors.Is(err, syscall.ENOSYS):
		return "this kernel or the sandbox around it lacks clone3; skiff needs Linux 5.12 and, inside a container, a seccomp profile that allows it"
	case errors.Is(err, syscall.EINVAL):
		return "this kernel is built without user namespaces (CONFIG_USER_NS)"
	case permission(err):
		return "something around skiff (a seccomp profile, a security module) forbids user namespaces; in a pod, allow unshare and clone"
	case errors.Is(err, syscall.EAGAIN):
		return "too many processes: see `ulimit -u`"
	}
	return ""
}

func overlay(e *plan.Error) string {
	switch {
	case errors.Is(e.Err, syscall.ENODEV):
		return "this kernel has no overlay file system: `sudo modprobe overlay`"
	case permission(e.Err):
		return "overlay in a user namespace needs Linux 5.11"
	case errors.Is(e.Err, syscall.EINVAL):
		return "the store may be on a file system that overlay cannot write to (overlay itself, NFS); put it elsewhere with --root or SKIFF_ROOT"
	}
	return ""
}

func setting(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}
