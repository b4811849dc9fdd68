package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"skiff/internal/idmap"
	"skiff/pull/store"
	"skiff/run"
	images "skiff/testdata/image"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// TestCrowd lets ten processes pull one image at once, and then five each two
// images that share layers (case 79 of SECURITY.md): all succeed and show each layer,
// and no blob is downloaded twice.
func TestCrowd(t *testing.T) {
	c, s := newCrew(t), newShop(t)
	host, _, _ := strings.Cut(s.ref, "/")
	shared := []images.Layer{busyLayer(t)}
	for i := range 3 {
		shared = append(shared, images.L(images.File(fmt.Sprint("shared", i), strings.Repeat(fmt.Sprint(i), 1<<20))))
	}
	two := []string{host + "/left", host + "/right"}
	for _, ref := range two {
		put(t, ref, inBin, append(shared[:4:4], images.L(images.File("own", ref))))
	}
	for _, refs := range [][]string{{s.ref}, two} {
		s.mu.Lock()
		clear(s.asks)
		s.mu.Unlock()
		var pulls sync.WaitGroup
		var saw atomic.Int32
		for i := range 10 {
			ref := refs[i%len(refs)]
			pulls.Go(func() {
				status, out := c.ends(t, []string{"pull", ref})
				if status != 0 {
					t.Errorf("pull %d of %s: status %d\n%s", i, ref, status, out)
				}
				// Who begins when all is here is shown nothing.
				if shown := regexp.MustCompile(`: layer [0-9a-f]{12}: `).FindAllString(out, -1); len(shown) >= 5 {
					saw.Add(1)
				} else if len(shown) > 0 {
					t.Errorf("pull %d of %s shows %d of 5 layers:\n%s", i, ref, len(shown), out)
				}
			})
		}
		pulls.Wait()
		if int(saw.Load()) < len(refs) {
			t.Errorf("%v: %d pulls showed what they did", refs, saw.Load())
		}
		s.mu.Lock()
		for blob, n := range s.asks {
			if n != 1 {
				t.Errorf("%v: blob %.19s was asked for %d times", refs, blob, n)
			}
		}
		s.mu.Unlock()
		for _, ref := range refs {
			if status, out := c.ends(t, []string{"run", "--rm", "--network", "none", ref, "true"}); status != 0 {
				t.Errorf("run of %s: status %d\n%s", ref, status, out)
			}
		}
	}
	c.whole()
}

func busyLayer(t *testing.T) images.Layer {
	t.Helper()
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	return images.L(images.Dir("bin"), images.File("bin/busybox", string(program)).WithMode(0o755),
		images.Symlink("bin/true", "busybox"), images.Symlink("bin/cat", "busybox"), images.Symlink("bin/sleep", "busybox"))
}

func inBin(c *v1.ConfigFile) { c.Config.Env = []string{"PATH=/bin"} }

// whole expects that fsck finds nothing, and that nothing is left in tmp.
func (c *crew) whole() {
	c.t.Helper()
	c.ends(c.t, []string{"ps"}) // sweeps
	if status, out := c.ends(c.t, []string{"fsck"}); status != 0 {
		c.t.Errorf("fsck: status %d\n%s", status, out)
	}
	for _, name := range left(c.root, func(string) bool { return false }) {
		c.t.Errorf("left: %s", name)
	}
}

// TestStorm lets pullers, runs, removals and collectors loose on three images
// that share layers (case 80 of SECURITY.md), for three seconds or SKIFF_STORM. A run
// that may pull works, whatever the others do; the rest fails only with what it may
// come too late for.
func TestStorm(t *testing.T) {
	c, s := newCrew(t), newShop(t)
	t.Setenv("SKIFF_NETWORK", "none")
	host, _, _ := strings.Cut(s.ref, "/")
	base := []images.Layer{busyLayer(t), images.L(images.File("shared", strings.Repeat("shared", 1<<17)))}
	var refs []string
	for i := range 3 {
		ref := fmt.Sprintf("%s/storm%d:latest", host, i)
		put(t, ref, inBin, append(base[:2:2], images.L(images.File("own", fmt.Sprintln("own", i)))))
		refs = append(refs, ref)
	}
	lasts := 3 * time.Second
	if d, err := time.ParseDuration(os.Getenv("SKIFF_STORM")); err == nil {
		lasts = d
	}
	end := time.Now().Add(lasts)
	var storm sync.WaitGroup
	var done [5]atomic.Int64
	loose := func(kind, n int, may string, command func(i int) (args []string, want string)) {
		may = `^skiff: ` + may + `\n(?:skiff: hint: .*\n)?$`
		for range n {
			storm.Go(func() {
				for time.Now().Before(end) {
					args, want := command(rand.IntN(len(refs)))
					status, out := c.ends(t, args)
					if status == 0 && strings.HasSuffix(out, want) {
						done[kind].Add(1)
					} else if status == 0 || !regexp.MustCompile(may).MatchString(out) {
						t.Errorf("skiff %v: status %d\n%s", args, status, out)
						return
					}
				}
			})
		}
	}
	loose(0, 8, `$.`, func(i int) ([]string, string) { return []string{"pull", "-q", refs[i]}, "" })
	loose(1, 6, `$.`, func(i int) ([]string, string) {
		return []string{"run", "--rm", "-q", refs[i], "cat", "/own"}, fmt.Sprintln("own", i)
	})
	loose(2, 2, `run .*: image .* is not here`, func(i int) ([]string, string) {
		return []string{"run", "--rm", "--pull", "never", refs[i], "cat", "/own"}, fmt.Sprintln("own", i)
	})
	loose(3, 2, `rmi .*: image .* is not here`, func(i int) ([]string, string) {
		return []string{"rmi", "-f", refs[i]}, ""
	})
	for range 2 {
		storm.Go(func() {
			for time.Now().Before(end) {
				if out, err := exec.Command("collect").CombinedOutput(); err != nil {
					t.Errorf("collect: %v\n%s", err, out)
					return
				}
				done[4].Add(1)
			}
		})
	}
	storm.Wait()
	var counts [5]int64
	for i := range done {
		if counts[i] = done[i].Load(); counts[i] == 0 {
			t.Error("nothing done of kind", i)
		}
	}
	t.Logf("%d pulls, %d runs, %d runs that might not pull, %d removals, %d collections", counts[0], counts[1], counts[2], counts[3], counts[4])
	for _, ref := range refs {
		if status, out := c.ends(t, []string{"pull", "-q", ref}); status != 0 {
			t.Errorf("after the storm: pull: status %d\n%s", status, out)
		}
	}
	c.whole()
}

