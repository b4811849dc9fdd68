package hosts

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// world writes files below a directory that stands for / and makes a Finder of
// it. home/ is HOME; a name that begins with env: is a variable, in which ROOT is that directory.
func world(t *testing.T, files map[string]string) *Finder {
	t.Helper()
	root := t.TempDir()
	env := map[string]string{"HOME": root + "/home"}
	for name, text := range files {
		if key, ok := strings.CutPrefix(name, "env:"); ok {
			env[key] = strings.ReplaceAll(text, "ROOT", root)
			continue
		}
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Finder{Etc: root + "/etc", Getenv: func(k string) string { return env[k] }}
}

// show is a set on one line: mirrors, then the origin.
func show(s *Set) string {
	var all []string
	for _, e := range append(s.Mirrors, s.Origin) {
		text := e.Host + e.Root + e.Repository
		if e.Scheme != "" {
			text = e.Scheme + "://" + text
		}
		for _, mark := range []struct {
			text string
			on   bool
		}{{" insecure", e.Insecure}, {" unverified", e.Unverified}, {" digests", !e.Tags}} {
			if mark.on {
				text += mark.text
			}
		}
		if e.Namespace != "" {
			text += " ns=" + e.Namespace
		}
		for _, f := range e.Authorities {
			text += " ca=" + filepath.Base(f)
		}
		for _, p := range e.Pairs {
			text += " pair=" + filepath.Base(p[0]) + "+" + filepath.Base(p[1])
		}
		for k, v := range e.Header {
			text += " " + k + "=" + strings.Join(v, "+")
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

const (
	conf1  = "etc/containers/registries.conf"
	dropin = "etc/containers/registries.conf.d/"
)

func TestFind(t *testing.T) {
	hosts := func(host string) string { return "etc/containerd/certs.d/" + host + "/hosts.toml" }
	for _, c := range []struct {
		name  string
		files map[string]string
		host  string
		repo  string
		want  string
	}{
		{"nothing", nil, "q.io", "a/b", "q.io/v2/a/b"},
		{"empty", map[string]string{conf1: "unqualified-search-registries = ['a.io']\n"}, "q.io", "a", "q.io/v2/a"},
		{"mirrors in their order", map[string]string{conf1: `
[[registry]]
location = "q.io"
[[registry.mirror]]
location = "m1.io"
[[registry.mirror]]
location = "m2.io:5000/q"
insecure = true
`}, "q.io", "a", "m1.io/v2/a, m2.io:5000/v2/q/a insecure, q.io/v2/a"},
		{"the longest prefix", map[string]string{conf1: `
[[registry]]
prefix = "q.io"
insecure = true
[[registry]]
prefix = "q.io/me"
location = "z.io/you"
[[registry]]
prefix = "q.io/m"
location = "wrong.io"
`}, "q.io", "me/app", "z.io/v2/you/app"},
		{"a prefix ends with a part", map[string]string{conf1: "[[registry]]\nprefix='q.io/me'\nlocation='z.io'\n"}, "q.io", "men/app", "q.io/v2/men/app"},
		{"a prefix is no other port", map[string]string{conf1: "[[registry]]\nlocation='q.io'\ninsecure=true\n"}, "q.io:5000", "a", "q.io:5000/v2/a"},
		{"wild", map[string]string{conf1: "[[registry]]\nprefix='*.q.io'\ninsecure=true\n"}, "a.b.q.io", "x", "a.b.q.io/v2/x insecure"},
		{"wild, and moved", map[string]string{conf1: "[[registry]]\nprefix='*.q.io'\nlocation='z.io/q'\n"}, "a.q.io", "x", "z.io/v2/q/x"},
		{"wild with a port", map[string]string{conf1: "[[registry]]\nprefix='*.q.io'\nlocation='z.io'\n"}, "a.q.io:5000", "x", "z.io/v2/x"},
		{"wild is not the domain", map[string]string{conf1: "[[registry]]\nprefix='*.q.io'\ninsecure=true\n"}, "q.io", "x", "q.io/v2/x"},
		{"wild is not another domain", map[string]string{conf1: "[[registry]]\nprefix='*.q.io'\ninsecure=true\n"}, "a.q.io.evil", "x", "a.q.io.evil/v2/x"},
		{"hub's other name", map[string]string{conf1: "[[registry]]\nprefix='index.docker.io'\n[[registry.mirror]]\nlocation='m.io'\n"}, "docker.io", "library/a", "m.io/v2/library/a, docker.io/v2/library/a"},
		{"a drop-in replaces", map[string]string{
			conf1:             "[[registry]]\nlocation='q.io'\ninsecure=true\n",
			dropin + "1.conf": "[[registry]]\nlocation='q.io'\n[[registry.mirror]]\nlocation='m1.io'\n",
			dropin + "2.conf": "[[registry]]\nlocation='q.io'\n[[registry.mirror]]\nlocation='m2.io'\n",
			dropin + "3.txt":  "garbage",
		}, "q.io", "a", "m2.io/v2/a, q.io/v2/a"},
		{"a user's own", map[string]string{
			conf1: "[[registry]]\nlocation='q.io'\ninsecure=true\n",
			"home/.config/containers/registries.conf": "[[registry]]\nlocation='q.io'\n[[registry.mirror]]\nlocation='m.io'\n",
		}, "q.io", "a", "m.io/v2/a, q.io/v2/a"},
		{"a variable's", map[string]string{
			conf1: "[[registry]]\nlocation='q.io'\ninsecure=true\n", "x.conf": "[[registry]]\nlocation='q.io'\n[[registry.mirror]]\nlocation='m.io'\n",
			"env:CONTAINERS_REGISTRIES_CONF": "ROOT/x.conf",
		}, "q.io", "a", "m.io/v2/a, q.io/v2/a"},
		{"digests elsewhere", map[string]string{conf1: `
[[registry]]
location = "q.io"
[[registry.mirror]]
location = "d.io"
pull-from-mirror = "digest-only"
[[registry.mirror]]
location = "t.io"
pull-from-mirror = "tag-only"
`}, "q.io", "a", "t.io/v2/a, q.io/v2/a"},
		{"version 1", map[string]string{conf1: "[registries.search]\nregistries=['a']\n[registries.insecure]\nregistries=['q.io']\n"}, "q.io", "a", "q.io/v2/a insecure"},

		{"containerd", map[string]string{hosts("docker.io"): `
server = "https://registry-1.docker.io"
[host."https://z.io"]
[host."http://m.io:5000/v2/hub"]
  capabilities = ["pull"]
  skip_verify = true
  override_path = true
  ca = "ca.pem"
  client = [["c.cert", "c.key"]]
[host."https://push.io"]
  capabilities = ["push"]
[host."https://a.io/x"]
  ca = ["1.pem", "2.pem"]
  client = "both.pem"
  [host."https://a.io/x".header]
    x-key = ["1", "2"]
`}, "docker.io", "library/a", "https://z.io/v2/library/a ns=docker.io, http://m.io:5000/v2/hub/library/a unverified digests ns=docker.io ca=ca.pem pair=c.cert+c.key, " +
			"https://a.io/x/v2/library/a ns=docker.io ca=1.pem ca=2.pem pair=both.pem+both.pem X-Key=1+2, https://docker.io/v2/library/a"},
		{"containerd without a server", map[string]string{hosts("q.io:5000"): "ca='a.pem'\nskip_verify=true\n[host.'https://m.io']\n"}, "q.io:5000", "a", "https://m.io/v2/a ns=q.io:5000, q.io:5000/v2/a unverified ca=a.pem"},
		{"containerd's other spelling of a port", map[string]string{hosts("q.io_5000_"): "[host.'https://m.io']\n"}, "q.io:5000", "a", "https://m.io/v2/a ns=q.io:5000, q.io:5000/v2/a"},
		{"containerd's default", map[string]string{hosts("_default"): "[host.'https://m.io']\n"}, "q.io", "a", "https://m.io/v2/a ns=q.io, q.io/v2/a"},
		{"containerd's default and a host's own", map[string]string{hosts("_default"): "[host.'https://m.io']\n", hosts("q.io"): "server='https://z.io'"}, "q.io", "a", "https://z.io/v2/a ns=q.io"},
		{"both", map[string]string{conf1: "[[registry]]\nlocation='q.io'\n[[registry.mirror]]\nlocation='m1.io'\n", hosts("q.io"): "[host.'https://m2.io']\n"}, "q.io", "a", "m1.io/v2/a, https://m2.io/v2/a ns=q.io, q.io/v2/a"},

		{"docker's certificates", map[string]string{"etc/docker/certs.d/q.io:5000/a.crt": "", "etc/docker/certs.d/q.io:5000/b.cert": "", "etc/docker/certs.d/q.io:5000/b.key": ""}, "q.io:5000", "a", "q.io:5000/v2/a ca=a.crt pair=b.cert+b.key"},
		{"podman's before docker's, a user's before all", map[string]string{"etc/docker/certs.d/q.io/a.crt": "", "etc/containers/certs.d/q.io/b.crt": "", "home/.config/containers/certs.d/q.io/c.crt": ""}, "q.io", "a", "q.io/v2/a ca=c.crt"},
		{"a mirror has its own", map[string]string{"env:SKIFF_MIRRORS": "q.io=https://m.io", "etc/docker/certs.d/m.io/a.crt": ""}, "q.io", "a", "https://m.io/v2/a ca=a.crt, q.io/v2/a"},

		{"SKIFF_MIRRORS", map[string]string{"env:SKIFF_MIRRORS": "docker.io=http://m.io:5000/hub/, z.io=https://no.io\nindex.docker.io=n.io"}, "docker.io", "library/a", "http://m.io:5000/v2/hub/library/a, n.io/v2/library/a, docker.io/v2/library/a"},
		{"of a namespace", map[string]string{"env:SKIFF_MIRRORS": "q.io/me=m.io/we q.io/you=no.io"}, "q.io", "me/a", "m.io/v2/we/a, q.io/v2/me/a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			set, err := world(t, c.files).Find(c.host, c.repo, "latest", "")
			if err != nil {
				t.Fatal(err)
			}
			if got := show(set); got != c.want {
				t.Errorf("\n%s, not\n%s", got, c.want)
			}
		})
	}
}

func TestFindByDigest(t *testing.T) {
	f := world(t, map[string]string{conf1: "[[registry]]\nlocation='q.io'\n" +
		"[[registry.mirror]]\nlocation='d.io'\npull-from-mirror='digest-only'\n[[registry.mirror]]\nlocation='t.io'\npull-from-mirror='tag-only'\n" +
		"[[registry]]\nlocation='z.io'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='m.io'\n"})
	for _, c := range []struct {
		host   string
		digest bool
		want   string
	}{
		{"q.io", true, "d.io/v2/a, q.io/v2/a"}, {"z.io", true, "m.io/v2/a, z.io/v2/a"}, {"z.io", false, "z.io/v2/a"},
	} {
		set, err := f.Find(c.host, "a", "", map[bool]string{true: "sha256:1"}[c.digest])
		if err != nil || show(set) != c.want {
			t.Errorf("%s %v: %v, %v", c.host, c.digest, set, err)
		}
	}
}

// Pushes and logins are for the registry itself, with its certificates.
func TestOwn(t *testing.T) {
	f := world(t, map[string]string{
		conf1: "[[registry]]\nprefix='q.io'\nlocation='z.io/q'\n[[registry.mirror]]\nlocation='m.io'\n" +
			"[[registry]]\nprefix='a.io/b'\nlocation='a.io/c'\ninsecure=true\n[[registry]]\nprefix='bad.io'\nblocked=true\n",
		"etc/docker/certs.d/q.io/x.crt":          "",
		"etc/containerd/certs.d/c.io/hosts.toml": "server='https://z.io'\n[host.'https://m.io']\n",
		"etc/docker/certs.d/z.io/y.crt":          "",
	})
	for name, want := range map[string]string{"q.io/a": "q.io/v2/a ca=x.crt", "a.io/b/x": "a.io/v2/b/x insecure", "c.io/a": "c.io/v2/a"} {
		host, repo, _ := strings.Cut(name, "/")
		e, err := f.Own(host, repo, "1")
		if err != nil {
			t.Fatal(err)
		}
		e.Tags = true
		if got := show(&Set{Origin: *e}); got != want {
			t.Errorf("%s: %s, not %s", name, got, want)
		}
	}
	if _, err := f.Own("bad.io", "a", "1"); !errors.As(err, new(*BlockedError)) {
		t.Errorf("%v", err)
	}
}

func TestBlocked(t *testing.T) {
	f := world(t, map[string]string{
		conf1:             "[[registry]]\nprefix='q.io'\nblocked=true\n[[registry]]\nprefix='q.io/good'\n",
		dropin + "x.conf": "[[registry]]\nprefix='a.io/b:1'\nlocation='a.io/b:1'\nblocked=true\n[registries.block]\nregistries=['z.io']\n",
	})
	for name, file := range map[string]string{"q.io/a": "registries.conf", "q.io/good/a": "", "z.io/a": "x.conf", "a.io/a": "", "a.io/b": "x.conf", "a.io/b/c": ""} {
		host, repo, _ := strings.Cut(name, "/")
		_, err := f.Find(host, repo, "1", "")
		var b *BlockedError
		if errors.As(err, &b) != (file != "") || b != nil && !strings.HasSuffix(err.Error(), file) || b == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Each is an error that names the file, or the entry, and tells no secret.
func TestBadFiles(t *testing.T) {
	hosts := "etc/containerd/certs.d/q.io/hosts.toml"
	for name, files := range map[string]map[string]string{
		"line 2":                     {conf1: "\nx = \n"},
		"without prefix":             {conf1: "[[registry]]\ninsecure=true\n"},
		"it has no scheme":           {conf1: "[[registry]]\nlocation='https://q.io'\n"},
		"* is only":                  {conf1: "[[registry]]\nprefix='q.*.io'\n"},
		"must be HOST":               {conf1: "[[registry]]\nlocation='q.io'\n[[registry.mirror]]\nlocation='http://m.io'\n"},
		"pull-from-mirror \"x\"":     {conf1: "[[registry]]\nlocation='q.io'\n[[registry.mirror]]\nlocation='m.io'\npull-from-mirror='x'\n"},
		"does not go with":           {conf1: "[[registry]]\nlocation='q.io'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='m.io'\npull-from-mirror='all'\n"},
		"has no other location":      {conf1: "[[registry]]\nprefix='q.io/a:1'\nlocation='z.io/a'\n"},
		"x.conf":                     {"env:CONTAINERS_REGISTRIES_CONF": "ROOT/x.conf"},
		"hosts.toml: line 1":         {hosts: "garbage"},
		"without a password":         {hosts: "[host.'https://me:secret@m.io']\n"},
		"capability \"fly\"":         {hosts: "[host.'https://m.io']\ncapabilities=['fly']\n"},
		"ca must be":                 {hosts: "[host.'https://m.io']\nca=1\n"},
		"client must be":             {hosts: "[host.'https://m.io']\nclient=[[1]]\n"},
		"header \"x\"":               {hosts: "[host.'https://m.io']\n[host.'https://m.io'.header]\nx=1\n"},
		"has no key":                 {"etc/docker/certs.d/q.io/a.cert": ""},
		"has no certificate":         {"etc/docker/certs.d/q.io/a.key": ""},
		"must be REGISTRY=URL":       {"env:SKIFF_MIRRORS": "https://me:secret@m.io"},
		"a URL holds no password":    {"env:SKIFF_MIRRORS": "q.io=https://me:secret@m.io"},
		"it must be http":            {"env:SKIFF_MIRRORS": "q.io=ftp://m.io"},
		"mirror of q.io: it is no U": {"env:SKIFF_MIRRORS": "q.io=https://me:secret@%zz"},
		"ends with its path":         {"env:SKIFF_MIRRORS": "q.io=https://m.io/?token=secret"},
	} {
		_, err := world(t, files).Find("q.io", "a", "1", "")
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Whatever the files say, nothing panics, and a place has a host.
func FuzzFind(f *testing.F) {
	f.Add("[[registry]]\nprefix='*.q.io'\nlocation='z.io'\n", "[host.'https://m.io']\n", "q.io/a=http://m", "a.q.io:1", "b/c")
	f.Add("[[registry]]\nprefix='*'\n", "server='x'", "*=m", "q.io", "a")
	f.Fuzz(func(t *testing.T, registries, containerd, mirrors, host, repo string) {
		if host == "" || strings.ContainsAny(host, "/\x00") || strings.Contains(host, "..") {
			return
		}
		var c conf
		file := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(file, []byte(registries), 0o600); err != nil {
			t.Fatal(err)
		}
		set := &Set{}
		name := host + "/" + repo
		if c.read(file) == nil {
			if r := c.find(name); r != nil {
				set.Origin = r.origin(name)
				set.Mirrors = r.mirrors(name, false)
			}
		}
		set.hostsToml("/x", containerd, host, repo)
		mirrorsOf(split(mirrors), name)
	})
}
