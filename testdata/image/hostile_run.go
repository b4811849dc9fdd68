package image

import (
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// runtimeCases are images that matter to what a container does. They unpack
// like any other. A test that runs them adds a layer with a program, such as
// Self.
func runtimeCases() []Case {
	var cases []Case
	add := func(number int, name, run string, config func(*v1.ConfigFile), entries ...Entry) {
		cases = append(cases, Case{Number: number, Name: name, Layers: []Layer{L(entries...)}, Config: config, Run: run})
	}
	for _, dir := range []string{"dev", "proc", "sys", "etc", "run", "tmp"} {
		add(52, dir+"-is-symlink", "nothing is made or mounted in "+Outside+"; the container has a real /"+dir+" or is refused",
			nil, Symlink(dir, Outside))
		add(52, dir+"-is-file", "the container has a real /"+dir+" or is refused", nil, File(dir, "x"))
	}
	for _, name := range []string{"resolv.conf", "hosts", "hostname"} {
		add(52, name+"-is-symlink", "nothing is written through it", nil, Dir("etc"), Symlink("etc/"+name, Outside+"/secret"))
		add(52, name+"-is-dir", "the container is refused, or the directory is left alone", nil, Dir("etc"), Dir("etc/"+name))
		add(52, name+"-is-fifo", "the start does not hang", nil, Dir("etc"), FIFO("etc/"+name))
	}
	add(52, "fake-proc", "/proc is procfs", nil, Dir("proc"), Dir("proc/self"), Dir("proc/self/attr"),
		File("proc/self/attr/exec", ""), File("proc/version", "fake"))
	add(52, "dev-null-is-symlink", "/dev/null is the device 1:3", nil, Dir("dev"), Symlink("dev/null", Outside+"/secret"))

	cwd := func(dir string) func(*v1.ConfigFile) {
		return func(c *v1.ConfigFile) { c.Config.WorkingDir = dir }
	}
	add(53, "workdir-proc-fd", "refused, or a directory inside", cwd("/proc/self/fd/7"))
	add(53, "workdir-fd-symlink", "refused, or a directory inside", cwd("/cwd"), Symlink("cwd", "/proc/self/fd/8/"))
	add(53, "workdir-dotdot", "a directory inside", cwd("../../../../../.."))
	add(53, "workdir-symlink", "made inside the container's root", cwd("/link/new"), Symlink("link", Outside))
	add(53, "workdir-is-file", "a message and status 125 or 126", cwd("/x"), File("x", "x"))
	add(53, "workdir-newline", "escaped in messages", cwd("/a\nb\x1b[31m"))

	volume := func(dirs ...string) func(*v1.ConfigFile) {
		return func(c *v1.ConfigFile) {
			c.Config.Volumes = map[string]struct{}{}
			for _, d := range dirs {
				c.Config.Volumes[d] = struct{}{}
			}
		}
	}
	add(54, "volume-symlink", "nothing of the host is copied or mounted", volume("/v"), Symlink("v", "/etc"))
	add(54, "volume-proc", "/proc is procfs", volume("/proc", "/sys", "/dev", "/"))
	add(54, "volume-dotdot", "nothing outside is touched", volume("/../../../etc", "../x"))
	add(54, "volume-comma", "taken literally or refused", volume("/a,upperdir=/etc", "/a:ro"))

	entry := func(words ...string) func(*v1.ConfigFile) {
		return func(c *v1.ConfigFile) { c.Config.Entrypoint = words }
	}
	add(55, "entrypoint-proc-self-exe", "status 126 or 127, or the container's own program; skiff's executable is unchanged", entry("/proc/self/exe"))
	add(55, "entrypoint-symlink-proc-self-exe", "as above", entry("/x"), Symlink("x", "/proc/self/exe"))
	add(55, "entrypoint-script-proc-self-exe", "as above", entry("/x"), File("x", "#!/proc/self/exe\n").WithMode(0o755))
	add(55, "ld-preload", "the host's libraries are never loaded", nil, File("etc/ld.so.preload", "/evil.so\n"))

	user := func(u string) func(*v1.ConfigFile) {
		return func(c *v1.ConfigFile) { c.Config.User = u }
	}
	passwd := File("etc/passwd", "root:x:0:0::/:/\n4294967296:x:0:0::/:/\nevil\x00:x:0:0::/:/\n")
	for name, u := range map[string]string{
		"user-overflow": "4294967296", "user-minus-one": "-1", "user-2^31": "2147483648", "user-unknown": "nobody-here",
		"user-huge": strings.Repeat("9", 100), "group-overflow": "0:4294967296", "user-unmapped": "70000", "user-newline": "a\nb",
	} {
		add(56, name, "a message and status 125; never root", user(u), Dir("etc"), passwd)
	}
	add(56, "passwd-is-symlink", "not read from the host", user("root"), Dir("etc"), Symlink("etc/passwd", "/proc/self/root/etc/passwd"))
	add(56, "passwd-is-fifo", "the start does not hang", user("someone"), Dir("etc"), FIFO("etc/passwd"))
	add(56, "passwd-is-huge", "bounded memory, or refused", user("someone"), Dir("etc"), Sparse("etc/passwd", "", 1<<33))
	return cases
}
