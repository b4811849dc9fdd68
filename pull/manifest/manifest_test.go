package manifest

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

const hex = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func desc(mediaType string) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":"sha256:%s","size":3}`, mediaType, hex)
}

var good = `{"schemaVersion":2,"mediaType":"` + OCIManifest + `","config":` + desc(OCIConfig) + `,"layers":[` + desc(OCILayer+"+gzip") + `]}`

// SECURITY case 71.
func TestParse(t *testing.T) {
	unsupported, invalid := new(*UnsupportedError), new(*InvalidError)
	layers := func(l string) string {
		return `{"schemaVersion":2,"config":` + desc(OCIConfig) + `,"layers":[` + l + `]}`
	}
	for _, c := range []struct {
		name, declared, body string
		want                 any // nil: it is fine
	}{
		{"image", OCIManifest, good, nil},
		{"declared with a parameter", OCIManifest + "; charset=utf-8", good, nil},
		{"no declaration", "", good, nil},
		{"no declaration, no mediaType", "", layers(desc(DockerLayer)), nil},
		{"zstd and plain", OCIManifest, layers(desc(OCILayer+"+zstd") + "," + desc(OCILayer)), nil},
		{"artifactType of an image", OCIManifest, strings.Replace(good, `"config"`, `"artifactType":"`+OCIConfig+`","config"`, 1), nil},
		{"index", OCIIndex, `{"schemaVersion":2,"manifests":[` + desc(OCIManifest) + `]}`, nil},
		{"declared as an index", OCIIndex, good, invalid},
		{"says another type", DockerManifest, good, invalid},
		{"both kinds", OCIManifest, strings.Replace(good, `"layers"`, `"manifests":[],"layers"`, 1), invalid},
		{"both kinds, as an index", OCIIndex, `{"schemaVersion":2,"manifests":[],"layers":[]}`, invalid},
		{"key twice", OCIManifest, strings.Replace(good, `"layers"`, `"layers":[],"layers"`, 1), invalid},
		{"key twice but for case", OCIManifest, strings.Replace(good, `"layers"`, `"Layers":[],"layers"`, 1), invalid},
		{"key twice, inside", OCIManifest, strings.Replace(good, `"size":3`, `"size":3,"size":4`, 1), invalid},
		{"two documents", OCIManifest, good + good, invalid},
		{"cut", OCIManifest, good[:len(good)-3], invalid},
		{"empty", OCIManifest, ``, invalid},
		{"braces", OCIManifest, `{}`, invalid},
		{"null", OCIManifest, `null`, invalid},
		{"list", OCIManifest, `[]`, invalid},
		{"deep", OCIManifest, `{"a":` + strings.Repeat(`[`, 5000) + strings.Repeat(`]`, 5000) + `}`, invalid},
		{"no layers key", OCIManifest, `{"schemaVersion":2,"config":` + desc(OCIConfig) + `}`, invalid},
		{"digest is a path", OCIManifest, strings.Replace(good, "sha256:"+hex, "../../etc/passwd", 1), invalid},
		{"md5", OCIManifest, strings.Replace(good, "sha256:"+hex, "md5:d41d8cd98f00b204e9800998ecf8427e", 1), invalid},
		{"no digest", OCIManifest, strings.Replace(good, `"digest"`, `"x"`, 1), invalid},
		{"negative size", OCIManifest, strings.Replace(good, `"size":3`, `"size":-3`, 1), invalid},
		{"huge size", OCIManifest, strings.Replace(good, `"size":3`, `"size":99999999999999999999`, 1), invalid},
		{"config too large", OCIManifest, strings.Replace(good, `"size":3`, `"size":41943040`, 1), invalid},
		{"schema 1", schema1Signed, `{"schemaVersion":1,"fsLayers":[]}`, unsupported},
		{"schema 1 as 2", OCIManifest, `{"schemaVersion":2,"fsLayers":[]}`, unsupported},
		{"artifact by type", OCIManifest, strings.Replace(good, `"config"`, `"artifactType":"application/x","config"`, 1), unsupported},
		{"artifact by config", OCIManifest, strings.Replace(good, OCIConfig, "application/vnd.oci.empty.v1+json", 1), unsupported},
		{"foreign layer", OCIManifest, layers(desc("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")), unsupported},
		{"nondistributable layer", OCIManifest, layers(desc("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip")), unsupported},
		{"not a layer", OCIManifest, layers(desc("application/vnd.in-toto+json")), unsupported},
		{"too many layers", OCIManifest, layers(strings.Repeat(desc(OCILayer)+",", 2000) + desc(OCILayer)), invalid},
		{"html", "text/html", `{"schemaVersion":2}`, unsupported},
		{"too large", OCIManifest, `{"a":"` + strings.Repeat("x", MaxManifest) + `"}`, invalid},
	} {
		_, err := Parse([]byte(c.body), c.declared)
		if c.want == nil && err != nil || c.want != nil && !errors.As(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%s: an error of %d bytes", c.name, len(err.Error()))
		}
	}
}

func TestConfig(t *testing.T) {
	ok := `{"os":"linux","config":{"Labels":{"a":"1","A":"2"}},"rootfs":{"type":"layers","diff_ids":["sha256:` + hex + `"]}}`
	if _, err := Config([]byte(ok), 1); err != nil {
		t.Error(err)
	}
	for name, c := range map[string]struct {
		body string
		n    int
	}{
		"another number of layers": {ok, 2},
		"no layers":                {`{"rootfs":{"type":"layers","diff_ids":[]}}`, 0},
		"diff_id is a path":        {strings.Replace(ok, hex, "..", 1), 1},
		"empty diff_id":            {strings.Replace(ok, "sha256:"+hex, "", 1), 1},
		"another type":             {strings.Replace(ok, `"layers"`, `"x"`, 1), 1},
		"no rootfs":                {`{}`, 1},
		"key twice":                {`{"rootfs":{},` + ok[1:], 1},
		"no JSON":                  {`x`, 1},
	} {
		if _, err := Config([]byte(c.body), c.n); err == nil {
			t.Error(name)
		}
	}
}

