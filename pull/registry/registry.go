// Package registry is the client of a registry: where most images come from.
//
// Open is a pull.Opener. What a registry may make skiff do is in guard; whom it
// is told what, in package auth.
//
// It stands apart from package pull so that only main imports it: HTTP and TLS
// cost a program's start, and most runs pull nothing.
//
// OpenPush is a push.Opener: the same client, for writing.
//
// Limits: it caches no token and no document between two clients.
package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"skiff/pull"
	"skiff/pull/auth"
	"skiff/pull/manifest"
	"skiff/pull/transfer"
)

// userAgent is what registries see.
const userAgent = "skiff"

// A client speaks to one repository of a registry.
//
// Names, tokens and challenges are go-containerregistry's; the requests are ours,
// since its manifests may have 100 MiB and its layers cannot be resumed.
type client struct {
	ref       pull.Reference
	host      string // as the user wrote it
	where     string // as requests have it: index.docker.io for docker.io
	guard     *guard
	bottom    http.RoundTripper // guard and retry
	creds     authn.Authenticator
	anonymous bool
	patience  transfer.Patience
	scopes    []string // of the token: what is to be done with which repository
	push      bool

	mu     sync.Mutex
	scheme string       // "" until the first answer
	http   *http.Client // with the token, once one was asked for
}

// Open is a pull.Opener. The credentials are those of the process's environment.
func Open(ctx context.Context, ref pull.Reference, access pull.Access) (pull.Registry, error) {
	c, err := open(ctx, ref, access, scope(ref.Path, transport.PullScope))
	if err != nil {
		return nil, err // and no Registry that is nil inside
	}
	return c, nil
}

// scope is what a token is asked for. Source: distribution, docs/spec/auth/scope.md.
func scope(repository, actions string) string { return "repository:" + repository + ":" + actions }

func open(ctx context.Context, ref pull.Reference, access pull.Access, scopes ...string) (*client, error) {
	finder := auth.Finder{Warn: access.Warn}
	creds, err := finder.Find(ctx, ref.Host, ref.Path)
	if err != nil {
		return nil, err
	}
	c := &client{ref: ref, host: ref.Host, where: ref.Host, creds: creds, anonymous: creds == authn.Anonymous, patience: access.Patience, scopes: scopes}
	if c.where == pull.Hub {
		c.where = name.DefaultRegistry
	}
	c.guard = newGuard(c.where, access.Insecure, c.patience.Idle)
	c.bottom = transport.NewUserAgent(&retry{next: c.guard, first: c.patience.First, limit: c.patience.Limit}, userAgent)
	c.http = c.over(c.bottom)
	if !c.guard.mayPlain(c.where) {
		c.scheme = "https"
	}
	return c, nil
}

// over is a client over a transport. Redirects are followed up to ten; which, the guard decides.
func (c *client) over(rt http.RoundTripper) *http.Client {
	return &http.Client{Transport: rt, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return &RefusedError{via[0].URL.Host, "more than ten redirects"}
		}
		return nil
	}}
}

// Close closes what is connected.
func (c *client) Close() error {
	c.guard.close()
	return nil
}

// do sends one request and logs in if it must. An open registry is never asked for a
// token, so that looking for a newer image is one request; with stored credentials the
// login comes first, since some registries say 404 to strangers.
//
// On a host that may be spoken to in the clear https is tried first; only a server
// that speaks no TLS at all is spoken to without, never one whose certificate does not hold.
func (c *client) do(ctx context.Context, method, path string, header http.Header) (*http.Response, error) {
	if err := c.settleScheme(ctx); err != nil {
		return nil, err
	}
	c.mu.Lock()
	client, bare := c.http, c.http.Transport == c.bottom
	c.mu.Unlock()
	if bare && !c.anonymous {
		if err := c.login(ctx, client); err != nil {
			return nil, err
		}
		return c.do(ctx, method, path, header)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.scheme+"://"+c.where+"/v2/"+c.ref.Path+path, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, c.fault(ctx, err)
	}
	if res.StatusCode == http.StatusUnauthorized && bare && res.Request.URL.Host == req.URL.Host {
		res.Body.Close()
		if err := c.login(ctx, client); err != nil {
			return nil, err
		}
		return c.do(ctx, method, path, header)
	}
	return res, nil
}

