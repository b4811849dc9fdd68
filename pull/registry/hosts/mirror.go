package hosts

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
)

// split is for a list in a variable: commas or spaces are between its entries.
func split(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
}

// mirrorsOf takes those of a list of REGISTRY=URL that are for a repository.
// REGISTRY may end in a namespace, and matches as a prefix of registries.conf does. What
// the URL has as path stands before the rest of the name.
func mirrorsOf(list []string, name string) ([]Endpoint, error) {
	var all []Endpoint
	for _, entry := range list {
		e, err := mirrorOf(entry, name)
		if err != nil {
			return nil, err
		}
		if e != nil {
			all = append(all, *e)
		}
	}
	return all, nil
}

func mirrorOf(entry, name string) (*Endpoint, error) {
	prefix, where, ok := strings.Cut(entry, "=")
	if !ok || prefix == "" || where == "" {
		return nil, errors.New("a mirror must be REGISTRY=URL, as in docker.io=https://mirror.example") // the rest may hold a password
	}
	scheme, rest, given := strings.Cut(where, "://")
	if !given {
		scheme, rest = "https", where
	}
	u, err := url.Parse(scheme + "://" + rest)
	switch {
	case err != nil || u.Host == "":
		return nil, fmt.Errorf("mirror of %s: it is no URL", prefix) // which may hold a password
	case u.User != nil:
		return nil, fmt.Errorf("mirror %s=%s://%s: a URL holds no password here; `skiff login %s` stores one", prefix, u.Scheme, u.Host, u.Host)
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("mirror %s=%s://%s: it must be http or https", prefix, u.Scheme, u.Host)
	case u.RawQuery != "" || u.Fragment != "":
		return nil, fmt.Errorf("mirror %s=%s://%s: a URL ends with its path here", prefix, u.Scheme, u.Host)
	}
	prefix = canonical(strings.Trim(prefix, "/"))
	n := match(prefix, name)
	if n < 0 {
		return nil, nil
	}
	e := at(u.Host+strings.TrimSuffix(u.Path, "/"), name[n:])
	if given {
		e.Scheme = u.Scheme // else https, but on loopback
	}
	e.Tags = true
	return &e, nil
}

// canonical is a prefix with Docker Hub's one name.
func canonical(prefix string) string {
	host, path, ok := strings.Cut(prefix, "/")
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		host = "docker.io"
	}
	if ok {
		return host + "/" + path
	}
	return host
}

// match returns how much of a name (HOST/REPOSITORY) a prefix covers, or -1. *. stands
// for one or more parts of a host's name, and nothing else.
// Source: containers-registries.conf(5), "NAMESPACED [[registry]] SETTINGS".
func match(prefix, name string) int {
	n := len(prefix)
	if suffix, ok := strings.CutPrefix(prefix, "*"); ok {
		host, _, _ := strings.Cut(name, "/")
		domain, _, _ := strings.Cut(suffix, "/")
		if bare, _, found := strings.Cut(host, ":"); found && !strings.Contains(domain, ":") {
			host = bare
		}
		if len(host) <= len(domain) || !strings.HasSuffix(host, domain) {
			return -1
		}
		n = len(host) - len(domain) + len(suffix)
		if !strings.HasPrefix(name[len(host)-len(domain):], suffix) {
			return -1
		}
	} else if !strings.HasPrefix(name, prefix) {
		return -1
	}
	if n == len(name) || name[n] == '/' || name[n] == ':' && !strings.Contains(prefix, "/") && strings.HasPrefix(prefix, "*") {
		return n
	}
	return -1
}

// at is the place that a location and the rest of a name make together.
func at(location, rest string) Endpoint {
	if location != "" && strings.HasPrefix(rest, ":") {
		_, rest, _ = strings.Cut(rest, "/") // the port was the old host's
		rest = "/" + rest
	}
	host, path, _ := strings.Cut(location+rest, "/")
	return Endpoint{Host: canonical(host), Repository: path}
}
