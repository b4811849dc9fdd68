package cli

import (
	"reflect"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestChange(t *testing.T) {
	set := func(keys ...string) map[string]struct{} {
		m := map[string]struct{}{}
		for _, k := range keys {
			m[k] = struct{}{}
		}
		return m
	}
	sh := func(s string) []string { return []string{"/bin/sh", "-c", s} }
	for _, test := range []struct {
		changes []string
		want    v1.Config
	}{
		{[]string{`CMD ["a", "b c"]`}, v1.Config{Cmd: []string{"a", "b c"}}},
		{[]string{`cmd a "b c"`}, v1.Config{Cmd: sh(`a "b c"`)}},
		{[]string{`CMD=["a"]`}, v1.Config{Cmd: []string{"a"}}},
		{[]string{`CMD=a`}, v1.Config{Cmd: sh("a")}},
		{[]string{`CMD a`, `CMD []`}, v1.Config{Cmd: []string{}}},
		{[]string{`CMD a`, `CMD`}, v1.Config{}},
		{[]string{`ENTRYPOINT ["a"]`}, v1.Config{Entrypoint: []string{"a"}}},
		{[]string{`ENV A=b`, `ENV A=c`, `ENV B d  e`}, v1.Config{Env: []string{"A=c", "B=d  e"}}},
		{[]string{`ENV A="b c" B='d "e' C=f\ g D="\n\"" E=""`}, v1.Config{Env: []string{"A=b c", `B=d "e`, "C=f g", `D=\n"`, "E="}}},
		{[]string{`ENV=A=b`}, v1.Config{Env: []string{"A=b"}}},
		{[]string{`LABEL a=b "c d"=e`}, v1.Config{Labels: map[string]string{"a": "b", "c d": "e"}}},
		{[]string{`EXPOSE 80 53/UDP 8000-8010`}, v1.Config{ExposedPorts: set("80/tcp", "53/udp", "8000-8010/tcp")}},
		{[]string{`VOLUME /a "/b c"`, `VOLUME ["/d"]`}, v1.Config{Volumes: set("/a", "/b c", "/d")}},
		{[]string{`WORKDIR /a`, `WORKDIR b/../c`}, v1.Config{WorkingDir: "/a/c"}},
		{[]string{`WORKDIR a`}, v1.Config{WorkingDir: "/a"}},
		{[]string{`USER 1:2`, `STOPSIGNAL SIGINT`}, v1.Config{User: "1:2", StopSignal: "SIGINT"}},
	} {
		var have v1.Config
		for _, text := range test.changes {
			if err := change(&have, text); err != nil {
				t.Errorf("%q: %v", text, err)
			}
		}
		if !reflect.DeepEqual(have, test.want) {
			t.Errorf("%q: %+v, not %+v", test.changes, have, test.want)
		}
	}
	for _, text := range []string{
		"", "=", "RUN x", "ENV", "ENV A", "ENV =b", `ENV A="b`, `ENV A=b C`, "LABEL a", "LABEL a=b =c",
		"EXPOSE 0", "EXPOSE 65536", "EXPOSE 8-7", "EXPOSE 80/x", "EXPOSE -1", `VOLUME [""]`, "WORKDIR", "USER", "STOPSIGNAL NO",
	} {
		if err := change(&v1.Config{}, text); err == nil {
			t.Errorf("%q: no error", text)
		}
	}
}
