package doctor

import (
	"testing"

	"skiff/internal/idmap"
)

func TestWorks(t *testing.T) {
	for _, c := range []struct {
		all  []Finding
		want bool
	}{
		{nil, true},
		{[]Finding{{Status: OK, Needed: true}, {Status: Limited, Needed: true}}, true},
		{[]Finding{{Status: Missing}}, true},
		{[]Finding{{Status: OK, Needed: true}, {Status: Missing, Needed: true}}, false},
	} {
		if got := Works(c.all); got != c.want {
			t.Errorf("%v: %v", c.all, got)
		}
	}
}

// What is asked for by name alone is tried.
func TestExamineSome(t *testing.T) {
	got := Examine(&Host{IDs: idmap.OwnID()}, func(name string) bool { return name == "seccomp" || name == "idmap" })
	if len(got) != 1 || got[0].Name != "seccomp" {
		t.Errorf("%v", got)
	}
}

// A user's command takes ids that nobody else has.
func TestFreeRange(t *testing.T) {
	for text, want := range map[string]string{
		"":                                   "100000-165535",
		"dev:100000:65536\n":                 "165536-231071",
		"a:231072:65536\nb:100000:65536\n\n": "296608-362143",
		"nonsense\n:x:y\nroot:1:10\n":        "100000-165535",
	} {
		if got := freeRange(text); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
