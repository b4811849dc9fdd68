// Package registry is the client of a registry: where most images come from.
//
// Open is a pull.Opener. What a registry may make skiff do is in guard; whom it
// is told what, in package auth.
//
// It stands apart from package pull so that only main imports it: HTTP and TLS
// cost a program's start, and most runs pull nothing.
//
// OpenPush is a push.Opener: the same client, for writing. OpenLogins keeps credentials.
//
// Where an image may be read from besides its registry, and how each place is spoken to,
// is in package hosts; a registry with mirrors is a mirrored one.
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
	"skiff/pull/registry/hosts"
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
	place     hosts.Endpoint
	host      string // as the user or a file wrote it
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
	set, err := places(ref, access)
	if err != nil {
		return nil, err
	}
	origin, err := open(ctx, ref, set.Origin, access, pullScope)
	if err != nil {
		return nil, err // and no Registry that is nil inside
	}
	if len(set.Mirrors) == 0 {
		return origin, nil
	}
	return openMirrors(ctx, ref, set.Mirrors, origin, access)
}

// places are those of a repository.
func places(ref pull.Reference, access pull.Access) (*hosts.Set, error) {
	finder := hosts.Finder{Mirrors: access.Mirrors, CertDir: access.CertDir}
	set, err := finder.Find(ref.Host, ref.Path, ref.Tag, ref.Digest)
	return set, blocked(err)
}

// ownPlace is that of what is not read.
func ownPlace(ref pull.Reference, access pull.Access) (*hosts.Endpoint, error) {
	finder := hosts.Finder{CertDir: access.CertDir}
	place, err := finder.Own(ref.Host, ref.Path, ref.Tag)
	return place, blocked(err)
}

func blocked(err error) error {
	var b *hosts.BlockedError
	if errors.As(err, &b) {
		return &pull.BlockedError{Name: b.Name, File: b.File}
	}
	return err
}

// scope is what a token is asked for. Source: distribution, docs/spec/auth/scope.md.
func scope(repository, actions string) string { return "repository:" + repository + ":" + actions }

func pullScope(repository string) []string { return []string{scope(repository, transport.PullScope)} }

// open makes the client of one place. scopes gives those of the repository by its name there.
func open(ctx context.Context, ref pull.Reference, place hosts.Endpoint, access pull.Access, scopes func(repository string) []string) (*client, error) {
	c := &client{ref: ref, place: place, host: place.Host, where: place.Host, scheme: place.Scheme, patience: access.Patience, scopes: scopes(place.Repository)}
	if c.where == pull.Hub {
		c.where = name.DefaultRegistry
	}
	var err error
	if access.Login != nil {
		c.creds = credentials(*access.Login)
	} else if c.creds, err = (&auth.Finder{Warn: access.Warn, File: access.AuthFile}).Find(ctx, place.Host, place.Repository); err != nil {
		return nil, err
	}
	c.anonymous = c.creds == authn.Anonymous
	r := rules{registry: c.where, root: place.Root, plain: place.Scheme == "http", unverified: place.Unverified, header: place.Header, connect: 15 * time.Second, idle: c.patience.Idle}
	r.insecure = func(host string) bool {
		return host == c.where && place.Insecure || access.Insecure != nil && (access.Insecure(host) || host == c.where && access.Insecure(place.Host))
	}
	if r.roots, err = authorities(place.Authorities); err != nil {
		return nil, err
	}
	if r.pairs, err = clientCertificates(place.Pairs); err != nil {
		return nil, err
	}
	c.guard = newGuard(r)
	c.bottom = transport.NewUserAgent(&tokens{next: &retry{next: &brief{c.guard, place.Root, c.patience.Idle}, patience: c.patience}, registry: c.where, root: place.Root, idle: c.patience.Idle}, userAgent)
	c.http = c.over(c.bottom)
	if c.scheme == "" && !c.guard.mayPlain(c.where) {
		c.scheme = "https"
	}
	return c, nil
}

