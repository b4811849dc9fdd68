package pull

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/pull/manifest"
)

// SECURITY case 69: all layers find at once that the token has expired, and one
// new one is asked for.
func TestTokenExpires(t *testing.T) {
	w := newWorld(t)
	const n = 6
	img := imageOf(t, "amd64", layerOf(t, "0", 1<<10), layerOf(t, "1", 1<<10), layerOf(t, "2", 1<<10), layerOf(t, "3", 1<<10), layerOf(t, "4", 1<<10), layerOf(t, "5", 1<<10))
	w.push("a:1", img)
	var mu sync.Mutex
	given, waiting, refused := 0, 0, 0
	all := make(chan struct{})
	w.on(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if r.URL.Path == "/token" {
			mu.Lock()
			given++
			json.NewEncoder(rw).Encode(map[string]any{"token": fmt.Sprint("t", given), "expires_in": 60})
			mu.Unlock()
			return true
		}
		auth := r.Header.Get("Authorization")
		challenge := func() bool {
			rw.Header().Set("WWW-Authenticate", `Bearer realm="http://`+w.host+`/token",service="s"`)
			rw.WriteHeader(401)
			return true
		}
		if auth == "" {
			return challenge()
		}
		config, _ := img.ConfigName()
		if auth == "Bearer t1" && isBlob(r) && !strings.Contains(r.URL.Path, config.Hex) {
			mu.Lock()
			refused++
			if waiting++; waiting == n {
				close(all)
			}
			mu.Unlock()
			<-all // each has been sent with the old token
			return challenge()
		}
		return false
	})
	p := newPuller(t)
	p.Parallel = n
	if _, err := p.Ensure(context.Background(), w.ref("a:1"), Missing); err != nil {
		t.Fatal(err)
	}
	if given != 2 || refused != n {
		t.Errorf("%d tokens were asked for, and %d requests refused", given, refused)
	}
}

