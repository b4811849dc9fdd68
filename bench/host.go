package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"skiff/internal/idmap"
	"skiff/layers"

	"golang.org/x/sys/unix"
)

// A host is where everything of one run of the benchmarks is kept.
type host struct {
	dir                    string   // stores and all else; removed at the end
	programs               string   // what is measured; likewise
	module                 string   // the directory with go.mod
	skiff                  string   // the program under test
	versus                 string   // another skiff, for one more row of start and pull, or ""
	caller                 *account // whoever runs the benchmarks
	accounts               []*account
	one, many              string   // references of the images with 1 and 20 layers
	seccomp                []string // files with the filters that skiff loads, for one id last
	archive                string   // the image with 1 layer as `docker save` writes it
	rootfs                 string   // the same, unpacked
	reference, noReference string   // the C program, or why there is none
}

// An account is a user to whom rows of the tables belong.
type account struct {
	name     string
	uid, gid uint32
	self     bool // whoever runs the benchmarks
	dir      string
	ids      idmap.Map
}

func (a *account) store() string { return filepath.Join(a.dir, "store") }

// kind names the account's rows.
func (a *account) kind() string {
	switch a.ids.Kind {
	case idmap.Subordinate:
		return "rootless, subordinate ids (" + a.name + ")"
	case idmap.Single:
		return "rootless, single id (" + a.name + ")"
	}
	return "root"
}

func (a *account) environment() []string {
	return []string{
		"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "HOME=" + a.dir, "USER=" + a.name, "TMPDIR=" + a.dir,
		"XDG_RUNTIME_DIR=" + a.dir + "/run", "SKIFF_ROOT=" + a.store(),
		"CONTAINERS_CONF=" + a.dir + "/containers.conf",
	}
}

func (a *account) credential() *syscall.SysProcAttr {
	if a.self {
		return nil
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: a.uid, Gid: a.gid}}
}

// newHost makes the directory, builds skiff unless it is given, and gives each
// account its place.
func newHost(at, skiff, versus string, users []string) (_ *host, err error) {
	h := &host{}
	if h.module, err = moduleDir(); err != nil {
		return nil, err
	}
	if at == "" {
		at = memory()
	}
	if h.dir, err = os.MkdirTemp(at, "skiff-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			h.remove()
		}
	}()
	if err = os.Chmod(h.dir, 0o755); err != nil {
		return nil, err
	}
	if h.programs, err = os.MkdirTemp(disk(), "skiff-bench-"); err != nil {
		return nil, err
	}
	if err = os.Chmod(h.programs, 0o755); err != nil {
		return nil, err
	}
	h.skiff = filepath.Join(h.programs, "skiff")
	if skiff != "" {
		err = copyProgram(h.skiff, skiff)
	} else {
		err = build(h.module, h.skiff, ".")
	}
	if err != nil {
		return nil, err
	}
	if versus != "" {
		h.versus = filepath.Join(h.programs, "versus")
		if err = copyProgram(h.versus, versus); err != nil {
			return nil, err
		}
	}
	// Pages of a file that are not on disk yet count as dirty, too.
	unix.Sync()
	return h, h.addAccounts(users)
}

// memory is a tmpfs where there is one: a disk's own ways, such as the slow
// deletions of ext4 without a journal, would be measured otherwise.
func memory() string {
	var fs unix.Statfs_t
	if unix.Statfs("/dev/shm", &fs) == nil && fs.Type == unix.TMPFS_MAGIC && fs.Flags&unix.ST_NOEXEC == 0 {
		return "/dev/shm"
	}
	return ""
}

// disk is a place for programs that is no tmpfs: the pages of a program there
// count as dirty memory of its process.
func disk() string {
	var fs unix.Statfs_t
	for _, dir := range []string{os.TempDir(), "/var/tmp"} {
		if unix.Statfs(dir, &fs) == nil && fs.Type != unix.TMPFS_MAGIC {
			return dir
		}
	}
	return ""
}

func moduleDir() (string, error) {
	out, err := exec.Command("go", "env", "GOMOD").Output()
	mod := strings.TrimSpace(string(out))
	if err != nil || filepath.Base(mod) != "go.mod" {
		return "", errors.New("run this inside skiff's source, with go in PATH")
	}
	return filepath.Dir(mod), nil
}

// build builds as the Makefile does.
func build(dir, out, pkg string) error {
	c := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", "urfave_cli_no_docs", "-ldflags", "-s -w", "-o", out, pkg)
	c.Dir, c.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, text)
	}
	return os.Chmod(out, 0o755)
}

func copyProgram(to, from string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, text, 0o755)
}

// addAccounts adds the caller and, if that is root, the users named.
func (h *host) addAccounts(users []string) error {
	ids, _ := idmap.Choose()
	self := &account{name: strconv.Itoa(os.Geteuid()), uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), self: true, ids: ids}
	if u, err := user.Current(); err == nil {
		self.name = u.Username
	}
	h.caller, h.accounts = self, append(h.accounts, self)
	for _, name := range users {
		if self.uid != 0 {
			return errors.New("only root can run rows as other users")
		}
		u, err := user.Lookup(name)
		if err != nil {
			return err
		}
		uid, _ := strconv.ParseUint(u.Uid, 10, 32)
		gid, _ := strconv.ParseUint(u.Gid, 10, 32)
		a := &account{name: name, uid: uint32(uid), gid: uint32(gid)}
		a.ids = subordinate(a)
		h.accounts = append(h.accounts, a)
	}
	for _, a := range h.accounts {
		a.dir = filepath.Join(h.dir, a.name)
		for _, d := range []string{a.dir, a.dir + "/run"} {
			if err := os.Mkdir(d, 0o700); err != nil {
				return err
			}
			if err := os.Chown(d, int(a.uid), int(a.gid)); err != nil {
				return err
			}
		}
	}
	return nil
}

// subordinate is the map that a user would get from newuidmap, from the first
// of its ranges by name. Source: subuid(5).
func subordinate(a *account) idmap.Map {
	m := idmap.Map{Kind: idmap.Single}
	text, _ := os.ReadFile("/etc/subuid")
	for line := range strings.Lines(string(text)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) != 3 || f[0] != a.name {
			continue
		}
		first, _ := strconv.ParseUint(f[1], 10, 32)
		size, _ := strconv.ParseUint(f[2], 10, 32)
		m.Kind = idmap.Subordinate
		m.UIDs = []idmap.Range{{Container: 0, Host: a.uid, Size: 1}, {Container: 1, Host: uint32(first), Size: uint32(size)}}
		m.GIDs = []idmap.Range{{Container: 0, Host: a.gid, Size: 1}, {Container: 1, Host: uint32(first), Size: uint32(size)}}
		return m
	}
	m.UIDs = []idmap.Range{{Container: 0, Host: a.uid, Size: 1}}
	m.GIDs = []idmap.Range{{Container: 0, Host: a.gid, Size: 1}}
	return m
}

// remove removes everything, with what other ids own in it.
func (h *host) remove() {
	for _, a := range h.accounts {
		if _, err := exec.LookPath("podman"); err == nil && a.uid != 0 {
			command{argv: h.podman(a, "unshare", "rm", "-rf", a.dir+"/podman/root"), as: a}.output()
			command{argv: h.podman(a, "system", "migrate"), as: a}.output() // ends its pause process
		}
	}
	if os.Geteuid() != 0 && len(h.accounts) > 0 {
		layers.Remove(h.dir, h.accounts[0].ids)
	}
	for _, dir := range []string{h.dir, h.programs} {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %v; remove it by hand: rm -rf %s\n", err, dir)
		}
	}
}
