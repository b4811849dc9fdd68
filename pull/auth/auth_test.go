package auth

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

// world writes files below a home and helpers into PATH.
func world(t *testing.T, files map[string]string, helpers map[string]string) *Finder {
	t.Helper()
	home := t.TempDir()
	env := map[string]string{"HOME": home, "XDG_RUNTIME_DIR": home + "/run"}
	for name, content := range files {
		path := filepath.Join(home, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	bin := t.TempDir()
	for name, script := range helpers {
		if err := os.WriteFile(bin+"/docker-credential-"+name, []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return &Finder{Getenv: func(k string) string {
		if v, ok := files["env:"+k]; ok {
			return strings.ReplaceAll(v, "HOME", home)
		}
		return env[k]
	}}
}

// SECURITY case 59 is among these.
func TestFind(t *testing.T) {
	login := func(host, user string) string { return fmt.Sprintf(`%q:{"auth":%q}`, host, b64(user+":pass:word")) }
	docker := func(s ...string) string { return `{"auths":{` + strings.Join(s, ",") + `}}` }
	answer := func(user string) string {
		return `read host; echo '{"ServerURL":"'$host'","Username":"` + user + `","Secret":"s"}'`
	}
	for _, c := range []struct {
		name       string
		files      map[string]string
		helpers    map[string]string
		host, repo string
		want       string // user, "-" for nobody, "!" for an error
	}{
		{"nothing", nil, nil, "q.io", "a", "-"},
		{"docker", map[string]string{".docker/config.json": docker(login("q.io", "me"))}, nil, "q.io", "a", "me"},
		{"in the environment", map[string]string{"env:DOCKER_AUTH_CONFIG": docker(login("q.io", "env")), ".docker/config.json": docker(login("q.io", "me"))}, nil, "q.io", "a", "env"},
		{"not in the environment", map[string]string{"env:DOCKER_AUTH_CONFIG": docker(login("z.io", "env")), ".docker/config.json": docker(login("q.io", "me"))}, nil, "q.io", "a", "me"},
		{"a file that is named, before the environment", map[string]string{"env:DOCKER_AUTH_CONFIG": docker(login("q.io", "env")), "env:REGISTRY_AUTH_FILE": "HOME/auth.json", "auth.json": docker(login("q.io", "me"))}, nil, "q.io", "a", "me"},
		{"a helper of the environment's", map[string]string{"env:DOCKER_AUTH_CONFIG": `{"credHelpers":{"q.io":"x"}}`}, map[string]string{"x": answer("helped")}, "q.io", "a", "helped"},
		{"no JSON in the environment", map[string]string{"env:DOCKER_AUTH_CONFIG": "secret"}, nil, "q.io", "a", "!"},
		{"another host", map[string]string{".docker/config.json": docker(login("q.io", "me"))}, nil, "q.io:5000", "a", "-"},
		{"the end of a host", map[string]string{".docker/config.json": docker(login("q.io", "me"))}, nil, "evil-q.io", "a", "-"},
		{"the beginning of a host", map[string]string{".docker/config.json": docker(login("q.io", "me"))}, nil, "q.io.evil", "a", "-"},
		{"hub", map[string]string{".docker/config.json": docker(login("https://index.docker.io/v1/", "me"))}, nil, "docker.io", "library/a", "me"},
		{"hub as podman has it", map[string]string{"run/containers/auth.json": docker(login("docker.io", "me"))}, nil, "docker.io", "library/a", "me"},
		{"URL", map[string]string{".docker/config.json": docker(login("https://q.io/v2/", "me"))}, nil, "q.io", "a", "me"},
		{"longest", map[string]string{".config/containers/auth.json": docker(login("q.io", "a"), login("q.io/ns", "b"), login("q.io/ns/x", "c"))}, nil, "q.io", "ns/y", "b"},
		{"part of a word", map[string]string{".config/containers/auth.json": docker(login("q.io/n", "b"))}, nil, "q.io", "ns/y", "-"},
		{"DOCKER_CONFIG", map[string]string{"env:DOCKER_CONFIG": "HOME/d", "d/config.json": docker(login("q.io", "d")), ".docker/config.json": docker(login("q.io", "me"))}, nil, "q.io", "a", "d"},
		{"DOCKER_CONFIG without a file", map[string]string{"env:DOCKER_CONFIG": "HOME/d", ".docker/config.json": docker(login("q.io", "me"))}, nil, "q.io", "a", "-"},
		{"REGISTRY_AUTH_FILE first", map[string]string{"env:REGISTRY_AUTH_FILE": "HOME/r", "r": docker(login("q.io", "r")), ".docker/config.json": docker(login("q.io", "me"))}, nil, "q.io", "a", "r"},
		{"next file", map[string]string{".docker/config.json": docker(login("z.io", "z")), "run/containers/auth.json": docker(login("q.io", "p"))}, nil, "q.io", "a", "p"},
		{"garbage", map[string]string{".docker/config.json": `{"auths":{"q.io":{"auth":"secret`}, nil, "q.io", "a", "!"},
		{"auth is no base64", map[string]string{".docker/config.json": `{"auths":{"q.io":{"auth":"%%%"}}}`}, nil, "q.io", "a", "!"},
		{"store", map[string]string{".docker/config.json": `{"credsStore":"x","auths":{"q.io":{}}}`}, map[string]string{"x": answer("h")}, "q.io", "a", "h"},
		{"store for the hub", map[string]string{".docker/config.json": `{"credsStore":"x"}`}, map[string]string{"x": answer("h")}, "docker.io", "a", "h"},
		{"helper", map[string]string{".docker/config.json": `{"credHelpers":{"q.io":"x"},"credsStore":"y"}`}, map[string]string{"x": answer("h"), "y": "exit 1"}, "q.io", "a", "h"},
		{"helper of another host", map[string]string{".docker/config.json": `{"credHelpers":{"z.io":"x"}}`}, map[string]string{"x": answer("h")}, "q.io", "a", "-"},
		{"helper has nothing", map[string]string{".docker/config.json": `{"credsStore":"x"}`}, map[string]string{"x": "echo credentials not found in native keychain; exit 1"}, "q.io", "a", "-"},
		{"helper fails", map[string]string{".docker/config.json": `{"credsStore":"x"}`}, map[string]string{"x": "echo boo >&2; exit 1"}, "q.io", "a", "!"},
		{"helper is missing", map[string]string{".docker/config.json": `{"credsStore":"none-such"}`}, nil, "q.io", "a", "!"},
		{"helper's name is a path", map[string]string{".docker/config.json": `{"credsStore":"../x"}`}, nil, "q.io", "a", "!"},
		{"helper prints garbage", map[string]string{".docker/config.json": `{"credsStore":"x"}`}, map[string]string{"x": "echo garbage"}, "q.io", "a", "!"},
		{"helper floods", map[string]string{".docker/config.json": `{"credsStore":"x"}`}, map[string]string{"x": "yes"}, "q.io", "a", "!"},
		{"helper speaks for another host", map[string]string{".docker/config.json": `{"credsStore":"x"}`}, map[string]string{"x": `echo '{"ServerURL":"z.io","Username":"h","Secret":"s"}'`}, "q.io", "a", "!"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := world(t, c.files, c.helpers)
			a, err := f.Find(context.Background(), c.host, c.repo)
			got := "-"
			if err != nil {
				got = "!"
				if strings.Contains(err.Error(), "secret") {
					t.Errorf("the error quotes the file: %v", err)
				}
			} else if a != authn.Anonymous {
				cfg, err := a.Authorization()
				if err != nil {
					t.Fatal(err)
				}
				if got = cfg.Username; cfg.Password != "pass:word" && cfg.Password != "s" {
					t.Errorf("password %q", cfg.Password)
				}
			}
			if got != c.want {
				t.Errorf("%q, not %q (%v)", got, c.want, err)
			}
		})
	}
}

func TestToken(t *testing.T) {
	f := world(t, map[string]string{".docker/config.json": `{"credsStore":"x"}`}, map[string]string{"x": `echo '{"Username":"<token>","Secret":"t"}'`})
	a, err := f.Find(context.Background(), "q.io", "a")
	if err != nil {
		t.Fatal(err)
	}
	if cfg, err := a.Authorization(); err != nil || cfg.IdentityToken != "t" || cfg.Username != "" {
		t.Errorf("%+v, %v", cfg, err)
	}
}

// SECURITY case 59.
func TestSlowHelperIsStopped(t *testing.T) {
	f := world(t, map[string]string{".docker/config.json": `{"credsStore":"x"}`}, map[string]string{"x": "exec sleep 60"})
	late := errors.New("late")
	ctx, cancel := context.WithTimeoutCause(context.Background(), 100*time.Millisecond, late)
	defer cancel()
	start := time.Now()
	if _, err := f.Find(ctx, "q.io", "a"); !errors.Is(err, late) || time.Since(start) > 5*time.Second {
		t.Errorf("%v after %s", err, time.Since(start))
	}
}

// SECURITY case 61.
func TestWarnsOfOthers(t *testing.T) {
	f := world(t, map[string]string{".docker/config.json": `{"auths":{"q.io":{"auth":"` + b64("a:b") + `"}}}`}, nil)
	var said []string
	f.Warn = func(s string) { said = append(said, s) }
	path := f.paths()[0]
	for mode, want := range map[os.FileMode]int{0o600: 0, 0o644: 1} {
		said = nil
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
		if _, err := f.Find(context.Background(), "q.io", "a"); err != nil || len(said) != want {
			t.Errorf("%v: %q, %v", mode, said, err)
		}
	}
}
