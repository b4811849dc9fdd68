package pull

import (
	"errors"
	"strings"
	"testing"

	"github.com/distribution/reference"
)

const digestOf = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

var references = []struct{ name, full, familiar string }{
	{"alpine", "docker.io/library/alpine:latest", "alpine:latest"},
	{"alpine:3.20", "docker.io/library/alpine:3.20", "alpine:3.20"},
	{"me/app", "docker.io/me/app:latest", "me/app:latest"},
	{"docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"},
	{"index.docker.io/alpine", "docker.io/library/alpine:latest", "alpine:latest"},
	{"docker.io/library/a/b", "docker.io/library/a/b:latest", "library/a/b:latest"},
	{"localhost/a", "localhost/a:latest", "localhost/a:latest"},
	{"localhost:5000/a:b", "localhost:5000/a:b", "localhost:5000/a:b"},
	{"quay.io/a/b/c:v1.0", "quay.io/a/b/c:v1.0", "quay.io/a/b/c:v1.0"},
	{"[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a:latest"},
	{"Quay.IO/a", "Quay.IO/a:latest", "Quay.IO/a:latest"},
	{"a__b/c-d.e_f---g", "docker.io/a__b/c-d.e_f---g:latest", "a__b/c-d.e_f---g:latest"},
	{"alpine:3@" + digestOf, "docker.io/library/alpine@" + digestOf, "alpine@" + digestOf},
	{"quay.io/a@" + digestOf, "quay.io/a@" + digestOf, "quay.io/a@" + digestOf},
}

var notReferences = []string{
	"", " ", "Alpine", "a/B", "alpine:", "alpine:-x", "alpine:" + strings.Repeat("x", 129), "a//b", "/a", "a/", "-a", "a-", "a..b", "a___b", "a@sha256:abc",
	"a@md5:d41d8cd98f00b204e9800998ecf8427e", "a@" + strings.ToUpper(digestOf), "https://quay.io/a", "a b", "a\n", "a\x00", "../a", "./a", "a/../b", "quay.io:x/a", "-q.io/a", "é",
	strings.Repeat("a", 256), "quay.io/" + strings.Repeat("a/", 128) + "a", strings.Repeat("a", 63) + "A", "a:b:c", "a@b@c", "-x", strings.Repeat("x", 4096),
}

func TestReferences(t *testing.T) {
	for _, c := range references {
		r, err := ParseReference(c.name)
		if err != nil {
			t.Errorf("%q: %v", c.name, err)
			continue
		}
		if r.String() != c.full || r.Familiar() != c.familiar {
			t.Errorf("%q: %q, %q", c.name, r, r.Familiar())
		}
		if again, err := ParseReference(r.String()); err != nil || again.String() != r.String() {
			t.Errorf("%q does not come back: %v", r, err)
		}
	}
	for _, s := range notReferences {
		var e *ReferenceError
		if r, err := ParseReference(s); !errors.As(err, &e) {
			t.Errorf("%q: %+v", s, r)
		} else if len(e.Error()) > 600 {
			t.Errorf("an error of %d bytes", len(e.Error()))
		}
	}
	if r, err := ParseReference("oci:5000/a"); err != nil || r.Host != "oci:5000" {
		t.Errorf("a host named oci: %+v, %v", r, err)
	}
}

func TestTransports(t *testing.T) {
	for s, want := range map[string]Reference{
		"oci:dir:tag":            {Transport: "oci", Rest: "dir:tag"},
		"oci:/a/b":               {Transport: "oci", Rest: "/a/b"},
		"oci-archive:./x.tar":    {Transport: "oci-archive", Rest: "./x.tar"},
		"docker-archive:x.tar:a": {Transport: "docker-archive", Rest: "x.tar:a"},
		"builtin:hello":          {Transport: "builtin", Rest: "hello"},
		strings.Repeat("a1", 32): {ID: strings.Repeat("a1", 32)},
		digestOf:                 {ID: strings.TrimPrefix(digestOf, "sha256:")},
	} {
		if r, err := ParseReference(s); err != nil || r != want {
			t.Errorf("%q: %+v, %v", s, r, err)
		}
	}
}

// oracle is what docker makes of a name.
func oracle(s string) (string, bool) {
	n, err := reference.ParseDockerRef(s)
	if err != nil {
		return "", false
	}
	if d, ok := n.(reference.Digested); ok && d.Digest().Algorithm() != "sha256" && d.Digest().Algorithm() != "sha512" {
		return "", false
	}
	return n.String(), true
}

// FuzzReference holds the parser against docker's, but for the differences that
// ParseReference tells.
func FuzzReference(f *testing.F) {
	for _, c := range references {
		f.Add(c.name)
	}
	for _, s := range notReferences {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		first, _, slash := strings.Cut(s, "/")
		if slash && strings.ToLower(first) != first && !strings.ContainsAny(first, ".:") {
			return
		}
		r, err := ParseReference(s)
		if r.Transport != "" || r.ID != "" {
			return
		}
		want, ok := oracle(s)
		if ok != (err == nil) {
			t.Fatalf("%q: %v; docker: %q", s, err, want)
		}
		if ok && r.String() != want {
			t.Fatalf("%q: %q; docker: %q", s, r, want)
		}
		if ok {
			n, _ := reference.ParseDockerRef(s)
			if familiar := reference.FamiliarString(n); r.Familiar() != familiar {
				t.Fatalf("%q: %q; docker: %q", s, r.Familiar(), familiar)
			}
		}
	})
}
