package run

import (
	"flag"
	"os"
	"testing"

	"skiff/internal/idmap"
	"skiff/rootfs"
	"skiff/run/caps"
)

var update = flag.Bool("update", false, "rewrite testdata/plan")

// TestPlans holds the whole plan of a container's init, for each kind of id
// map, against a file that a person has read. -update rewrites the files. The
// flags of open(2) have other numbers on other architectures.
func TestPlans(t *testing.T) {
	kinds := []struct {
		name string
		kind idmap.Kind
	}{{"root", idmap.Root}, {"sub", idmap.Subordinate}, {"single", idmap.Single}}
	for _, k := range kinds {
		for _, network := range []Network{NetworkNone, NetworkHost, NetworkDefault} {
			for _, tty := range []bool{false, true} {
				name := k.name + "-" + string(network)
				if tty {
					name += "-tty"
				}
				t.Run(name, func(t *testing.T) {
					s := planSpec(k.kind, network, tty)
					birth := newBirthPlan(&s.Namespaces, 9)
					rest := newInitPlan(birth.Then(), s, 9)
					golden(t, name, birth.String()+rest.String())
				})
			}
		}
	}
}

func planSpec(kind idmap.Kind, network Network, tty bool) *Spec {
	return &Spec{
		ID: "0123", Hostname: "box", Args: []string{"ls", "-l"}, Env: []string{"PATH=/bin:/usr/bin"}, Cwd: "/srv",
		User: User{Groups: []uint32{0}}, Terminal: tty,
		Namespaces:   namespaces(idmap.Map{Kind: kind}, network),
		Capabilities: caps.Default, Umask: 0o022,
		Rlimits: []Rlimit{{Name: "nofile", Resource: 7, Soft: 1, Hard: 2}},
		Seccomp: [][]byte{make([]byte, 8)},
		Root: rootfs.Root{
			Store: "/store", Lower: []string{"layers/a/fs", "layers/b/fs"},
			Upper: "containers/0123/upper", Work: "containers/0123/work",
			IDMapped: kind == idmap.Root,
			Terminal: tty, ShmSize: 1 << 26, Dirs: []string{"/srv"},
			Files:  []rootfs.File{{Path: "/etc/hosts", Content: "127.0.0.1\tlocalhost\n"}},
			Mounts: []rootfs.Mount{{Type: "bind", Source: "/host", Dir: true, Destination: "/mnt", ReadOnly: true, IDMapped: kind == idmap.Root}},
		},
	}
}

func golden(t *testing.T, name, got string) {
	t.Helper()
	file := "testdata/plan/" + name + ".golden"
	if *update {
		if err := os.MkdirAll("testdata/plan", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("the plan differs from %s; if that is meant, run with -update\n%s", file, firstDifference(string(want), got))
	}
}

// firstDifference is the first line that differs, of both.
func firstDifference(want, got string) string {
	start := 0
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			return "want " + line(want, start) + "\ngot  " + line(got, start)
		}
		if want[i] == '\n' {
			start = i + 1
		}
	}
	return "one is longer"
}

func line(s string, at int) string {
	end := at
	for end < len(s) && s[end] != '\n' {
		end++
	}
	return s[at:end]
}
