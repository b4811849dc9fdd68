package pull

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"

	"skiff/pull/manifest"
	"skiff/pull/store"
)

// childEnv holds "root host reference" for a test binary that is to pull.
const childEnv = "SKIFF_TEST_PULL"

func TestMain(m *testing.M) {
	// No credentials of whoever runs the tests.
	for _, place := range []string{"HOME", "REGISTRY_AUTH_FILE", "DOCKER_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"} {
		os.Setenv(place, "")
	}
	if job := os.Getenv(childEnv); job != "" {
		f := strings.Fields(job)
		s, err := store.Open(f[0])
		if err == nil {
			p := pullerOver(s)
			p.Idle = time.Minute
			var ref Reference
			if ref, err = ParseReference(f[1]); err == nil {
				_, err = p.Ensure(context.Background(), ref, Missing)
			}
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(root string, ref Reference) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+root+" "+ref.String())
	cmd.Stderr = os.Stderr
	return cmd
}

func TestPull(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	l := layerOf(t, "one", 300<<10)
	img := imageOf(t, "amd64", l, layerOf(t, "two", 10), l)
	w.push("a/b:1", img)
	w.on(nil)
	p := newPuller(t)
	ref := w.ref("a/b:1")

	if _, err := p.Ensure(ctx, ref, Never); !errors.As(err, new(*store.AbsentError)) {
		t.Errorf("never: %v", err)
	}
	got, err := p.Ensure(ctx, ref, Missing)
	must(t, err)
	must(t, got.Settle(ctx))
	id, _ := img.ConfigName()
	digest, _ := img.Digest()
	if got.ID != id || got.Digest != digest || got.Manifest != digest || !got.Fresh || len(got.DiffIDs) != 3 || got.Platform() != "linux/amd64" {
		t.Errorf("%+v", got.Image)
	}
	if c := got.Config; c.WorkingDir != "/w" || c.Labels[0].Key != "a" || c.Volumes[0] != "/v" || c.Cmd[0] != "/bin/sh" {
		t.Errorf("%+v", c)
	}
	if n := w.count("/blobs/"); n != 3 { // the config, and two layers of which one stands twice
		t.Errorf("%d blobs asked for: %q", n, w.requests)
	}
	if n := w.count("GET /v2/ "); n != 0 {
		t.Error("an open registry was pinged")
	}
	b, err := os.ReadFile(p.Store.LayerDir(got.DiffIDs[1]) + "/file")
	if err != nil || !strings.HasPrefix(string(b), "two") {
		t.Errorf("%q, %v", b, err)
	}
	for _, h := range []v1.Hash{digest, id} {
		if _, err := p.Store.Blob(h); err != nil {
			t.Errorf("%s is not kept: %v", h, err)
		}
	}
	clean(t, p.Store)

	w.on(nil)
	if got, err := p.Ensure(ctx, ref, Missing); err != nil || got.Fresh || len(w.requests) != 0 {
		t.Errorf("a present image asked for %q, %v", w.requests, err)
	}
	if got, err := p.Ensure(ctx, ref, Always); err != nil || got.Fresh || len(w.requests) != 1 || w.count("HEAD /v2/a/b/manifests/1") != 1 {
		t.Errorf("always, unchanged: %q, %v", w.requests, err)
	}
	byID, err := ParseReference(id.String())
	must(t, err)
	if got, err := p.Ensure(ctx, byID, Missing); err != nil || got.ID != id {
		t.Error(got, err)
	}
	short, err := ParseReference(id.Hex[:12])
	must(t, err)
	if got, err := p.Ensure(ctx, short, Never); err != nil || got.ID != id {
		t.Error(got, err)
	}

	// The tag moves: only what is new is asked for.
	w.push("a/b:1", imageOf(t, "amd64", l, layerOf(t, "three", 10)))
	w.on(nil)
	if got, err := p.Ensure(ctx, ref, Missing); err != nil || got.ID != id {
		t.Error("missing went to the registry:", err)
	}
	got, err = p.Ensure(ctx, ref, Always)
	if err != nil || got.ID == id || w.count("/blobs/") != 2 {
		t.Errorf("%v, %q", err, w.requests)
	}
	// By digest: the tag does not matter, and what is here is never asked for again.
	old := ref
	old.Digest = digest.String()
	if got, err = p.Ensure(ctx, old, Missing); err != nil || got.ID != id {
		t.Error(err)
	}
	w.on(nil)
	if _, err = p.Ensure(ctx, old, Always); err != nil || len(w.requests) != 0 {
		t.Errorf("%v, %q", err, w.requests)
	}
}

func TestNewerFallsBack(t *testing.T) {
	w := newWorld(t)
	w.push("a:1", imageOf(t, "amd64", layerOf(t, "one", 10)))
	p := newPuller(t)
	_, err := p.Ensure(context.Background(), w.ref("a:1"), Newer)
	must(t, err)
	w.on(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool { rw.WriteHeader(403); return true })
	warned := ""
	p.Warn = func(s string) { warned = s }
	if _, err := p.Ensure(context.Background(), w.ref("a:1"), Newer); err != nil || warned == "" {
		t.Error(err, warned)
	}
	if _, err := p.Ensure(context.Background(), w.ref("a:1"), Always); !errors.As(err, new(*UnauthorizedError)) {
		t.Error(err)
	}
}

func TestPlatforms(t *testing.T) {
	ctx := context.Background()
	w := newWorld(t)
	amd, arm := imageOf(t, "amd64", layerOf(t, "amd", 10)), imageOf(t, "arm64", layerOf(t, "arm", 10))
	v3 := imageOf(t, "amd64", layerOf(t, "v3", 10))
	inner := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}})
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: v3, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64", Variant: "v3"}}},
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: inner})
	w.push("multi:1", index)
	w.push("single:1", arm)
	id := func(i v1.Image) v1.Hash { h, err := i.ConfigName(); must(t, err); return h }
	for _, c := range []struct {
		want string
		img  v1.Image
	}{{"linux/amd64", amd}, {"linux/amd64/v2", amd}, {"linux/amd64/v4", v3}, {"linux/arm64", arm}, {"linux/aarch64/v8", arm}} {
		p := newPuller(t)
		platform, err := manifest.ParsePlatform(c.want)
		must(t, err)
		p.Want = manifest.Want{Platform: platform, Asked: true}
		got, err := p.Ensure(ctx, w.ref("multi:1"), Missing)
		if err != nil {
			t.Errorf("%s: %v", c.want, err)
			continue
		}
		digest, _ := index.Digest()
		if got.ID != id(c.img) || got.Digest != digest {
			t.Errorf("%s: another image", c.want)
		}
	}
	p := newPuller(t)
	p.Want = manifest.Want{Platform: manifest.Platform{OS: "linux", Arch: "s390x"}, Asked: true}
	var pe *manifest.PlatformError
	if _, err := p.Ensure(ctx, w.ref("multi:1"), Missing); !errors.As(err, &pe) {
		t.Errorf("s390x: %v", err)
	}
	if _, err := p.Ensure(ctx, w.ref("single:1"), Missing); !errors.As(err, &pe) || len(pe.Have) != 1 || pe.Have[0].Arch != "arm64" {
		t.Errorf("a single manifest of another platform: %v", err)
	}
	p.Want.Asked = false
	warned := ""
	p.Warn = func(s string) { warned = s }
	if _, err := p.Ensure(ctx, w.ref("single:1"), Missing); err != nil || !strings.Contains(warned, "linux/arm64") {
		t.Errorf("not asked for: %v, %q", err, warned)
	}
	// What is here is of another platform than the one asked for.
	p.Want = manifest.Want{Platform: manifest.Platform{OS: "linux", Arch: "amd64"}, Asked: true}
	if _, err := p.Ensure(ctx, w.ref("single:1"), Never); !errors.As(err, new(*store.AbsentError)) {
		t.Error(err)
	}
}

