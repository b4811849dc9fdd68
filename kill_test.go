package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"skiff/internal/idmap"
	"skiff/internal/need"
	"skiff/layers"
	images "skiff/testdata/image"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// A shop is a registry on loopback with one image of several layers, which
// counts how often each blob is asked for.
type shop struct {
	ref   string
	blobs int

	before func(*http.Request) // if not nil, called with each request

	mu   sync.Mutex
	asks map[string]int
}

func newShop(t *testing.T) *shop {
	s := &shop{asks: map[string]int{}}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == "GET" && strings.Contains(r.URL.Path, "/blobs/") {
			s.mu.Lock()
			s.asks[filepath.Base(r.URL.Path)]++
			s.mu.Unlock()
		}
		if s.before != nil {
			s.before(r)
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	s.ref = strings.TrimPrefix(server.URL, "http://") + "/base"

	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 2<<20)
	for i := range noise {
		noise[i] = byte(rand.Uint32())
	}
	stack := []images.Layer{images.L(
		images.Dir("bin"), images.File("bin/busybox", string(program)).WithMode(0o755),
		images.Symlink("bin/sh", "busybox"), images.Symlink("bin/sleep", "busybox"), images.Symlink("bin/echo", "busybox"),
		images.Symlink("bin/true", "busybox"),
	)}
	for i := range 4 {
		stack = append(stack, images.L(images.Dir("data"), images.File("data/"+strconv.Itoa(i), string(noise[i<<19:(i+1)<<19]))))
	}
	img, err := images.New(func(c *v1.ConfigFile) { c.Config.Env = []string{"PATH=/bin"} }, stack...)
	if err != nil {
		t.Fatal(err)
	}
	tag, err := name.NewTag(s.ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, img); err != nil {
		t.Fatal(err)
	}
	s.blobs = len(stack) + 1 // and the config
	return s
}

// A crew runs skiff on a store of its own.
type crew struct {
	t    *testing.T
	root string
}

func newCrew(t *testing.T) *crew {
	need.Userns(t)
	need.That(t, "busybox", static(busybox))
	dir := t.TempDir()
	c := &crew{t, dir + "/store"}
	t.Setenv("SKIFF_ROOT", c.root)
	t.Setenv("XDG_RUNTIME_DIR", dir)
	ids, _ := idmap.Choose()
	t.Cleanup(func() { layers.Remove(c.root, ids) })
	return c
}

func (c *crew) command(args ...string) (*exec.Cmd, *bytes.Buffer) {
	var out bytes.Buffer
	cmd := exec.Command("skiff", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = 10 * time.Second
	return cmd, &out
}

// killed are what TestKills kills: runs that pull first, without a network and with
// one, pulls, and removals of images.
var killed = []string{"cold", "none", "default", "pull", "rmi"}

// left are the names in a store's containers and tmp, but for fine ones. The process that
// rmi leaves behind to delete what it removed may be at it still, and is waited for.
func left(root string, fine func(name string) bool) (list []string) {
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		list = nil
		for _, room := range []string{"containers", "tmp"} {
			for name := range names(root + "/" + room) {
				if name != ".names" && !fine(name) {
					list = append(list, room+"/"+name)
				}
			}
		}
		if list == nil || time.Now().After(until) {
			return list
		}
	}
}

// TestKills kills skiff at random moments (cases 73 and 74 of SECURITY.md). Nothing may live
// on, the next run must work, and after it nothing may be left and the store be
// clean. SKIFF_KILLS says how often, instead of 40 times.
func TestKills(t *testing.T) {
	kills := 40
	if n, err := strconv.Atoi(os.Getenv("SKIFF_KILLS")); err == nil {
		kills = n
	}
	c, s := newCrew(t), newShop(t)
	mark := fmt.Sprintf("marked-%d-%d", os.Getpid(), rand.Uint32())
	mounts, links := c.mounts(), c.links()
	// How long an undisturbed one takes, so that the moments are spread over it.
	took := map[string]time.Duration{}
	for _, kind := range killed {
		c.prepare(kind, s)
		begin := time.Now()
		cmd, out := c.command(c.line(kind, s, mark, "true")...)
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v\n%s", kind, err, out)
		}
		took[kind] = time.Since(begin)
	}
	landed, early := 0, 0
	for i := range kills {
		kind := killed[i%len(killed)]
		c.prepare(kind, s)
		cmd, out := c.command(c.line(kind, s, mark, "sleep 0.02")...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the kill hits skiff alone all the same
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(rand.Int64N(int64(took[kind] + 20*time.Millisecond))))
		cmd.Process.Kill()
		err := cmd.Wait()
		var exit *exec.ExitError
		switch {
		case err == nil:
			early++
		case errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signaled():
			landed++
		default:
			t.Fatalf("%s run, kill %d: %v\n%s", kind, i, err, out)
		}
		c.quiet(mark)
		if i%10 == 9 {
			c.works(s)
		}
	}
	t.Logf("%d killed, %d had ended; undisturbed %v", landed, early, took)
	if landed == 0 && kills >= 10 {
		t.Error("no kill met a living skiff")
	}
	c.works(s)
	// A file that its writer did not come to rename stays an hour; see store.Sweep.
	for _, name := range left(c.root, func(name string) bool { return strings.HasPrefix(name, "file-") }) {
		t.Errorf("left: %s", name)
	}
	if now := c.mounts(); now != mounts {
		t.Errorf("mounts before:\n%s\nand now:\n%s", mounts, now)
	}
	// The kernel removes a dead namespace's links in its own time.
	c.soon("links", func() string {
		if now := c.links(); len(now) > len(links) {
			return fmt.Sprintf("links before %v, now %v", links, now)
		}
		return ""
	})
	cmd, out := c.command("ps", "-a", "-q")
	if err := cmd.Run(); err != nil || out.Len() > 0 {
		t.Errorf("ps: %v\n%s", err, out)
	}
}

