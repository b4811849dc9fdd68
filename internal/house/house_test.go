// Package house holds the picture of which package may import which.
package house

import (
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// stages never import one another.
var stages = []string{"pull", "layers", "rootfs", "netns"}

// forbidden packages cost every start too much or bring too much with them.
var forbidden = []string{
	"gopacket", "jsonschema", "blackfriday", "compose-go", "sigstore", "cilium/ebpf",
	"github.com/containers/", "github.com/moby/profiles", "go.podman.io/",
}

// handedIn packages cost every start their initialisation, and few need them: main
// alone imports what imports them, and hands it to the command line. One that ends in a
// slash stands for all below it.
//
// regexp is not here: urfave/cli has it.
var handedIn = []string{
	"skiff/layers/codec", "skiff/layers/inflate", "skiff/pull/registry", "skiff/pull/auth",
	"skiff/pull/registry/hosts", "github.com/BurntSushi/toml",
	"net/http", "crypto/tls", "crypto/x509", "crypto/rand", "mime", "math/big", "log", "compress/flate", "compress/gzip",
	"github.com/klauspost/compress/",
	"github.com/google/go-containerregistry/pkg/name", "github.com/google/go-containerregistry/pkg/authn",
	"github.com/google/go-containerregistry/pkg/v1/remote/",
	"github.com/docker/cli/", "github.com/sirupsen/logrus", "github.com/opencontainers/go-digest",
}

func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-tags", "urfave_cli_no_docs", "-f", `{{.ImportPath}} {{join .Imports " "}}`, "skiff/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		from := words[0]
		for _, to := range words[1:] {
			if !strings.HasPrefix(to, "skiff/") {
				continue
			}
			seen++
			if why := wrong(from, to); why != "" {
				t.Errorf("%s imports %s: %s", from, to, why)
			}
		}
	}
	if seen < 10 {
		t.Errorf("saw %d imports: the test looks at nothing", seen)
	}
}

// wrong says which rule of the house an import breaks, or "".
func wrong(from, to string) string {
	f, t := room(from), room(to)
	switch {
	case f == "testdata" || f == "bench" || f == "main":
		return ""
	case t == "main" || t == "testdata" && f != "testdata":
		return "nothing imports this"
	case f == t:
		return ""
	case from == "skiff/internal/cli":
		return ""
	case to == "skiff/internal/cli":
		return "only main imports the command line"
	case f == "run":
		return ""
	case t == "internal":
		return ""
	case f == "internal":
		return "a leaf imports no stage"
	}
	return "stages do not import one another, and only the command line imports run"
}

func room(pkg string) string {
	parts := strings.Split(pkg, "/")
	if len(parts) == 1 {
		return "main"
	}
	return parts[1]
}

func TestRuleKnowsWrong(t *testing.T) {
	for _, c := range [][2]string{
		{"skiff/pull", "skiff/layers"}, {"skiff/rootfs", "skiff/netns/lease"}, {"skiff/layers", "skiff/run"},
		{"skiff/internal/plan", "skiff/run"}, {"skiff/run", "skiff/internal/cli"}, {"skiff/netns", "skiff/pull/store"},
	} {
		if wrong(c[0], c[1]) == "" {
			t.Errorf("%s may import %s", c[0], c[1])
		}
	}
	for _, s := range stages {
		if why := wrong("skiff/run", "skiff/"+s); why != "" {
			t.Errorf("run may not import %s: %s", s, why)
		}
	}
}

func TestForbidden(t *testing.T) {
	for _, pkg := range reached(t, "skiff") {
		for _, bad := range forbidden {
			if strings.Contains(pkg, bad) {
				t.Errorf("skiff links %s", pkg)
			}
		}
	}
}

func TestHandedIn(t *testing.T) {
	all := reached(t, "skiff")
	for _, pkg := range reached(t, "skiff/internal/cli") {
		if covers(handedIn, pkg) {
			t.Errorf("the command line reaches %s, which main alone may", pkg)
		}
	}
	for _, word := range handedIn {
		if !slices.ContainsFunc(all, func(pkg string) bool { return covers([]string{word}, pkg) }) {
			t.Errorf("%s: skiff does not link it, so the list need not name it", word)
		}
	}
}

func covers(list []string, pkg string) bool {
	return slices.ContainsFunc(list, func(word string) bool {
		return pkg == word || strings.HasSuffix(word, "/") && strings.HasPrefix(pkg+"/", word)
	})
}

// reached lists a package and all that it imports, whoever imports it.
func reached(t *testing.T, pkg string) []string {
	t.Helper()
	out, err := exec.Command("go", "list", "-tags", "urfave_cli_no_docs", "-deps", pkg).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(out))
}