// settleScheme finds out whether a host that may be plain is. It costs a handshake.
func (c *client) settleScheme(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.scheme != "" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+c.where+"/v2/", nil)
	if err != nil {
		return err
	}
	res, err := c.guard.RoundTrip(req)
	switch {
	case err == nil:
		res.Body.Close()
		c.scheme = "https"
	case isPlainServer(err), errors.Is(err, io.EOF):
		c.scheme = "http"
	default:
		return c.fault(ctx, err)
	}
	return nil
}

// login gets a token, or finds that a password is to be sent, with what the
// registry asks for at /v2/. from is the client that was refused: another goroutine may have been faster.
func (c *client) login(ctx context.Context, from *http.Client) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.http != from {
		return nil
	}
	opts := []name.Option{name.WeakValidation}
	if c.scheme == "http" {
		opts = append(opts, name.Insecure)
	}
	registry, err := name.NewRegistry(c.where, opts...)
	if err != nil {
		return err
	}
	rt, err := transport.NewWithContext(ctx, registry, c.creds, &oneScheme{c.where, c.scheme, c.bottom}, c.scopes)
	if err != nil {
		return c.fault(ctx, err)
	}
	c.http = c.over(rt)
	return nil
}

// oneScheme holds requests to the registry to the scheme that was settled:
// go-containerregistry tries both on hosts that it takes for local, and takes any
// error of one for a reason to try the other.
type oneScheme struct {
	where, scheme string
	next          http.RoundTripper
}

func (o *oneScheme) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == o.where && req.URL.Scheme != o.scheme {
		return nil, &RefusedError{req.URL.Scheme + "://" + req.URL.Host, "the registry is spoken to by " + o.scheme}
	}
	return o.next.RoundTrip(req)
}

// Head is a pull.Registry's.
func (c *client) Head(ctx context.Context) (v1.Hash, error) {
	res, err := c.do(ctx, http.MethodHead, "/manifests/"+identifier(c.ref), http.Header{"Accept": {manifest.Accept}})
	if err != nil {
		return v1.Hash{}, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		if res.StatusCode == http.StatusUnauthorized || res.StatusCode == http.StatusForbidden || res.StatusCode == http.StatusTooManyRequests {
			return v1.Hash{}, c.status(res)
		}
		return v1.Hash{}, nil // GET tells more, and some know no HEAD
	}
	digest, err := v1.NewHash(res.Header.Get("Docker-Content-Digest"))
	if err != nil {
		return v1.Hash{}, nil
	}
	return digest, nil
}

// identifier is what the registry is asked for.
func identifier(r pull.Reference) string {
	if r.Digest != "" {
		return r.Digest
	}
	return r.Tag
}

// document reads a manifest or index, whole and bounded. Its digest is computed; what a
// header says of it is not read.
func (c *client) document(ctx context.Context, identifier string) (raw []byte, mediaType string, err error) {
	for try := 0; ; try++ {
		raw, mediaType, err = c.documentOnce(ctx, identifier)
		if err == nil || try == 2 || !transfer.Passing(err) || ctx.Err() != nil {
			return raw, mediaType, err
		}
		if err := transfer.Wait(ctx, transfer.Jitter(c.patience.First)); err != nil {
			return nil, "", err
		}
	}
}

func (c *client) documentOnce(ctx context.Context, identifier string) ([]byte, string, error) {
	res, err := c.do(ctx, http.MethodGet, "/manifests/"+identifier, http.Header{"Accept": {manifest.Accept}})
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, "", c.status(res)
	}
	raw, err := c.readAll(ctx, res.Body, manifest.MaxManifest, "manifest")
	return raw, res.Header.Get("Content-Type"), err
}

// readAll reads up to limit bytes; more are an error, and so is a pause of idle.
func (c *client) readAll(ctx context.Context, r io.ReadCloser, limit int, what string) ([]byte, error) {
	var idle atomic.Bool
	watch := time.AfterFunc(c.patience.Idle, func() { idle.Store(true); r.Close() })
	defer watch.Stop()
	var b []byte
	buf := make([]byte, 32<<10)
	for {
		n, err := r.Read(buf)
		watch.Reset(c.patience.Idle)
		if b = append(b, buf[:n]...); len(b) > limit {
			return nil, &manifest.InvalidError{What: what, Err: fmt.Errorf("more than %d bytes", limit)}
		}
		if err == io.EOF {
			return b, nil
		}
		if err != nil {
			if idle.Load() {
				err = transfer.ErrIdle
			}
			return nil, c.fault(ctx, err)
		}
	}
}

