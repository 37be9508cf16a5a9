//go:build linux

package vswitch

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Lateness is how much later than asked the switch sent frames.
type Lateness struct {
	Count         int64
	P50, P99, Max time.Duration // quantiles are at most an eighth too high
}

const (
	stepBits = 3 // eight steps from each power of two to the next
	steps    = 1 << stepBits
	buckets  = 36 * steps // up to a minute
)

// histogram counts durations in steps of an eighth. One goroutine adds; others
// may read.
type histogram struct {
	count [buckets]atomic.Int64
	max   atomic.Int64
}

func bucketOf(d time.Duration) int {
	if d < steps {
		return int(max(d, 0))
	}
	e := bits.Len64(uint64(d)) - 1 - stepBits
	return min((e+1)*steps+int(uint64(d)>>e)-steps, buckets-1)
}

// upper is the longest duration of a bucket.
func upper(b int) time.Duration {
	if b < steps {
		return time.Duration(b)
	}
	e := b/steps - 1
	return time.Duration((steps+b%steps+1)<<e - 1)
}

func (h *histogram) add(d time.Duration) {
	h.count[bucketOf(d)].Add(1)
	if int64(d) > h.max.Load() {
		h.max.Store(int64(d))
	}
}

// into adds what was counted to sums.
func (h *histogram) into(sums *[buckets]int64, longest *time.Duration) {
	for i := range h.count {
		sums[i] += h.count[i].Load()
	}
	*longest = max(*longest, time.Duration(h.max.Load()))
}

func latenessOf(sums *[buckets]int64, longest time.Duration) Lateness {
	l := Lateness{Max: longest}
	for _, n := range sums {
		l.Count += n
	}
	quantile := func(q float64) time.Duration {
		rank, seen := int64(q*float64(l.Count-1))+1, int64(0)
		for i, n := range sums {
			if seen += n; seen >= rank {
				return min(upper(i), longest)
			}
		}
		return 0
	}
	if l.Count > 0 {
		l.P50, l.P99 = quantile(0.50), quantile(0.99)
	}
	return l
}
