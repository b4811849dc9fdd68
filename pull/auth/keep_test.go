package auth

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/authn"
)

// What is kept is found, under every name, and forgotten again.
func TestKeep(t *testing.T) {
	old := func(keys ...string) string {
		var all []string
		for _, k := range keys {
			all = append(all, fmt.Sprintf(`%q:{"auth":%q}`, k, b64("old:x")))
		}
		return `{"auths":{` + strings.Join(all, ",") + `},"other":{"a":[1,2]}}`
	}
	for _, c := range []struct {
		name, file, host, path string
		find                   string // repository
		key                    string // in the file
	}{
		{"new", "", "q.io", "", "a", "q.io"},
		{"empty", " \n", "q.io", "", "a", "q.io"},
		{"over an old one", old("q.io"), "q.io", "", "a", "q.io"},
		{"over old spellings", old("https://q.io", "http://q.io/v2/", "q.io/v1/"), "q.io", "", "a", "q.io"},
		{"beside others", old("q.io:5000", "z.io", "q.io/ns"), "q.io", "", "a", "q.io"},
		{"hub", old("docker.io", "index.docker.io"), "docker.io", "", "library/a", "https://index.docker.io/v1/"},
		{"a namespace", old("q.io", "q.io/ns/deep"), "q.io", "ns", "ns/a", "q.io/ns"},
		{"of the hub", old("https://index.docker.io/v1/"), "docker.io", "me", "me/a", "docker.io/me"},
		{"auths is null", `{"auths":null}`, "q.io", "", "a", "q.io"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := world(t, nil, nil)
			path := f.paths()[0]
			if c.file != "" {
				must(t, os.MkdirAll(path[:strings.LastIndex(path, "/")], 0o700))
				must(t, os.WriteFile(path, []byte(c.file), 0o644))
			}
			where, open, err := f.Keep(context.Background(), c.host, c.path, "me", "p:w <&>")
			if err != nil || where != path || !open {
				t.Fatalf("%s %v %v", where, open, err)
			}
			a, err := f.Find(context.Background(), c.host, c.find)
			must(t, err)
			cfg, err := a.Authorization()
			must(t, err)
			if cfg.Username != "me" || cfg.Password != "p:w <&>" {
				t.Errorf("found %q %q", cfg.Username, cfg.Password)
			}
			b, err := os.ReadFile(path)
			must(t, err)
			var doc struct {
				Auths map[string]entry
				Other any
			}
			must(t, json.Unmarshal(b, &doc))
			if doc.Auths[c.key].Auth != b64("me:p:w <&>") || strings.Contains(c.file, "other") && doc.Other == nil {
				t.Errorf("%s", b)
			}
			for _, k := range []string{"q.io:5000", "z.io", "q.io/ns/deep"} {
				if strings.Contains(c.file, `"`+k+`"`) && doc.Auths[k].Auth != b64("old:x") {
					t.Errorf("%s is gone: %s", k, b)
				}
			}
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("mode %v, %v", info.Mode(), err)
			}
			for i, want := range []bool{true, false} {
				if found, err := f.Forget(context.Background(), c.host, c.path); err != nil || found != want {
					t.Errorf("forget %d: %v, %v", i, found, err)
				}
			}
			if a, err := f.Find(context.Background(), c.host, c.find); err != nil || a != authn.Anonymous {
				if cfg, _ := a.Authorization(); cfg == nil || cfg.Username != "old" {
					t.Errorf("still found: %v, %v", cfg, err)
				}
			}
		})
	}
}

// Who has no file gets none by a logout.
func TestForgetMakesNoFile(t *testing.T) {
	f := world(t, nil, nil)
	if found, err := f.Forget(context.Background(), "q.io", ""); found || err != nil {
		t.Errorf("%v, %v", found, err)
	}
	if _, err := os.Stat(f.paths()[0]); err == nil {
		t.Error("there is a file")
	}
}

// Logins at the same time all stay.
func TestKeepAtOnce(t *testing.T) {
	f := world(t, nil, nil)
	const n = 20
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, _, err := f.Keep(context.Background(), fmt.Sprintf("q%d.io", i), "", "me", "x"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for i := range n {
		if a, err := f.Find(context.Background(), fmt.Sprintf("q%d.io", i), "a"); err != nil || a == authn.Anonymous {
			t.Errorf("q%d.io: %v", i, err)
		}
	}
}

// A file that is not understood, and a helper that fails, leave all as it was.
func TestKeepFails(t *testing.T) {
	for name, c := range map[string]struct{ file, helper, path string }{
		"garbage":                  {`{"auths": secret`, "", ""},
		"a list":                   {`["secret"]`, "", ""},
		"null":                     {`null`, "", ""},
		"auths is a list":          {`{"auths":["secret"]}`, "", ""},
		"the helper fails":         {`{"credsStore":"x"}`, "echo no; exit 1", ""},
		"a namespace for a helper": {`{"credHelpers":{"q.io":"x"}}`, "cat >/dev/null", "ns"},
	} {
		t.Run(name, func(t *testing.T) {
			f := world(t, map[string]string{".docker/config.json": c.file}, map[string]string{"x": c.helper})
			_, _, err := f.Keep(context.Background(), "q.io", c.path, "me", "hunter2")
			if err == nil || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%v", err)
			}
			if b, err := os.ReadFile(f.paths()[0]); err != nil || string(b) != c.file {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