// Close closes what is connected.
func (c *client) Close() error {
	c.guard.close()
	return nil
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
		if err == nil || try == c.patience.Again() || !transfer.Passing(err) || ctx.Err() != nil {
			return raw, mediaType, err
		}
		if err := transfer.Wait(ctx, transfer.Jitter(c.patience.Wait(try))); err != nil {
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
	return image(ctx, c.ref, want, c.patience, c)
}

// A reader has one repository's documents and blobs.
type reader interface {
	document(ctx context.Context, identifier string) (raw []byte, mediaType string, err error)
	opener(d manifest.Descriptor) opener
}

// An opener opens one blob from an offset to another; see manifest.Layer.
type opener func(ctx context.Context, from, to int64) (io.ReadCloser, error)

// image is that of a reference, of which nothing is read yet but the manifest.
func image(ctx context.Context, ref pull.Reference, want manifest.Want, patience transfer.Patience, from reader) (*manifest.Image, error) {
	raw, mediaType, err := from.document(ctx, identifier(ref))
	if err != nil {
		return nil, err
	}
	digest, _, err := v1.SHA256(strings.NewReader(string(raw)))
	if err != nil {
		return nil, err
	}
	if ref.Digest != "" {
		if digest, err = v1.NewHash(ref.Digest); err != nil {
			return nil, err
		}
		if err := manifest.VerifyDigest(raw, digest); err != nil {
			return nil, err
		}
	}
	doc, m, kept, err := manifest.Resolve(ctx, raw, mediaType, want, func(ctx context.Context, d manifest.Descriptor) ([]byte, error) {
		b, _, err := from.document(ctx, d.Digest.String())
		return b, err
	})
	if err != nil {
		return nil, err
	}
	i := &manifest.Image{Digest: digest, Kept: kept, ConfigDigest: doc.Config.Digest}
	if i.Manifest, _, err = v1.SHA256(strings.NewReader(string(m))); err != nil {
		return nil, err
	}
	i.Config = func(ctx context.Context) ([]byte, error) {
		return config(ctx, doc.Config, patience, from.opener(doc.Config))
	}
	for _, l := range doc.Layers {
		open := from.opener(l)
		i.Layers = append(i.Layers, manifest.Layer{Digest: l.Digest, Size: l.Size, Range: open,
			Open: func(ctx context.Context, offset int64) (io.ReadCloser, error) { return open(ctx, offset, l.Size) }})
	}
	return i, nil
}

// config reads a config blob whole.
func config(ctx context.Context, d manifest.Descriptor, patience transfer.Patience, open opener) ([]byte, error) {
	r := transfer.NewBody(ctx, d.Size, patience, func(ctx context.Context, offset int64) (io.ReadCloser, error) { return open(ctx, offset, d.Size) })
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, d.Size+1))
	if err != nil {
		return nil, fmt.Errorf("config: %w", err)
	}
	return b, manifest.Verify(b, d)
}

func (c *client) opener(d manifest.Descriptor) opener {
	return func(ctx context.Context, from, to int64) (io.ReadCloser, error) { return c.blob(ctx, d, from, to) }
}

// blob opens a blob from an offset to another. A server that does not know Range sends all of
// it again: what was read before is skipped if the rest is wanted, and a part in between is
// transfer.ErrNoRange. One that knows it wrongly, and sends another part or none, is asked for all of it.
func (c *client) blob(ctx context.Context, d manifest.Descriptor, offset, to int64) (io.ReadCloser, error) {
	return c.blobBy(ctx, d, offset, to, offset > 0 || to < d.Size)
}

func (c *client) blobBy(ctx context.Context, d manifest.Descriptor, offset, to int64, byRange bool) (io.ReadCloser, error) {
	header := http.Header{}
	if byRange {
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
	case res.StatusCode == http.StatusPartialContent && byRange &&
		strings.HasPrefix(res.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(offset, 10)+"-"):
		return res.Body, nil
	case byRange && (res.StatusCode == http.StatusPartialContent || res.StatusCode == http.StatusRequestedRangeNotSatisfiable):
		res.Body.Close()
		if to < d.Size {
			return nil, transfer.ErrNoRange
		}
		return c.blobBy(ctx, d, offset, to, false)
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
