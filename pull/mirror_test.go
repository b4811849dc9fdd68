package pull

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// Whatever a mirror does, the image comes, and it is the right one; the user
// is told once why another place was asked.
func TestMirrors(t *testing.T) {
	origin, mirror := newWorld(t), newWorld(t)
	layer := layerOf(t, "one", 5<<20)
	img := imageOf(t, "amd64", layer)
	origin.push("a:1", img)
	origin.push("only-here:1", imageOf(t, "amd64", layerOf(t, "two", 10)))
	mirror.push("sub/a:1", img)
	digest, err := layer.Digest()
	must(t, err)
	isLayer := func(r *http.Request) bool { return isBlob(r) && strings.Contains(r.URL.Path, digest.Hex) }
	answer := func(status int) func(http.ResponseWriter, *http.Request, http.Handler) bool {
		return func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
			rw.WriteHeader(status)
			return true
		}
	}
	for _, c := range []struct {
		name, ref string
		spoil     func(http.ResponseWriter, *http.Request, http.Handler) bool
		warn      string // "" for none
		rest      string // what the origin is asked for, if only for a part of the image
	}{
		{"all is there", "a:1", nil, "", "nothing"},
		{"not there", "only-here:1", nil, "it does not have the image", ""},
		{"closed to us", "a:1", answer(403), "it refuses: status 403", ""},
		{"broken", "a:1", answer(500), "status 500", ""},
		{"busy for an hour", "a:1", func(rw http.ResponseWriter, _ *http.Request, _ http.Handler) bool {
			rw.Header().Set("Retry-After", "3600")
			rw.WriteHeader(429)
			return true
		}, "status 429", ""},
		{"no manifest", "a:1", func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if isManifest(r) {
				fmt.Fprint(rw, "<html>welcome")
			}
			return isManifest(r)
		}, "manifest", ""},
		{"no blobs", "a:1", func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
			if isBlob(r) {
				rw.WriteHeader(404)
			}
			return isBlob(r)
		}, "it does not have the image", "/blobs/"},
		{"a layer breaks off", "a:1", func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if isLayer(r) {
				next.ServeHTTP(&cutter{ResponseWriter: rw, left: 2 << 20}, r)
			}
			return isLayer(r)
		}, "a layer broke off: unexpected EOF", "/blobs/" + digest.String()},
		{"a layer stalls", "a:1", func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if isLayer(r) {
				next.ServeHTTP(&cutter{ResponseWriter: rw, left: 2 << 20, then: func() { <-r.Context().Done() }}, r)
			}
			return isLayer(r)
		}, "a layer broke off: nothing came for too long", "/blobs/" + digest.String()},
		{"a layer of other bytes", "a:1", func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if isLayer(r) {
				next.ServeHTTP(&liar{rw}, r)
			}
			return isLayer(r)
		}, "what it sent is not right", ""},
		{"a config of other bytes", "a:1", func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
			lie := isBlob(r) && !isLayer(r)
			if lie {
				next.ServeHTTP(&liar{rw}, r)
			}
			return lie
		}, "what it sent is not right", ""},
		{"longer", "a:1", func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if isLayer(r) {
				rw.(http.Flusher).Flush()
				next.ServeHTTP(rw, r)
				rw.Write(make([]byte, 1<<10))
			}
			return isLayer(r)
		}, "what it sent is not right", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			mirror.on(c.spoil)
			var start atomic.Pointer[string]
			origin.on(func(_ http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				if isLayer(r) {
					s := r.Header.Get("Range")
					start.Store(&s)
				}
				return false
			})
			p := newPuller(t)
			if strings.Contains(c.name, "stalls") {
				p.Idle = 300 * time.Millisecond
			}
			p.RetryLimit = 50 * time.Millisecond
			p.Reach.Mirrors = []string{origin.host + "=http://" + mirror.host + "/sub"}
			var said []string
			p.Warn = func(s string) { said = append(said, s) }
			if _, err := p.Ensure(context.Background(), origin.ref(c.ref), Always); err != nil {
				t.Fatal(err)
			}
			clean(t, p.Store)
			if c.warn == "" && len(said) != 0 || c.warn != "" && (len(said) != 1 || !strings.Contains(said[0], c.warn) ||
				!strings.HasPrefix(said[0], "mirror "+mirror.host+": ") || !strings.HasSuffix(said[0], "; "+origin.host+" is asked instead")) {
				t.Errorf("said %q", said)
			}
			all, part := origin.count("/"), origin.count(c.rest)
			if c.rest == "nothing" {
				part = 0
			}
			if all != part {
				t.Errorf("the origin had %d requests, %d of them for %s", all, part, c.rest)
			}
			if strings.HasPrefix(c.rest, "/blobs/sha256") {
				if s := start.Load(); s == nil || !strings.HasPrefix(*s, "bytes=") || strings.HasPrefix(*s, "bytes=0-") {
					t.Errorf("the origin was asked for %v", s)
				}
			}
		})
	}
}

