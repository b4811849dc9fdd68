package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"skiff/internal/idmap"
	"skiff/internal/plan"
	"skiff/layers"
	"skiff/netns/ports"
	"skiff/pull"
	"skiff/pull/store"
	"skiff/run"
	"skiff/run/doctor"
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
	var busy *pull.BusyError
	var login *pull.LoginError
	var unmapped *layers.UnmappedError
	var port *ports.Error
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
		return doctor.UserNamespaces(err, doctor.Setting).String()
	case errors.As(err, &step) && strings.Contains(step.Step, "overlay"):
		return doctor.Overlay(step.Err).String()
	case errors.As(err, &step) && permission(step.Err) && doctor.Restricted(doctor.Setting):
		return doctor.AppArmor.String()
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
	case errors.As(err, &port):
		return publishing(port)
	case errors.As(err, &network) && network.Missing != "":
		return "root can load that module with `modprobe " + network.Missing + "`; `pasta` would serve instead if it were installed and had /dev/net/tun; `--network none` and `--network host` need neither"
	case errors.As(err, &network):
		return "containers that need no network run with `--network none`, those that may share the host's with `--network host`"
	case errors.Is(err, run.ErrMountNeedsRoot):
		return "`skiff run -it IMAGE sh` looks at it from inside a namespace of its own; `skiff run -v DIR:DIR IMAGE cp -r …` copies files out of it"
	case errors.As(err, &shared):
		return "name the one that is to go, or remove them all with `skiff rmi -f`"
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
	case errors.Is(err, state.ErrNameTaken):
		return "remove that container with `skiff rm`, or choose another --name"
	}
	return ""
}

func permission(err error) bool {
	return errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES)
}

// publishing is about a port of the host that cannot be had.
func publishing(e *ports.Error) string {
	switch {
	case e.Holder != "":
		return "`skiff rm -f " + e.Holder + "` ends it; or choose another port, or leave it out for one that is free"
	case errors.Is(e.Err, syscall.EADDRINUSE) && e.Host.Port() != 0:
		kind := "-ltnp"
		if e.Proto == ports.UDP {
			kind = "-lunp"
		}
		return fmt.Sprintf("`ss %s sport = :%d` shows who has it; or choose another port, or leave it out for one that is free", kind, e.Host.Port())
	case permission(e.Err) && e.Host.Port() != 0:
		return fmt.Sprintf("users may have ports from %s on: `sudo sysctl net.ipv4.ip_unprivileged_port_start=%d` allows this one",
			doctor.Setting("/proc/sys/net/ipv4/ip_unprivileged_port_start"), e.Host.Port())
	case errors.Is(e.Err, syscall.EADDRNOTAVAIL):
		return "`ip address` shows the host's addresses; 0.0.0.0 is all of them"
	case errors.Is(e.Err, syscall.EMFILE):
		return "raise the limit of open files, which `ulimit -n` shows"
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
