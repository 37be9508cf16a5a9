package main

import (
	"math"
	"slices"
	"time"
)

// median is the middle of the values, between the two in the middle of an even
// number; NaN of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// quantile is the least duration that at least the fraction q of all does not
// exceed (the nearest rank); 0 of none.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(ds))
	rank := int(math.Ceil(q * float64(len(s))))
	return s[min(max(rank, 1), len(s))-1]
}

// spread is a figure that was measured several times.
type spread struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	return spread{Median: median(values), Least: slices.Min(values), Most: slices.Max(values)}
}

// ratios divides round by round: what disturbs a whole round disturbs both.
func ratios(ours, peer []float64) []float64 {
	var out []float64
	for i := range min(len(ours), len(peer)) {
		if peer[i] > 0 {
			out = append(out, ours[i]/peer[i])
		}
	}
	return out
}

// longestGap is the longest time between two successes of which the later is
// after at; successes ascend, and times are since one origin. The second result
// is false when there is no success after at.
func longestGap(successes []time.Duration, at time.Duration) (time.Duration, bool) {
	var longest, before time.Duration
	after := false
	for _, s := range successes {
		if s > at {
			after = true
			longest = max(longest, s-before)
		}
		before = s
	}
	return longest, after
}