// A liar changes the last byte of what it sends.
type liar struct{ http.ResponseWriter }

func (l *liar) Write(p []byte) (int, error) {
	b := bytes.Clone(p)
	b[len(b)-1] ^= 1
	return l.ResponseWriter.Write(b)
}

func TestMirrorIsDown(t *testing.T) {
	origin, down := newWorld(t), newWorld(t)
	origin.push("a:1", imageOf(t, "amd64", layerOf(t, "one", 10)))
	down.server.Close()
	p := newPuller(t)
	p.Reach.Mirrors = []string{origin.host + "=http://" + down.host}
	var said []string
	p.Warn = func(s string) { said = append(said, s) }
	_, err := p.Ensure(context.Background(), origin.ref("a:1"), Always)
	if err != nil || len(said) != 1 || said[0] != "mirror "+down.host+": nobody listens there; "+origin.host+" is asked instead" {
		t.Errorf("%v, %q", err, said)
	}
	// What the registry says is what counts in the end.
	if _, err := p.Ensure(context.Background(), origin.ref("b:1"), Always); !errors.As(err, new(*UnknownImageError)) {
		t.Errorf("%v", err)
	}
}

// A mirror that has another image for a digest is passed over.
func TestMirrorLiesAboutADigest(t *testing.T) {
	origin, mirror := newWorld(t), newWorld(t)
	img := imageOf(t, "amd64", layerOf(t, "one", 10))
	origin.push("a:1", img)
	mirror.push("a:1", imageOf(t, "amd64", layerOf(t, "evil", 10)))
	digest, err := img.Digest()
	must(t, err)
	mirror.on(func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if isManifest(r) {
			r.URL.Path = "/v2/a/manifests/1"
			next.ServeHTTP(rw, r)
		}
		return isManifest(r)
	})
	p := newPuller(t)
	p.Reach.Mirrors = []string{origin.host + "=http://" + mirror.host}
	got, err := p.Ensure(context.Background(), origin.ref("a@"+digest.String()), Missing)
	must(t, err)
	if got.Digest != digest {
		t.Errorf("%s", got.Digest)
	}
}

// A mirror sees the credentials that are stored for it, and no others.
func TestMirrorCredentials(t *testing.T) {
	origin, mirror := newWorld(t), newWorld(t)
	img := imageOf(t, "amd64", layerOf(t, "one", 10))
	origin.push("a:1", img)
	mirror.push("a:1", img)
	home := t.TempDir()
	t.Setenv("DOCKER_CONFIG", home)
	for _, c := range []struct {
		name, stored string // whose credentials
		flag         *Login
		want         string // what the mirror must be sent, or ""
		open         bool   // the mirror asks for no login
	}{
		{"the origin's", origin.host, nil, "", false},
		{"the mirror's", mirror.host, nil, "me:secret", false},
		{"for this once", "", &Login{"me", "secret"}, "", false},
		{"for this once, and the mirror is open", "", &Login{"me", "secret"}, "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			must(t, os.RemoveAll(home+"/config.json"))
			if c.stored != "" {
				must(t, writeAuth(home, c.stored, "me", "secret"))
			}
			var sent atomic.Pointer[string]
			mirror.on(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
				a := r.Header.Get("Authorization")
				if a != "" {
					b, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(a, "Basic "))
					s := string(b)
					sent.Store(&s)
				} else if !c.open {
					rw.Header().Set("WWW-Authenticate", `Basic realm="x"`)
					rw.WriteHeader(401)
					return true
				}
				return false
			})
			p := newPuller(t)
			p.Reach.Mirrors = []string{origin.host + "=http://" + mirror.host}
			p.Reach.Login = c.flag
			_, err := p.Ensure(context.Background(), origin.ref("a:1"), Missing)
			must(t, err)
			if s := sent.Load(); c.want == "" && s != nil || c.want != "" && (s == nil || *s != c.want) {
				t.Errorf("the mirror was sent %v", s)
			}
		})
	}
}
