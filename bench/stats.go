package main

import (
	"cmp"
	"slices"
	"time"
)

// quantile is the value below which a share q of the values lies, by linear
// interpolation between neighbours; 0 for none. It sorts a copy.
func quantile[T cmp.Ordered](values []T, q float64, between func(a, b T, share float64) T) T {
	var zero T
	if len(values) == 0 {
		return zero
	}
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 == len(sorted) {
		return sorted[i]
	}
	return between(sorted[i], sorted[i+1], at-float64(i))
}

func median(d []time.Duration) time.Duration { return quantile(d, 0.5, mixDurations) }
func p10(d []time.Duration) time.Duration    { return quantile(d, 0.1, mixDurations) }

func medianInt(v []int64) int64 {
	return quantile(v, 0.5, func(a, b int64, share float64) int64 { return a + int64(share*float64(b-a)) })
}

func medianFloat(v []float64) float64 {
	return quantile(v, 0.5, func(a, b, share float64) float64 { return a + share*(b-a) })
}

func mixDurations(a, b time.Duration, share float64) time.Duration {
	return a + time.Duration(share*float64(b-a))
}

// paired are the differences a-b of values measured in the same round, which
// a machine that is busy for a while disturbs less than the difference of medians.
// A round in which either is missing is left out.
func paired(a, b []sample) []time.Duration {
	of := map[int]time.Duration{}
	for _, s := range b {
		of[s.round] = s.wall
	}
	var d []time.Duration
	for _, s := range a {
		if w, ok := of[s.round]; ok {
			d = append(d, s.wall-w)
		}
	}
	return d
}
