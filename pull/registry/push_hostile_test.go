package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"skiff/pull/manifest"
	"skiff/pull/transfer"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A stranger takes whatever it is sent, and notes whether it was told a secret.
type stranger struct {
	*httptest.Server
	asked  atomic.Int32
	secret atomic.Bool
}

func newStranger(t *testing.T) *stranger {
	s := new(stranger)
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.asked.Add(1)
		for _, values := range r.Header {
			if strings.Contains(strings.Join(values, " "), "the-token") {
				s.secret.Store(true)
			}
		}
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Location", s.URL+"/next")
		w.WriteHeader(map[string]int{"POST": 202, "PATCH": 202}[r.Method] + map[string]int{"PUT": 201, "GET": 200, "HEAD": 200}[r.Method])
	}))
	t.Cleanup(s.Server.Close)
	return s
}

func small(w io.Writer) error { _, err := io.WriteString(w, "a layer"); return err }

// A registry may have its uploads taken elsewhere, as to another name of its own. It is not told the
// credentials there.
func TestUploadElsewhereWithoutCredentials(t *testing.T) {
	for name, at := range map[string]string{"before the body": "POST", "after the body": "PATCH"} {
		t.Run(name, func(t *testing.T) {
			u, p := newUploads(t)
			other := newStranger(t)
			u.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != at {
					return false
				}
				io.Copy(io.Discard, r.Body)
				w.Header().Set("Location", other.URL+"/upload?x=1")
				w.WriteHeader(202)
				return true
			}
			if _, _, err := p.Upload(context.Background(), small); err != nil {
				t.Error(err)
			}
			if other.asked.Load() == 0 || other.secret.Load() {
				t.Errorf("asked %d times, told the token: %v", other.asked.Load(), other.secret.Load())
			}
		})
	}
}

// What is sent by a redirect has no credentials either, and a body that has been
// streamed is not sent again.
func TestRedirectedUpload(t *testing.T) {
	for _, c := range []struct {
		method string
		status int
		asked  bool
		ok     bool
	}{
		{"POST", 307, true, true}, {"POST", 302, true, false}, {"PATCH", 307, false, false}, {"PATCH", 308, false, false}, {"PUT", 307, true, true},
	} {
		t.Run(c.method, func(t *testing.T) {
			u, p := newUploads(t)
			other := newStranger(t)
			u.answer = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != c.method {
					return false
				}
				io.Copy(io.Discard, r.Body)
				http.Redirect(w, r, other.URL+"/there", c.status)
				return true
			}
			_, _, err := p.Upload(context.Background(), small)
			if (err == nil) != c.ok || transfer.Passing(err) {
				t.Errorf("%d: %v", c.status, err)
			}
			if (other.asked.Load() > 0) != c.asked || other.secret.Load() {
				t.Errorf("%d: asked %d times, told the token: %v", c.status, other.asked.Load(), other.secret.Load())
			}
		})
	}
}

// Answers that lie, lead nowhere or do not end are errors, and soon.
func TestHostileUploads(t *testing.T) {
	forever := func(w http.ResponseWriter, status int) bool {
		w.WriteHeader(status)
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return true
			}
		}
	}
	location := func(where string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Location", where)
			w.WriteHeader(202)
			return true
		}
	}
	var wrong *manifest.DigestError
	for name, c := range map[string]struct {
		method string
		answer func(w http.ResponseWriter, r *http.Request) bool
		says   string
		as     any
	}{
		"no Location":           {"POST", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(202); return true }, "without a Location", nil},
		"a file":                {"POST", location("file:///etc/passwd"), "", nil},
		"no URL":                {"POST", location("http://[::1"), "without a Location", nil},
		"the link's addresses":  {"POST", location("https://169.254.169.254/latest"), "169.254.169.254", nil},
		"another digest":        {"PUT", acknowledged, "has stored", &wrong},
		"an error without end":  {"POST", func(w http.ResponseWriter, _ *http.Request) bool { return forever(w, 403) }, "403", nil},
		"a refusal without end": {"PUT", func(w http.ResponseWriter, _ *http.Request) bool { return forever(w, 400) }, "400", nil},
		"redirects in a circle": {"POST", func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.String(), http.StatusTemporaryRedirect)
			return true
		}, "more than ten redirects", nil},
		"an upload already done":   {"POST", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(201); return true }, "201", nil},
		"nothing known as success": {"PUT", func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(202); return true }, "202", nil},
	} {
		t.Run(name, func(t *testing.T) {
			u, p := newUploads(t)
			u.answer = func(w http.ResponseWriter, r *http.Request) bool { return r.Method == c.method && c.answer(w, r) }
			ctx, stop := context.WithTimeout(context.Background(), 20*time.Second)
			defer stop()
			_, _, err := p.Upload(ctx, small)
			if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), c.says) || c.as != nil && !errors.As(err, c.as) {
				t.Errorf("%v", err)
			}
			if transfer.Passing(err) {
				t.Errorf("it would be tried again: %v", err)
			}
		})
	}
}

func acknowledged(w http.ResponseWriter, _ *http.Request) bool {
	w.Header().Set("Docker-Content-Digest", "sha256:"+strings.Repeat("0", 64))
	w.WriteHeader(201)
	return true
}

func TestHostileManifests(t *testing.T) {
	u, p := newUploads(t)
	u.answer = func(w http.ResponseWriter, r *http.Request) bool { return r.Method == "PUT" && acknowledged(w, r) }
	var wrong *manifest.DigestError
	if err := p.PutManifest(context.Background(), "1", "application/json", []byte("{}")); !errors.As(err, &wrong) {
		t.Errorf("%v", err)
	}
	// A blob of no known length is not taken for there.
	u.answer = func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == "HEAD" {
			w.Header().Set("Transfer-Encoding", "chunked")
			w.WriteHeader(200)
		}
		return r.Method == "HEAD"
	}
	if _, ok, err := p.HasBlob(context.Background(), v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}); ok || err != nil {
		t.Errorf("a blob without a length: %v %v", ok, err)
	}
}
