package registry

import (
	"context"
	"errors"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"

	"skiff/pull"
	"skiff/pull/auth"
)

// OpenLogins keeps logins in the files that pulls look into.
func OpenLogins(access pull.Access) pull.Logins {
	return &logins{access, auth.Finder{Warn: access.Warn, File: access.AuthFile}}
}

type logins struct {
	access pull.Access
	files  auth.Finder
}

// Check is a pull.Logins's. A registry that lets everybody in takes any login.
func (l *logins) Check(ctx context.Context, s pull.Scope, login pull.Login) error {
	ref := pull.Reference{Host: s.Host, Path: s.Path}
	place, err := ownPlace(ref, l.access)
	if err != nil {
		return err
	}
	access := l.access
	access.Login = &login
	c, err := open(ctx, ref, *place, access, func(string) []string { return nil })
	if err != nil {
		return err
	}
	defer c.Close()
	err = c.ping(ctx)
	var refused *pull.UnauthorizedError
	if errors.As(err, &refused) {
		return &pull.LoginError{Registry: s.Host, User: login.User, Err: refused.Err}
	}
	return err
}

// ping asks for the API's root with the client's login.
func (c *client) ping(ctx context.Context) error {
	if err := c.settleScheme(ctx); err != nil {
		return err
	}
	if err := c.login(ctx, c.http); err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.url(""), nil)
	if err != nil {
		return err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return c.fault(ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return c.status(res)
	}
	return nil
}

// Stored is a pull.Logins's.
func (l *logins) Stored(ctx context.Context, s pull.Scope) (*pull.Login, error) {
	files := l.files
	a, err := files.Find(ctx, s.Host, s.Path)
	if files.Missing(err) {
		return nil, nil // --authfile names one that is yet to be
	}
	if err != nil || a == authn.Anonymous {
		return nil, err
	}
	c, err := a.Authorization()
	switch {
	case err != nil:
		return nil, err
	case c.IdentityToken != "":
		return &pull.Login{User: "<token>", Password: c.IdentityToken}, nil
	case c.Username == "":
		return nil, nil // a token of the registry's, which is no login
	}
	return &pull.Login{User: c.Username, Password: c.Password}, nil
}

// Keep is a pull.Logins's.
func (l *logins) Keep(ctx context.Context, s pull.Scope, login pull.Login) (string, bool, error) {
	return l.files.Keep(ctx, s.Host, s.Path, login.User, login.Password)
}

// Forget is a pull.Logins's.
func (l *logins) Forget(ctx context.Context, s pull.Scope) (bool, error) {
	return l.files.Forget(ctx, s.Host, s.Path)
}

// ForgetAll is a pull.Logins's.
func (l *logins) ForgetAll(ctx context.Context) error { return l.files.ForgetAll(ctx) }
