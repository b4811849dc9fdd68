package cli

import (
	"maps"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"skiff/pull/store"
)

func TestMoment(t *testing.T) {
	for text, want := range map[string]time.Time{
		"1700000000":           time.Unix(1700000000, 0),
		"2026-01-31":           time.Date(2026, 1, 31, 0, 0, 0, 0, time.Local),
		"2026-01-31T10:00:00":  time.Date(2026, 1, 31, 10, 0, 0, 0, time.Local),
		"2026-01-31T10:00:00Z": time.Date(2026, 1, 31, 10, 0, 0, 0, time.UTC),
	} {
		if got, err := moment(text); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "tomorrow", "-1h", "30", "2026-13-01"} {
		if got, err := span(text); err == nil {
			t.Errorf("%q is taken for the duration %v", text, got)
		}
	}
	for text, want := range map[string]time.Duration{"30d": 720 * time.Hour, "2w": 336 * time.Hour, "1h30m": 90 * time.Minute} {
		if got, err := span(text); err != nil || got != want {
			t.Errorf("%s: %v, %v", text, got, err)
		}
	}
}

func TestMatches(t *testing.T) {
	id := v1.Hash{Algorithm: "sha256", Hex: strings.Repeat("a", 64)}
	for _, c := range []struct {
		pattern, ref string
		want         bool
	}{
		{"alpine", "docker.io/library/alpine:3", true}, {"alpine:3", "docker.io/library/alpine:3", true},
		{"alp*", "docker.io/library/alpine:3", true}, {"alpine:4", "docker.io/library/alpine:3", false},
		{"docker.io/library/alpine", "docker.io/library/alpine:3", true}, {"*", "h/a/b:1", false},
		{"h/*/b", "h/a/b:1", true}, {"*", id.String(), false},
	} {
		if got := matches(c.pattern, &store.Image{ID: id, Reference: c.ref}); got != c.want {
			t.Errorf("%s and %s: %v", c.pattern, c.ref, got)
		}
	}
}

func TestPlatforms(t *testing.T) {
	digest := func(c string) v1.Hash { return v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(c, 64)} }
	entry := func(c, platform string) string {
		return `{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":1,"digest":"` + digest(c).String() + `"` + platform + `}`
	}
	index := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` + strings.Join([]string{
		entry("a", `,"platform":{"os":"linux","architecture":"amd64"}`),
		entry("b", `,"platform":{"os":"linux","architecture":"arm","variant":"v7"}`),
		entry("c", `,"platform":{"os":"unknown","architecture":"unknown"}`), // an attestation
		entry("d", `,"platform":{"os":"linux","architecture":"amd64"}`),     // never chosen: the first is
		entry("e", ``),
	}, ",") + `]}`
	got, err := platformsOf([]byte(index), digest("f"), "")
	if err != nil {
		t.Fatal(err)
	}
	if want := map[string]v1.Hash{"linux/amd64": digest("a"), "linux/arm/v7": digest("b")}; !maps.Equal(got, want) {
		t.Errorf("got %v", got)
	}
	single := `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":1,"digest":"` + digest("a").String() + `"},"layers":[]}`
	if got, err = platformsOf([]byte(single), digest("f"), "linux/s390x"); err != nil || got["linux/s390x"] != digest("f") {
		t.Errorf("%v, %v", got, err)
	}
	if _, err = platformsOf([]byte("{}"), digest("f"), ""); err == nil {
		t.Error("no document has platforms")
	}
}
