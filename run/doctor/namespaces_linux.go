package doctor

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"skiff/internal/idmap"
	"skiff/internal/plan"

	"golang.org/x/sys/unix"
)

// userns tries to make the namespaces of a container and to use them: where
// AppArmor is in the way, only the use fails.
func userns(h *Host) Finding {
	err := trial{ids: own(h.IDs), fill: func(p *plan.Plan) { mount(p, "tmpfs", "mode=0700") }}.run()
	if err != nil {
		c := UserNamespaces(err, Setting)
		if c == AppArmor {
			c.Cure = profileCommand()
		}
		return missing(err, c)
	}
	if h.IDs.Kind == idmap.Host {
		return Finding{Status: Limited, Uses: "the host's: root of a container is root here", Why: "skiff itself runs where not all ids are mapped", Needed: true}
	}
	return Finding{Status: OK, Uses: "each container has its own", Needed: true}
}

// own is the map that is tried: that with which no helper runs.
func own(ids idmap.Map) idmap.Map {
	if ids.Kind == idmap.Subordinate {
		return idmap.OwnID()
	}
	return ids
}

// profileCommand gives this very program a profile of AppArmor's that lets it
// make user namespaces, and nothing else differs.
func profileCommand() string {
	self, err := os.Executable()
	if err != nil || strings.ContainsAny(self, "'\\%\" \n") {
		return AppArmor.Cure
	}
	return `printf 'abi <abi/4.0>,\ninclude <tunables/global>\nprofile skiff ` + self +
		` flags=(unconfined) {\n  userns,\n}\n' | sudo tee /etc/apparmor.d/skiff && sudo apparmor_parser -r /etc/apparmor.d/skiff`
}

// ids writes the map that containers get.
func ids(h *Host) Finding {
	better, why := idmap.Choose()
	f := Finding{Status: OK, Needed: true}
	if why != nil {
		f.Status, f.Why = Limited, why.Error()
	}
	switch h.IDs.Kind {
	case idmap.Root:
		f.Uses = "65536 of their own, from " + fmt.Sprint(h.IDs.UIDs[0].Host)
	case idmap.Subordinate:
		f.Uses = fmt.Sprintf("%d, by newuidmap and newgidmap", total(h.IDs.UIDs))
	case idmap.Single:
		f.Uses = "the user's own alone, as root"
		switch {
		case better.Kind == idmap.Subordinate:
			f.Status, f.Why = Limited, "SKIFF_SINGLE_ID is set"
		case strings.Contains(f.Why, "not found in PATH"):
			f.Cure = "sudo apt-get install uidmap"
		case errors.Is(why, idmap.ErrNoSubordinate) && os.Geteuid() != 0:
			f.Cure = fmt.Sprintf("sudo usermod --add-subuids %s --add-subgids %[1]s $USER", freeRange(Setting("/etc/subuid")+"\n"+Setting("/etc/subgid")))
		}
	case idmap.Host:
		f.Uses = "the host's"
	}
	if h.IDs.Kind == idmap.Host {
		return f
	}
	if err := (trial{ids: h.IDs}).run(); err != nil {
		f.Status, f.Uses, f.Why = Missing, err.Error(), "the map cannot be written"
		var e *idmap.Error
		if errors.As(err, &e) && e.Helper != "" {
			f.Why = "check your lines in /etc/subuid and /etc/subgid, and that " + e.Helper + " is setuid root"
			f.Cure = "export SKIFF_SINGLE_ID=1"
		} else if c := UserNamespaces(err, Setting); c.Why != "" {
			f.Why, f.Cure = c.Why, c.Cure
		}
	}
	return f
}

// freeRange are 65536 ids above all that the lines of subuid(5) give out.
func freeRange(text string) string {
	first := uint64(100_000)
	for line := range strings.Lines(text) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 {
			continue
		}
		at, err1 := strconv.ParseUint(f[1], 10, 32)
		size, err2 := strconv.ParseUint(f[2], 10, 32)
		if err1 == nil && err2 == nil {
			first = max(first, at+size)
		}
	}
	return fmt.Sprintf("%d-%d", first, first+65535)
}

func total(ranges []idmap.Range) (n uint64) {
	for _, r := range ranges {
		n += uint64(r.Size)
	}
	return n
}

