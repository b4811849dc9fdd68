package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"skiff/internal/idmap"
	"skiff/internal/need"
	"skiff/layers"
	"skiff/run"
	"skiff/run/cgroup"

	"github.com/creack/pty"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// The test binary plays skiff, so that scripts run the code under test, and pty, collect, nameserver and udp.
func TestMain(m *testing.M) {
	if run.Borrowed() {
		main() // before package testscript looks around
	}
	layers.WorkerMain(decompressor) // skiff executes itself, under another name
	testscript.Main(m, map[string]func(){
		"skiff":      main,
		"pty":        playTerminal,
		"collect":    playCollector,
		"nameserver": playNameserver,
		"udp":        playUDP,
	})
}

// TestScripts runs every script as whoever runs the tests.
//
// Besides testscript's own, a script has the commands status, image, push, serve, proxy
// and need, and the programs pty, nameserver and udp. $IMAGE is an image of busybox alone, $REGISTRY the
// host and port of a registry of the script's own. The conditions
// root, subids and single say which id map the containers get.
func TestScripts(t *testing.T) {
	need.Userns(t)
	need.That(t, "busybox", static(busybox))
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		Setup:              setup,
		Condition:          condition,
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"status": status, "image": image, "need": scriptNeed, "push": pushImage, "serve": serve, "proxy": proxy,
		},
	})
}

// TestScriptsAsUser runs the scripts again as other users, if root runs the
// tests: those named in SKIFF_TEST_USER, separated by commas, or else whoever
// called sudo. It makes no user.
func TestScriptsAsUser(t *testing.T) {
	need.Root(t)
	names := strings.FieldsFunc(os.Getenv("SKIFF_TEST_USER"), func(r rune) bool { return r == ',' || r == ' ' })
	if len(names) == 0 && os.Getenv("SUDO_USER") != "" {
		names = []string{os.Getenv("SUDO_USER")}
	}
	var err error
	if len(names) == 0 {
		err = errors.New("no user in SKIFF_TEST_USER or SUDO_USER")
	}
	need.That(t, "test-user", err)
	for _, name := range names {
		t.Run(name, func(t *testing.T) { scriptsAs(t, name) })
	}
}

// scriptsAs runs a copy of this test binary, where name can read it.
func scriptsAs(t *testing.T, name string) {
	u, err := user.Lookup(name)
	need.That(t, "test-user", err)
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	if uid == 0 {
		t.Fatalf("%s is root", name)
	}
	dir, err := os.MkdirTemp("", "skiff-test-"+name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, step := range []error{
		os.CopyFS(dir+"/testdata/script", os.DirFS("testdata/script")),
		copyFile(dir+"/skiff.test", exe, 0o755),
		os.Mkdir(dir+"/tmp", 0o700),
		os.Chown(dir+"/tmp", uid, gid),
		exec.Command("chmod", "-R", "go+rX", dir+"/testdata").Run(),
		os.Chmod(dir, 0o755),
	} {
		if step != nil {
			t.Fatal(step)
		}
	}
	args := []string{"-test.run=^(TestScripts|TestHostileImages|TestHostileNames|TestBrokenLayerBesideOthers|TestKills|TestColdRunsShareDownloads|TestFaults|TestCrowd|TestStorm|TestStopped)$", "-test.v"}
	if deadline, ok := t.Deadline(); ok {
		args = append(args, "-test.timeout="+time.Until(deadline).Truncate(time.Second).String())
	}
	cmd := exec.Command(dir+"/skiff.test", args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + u.HomeDir, "USER=" + name, "TMPDIR=" + dir + "/tmp", "SKIFF_NEED=" + os.Getenv("SKIFF_NEED"), "SKIFF_KILLS=" + os.Getenv("SKIFF_KILLS"),
		"SKIFF_FAULTS=" + os.Getenv("SKIFF_FAULTS"), "SKIFF_STORM=" + os.Getenv("SKIFF_STORM")}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("%s", out)
	}
	if err != nil {
		t.Fatalf("as %s: %v", name, err)
	}
	if !strings.Contains(string(out), "--- PASS: TestScripts/") {
		t.Fatalf("as %s no script passed:\n%s", name, out)
	}
}

type scriptT struct{}

