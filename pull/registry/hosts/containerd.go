package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// A hostsFile is containerd's hosts.toml. What stands outside [host] is of the server.
// Source: containerd, docs/hosts.md; core/remotes/docker/config/hosts.go.
type hostsFile struct {
	Server string
	Host   map[string]hostConfig
	hostConfig
}

type hostConfig struct {
	Capabilities []string
	CA           any  // a file or a list of files
	Client       any  // a file with both, a list of these, or a list of pairs of files
	SkipVerify   bool `toml:"skip_verify"`
	OverridePath bool `toml:"override_path"`
	Header       map[string]any
}

// containerd adds what the hosts.toml of a registry says, or that of _default.
func (f *Finder) containerd(set *Set, host, repository string) error {
	var roots []string
	if c := f.config(); c != "" {
		roots = append(roots, filepath.Join(c, "containerd/certs.d"))
	}
	roots = append(roots, filepath.Join(f.etc(), "containerd/certs.d"))
	names := []string{host}
	if name, port, ok := cutPort(host); ok {
		names = append(names, name+"_"+port+"_")
	}
	for _, root := range roots {
		for _, name := range append(names, "_default") {
			dir := filepath.Join(root, name)
			b, err := os.ReadFile(filepath.Join(dir, "hosts.toml"))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) && os.Getuid() != 0 {
				// As in docker's certs.d, there may be certificates alone. A file of root's own is not for us.
				if _, serr := os.Stat(dir); serr == nil && name != "_default" {
					return set.Origin.certificates(dir, false)
				}
				continue
			}
			if err != nil {
				return err
			}
			if err := set.hostsToml(dir, string(b), host, repository); err != nil {
				return fmt.Errorf("read %s: %w", filepath.Join(dir, "hosts.toml"), err)
			}
			return nil
		}
	}
	return nil
}

// cutPort takes a host's port off. An IPv6 address stands in brackets.
func cutPort(host string) (name, port string, ok bool) {
	i := strings.LastIndexByte(host, ':')
	if i < 0 || strings.HasSuffix(host, "]") {
		return host, "", false
	}
	return host[:i], host[i+1:], true
}

func (s *Set) hostsToml(dir, text, host, repository string) error {
	var doc hostsFile
	meta, err := toml.Decode(text, &doc)
	if err != nil {
		return plain(err)
	}
	for _, key := range meta.Keys() { // in the file's order, which a map has not
		if len(key) != 2 || key[0] != "host" {
			continue
		}
		e, err := doc.Host[key[1]].endpoint(dir, key[1], host, repository)
		if err != nil {
			return err
		}
		if e != nil {
			s.Mirrors = append(s.Mirrors, *e)
		}
	}
	server := doc.Server
	if server == "" {
		// The registry itself, with what was said of it.
		e := &s.Origin
		e.Unverified = e.Unverified || doc.SkipVerify
		return doc.dress(e, dir)
	}
	e, err := doc.endpoint(dir, server, host, repository)
	if err != nil {
		return err
	}
	if e == nil {
		return errors.New("the server has not the capability pull")
	}
	e.Insecure = s.Origin.Insecure
	s.Origin = *e
	return nil
}

// endpoint makes one of a URL of the file; nil if nothing is pulled from there.
func (c hostConfig) endpoint(dir, where, host, repository string) (*Endpoint, error) {
	bare := !strings.Contains(where, "://")
	if bare {
		where = "https://" + where
	}
	u, err := url.Parse(where)
	if err != nil || u.Host == "" || u.User != nil || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("a host must be a URL of http or https, without a password")
	}
	e := &Endpoint{Host: canonical(u.Host), Scheme: u.Scheme, Repository: repository, Unverified: c.SkipVerify, Tags: true}
	if bare {
		e.Scheme = "" // https, but on loopback
	}
	root := strings.Trim(u.Path, "/")
	if !c.OverridePath && root != "v2" && !strings.HasSuffix(root, "/v2") {
		root = strings.TrimPrefix(root+"/v2", "/")
	}
	if e.Root = "/" + root + "/"; root == "" {
		e.Root = "/"
	}
	if e.Host != host {
		e.Namespace = host
	}
	if c.Capabilities != nil {
		for _, word := range c.Capabilities {
			if !slices.Contains([]string{"pull", "resolve", "push"}, word) {
				return nil, fmt.Errorf("capability %q is none of pull, resolve, push", word)
			}
		}
		if !slices.Contains(c.Capabilities, "pull") {
			return nil, nil
		}
		e.Tags = slices.Contains(c.Capabilities, "resolve")
	}
	return e, c.dress(e, dir)
}

// dress adds certificates and headers. Their files are relative to the directory.
func (c hostConfig) dress(e *Endpoint, dir string) error {
	abs := func(file string) string {
		if filepath.IsAbs(file) {
			return file
		}
		return filepath.Join(dir, file)
	}
	list, ok := words(c.CA)
	if !ok {
		return errors.New("ca must be a file or a list of files")
	}
	for _, file := range list {
		e.Authorities = append(e.Authorities, abs(file))
	}
	if pairs, ok := c.Client.([]any); ok {
		for _, p := range pairs {
			pair, ok := words(p)
			switch {
			case ok && len(pair) == 1 || ok && len(pair) == 2 && pair[1] == "":
				e.Pairs = append(e.Pairs, [2]string{abs(pair[0]), abs(pair[0])})
			case ok && len(pair) == 2:
				e.Pairs = append(e.Pairs, [2]string{abs(pair[0]), abs(pair[1])})
			default:
				return errors.New("client must be a file, a list of files, or of pairs of certificate and key")
			}
		}
	} else if file, ok := c.Client.(string); ok {
		e.Pairs = append(e.Pairs, [2]string{abs(file), abs(file)})
	} else if c.Client != nil {
		return errors.New("client must be a file, a list of files, or of pairs of certificate and key")
	}
	for key, value := range c.Header {
		values, ok := words(value)
		if !ok {
			return fmt.Errorf("header %q must be a text or a list of texts", key)
		}
		if e.Header == nil {
			e.Header = http.Header{}
		}
		e.Header[http.CanonicalHeaderKey(key)] = values
	}
	return nil
}

// words reads a text, or a list of them.
func words(v any) ([]string, bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case string:
		return []string{v}, true
	case []any:
		var all []string
		for _, w := range v {
			s, ok := w.(string)
			if !ok {
				return nil, false
			}
			all = append(all, s)
		}
		return all, true
	}
	return nil, false
}
