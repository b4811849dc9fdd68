package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"skiff/internal/idmap"
	images "skiff/testdata/image"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// TestHostileImages pulls and runs every image of the catalogue, cases 1 to 56 of
// SECURITY.md, as a user would: 44 has TestBrokenLayerBesideOthers, and 32 TestHostileNames. What becomes of each layer is tested in package
// layers; here, that skiff ends in time with a message and a status, that a
// container that starts is one, and that nothing outside is touched.
func TestHostileImages(t *testing.T) {
	c := newCrew(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	program, err := os.ReadFile(busybox)
	if err != nil {
		t.Fatal(err)
	}
	self, err := exec.LookPath("skiff")
	if err != nil {
		t.Fatal(err)
	}
	executable, untouched := stamp(t, self), aim(t)
	ids, _ := idmap.Choose()
	for i, h := range images.Hostile() {
		if h.MaxBytes > 0 {
			continue // a bomb, which only a quota stops
		}
		t.Run(fmt.Sprintf("%02d-%s", h.Number, h.Name), func(t *testing.T) {
			ref := fmt.Sprintf("%s/hostile:%d", strings.TrimPrefix(server.URL, "http://"), i)
			layers := append(h.Layers[:len(h.Layers):len(h.Layers)], images.L(images.File("busybox", string(program)).WithMode(0o755)))
			put(t, ref, h.Config, layers)
			args := []string{"run", "--rm", "--quiet", "--network", "none"}
			status, out := c.ends(t, append(args, probed(&h, ref)...))
			// Several cases pack the same archive in different ways.
			c.ends(t, []string{"rmi", ref})
			want, says := 0, seen
			switch squashed := h.NeedsIDs && ids.Kind == idmap.Single; {
			case h.Refused && !squashed:
				want, says = 125, ".*"+regexp.QuoteMeta(h.Word)+".*"
			case h.Run != nil:
				want, says = h.Run.Status, h.Run.Says
				if ids.Kind == idmap.Single && h.Run.Single != "" {
					want, says = 126, h.Run.Single
				} else if want == 0 && !h.Run.Own {
					says = seen + "\n" + says
				}
			}
			if want >= 125 && !strings.HasPrefix(says, "skiff: ") {
				says = "skiff: run " + regexp.QuoteMeta(ref) + ": (" + says + ")"
			}
			hint := ".*"
			if h.Hint != "" {
				hint += regexp.QuoteMeta(h.Hint) + ".*"
			}
			m := regexp.MustCompile(`^(?:` + says + `)\n(skiff: hint: ` + hint + `\n)?$`).FindStringSubmatch(out)
			if status != want || m == nil || want == 125 && h.Hint != "" && m[len(m)-1] == "" {
				t.Errorf("status %d, want %d; says %q, want %q", status, want, abridged(out), abridged(says))
			}
			if strings.ContainsAny(out, "\x1b\x00") || strings.HasPrefix(out, "skiff: ") && forged(out) {
				t.Errorf("not escaped: %q", out)
			}
		})
	}
	// The next run removes what the images left.
	fine := strings.TrimPrefix(server.URL, "http://") + "/fine:1"
	put(t, fine, nil, []images.Layer{images.L(images.File("busybox", string(program)).WithMode(0o755))})
	if status, out := c.ends(t, []string{"run", "--rm", "--quiet", "--network", "none", fine, "/busybox", "true"}); status != 0 {
		t.Errorf("the run after them: status %d\n%s", status, out)
	}
	if now := stamp(t, self); now != executable {
		t.Errorf("skiff's executable is another: %s, was %s", now, executable)
	}
	untouched()
	for _, room := range []string{"containers", "tmp"} {
		for left := range names(c.root + "/" + room) {
			t.Errorf("left in %s: %s", room, left)
		}
	}
}

// TestHostileNames is case 32: what is no name is refused by its syntax, before
// anything is looked up, made or asked for.
func TestHostileNames(t *testing.T) {
	c := newCrew(t)
	long := strings.Repeat("a", 4096)
	before := tree(t, c.root)
	for _, name := range []string{
		"..", "../x", "a/../b", "/x", "a//b", "./x", "x/", "x/..", "localhost/../x", "../x:tag", "x:../y", "x:a/b", "x:-y", "x:", "x:" + long,
		long, "localhost/" + long, "-x", "a/-x", "x@sha256:../../etc/passwd", "x@sha256:" + long, "x@../y", "X", "x\ny", "x\x1b[31m", "x y", "x?y", "x%2e%2e", "é", "x\xff",
	} {
		for _, verb := range []string{"run", "pull"} {
			status, out := c.ends(t, []string{verb, "--", name})
			if status != 125 || !strings.Contains(out, "reference ") || raw(out) || forged(out) || len(out) > 8192 {
				t.Errorf("%s %.40q: status %d, %q", verb, name, status, abridged(out))
			}
		}
		if status, out := c.ends(t, []string{"rmi", "--", name}); status == 0 || raw(out) || forged(out) {
			t.Errorf("rmi %.40q: status %d, %q", name, status, abridged(out))
		}
	}
	for _, name := range []string{"..", ".", "a/b", "/x", "../x", "-x", "--", ".names", "_x", "x\ny", "x\x1b", "x y", "é", "x", "", "a\xff", long, strings.Repeat("a", 129)} {
		status, out := c.ends(t, []string{"run", "--name=" + name, "builtin:hello"})
		if status != 125 || !strings.Contains(out, "a name is a letter or digit") || raw(out) || forged(out) || len(out) > 8192 {
			t.Errorf("--name=%.40q: status %d, %q", name, status, abridged(out))
		}
		for i, args := range [][]string{{"rm", "-f", "--", name}, {"rm", "--", name}} {
			if status, out := c.ends(t, args); i > 0 && status == 0 || raw(out) || forged(out) {
				t.Errorf("%.40q: status %d, %q", args, status, abridged(out))
			}
		}
	}
	if after := tree(t, c.root); after != before {
		t.Errorf("the store holds\n%s\nand held\n%s", after, before)
	}
}

// tree lists what is below a directory.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		fmt.Fprintln(&b, path)
		return nil
	})
	return b.String()
}

