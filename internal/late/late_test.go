package late_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const tags = "urfave_cli_no_docs"

// What is initialised before main is what package run imports, and none of it
// is missing.
func TestBeforeMain(t *testing.T) {
	early := initialised(t, build(t))
	lean := map[string]bool{"skiff/internal/late": true}
	for _, p := range list(t, "skiff/run", "skiff/internal/late") {
		lean[p] = true
	}
	for _, p := range early {
		if !lean[p] && !strings.HasPrefix(p, "crypto/internal/fips140/") && !alone(t, p) {
			t.Errorf("%s is initialised before main, which package run does not need", p)
		}
	}
	for _, p := range initialised(t, build(t, "-tags", tags+",skiff_late_off")) {
		if lean[p] && !slices.Contains(early, p) {
			t.Errorf("%s is not initialised before main", p)
		}
	}
}

// alone reports whether a package imports none that has to be initialised, and
// so may come before package late.
func alone(t *testing.T, p string) bool {
	for _, d := range list(t, p) {
		if d == "sync" || d == "syscall" {
			return false
		}
	}
	return true
}

func build(t *testing.T, flags ...string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "skiff")
	args := append([]string{"build", "-trimpath", "-buildvcs=false", "-tags", tags, "-ldflags", "-s -w"}, flags...)
	c := exec.Command("go", append(args, "-o", out, "skiff")...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := c.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, text)
	}
	return out
}

func list(t *testing.T, packages ...string) []string {
	t.Helper()
	c := exec.Command("go", append([]string{"list", "-deps", "-tags", tags}, packages...)...)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	return strings.Fields(string(out))
}

// initialised are the packages that the runtime says it initialised.
func initialised(t *testing.T, program string) []string {
	t.Helper()
	c := exec.Command(program, "--version")
	c.Env = append(os.Environ(), "GODEBUG=inittrace=1")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var all []string
	for _, m := range regexp.MustCompile(`(?m)^init (\S+) @`).FindAllSubmatch(out, -1) {
		all = append(all, string(m[1]))
	}
	if len(all) < 10 {
		t.Fatalf("the runtime told of %d packages:\n%s", len(all), out)
	}
	return all
}
