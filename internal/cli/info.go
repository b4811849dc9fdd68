package cli

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"skiff/internal/format"
	"skiff/internal/idmap"
	"skiff/run/state"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
)

func systemCommand() *cli.Command {
	return group("system", "the store and the host", dfCommand(), systemPruneCommand(), infoCommand())
}

func infoCommand() *cli.Command {
	return &cli.Command{
		Name: "info", Usage: "show what skiff and this host are", ArgsUsage: " ",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "print what the Go `TEMPLATE` says, or \"json\""},
		},
		Action: action("info", info),
	}
}

// hostInfo has docker's names where docker has one.
type hostInfo struct {
	ServerVersion     string
	Containers        int
	ContainersRunning int
	ContainersPaused  int
	ContainersStopped int
	Images            int
	Driver            string
	DockerRootDir     string
	KernelVersion     string
	OperatingSystem   string
	OSType            string
	Architecture      string
	NCPU              int
	MemTotal          int64 // bytes
	CgroupVersion     string
	SecurityOptions   []string
	Rootless          bool
	IDs               string // how containers get their user ids
	StoreReadOnly     bool
	StoreFree         int64 // bytes
}

// idsText says how containers get their user ids.
func idsText(k idmap.Kind) string {
	switch k {
	case idmap.Root:
		return "65536 of their own"
	case idmap.Subordinate:
		return "the subordinate ones of /etc/subuid and /etc/subgid"
	case idmap.Single:
		return "the user's own alone"
	}
	return "the host's"
}

func info(c *cli.Context) error {
	if err := count(c, 0, 0, ""); err != nil {
		return err
	}
	f, err := format.Parse(c.String("format"), "")
	if err != nil {
		return err
	}
	r, err := openRunner(c)
	if err != nil {
		return err
	}
	images, err := r.Store.Images()
	if err != nil {
		return err
	}
	containers, err := r.Containers().List()
	if err != nil {
		return err
	}
	h := hostInfo{
		ServerVersion: version(), Containers: len(containers), Images: len(unique(images)), Driver: "overlay",
		DockerRootDir: r.Store.Root(), OSType: runtime.GOOS, Architecture: machine(), NCPU: runtime.NumCPU(),
		OperatingSystem: systemName(), CgroupVersion: "1", SecurityOptions: []string{"name=seccomp,profile=default"},
		Rootless: os.Geteuid() != 0, IDs: idsText(r.IDs.Kind), StoreReadOnly: r.Store.ReadOnly(),
	}
	for _, l := range containers {
		if l.Status == state.Running {
			h.ContainersRunning++
		} else {
			h.ContainersStopped++
		}
	}
	if h.Rootless {
		h.SecurityOptions = append(h.SecurityOptions, "name=rootless")
	}
	var name unix.Utsname
	if unix.Uname(&name) == nil {
		h.KernelVersion = unix.ByteSliceToString(name.Release[:])
	}
	var memory unix.Sysinfo_t
	if unix.Sysinfo(&memory) == nil {
		h.MemTotal = int64(memory.Totalram) * int64(memory.Unit)
	}
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		h.CgroupVersion = "2"
	}
	if unix.Statfs(r.Store.Root(), &fs) == nil {
		h.StoreFree = int64(fs.Bavail) * int64(fs.Bsize)
	}
	if c.String("format") != "" {
		return f.One(stdout, h)
	}
	return printInfo(h)
}

func printInfo(h hostInfo) error {
	for _, line := range []struct {
		name  string
		value any
	}{
		{"Version", h.ServerVersion}, {"Store", h.DockerRootDir}, {"Store Free", size(h.StoreFree)},
		{"Containers", h.Containers}, {" Running", h.ContainersRunning}, {" Stopped", h.ContainersStopped}, {"Images", h.Images},
		{"Storage Driver", h.Driver}, {"Container Ids", h.IDs}, {"Rootless", h.Rootless}, {"Cgroup Version", h.CgroupVersion},
		{"Kernel Version", h.KernelVersion}, {"Operating System", h.OperatingSystem}, {"OSType", h.OSType},
		{"Architecture", h.Architecture}, {"CPUs", h.NCPU}, {"Total Memory", units.BytesSize(float64(h.MemTotal))},
	} {
		if _, err := fmt.Fprintf(stdout, "%s: %v\n", line.name, line.value); err != nil {
			return err
		}
	}
	return nil
}

// systemName is os-release(5)'s.
func systemName() string {
	text, _ := os.ReadFile("/etc/os-release")
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
			return printable(strings.Trim(strings.TrimSpace(name), `"'`))
		}
	}
	return "Linux"
}

// machine is uname(2)'s word, as in docker.
func machine() string {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return runtime.GOARCH
	}
	return unix.ByteSliceToString(name.Machine[:])
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "unknown"
}

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print the version", ArgsUsage: " ",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "format", Aliases: []string{"f"}, Usage: "print what the Go `TEMPLATE` says, or \"json\""},
		},
		Action: action("version", printVersion),
	}
}

// A component is one side of what docker calls client and server, which here are one.
type component struct {
	Version   string
	GoVersion string
	GitCommit string
	Os        string
	Arch      string
}

func printVersion(c *cli.Context) error {
	if err := count(c, 0, 0, ""); err != nil {
		return err
	}
	if !c.IsSet("format") {
		_, err := fmt.Fprintf(stdout, "skiff version %s, %s, %s/%s\n", version(), runtime.Version(), runtime.GOOS, runtime.GOARCH)
		return err
	}
	f, err := format.Parse(c.String("format"), "")
	if err != nil {
		return err
	}
	self := component{version(), runtime.Version(), commit(), runtime.GOOS, runtime.GOARCH}
	return f.One(stdout, struct {
		Version        string
		Client, Server component
	}{self.Version, self, self})
}

// commit is what the binary was built from, if the build knew.
func commit() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	at := slices.IndexFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "vcs.revision" })
	if at < 0 {
		return ""
	}
	return info.Settings[at].Value
}

func searchCommand() *cli.Command {
	return &cli.Command{
		Name: "search", Usage: "not there: registries have no common way to be searched", ArgsUsage: "TERM",
		SkipFlagParsing: true,
		Action: action("search", func(*cli.Context) error {
			return errSearch
		}),
	}
}