// setup gives each script a store, a run-time directory and $IMAGE.
func setup(e *testscript.Env) error {
	root := e.WorkDir + "/.skiff"
	runtime := e.WorkDir + "/.run"
	if err := os.Mkdir(runtime, 0o700); err != nil {
		return err
	}
	e.Vars = append(e.Vars, "SKIFF_ROOT="+root, "SKIFF_NETWORK=none", "XDG_RUNTIME_DIR="+runtime, "USER="+strconv.Itoa(os.Getuid()), "IMAGE="+reference("base"))
	e.Values[scriptT{}] = e.T()
	e.Vars = append(e.Vars, "REGISTRY="+newRegistry(e))
	e.Defer(func() {
		// The containers first: what other ids own goes with them.
		for name := range names(root + "/containers") {
			cmd := exec.Command("skiff", "--root", root, "rm", name)
			cmd.Run()
		}
		layers.Remove(root, idmap.Map{})
	})
	return build(root, "base", nil)
}

func names(dir string) func(func(string) bool) {
	return func(yield func(string) bool) {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if !yield(e.Name()) {
				return
			}
		}
	}
}

// condition tells the kinds of id maps apart.
func condition(word string) (bool, error) {
	ids, _ := idmap.Choose()
	switch word {
	case "root":
		return os.Geteuid() == 0, nil
	case "subids":
		return ids.Kind == idmap.Subordinate, nil
	case "single":
		return ids.Kind == idmap.Single, nil
	}
	return false, fmt.Errorf("unknown condition %q", word)
}

// scriptNeed is package need for scripts: need WORD [exec PROGRAM].
func scriptNeed(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: need WORD...")
	}
	for _, word := range args {
		var err error
		switch word {
		case "root":
			if os.Geteuid() != 0 {
				err = fmt.Errorf("effective user id is %d", os.Geteuid())
			}
		case "ipv6":
			var l net.Listener
			if l, err = net.Listen("tcp6", "[::1]:0"); err == nil {
				l.Close()
			}
		case "pty":
			var master, slave *os.File
			if master, slave, err = pty.Open(); err == nil {
				master.Close()
				slave.Close()
			}
		case "cgroup2":
			if cgroup.Path("test") == "" {
				err = errors.New("no cgroup of version 2 here that may have others below it")
			}
		default:
			_, err = exec.LookPath(word)
		}
		if err == nil {
			continue
		}
		if need.Named(word) {
			ts.Fatalf("needs %s, which SKIFF_NEED demands: %v", word, err)
		}
		ts.Value(scriptT{}).(testscript.T).Skip(fmt.Sprintf("needs %s: %v", word, err))
	}
}

// status N PROGRAM ARG... expects the exit status N; it is 128+n if signal n
// ended the program.
func status(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: status N program [args...]")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		ws := exit.Sys().(syscall.WaitStatus)
		if got = ws.ExitStatus(); ws.Signaled() {
			got = 128 + int(ws.Signal())
		}
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, not %d", got, want)
	}
}

// playTerminal is the program pty: it runs a program in a new terminal of 33
// lines and 77 columns, types what comes on stdin, and prints what shows.
// Afterwards it says on stderr whether the terminal's mode is as it was.
//
//	pty PROGRAM [ARG...]
//
// With HANGUP in the environment it closes the terminal after the output shows
// that text. Typing starts when the text of PROMPT shows, if that is set.
func playTerminal() {
	master, slave, err := pty.Open()
	if err != nil {
		fmt.Fprintln(os.Stderr, "pty:", err)
		os.Exit(111)
	}
	pty.Setsize(master, &pty.Winsize{Rows: 33, Cols: 77})
	before, _ := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS)
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "pty:", err)
		os.Exit(111)
	}
	hangup, prompt := os.Getenv("HANGUP"), os.Getenv("PROMPT")
	typing := func() { io.Copy(master, os.Stdin) }
	if prompt == "" {
		go typing()
	}
	drained := make(chan struct{})
	go func() {
		defer close(drained)
		var seen strings.Builder
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			if err != nil {
				return
			}
			os.Stdout.Write(b[:n])
			seen.Write(b[:n])
			if prompt != "" && strings.Contains(seen.String(), prompt) {
				prompt = ""
				go typing()
			}
			if hangup != "" && strings.Contains(seen.String(), hangup) {
				slave.Close()
				master.Close()
				return
			}
		}
	}()
	err = cmd.Wait()
	if hangup == "" {
		if after, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); err == nil && *after == *before {
			fmt.Fprintln(os.Stderr, "terminal as before")
		}
	}
	slave.Close()
	<-drained
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if ws := exit.Sys().(syscall.WaitStatus); ws.Signaled() {
			os.Exit(128 + int(ws.Signal()))
		}
		os.Exit(exit.ExitCode())
	}
	os.Exit(0)
}