// TestBrokenLayerBesideOthers is case 44: a layer that cannot be decompressed
// stops its own image, and nobody who pulls at the same time, the same layer even,
// waits for it (CVE-2021-20291).
func TestBrokenLayerBesideOthers(t *testing.T) {
	c := newCrew(t)
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	shared := images.Many(2000)
	own := func(i int) images.Layer { return images.L(images.File("own", fmt.Sprint(i))) }
	for i, harm := range []func(gz []byte){
		func(gz []byte) { clear(gz[len(gz)/2:]) },
		func(gz []byte) { gz[len(gz)-8]++ }, // the sum at the end
	} {
		broken := images.ManyOf(3000, 100+i)
		broken.Packing = images.Gzip
		gz := broken.Bytes()
		harm(gz)
		broken.Blob = func(w io.Writer) error { _, err := w.Write(gz); return err }
		put(t, fmt.Sprintf("%s/broken:%d", host, i), nil, []images.Layer{shared, broken, own(-1)})
	}
	const good = 4
	for i := range good {
		put(t, fmt.Sprintf("%s/good:%d", host, i), nil, []images.Layer{shared, own(i)})
	}
	var refs []string
	for i := range good {
		refs = append(refs, fmt.Sprintf("%s/good:%d", host, i), fmt.Sprintf("%s/broken:%d", host, i%2))
	}
	var all sync.WaitGroup
	for _, ref := range refs {
		all.Go(func() {
			status, out := c.ends(t, []string{"pull", "--quiet", ref})
			switch {
			case strings.Contains(ref, "/good:") && status != 0:
				t.Errorf("%s: status %d, %s", ref, status, out)
			case strings.Contains(ref, "/broken:") && (status != 125 || !strings.Contains(out, "malformed layer") || forged(out)):
				t.Errorf("%s: status %d, %s", ref, status, out)
			}
		})
	}
	all.Wait()
	if _, out := c.ends(t, []string{"images"}); strings.Count(out, "good") != good || strings.Contains(out, "broken") {
		t.Errorf("the images are\n%s", out)
	}
	for left := range names(c.root + "/tmp") {
		t.Errorf("left in tmp: %s", left)
	}
}

// seen is what every container prints, and look what makes it do so: /proc and
// /dev/null are the kernel's, and what hostile images aim at is not there.
const (
	seen = "proc 9fa0\nnull 1:3"
	look = "stat -f -c 'proc %t' /proc; stat -c 'null %t:%T' /dev/null; test -e $OUTSIDE/secret && echo outside\n"
)

// probed are the image and what to run in it.
func probed(h *images.Case, ref string) []string {
	if h.Run != nil && h.Run.Own {
		return []string{ref}
	}
	probe := look
	if h.Run != nil {
		probe += h.Run.Probe
	}
	return []string{"--entrypoint", "/busybox", ref, "sh", "-c", strings.ReplaceAll(probe, "$OUTSIDE", images.Outside) + "\ntrue"}
}

func abridged(s string) string {
	if len(s) > 1000 {
		return s[:500] + " … " + s[len(s)-500:]
	}
	return s
}

// raw reports whether a message has bytes in it that a terminal acts on or that are no text.
func raw(s string) bool { return strings.IndexByte(s, 0x1b) >= 0 || strings.IndexByte(s, 0xff) >= 0 }

// forged reports whether a message has lines that are not skiff's.
func forged(message string) bool {
	for line := range strings.Lines(message) {
		if !strings.HasPrefix(line, "skiff: ") {
			return true
		}
	}
	return false
}

// put pushes an image.
func put(t *testing.T, ref string, config func(*v1.ConfigFile), layers []images.Layer) {
	t.Helper()
	img, err := images.New(config, layers...)
	if err != nil {
		t.Fatal(err)
	}
	r, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(r, img); err != nil {
		t.Fatal(err)
	}
}

// ends runs skiff, which must not hang.
func (c *crew) ends(t *testing.T, args []string) (status int, out string) {
	t.Helper()
	ctx, stop := context.WithTimeout(context.Background(), time.Minute)
	defer stop()
	var b bytes.Buffer
	cmd := exec.CommandContext(ctx, "skiff", args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &b, &b, 10*time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		t.Fatalf("%v\n%s", err, &b)
	}
	return cmd.ProcessState.ExitCode(), b.String()
}

// stamp tells one state of a file from another.
func stamp(t *testing.T, path string) string {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(st.Size(), st.Mode(), st.ModTime())
}

// aim makes the directory that hostile images aim at, and returns what looks
// whether it is as it was.
func aim(t *testing.T) (untouched func()) {
	t.Helper()
	secret := images.Outside + "/secret"
	if err := errors.Join(os.Mkdir(images.Outside, 0o755), os.WriteFile(secret, []byte("secret"), 0o644)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(images.Outside) })
	before := stamp(t, images.Outside) + stamp(t, secret)
	return func() {
		text, err := os.ReadFile(secret)
		if err != nil || string(text) != "secret" || stamp(t, images.Outside)+stamp(t, secret) != before {
			t.Errorf("%s was changed", images.Outside)
		}
	}
}
