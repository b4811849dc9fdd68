package registry

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"

	"github.com/google/go-containerregistry/pkg/authn"

	"skiff/pull"
)

// authorities is the system's pool with those of some files in it; nil if there
// are none, for the system's alone.
func authorities(files []string) (*x509.CertPool, error) {
	if len(files) == 0 {
		return nil, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool() // a machine without one
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if !pool.AppendCertsFromPEM(b) {
			return nil, fmt.Errorf("read %s: no PEM certificate is in it", file)
		}
	}
	return pool, nil
}

// clientCertificates reads pairs of files.
func clientCertificates(pairs [][2]string) ([]tls.Certificate, error) {
	var all []tls.Certificate
	for _, p := range pairs {
		c, err := tls.LoadX509KeyPair(p[0], p[1])
		if err != nil {
			return nil, fmt.Errorf("client certificate %s: %w", p[0], err)
		}
		all = append(all, c)
	}
	return all, nil
}

// credentials are a login's. <token> for a user is how credential helpers mark an identity token.
func credentials(l pull.Login) authn.Authenticator {
	if l.User == "<token>" {
		return authn.FromConfig(authn.AuthConfig{IdentityToken: l.Password})
	}
	return authn.FromConfig(authn.AuthConfig{Username: l.User, Password: l.Password})
}
