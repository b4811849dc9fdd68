package registry

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/pull"
	"skiff/pull/push"
	"skiff/pull/transfer"
)

// hostile is a push to a registry that answers as the function says. What it does not
// answer is done as an honest one would that asks for no login.
func hostile(t *testing.T, answer func(w http.ResponseWriter, r *http.Request) bool) push.Registry {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("REGISTRY_AUTH_FILE", "")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if answer(w, r) {
			return
		}
		switch r.Method {
		case "HEAD":
			w.WriteHeader(404)
		case "POST":
			w.Header().Set("Location", "/v2/me/app/blobs/uploads/1")
			w.WriteHeader(202)
		case "PATCH":
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Location", "/v2/me/app/blobs/uploads/1")
			w.WriteHeader(202)
		case "PUT":
			w.WriteHeader(201)
		}
	}))
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	ref, err := pull.ParseReference(strings.TrimPrefix(s.URL, "http://") + "/me/app:1")
	must(t, err)
	access := pull.Access{Patience: transfer.Patience{Idle: 300 * time.Millisecond, First: time.Millisecond, Limit: time.Second}}
	access.Login = &pull.Login{User: "me", Password: "hunter2"}
	p, err := OpenPush(context.Background(), ref, access, nil)
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

var body = []byte("some content")

func upload(p push.Registry) error {
	_, _, err := p.Upload(context.Background(), func(w io.Writer) error { _, err := w.Write(body); return err })
	return err
}

// endless sends the beginning of an answer and then bytes without an end, or none.
func endless(w http.ResponseWriter, r *http.Request, status int, drip time.Duration) bool {
	w.WriteHeader(status)
	for r.Context().Err() == nil {
		if _, err := w.Write(bytes.Repeat([]byte(" "), 100)); err != nil {
			return true
		}
		w.(http.Flusher).Flush()
		select {
		case <-time.After(drip):
		case <-r.Context().Done():
		}
	}
	return true
}

// Answers without an end end.
func TestPushEndlessAnswers(t *testing.T) {
	const fast, slow, never = time.Microsecond, 100 * time.Millisecond, time.Hour
	for name, drip := range map[string]time.Duration{"flood": fast, "drip": slow, "silence": never} {
		for what, c := range map[string]struct {
			when   func(r *http.Request) bool
			status int
			fails  bool
		}{
			"token":           {func(r *http.Request) bool { return r.URL.Path == "/token" }, 200, true},
			"ping":            {func(r *http.Request) bool { return r.URL.Path == "/v2/" && r.Method == "GET" }, 200, false},
			"ping that fails": {func(r *http.Request) bool { return r.URL.Path == "/v2/" && r.Method == "GET" }, 403, true},
			"upload":          {func(r *http.Request) bool { return r.Method == "POST" }, 403, true},
			"content":         {func(r *http.Request) bool { return r.Method == "PATCH" }, 403, true},
			"end":             {func(r *http.Request) bool { return r.Method == "PUT" }, 400, true},
			"end that is one": {func(r *http.Request) bool { return r.Method == "PUT" }, 201, false},
		} {
			t.Run(what+"/"+name, func(t *testing.T) {
				p := hostile(t, func(w http.ResponseWriter, r *http.Request) bool {
					if what == "token" && r.URL.Path == "/v2/" {
						w.Header().Set("WWW-Authenticate", `Bearer realm="http://`+r.Host+`/token",service="x"`)
						w.WriteHeader(401)
						return true
					}
					return c.when(r) && endless(w, r, c.status, drip)
				})
				done := make(chan error, 1)
				go func() { done <- upload(p) }()
				select {
				case err := <-done:
					if (err != nil) != c.fails {
						t.Errorf("%v", err)
					}
				case <-time.After(15 * time.Second):
					t.Fatal("it hangs")
				}
			})
		}
	}
}

// A mount that the registry calls by another digest is none.
func TestMountAcknowledged(t *testing.T) {
	own, _, err := v1.SHA256(bytes.NewReader(body))
	must(t, err)
	for says, want := range map[string]bool{own.String(): true, "": true, "nonsense": true, "sha256:" + strings.Repeat("0", 64): false} {
		p := hostile(t, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Method == "POST" {
				w.Header().Set("Docker-Content-Digest", says)
				w.WriteHeader(201)
			}
			return r.Method == "POST"
		})
		if ok, err := p.Mount(context.Background(), own, "base/image"); ok != want || err != nil {
			t.Errorf("mount acknowledged as %q: %v, %v", says, ok, err)
		}
	}
}
