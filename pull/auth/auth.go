// Package auth finds and keeps the credentials that the user has for a registry,
// in docker's and podman's files and credential helpers.
//
// The first file that has something for the registry wins:
//
//  1. $REGISTRY_AUTH_FILE, if it is set
//  2. $DOCKER_AUTH_CONFIG, which is no file but the content of one like docker's, as
//     CI runners set it and docker's client reads it
//  3. $DOCKER_CONFIG/config.json, or ~/.docker/config.json without the variable;
//     a directory without the file is an empty one
//  4. $XDG_RUNTIME_DIR/containers/auth.json, or /run/containers/<uid>/auth.json
//  5. $XDG_CONFIG_HOME/containers/auth.json, or ~/.config/containers/auth.json
//
// In one file, credHelpers for exactly this host come before auths, and auths before
// credsStore, unless the entry in auths is empty, which is how docker marks what its credsStore has.
// A key names a host; podman's may name a repository or a namespace too (quay.io/me), and
// the longest that fits wins. Docker Hub has four names, one of them docker's "https://index.docker.io/v1/".
//
// A file that is there and cannot be read or understood is an error, and so is a helper that fails: going on
// without the credentials would ask as somebody else.
//
// Keep stores a login in the first of these files, which is where Find looks first.
//
// Limits: the environment and the files are trusted to be the user's.
package auth

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// hubKey is docker's name for Docker Hub in its files and to its helpers.
const hubKey = "https://index.docker.io/v1/"

// maxFile bounds a credentials file.
const maxFile = 4 << 20

// A Finder finds credentials. Its zero value looks at the process's environment.
type Finder struct {
	// Getenv is os.Getenv if nil.
	Getenv func(string) string
	// File is read instead of all the others, and must be there.
	File string
	// Warn is told what the user should know, as a file that others may read.
	Warn func(string)
}

type file struct {
	Auths       map[string]entry  `json:"auths"`
	CredHelpers map[string]string `json:"credHelpers"`
	CredsStore  string            `json:"credsStore"`
}

type entry struct {
	Auth          string `json:"auth"`
	Username      string `json:"username"`
	Password      string `json:"password"`
	IdentityToken string `json:"identitytoken"`
	RegistryToken string `json:"registrytoken"`
}

// Find returns the credentials for a repository of a registry, or
// authn.Anonymous if there are none. host has its port, and is docker.io for Docker Hub.
func (f *Finder) Find(ctx context.Context, host, repository string) (authn.Authenticator, error) {
	for _, path := range f.sources() {
		c, err := f.read(path)
		if errors.Is(err, fs.ErrNotExist) && f.File == "" {
			continue
		}
		if err != nil {
			return nil, err
		}
		cfg, err := f.in(ctx, c, host, repository)
		if err != nil {
			return nil, fmt.Errorf("credentials of %s: %w", host, err)
		}
		if cfg != nil {
			return authn.FromConfig(*cfg), nil
		}
	}
	return authn.Anonymous, nil
}

// Files are the files that Find would read and that there are, in its order.
func (f *Finder) Files() (list []string) {
	for _, path := range f.paths() {
		if _, err := os.Stat(path); err == nil {
			list = append(list, path)
		}
	}
	return list
}

// inEnvironment stands for $DOCKER_AUTH_CONFIG among the files.
const inEnvironment = "DOCKER_AUTH_CONFIG"

// sources are the files, and the variable that is one, in the order of the package comment.
func (f *Finder) sources() []string {
	list := f.paths()
	if f.File != "" || f.env(inEnvironment) == "" {
		return list
	}
	at := 0
	if f.env("REGISTRY_AUTH_FILE") != "" {
		at = 1
	}
	return slices.Insert(list, at, inEnvironment)
}

func (f *Finder) env(name string) string {
	if f.Getenv != nil {
		return f.Getenv(name)
	}
	return os.Getenv(name)
}

