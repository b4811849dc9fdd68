package pull

import (
	"fmt"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// A Reference names an image. Exactly one of the three forms is set: a
// repository of a registry (Host), an image id (ID), or a source (Transport).
type Reference struct {
	Host   string // registry with its port, docker.io for Docker Hub
	Path   string // repository: library/alpine
	Tag    string // empty only beside a Digest
	Digest string // "sha256:…"; decides where there is a Tag too

	ID string // 64 hex digits: an image of the store

	Transport string // "oci", "oci-archive", "docker-archive", "dir", "builtin"
	Rest      string // what followed the colon
}

// Hub is the host of Docker Hub in a Reference.
const Hub = "docker.io"

const (
	defaultTag = "latest"
	maxPath    = 255 // distribution/reference, RepositoryNameTotalLengthMax
	maxTag     = 128
)

// transports are the words that name a source where a host could stand.
var transports = [...]string{"oci", "oci-archive", "docker-archive", "dir", "builtin"}

// A ReferenceError is a name that is no reference.
type ReferenceError struct {
	Name string
	Why  string
}

func (e *ReferenceError) Error() string { return fmt.Sprintf("reference %q: %s", e.Name, e.Why) }

// ParseReference reads an image's name by docker's rules: the first part is a
// registry only if it has a "." or ":" or is localhost; without a registry it is
// docker.io, without a namespace there library/, without a tag latest. Unlike docker
// it refuses an upper-case first part, which docker takes for a host.
//
// transport:rest is a source of another kind, for the transports of this package.
// 64 hex digits, with or without sha256:, are an image id.
// Source: github.com/distribution/reference v0.6.0, normalize.go and regexp.go.
func ParseReference(s string) (Reference, error) {
	fail := func(why string) (Reference, error) { return Reference{}, &ReferenceError{Name: clip(s), Why: why} }
	if t, rest, ok := strings.Cut(s, ":"); ok {
		for _, known := range transports {
			if t == known && rest != "" && !strings.HasPrefix(rest, "//") && (t == "builtin" || !port(rest)) {
				return Reference{Transport: t, Rest: rest}, nil
			}
		}
	}
	if hex := strings.TrimPrefix(s, "sha256:"); len(hex) == 64 && isHex(hex) {
		return Reference{ID: hex}, nil
	}
	if s == "" {
		return fail("it is empty")
	}
	r := Reference{Host: Hub}
	rest := s
	if first, after, ok := strings.Cut(s, "/"); ok && (first == "localhost" || strings.ContainsAny(first, ".:")) {
		if r.Host, rest = first, after; first == "index.docker.io" {
			r.Host = Hub
		}
		if !host(first) {
			return fail("the registry " + clip(first) + " is no host name")
		}
	}
	if name, digest, ok := strings.Cut(rest, "@"); ok {
		if _, err := v1.NewHash(digest); err != nil {
			return fail("the digest must be sha256: and 64 lower-case hex digits, or sha512: and 128")
		}
		rest, r.Digest = name, digest
	}
	if name, tag, ok := strings.Cut(rest, ":"); ok {
		if !validTag(tag) {
			return fail("the tag must be letters, digits, _, . and -, beginning with none of the last two, up to 128")
		}
		rest, r.Tag = name, tag
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = defaultTag
	}
	if r.Host == Hub && !strings.Contains(rest, "/") {
		rest = "library/" + rest
	}
	r.Path = rest
	switch {
	case strings.ToLower(rest) != rest:
		return fail("the name must be lower case")
	case len(rest) > maxPath:
		return fail(fmt.Sprintf("the name must not be longer than %d bytes", maxPath))
	}
	for part := range strings.SplitSeq(rest, "/") {
		if !component(part) {
			return fail("each part of the name must be letters and digits, with single . _ or __ or dashes between them")
		}
	}
	return r, nil
}

// String is the full form; a digest stands without its tag, which it outranks.
func (r Reference) String() string {
	switch {
	case r.Transport != "":
		return r.Transport + ":" + r.Rest
	case r.ID != "":
		return "sha256:" + r.ID
	case r.Digest != "":
		return r.Host + "/" + r.Path + "@" + r.Digest
	}
	return r.Host + "/" + r.Path + ":" + r.Tag
}

// Familiar is the form that people type: alpine:latest.
func (r Reference) Familiar() string { return Familiar(r.String()) }

// Familiar shortens a full reference, or returns what is none unchanged.
func Familiar(full string) string {
	rest, ok := strings.CutPrefix(full, Hub+"/")
	if !ok {
		return full
	}
	if name, ok := strings.CutPrefix(rest, "library/"); ok && !strings.Contains(name, "/") {
		return name
	}
	return rest
}

// clip bounds what an error repeats of an input.
func clip(s string) string {
	if len(s) > 300 {
		return s[:300] + "…"
	}
	return s
}

func alnum(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' }

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}

// port says whether s begins as what follows a host's colon: digits and a slash.
func port(s string) bool {
	digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
	return digits > 0 && digits < len(s) && s[digits] == '/'
}

// component: [a-z0-9]+((?:[._]|__|[-]+)[a-z0-9]+)*
func component(s string) bool {
	for i := 0; i < len(s); {
		start := i
		for i < len(s) && alnum(s[i]) {
			i++
		}
		if i == start {
			return false
		}
		if i == len(s) {
			return true
		}
		switch c := s[i]; {
		case c == '-':
			for i < len(s) && s[i] == '-' {
				i++
			}
		case c == '_' && i+1 < len(s) && s[i+1] == '_':
			i += 2
		case c == '_' || c == '.':
			i++
		default:
			return false
		}
	}
	return false
}

// validTag: [\w][\w.-]{0,127}
func validTag(s string) bool {
	for i := 0; i < len(s); i++ {
		c := s[i]
		word := alnum(c) || 'A' <= c && c <= 'Z' || c == '_'
		if !word && (i == 0 || c != '.' && c != '-') {
			return false
		}
	}
	return 0 < len(s) && len(s) <= maxTag
}

// host: a name or an IPv6 address in brackets, and perhaps a port.
func host(s string) bool {
	if rest, ok := strings.CutPrefix(s, "["); ok {
		address, after, ok := strings.Cut(rest, "]")
		if !ok || address == "" || strings.Trim(address, "0123456789abcdefABCDEF:") != "" {
			return false
		}
		return after == "" || after[0] == ':' && digits(after[1:])
	}
	name, p, ok := strings.Cut(s, ":")
	if ok && !digits(p) {
		return false
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" || part[0] == '-' || part[len(part)-1] == '-' {
			return false
		}
		for i := 0; i < len(part); i++ {
			if c := part[i]; !alnum(c) && c != '-' && (c < 'A' || c > 'Z') {
				return false
			}
		}
	}
	return true
}

func digits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
