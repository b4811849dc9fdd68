package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// syscalls counts the system calls and page faults of one start, of the runner
// and of everything it starts together. The calls are counted by strace, in runs
// of their own: tracing changes how often a program polls or waits, so the last digit
// means nothing. The faults are from getrusage(2), untraced.
func (h *host) syscalls(out io.Writer) {
	for _, a := range h.accounts {
		t := newTable(out, "System calls and page faults of a start, "+a.kind(), "", "calls", "failed calls", "faults", "most frequent")
		for _, c := range []*contender{
			h.byReference(a, "C, same work", reference), h.byBwrap(a),
			h.bySkiff(a, "skiff, network none", skiffNone, h.one, "none"),
			h.bySkiff(a, "skiff, default network", skiffDefault, h.one, "default"),
			h.bySkiff(a, "skiff, host network", skiffHost, h.one, "host"),
			h.byCrun(a), h.byPodman(a, "none"),
		} {
			if c.why == "" {
				c.probe()
			}
			if c.why != "" {
				t.without(c.name, c.why)
				continue
			}
			var runs []sample
			for range 10 {
				if s := c.run("/bin/true").measure(); s.err == nil {
					runs = append(runs, s)
				}
			}
			calls, failed, most := "-", "-", ""
			if n, err := c.strace(h.dir); err != nil {
				t.without(c.name+", calls", firstLines(err.Error()))
			} else {
				calls, failed, most = fmt.Sprint(n.calls), fmt.Sprint(n.failed), n.most
			}
			t.row(c.name, calls, failed, fmt.Sprint(medianInt(faults(runs))), most)
		}
		t.flush()
	}
}

// counts is what strace counted.
type counts struct {
	calls, failed int
	most          string
}

// strace counts a start's system calls. A setuid program, as newuidmap is, does
// not get its rights under an ordinary user's strace: root's it is then.
func (c *contender) strace(dir string) (counts, error) {
	if why := installed("strace"); why != "" {
		return counts{}, fmt.Errorf("%s", why)
	}
	run := c.run("/bin/true")
	file := filepath.Join(dir, "strace")
	argv := []string{"strace", "-f", "-c", "-U", "calls,errors,name", "-S", "calls", "-o", file}
	if !c.as.self {
		argv = append(argv, "-u", c.as.name)
		root := *c.as
		root.self = true
		run.as = &root
	}
	run.argv = append(argv, run.argv...)
	if s := run.measure(); s.err != nil {
		return counts{}, s.err
	}
	text, err := os.ReadFile(file)
	os.Remove(file)
	return parseCounts(string(text)), err
}

// parseCounts reads the table of strace -c -U calls,errors,name. An empty cell
// of errors is left out of its line.
func parseCounts(text string) (n counts) {
	var most []string
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 2 {
			continue
		}
		calls, err := strconv.Atoi(f[0])
		if err != nil {
			continue
		}
		errors := 0
		if len(f) == 3 {
			errors, _ = strconv.Atoi(f[1])
		}
		name := f[len(f)-1]
		if name == "total" {
			n.calls, n.failed = calls, errors
		} else if len(most) < 3 {
			most = append(most, fmt.Sprintf("%s %d", name, calls))
		}
	}
	n.most = strings.Join(most, ", ")
	return n
}