// paths lists the files in the order of the package comment.
func (f *Finder) paths() []string {
	if f.File != "" {
		return []string{f.File}
	}
	env := f.env
	home := env("HOME")
	var list []string
	add := func(dir string, names ...string) {
		if dir != "" {
			list = append(list, filepath.Join(append([]string{dir}, names...)...))
		}
	}
	add(env("REGISTRY_AUTH_FILE"))
	if dir := env("DOCKER_CONFIG"); dir != "" {
		add(dir, "config.json")
	} else {
		add(home, ".docker", "config.json")
	}
	if dir := env("XDG_RUNTIME_DIR"); dir != "" {
		add(dir, "containers", "auth.json")
	} else {
		add("/run/containers", strconv.Itoa(os.Getuid()), "auth.json")
	}
	if dir := env("XDG_CONFIG_HOME"); dir != "" {
		add(dir, "containers", "auth.json")
	} else {
		add(home, ".config", "containers", "auth.json")
	}
	return list
}

func (f *Finder) read(path string) (*file, error) {
	if path == inEnvironment {
		return parseFile(path, []byte(f.env(path)))
	}
	r, err := os.Open(path)
	if err != nil {
		if errors.Is(err, fs.ErrPermission) && os.Getuid() != 0 && strings.HasPrefix(path, "/run/containers/") {
			return nil, fs.ErrNotExist // another user's
		}
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, fmt.Errorf("read %s: longer than %d bytes", path, maxFile)
	}
	c, err := parseFile(path, b)
	if err != nil {
		return nil, err
	}
	if info, err := r.Stat(); err == nil && info.Mode()&0o077 != 0 && f.Warn != nil {
		for _, e := range c.Auths {
			if e != (entry{}) {
				f.Warn(fmt.Sprintf("%s holds credentials and others may read it; chmod 600 it", path))
				break
			}
		}
	}
	return c, nil
}

func parseFile(name string, b []byte) (*file, error) {
	c := new(file)
	if len(strings.TrimSpace(string(b))) == 0 {
		return c, nil
	}
	if err := json.Unmarshal(b, c); err != nil {
		// The cause may quote the file, and the file holds secrets.
		return nil, fmt.Errorf("read %s: it is not a docker config or podman auth file", name)
	}
	return c, nil
}

// in looks one file up; nil is nothing found.
func (f *Finder) in(ctx context.Context, c *file, host, repository string) (*authn.AuthConfig, error) {
	for key, helper := range c.CredHelpers {
		if sameHost(key, host) {
			return ask(ctx, helper, serverURL(host))
		}
	}
	best, found := "", entry{}
	for key, e := range c.Auths {
		if fits(key, host, repository) && (best == "" || rank(key) > rank(best) || rank(key) == rank(best) && key > best) {
			best, found = key, e
		}
	}
	if found != (entry{}) {
		return found.config()
	}
	if c.CredsStore != "" {
		return ask(ctx, c.CredsStore, serverURL(host))
	}
	return nil, nil
}

func (e entry) config() (*authn.AuthConfig, error) {
	c := &authn.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken, RegistryToken: e.RegistryToken}
	if e.Auth != "" {
		b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(e.Auth))
		if err != nil {
			b, err = base64.RawStdEncoding.DecodeString(strings.TrimSpace(e.Auth))
		}
		user, password, ok := strings.Cut(string(b), ":")
		if err != nil || !ok {
			return nil, errors.New(`"auth" is not base64 of user:password`)
		}
		// docker pads the password with NULs in old files.
		c.Username, c.Password = user, strings.TrimRight(password, "\x00")
	}
	return c, nil
}

// hub says whether a host is Docker Hub under one of its names.
func hub(host string) bool {
	switch host {
	case "docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com":
		return true
	}
	return false
}

// split takes a key apart: the host, and a path below it. docker's keys may be URLs,
// whose /v1/ and /v2/ are no path.
func split(key string) (host, path string) {
	key = strings.TrimPrefix(strings.TrimPrefix(key, "https://"), "http://")
	host, path, _ = strings.Cut(key, "/")
	path = strings.Trim(path, "/")
	if path == "v1" || path == "v2" {
		path = ""
	}
	return host, path
}

func sameHost(key, host string) bool {
	h, path := split(key)
	return path == "" && (h == host || hub(h) && hub(host))
}

func fits(key, host, repository string) bool {
	h, path := split(key)
	if h != host && !(hub(h) && hub(host)) {
		return false
	}
	return path == "" || path == repository || strings.HasPrefix(repository, path+"/")
}

// rank prefers the longer path.
func rank(key string) int {
	_, path := split(key)
	return len(path)
}

func serverURL(host string) string {
	if hub(host) {
		return hubKey
	}
	return host
}