// Ten in one process and ten processes: each blob comes once.
func TestConcurrent(t *testing.T) {
	w := newWorld(t)
	w.push("a:1", imageOf(t, "amd64", layerOf(t, "one", 1<<20), layerOf(t, "two", 100), layerOf(t, "three", 100)))
	// Slow enough that they meet.
	slow := func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			time.Sleep(100 * time.Millisecond)
		}
		return false
	}
	check := func(what string, p *Puller) {
		if n := w.count("/blobs/"); n != 4 {
			t.Errorf("%s: %d blobs asked for, not 4", what, n)
		}
		clean(t, p.Store)
	}
	w.on(slow)
	p := newPuller(t)
	var wg sync.WaitGroup
	for range 10 {
		wg.Go(func() {
			got, err := p.Ensure(context.Background(), w.ref("a:1"), Missing)
			if err == nil {
				err = got.Settle(context.Background())
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	check("goroutines", p)

	w.on(slow)
	p = newPuller(t)
	var cmds []*exec.Cmd
	for range 10 {
		cmd := child(p.Store.Root(), w.ref("a:1"))
		must(t, cmd.Start())
		cmds = append(cmds, cmd)
	}
	for _, cmd := range cmds {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	check("processes", p)
}

// A killed pull leaves garbage, which the next one neither minds nor keeps.
func TestKilled(t *testing.T) {
	w := newWorld(t)
	w.push("a:1", imageOf(t, "amd64", layerOf(t, "small", 10), layerOf(t, "big", 4<<20)))
	hang := make(chan struct{})
	seen := make(chan struct{}, 10)
	w.on(func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			next.ServeHTTP(&cutter{ResponseWriter: rw, left: 1 << 20, then: func() { seen <- struct{}{}; <-hang }}, r)
			return true
		}
		return false
	})
	defer close(hang)
	p := newPuller(t)
	cmd := child(p.Store.Root(), w.ref("a:1"))
	must(t, cmd.Start())
	<-seen
	time.Sleep(50 * time.Millisecond)
	must(t, cmd.Process.Kill())
	cmd.Wait()
	list, err := os.ReadDir(p.Store.Path("tmp"))
	must(t, err)
	if len(list) == 0 {
		t.Fatal("it was killed too late for the test to say anything")
	}
	must(t, p.Store.Sweep(context.Background()))
	clean(t, p.Store)
	w.on(nil)
	_, err = p.Ensure(context.Background(), w.ref("a:1"), Missing)
	must(t, err)
	if n := w.count("/blobs/"); n != 1 {
		t.Errorf("%d blobs asked for: what was finished before the kill is not used", n)
	}
	clean(t, p.Store)
}

func TestInterrupted(t *testing.T) {
	w := newWorld(t)
	w.push("a:1", imageOf(t, "amd64", layerOf(t, "big", 4<<20)))
	hang, seen := make(chan struct{}), make(chan struct{}, 1)
	defer close(hang)
	w.on(func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			next.ServeHTTP(&cutter{ResponseWriter: rw, left: 1 << 20, then: func() { seen <- struct{}{}; <-hang }}, r)
			return true
		}
		return false
	})
	p := newPuller(t)
	stop := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(context.Background())
	go func() { <-seen; cancel(stop) }()
	start := time.Now()
	if _, err := p.Ensure(ctx, w.ref("a:1"), Missing); !errors.Is(err, stop) || time.Since(start) > time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
	clean(t, p.Store)
}

func TestUnpackFails(t *testing.T) {
	w := newWorld(t)
	w.push("a:1", imageOf(t, "amd64", layerOf(t, "one", 10)))
	p := newPuller(t)
	full := &os.PathError{Op: "write", Path: "x", Err: errNoSpace}
	p.Unpacker = plainUnpacker{before: func(dir string) error {
		must(t, os.WriteFile(filepath.Join(dir, "half"), nil, 0o600))
		return full
	}}
	var space *store.SpaceError
	if _, err := p.Ensure(context.Background(), w.ref("a:1"), Missing); !errors.As(err, &space) || space.Free == 0 {
		t.Errorf("%v", err)
	}
	clean(t, p.Store)
}
