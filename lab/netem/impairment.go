package netem

import "time"

// Impairment is what one directed link does to frames, in the words of Linux'
// netem. The zero value does nothing. Probabilities are in [0, 1].
type Impairment struct {
	Delay        time.Duration // of every frame
	Jitter       time.Duration // spread around Delay
	Distribution Distribution  // of the jitter; default uniform
	Correlation  float64       // of successive jitters

	Loss            float64 // independent loss
	LossCorrelation float64 // makes losses come in runs, and keeps their rate (netem's own does not)
	Gilbert         *Gilbert

	Duplicate            float64
	DuplicateCorrelation float64
	Corrupt              float64 // one random bit of the payload is flipped
	CorruptCorrelation   float64
	FixChecksum          bool // the checksum is made to fit after the flip, so that the application sees it

	Reorder            float64 // the frame goes at once while the others are delayed; needs Delay
	ReorderCorrelation float64
	Gap                int // only every Gap-th frame may be reordered

	Rate  int64 // bits per second; 0 is unlimited
	Limit int   // frames in the queue; default 1000. More are dropped
	MTU   int   // longer frames are dropped silently; 0 is no bound

	Cut Cut // partition
}

// Gilbert is the Gilbert–Elliott model of bursts of loss: p from good to bad, r
// from bad to good, and the loss in each state.
type Gilbert struct {
	P, R              float64
	LossGood, LossBad float64
}

// Distribution of the jitter.
type Distribution string

// The distributions of netem.
const (
	Uniform      Distribution = "uniform"
	Normal       Distribution = "normal"
	Pareto       Distribution = "pareto"
	ParetoNormal Distribution = "paretonormal"
)

// Cut says how a partitioned link behaves.
type Cut string

// The kinds of partition (Antithesis' words).
const (
	None    Cut = ""
	Stopped Cut = "stopped" // frames are dropped
	Slowed  Cut = "slowed"  // they take two seconds, and are not lost
	Jammed  Cut = "jammed"  // they are held, and all arrive when the link heals
)
