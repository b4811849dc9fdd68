package image

import (
	"fmt"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A runtimeCase is an image that matters to what a container does. It unpacks like
// any other. A test that runs it adds a layer with busybox.
func runtimeCase(number int, name string, run Run, config func(*v1.ConfigFile), entries ...Entry) Case {
	return Case{Number: number, Name: name, Layers: []Layer{L(entries...)}, Config: config, Run: &run}
}

// started is a container that runs the probe and then prints what says matches.
func started(probe, says string) Run { return Run{Probe: probe, Says: says} }

// stopped is a container that never was.
func stopped(status int, says string) Run { return Run{Status: status, Says: says} }

func runtimeCases() []Case {
	var cases []Case
	for _, part := range [][]Case{roots(), workdirs(), volumes(), executables(), accounts(), endless()} {
		cases = append(cases, part...)
	}
	return cases
}

func roots() []Case {
	var cases []Case
	add := func(name string, run Run, entries ...Entry) {
		cases = append(cases, runtimeCase(52, name, run, nil, entries...))
	}
	notDirectory := func(dir string) Run { return stopped(125, "open /"+dir+": /"+dir+": not a directory") }
	for _, dir := range []string{"dev", "proc", "sys"} {
		add(dir+"-is-symlink", notDirectory(dir), Symlink(dir, Outside))
		add(dir+"-is-symlink-inside", notDirectory(dir), Dir("real"), Symlink(dir, "real"))
		add(dir+"-is-file", notDirectory(dir), File(dir, "x"))
		add(dir+"-is-fifo", notDirectory(dir), FIFO(dir))
	}
	add("etc-is-symlink", stopped(125, "make /etc: /etc: file exists"), Symlink("etc", Outside))
	add("etc-is-symlink-inside", started("head -n 1 /real/hosts; readlink /etc", "127.0.0.1\tlocalhost\n/real"), Dir("real"), Symlink("etc", "/real"))
	add("etc-is-file", notDirectory("etc"), File("etc", "x"))
	for _, dir := range []string{"run", "tmp"} {
		// Nothing is mounted there: what it is, is the image's own affair.
		add(dir+"-is-symlink", started("readlink /"+dir+"; ls /"+dir+"/", regexp.QuoteMeta(Outside)+"\nls: /"+dir+"/: (No such file or directory|Too many levels of symbolic links)"),
			Symlink(dir, Outside))
		add(dir+"-is-file", started("cat /"+dir+"; echo", "x"), File(dir, "x"))
	}
	for name, content := range map[string]string{"resolv.conf": "", "hosts": "127.0.0.1\tlocalhost\n(.*\n)*127.0.1.1\t[0-9a-f]{12}", "hostname": "[0-9a-f]{12}"} {
		file := "regular file"
		if content == "" {
			file = "regular empty file"
		}
		// skiff's own, read-write, and none of what was there.
		fine := started("stat -c %F /etc/"+name+"; cat /etc/"+name, strings.TrimSuffix(file+"\n"+content, "\n"))
		add(name+"-is-symlink", fine, Dir("etc"), Symlink("etc/"+name, Outside+"/secret"))
		add(name+"-is-symlink-up", fine, Dir("etc"), Symlink("etc/"+name, "../../../../../../../.."+Outside+"/secret"))
		add(name+"-is-symlink-loop", fine, Dir("etc"), Symlink("etc/"+name, name))
		add(name+"-is-symlink-to-proc", fine, Dir("etc"), Symlink("etc/"+name, "/proc/self/exe"))
		add(name+"-is-dir", stopped(125, "bind /etc/"+name+": /etc/"+name+": invalid argument"), Dir("etc"), Dir("etc/"+name))
		add(name+"-is-fifo", fine, Dir("etc"), FIFO("etc/"+name))
	}
	add("fake-proc", started("cut -d ' ' -f 1,2 /proc/version; test -s /proc/self/attr/exec || echo empty", "Linux version\nempty"),
		Dir("proc"), Dir("proc/self"), Dir("proc/self/attr"), File("proc/self/attr/exec", "fake"), File("proc/version", "fake"))
	add("dev-null-is-symlink", started("ls /dev/", "(.*\n)*null\n(.*\n)*zero"), Dir("dev"), Symlink("dev/null", Outside+"/secret"), File("dev/x", "x"))
	return cases
}

func workdirs() []Case {
	add := func(name, dir string, run Run, entries ...Entry) Case {
		return runtimeCase(53, name, run, func(c *v1.ConfigFile) { c.Config.WorkingDir = dir }, entries...)
	}
	loops := func(dir string) Run {
		return stopped(125, "open "+dir+": "+dir+": too many levels of symbolic links")
	}
	return []Case{
		add("workdir-proc-fd", "/proc/self/fd/7", loops("/proc/self/fd/7")),
		add("workdir-proc-cwd", "/proc/self/cwd", loops("/proc/self/cwd")),
		add("workdir-proc-root", "/proc/1/root/"+outside, loops("/proc/1/root/"+outside)),
		add("workdir-fd-symlink", "/cwd", loops("/cwd"), Symlink("cwd", "/proc/self/fd/8/")),
		add("workdir-dotdot", "../../../../../..", started("pwd", "/")),
		add("workdir-dotdot-symlink", "/link/../../up", started("pwd", "/up"), Symlink("link", "/etc")),
		add("workdir-symlink", "/link/new", stopped(125, "make /link: /link: file exists"), Symlink("link", Outside)),
		add("workdir-symlink-inside", "/link/new", started("pwd -P", "/real/new"), Dir("real"), Symlink("link", "../../real")),
		add("workdir-is-file", "/x", stopped(126, "working directory /x: not a directory"), File("x", "x")),
		add("workdir-is-fifo", "/x", stopped(126, "working directory /x: not a directory"), FIFO("x")),
		add("workdir-below-file", "/x/y", stopped(125, "open /x/y: /x/y: not a directory"), File("x", "x")),
		add("workdir-newline", "/a\nb\x1b[31m", started("pwd | cat -v", "/a\nb\\^\\[\\[31m")),
		add("workdir-of-proc", "/proc/self/new", stopped(125, "make /proc/self/new: /proc/self/new: no such file or directory")),
		add("workdir-deep", strings.Repeat("/d", 1500), started("pwd | wc -c", "3001")),
		add("workdir-too-deep", strings.Repeat("/d", 3000), stopped(126, "working directory (/d)+…: file name too long")),
		add("workdir-of-names-too-long", "/"+strings.Repeat("n", 256), stopped(125, "open /n+: /n+: file name too long")),
	}
}

// volumes are cases of VOLUME, of which skiff makes nothing.
func volumes() []Case {
	add := func(name, probe, says string, dirs []string, entries ...Entry) Case {
		// The mounts are those of a container without volumes.
		const mounts = `awk '$5 !~ "^/(proc|sys|dev)(/|$)" { print $5 }' /proc/self/mountinfo | sort | xargs`
		return runtimeCase(54, name, started(probe+mounts, says+"/ /etc/hostname /etc/hosts /etc/resolv.conf"), func(c *v1.ConfigFile) {
			c.Config.Volumes = map[string]struct{}{}
			for _, d := range dirs {
				c.Config.Volumes[d] = struct{}{}
			}
		}, entries...)
	}
	return []Case{
		add("volume-symlink", "readlink /v; ls /v/; ", "/etc\nhostname\nhosts\nresolv.conf\n", []string{"/v"}, Symlink("v", "/etc")),
		add("volume-symlink-outside", "ls /v/; ", "ls: /v/: No such file or directory\n", []string{"/v"}, Symlink("v", Outside)),
		add("volume-proc", "", "", []string{"/proc", "/sys", "/dev", "/"}),
		add("volume-dotdot", "ls -d /x /root; ", "ls: /x: No such file or directory\nls: /root: No such file or directory\n", []string{"/../../../etc", "../x"}),
		add("volume-comma", "ls -d /a*; ", "ls: /a\\*: No such file or directory\n", []string{"/a,upperdir=/etc", "/a:ro"}),
	}
}

func executables() []Case {
	own := func(name string, run Run, config func(*v1.ConfigFile), entries ...Entry) Case {
		run.Own = true
		return runtimeCase(55, name, run, config, entries...)
	}
	entry := func(words ...string) func(*v1.ConfigFile) {
		return func(c *v1.ConfigFile) { c.Config.Entrypoint = words }
	}
	borrowed := Run{Status: 126, Says: Borrowed}
	return []Case{
		own("entrypoint-proc-self-exe", borrowed, entry("/proc/self/exe")),
		own("entrypoint-proc-1-exe", borrowed, entry("/proc/1/exe", "run", "--privileged", "x")),
		own("entrypoint-symlink-proc-self-exe", borrowed, entry("/x"), Symlink("x", "/proc/self/exe")),
		own("entrypoint-script-proc-self-exe", borrowed, entry("/x"), File("x", "#!/proc/self/exe\n").WithMode(0o755)),
		own("entrypoint-own-proc-self-exe", Run{Says: "own"}, entry("/busybox", "sh", "-c", "exec -a busybox /proc/self/exe echo own")),
		own("entrypoint-descriptor", stopped(127, "/proc/self/fd/3: not found"), entry("/proc/self/fd/3")),
		own("entrypoint-map", stopped(126, "/proc/self/map_files: permission denied"), entry("/proc/self/map_files")),
		runtimeCase(55, "ld-preload", started("echo fine", "fine"), nil, File("etc/ld.so.preload", "/evil.so\n")),
	}
}

// Borrowed is what skiff says when it finds itself run by an image.
const Borrowed = "skiff: run: /proc/self/exe: is skiff, and no program of the image"

func accounts() []Case {
	add := func(name, user string, run Run, entries ...Entry) Case {
		return runtimeCase(56, name, run, func(c *v1.ConfigFile) { c.Config.User = user }, append([]Entry{Dir("etc")}, entries...)...)
	}
	no := func(who, why string) Run { return stopped(126, "user "+who+": "+why) }
	const (
		outOfRange = "id out of range"
		noUser     = "not in the image's /etc/passwd"
		noGroup    = "not in the image's /etc/group"
		id         = `awk '/^[UG]id/ { print $2 }' /proc/self/status; echo $HOME`
	)
	nines := strings.Repeat("9", 100)
	passwd := File("etc/passwd", "root:x:0:0::/:/\n4294967296:x:0:0::/:/\nevil\x00:x:0:0::/:/\n1:x:0:0::/named-1:/\n"+
		"over:x:4294967296:0::/:/\nminus:x:-1:0::/:/\nlong:x:"+nines+":0::/:/\ngroup:x:0:4294967296::/:/\n"+
		"nul:x:0:0::/a\x00b:/\nalice:x:0:0::/alice:/\n")
	group := File("etc/group", "root:x:0:\nover:x:4294967296:alice\nminus:x:-1:alice\n")
	unmapped := no("70000", `id is not mapped in this container \([0-9:,]+\)`)
	unmapped.Single = "user 70000: this container has user and group 0 alone, since you have no subordinate ids"
	one := started(id, "1\n0\n/")
	one.Single = "user 1: this container has user and group 0 alone, since you have no subordinate ids"
	return []Case{
		add("user-overflow", "4294967296", no("4294967296", outOfRange), passwd),
		add("user-minus-one", "-1", no("-1", noUser), passwd),
		add("user-2^31", "2147483648", no("2147483648", outOfRange), passwd),
		add("user-2^64", "18446744073709551616", no("18446744073709551616", outOfRange), passwd),
		add("user-unknown", "nobody-here", no("nobody-here", noUser), passwd),
		add("user-empty-passwd", "nobody-here", no("nobody-here", noUser)),
		add("user-huge", nines, no(nines, outOfRange), passwd),
		add("user-1MiB", strings.Repeat("n", 1<<20), no("n+…n+", noUser), passwd),
		add("group-overflow", "0:4294967296", no("4294967296", outOfRange), passwd),
		add("group-minus-one", "0:-1", no("-1", noGroup), passwd),
		add("user-unmapped", "70000", unmapped, passwd),
		add("user-newline", "a\nb", no(`a\\nb`, noUser), passwd),
		add("user-plus", "+0", no(`\+0`, noUser), passwd),
		add("user-hex", "0x0", no("0x0", noUser), passwd),
		add("user-named-1", "1", one, passwd),
		add("account-over", "over", no("over", outOfRange), passwd),
		add("account-minus", "minus", no("minus", outOfRange), passwd),
		add("account-long", "long", no("long", outOfRange), passwd),
		add("account-group", "group", no("group", outOfRange), passwd),
		add("account-home-nul", "nul", no("nul", "its home directory is no path"), passwd),
		add("account-groups", "alice", started("awk '/^Uid|^Groups/ { $1 = \"\"; print }' /proc/self/status; echo $HOME", " 0 0 0 0\n(?: 0)?\n/alice"), passwd, group),
		add("account-group-over", "alice:over", no("over", outOfRange), passwd, group),
		add("passwd-is-symlink", "root", no("root", noUser), Symlink("etc/passwd", "/proc/self/root/etc/passwd")),
		add("passwd-is-symlink-up", "root", no("root", noUser), Symlink("etc/passwd", "../../../../../../../../etc/../etc/shadow")),
		add("passwd-is-fifo", "someone", no("someone", noUser), FIFO("etc/passwd")),
		add("passwd-is-fifo-root", "0", started(id, "0\n0\n/root"), FIFO("etc/passwd"), FIFO("etc/group")),
		add("passwd-is-dir", "someone", no("someone", noUser), Dir("etc/passwd")),
		add("group-is-fifo", "0:staff", no("staff", noGroup), FIFO("etc/group")),
		add("passwd-is-huge", "someone", no("someone", noUser), Sparse("etc/passwd", "", 1<<33)),
		add("group-is-huge", "0:staff", no("staff", noGroup), Sparse("etc/group", "", 1<<33)),
		add("passwd-line-is-long", "someone", no("someone", noUser), File("etc/passwd", strings.Repeat("x", 1<<19)+"\nsomeone:x:0:0::/:/\n")),
	}
}

// endless are images whose lists and words have no end: a start costs what they are
// worth, and ends with a message. They have the number of what they are most like.
func endless() []Case {
	add := func(number int, name string, run Run, config func(*v1.Config)) Case {
		return runtimeCase(number, name, run, func(c *v1.ConfigFile) { config(&c.Config) })
	}
	const (
		tooLong = ".*: argument list too long"
		tooBig  = "image .*: record of [0-9]+ bytes is longer than 4194304"
	)
	program := func(run Run) Run { run.Own = true; return run }
	return []Case{
		add(55, "path-of-1000-directories", program(Run{Status: 127, Says: "nosuch: not found in PATH"}), func(c *v1.Config) {
			var dirs []string
			for i := range 1000 {
				dirs = append(dirs, fmt.Sprintf("/d%d", i))
			}
			c.Env, c.Entrypoint = []string{"PATH=" + strings.Join(dirs, ":")}, []string{"nosuch"}
		}),
		add(55, "path-of-colons", program(Run{Status: 127, Says: "nosuch: not found in PATH"}), func(c *v1.Config) {
			c.Env, c.Entrypoint = []string{"PATH=" + strings.Repeat(":", 100_000)}, []string{"nosuch"}
		}),
		add(55, "path-of-1MiB", program(stopped(126, "/?busybox"+tooLong)), func(c *v1.Config) {
			c.Env, c.Entrypoint = []string{"PATH=/" + strings.Repeat(":", 1<<20)}, []string{"busybox"}
		}),
		add(55, "env-of-500000", program(stopped(125, tooBig)), func(c *v1.Config) {
			for i := range 500_000 {
				c.Env = append(c.Env, fmt.Sprintf("V%d=", i))
			}
			c.Entrypoint = []string{"/busybox"}
		}),
		add(55, "env-of-200000", program(stopped(126, "/busybox"+tooLong)), func(c *v1.Config) {
			for i := range 200_000 {
				c.Env = append(c.Env, fmt.Sprintf("V%d=", i))
			}
			c.Entrypoint = []string{"/busybox"}
		}),
		add(55, "entrypoint-of-1MiB", program(stopped(126, "/(busybox)?x*…x*: (file name too long|argument list too long)")), func(c *v1.Config) {
			c.Entrypoint = []string{"/" + strings.Repeat("x", 1<<20)}
		}),
		add(55, "entrypoint-of-500000-words", program(stopped(125, tooBig)), func(c *v1.Config) {
			c.Entrypoint = append([]string{"/busybox"}, make([]string, 500_000)...)
		}),
		add(55, "env-without-name", Run{Probe: "echo fine", Says: "fine"}, func(c *v1.Config) {
			c.Env = []string{"", "=", "x", "=x=y", "A\nB=C"}
		}),
		add(55, "nul-in-entrypoint", program(stopped(125, `argument "/busybox\\x00": there is a NUL in it`)), func(c *v1.Config) { c.Entrypoint = []string{"/busybox\x00", "x"} }),
		add(55, "nul-in-env", stopped(125, `variable "A=\\x00B": there is a NUL in it`), func(c *v1.Config) { c.Env = []string{"A=\x00B"} }),
		add(53, "nul-in-workdir", stopped(125, `working directory "/a\\x00b": there is a NUL in it`), func(c *v1.Config) { c.WorkingDir = "/a\x00b" }),
		add(56, "nul-in-user", stopped(126, `user root\\x00: not in the image's /etc/passwd`), func(c *v1.Config) { c.User = "root\x00" }),
		add(55, "stop-signal", stopped(125, `unknown signal "SIGNOSUCH\\x1b"`), func(c *v1.Config) { c.StopSignal = "SIGNOSUCH\x1b" }),
	}
}
