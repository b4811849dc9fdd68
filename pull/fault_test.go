package pull

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/pull/manifest"
	"skiff/pull/transfer"
)

const errNoSpace = syscall.ENOSPC

// A cutter lets some bytes of a body through and then does something, or
// breaks the connection.
type cutter struct {
	http.ResponseWriter
	left int
	then func()
}

func (c *cutter) Write(p []byte) (int, error) {
	if c.left >= len(p) {
		c.left -= len(p)
		return c.ResponseWriter.Write(p)
	}
	c.ResponseWriter.Write(p[:c.left])
	if c.then == nil {
		panic(http.ErrAbortHandler)
	}
	if f, ok := c.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
	c.then()
	panic(http.ErrAbortHandler)
}

func isBlob(r *http.Request) bool {
	return r.Method == "GET" && strings.Contains(r.URL.Path, "/blobs/")
}

func isManifest(r *http.Request) bool {
	return r.Method == "GET" && strings.Contains(r.URL.Path, "/manifests/")
}

// SECURITY case 64.
func TestResume(t *testing.T) {
	w := newWorld(t)
	img := imageOf(t, "amd64", layerOf(t, "big", 5<<20))
	w.push("a:1", img)
	config, err := img.ConfigName()
	must(t, err)
	for _, ranges := range []bool{true, false} {
		var sent atomic.Int64
		var tries atomic.Int32
		w.on(func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
			if !isBlob(r) || strings.Contains(r.URL.Path, config.Hex) {
				return false
			}
			if !ranges {
				r.Header.Del("Range")
			}
			if tries.Add(1) < 3 {
				next.ServeHTTP(&cutter{ResponseWriter: rw, left: 2 << 20}, r)
			} else {
				next.ServeHTTP(&tally{rw, &sent}, r)
			}
			return true
		})
		p := newPuller(t)
		if _, err := p.Ensure(context.Background(), w.ref("a:1"), Missing); err != nil {
			t.Errorf("ranges %v: %v", ranges, err)
		}
		if ranges && sent.Load() > 2<<20 {
			t.Errorf("the last try sent %d bytes: it did not resume", sent.Load())
		}
		if tries.Load() != 3 {
			t.Errorf("%d tries", tries.Load())
		}
	}
}

type tally struct {
	http.ResponseWriter
	n *atomic.Int64
}

func (c *tally) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return c.ResponseWriter.Write(p)
}

