package pull

import (
	"context"
	"fmt"
)

// Logins keeps the user's logins where skiff, docker and podman find them. registry.OpenLogins
// makes one. A scope is the host of a registry and perhaps a namespace of it: quay.io/me.
type Logins interface {
	// Check asks the registry whether it takes a login; *LoginError if it does not.
	Check(ctx context.Context, scope Scope, l Login) error
	// Stored is the login that a pull from there would use, or nil.
	Stored(ctx context.Context, scope Scope) (*Login, error)
	// Keep stores a login. where is a file or a credential helper; open: as it is, for all who may read the file.
	Keep(ctx context.Context, scope Scope, l Login) (where string, open bool, err error)
	// Forget removes the login of a scope from where Keep stores it, and says whether there was one.
	Forget(ctx context.Context, scope Scope) (bool, error)
	// ForgetAll removes all that are there.
	ForgetAll(ctx context.Context) error
}

// A Scope is what a login is for.
type Scope struct {
	Host string // docker.io for Docker Hub
	Path string // a namespace or repository, or ""
}

func (s Scope) String() string {
	if s.Path == "" {
		return s.Host
	}
	return s.Host + "/" + s.Path
}

// A LoginError is a registry that does not take a login.
type LoginError struct {
	Registry, User string
	Err            error
}

func (e *LoginError) Error() string {
	return fmt.Sprintf("registry %s does not take this user name and password", e.Registry)
}
func (e *LoginError) Unwrap() error { return e.Err }
