// Gen writes the embedded files of package seccomp: the tables of system calls,
// the default profile and the filters that are compiled ahead. "go generate"
// runs it in run/seccomp, after an update of moby/profiles or x/sys.
//
// Limits: it asks the go command where x/sys lies, so it needs the sources.
package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"skiff/run/caps"
	"skiff/run/seccomp/internal/profile"
)

func main() {
	files, err := Files()
	for name, text := range files {
		if err == nil {
			err = os.WriteFile(filepath.Join("data", name), text, 0o644)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "gen:", err)
		os.Exit(1)
	}
}

// arches are GOARCH names; the second of a pair is the 32-bit calls that run
// on the same machine.
var arches = [][2]string{{"amd64", "386"}, {"arm64", "arm"}}

var audit = map[string]uint32{
	"amd64": unix.AUDIT_ARCH_X86_64, "386": unix.AUDIT_ARCH_I386,
	"arm64": unix.AUDIT_ARCH_AARCH64, "arm": unix.AUDIT_ARCH_ARM,
}

// Files returns every generated file by its name in data/.
func Files() (map[string][]byte, error) {
	files := map[string][]byte{}
	tables := map[string]profile.Table{}
	dir, err := unixDir()
	if err != nil {
		return nil, err
	}
	for arch := range audit {
		text, err := table(dir, arch)
		if err != nil {
			return nil, err
		}
		files["syscalls_"+arch+".txt"] = []byte(text)
		if tables[arch], err = profile.ParseTable(audit[arch], text); err != nil {
			return nil, err
		}
	}
	if files["profile.json"], err = defaultProfile(tables); err != nil {
		return nil, err
	}
	for _, pair := range arches {
		host := profile.Host{Arch: pair[0], Tables: []profile.Table{tables[pair[0]], tables[pair[1]]}}
		for _, f := range []struct {
			name, profile string
			set           caps.Set
		}{
			{"default", string(files["profile.json"]), caps.Default},
			{"bare", string(files["profile.json"]), 0},
			{"fakeids", fakeIDs(), 0},
		} {
			p, err := profile.Parse(strings.NewReader(f.profile))
			if err != nil {
				return nil, err
			}
			if files[f.name+"_"+pair[0]+".bpf"], err = p.Compile(host, f.set); err != nil {
				return nil, err
			}
		}
	}
	return files, nil
}

// unixDir is where the sources of golang.org/x/sys/unix are.
func unixDir() (string, error) {
	cmd := exec.Command("go", "list", "-mod=readonly", "-f", "{{.Dir}}", "golang.org/x/sys/unix")
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOOS=linux", "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

var number = regexp.MustCompile(`(?m)^\tSYS_(\w+)\s+= (\d+)$`)

// table makes the lines of one table from zsysnum_linux_ARCH.go.
func table(dir, arch string) (string, error) {
	text, err := os.ReadFile(filepath.Join(dir, "zsysnum_linux_"+arch+".go"))
	if err != nil {
		return "", err
	}
	numbers := map[string]int{}
	for _, m := range number.FindAllStringSubmatch(string(text), -1) {
		switch m[1] {
		case "SYSCALL_MASK", "ARCH_SPECIFIC_SYSCALL": // constants of the header, not calls
			continue
		}
		if numbers[strings.ToLower(m[1])], err = strconv.Atoi(m[2]); err != nil {
			return "", err
		}
	}
	if arch == "arm" { // asm/unistd.h, __ARM_NR_*: not in zsysnum
		for i, name := range []string{"breakpoint", "cacheflush", "usr26", "usr32", "set_tls"} {
			numbers[name] = 0x0f0001 + i
		}
		numbers["sync_file_range2"] = numbers["arm_sync_file_range"]
	}
	if len(numbers) < 300 {
		return "", fmt.Errorf("only %d system calls found for %s", len(numbers), arch)
	}
	var b strings.Builder
	for _, name := range slices.SortedFunc(maps.Keys(numbers), cmp.Compare) {
		fmt.Fprintf(&b, "%s %d\n", name, numbers[name])
	}
	return b.String(), nil
}

// fakeIDs is the profile behind seccomp.FakeIDs.
func fakeIDs() string {
	names := []string{
		"chown", "fchown", "lchown", "fchownat", "setuid", "setgid", "setreuid", "setregid",
		"setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid",
	}
	for _, name := range slices.Clone(names) {
		if name != "fchownat" {
			names = append(names, name+"32") // i386 and arm: the plain ones take 16-bit ids
		}
	}
	return fmt.Sprintf(`{"defaultAction": "SCMP_ACT_ALLOW", %s, "syscalls": [
		{"names": ["%s"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0}]}`, archMap, strings.Join(names, `", "`))
}

const archMap = `"archMap": [
		{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
		{"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": ["SCMP_ARCH_ARM"]}
	]`
