package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
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
// SECURITY.md, as a user would. What becomes of each layer is tested in package
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
			if h.Number != 55 { // which is about entrypoints
				args = append(args, "--entrypoint", "/busybox")
			}
			args = append(args, ref, "sh", "-c",
				"/busybox stat -f -c 'proc %t' /proc; /busybox stat -c 'null %t:%T' /dev/null; /busybox test -e "+images.Outside+"/secret && echo outside; /busybox true")
			status, out := c.ends(t, args)
			// Several cases pack the same archive in different ways.
			c.ends(t, []string{"rmi", ref})
			refused := h.Refused && !(h.NeedsIDs && ids.Kind == idmap.Single)
			switch {
			case refused && (status != 125 || !strings.Contains(out, h.Word)):
				t.Errorf("status %d, want 125 and %q\n%s", status, h.Word, out)
			case !refused && h.Number < 52 && status != 0:
				t.Errorf("status %d\n%s", status, out)
			case h.Number == 55 && strings.HasPrefix(h.Name, "entrypoint") && status != 126 && status != 127:
				t.Errorf("status %d, want 126 or 127\n%s", status, out)
			case h.Number == 56 && !strings.HasPrefix(h.Name, "passwd") && status != 126:
				t.Errorf("status %d, want 126\n%s", status, out)
			case status == 0 && h.Number != 55 && out != "proc 9fa0\nnull 1:3\n":
				t.Errorf("the container sees\n%s", out)
			case status != 0 && status != 125 && status != 126 && status != 127:
				t.Errorf("status %d\n%s", status, out)
			case status != 0 && !strings.HasPrefix(out, "skiff: ") && h.Number != 55:
				t.Errorf("status %d without a message\n%s", status, out)
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
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &b, &b, time.Second
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
