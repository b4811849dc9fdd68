package main

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"skiff/run/seccomp"
	"skiff/testdata/image"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// busybox is the userland of the images, and the payload of every contender.
const busybox = "/bin/busybox"

var (
	dirs    = []string{"bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var", "var/tmp"}
	applets = []string{"true", "sh", "cat", "sleep"}
	texts   = map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\n", "etc/group": "root:x:0:\n",
		"etc/hosts": "", "etc/hostname": "", "etc/resolv.conf": "",
	}
)

// makeImages gives every account the images in a store, by a registry on
// loopback that is gone afterwards, so that all runs are warm; and writes the same
// root file system for the contenders that know no images.
func (h *host) makeImages() error {
	if err := static(busybox); err != nil {
		return err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	stack := []image.Layer{base(string(program))}
	for i := range 19 {
		stack = append(stack, image.L(image.Dir("layer"), image.File(fmt.Sprintf("layer/%d", i), "x")))
	}
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	defer server.Close()
	at := strings.TrimPrefix(server.URL, "http://")
	h.one, h.many = at+"/bench:one", at+"/bench:many"
	for ref, n := range map[string]int{h.one: 1, h.many: len(stack)} {
		img, err := image.New(nil, stack[:n]...)
		if err != nil {
			return err
		}
		if err := push(ref, img); err != nil {
			return err
		}
		if n == 1 {
			h.archive = filepath.Join(h.dir, "one.tar")
			if err := image.WriteDockerArchive(h.archive, "localhost/bench:one", img); err != nil {
				return err
			}
		}
		for _, a := range h.accounts {
			// The first run makes what later ones find.
			for _, argv := range [][]string{{"pull", "-q", ref}, {"run", "--rm", "--network", "none", ref, "/bin/true"}} {
				if _, err := (command{argv: append([]string{h.skiff}, argv...), as: a}).output(); err != nil {
					return fmt.Errorf("as %s: %w", a.name, err)
				}
			}
		}
	}
	os.Chmod(h.archive, 0o644)
	if err := h.unpack(program); err != nil {
		return err
	}
	return h.writeFilters()
}

func push(ref string, img v1.Image) error {
	r, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		return err
	}
	return remote.Write(r, img)
}

func base(program string) image.Layer {
	var entries []image.Entry
	for _, d := range dirs {
		entries = append(entries, image.Dir(d))
	}
	entries = append(entries, image.File("bin/busybox", program).WithMode(0o755))
	for _, a := range applets {
		entries = append(entries, image.Symlink("bin/"+a, "busybox"))
	}
	for path, text := range texts {
		entries = append(entries, image.File(path, text))
	}
	return image.L(entries...)
}

// unpack writes the root file system of the image with 1 layer.
func (h *host) unpack(program []byte) error {
	h.rootfs = filepath.Join(h.dir, "rootfs")
	for _, d := range append([]string{""}, dirs...) {
		if err := os.Mkdir(filepath.Join(h.rootfs, d), 0o755); err != nil {
			return err
		}
	}
	err := os.WriteFile(h.rootfs+"/bin/busybox", program, 0o755)
	for _, a := range applets {
		err = errors.Join(err, os.Symlink("busybox", h.rootfs+"/bin/"+a))
	}
	for path, text := range texts {
		err = errors.Join(err, os.WriteFile(filepath.Join(h.rootfs, path), []byte(text), 0o644))
	}
	return err
}

// writeFilters writes the seccomp filters for the C program: the very bytes
// that skiff loads.
func (h *host) writeFilters() error {
	for i, f := range []seccomp.Filter{seccomp.Default(), seccomp.FakeIDs()} {
		path := fmt.Sprintf("%s/filter%d", h.dir, i)
		if err := os.WriteFile(path, f, 0o644); err != nil {
			return err
		}
		h.seccomp = append(h.seccomp, path)
	}
	return nil
}

// compileReference builds the C program, or notes why not.
func (h *host) compileReference() {
	out := filepath.Join(h.programs, "reference")
	gcc, err := exec.LookPath("gcc")
	if err != nil {
		h.noReference = "gcc: not installed"
		return
	}
	text, err := exec.Command(gcc, "-O2", "-static", "-o", out, filepath.Join(h.module, "bench/reference/reference.c")).CombinedOutput()
	if err != nil {
		first, _, _ := strings.Cut(string(text), "\n")
		h.noReference = "gcc: " + first
		return
	}
	h.reference = out
}

