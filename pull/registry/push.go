package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"skiff/pull"
	"skiff/pull/manifest"
	"skiff/pull/push"
	"skiff/pull/transfer"
)

// OpenPush is a push.Opener. The credentials are those of the process's environment.
func OpenPush(ctx context.Context, ref pull.Reference, access pull.Access, from []string) (push.Registry, error) {
	place, err := ownPlace(ref, access)
	if err != nil {
		return nil, err
	}
	c, err := open(ctx, ref, *place, access, func(repository string) []string {
		scopes := []string{scope(repository, transport.PushScope)}
		for _, other := range from {
			scopes = append(scopes, scope(other, transport.PullScope))
		}
		return scopes
	})
	if err != nil {
		return nil, err
	}
	c.push = true
	return &pusher{c}, nil
}

// A pusher writes to one repository. Source: distribution-spec, "Push".
type pusher struct{ *client }

// send sends one request. Who writes is asked for a token first: a body that has
// been streamed can't be sent again. where is a path of the repository or a whole URL.
func (p *pusher) send(ctx context.Context, method, where string, header http.Header, body io.Reader, size int64) (*http.Response, error) {
	if err := p.settleScheme(ctx); err != nil {
		return nil, err
	}
	p.mu.Lock()
	from, bare := p.http, p.http.Transport == p.bottom
	p.mu.Unlock()
	if bare {
		if err := p.login(ctx, from); err != nil {
			return nil, err
		}
	}
	if strings.HasPrefix(where, "/") {
		where = p.url(p.place.Repository + where)
	}
	req, err := http.NewRequestWithContext(ctx, method, where, body)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	if body != nil {
		req.ContentLength = size // -1: in chunks
	}
	p.mu.Lock()
	client := p.http
	p.mu.Unlock()
	res, err := client.Do(req)
	if err != nil {
		return nil, p.fault(ctx, err)
	}
	return res, nil
}

// HasBlob is a push.Registry's.
func (p *pusher) HasBlob(ctx context.Context, digest v1.Hash) (int64, bool, error) {
	res, err := p.send(ctx, http.MethodHead, "/blobs/"+digest.String(), nil, nil, 0)
	if err != nil {
		return 0, false, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
		return res.ContentLength, res.ContentLength >= 0, nil
	case http.StatusNotFound:
		return 0, false, nil
	}
	return 0, false, p.status(res)
}

// Mount is a push.Registry's. A registry that does not mount begins an upload,
// which is then left alone: it ends by itself.
func (p *pusher) Mount(ctx context.Context, digest v1.Hash, from string) (bool, error) {
	query := url.Values{"mount": {digest.String()}, "from": {from}}
	res, err := p.send(ctx, http.MethodPost, "/blobs/uploads/?"+query.Encode(), nil, nil, 0)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusCreated:
		return p.stored(res, digest) == nil, nil
	case http.StatusAccepted, http.StatusNotFound, http.StatusUnauthorized, http.StatusForbidden, http.StatusMethodNotAllowed:
		return false, nil // the other repository may be closed to us; this one we shall see
	}
	return false, p.status(res)
}

