package engine

import (
	"sync/atomic"
	"time"
)

// Instant is a point in time on this machine's monotonic clock, counting also
// the time the machine slept, in nanoseconds since the process started. It
// never goes back, means nothing on another machine, and says nothing of the
// time of day.
type Instant int64

// base is the process's origin of Instants; it carries a monotonic reading.
var base = time.Now()

// slept is the most suspend time seen so far, in nanoseconds. It only grows.
var slept atomic.Int64

// Now is the present instant. It costs three clock readings.
func Now() Instant {
	s := suspended()
	for {
		old := slept.Load()
		if s <= old {
			s = old
			break
		}
		if slept.CompareAndSwap(old, s) {
			break
		}
	}
	return Instant(int64(time.Since(base)) + s)
}

// Add is the instant d later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub is the time from j to i.
func (i Instant) Sub(j Instant) time.Duration { return time.Duration(i - j) }

// Until is the time left before i; negative when it has passed.
func (i Instant) Until() time.Duration { return i.Sub(Now()) }
