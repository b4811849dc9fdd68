package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// initBudget is what the initialisation of all packages may take together
// before main: every start pays for it. It is compared with the least of
// initRuns runs, since machines are noisy in one direction only.
const (
	initBudget = 900 * time.Microsecond
	initRuns   = 40
)

// An initTrace is the time each package's initialisation took.
type initTrace map[string]time.Duration

func (t initTrace) sum() (d time.Duration) {
	for _, v := range t {
		d += v
	}
	return d
}

// parseInitTrace reads what GODEBUG=inittrace=1 prints on stderr, one line for
// each package that has anything to initialise:
//
//	init internal/bytealg @0.008 ms, 0.004 ms clock, 0 bytes, 0 allocs
//
// Other lines are ignored. Source: package runtime, "Environment Variables".
func parseInitTrace(text string) initTrace {
	t := initTrace{}
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 || f[0] != "init" || f[3] != "ms," || f[5] != "ms" {
			continue
		}
		if v, err := strconv.ParseFloat(f[4], 64); err == nil {
			t[f[1]] = time.Duration(v * 1e6)
		}
	}
	return t
}

// initCost prints what package initialisation costs, the dearest packages, and
// how `skiff --version` compares with a Go program that does nothing. With
// budget it fails if the sum is above it.
func (h *host) initCost(out io.Writer, budget bool) error {
	version := command{argv: []string{h.skiff, "--version"}, as: h.accounts[0]}
	traced := version
	traced.env = []string{"GODEBUG=inittrace=1"}
	var runs []time.Duration
	least := initTrace{}
	for range initRuns {
		text, err := traced.output()
		if err != nil {
			return err
		}
		t := parseInitTrace(text)
		runs = append(runs, t.sum())
		for pkg, d := range t {
			if old, ok := least[pkg]; !ok || d < old {
				least[pkg] = d
			}
		}
	}
	if len(least) == 0 {
		return fmt.Errorf("init: %s prints no trace", h.skiff)
	}
	t := newTable(out, "Package initialisation before main, ms", "", "clock")
	t.row(fmt.Sprintf("least of %d runs", initRuns), fmt.Sprintf("%.3f", slices.Min(runs).Seconds()*1e3))
	t.row("median", fmt.Sprintf("%.3f", median(runs).Seconds()*1e3))
	t.row("budget", fmt.Sprintf("%.3f", initBudget.Seconds()*1e3))
	t.row("sum of each package's least", fmt.Sprintf("%.3f", least.sum().Seconds()*1e3))
	for i, pkg := range dearest(least) {
		if i == 15 {
			break
		}
		t.row("  "+pkg, fmt.Sprintf("%.3f", least[pkg].Seconds()*1e3))
	}
	t.flush()
	if err := h.emptyProgram(out, version); err != nil {
		return err
	}
	if budget && slices.Min(runs) > initBudget {
		return fmt.Errorf("init: %v is above the budget of %v; see the packages above", slices.Min(runs), initBudget)
	}
	return nil
}

func dearest(t initTrace) (names []string) {
	for pkg := range t {
		names = append(names, pkg)
	}
	slices.SortFunc(names, func(a, b string) int {
		if t[a] != t[b] {
			return int(t[b] - t[a])
		}
		return strings.Compare(a, b)
	})
	return names
}

// emptyProgram compares with a Go program whose main is empty.
func (h *host) emptyProgram(out io.Writer, version command) error {
	src := filepath.Join(h.dir, "empty.go")
	if err := os.WriteFile(src, []byte("package main\n\nfunc main() {}\n"), 0o644); err != nil {
		return err
	}
	empty := command{argv: []string{filepath.Join(h.programs, "empty")}, as: h.accounts[0]}
	if err := build(h.dir, empty.argv[0], src); err != nil {
		return err
	}
	commands := []command{empty, version}
	var took [2][]sample
	for range 5 * initRuns {
		for _, i := range rand.Perm(2) {
			s := commands[i].measure()
			if s.err != nil {
				return s.err
			}
			took[i] = append(took[i], s)
		}
	}
	t := newTable(out, "A Go program that does nothing, and skiff --version, ms", "", "n", "median", "p10", "CPU", "faults", "x empty")
	for i, name := range []string{"empty main", "skiff --version"} {
		w := walls(took[i])
		t.row(name, fmt.Sprint(len(w)), ms(median(w)), ms(p10(w)), ms(median(cpus(took[i]))),
			fmt.Sprint(medianInt(faults(took[i]))), ratio(median(w), median(walls(took[0]))))
	}
	t.flush()
	return nil
}
