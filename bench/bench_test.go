package main

import (
	"slices"
	"testing"
	"time"
)

func TestQuantiles(t *testing.T) {
	d := []time.Duration{50, 10, 40, 20, 30}
	if m := median(d); m != 30 {
		t.Errorf("median %d", m)
	}
	if p := p10(d); p != 14 {
		t.Errorf("p10 %d", p)
	}
	if !slices.Equal(d, []time.Duration{50, 10, 40, 20, 30}) {
		t.Error("the values were sorted in place")
	}
	if m := median([]time.Duration{4, 2}); m != 3 {
		t.Errorf("median of two %d", m)
	}
	if median(nil) != 0 || p10([]time.Duration{7}) != 7 || medianInt([]int64{1, 4}) != 2 {
		t.Error("none, one and two values")
	}
}

func TestPairedDifferences(t *testing.T) {
	a := []sample{{round: 0, wall: 10}, {round: 1, wall: 30}, {round: 3, wall: 9}}
	b := []sample{{round: 1, wall: 20}, {round: 2, wall: 5}, {round: 0, wall: 7}}
	if d := paired(a, b); !slices.Equal(d, []time.Duration{3, 10}) {
		t.Errorf("%v", d)
	}
}

func TestParseInitTrace(t *testing.T) {
	got := parseInitTrace(`init runtime @0.018 ms, 0.035 ms clock, 0 bytes, 0 allocs
skiff: something else
init errors @0.23 ms, 0.001 ms clock, 96 bytes, 4 allocs
init net/http @0.8 ms, 0.12 ms clock, 9000 bytes, 80 allocs
init half a line
`)
	if len(got) != 3 || got["runtime"] != 35*time.Microsecond || got["net/http"] != 120*time.Microsecond || got.sum() != 156*time.Microsecond {
		t.Errorf("%v", got)
	}
	if names := dearest(got); !slices.Equal(names, []string{"net/http", "runtime", "errors"}) {
		t.Errorf("%v", names)
	}
}

func TestParseCounts(t *testing.T) {
	got := parseCounts(`    calls    errors syscall
--------- --------- ----------------
      114           rt_sigaction
       58         3 openat
       13        12 mount
        2           close
--------- --------- ----------------
      187        15 total
`)
	if got.calls != 187 || got.failed != 15 || got.most != "rt_sigaction 114, openat 58, mount 13" {
		t.Errorf("%+v", got)
	}
}
