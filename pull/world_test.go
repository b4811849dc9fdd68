package pull

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/klauspost/compress/zstd"

	"skiff/pull/manifest"
	"skiff/pull/store"
)

// OpenRegistry is registry.Open. A package that imports this one cannot be
// imported by its inner tests; registry_test.go sets it from outside.
var OpenRegistry Opener

// A world is a registry on loopback whose answers a test may spoil.
type world struct {
	t      testing.TB
	host   string
	server *httptest.Server

	mu       sync.Mutex
	requests []string // "GET /v2/…", pushes aside
	spoil    func(w http.ResponseWriter, r *http.Request, next http.Handler) bool
}

func newWorld(t testing.TB) *world {
	w := &world{t: t}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		w.mu.Lock()
		spoil := w.spoil
		if r.Method == "GET" || r.Method == "HEAD" {
			w.requests = append(w.requests, r.Method+" "+r.URL.Path)
		}
		w.mu.Unlock()
		if spoil != nil && spoil(rw, r, inner) {
			return
		}
		inner.ServeHTTP(rw, r)
	}))
	t.Cleanup(s.Close)
	w.host, w.server = strings.TrimPrefix(s.URL, "http://"), s
	return w
}

// on sets the fault, and forgets the requests so far.
func (w *world) on(f func(w http.ResponseWriter, r *http.Request, next http.Handler) bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.spoil, w.requests = f, nil
}

func (w *world) count(part string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for _, r := range w.requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

func (w *world) ref(s string) Reference {
	w.t.Helper()
	r, err := ParseReference(w.host + "/" + s)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// push puts an image or an index there.
func (w *world) push(s string, what any) {
	w.t.Helper()
	tag, err := name.NewTag(w.host + "/" + s)
	if err != nil {
		w.t.Fatal(err)
	}
	switch what := what.(type) {
	case v1.Image:
		err = remote.Write(tag, what)
	case v1.ImageIndex:
		err = remote.WriteIndex(tag, what)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

// raw puts a manifest of any kind there, without looking at it.
func (w *world) raw(s, mediaType, body string) {
	w.t.Helper()
	repo, tag, _ := strings.Cut(s, ":")
	req, err := http.NewRequest("PUT", "http://"+w.host+"/v2/"+repo+"/manifests/"+tag, strings.NewReader(body))
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("Content-Type", mediaType)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		w.t.Fatal(err)
	}
	res.Body.Close()
}

// layerOf is a gzip layer of one file that holds text and then noise of n bytes.
func layerOf(t testing.TB, text string, n int) v1.Layer {
	t.Helper()
	var b bytes.Buffer
	tw := tar.NewWriter(&b)
	noise := make([]byte, n)
	seed := sha256.Sum256([]byte(text))
	for i := 0; i < n; i += len(seed) {
		copy(noise[i:], seed[:])
		seed = sha256.Sum256(seed[:])
	}
	content := append([]byte(text), noise...)
	must(t, tw.WriteHeader(&tar.Header{Name: "file", Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}))
	_, err := tw.Write(content)
	must(t, err)
	must(t, tw.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	must(t, err)
	return l
}

func imageOf(t testing.TB, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	i, err := mutate.AppendLayers(empty.Image, layers...)
	must(t, err)
	i, err = mutate.ConfigFile(i, func() *v1.ConfigFile {
		c, err := i.ConfigFile()
		must(t, err)
		c = c.DeepCopy()
		c.OS, c.Architecture = "linux", arch
		c.Config = v1.Config{Env: []string{"A=b"}, Cmd: []string{"/bin/sh"}, WorkingDir: "/w", Labels: map[string]string{"z": "1", "a": "2"}, Volumes: map[string]struct{}{"/v": {}}}
		return c
	}())
	must(t, err)
	return i
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// plainUnpacker writes the files of an archive that no stranger made.
type plainUnpacker struct {
	before func(dir string) error
}

func (u plainUnpacker) Unpack(ctx context.Context, dir string, c Compression, r io.Reader) (Result, error) {
	if u.before != nil {
		if err := u.before(dir); err != nil {
			return Result{}, err
		}
	}
	switch c {
	case Gzip:
		z, err := gzip.NewReader(r)
		if err != nil {
			return Result{}, err
		}
		r = z
	case Zstd:
		z, err := zstd.NewReader(r)
		if err != nil {
			return Result{}, err
		}
		defer z.Close()
		r = z
	}
	h := sha256.New()
	n := new(counter)
	r = io.TeeReader(r, io.MultiWriter(h, n))
	res := Result{}
	for tr := tar.NewReader(r); ; res.Entries++ {
		hd, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return res, err
		}
		f, err := os.Create(filepath.Join(dir, filepath.Base(hd.Name)))
		if err != nil {
			return res, err
		}
		_, err = io.Copy(f, tr)
		f.Close()
		if err != nil {
			return res, err
		}
	}
	if _, err := io.Copy(io.Discard, r); err != nil {
		return res, err
	}
	res.DiffID = v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", h.Sum(nil))}
	res.Size = int64(*n)
	return res, ctx.Err()
}

type counter int64

func (c *counter) Write(p []byte) (int, error) { *c += counter(len(p)); return len(p), nil }

// newPuller has a store of its own, no credentials, and little patience.
func newPuller(t testing.TB) *Puller {
	t.Helper()
	s, err := store.Open(filepath.Join(t.TempDir(), "store"))
	must(t, err)
	t.Cleanup(func() { s.Close() })
	return pullerOver(s)
}

func pullerOver(s *store.Store) *Puller {
	return &Puller{
		Store: s, Unpacker: plainUnpacker{}, Want: manifest.Want{Platform: manifest.Platform{OS: "linux", Arch: "amd64"}},
		Open: OpenRegistry,
		Idle: 2 * time.Second, RetryFirst: time.Millisecond, RetryLimit: 2 * time.Second,
	}
}

// clean says that nothing is left in a store's tmp.
func clean(t testing.TB, s *store.Store) {
	t.Helper()
	list, err := os.ReadDir(s.Path("tmp"))
	if err != nil && !os.IsNotExist(err) {
		t.Error(err)
	}
	for _, e := range list {
		t.Errorf("left in tmp: %s", e.Name())
	}
}
