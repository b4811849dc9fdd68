package cli

import (
	"testing"

	"skiff/rootfs"
	"skiff/run"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

const usual = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

func TestParseVolume(t *testing.T) {
	for _, c := range []struct {
		text string
		want rootfs.Mount // zero: an error
	}{
		{"/a:/b", rootfs.Mount{Type: "bind", Source: "/a", Destination: "/b"}},
		{"/a/../c:/b/", rootfs.Mount{Type: "bind", Source: "/c", Destination: "/b"}},
		{"/a:/b:ro,noexec,rslave", rootfs.Mount{Type: "bind", Source: "/a", Destination: "/b", ReadOnly: true, Flags: unix.MS_NOEXEC, Propagation: unix.MS_SLAVE}},
		{"/a:/b:z", rootfs.Mount{Type: "bind", Source: "/a", Destination: "/b"}},
		{"/a", rootfs.Mount{}}, {"name:/b", rootfs.Mount{}}, {"/a:b", rootfs.Mount{}},
		{"/a:/b:ro:x", rootfs.Mount{}}, {"/a:/b:what", rootfs.Mount{}}, {"", rootfs.Mount{}},
	} {
		got, err := parseVolume(c.text)
		checkMount(t, c.text, got, err, c.want)
	}
}

func TestParseMount(t *testing.T) {
	for _, c := range []struct {
		text string
		want rootfs.Mount
	}{
		{"type=bind,src=/a,dst=/b", rootfs.Mount{Type: "bind", Source: "/a", Destination: "/b"}},
		{"type=bind,source=/a,target=/b,readonly=true", rootfs.Mount{Type: "bind", Source: "/a", Destination: "/b", ReadOnly: true}},
		{"type=bind,src=/a,dst=/b,ro=false,bind-recursive=disabled", rootfs.Mount{Type: "bind", Source: "/a", Destination: "/b", Flat: true}},
		{"type=tmpfs,dst=/b,tmpfs-size=1k,tmpfs-mode=0700", rootfs.Mount{Type: "tmpfs", Source: "/", Destination: "/b", Flags: usual, Data: "size=1024,mode=0700"}},
		{"type=tmpfs,src=/a,dst=/b", rootfs.Mount{}}, {"type=bind,dst=/b", rootfs.Mount{}},
		{"type=bind,src=/a", rootfs.Mount{}}, {"src=/a,dst=/b", rootfs.Mount{}},
		{"type=tmpfs,dst=/b,tmpfs-mode=9", rootfs.Mount{}}, {"type=tmpfs,dst=/b,tmpfs-size=-1", rootfs.Mount{}},
		{"type=bind,src=/a,dst=/b,nosuch=1", rootfs.Mount{}},
	} {
		got, err := parseMount(c.text)
		checkMount(t, c.text, got, err, c.want)
	}
}

func TestParseTmpfs(t *testing.T) {
	for _, c := range []struct {
		text string
		want rootfs.Mount
	}{
		{"/b", rootfs.Mount{Type: "tmpfs", Source: "/", Destination: "/b", Flags: usual, Data: "mode=1777"}},
		{"/b:exec,ro,mode=700,size=1m", rootfs.Mount{Type: "tmpfs", Source: "/", Destination: "/b", ReadOnly: true, Flags: unix.MS_NOSUID | unix.MS_NODEV, Data: "mode=700,size=1m"}},
		{"b", rootfs.Mount{}}, {"/b:size", rootfs.Mount{}}, {"/b:nosuch", rootfs.Mount{}},
	} {
		got, err := parseTmpfs(c.text)
		checkMount(t, c.text, got, err, c.want)
	}
}

func checkMount(t *testing.T, text string, got rootfs.Mount, err error, want rootfs.Mount) {
	t.Helper()
	if bad := want == (rootfs.Mount{}); bad || err != nil {
		if !bad || err == nil {
			t.Errorf("%q: %+v, error %v", text, got, err)
		}
		return
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("%q: %s", text, d)
	}
}

func TestParseUlimit(t *testing.T) {
	for _, c := range []struct {
		text string
		want run.Rlimit
	}{
		{"nofile=1:2", run.Rlimit{Name: "nofile", Resource: unix.RLIMIT_NOFILE, Soft: 1, Hard: 2}},
		{"core=0", run.Rlimit{Name: "core", Resource: unix.RLIMIT_CORE}},
		{"cpu=5:-1", run.Rlimit{Name: "cpu", Resource: unix.RLIMIT_CPU, Soft: 5, Hard: unix.RLIM_INFINITY}},
		{"nofile", run.Rlimit{}}, {"nofile=2:1", run.Rlimit{}}, {"nofile=-2", run.Rlimit{}}, {"x=1", run.Rlimit{}},
		{"nofile=1:", run.Rlimit{}}, {"nofile=-1:5", run.Rlimit{}},
	} {
		got, err := parseUlimit(c.text)
		if (err != nil) != (c.want == run.Rlimit{}) || got != c.want {
			t.Errorf("%q: %+v, error %v; want %+v", c.text, got, err, c.want)
		}
	}
}

func TestAddEnv(t *testing.T) {
	t.Setenv("SKIFFTEST_A", "1")
	t.Setenv("SKIFFTEST_B", "2")
	for _, c := range []struct {
		text string
		want []string
		bad  bool
	}{
		{"A=b=c", []string{"A=b=c"}, false}, {"A=", []string{"A="}, false},
		{"SKIFFTEST_A", []string{"SKIFFTEST_A=1"}, false}, {"SKIFFTEST_NONE", nil, false},
		{"=x", nil, true}, {"", nil, true}, {"A B=c", []string{"A B=c"}, false}, {"A=\x00", nil, true},
	} {
		var o run.Options
		err := addEnv(&o, "env", c.text)
		if d := cmp.Diff(c.want, o.Env); d != "" || (err != nil) != c.bad {
			t.Errorf("%q: error %v, %s", c.text, err, d)
		}
	}
	var o run.Options
	if err := addEnv(&o, "env", "SKIFFTEST_*"); err != nil || len(o.Env) != 2 {
		t.Errorf("SKIFFTEST_*: %q, error %v", o.Env, err)
	}
}

func TestValidName(t *testing.T) {
	for name, want := range map[string]bool{"ab": true, "a.b_c-9": true, "a": false, "": false, "-a": false, "a/b": false, "a b": false, "é1": false, "..": false} {
		if validName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

func TestPrintable(t *testing.T) {
	if got := printable("a\x1b[31mb\nc"); got != "a\\x1b[31mb\\nc" {
		t.Errorf("%q", got)
	}
}
