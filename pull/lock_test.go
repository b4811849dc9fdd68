package pull

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func lockHash(c string) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: strings.Repeat(c, 64)}
}

func TestLock(t *testing.T) {
	var l Lock
	l = l.Set(Locked{"docker.io/library/b:1", lockHash("b"), map[string]v1.Hash{"linux/arm64": lockHash("d"), "linux/amd64": lockHash("c")}})
	l = l.Set(Locked{"docker.io/library/a:1", lockHash("0"), map[string]v1.Hash{}})
	l = l.Set(Locked{"docker.io/library/a:1", lockHash("a"), map[string]v1.Hash{}})
	text := l.String()
	want := "skiff lock 1\ndocker.io/library/a:1 " + lockHash("a").String() + "\ndocker.io/library/b:1 " + lockHash("b").String() +
		"\n  linux/amd64 " + lockHash("c").String() + "\n  linux/arm64 " + lockHash("d").String() + "\n"
	if text != want {
		t.Errorf("got\n%swant\n%s", text, want)
	}
	again, err := ParseLock(strings.NewReader("\n# a comment\n" + text))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(l, again); d != "" {
		t.Error(d)
	}
	if l.Find("docker.io/library/b:1") == nil || l.Find("docker.io/library/b:2") != nil {
		t.Error("Find finds what is not there, or not what is")
	}
}

func TestBadLock(t *testing.T) {
	h := lockHash("a").String()
	for text, want := range map[string]string{
		"":                                         "nothing in it",
		"skiff lock 2\n":                           `line 1: it does not begin with "skiff lock 1"`,
		"skiff lock 1\nalpine\n":                   "line 2: it is no name and digest",
		"skiff lock 1\nalpine sha256:ab\n":         `line 2: "sha256:ab" is no digest`,
		"skiff lock 1\n linux/amd64 " + h:          "line 2: a platform stands before any name",
		"skiff lock 1\nAlpine " + h:                "line 2: reference",
		"skiff lock 1\na " + h + "\na:latest " + h: "line 3: \"a:latest\" is no name with a tag, or stands twice",
		"skiff lock 1\na " + h + "\n p " + h + "\n p " + h: `line 4: platform "p" stands twice`,
		"skiff lock 1\noci:dir " + h:                       "no name with a tag",
	} {
		if _, err := ParseLock(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, and not %s", text, err, want)
		}
	}
}

// What is read is written so that it is read again, the same.
func FuzzLock(f *testing.F) {
	f.Add("skiff lock 1\nalpine " + lockHash("a").String() + "\n  linux/amd64 " + lockHash("b").String() + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		l, err := ParseLock(strings.NewReader(text))
		if err != nil {
			return
		}
		again, err := ParseLock(strings.NewReader(l.String()))
		if err != nil {
			t.Fatalf("%v\n%s", err, l)
		}
		if d := cmp.Diff(l.Set(Locked{Reference: "x"}), again.Set(Locked{Reference: "x"})); d != "" {
			t.Error(d)
		}
	})
}
