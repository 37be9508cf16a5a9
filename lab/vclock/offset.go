package vclock

import (
	"fmt"
	"math"
	"math/bits"
	"time"
)

// Offset is how a host's wall clock differs from the machine's: at monotonic
// time t it reads real time + Jump + Drift·(t − the time when it was set).
type Offset struct {
	Jump  time.Duration // added; at most MaxJump, either way
	Drift float64       // seconds per second; 500 ppm is 0.0005, double speed is 1, −1 stands still; at most MaxDrift, either way
}

// Bounds of an offset: far more than clocks go wrong, and small enough that
// nothing overflows in months of drift.
const (
	MaxJump  = 36500 * 24 * time.Hour
	MaxDrift = 1000.0
)

// At is what is added to real time so long after the offset was set. It is
// computed as the processes compute it, to the nanosecond.
func (o Offset) At(elapsed time.Duration) time.Duration {
	s := settingsOf(o, 0)
	hi, lo := bits.Mul64(uint64(s.drift), uint64(elapsed)) //nolint:gosec // two's complement: corrected below
	if s.drift < 0 {
		hi -= uint64(elapsed) //nolint:gosec // see above
	}
	if elapsed < 0 {
		hi -= uint64(s.drift) //nolint:gosec // see above
	}
	return o.Jump + time.Duration(hi<<(64-driftShift)|lo>>driftShift) //nolint:gosec // see above
}

func (o Offset) check() error {
	switch {
	case o.Jump > MaxJump || o.Jump < -MaxJump:
		return fmt.Errorf("vclock: jump of %v: at most %v", o.Jump, MaxJump)
	case !(math.Abs(o.Drift) <= MaxDrift): // also not a number
		return fmt.Errorf("vclock: drift of %v: at most %v", o.Drift, MaxDrift)
	}
	return nil
}

// settings are an offset as the shim reads it.
type settings struct {
	jump  int64 // nanoseconds
	since int64 // CLOCK_MONOTONIC, nanoseconds
	drift int64 // times 2^driftShift
	mask  uint64
}

// settingsOf turns an offset that was set at monotonic time since into settings.
// A clock that is right is not moved at all.
func settingsOf(o Offset, since int64) settings {
	s := settings{
		jump:  int64(o.Jump),
		since: since,
		drift: int64(math.RoundToEven(math.Ldexp(o.Drift, driftShift))),
		mask:  wallClocks,
	}
	if s.jump == 0 && s.drift == 0 {
		return settings{}
	}
	return s
}
