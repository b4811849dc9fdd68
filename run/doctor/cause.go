package doctor

import (
	"errors"
	"os"
	"strings"
	"syscall"
)

// A Cause is why something is not to be had. What hints say and what the doctor
// says comes from here, so that the two agree.
type Cause struct {
	Why  string
	Cure string // a command, or ""
	More string // goes on behind the command
}

func (c Cause) String() string {
	if c.Cure == "" {
		return c.Why + c.More
	}
	return c.Why + ": `" + c.Cure + "`" + c.More
}

// Setting is what a file of /proc or /sys says, "" if it is not there.
func Setting(path string) string {
	text, _ := os.ReadFile(path)
	return strings.TrimSpace(string(text))
}

// AppArmor is that of Ubuntu 23.10 and later: a program without a profile may
// make a user namespace, and do nothing in it.
var AppArmor = Cause{
	Why:  "AppArmor keeps this program from using its user namespace",
	Cure: "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
	More: ", or give skiff a profile with the rule \"userns,\"",
}

// Restricted reports whether AppArmor is like that here.
func Restricted(setting func(path string) string) bool {
	return setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == "1"
}

// UserNamespaces tells the reasons for which a user may have no user
// namespaces apart. setting reads a file of /proc.
func UserNamespaces(err error, setting func(path string) string) Cause {
	for _, kind := range []string{"user", "mnt", "net", "pid", "ipc", "uts", "cgroup"} {
		if name := "max_" + kind + "_namespaces"; setting("/proc/sys/user/"+name) == "0" {
			return Cause{Why: "this host allows no " + kind + " namespaces", Cure: "sudo sysctl user." + name + "=15000"}
		}
	}
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return Cause{"too many namespaces, or too deeply nested ones", "sudo sysctl user.max_user_namespaces=15000", " allows more"}
	case setting("/proc/sys/kernel/unprivileged_userns_clone") == "0":
		return Cause{Why: "this kernel keeps user namespaces for root", Cure: "sudo sysctl kernel.unprivileged_userns_clone=1"}
	case Restricted(setting):
		return AppArmor
	case (permission(err) || errors.Is(err, syscall.ENOSYS)) && strings.Contains(setting("/proc/self/status"), "\nSeccomp:\t2"):
		return Cause{Why: "a seccomp filter around skiff forbids namespaces: run the outer container with `--security-opt seccomp=unconfined`, the service without RestrictNamespaces="}
	case errors.Is(err, syscall.ENOSYS):
		return Cause{Why: "this kernel lacks clone3; skiff needs Linux 5.12"}
	case errors.Is(err, syscall.EINVAL):
		return Cause{Why: "this kernel is built without user namespaces (CONFIG_USER_NS)"}
	case permission(err):
		return Cause{Why: "a security module (SELinux, …) or a chroot around skiff forbids user namespaces"}
	case errors.Is(err, syscall.EAGAIN):
		return Cause{Why: "too many processes: see `ulimit -u`"}
	}
	return Cause{}
}

// Overlay tells the reasons for which there is no overlay apart.
func Overlay(err error) Cause {
	switch {
	case errors.Is(err, syscall.ENODEV):
		return Cause{Why: "this kernel has no overlay file system", Cure: "sudo modprobe overlay"}
	case permission(err):
		return Cause{Why: "overlay in a user namespace needs Linux 5.11"}
	case errors.Is(err, syscall.EINVAL):
		return Cause{Why: "the store may be on a file system that overlay cannot write to (overlay itself, NFS); put it elsewhere with --root or SKIFF_ROOT"}
	}
	return Cause{}
}

func permission(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES)
}

// missing is the finding about something that did not work, which every run needs.
func missing(err error, c Cause) Finding {
	f := Finding{Status: Missing, Uses: err.Error(), Why: c.Why, Cure: c.Cure, Needed: true}
	if c.Cure == "" {
		f.Why += c.More
	}
	return f
}
