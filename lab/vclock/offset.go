package vclock

import "time"

// Offset is how a host's wall clock differs from the machine's: at monotonic
// time t it reads real time + Jump + Drift·(t − the time when it was set).
type Offset struct {
	Jump  time.Duration // added
	Drift float64       // seconds per second; 500 ppm is 0.0005, double speed is 1
}