func TestParsePlatform(t *testing.T) {
	for s, want := range map[string]Platform{
		"linux/amd64":    {"linux", "amd64", ""},
		"linux/arm64/v8": {"linux", "arm64", ""},
		"linux/aarch64":  {"linux", "arm64", ""},
		"linux/arm":      {"linux", "arm", "v7"},
		"linux/arm/6":    {"linux", "arm", "v6"},
		"armhf":          {"linux", "arm", "v7"},
		"linux/x86_64":   {"linux", "amd64", ""},
		"linux/amd64/v1": {"linux", "amd64", ""},
		"amd64/v3":       {"linux", "amd64", "v3"},
		"Linux/S390X":    {"linux", "s390x", ""},
		"windows/amd64":  {"windows", "amd64", ""},
	} {
		if p, err := ParsePlatform(s); err != nil || p != want {
			t.Errorf("%q: %v, %v", s, p, err)
		}
	}
	for _, s := range []string{"", "/", "linux/", "a/b/c/d", "linux/amd64\n", "linux amd64"} {
		if p, err := ParsePlatform(s); err == nil {
			t.Errorf("%q: %v", s, p)
		}
	}
}

func TestAccepts(t *testing.T) {
	for _, c := range []struct {
		want  Platform
		asked bool
		have  Platform
		ok    bool
	}{
		{Platform{"linux", "amd64", "v3"}, true, Platform{"linux", "amd64", "v2"}, true},
		{Platform{"linux", "amd64", "v2"}, true, Platform{"linux", "amd64", "v3"}, false},
		{Platform{"linux", "amd64", ""}, true, Platform{"linux", "386", ""}, false},
		{Platform{"linux", "amd64", ""}, false, Platform{"linux", "386", ""}, true},
		{Platform{"linux", "arm", "v7"}, true, Platform{"linux", "arm", "v6"}, true},
		{Platform{"linux", "arm", "v6"}, true, Platform{"linux", "arm", ""}, false}, // none is v7
		{Platform{"linux", "arm64", ""}, true, Platform{"linux", "arm64", "v8"}, true},
		{Platform{"linux", "arm64", ""}, false, Platform{"linux", "arm", "v7"}, true},
		{Platform{"linux", "riscv64", ""}, true, Platform{"linux", "riscv64", ""}, true},
		{Platform{"linux", "amd64", ""}, false, Platform{"windows", "amd64", ""}, false},
	} {
		if got := (Want{c.want, c.asked}).Accepts(c.have); got != c.ok {
			t.Errorf("%v (asked %v) takes %v: %v", c.want, c.asked, c.have, got)
		}
	}
	if got := level([]byte("x\nflags\t\t: fpu cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3 avx\nbugs: \n")); got != "v2" {
		t.Errorf("level %q", got)
	}
}

// An index that leads only to indexes must end.
func TestNestedIndex(t *testing.T) {
	index := func(depth int) []byte {
		return []byte(fmt.Sprintf(`{"schemaVersion":2,"annotations":{"depth":"%d"},"manifests":[%s]}`, depth, desc(OCIIndex)))
	}
	want := Want{Platform{"linux", "amd64", ""}, true}
	n := 0
	_, _, _, err := Resolve(context.Background(), index(0), OCIIndex, want, func(context.Context, Descriptor) ([]byte, error) {
		n++
		return index(n), nil
	})
	if !errors.As(err, new(*DigestError)) || n != 1 {
		t.Errorf("what is fetched is not verified: %v", err)
	}
	// A true chain, from the inside out.
	docs := map[v1.Hash][]byte{}
	doc, mediaType := []byte(good), OCIManifest
	for range 64 {
		h, size, err := v1.SHA256(strings.NewReader(string(doc)))
		if err != nil {
			t.Fatal(err)
		}
		docs[h] = doc
		doc = []byte(fmt.Sprintf(`{"schemaVersion":2,"manifests":[{"mediaType":%q,"digest":%q,"size":%d}]}`, mediaType, h, size))
		mediaType = OCIIndex
	}
	if _, _, _, err := Resolve(context.Background(), doc, OCIIndex, want, func(_ context.Context, d Descriptor) ([]byte, error) { return docs[d.Digest], nil }); !errors.As(err, new(*InvalidError)) {
		t.Errorf("64 deep: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good), OCIManifest)
	f.Add([]byte(`{"schemaVersion":2,"manifests":[`+desc(OCIManifest)+`]}`), OCIIndex)
	f.Add([]byte(`{"a":[{"b":1}]}`), "")
	f.Fuzz(func(t *testing.T, b []byte, declared string) {
		doc, err := Parse(b, declared)
		if err != nil {
			return
		}
		for _, d := range append(append(doc.Layers, doc.Manifests...), doc.Config) {
			if d.Digest == (v1.Hash{}) && !doc.IsIndex || d.Size < 0 {
				t.Fatalf("%+v", d)
			}
		}
		if doc.IsIndex {
			doc.Choose(Want{Platform{"linux", "amd64", ""}, true})
		}
		Config(b, -1)
	})
}
