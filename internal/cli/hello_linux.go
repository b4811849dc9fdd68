package cli

import (
	"fmt"
	"os"
	"strings"

	"skiff/run/caps"
)

// helloName is the one argument of the program in the image builtin:hello, which is
// skiff itself.
const helloName = "skiff-hello"

// hello prints, from inside a container, what it sees.
func hello() int {
	host, _ := os.Hostname()
	status := words("/proc/self/status")
	fmt.Printf("\n  Hello from a container.\n\n")
	row := func(name, format string, args ...any) { fmt.Printf("  %-14s %s\n", name, fmt.Sprintf(format, args...)) }
	row("hostname", "%s", host)
	row("user", "uid %d, gid %d, process %d", os.Getuid(), os.Getgid(), os.Getpid())
	row("id map", "%s", idMapText())
	row("address", "%s", addresses())
	row("root", "%s", rootText())
	row("capabilities", "%s", capText(status["CapEff"]))
	row("seccomp", "%s", seccompText(status["Seccomp"]))
	row("limits", "%s", limitsText())
	fmt.Printf("\n  This machine can run containers. Next: skiff run -it alpine sh\n\n")
	return 0
}

// words reads "Key: value" lines.
func words(path string) map[string]string {
	text, _ := os.ReadFile(path)
	m := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if k, v, ok := strings.Cut(line, ":"); ok {
			m[k] = strings.TrimSpace(v)
		}
	}
	return m
}

func idMapText() string {
	text, _ := os.ReadFile("/proc/self/uid_map")
	var parts []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		if f[2] == "4294967295" {
			return "the host's own ids"
		}
		parts = append(parts, fmt.Sprintf("%s is %s on the host (%s ids)", f[0], f[1], f[2]))
	}
	return strings.Join(parts, ", ")
}

func rootText() string {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 10 || f[4] != "/" {
			continue
		}
		layers := 0
		for option := range strings.SplitSeq(f[len(f)-1], ",") {
			if dirs, ok := strings.CutPrefix(option, "lowerdir="); ok {
				layers += strings.Count(dirs, ":") + 1
			} else if strings.HasPrefix(option, "lowerdir+=") {
				layers++
			}
		}
		mode := "read-write"
		if strings.HasPrefix(f[5], "ro") {
			mode = "read-only"
		}
		plural := "s"
		if layers == 1 {
			plural = ""
		}
		return fmt.Sprintf("overlay of %d layer%s, %s", layers, plural, mode)
	}
	return "unknown"
}

func capText(hex string) string {
	var set uint64
	fmt.Sscanf(hex, "%x", &set)
	if set == 0 {
		return "none"
	}
	names := caps.Set(set).Names()
	for i, n := range names {
		names[i] = strings.ToLower(strings.TrimPrefix(n, "CAP_"))
	}
	if len(names) > 20 {
		return fmt.Sprintf("%d of them", len(names))
	}
	var b strings.Builder
	width := 0
	for _, n := range names {
		if width+len(n) > 60 {
			b.WriteString("\n" + strings.Repeat(" ", 17))
			width = 0
		}
		b.WriteString(n + " ")
		width += len(n) + 1
	}
	return strings.TrimSpace(b.String())
}

func seccompText(mode string) string {
	switch mode {
	case "2":
		return "filtered"
	case "0":
		return "unconfined"
	}
	return "mode " + mode
}

func limitsText() string {
	text, _ := os.ReadFile("/proc/self/limits")
	var parts []string
	for line := range strings.Lines(string(text)) {
		for _, l := range []struct{ title, name string }{{"Max open files", "open files"}, {"Max processes", "processes"}, {"Max core file size", "core size"}} {
			if rest, ok := strings.CutPrefix(line, l.title); ok {
				parts = append(parts, l.name+" "+strings.Fields(rest)[0])
			}
		}
	}
	return strings.Join(parts, ", ")
}