// prepare takes the image away, or brings it in, as the kind begins.
func (c *crew) prepare(kind string, s *shop) {
	switch kind {
	case "cold", "pull":
		cmd, _ := c.command("rmi", s.ref)
		cmd.Run()
	case "rmi":
		cmd, _ := c.command("pull", "-q", s.ref)
		cmd.Run()
	}
}

func (c *crew) line(kind string, s *shop, mark, script string) []string {
	network := kind
	switch kind {
	case "cold":
		network = "none"
	case "pull":
		return []string{"pull", "-q", s.ref}
	case "rmi":
		return []string{"rmi", "-f", s.ref}
	}
	return []string{"run", "--rm", "--network", network, s.ref, "sh", "-c", ": " + mark + "; " + script}
}

// works runs a container, cold or warm.
func (c *crew) works(s *shop) {
	c.t.Helper()
	cmd, out := c.command("run", "--rm", "--quiet", "--network", "none", s.ref, "echo", "works")
	if err := cmd.Run(); err != nil || out.String() != "works\n" {
		c.t.Fatalf("the run after the kills: %v\n%s", err, out)
	}
	if cmd, out := c.command("fsck"); cmd.Run() != nil {
		c.t.Fatalf("fsck after the kills: %s", out)
	}
}

// quiet waits until no process of a killed run is left: none with the mark in
// its arguments, none that executes skiff.
func (c *crew) quiet(mark string) {
	c.t.Helper()
	self, err := exec.LookPath("skiff")
	if err != nil {
		c.t.Fatal(err)
	}
	program, err := os.Stat(self)
	if err != nil {
		c.t.Fatal(err)
	}
	c.soon("processes", func() string {
		for pid := range names("/proc") {
			if pid[0] < '0' || pid[0] > '9' || pid == strconv.Itoa(os.Getpid()) {
				continue
			}
			args, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			exe, err := os.Stat("/proc/" + pid + "/exe")
			if bytes.Contains(args, []byte(mark)) || err == nil && os.SameFile(exe, program) {
				return fmt.Sprintf("process %s lives: %q", pid, args)
			}
		}
		return ""
	})
}

// soon expects that complaint returns "" within five seconds.
func (c *crew) soon(what string, complaint func() string) {
	c.t.Helper()
	said := ""
	for range 500 {
		if said = complaint(); said == "" {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	c.t.Errorf("%s: %s", what, said)
}

// mounts are those that name the store.
func (c *crew) mounts() string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	var mine []string
	for line := range strings.Lines(string(text)) {
		if strings.Contains(line, c.root) {
			mine = append(mine, line)
		}
	}
	return strings.Join(mine, "")
}

// links are the host's network links.
func (c *crew) links() []string {
	var list []string
	for name := range names("/sys/class/net") {
		list = append(list, name)
	}
	return list
}

// TestColdRunsShareDownloads starts ten cold runs of one image at once: each
// blob is downloaded once, and each run works.
func TestColdRunsShareDownloads(t *testing.T) {
	c, s := newCrew(t), newShop(t)
	var runs sync.WaitGroup
	for i := range 10 {
		runs.Go(func() {
			cmd, out := c.command("run", "--rm", "--quiet", "--network", "none", s.ref, "echo", "run", strconv.Itoa(i))
			if err := cmd.Run(); err != nil || !strings.Contains(out.String(), fmt.Sprintf("run %d\n", i)) {
				t.Errorf("run %d: %v\n%s", i, err, out)
			}
		})
	}
	runs.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.asks) != s.blobs {
		t.Errorf("%d blobs were asked for, of %d", len(s.asks), s.blobs)
	}
	for blob, n := range s.asks {
		if n != 1 {
			t.Errorf("blob %.19s was asked for %d times", blob, n)
		}
	}
}
