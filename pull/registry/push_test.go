package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"skiff/pull"
	"skiff/pull/push"
	"skiff/pull/transfer"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// An uploads is a registry that takes blobs for who has a token, and does with an
// upload what patch says.
type uploads struct {
	mu     sync.Mutex
	url    string
	scopes []string
	blobs  map[string][]byte
	patch  func(w http.ResponseWriter, r *http.Request) bool // true: it has answered
	answer func(w http.ResponseWriter, r *http.Request) bool // likewise, to any method
}

func (u *uploads) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const bearer = "Bearer the-token"
	switch {
	case r.URL.Path == "/token":
		u.mu.Lock()
		u.scopes = r.URL.Query()["scope"]
		u.mu.Unlock()
		json.NewEncoder(w).Encode(map[string]string{"token": "the-token"})
		return
	case r.Header.Get("Authorization") != bearer:
		w.Header().Set("WWW-Authenticate", `Bearer realm="`+u.url+`/token",service="x"`)
		w.WriteHeader(401)
		return
	}
	if u.answer != nil && u.answer(w, r) {
		return
	}
	switch r.Method {
	case "HEAD":
		if _, ok := u.blobs[r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]]; !ok {
			w.WriteHeader(404)
		}
	case "POST":
		w.Header().Set("Location", "/v2/me/app/blobs/uploads/1?state=a%2Fb")
		w.WriteHeader(202)
	case "PATCH":
		if u.patch != nil && u.patch(w, r) {
			return
		}
		b, err := io.ReadAll(r.Body)
		if err != nil || r.URL.Query().Get("state") != "a/b" {
			w.WriteHeader(400)
			return
		}
		u.blobs["now"] = b
		w.Header().Set("Location", u.url+"/v2/me/app/blobs/uploads/1?state=a%2Fb")
		w.WriteHeader(202)
	case "PUT":
		u.mu.Lock()
		defer u.mu.Unlock()
		digest := r.URL.Query().Get("digest")
		if have := fmt.Sprintf("sha256:%x", sha256.Sum256(u.blobs["now"])); have != digest {
			http.Error(w, `{"errors":[{"code":"DIGEST_INVALID","message":"no"}]}`, 400)
			return
		}
		u.blobs[digest] = u.blobs["now"]
		w.WriteHeader(201)
	}
}

func newUploads(t *testing.T) (*uploads, push.Registry) {
	t.Helper()
	t.Setenv("DOCKER_CONFIG", t.TempDir())
	t.Setenv("REGISTRY_AUTH_FILE", "")
	os.Unsetenv("REGISTRY_AUTH_FILE")
	u := &uploads{blobs: map[string][]byte{}}
	s := httptest.NewServer(u)
	t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
	u.url = s.URL
	ref, err := pull.ParseReference(strings.TrimPrefix(s.URL, "http://") + "/me/app:1")
	must(t, err)
	p, err := OpenPush(context.Background(), ref, pull.Access{Patience: transfer.Patience{Idle: 300 * time.Millisecond, First: time.Millisecond, Limit: time.Second}}, []string{"base/image"})
	must(t, err)
	t.Cleanup(func() { p.Close() })
	return u, p
}

func TestUpload(t *testing.T) {
	u, p := newUploads(t)
	body := make([]byte, 3<<20)
	rand.Read(body)
	digest, size, err := p.Upload(context.Background(), func(w io.Writer) error {
		_, err := io.Copy(w, bytes.NewReader(body))
		return err
	})
	must(t, err)
	if !bytes.Equal(u.blobs[digest.String()], body) || size != int64(len(body)) {
		t.Errorf("the registry has %d bytes, %d were sent", len(u.blobs[digest.String()]), size)
	}
	if want := []string{"repository:me/app:push,pull", "repository:base/image:pull"}; strings.Join(u.scopes, " ") != strings.Join(want, " ") {
		t.Errorf("token for %q, want %q", u.scopes, want)
	}
	if _, ok, err := p.HasBlob(context.Background(), v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("0", 64)}); ok || err != nil {
		t.Errorf("a blob that is not there: %v %v", ok, err)
	}
	if ok, err := p.Mount(context.Background(), digest, "base/image"); ok || err != nil {
		t.Errorf("a mount that is not done: %v %v", ok, err)
	}
}

func TestUploadFails(t *testing.T) {
	endless := func(w io.Writer) error {
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return err
			}
		}
	}
	own := errors.New("the disk is gone")
	for name, c := range map[string]struct {
		patch func(w http.ResponseWriter, r *http.Request) bool
		write func(io.Writer) error
		is    error
		says  string
		pass  bool // it may be tried again
	}{
		"broken off": {func(w http.ResponseWriter, r *http.Request) bool {
			r.Body.Read(make([]byte, 100))
			panic(http.ErrAbortHandler)
		}, endless, nil, "registry 127", true},
		"does not read": {func(w http.ResponseWriter, r *http.Request) bool { time.Sleep(2 * time.Second); return true }, endless, transfer.ErrIdle, "", true},
		"refused": {func(w http.ResponseWriter, r *http.Request) bool {
			http.Error(w, `{"errors":[{"code":"DENIED","message":"quota \u001b[31m"}]}`, http.StatusForbidden)
			return true
		}, endless, nil, "DENIED", false},
		"says yes too soon": {func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("Location", "/v2/me/app/blobs/uploads/1")
			w.WriteHeader(202)
			return true
		}, endless, errNotRead, "", false},
		"own error": {nil, func(w io.Writer) error { w.Write([]byte("x")); return own }, own, "", false},
		"elsewhere": {func(w http.ResponseWriter, r *http.Request) bool {
			io.Copy(io.Discard, r.Body)
			w.Header().Set("Location", "http://192.0.2.1/x")
			w.WriteHeader(202)
			return true
		}, func(w io.Writer) error { _, err := w.Write([]byte("x")); return err }, nil, "plain http is only for this machine", false},
	} {
		t.Run(name, func(t *testing.T) {
			u, p := newUploads(t)
			u.patch = c.patch
			_, _, err := p.Upload(context.Background(), c.write)
			if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
			if transfer.Passing(err) != c.pass {
				t.Errorf("may pass: %v, of %v", !c.pass, err)
			}
		})
	}
}

func TestUploadEndsWithContext(t *testing.T) {
	u, p := newUploads(t)
	ctx, cancel := context.WithCancelCause(context.Background())
	stop := errors.New("stop")
	u.patch = func(w http.ResponseWriter, r *http.Request) bool {
		cancel(stop)
		io.Copy(io.Discard, r.Body)
		return true
	}
	_, _, err := p.Upload(ctx, func(w io.Writer) error {
		for {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return err
			}
		}
	})
	if !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}
