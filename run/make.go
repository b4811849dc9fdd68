package run

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"skiff/internal/idmap"
	"skiff/pull/store"
	"skiff/rootfs"
	"skiff/run/caps"
	initprogram "skiff/run/init"
	"skiff/run/seccomp"

	"golang.org/x/sys/unix"
)

// defaultPath is for images that set no PATH, as docker has it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// makeSpec holds what the user asked for against an image. It changes nothing.
func makeSpec(o *Options, id string, img *store.Image, st *store.Store, ns Namespaces, link Link, read fileReader) (*Spec, error) {
	s := &Spec{
		ID: id, Hostname: o.Hostname, Domain: o.Domain,
		Terminal: o.Terminal, Console: o.Console, Namespaces: ns,
		NoNewPrivileges: o.NoNewPrivileges, Umask: o.Umask, Rlimits: o.Rlimits,
	}
	ids := ns.IDs
	if s.Hostname == "" {
		s.Hostname = id[:12]
		if ns.Join != nil && ns.Join.Files != nil && ns.Join.Files.Hostname != "" {
			s.Hostname = ns.Join.Files.Hostname
		}
		if o.Network == NetworkHost {
			s.Hostname, _ = os.Hostname()
		}
	}
	if o.Init {
		s.Init = initprogram.Program
	}
	var err error
	if s.Args, err = arguments(o, img); err != nil {
		return nil, err
	}
	var home string
	if s.User, home, err = lookUser(o, img, ids, read); err != nil {
		return nil, err
	}
	s.Env = environment(o, img, s.Hostname, home)
	s.Cwd = "/"
	for _, dir := range []string{img.Config.WorkingDir, o.Workdir} {
		if dir != "" {
			s.Cwd = path.Join("/", dir)
		}
	}
	if len(s.Cwd) >= unix.PathMax {
		return nil, fmt.Errorf("%w %.64s…: %w", ErrWorkdir, s.Cwd, unix.ENAMETOOLONG)
	}
	if s.StopSignal, err = stopSignal(o, img); err != nil {
		return nil, err
	}
	if err := s.noNUL(); err != nil {
		return nil, err
	}
	if err := s.confine(o); err != nil {
		return nil, err
	}
	layers, shared := lowers(st, img)
	s.Root = rootfs.Root{
		Store: realPath(st.Root()), Lower: append([]string{skeletonDir}, layers...), Shared: shared,
		Upper: "containers/" + id + "/upper", Work: "containers/" + id + "/work",
		Volatile: o.Remove, ReadOnly: o.ReadOnly,
		IDMapped: ids.Kind == idmap.Root,
		Terminal: o.Terminal, ShmSize: o.ShmSize,
		Dirs: []string{s.Cwd}, Files: etcFiles(o, s.Hostname, link, ns.Join),
	}
	if st.ReadOnly() {
		// The writable layer is in memory, and there may have been no run before
		// that could have made a skeleton.
		s.Root.Upper, s.Root.Work = "", ""
		if unix.Faccessat(st.FD(), skeletonDir, unix.F_OK, 0) != nil {
			s.Root.Lower = s.Root.Lower[1:]
		}
	}
	return s, s.mounts(o)
}

// noNUL looks for what a system call would take for the end of a word. JSON can
// hold it, and so can an image's config.
func (s *Spec) noNUL() error {
	for _, list := range []struct {
		what  string
		words []string
	}{{"argument", s.Args}, {"variable", s.Env}, {"working directory", []string{s.Cwd}}} {
		for _, word := range list.words {
			if strings.Contains(word, "\x00") {
				return fmt.Errorf("%s %q: there is a NUL in it", list.what, word)
			}
		}
	}
	return nil
}

// lowers are the layers to mount, base first: relative to the store, or absolute in one of
// the shared stores, which are named beside. Overlay refuses a
// directory that is named twice, and a layer above itself adds nothing.
func lowers(st *store.Store, img *store.Image) (dirs, shared []string) {
	for _, d := range img.DiffIDs[img.First:] {
		home := st.Home(d)
		dir := strings.TrimPrefix(home.LayerDir(d), home.Root()+"/")
		if home != st {
			root := realPath(home.Root())
			if dir = root + "/" + dir; !slices.Contains(shared, root) {
				shared = append(shared, root)
			}
		}
		if i := slices.Index(dirs, dir); i >= 0 {
			dirs = slices.Delete(dirs, i, i+1)
		}
		dirs = append(dirs, dir)
	}
	return dirs, shared
}

// arguments are the entrypoint followed by the command. An entrypoint of the
// user's own drops the image's command.
func arguments(o *Options, img *store.Image) ([]string, error) {
	entrypoint, command := img.Config.Entrypoint, img.Config.Cmd
	if o.Entrypoint != nil {
		entrypoint, command = *o.Entrypoint, nil
	}
	if len(o.Command) > 0 {
		command = o.Command
	}
	args := slices.Concat(entrypoint, command)
	if len(args) == 0 {
		return nil, errors.New("no command: the image has none and none was given")
	}
	if args[0] == "" {
		return nil, &ExecError{Name: `""`, Err: unix.ENOENT}
	}
	return args, nil
}

