package nemesis

import "time"

// ScheduleConfig says which faults a random schedule is made of.
type ScheduleConfig struct {
	Seed    uint64
	Nodes   []string
	Clients []string // may be empty
	// Kinds names the sets of default templates: net, packet, proc, power, clock,
	// disk, dns. Ignored where Templates is set.
	Kinds []string
	// Templates are the faults to draw from.
	Templates []Template
	// Start and Length are the window: no fault begins before Start, all have
	// ended at Start+Length.
	Start, Length time.Duration
	// Interval is the mean time between a fault's beginning and the next one's;
	// half of it the fault is on when For is 0. Default 10s. Each kind has its own
	// rhythm, so faults of different kinds overlap.
	Interval time.Duration
	// For is how long a fault lasts; default: as long as the pause after it.
	For time.Duration
	// MaxAffected bounds how many nodes are stopped, cut off or damaged at one
	// time; 0 is no bound. Majority of three: 1; of five: 2.
	MaxAffected int
}

// Template is a fault with blanks: {10ms..500ms} is filled with a value between
// the two (evenly in its logarithm), {a,b,c} with one of the words.
type Template struct {
	Text   string  `json:"text"`
	Weight float64 `json:"weight,omitempty"` // relative to the others; default 1
}

// Step is one fault of a schedule; its duration is in the fault.
type Step struct {
	At    time.Duration `json:"at"`
	Fault Fault         `json:"fault"`
}

// Schedule draws the faults of a run, in order of their time. The same
// configuration gives the same steps.
func Schedule(cfg ScheduleConfig) ([]Step, error) { return nil, nil }