// SECURITY cases 58, 62, 65, 67, 68, 69 and 70: more that a registry may do.
func TestWire(t *testing.T) {
	w := newWorld(t)
	img := imageOf(t, "amd64", layerOf(t, "one", 64<<10))
	other := imageOf(t, "amd64", layerOf(t, "two", 64<<10))
	w.push("a:1", img)
	w.push("a:2", other)
	layers, err := img.Layers()
	must(t, err)
	layer, err := layers[0].Digest()
	must(t, err)
	body, err := layers[0].Compressed()
	must(t, err)
	good, err := io.ReadAll(body)
	must(t, err)
	otherDigest, err := other.Digest()
	must(t, err)
	isLayer := func(r *http.Request) bool { return isBlob(r) && strings.Contains(r.URL.Path, layer.Hex) }
	var n atomic.Int32
	is := func(target any) func(error) bool { return func(err error) bool { return errors.As(err, target) } }
	challenge := func(value string) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
			rw.Header().Set("WWW-Authenticate", value)
			rw.WriteHeader(401)
			return true
		}
	}
	failed := func(err error) bool { return err != nil }
	for _, c := range []struct {
		name  string
		spoil func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool
		want  func(error) bool // nil: succeeds
	}{
		{"503 for ever", func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
			rw.WriteHeader(503)
			return true
		}, func(err error) bool {
			var b *BusyError
			return errors.As(err, &b) && b.Status == 503
		}},
		{"429 until a date far off", func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
			rw.Header().Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
			rw.WriteHeader(429)
			return true
		}, func(err error) bool {
			var b *BusyError
			return errors.As(err, &b) && b.After > 59*time.Minute
		}},
		{"drops that come for longer than the idle time", func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if isLayer(r) {
				rw.Header().Set("Content-Length", fmt.Sprint(len(good)))
				for i := range 8 {
					rw.Write(good[i*len(good)/8 : (i+1)*len(good)/8])
					rw.(http.Flusher).Flush()
					time.Sleep(60 * time.Millisecond)
				}
			}
			return isLayer(r)
		}, nil},
		{"an endless layer", func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if isLayer(r) {
				rw.(http.Flusher).Flush()
				rw.Write(good)
				for chunk := make([]byte, 64<<10); ; {
					if _, err := rw.Write(chunk); err != nil {
						return true
					}
				}
			}
			return false
		}, failed},
		{"a Content-Encoding that is none", func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if isLayer(r) {
				rw.Header().Set("Content-Encoding", "gzip")
				rw.Write(good)
			}
			return isLayer(r)
		}, nil},
		{"a Content-Encoding that is one", func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if isLayer(r) {
				rw.Header().Set("Content-Encoding", "gzip")
				var b bytes.Buffer
				z := gzip.NewWriter(&b)
				z.Write(good)
				z.Close()
				rw.Write(b.Bytes())
			}
			return isLayer(r)
		}, failed},
		{"a challenge of nothing", challenge(""), is(new(*UnauthorizedError))},
		{"a challenge without a realm", challenge("Bearer"), failed},
		{"a challenge that is cut", challenge(`Bearer realm="http://`), failed},
		{"a challenge of another kind", challenge(`Negotiate`), failed},
		{"a realm that is no URL", challenge(`Bearer realm="::::"`), failed},
		{"a realm on this machine's other port", challenge(`Bearer realm="http://10.0.0.1/token"`), failed},
		{"a token that is none", func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if r.URL.Path == "/token" {
				io.WriteString(rw, "<html>")
				return true
			}
			return challenge(`Bearer realm="http://`+w.host+`/token"`)(rw, r, nil)
		}, failed},
		{"a token that never will do", func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if r.URL.Path == "/token" {
				io.WriteString(rw, `{"token":"x"}`)
				return true
			}
			return challenge(`Bearer realm="http://`+w.host+`/token"`)(rw, r, nil)
		}, is(new(*UnauthorizedError))},
		{"the tag turns to another image between HEAD and GET", func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if r.Method == "HEAD" || strings.HasSuffix(r.URL.Path, "/manifests/1") && n.Add(1) > 1 {
				return false
			}
			if isManifest(r) {
				r.URL.Path = "/v2/a/manifests/2"
				next.ServeHTTP(rw, r)
				return true
			}
			return false
		}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.Store(0)
			w.on(c.spoil)
			p := newPuller(t)
			if strings.HasPrefix(c.name, "drops") {
				p.Idle = 300 * time.Millisecond
			}
			p.RetryLimit = 50 * time.Millisecond
			img, err := p.Ensure(context.Background(), w.ref("a:1"), Always)
			if c.want == nil && err != nil || c.want != nil && !c.want(err) {
				t.Errorf("%T: %v", err, err)
			}
			if err == nil && strings.HasPrefix(c.name, "the tag") && img.Digest != otherDigest {
				t.Errorf("%s is neither image", img.Digest)
			}
			if err != nil && (strings.Contains(err.Error(), "<html>") || errors.As(err, new(*manifest.PlatformError))) {
				t.Errorf("%v", err)
			}
			clean(t, p.Store)
		})
	}
}

// SECURITY case 71: a layer that an image has two hundred times is brought here once.
func TestEqualLayers(t *testing.T) {
	w := newWorld(t)
	layer := layerOf(t, "one", 10)
	var all []v1.Layer
	for range 200 {
		all = append(all, layer)
	}
	w.push("a:1", imageOf(t, "amd64", all...))
	w.on(nil)
	img, err := newPuller(t).Ensure(context.Background(), w.ref("a:1"), Missing)
	must(t, err)
	digest, err := layer.Digest()
	must(t, err)
	if n := w.count("GET /v2/a/blobs/" + digest.String()); n != 1 || len(img.DiffIDs) != 200 {
		t.Errorf("%d requests, %d layers", n, len(img.DiffIDs))
	}
}
