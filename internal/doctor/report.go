package doctor

import (
	"slices"
	"time"
)

// Severity is how bad a finding is.
type Severity uint8

// The severities.
const (
	Info    Severity = iota + 1 // good to know
	Warning                     // it works, and will not for long, or not well
	Problem                     // it does not work
)

// String is the severity in lower case.
func (s Severity) String() string {
	switch s {
	case Info:
		return "info"
	case Warning:
		return "warning"
	case Problem:
		return "problem"
	}
	return "none"
}

// MarshalText makes severities words in JSON.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Finding is one thing that was seen.
type Finding struct {
	Severity Severity `json:"severity"`
	Node     string   `json:"node,omitempty"` // name or URL; empty: the cluster
	What     string   `json:"what"`
	Why      string   `json:"why"`            // why it matters, or where it comes from
	Hint     string   `json:"hint,omitempty"` // what to do
}

// Step is one step of the synthetic transaction.
type Step struct {
	Name    string  `json:"name"`
	Seconds float64 `json:"seconds"`
	Error   string  `json:"error,omitempty"`
}

// Node is what one endpoint said of itself.
type Node struct {
	URL      string  `json:"url"`
	Name     string  `json:"name,omitempty"`
	Version  string  `json:"version,omitempty"`
	Ready    bool    `json:"ready"`
	Seconds  float64 `json:"round_trip_seconds,omitempty"` // of the question for its status
	Probe    float64 `json:"probe_seconds,omitempty"`      // of a linearizable read
	Skew     float64 `json:"skew_seconds,omitempty"`       // of its clock against this machine's
	Leader   bool    `json:"leader"`
	Revision int64   `json:"revision,omitempty"`
	Error    string  `json:"error,omitempty"`
}

// Report is everything that was seen, and what it means: the worst first.
type Report struct {
	Nodes    []Node    `json:"nodes"`
	Steps    []Step    `json:"steps"` // of the synthetic transaction, in order
	Findings []Finding `json:"findings"`
}

// Worst is the severity of the worst finding; 0 when there is none.
func (r Report) Worst() Severity {
	var worst Severity
	for _, f := range r.Findings {
		worst = max(worst, f.Severity)
	}
	return worst
}

func (r *Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return int(b.Severity) - int(a.Severity) })
}

func seconds(d time.Duration) float64 { return d.Round(time.Microsecond).Seconds() }
