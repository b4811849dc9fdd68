package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/rogpeppe/go-internal/testscript"
)

type registryKey struct{}

// A slowRegistry is go-containerregistry's, but sends only half of some blobs
// when it is asked for them first.
type slowRegistry struct {
	http.Handler
	mu     sync.Mutex
	stalls map[string]bool // digests
}

// newRegistry serves until the script ends, and returns its host and port.
func newRegistry(e *testscript.Env) string {
	r := &slowRegistry{Handler: registry.New(registry.Logger(log.New(io.Discard, "", 0))), stalls: map[string]bool{}}
	e.Values[registryKey{}] = r
	s := httptest.NewServer(r)
	e.Defer(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return strings.TrimPrefix(s.URL, "http://")
}

func (r *slowRegistry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	digest := path.Base(q.URL.Path)
	r.mu.Lock()
	stall := q.Method == "GET" && r.stalls[digest]
	if stall {
		delete(r.stalls, digest)
	}
	r.mu.Unlock()
	if !stall {
		r.Handler.ServeHTTP(w, q)
		return
	}
	whole := httptest.NewRecorder()
	r.Handler.ServeHTTP(whole, q)
	w.Header().Set("Content-Length", strconv.Itoa(whole.Body.Len()))
	w.Write(whole.Body.Bytes()[:whole.Body.Len()/2])
	w.(http.Flusher).Flush()
	<-q.Context().Done()
}

// push NAME [KEY=VALUE...] puts an image into $REGISTRY: busybox, and one layer
// for each KEY.
//
//	noise=BYTES  a file that does not compress
//	zeros=BYTES  a file that does
//	files=N      empty files
//	dirs=N       directories, each with a file, and then another one in each
//	uid=N        an empty file of that owner
//	closed=N     a directory that only that owner may enter
//	arch=ARCH    what the image says it is for
//	stall=yes    the layer before it comes half, then nothing, the first time
func pushImage(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: push NAME [KEY=VALUE...]")
	}
	program, err := os.ReadFile(busybox)
	ts.Check(err)
	layers := []v1.Layer{archive(ts, &tar.Header{Name: "bin/busybox", Mode: 0o755, Size: int64(len(program))}, bytes.NewReader(program))}
	arch := runtime.GOARCH
	for _, a := range args[1:] {
		key, value, _ := strings.Cut(a, "=")
		n, _ := strconv.ParseInt(value, 10, 64)
		switch key {
		case "noise":
			layers = append(layers, archive(ts, &tar.Header{Name: "noise", Mode: 0o644, Size: n}, &noise{}))
		case "zeros":
			layers = append(layers, archive(ts, &tar.Header{Name: "zeros", Mode: 0o644, Size: n}, zeros{}))
		case "files":
			layers = append(layers, archived(ts, func(w *tar.Writer) {
				for i := range n {
					ts.Check(w.WriteHeader(&tar.Header{Name: fmt.Sprintf("files/%d", i), Mode: 0o644}))
				}
			}))
		case "dirs":
			layers = append(layers, archived(ts, func(w *tar.Writer) {
				for _, file := range []string{"a", "b"} {
					for i := range n {
						ts.Check(w.WriteHeader(&tar.Header{Name: fmt.Sprintf("dirs/%d/%s", i, file), Mode: 0o644}))
					}
				}
			}))
		case "uid":
			layers = append(layers, archive(ts, &tar.Header{Name: "owned", Mode: 0o644, Uid: int(n)}, zeros{}))
		case "closed":
			layers = append(layers,
				archive(ts, &tar.Header{Name: "closed/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: int(n)}, zeros{}),
				archive(ts, &tar.Header{Name: "closed/file", Mode: 0o600, Uid: int(n), Size: 5000}, zeros{}))
		case "arch":
			arch = value
		case "stall":
			digest, err := layers[len(layers)-1].Digest()
			ts.Check(err)
			r := ts.Value(registryKey{}).(*slowRegistry)
			r.mu.Lock()
			r.stalls[digest.String()] = true
			r.mu.Unlock()
		default:
			ts.Fatalf("push: unknown key %q", key)
		}
	}
	img, err := mutate.AppendLayers(empty.Image, layers...)
	ts.Check(err)
	config, err := img.ConfigFile()
	ts.Check(err)
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	config.Config = v1.Config{Env: []string{"PATH=/bin"}, Entrypoint: []string{"busybox"}, Cmd: []string{"true"}}
	img, err = mutate.ConfigFile(img, config)
	ts.Check(err)
	tag, err := name.NewTag(ts.Getenv("REGISTRY") + "/" + args[0])
	ts.Check(err)
	ts.Check(remote.Write(tag, img))
}

// archive is a layer of one file, packed as it is asked for.
func archive(ts *testscript.TestScript, h *tar.Header, content io.Reader) v1.Layer {
	return archived(ts, func(w *tar.Writer) {
		ts.Check(w.WriteHeader(h))
		_, err := io.CopyN(w, content, h.Size)
		ts.Check(err)
	})
}

// archived is a layer of what write puts into its archive.
func archived(ts *testscript.TestScript, write func(*tar.Writer)) v1.Layer {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	write(w)
	ts.Check(w.Close())
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil })
	ts.Check(err)
	return l
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// noise is the same each time.
type noise struct{ last [sha256.Size]byte }

func (n *noise) Read(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		n.last = sha256.Sum256(n.last[:])
		done += copy(p[done:], n.last[:])
	}
	return done, nil
}