// What a hostile or broken registry may answer, and the type of the error: SECURITY
// cases 62 to 65, 67, 68 and 70.
func TestFaults(t *testing.T) {
	w := newWorld(t)
	img := imageOf(t, "amd64", layerOf(t, "one", 64<<10))
	other := layerOf(t, "other", 64<<10)
	w.push("a:1", img)
	layers, err := img.Layers()
	must(t, err)
	layer, err := layers[0].Digest()
	must(t, err)
	read := func(l v1.Layer) []byte {
		r, err := l.Compressed()
		must(t, err)
		b, err := io.ReadAll(r)
		must(t, err)
		return b
	}
	good, bad := read(layers[0]), read(other)
	isLayer := func(r *http.Request) bool { return isBlob(r) && strings.Contains(r.URL.Path, layer.Hex) }
	var n atomic.Int32
	is := func(target any) func(error) bool { return func(err error) bool { return errors.As(err, target) } }
	digest := is(new(*manifest.DigestError))
	for _, c := range []struct {
		name  string
		spoil func(w http.ResponseWriter, r *http.Request) bool
		want  func(error) bool // nil: succeeds
	}{
		{"two 500s pass", func(rw http.ResponseWriter, r *http.Request) bool {
			if n.Add(1) <= 2 {
				rw.WriteHeader(500)
				return true
			}
			return false
		}, nil},
		{"429 with patience", func(rw http.ResponseWriter, r *http.Request) bool {
			if n.Add(1) == 1 {
				rw.Header().Set("Retry-After", "0")
				rw.WriteHeader(429)
				return true
			}
			return false
		}, nil},
		{"429 for an hour", func(rw http.ResponseWriter, r *http.Request) bool {
			rw.Header().Set("Retry-After", "3600")
			rw.WriteHeader(429)
			return true
		}, func(err error) bool {
			var b *BusyError
			return errors.As(err, &b) && b.Status == 429 && b.After == time.Hour
		}},
		{"unknown", func(rw http.ResponseWriter, r *http.Request) bool { rw.WriteHeader(404); return true }, is(new(*UnknownImageError))},
		{"forbidden", func(rw http.ResponseWriter, r *http.Request) bool { rw.WriteHeader(403); return true }, func(err error) bool {
			var u *UnauthorizedError
			return errors.As(err, &u) && u.Anonymous
		}},
		{"no HEAD", func(rw http.ResponseWriter, r *http.Request) bool {
			if r.Method == "HEAD" {
				rw.WriteHeader(405)
			}
			return r.Method == "HEAD"
		}, nil},
		{"other bytes of the same size", func(rw http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				b := bytes.Clone(good)
				b[len(b)-1] ^= 1
				rw.Write(b)
			}
			return isLayer(r)
		}, digest},
		{"another layer", func(rw http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				rw.Write(bad)
			}
			return isLayer(r)
		}, func(err error) bool { return err != nil }},
		{"too long", func(rw http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				rw.(http.Flusher).Flush() // no Content-Length
				rw.Write(append(bytes.Clone(good), "more"...))
			}
			return isLayer(r)
		}, func(err error) bool { return err != nil && strings.Contains(err.Error(), "more than") }},
		{"always short", func(rw http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				rw.(http.Flusher).Flush()
				rw.Write(good[:100])
			}
			return isLayer(r)
		}, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
		{"endless manifest", func(rw http.ResponseWriter, r *http.Request) bool {
			if isManifest(r) {
				rw.Header().Set("Content-Type", manifest.OCIManifest)
				for chunk := bytes.Repeat([]byte(" "), 64<<10); ; {
					if _, err := rw.Write(chunk); err != nil {
						return true
					}
				}
			}
			return false
		}, is(new(*manifest.InvalidError))},
		{"lying digest header", func(rw http.ResponseWriter, r *http.Request) bool {
			if isManifest(r) {
				rw.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
			}
			return false
		}, nil},
		{"wrong config", func(rw http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) && !isLayer(r) {
				rw.Write([]byte(`{}`))
				return true
			}
			return false
		}, digest},
		{"stall", func(rw http.ResponseWriter, r *http.Request) bool {
			if isLayer(r) {
				rw.Header().Set("Content-Length", fmt.Sprint(len(good)))
				rw.Write(good[:100])
				rw.(http.Flusher).Flush()
				<-r.Context().Done()
				return true
			}
			return false
		}, func(err error) bool { return errors.Is(err, transfer.ErrIdle) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			n.Store(0)
			w.on(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool { return c.spoil(rw, r) })
			p := newPuller(t)
			p.Idle = 150 * time.Millisecond
			_, err := p.Ensure(context.Background(), w.ref("a:1"), Missing)
			if c.want == nil && err != nil || c.want != nil && !c.want(err) {
				t.Errorf("%T: %v", err, err)
			}
			if err != nil {
				if list, _ := p.Store.Images(); len(list) != 0 {
					t.Error("the image has a name")
				}
			}
			clean(t, p.Store)
		})
	}
}

// SECURITY case 70.
func TestPulledByDigestRefusesOtherBytes(t *testing.T) {
	w := newWorld(t)
	w.push("a:1", imageOf(t, "amd64", layerOf(t, "one", 10)))
	ref := w.ref("a@sha256:" + strings.Repeat("1", 64))
	w.on(func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
		if isManifest(r) {
			r.URL.Path = "/v2/a/manifests/1"
			next.ServeHTTP(rw, r)
			return true
		}
		return false
	})
	if _, err := newPuller(t).Ensure(context.Background(), ref, Missing); !errors.As(err, new(*manifest.DigestError)) {
		t.Errorf("%v", err)
	}
}