// idMapped tries whether root's store can be seen with the ids of a container.
func idMapped(h *Host) Finding {
	if h.IDs.Kind != idmap.Root || h.Store == nil {
		return Finding{}
	}
	dir, remove, err := scratch(h)
	if err != nil {
		return Finding{Status: Limited, Uses: "not tried", Why: err.Error()}
	}
	defer remove()
	if err := (trial{ids: h.IDs, beside: func(task *plan.Task) error {
		tree, err := mapTree(dir, task)
		if err == nil {
			unix.Close(tree)
		}
		return err
	}}).run(); err != nil {
		return Finding{Status: Limited, Uses: "none: containers share the host's user namespace", Why: "the store's file system or the kernel has none: " + err.Error()}
	}
	return Finding{Status: OK, Uses: "layers and binds are shown with the container's ids"}
}

// proc tries to mount what a container has of its own: where parts of the
// caller's /proc are hidden, the kernel shows no new one (mount_too_revealing),
// and a run binds the caller's.
func proc(h *Host) Finding {
	mounting := func(kind, at string, flags int) error {
		return trial{ids: own(h.IDs), fill: func(p *plan.Plan) {
			p.Call("mount "+kind, unix.SYS_MOUNT, p.Str(kind), p.Str(at), p.Str(kind), plan.Int(flags), plan.Int(0))
		}}.run()
	}
	if err := mounting("sysfs", "/sys", unix.MS_RDONLY); err != nil {
		c := UserNamespaces(err, Setting)
		if permission(err) {
			c = Cause{Why: "parts of /sys are hidden from skiff, as in another container: run that one with `--security-opt systempaths=unconfined`"}
		}
		return missing(err, c)
	}
	err := mounting("proc", "/proc", 0)
	switch {
	case err == nil:
		return Finding{Status: OK, Uses: "a container has a /proc and /sys of its own", Needed: true}
	case permission(err):
		return Finding{Status: Limited, Uses: "the /proc around skiff, in which a container's own processes do not show", Needed: true,
			Why: "parts of it are hidden from skiff, as in another container: run that one with `--security-opt systempaths=unconfined`"}
	}
	return missing(err, UserNamespaces(err, Setting))
}

// overlay stacks two layers in the store and writes to the top one.
func overlay(h *Host) Finding {
	if h.Store == nil {
		return Finding{}
	}
	dir, remove, err := scratch(h)
	if err != nil {
		return Finding{Status: Limited, Uses: "not tried", Why: err.Error()}
	}
	defer remove()
	kind := h.IDs
	if kind.Kind == idmap.Root && idMapped(h).Status != OK {
		kind = idmap.Map{}
	}
	var tree plan.Reg
	t := trial{ids: own(kind)}
	t.fill = func(p *plan.Plan) {
		options := "lowerdir=a:b,upperdir=upper,workdir=work"
		if kind.Kind == idmap.Root {
			tree = p.Preset(-1)
			p.Call("attach store", unix.SYS_MOVE_MOUNT, tree.Arg(), p.Str(""), plan.Int(unix.AT_FDCWD), p.Str("/tmp"), plan.Int(unix.MOVE_MOUNT_F_EMPTY_PATH))
			p.Call("enter store", unix.SYS_FCHDIR, tree.Arg())
		} else {
			p.Call("enter store", unix.SYS_CHDIR, p.Str(dir)).At(dir)
		}
		if kind.Kind != idmap.Host {
			options += ",userxattr"
		}
		p.Call("mount overlay", unix.SYS_MOUNT, p.Str("overlay"), p.Str("merged"), p.Str("overlay"), plan.Int(0), p.Str(options))
		p.Call("make directory in overlay", unix.SYS_MKDIRAT, plan.Int(unix.AT_FDCWD), p.Str("merged/x"), plan.Int(0o755))
		p.Call("remove directory of a layer", unix.SYS_UNLINKAT, plan.Int(unix.AT_FDCWD), p.Str("merged/below"), plan.Int(unix.AT_REMOVEDIR))
	}
	if kind.Kind == idmap.Root {
		t.beside = func(task *plan.Task) error {
			fd, err := mapTree(dir, task)
			if err != nil {
				return err
			}
			task.Set(tree, fd)
			return nil
		}
	}
	err = t.run()
	if err != nil {
		return missing(err, Overlay(err))
	}
	return Finding{Status: OK, Uses: "the kernel's", Needed: true}
}

// scratch makes the directories of an overlay in the store.
func scratch(h *Host) (dir string, remove func(), err error) {
	if h.Store.ReadOnly() {
		return "", nil, errors.New("the store is read-only; writable layers are kept in memory")
	}
	temp, err := h.Store.NewTemp("doctor")
	if err != nil {
		return "", nil, err
	}
	remove = func() { temp.Remove() }
	dir = temp.Path()
	for _, d := range []string{"a", "b", "b/below", "upper", "work", "merged"} {
		if err := os.Mkdir(dir+"/"+d, 0o755); err != nil {
			remove()
			return "", nil, err
		}
	}
	return dir, remove, nil
}