// playCollector is the program collect: it removes what nothing uses, however
// young it is.
func playCollector() {
	st, err := store.Open(os.Getenv("SKIFF_ROOT"))
	if err == nil {
		ids := run.IDs()
		if ids.Kind == idmap.Single {
			st.IDs = store.Single
		}
		r := &run.Runner{Store: st, IDs: ids}
		_, err = st.Collect(context.Background(), r.InUse, 0)
	}
	// Another one is at it.
	if err != nil && !strings.Contains(err.Error(), "another process") {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// TestStopped stops a pull that holds locks (case 81 of SECURITY.md): images that
// are here run on, and another pull of the same layer says what it waits for and can be
// interrupted. When the first goes on, it ends well.
func TestStopped(t *testing.T) {
	c := newCrew(t)
	t.Setenv("SKIFF_NETWORK", "none")
	slow := &slowRegistry{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), stalls: map[string]bool{}}
	server := httptest.NewServer(slow)
	t.Cleanup(func() { server.CloseClientConnections(); server.Close() })
	host := strings.TrimPrefix(server.URL, "http://")
	old, ref := host+"/old", host+"/new"
	var text strings.Builder
	io.CopyN(&text, new(noise), 2<<20)
	heavy := images.L(images.File("noise", text.String()))
	put(t, old, inBin, []images.Layer{busyLayer(t)})
	put(t, ref, inBin, []images.Layer{busyLayer(t), heavy})
	if status, out := c.ends(t, []string{"pull", old}); status != 0 {
		t.Fatal(out)
	}
	digest, err := heavy.V1().Digest()
	if err != nil {
		t.Fatal(err)
	}
	slow.mu.Lock()
	slow.stalls[digest.String()] = true
	slow.mu.Unlock()

	first, firstOut := c.command("pull", ref)
	first.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-first.Process.Pid, syscall.SIGKILL) })
	c.soon("the first pull", func() string {
		slow.mu.Lock()
		defer slow.mu.Unlock()
		if slow.stalls[digest.String()] {
			return "has not asked for the layer"
		}
		// The worker is at it too.
		if staged, _ := filepath.Glob(c.root + "/tmp/layer-*/layer/fs/noise"); staged == nil && os.Geteuid() == 0 {
			return "has not begun to unpack"
		}
		return ""
	})
	syscall.Kill(-first.Process.Pid, syscall.SIGSTOP)

	for _, args := range [][]string{{"run", "--rm", old, "true"}, {"pull", "-q", old}, {"images"}, {"ps"}, {"fsck"}} {
		if status, out := c.ends(t, args); status != 0 {
			t.Errorf("skiff %v: status %d\n%s", args, status, out)
		}
	}

	second := exec.Command("skiff", "pull", ref)
	said, err := second.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Start(); err != nil {
		t.Fatal(err)
	}
	var seen bytes.Buffer
	waits := regexp.MustCompile(`(?m)^skiff: waiting for another skiff: layer [0-9a-f]{12}$`)
	for b := make([]byte, 1024); !waits.Match(seen.Bytes()); {
		n, err := said.Read(b)
		if seen.Write(b[:n]); err != nil {
			t.Fatalf("it does not say what it waits for: %v\n%s", err, &seen)
		}
	}
	second.Process.Signal(syscall.SIGINT)
	io.Copy(&seen, said)
	var exit *exec.ExitError
	if err := second.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 130 || !strings.Contains(seen.String(), "interrupted") {
		t.Errorf("the second pull: %v\n%s", err, &seen)
	}

	server.CloseClientConnections()
	syscall.Kill(-first.Process.Pid, syscall.SIGCONT)
	if err := first.Wait(); err != nil {
		t.Errorf("the first pull: %v\n%s", err, firstOut)
	}
	if status, out := c.ends(t, []string{"run", "--rm", "--pull", "never", ref, "true"}); status != 0 {
		t.Errorf("run: status %d\n%s", status, out)
	}
	c.whole()
}
