package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"time"
)

// start measures warm starts: every contender of an account once in each round,
// in another order each round, so that a busy hour hits all alike.
func (h *host) start(out io.Writer, rounds int) {
	for _, a := range h.accounts {
		list := h.contenders(a)
		results, failures := interleave(list, rounds)
		t := newTable(out, "Warm start of /bin/true, "+a.kind()+", ms",
			"", "n", "median", "p10", "CPU", "x bwrap", "x C")
		for _, c := range list {
			r := results[c]
			if c.why != "" || len(r) == 0 {
				t.without(c.name, c.why)
				continue
			}
			t.row(c.name, fmt.Sprint(len(r)), ms(median(walls(r))), ms(p10(walls(r))), ms(median(cpus(r))),
				ratio(median(walls(r)), of(list, results, bwrap)), ratio(median(walls(r)), of(list, results, reference)))
		}
		t.flush()
		summary(out, list, results)
		failures.print(out)
	}
}

// interleave runs the contenders that can run.
func interleave(list []*contender, rounds int) (map[*contender][]sample, failures) {
	results, failed := map[*contender][]sample{}, failures{}
	for round := range rounds {
		for _, i := range rand.Perm(len(list)) {
			c := list[i]
			if c.why != "" || c.slow && round%5 != 0 {
				continue
			}
			s := c.run("/bin/true").measure()
			if s.err != nil {
				failed.add(c.name, s.err)
				continue
			}
			s.round = round
			results[c] = append(results[c], s)
		}
	}
	return results, failed
}

// summary says in a line each what the targets speak of.
func summary(out io.Writer, list []*contender, results map[*contender][]sample) {
	pick := func(r role) []sample {
		for _, c := range list {
			if c.role == r {
				return results[c]
			}
		}
		return nil
	}
	none := pick(skiffNone)
	if len(none) == 0 {
		return
	}
	fmt.Fprintln(out)
	for _, d := range []struct {
		what string
		of   role
	}{{"20 layers add", skiffMany}, {"the default network adds", skiffDefault}, {"the host network adds", skiffHost}} {
		if p := paired(pick(d.of), none); len(p) > 0 {
			fmt.Fprintf(out, "%s %s ms (median of the rounds' differences)\n", d.what, ms(median(p)))
		}
	}
	for _, d := range []struct {
		name string
		of   role
	}{{"crun", crun}, {"podman", podman}} {
		if r := pick(d.of); len(r) > 0 {
			fmt.Fprintf(out, "skiff with network none is %s times as fast as %s\n", ratio(median(walls(r)), median(walls(none))), d.name)
		}
	}
}

// of is the median of the contender with a role, 0 if it did not run.
func of(list []*contender, results map[*contender][]sample, r role) time.Duration {
	for _, c := range list {
		if c.role == r {
			return median(walls(results[c]))
		}
	}
	return 0
}

func walls(list []sample) (d []time.Duration) {
	for _, s := range list {
		d = append(d, s.wall)
	}
	return d
}

func cpus(list []sample) (d []time.Duration) {
	for _, s := range list {
		d = append(d, s.cpu)
	}
	return d
}

func faults(list []sample) (n []int64) {
	for _, s := range list {
		n = append(n, s.faults)
	}
	return n
}

// failures counts what went wrong, by contender and text.
type failures map[string]int

func (f failures) add(name string, err error) { f[name+": "+err.Error()]++ }

func (f failures) print(out io.Writer) {
	for text, n := range f {
		fmt.Fprintf(out, "FAILED %d times: %s\n", n, text)
	}
}
