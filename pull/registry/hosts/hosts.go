// Package hosts finds out where a repository may be read from, and how it is
// spoken to there, from the files that podman's, containerd's and docker's users know.
//
//	registries.conf  [[registry]]: prefix, location, mirror, insecure, blocked
//	hosts.toml       containerd's certs.d: server, [host."URL"]
//	certs.d          docker's and podman's authorities and client certificates
//
// Mirrors are asked in this order: the user's own (--mirror, then SKIFF_MIRRORS), those
// of registries.conf, those of hosts.toml; and then the origin.
//
// A file that is there and cannot be read or understood is an error that names
// it: it might have blocked what is asked for.
//
// Limits: it makes no connection and opens no certificate. unqualified-search-registries and aliases
// are not read: a short name is always docker.io's. Of hosts.toml dial_timeout is not read.
package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
)

// An Endpoint is a place from which a repository may be read.
type Endpoint struct {
	Host       string // with its port; as in a reference, docker.io for Docker Hub
	Scheme     string // http, https, or "" where the host decides
	Root       string // the API's path: "/v2/"
	Repository string // its name there

	Insecure   bool // plain http is allowed, and any certificate
	Unverified bool // any certificate is allowed

	Authorities []string    // files of PEM certificates that are trusted beside the system's
	Pairs       [][2]string // files of a client certificate and its key
	Header      http.Header // sent to this host, and to no other
	Namespace   string      // containerd's ns=: the registry that a mirror stands for, or ""

	Tags bool // it may be asked for a tag, and not only for what has a digest
}

// A Set is all places of one repository.
type Set struct {
	Mirrors []Endpoint // in the order in which they are asked
	Origin  Endpoint
}

// A BlockedError is a registry that a file forbids.
type BlockedError struct{ Name, File string }

func (e *BlockedError) Error() string { return fmt.Sprintf("%s is blocked by %s", e.Name, e.File) }

// A Finder reads the files. Its zero value is for the process's user and environment.
type Finder struct {
	Mirrors []string // REGISTRY=URL, before all others
	CertDir string   // instead of certs.d; for the origin and mirrors alike

	Getenv func(string) string // os.Getenv if nil
	Etc    string              // /etc if empty
}

// Find returns the places of a repository, of which an image is asked for that has
// a tag, a digest, or both. The files are read each time.
func (f *Finder) Find(host, repository, tag, digest string) (*Set, error) {
	name := host + "/" + repository
	set := &Set{Origin: Endpoint{Host: host, Repository: repository}}
	for _, list := range [][]string{f.Mirrors, split(f.env("SKIFF_MIRRORS"))} {
		own, err := mirrorsOf(list, name)
		if err != nil {
			return nil, err
		}
		set.Mirrors = append(set.Mirrors, own...)
	}
	conf, err := f.registries()
	if err != nil {
		return nil, err
	}
	moved := false
	if r := conf.find(name, ":"+tag, "@"+digest); r != nil {
		if r.Blocked {
			return nil, &BlockedError{r.Prefix, r.file}
		}
		set.Mirrors = append(set.Mirrors, r.mirrors(name, digest != "")...)
		set.Origin = r.origin(name)
		moved = set.Origin.Host != host
	}
	if !moved {
		if err := f.containerd(set, host, repository); err != nil {
			return nil, err
		}
	}
	for i := range set.Mirrors {
		if err := f.complete(&set.Mirrors[i]); err != nil {
			return nil, err
		}
	}
	set.Origin.Tags = true
	return set, f.complete(&set.Origin)
}

// Own returns the registry's own host, for what is not read: pushes and logins. How it is
// spoken to counts; that its images are read elsewhere does not.
func (f *Finder) Own(host, repository, tag string) (*Endpoint, error) {
	set, err := f.Find(host, repository, tag, "")
	if err != nil {
		return nil, err
	}
	e := &set.Origin
	if e.Host != host {
		e = &Endpoint{Host: host}
		err = f.complete(e)
	}
	e.Repository = repository
	return e, err
}

// complete adds the certificates of the host, and what is the same for most.
func (f *Finder) complete(e *Endpoint) error {
	if e.Root == "" {
		e.Root = "/v2/"
	}
	if f.CertDir != "" {
		return e.certificates(f.CertDir, true)
	}
	for _, d := range f.certDirs() {
		if _, err := os.Stat(filepath.Join(d, e.Host)); err == nil {
			return e.certificates(filepath.Join(d, e.Host), false)
		}
	}
	return nil
}

// certDirs are where a directory of a host's name may be; the first is taken.
// Source: containers-certs.d(5); docker's "Verify repository client with certificates".
func (f *Finder) certDirs() []string {
	var dirs []string
	if c := f.config(); c != "" {
		dirs = append(dirs, filepath.Join(c, "containers/certs.d"), filepath.Join(c, "docker/certs.d"))
	}
	return append(dirs, filepath.Join(f.etc(), "containers/certs.d"), filepath.Join(f.etc(), "docker/certs.d"))
}

// certificates takes what a directory has: NAME.crt is an authority, NAME.cert
// and NAME.key are the client's. Only a directory that the user gave must be readable.
func (e *Endpoint) certificates(dir string, given bool) error {
	list, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrPermission) && !given {
		return nil // it is root's own, and of no use to us
	}
	if err != nil {
		return err
	}
	have := map[string]bool{}
	for _, f := range list {
		have[f.Name()] = true
	}
	for _, f := range list {
		path := filepath.Join(dir, f.Name())
		base, ext := strings.TrimSuffix(f.Name(), filepath.Ext(f.Name())), filepath.Ext(f.Name())
		switch {
		case ext == ".crt":
			e.Authorities = append(e.Authorities, path)
		case ext == ".cert" && !have[base+".key"]:
			return fmt.Errorf("%s has no key: %s is missing", path, base+".key")
		case ext == ".key" && !have[base+".cert"]:
			return fmt.Errorf("%s has no certificate: %s is missing (an authority's is named .crt)", path, base+".cert")
		case ext == ".cert":
			e.Pairs = append(e.Pairs, [2]string{path, filepath.Join(dir, base+".key")})
		}
	}
	return nil
}

func (f *Finder) env(key string) string {
	if f.Getenv != nil {
		return f.Getenv(key)
	}
	return os.Getenv(key)
}

func (f *Finder) etc() string {
	if f.Etc != "" {
		return f.Etc
	}
	return "/etc"
}

// config is the directory of the user's own configuration, or "".
func (f *Finder) config() string {
	if dir := f.env("XDG_CONFIG_HOME"); dir != "" {
		return dir
	}
	if home := f.env("HOME"); home != "" {
		return filepath.Join(home, ".config")
	}
	return ""
}