// environment is the image's, then the user's, then what is missing of the
// usual. The caller's own never leaks in.
func environment(o *Options, img *store.Image, hostname, home string) []string {
	var env []string
	at := make(map[string]int, len(img.Config.Env)+len(o.Env)+8) // an image may have a million
	set := func(kv string, replace bool) {
		key, _, _ := strings.Cut(kv, "=")
		i, found := at[key]
		if !found {
			at[key] = len(env)
			env = append(env, kv)
		} else if replace {
			env[i] = kv
		}
	}
	for _, kv := range img.Config.Env {
		set(kv, true)
	}
	for _, kv := range o.Env {
		set(kv, true)
	}
	set("PATH="+defaultPath, false)
	set("HOSTNAME="+hostname, false)
	if o.Terminal {
		set("TERM=xterm", false)
	}
	set("container=skiff", false)
	set("HOME="+home, false)
	return env
}

func stopSignal(o *Options, img *store.Image) (int, error) {
	name := o.StopSignal
	if name == "" {
		name = img.Config.StopSignal
	}
	if name == "" {
		return int(unix.SIGTERM), nil
	}
	return ParseSignal(name)
}

// confine sets capabilities and filters.
func (s *Spec) confine(o *Options) error {
	base := caps.Default
	if o.Privileged {
		base = caps.All
	}
	var err error
	if s.Capabilities, err = caps.Apply(base, o.CapAdd, o.CapDrop); err != nil {
		return err
	}
	switch profile := o.Seccomp; {
	case profile == "unconfined" || profile == "" && o.Privileged:
	case profile == "":
		f, err := seccomp.ForCaps(s.Capabilities)
		if err != nil {
			return fmt.Errorf("seccomp: %w", err)
		}
		s.Seccomp = append(s.Seccomp, f)
	default:
		file, err := os.Open(profile)
		if err != nil {
			return fmt.Errorf("seccomp profile: %w", err)
		}
		defer file.Close()
		f, err := seccomp.Load(file, s.Capabilities)
		if err != nil {
			return fmt.Errorf("seccomp profile %s: %w", profile, err)
		}
		s.Seccomp = append(s.Seccomp, f)
	}
	if s.IDs.Kind == idmap.Single && !o.NoFakeIDs {
		s.Seccomp = append(s.Seccomp, seccomp.FakeIDs())
	}
	return nil
}

// mounts checks the sources of the user's mounts and decides how each is done.
func (s *Spec) mounts(o *Options) error {
	s.Root.Mounts = slices.Clone(o.Mounts)
	for i := range s.Root.Mounts {
		m := &s.Root.Mounts[i]
		for _, own := range []string{"/proc", "/sys", "/dev"} {
			if m.Destination == own {
				return fmt.Errorf("mount %s: this is the container's own", own)
			}
		}
		if m.Destination == "/" {
			return errors.New("mount /: the root file system is the image")
		}
		if m.Type != "bind" {
			continue
		}
		st, err := os.Stat(m.Source)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("mount %s: %s: no such file or directory on the host", m.Destination, m.Source)
		} else if err != nil {
			return fmt.Errorf("mount %s: %w", m.Destination, err)
		}
		m.Dir = st.IsDir()
		m.Source = realPath(m.Source)
		m.IDMapped = s.IDs.Kind == idmap.Root
	}
	return nil
}

// realPath is the path without links and "..", which the init could follow to
// where it must not: see rootfs.BuildKernel. What cannot be looked up stays as it is,
// for the init to fail on.
func realPath(path string) string {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return path
	}
	defer unix.Close(fd)
	if real, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd)); err == nil && strings.HasPrefix(real, "/") {
		return real
	}
	return path
}

// namespaces are those that the user asked for, and what the init makes in them.
func (r *Runner) namespaces(o *Options) (Namespaces, error) {
	ids := r.IDs
	if o.HostUsers && ids.Kind == idmap.Root {
		ids = idmap.Map{}
	}
	join, ids, err := r.join(o, ids)
	if err != nil {
		return Namespaces{}, err
	}
	ns := namespaces(ids, o.Network)
	ns.Join = join
	ns.Kernel.HostNet = ns.Kernel.HostNet || join != nil && join.foreign(ids)
	k := &ns.Kernel
	if o.Privileged {
		k.Privileged, k.Masked, k.ReadOnlyPaths = true, nil, nil
	} else if o.Unmask != nil || o.Mask != nil {
		k.Masked, k.ReadOnlyPaths = unmasked(k.Masked, o.Unmask), unmasked(k.ReadOnlyPaths, o.Unmask)
		k.Masked = append(k.Masked, masked(o.Mask)...)
	}
	return ns, checkMasks(o.Mask)
}

// namespaces are those of a container with these ids and this network, and
// nothing unusual.
func namespaces(ids idmap.Map, network Network) Namespaces {
	return Namespaces{IDs: ids, Network: network, Kernel: rootfs.Kernel{
		UserNS: ids.Kind != idmap.Host, HostNet: network == NetworkHost,
		Masked: rootfs.DefaultMasked, ReadOnlyPaths: rootfs.DefaultReadOnly,
	}}
}
