package cli

import (
	"strings"
	"testing"

	"skiff/pull"
)

func TestNamesake(t *testing.T) {
	digest := "sha256:" + strings.Repeat("a", 64)
	for word, want := range map[string]string{
		"mine": "localhost/mine:latest", "mine:1": "localhost/mine:1", "me/mine:1": "localhost/me/mine:1",
		"localhost/mine:1": "docker.io/library/mine:1", "localhost/me/mine": "docker.io/me/mine:latest",
		"docker.io/mine": "", "docker.io/library/mine": "", "index.docker.io/mine": "", "localhost/docker.io/mine": "", "localhost/q.io/mine": "",
		"q.io/mine": "", "localhost:5000/mine": "", "localhost/localhost/mine": "",
		"mine@" + digest: "", "localhost/mine@" + digest: "", digest: "", "oci:mine": "", "builtin:hello": "",
	} {
		ref, err := pull.ParseReference(word)
		if err != nil {
			t.Fatal(err)
		}
		if got := namesake(word, ref); got != want {
			t.Errorf("%s: %q, want %q", word, got, want)
		}
	}
}
