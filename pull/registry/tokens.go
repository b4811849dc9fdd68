package registry

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"skiff/pull/transfer"
)

// tokens lets through one request for a token where several requests find at once
// that theirs has expired: all but the first are answered with what that one got, until
// the registry has refused it too. go-containerregistry asks once for each.
type tokens struct {
	next     http.RoundTripper
	registry string // host[:port]
	root     string // of its API
	idle     time.Duration

	mu      sync.Mutex
	request string // what was asked last, and the answer
	token   string
	header  http.Header
	body    []byte
	refused string // the last token that the registry did not take
}

// maxToken bounds the answer with a token; go-containerregistry reads as much.
const maxToken = 64 << 10

func (t *tokens) RoundTrip(req *http.Request) (*http.Response, error) {
	if !t.forToken(req) {
		res, err := t.next.RoundTrip(req)
		if err == nil && res.StatusCode == http.StatusUnauthorized && req.URL.Host == t.registry {
			if used, ok := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer "); ok {
				t.mu.Lock()
				t.refused = used
				t.mu.Unlock()
			}
		}
		return res, err
	}
	key := req.Method + " " + req.URL.String()
	if req.Body != nil {
		b, err := io.ReadAll(req.Body)
		req.Body.Close()
		if err != nil {
			return nil, err
		}
		key += "\n" + string(b)
		req = req.Clone(req.Context())
		req.Body = io.NopCloser(bytes.NewReader(b))
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token != "" && t.request == key && t.token != t.refused {
		return &http.Response{Status: "200 OK", StatusCode: http.StatusOK, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
			Header: t.header.Clone(), Body: io.NopCloser(bytes.NewReader(t.body)), ContentLength: int64(len(t.body)), Request: req}, nil
	}
	t.token = ""
	res, err := t.next.RoundTrip(req)
	if err != nil || res.StatusCode != http.StatusOK {
		return res, err
	}
	answered := within(res.Body, t.idle, maxToken+1, transfer.ErrIdle)
	body, err := io.ReadAll(answered)
	answered.Close()
	if err != nil {
		return nil, err
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if json.Unmarshal(body, &answer) == nil {
		t.request, t.header, t.body = key, res.Header, body
		if t.token = answer.Token; answer.AccessToken != "" {
			t.token = answer.AccessToken
		}
	}
	res.Body = io.NopCloser(bytes.NewReader(body))
	return res, nil
}

// forToken knows a token request: it is for a realm, to which neither a redirect nor
// the API leads.
func (t *tokens) forToken(req *http.Request) bool {
	if req.Response != nil || req.Header.Get("Authorization") != "" && strings.HasPrefix(req.Header.Get("Authorization"), "Bearer ") {
		return false
	}
	p := req.URL.Path
	return !(p == t.root || strings.Contains(p, "/manifests/") || strings.Contains(p, "/blobs/")) &&
		(req.Method == http.MethodGet || req.Method == http.MethodPost)
}