// Image reads the manifest for a platform.
func (c *client) Image(ctx context.Context, want manifest.Want) (*manifest.Image, error) {
	raw, mediaType, err := c.document(ctx, identifier(c.ref))
	if err != nil {
		return nil, err
	}
	digest, _, err := v1.SHA256(strings.NewReader(string(raw)))
	if err != nil {
		return nil, err
	}
	if c.ref.Digest != "" {
		if digest, err = v1.NewHash(c.ref.Digest); err != nil {
			return nil, err
		}
		if err := manifest.VerifyDigest(raw, digest); err != nil {
			return nil, err
		}
	}
	doc, m, kept, err := manifest.Resolve(ctx, raw, mediaType, want, func(ctx context.Context, d manifest.Descriptor) ([]byte, error) {
		b, _, err := c.document(ctx, d.Digest.String())
		return b, err
	})
	if err != nil {
		return nil, err
	}
	i := &manifest.Image{Digest: digest, Kept: kept, ConfigDigest: doc.Config.Digest}
	if i.Manifest, _, err = v1.SHA256(strings.NewReader(string(m))); err != nil {
		return nil, err
	}
	i.Config = func(ctx context.Context) ([]byte, error) { return c.config(ctx, doc.Config) }
	for _, l := range doc.Layers {
		i.Layers = append(i.Layers, manifest.Layer{Digest: l.Digest, Size: l.Size,
			Open:  func(ctx context.Context, offset int64) (io.ReadCloser, error) { return c.blob(ctx, l, offset, l.Size) },
			Range: func(ctx context.Context, from, to int64) (io.ReadCloser, error) { return c.blob(ctx, l, from, to) }})
	}
	return i, nil
}

// config reads a config blob whole.
func (c *client) config(ctx context.Context, d manifest.Descriptor) ([]byte, error) {
	r := transfer.NewBody(ctx, d.Size, c.patience, func(ctx context.Context, offset int64) (io.ReadCloser, error) { return c.blob(ctx, d, offset, d.Size) })
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return b, manifest.Verify(b, d)
}

// blob opens a blob from an offset to another. A server that does not know Range sends all of
// it again: what was read before is skipped if the rest is wanted, and a part in between is
// transfer.ErrNoRange.
func (c *client) blob(ctx context.Context, d manifest.Descriptor, offset, to int64) (io.ReadCloser, error) {
	header := http.Header{}
	if offset > 0 || to < d.Size {
		// Both ends: not every registry understands a range without the second.
		header.Set("Range", fmt.Sprintf("bytes=%d-%d", offset, to-1))
	}
	res, err := c.do(ctx, http.MethodGet, "/blobs/"+d.Digest.String(), header)
	if err != nil {
		return nil, err
	}
	switch {
	case res.StatusCode == http.StatusOK:
		if res.ContentLength >= 0 && res.ContentLength != d.Size {
			res.Body.Close()
			return nil, &manifest.DigestError{What: "blob " + d.Digest.String(), Want: fmt.Sprintf("%d bytes", d.Size), Have: fmt.Sprintf("%d bytes", res.ContentLength)}
		}
		if to < d.Size {
			res.Body.Close()
			return nil, transfer.ErrNoRange
		}
		if offset > 0 {
			if n, err := io.CopyN(io.Discard, res.Body, offset); err != nil {
				res.Body.Close()
				return nil, fmt.Errorf("skip %d of %d bytes: %w", n, offset, unexpected(err))
			}
		}
		return res.Body, nil
	case res.StatusCode == http.StatusPartialContent && (offset > 0 || to < d.Size) &&
		strings.HasPrefix(res.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(offset, 10)+"-"):
		return res.Body, nil
	}
	defer res.Body.Close()
	return nil, c.status(res)
}

// unexpected is for an end that came too early.
func unexpected(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
