package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"skiff/internal/need"
)

// What "go generate" would write now is what is there.
func TestUpToDate(t *testing.T) {
	need.Tool(t, "go")
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join("..", "..", "data", name))
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is out of date, run go generate: %v", name, err)
		}
	}
	there, err := os.ReadDir("../../data")
	if err != nil || len(there) != len(files) {
		t.Errorf("data/ holds %d files, want %d: %v", len(there), len(files), err)
	}
}

// The generator's library stays out of the program.
func TestNotLinked(t *testing.T) {
	need.Tool(t, "go")
	cmd := exec.Command("go", "list", "-mod=readonly", "-deps", "skiff/run/seccomp")
	cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, pkg := range []string{"moby", "runtime-spec", "regexp"} {
		if strings.Contains(string(out), pkg) {
			t.Errorf("seccomp imports %s", pkg)
		}
	}
}

// The tables hold calls of every age, and the spellings that profiles use.
func TestTables(t *testing.T) {
	need.Tool(t, "go")
	files, err := Files()
	if err != nil {
		t.Fatal(err)
	}
	for _, arch := range []string{"amd64", "386", "arm64", "arm"} {
		text := "\n" + string(files["syscalls_"+arch+".txt"])
		for _, name := range []string{"read", "openat2", "clone3", "statx", "futex_waitv", "mseal", "setresuid"} {
			if !strings.Contains(text, "\n"+name+" ") {
				t.Errorf("%s lacks %s", arch, name)
			}
		}
	}
	for want, in := range map[string]string{
		"\nread 0\n": "amd64", "\nclone3 435\n": "amd64", "\nsocketcall 102\n": "386", "\n_llseek 140\n": "386",
		"\nnewfstatat 79\n": "arm64", "\nset_tls 983045\n": "arm", "\nsync_file_range2 341\n": "arm",
	} {
		if !strings.Contains("\n"+string(files["syscalls_"+in+".txt"]), want) {
			t.Errorf("%s lacks %q", in, want)
		}
	}
}