// SECURITY case 71, M01: a layer whose blob is right and whose diff_id is a lie must not be published.
func TestDiffIDLie(t *testing.T) {
	w := newWorld(t)
	w.push("x:1", imageOf(t, "amd64", layerOf(t, "victim", 10)))
	evil := imageOf(t, "amd64", layerOf(t, "evil", 10))
	w.push("a:1", evil)
	m, err := evil.Manifest()
	must(t, err)
	c, err := evil.RawConfigFile()
	must(t, err)
	evilID, err := layerOf(t, "evil", 10).DiffID()
	must(t, err)
	victimID, err := layerOf(t, "victim", 10).DiffID()
	must(t, err)
	lie := strings.ReplaceAll(string(c), evilID.Hex, victimID.Hex)
	h, n, err := v1.SHA256(strings.NewReader(lie))
	must(t, err)
	raw, err := evil.RawManifest()
	must(t, err)
	body := strings.ReplaceAll(string(raw), m.Config.Digest.Hex, h.Hex)
	body = strings.ReplaceAll(body, fmt.Sprintf(`"size":%d`, m.Config.Size), fmt.Sprintf(`"size":%d`, n))
	w.on(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool {
		if isBlob(r) && strings.Contains(r.URL.Path, h.Hex) {
			io.WriteString(rw, lie)
			return true
		}
		return false
	})
	w.raw("a:lie", string(m.MediaType), body)
	p := newPuller(t)
	if _, err := p.Ensure(context.Background(), w.ref("a:lie"), Missing); !errors.As(err, new(*manifest.DigestError)) {
		t.Errorf("%v", err)
	}
	if _, ok := p.Store.HasLayer(victimID); ok {
		t.Error("published under a name that was not proved")
	}
}

// SECURITY cases 66 and 69: a registry that wants a bearer token, from a realm of the
// test's choice, and redirects blobs where the test likes.
func TestCredentialsStayHome(t *testing.T) {
	const password = "hunter2"
	var leaked atomic.Pointer[string]
	thief := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		if a := r.Header.Get("Authorization"); a != "" || strings.Contains(string(b), password) {
			s := r.URL.Path + " " + a
			leaked.Store(&s)
		}
		rw.Header().Set("WWW-Authenticate", `Basic realm="give me"`)
		rw.WriteHeader(401)
	}))
	defer thief.Close()
	w := newWorld(t)
	img := imageOf(t, "amd64", layerOf(t, "one", 10))
	w.push("a:1", img)
	home := t.TempDir()
	t.Setenv("DOCKER_CONFIG", home)
	must(t, writeAuth(home, w.host, "me", password))
	authorized := func(r *http.Request) bool { return r.Header.Get("Authorization") == "Bearer good" }
	challenge := func(rw http.ResponseWriter, realm string) bool {
		rw.Header().Set("WWW-Authenticate", `Bearer realm="`+realm+`",service="s"`)
		rw.WriteHeader(401)
		return true
	}
	for _, c := range []struct {
		name  string
		spoil func(rw http.ResponseWriter, r *http.Request) bool
		ok    bool
	}{
		{"token, as it should be", func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				if u, p, _ := r.BasicAuth(); u != "me" || p != password {
					rw.WriteHeader(401)
					return true
				}
				io.WriteString(rw, `{"token":"good"}`)
				return true
			}
			return !authorized(r) && challenge(rw, "http://"+w.host+"/token")
		}, true},
		{"blobs redirected to another host", func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				io.WriteString(rw, `{"token":"good"}`)
				return true
			}
			if !authorized(r) {
				return challenge(rw, "http://"+w.host+"/token")
			}
			if isBlob(r) {
				http.Redirect(rw, r, thief.URL+"/blob", http.StatusTemporaryRedirect)
				return true
			}
			return false
		}, false},
		{"token request redirected", func(rw http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/token" {
				http.Redirect(rw, r, thief.URL+"/token", http.StatusTemporaryRedirect)
				return true
			}
			return challenge(rw, "http://"+w.host+"/token")
		}, false},
		{"realm on the link", func(rw http.ResponseWriter, r *http.Request) bool {
			return challenge(rw, "http://169.254.169.254/token")
		}, false},
		{"redirect loop", func(rw http.ResponseWriter, r *http.Request) bool {
			if isManifest(r) {
				http.Redirect(rw, r, r.URL.Path, http.StatusTemporaryRedirect)
				return true
			}
			return false
		}, false},
		{"redirect to a file", func(rw http.ResponseWriter, r *http.Request) bool {
			if isManifest(r) {
				rw.Header().Set("Location", "file:///etc/passwd")
				rw.WriteHeader(http.StatusTemporaryRedirect)
				return true
			}
			return false
		}, false},
		{"redirect to the metadata service", func(rw http.ResponseWriter, r *http.Request) bool {
			if isBlob(r) {
				http.Redirect(rw, r, "https://169.254.169.254/latest", http.StatusTemporaryRedirect)
				return true
			}
			return false
		}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.on(func(rw http.ResponseWriter, r *http.Request, _ http.Handler) bool { return c.spoil(rw, r) })
			p := newPuller(t)
			p.RetryLimit = 50 * time.Millisecond
			_, err := p.Ensure(context.Background(), w.ref("a:1"), Missing)
			if (err == nil) != c.ok {
				t.Errorf("%v", err)
			}
			if err != nil && strings.Contains(err.Error(), password) {
				t.Errorf("the password is in %q", err)
			}
			if s := leaked.Load(); s != nil {
				t.Errorf("leaked: %s", *s)
			}
		})
	}
}

