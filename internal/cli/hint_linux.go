package cli

import (
	"errors"
	"os"
	"strings"
	"syscall"

	"skiff/internal/idmap"
	"skiff/internal/plan"
	"skiff/layers"
	"skiff/pull"
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
	var version *store.VersionError
	var network *run.NetworkError
	var inUse *run.InUseError
	var shared *sharedError
	var usage *verbError
	var program *run.ExecError
	var unreachable *pull.UnreachableError
	var unknown *pull.UnknownImageError
	var unauthorized *pull.UnauthorizedError
	var absent *store.AbsentError
	var none *run.NoArchiveError
	var noLock *noLockError
	var busy *pull.BusyError
	var login *pull.LoginError
	var unmapped *layers.UnmappedError
	switch {
	case errors.As(err, &usage) && usage.usage:
		return "see `skiff " + usage.verb + " --help`"
	case errors.As(err, &program):
		return executing(program)
	case errors.As(err, &unmapped):
		return owners(unmapped, os.Geteuid() == 0)
	case errors.As(err, &ids) && ids.Helper != "":
		return "check your lines in /etc/subuid and /etc/subgid, and that " + ids.Helper + " is setuid root"
	case errors.As(err, &step) && strings.HasPrefix(step.Step, "set limit ") && permission(step.Err):
		return "a container's hard limit can be no higher than yours, which `ulimit -H -a` shows; the system's is in /etc/security/limits.conf"
	case errors.As(err, &ids), errors.As(err, &step) && (step.Step == "clone3" || step.Step == "unshare"):
		return userNamespaces(err, setting)
	case errors.As(err, &step) && strings.Contains(step.Step, "overlay"):
		return overlay(step)
	case errors.As(err, &step) && permission(step.Err) && setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return apparmor
	case errors.As(err, &space):
		return "free some space, or put the store elsewhere with --root or SKIFF_ROOT"
	case errors.Is(err, syscall.EFBIG):
		return "raise the limit of a file's size, which `ulimit -f` shows"
	case errors.Is(err, syscall.EMFILE):
		return "raise the limit of open files, which `ulimit -n` shows"
	case errors.As(err, &unsafe):
		return "the store must be yours and writable by nobody else; see --root and SKIFF_ROOT"
	case errors.As(err, &version):
		return "another skiff made the store: use that one, or another store with --root or SKIFF_ROOT"
	case errors.As(err, &readOnly):
		return "put the store where you may write, with --root or SKIFF_ROOT"
	case errors.As(err, &network):
		return "containers that need no network run with `--network none`, those that may share the host's with `--network host`"
	case errors.Is(err, run.ErrMountNeedsRoot):
		return "`skiff run -it IMAGE sh` looks at it from inside a namespace of its own; `skiff run -v DIR:DIR IMAGE cp -r …` copies files out of it"
	case errors.As(err, &shared):
		return "name the one that is to go, or remove them all with `skiff rmi -f`"
	case errors.As(err, &noLock):
		return "`skiff lock IMAGE` writes one; --locked=FILE names another"
	case errors.Is(err, pull.ErrNotLocked):
		return "`skiff lock IMAGE` adds it"
	case errors.As(err, &inUse) && inUse.Mount != "":
		return "`skiff image unmount` first"
	case errors.As(err, &inUse):
		return "remove that container with `skiff rm`, or untag the image all the same with `skiff rmi -f`"
	case errors.Is(err, state.ErrRunning):
		return "`skiff rm -f` kills it first"
	case errors.As(err, &unreachable):
		return registry(unreachable)
	case errors.As(err, &unknown):
		return "check the name; if the repository is private, log in with `skiff login`, docker or podman"
	case errors.As(err, &unauthorized):
		return "check the name, then the login: `skiff login " + unauthorized.Registry + "`, or docker's or podman's"
	case errors.As(err, &login):
		return "some registries want a token in the password's place: see the settings of your account there"
	case errors.As(err, &busy) && busy.Status == 429:
		return "log in for a higher limit, `skiff login " + busy.Registry + "`, or name a mirror, --mirror " + busy.Registry + "=URL"
	case errors.As(err, &absent) && errors.As(err, &usage) && usage.verb == "run":
		return "bring it here with `skiff pull`, or leave --pull out"
	case errors.As(err, &none):
		return "an older skiff unpacked it: remove the images that have it, with `skiff rmi`, and `skiff pull` them again"
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
// namespaces apart. setting reads a file of /proc.
func userNamespaces(err error, setting func(path string) string) string {
	for _, kind := range []string{"user", "mnt", "net", "pid", "ipc", "uts", "cgroup"} {
		if name := "max_" + kind + "_namespaces"; setting("/proc/sys/user/"+name) == "0" {
			return "this host allows no " + kind + " namespaces: `sudo sysctl user." + name + "=15000`"
		}
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return "too many namespaces, or too deeply nested ones: `sudo sysctl user.max_user_namespaces=15000` allows more"
	case setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return "this kernel keeps user namespaces for root: `sudo sysctl kernel.unprivileged_userns_clone=1`"
	case setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1":
		return apparmor
	case (permission(err) || errors.Is(err, syscall.ENOSYS)) && strings.Contains(setting("/proc/self/status"), "\nSeccomp:\t2"):
		return "a seccomp filter around skiff forbids namespaces: run the outer container with `--security-opt seccomp=unconfined`, the service without RestrictNamespaces="
	case errors.Is(err, syscall.ENOSYS):
		return "this kernel lacks clone3; skiff needs Linux 5.12"
	case errors.Is(err, syscall.EINVAL):
		return "this kernel is built without user namespaces (CONFIG_USER_NS)"
	case permission(err):
		return "a security module (SELinux, …) or a chroot around skiff forbids user namespaces"
	case errors.Is(err, syscall.EAGAIN):
		return "too many processes: see `ulimit -u`"
	}
	return ""
}

// executing is about a program that did not start.
func executing(e *run.ExecError) string {
	switch {
	case strings.HasPrefix(e.Name, "-"):
		return "skiff's own options go before the image"
	case errors.Is(e.Err, syscall.ENOEXEC):
		return "it may be a program for another platform, or a script without a #! line"
	case errors.Is(e.Err, syscall.ENOENT) && !e.Path:
		return "if it is there, its interpreter is not: the #! line's, or the dynamic loader"
	}
	return ""
}

// owners is about a file of an image whose owner has no id in its containers.
func owners(e *layers.UnmappedError, root bool) string {
	switch {
	case e.ID < 0 || e.ID >= 1<<32-1:
		return "no system has such an id: the image is broken"
	case root:
		return "root's containers have the ids 0 to 65535; a user may have as many as /etc/subuid and /etc/subgid give"
	}
	return "more ids in your lines of /etc/subuid and /etc/subgid make room for it; with SKIFF_SINGLE_ID=1 all files are yours"
}

// registry is about a registry that did not answer.
func registry(e *pull.UnreachableError) string {
	switch e.Reason {
	case pull.DNS:
		return "check the registry's name and that this machine is online; a proxy is named by HTTPS_PROXY"
	case pull.Proxy:
		return "check HTTPS_PROXY; what NO_PROXY names is asked without one"
	case pull.Refused, pull.Timeout:
		return "check that the registry runs, its port, and that this machine reaches it; a proxy is named by HTTPS_PROXY"
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