// Upload is a push.Registry's.
func (p *pusher) Upload(ctx context.Context, write func(io.Writer) error) (v1.Hash, int64, error) {
	fail := func(err error) (v1.Hash, int64, error) { return v1.Hash{}, 0, err }
	res, err := p.send(ctx, http.MethodPost, "/blobs/uploads/", nil, nil, 0)
	if err != nil {
		return fail(err)
	}
	location, err := p.accepted(res, http.StatusAccepted)
	if err != nil {
		return fail(err)
	}
	body := newStreamed(ctx, p.patience.Idle, write)
	res, err = p.send(body.ctx, http.MethodPatch, location, http.Header{"Content-Type": {"application/octet-stream"}}, body, -1)
	cut, werr := body.end()
	if werr != nil {
		if err == nil {
			res.Body.Close()
		}
		return fail(werr)
	}
	if err != nil {
		return fail(err)
	}
	if location, err = p.accepted(res, http.StatusAccepted, http.StatusNoContent, http.StatusCreated); err != nil {
		return fail(err)
	}
	if cut {
		return fail(fmt.Errorf("registry %s: %w", p.host, errNotRead))
	}
	digest := body.digest()
	end, err := url.Parse(location)
	if err != nil {
		return fail(err)
	}
	query := end.Query()
	query.Set("digest", digest.String())
	end.RawQuery = query.Encode()
	res, err = p.send(ctx, http.MethodPut, end.String(), nil, http.NoBody, 0)
	if err != nil {
		return fail(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated && res.StatusCode != http.StatusNoContent {
		return fail(p.status(res))
	}
	return digest, body.size, p.stored(res, digest)
}

// stored holds what the registry says that it has stored against what was sent.
func (p *pusher) stored(res *http.Response, want v1.Hash) error {
	have, err := v1.NewHash(res.Header.Get("Docker-Content-Digest"))
	if err == nil && have.Algorithm == want.Algorithm && have != want {
		return &manifest.DigestError{What: "what registry " + p.host + " has stored", Want: want.String(), Have: have.String()}
	}
	return nil
}

// accepted returns where an upload goes on.
func (p *pusher) accepted(res *http.Response, want ...int) (string, error) {
	defer res.Body.Close()
	for _, status := range want {
		if res.StatusCode == status {
			location, err := res.Location()
			if err != nil {
				return "", fmt.Errorf("registry %s: an upload without a Location", p.host)
			}
			return location.String(), nil
		}
	}
	return "", p.status(res)
}

// PutManifest is a push.Registry's.
func (p *pusher) PutManifest(ctx context.Context, name, mediaType string, raw []byte) error {
	res, err := p.send(ctx, http.MethodPut, "/manifests/"+name, http.Header{"Content-Type": {mediaType}}, strings.NewReader(string(raw)), int64(len(raw)))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode/100 != 2 {
		return p.status(res)
	}
	return p.stored(res, v1.Hash{Algorithm: "sha256", Hex: fmt.Sprintf("%x", sha256.Sum256(raw))})
}

// A streamed body is made while it is sent. The network may take as long as it
// takes something, and no longer than the idle time without taking anything.
type streamed struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	pipe   *io.PipeReader
	idle   time.Duration
	watch  *time.Timer
	size   int64
	sum    [sha256.Size]byte
	wrote  chan error // of the writer, when it has ended
}

func newStreamed(ctx context.Context, idle time.Duration, write func(io.Writer) error) *streamed {
	ctx, cancel := context.WithCancelCause(ctx)
	r, w := io.Pipe()
	b := &streamed{ctx: ctx, cancel: cancel, pipe: r, idle: idle, wrote: make(chan error, 1)}
	b.watch = time.AfterFunc(idle, func() { cancel(transfer.ErrIdle) })
	b.watch.Stop()
	go func() {
		h := sha256.New()
		count := &counting{w: io.MultiWriter(w, h)}
		err := write(count)
		b.size = count.n
		h.Sum(b.sum[:0])
		w.CloseWithError(err) // nil is the end
		b.wrote <- err
	}()
	return b
}

type counting struct {
	w io.Writer
	n int64
}

func (c *counting) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n += int64(n)
	return n, err
}

func (b *streamed) Read(p []byte) (int, error) {
	b.watch.Stop() // what is made here is not waited for impatiently
	n, err := b.pipe.Read(p)
	if err == nil {
		b.watch.Reset(b.idle)
	}
	return n, err
}

// Close is for package http, which calls it from its own goroutine when it has read enough.
func (b *streamed) Close() error { return b.pipe.CloseWithError(errNotRead) }

// end ends the writer, waits for it, and returns its own error, if it was not
// that nobody read on. cut: it has not written all.
func (b *streamed) end() (cut bool, err error) {
	b.watch.Stop()
	b.pipe.CloseWithError(errNotRead)
	err = <-b.wrote
	b.cancel(nil)
	if errors.Is(err, errNotRead) {
		return true, nil
	}
	return err != nil, err
}

var errNotRead = errors.New("it did not read the whole upload")

func (b *streamed) digest() v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(b.sum[:])}
}
