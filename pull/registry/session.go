package registry

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// over is a client over a transport. Redirects are followed up to ten; which, the guard decides.
func (c *client) over(rt http.RoundTripper) *http.Client {
	return &http.Client{Transport: rt, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return &RefusedError{via[0].URL.Host, "more than ten redirects"}
		}
		return nil
	}}
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
	req, err := http.NewRequestWithContext(ctx, method, c.url(c.place.Repository+path), nil)
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

// url is that of a path of the API.
func (c *client) url(path string) string {
	u := c.scheme + "://" + c.where + c.place.Root + path
	if c.place.Namespace != "" {
		u += "?ns=" + url.QueryEscape(c.place.Namespace)
	}
	return u
}

// settleScheme finds out whether a host that may be plain is. It costs a handshake.
func (c *client) settleScheme(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.scheme != "" {
		return nil
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+c.where+c.place.Root, nil)
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
	rt, err := transport.NewWithContext(ctx, registry, c.creds, &oneScheme{c.where, c.scheme, c.place.Root, c.bottom}, c.scopes)
	if err != nil {
		return c.fault(ctx, err)
	}
	c.http = c.over(rt)
	return nil
}

// oneScheme holds requests to the registry to the scheme that was settled:
// go-containerregistry tries both on hosts that it takes for local, and takes any
// error of one for a reason to try the other. It also knows one path of the API alone.
type oneScheme struct {
	where, scheme, root string
	next                http.RoundTripper
}

func (o *oneScheme) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host == o.where && req.URL.Scheme != o.scheme {
		return nil, &RefusedError{req.URL.Scheme + "://" + req.URL.Host, "the registry is spoken to by " + o.scheme}
	}
	if req.URL.Host == o.where && req.URL.Path == "/v2/" && o.root != "/v2/" {
		req = req.Clone(req.Context())
		req.URL.Path = o.root
	}
	return o.next.RoundTrip(req)
}