// static says why a program cannot run in an empty root.
func static(program string) error {
	f, err := elf.Open(program)
	if err != nil {
		return fmt.Errorf("%w; install busybox-static", err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return fmt.Errorf("%s is dynamically linked; install busybox-static", program)
		}
	}
	return nil
}

// defaultCaps are podman's, and skiff's.
var defaultCaps = []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
	"CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT"}

// makeBundle writes an OCI bundle for crun: what `crun spec` says, with the
// payload, skiff's capabilities and the default seccomp profile.
func (h *host) makeBundle(a *account) (string, error) {
	dir := filepath.Join(a.dir, "bundle")
	if err := os.Mkdir(dir, 0o755); errors.Is(err, fs.ErrExist) {
		return dir, nil
	} else if err != nil {
		return "", err
	}
	spec := exec.Command("crun", "spec")
	if a.uid != 0 {
		spec.Args = append(spec.Args, "--rootless")
	}
	spec.Dir = dir
	if text, err := spec.CombinedOutput(); err != nil {
		return "", fmt.Errorf("crun spec: %w: %s", err, text)
	}
	text, err := os.ReadFile(dir + "/config.json")
	if err != nil {
		return "", err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return "", err
	}
	profile, err := h.flatProfile()
	if err != nil {
		return "", err
	}
	process := config["process"].(map[string]any)
	process["terminal"], process["noNewPrivileges"] = false, false
	process["args"] = []string{"/bin/true"}
	process["capabilities"] = map[string]any{"bounding": defaultCaps, "effective": defaultCaps, "permitted": defaultCaps}
	delete(process, "rlimits")
	config["root"] = map[string]any{"path": h.rootfs}
	linux := config["linux"].(map[string]any)
	delete(linux, "resources")
	linux["seccomp"] = profile
	if a.uid != 0 {
		linux["uidMappings"], linux["gidMappings"] = mappings(a, true), mappings(a, false)
	}
	if text, err = json.MarshalIndent(config, "", "  "); err != nil {
		return "", err
	}
	if err := os.WriteFile(dir+"/config.json", text, 0o644); err != nil {
		return "", err
	}
	return dir, nil
}

func mappings(a *account, users bool) (list []map[string]any) {
	ranges := a.ids.GIDs
	if users {
		ranges = a.ids.UIDs
	}
	for _, r := range ranges {
		list = append(list, map[string]any{"containerID": r.Container, "hostID": r.Host, "size": r.Size})
	}
	return list
}

// flatProfile is podman's default profile, or that of which skiff's filter is
// made, with its conditions worked out for the default capabilities, as engines
// do before they hand it to a runtime. Source: runtime-spec config-linux.md, "Seccomp".
func (h *host) flatProfile() (map[string]any, error) {
	type when struct {
		Caps, Arches []string
	}
	var p struct {
		DefaultAction   string
		DefaultErrnoRet *uint
		Syscalls        []struct {
			Names              []string
			Action             string
			ErrnoRet           *uint
			Args               []any
			Includes, Excludes when
		}
	}
	text, err := os.ReadFile("/usr/share/containers/seccomp.json")
	if err != nil {
		text, err = os.ReadFile(filepath.Join(h.module, "run/seccomp/data/profile.json"))
	}
	if err == nil {
		err = json.Unmarshal(text, &p)
	}
	if err != nil {
		return nil, err
	}
	granted := func(c string) bool { return slices.Contains(defaultCaps, c) }
	var calls []map[string]any
	for _, s := range p.Syscalls {
		if len(s.Includes.Arches) > 0 && !slices.Contains(s.Includes.Arches, runtime.GOARCH) || slices.Contains(s.Excludes.Arches, runtime.GOARCH) ||
			slices.ContainsFunc(s.Includes.Caps, func(c string) bool { return !granted(c) }) || slices.ContainsFunc(s.Excludes.Caps, granted) {
			continue
		}
		call := map[string]any{"names": s.Names, "action": s.Action}
		if s.ErrnoRet != nil {
			call["errnoRet"] = *s.ErrnoRet
		}
		if len(s.Args) > 0 {
			call["args"] = s.Args
		}
		calls = append(calls, call)
	}
	out := map[string]any{"defaultAction": p.DefaultAction, "syscalls": calls}
	if p.DefaultErrnoRet != nil {
		out["defaultErrnoRet"] = *p.DefaultErrnoRet
	}
	if runtime.GOARCH == "amd64" {
		out["architectures"] = []string{"SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"}
	}
	return out, nil
}