// SECURITY case 57.
func TestTLS(t *testing.T) {
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s := httptest.NewUnstartedServer(inner)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	host := strings.TrimPrefix(s.URL, "https://")
	ref, err := ParseReference(host + "/a:1")
	must(t, err)
	p := newPuller(t)
	var u *UnreachableError
	if _, err := p.Ensure(context.Background(), ref, Missing); !errors.As(err, &u) || u.Reason != Cert || !strings.Contains(err.Error(), "--tls-verify=false") {
		t.Errorf("a certificate of nobody: %v", err)
	}
	p.Insecure = func(h string) bool { return h == host }
	if _, err := p.Ensure(context.Background(), ref, Missing); !errors.As(err, new(*UnknownImageError)) {
		t.Errorf("with the flag it is asked, and has no such image: %v", err)
	}
	p.Insecure = func(h string) bool { return h == "another:443" }
	if _, err := p.Ensure(context.Background(), ref, Missing); !errors.As(err, &u) || u.Reason != Cert {
		t.Errorf("the flag is another host's: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	s := httptest.NewServer(nil)
	host := strings.TrimPrefix(s.URL, "http://")
	s.Close()
	var u *UnreachableError
	ref, err := ParseReference(host + "/a")
	must(t, err)
	if _, err := newPuller(t).Ensure(context.Background(), ref, Missing); !errors.As(err, &u) || u.Reason != Refused || u.Registry != host {
		t.Errorf("%v", err)
	}
}

// writeAuth writes a docker config with one login.
func writeAuth(dir, host, user, password string) error {
	b := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte(user+":"+password)))
	return os.WriteFile(dir+"/config.json", []byte(b), 0o600)
}

// A registry that answers a range with another one, or with 416, still has the blob.
func TestResumeWithoutRanges(t *testing.T) {
	for name, wrong := range map[string]func(http.ResponseWriter){
		"another part": func(rw http.ResponseWriter) {
			rw.Header().Set("Content-Range", "bytes 0-9/10")
			rw.WriteHeader(http.StatusPartialContent)
			io.WriteString(rw, "0123456789")
		},
		"416": func(rw http.ResponseWriter) { rw.WriteHeader(http.StatusRequestedRangeNotSatisfiable) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			img := imageOf(t, "amd64", layerOf(t, "big", 5<<20))
			w.push("a:1", img)
			config, err := img.ConfigName()
			must(t, err)
			var wholes, parts atomic.Int32
			w.on(func(rw http.ResponseWriter, r *http.Request, next http.Handler) bool {
				if !isBlob(r) || strings.Contains(r.URL.Path, config.Hex) {
					return false
				}
				if r.Header.Get("Range") != "" {
					parts.Add(1)
					wrong(rw)
					return true
				}
				if wholes.Add(1) == 1 {
					next.ServeHTTP(&cutter{ResponseWriter: rw, left: 2 << 20}, r)
				}
				return false
			})
			if _, err := newPuller(t).Ensure(context.Background(), w.ref("a:1"), Missing); err != nil {
				t.Error(err)
			}
			if wholes.Load() != 2 || parts.Load() != 1 {
				t.Errorf("%d requests for the whole, %d for a part", wholes.Load(), parts.Load())
			}
		})
	}
}
