package check

import (
	"context"

	"holdfast.dev/lab/history"
)

// Verdict is what a checker concludes.
type Verdict string

// The verdicts. Unknown is no weaker form of Valid: it says that the history
// cannot show the promise kept or broken, or that the checker ran out of
// what it was given.
const (
	Valid   Verdict = "valid"
	Invalid Verdict = "invalid"
	Unknown Verdict = "unknown"
)

// Result is a verdict and what it rests on. The same history gives the same
// result, to the word, unless a time limit ended the check.
type Result struct {
	Checker string         `json:"checker"`
	Verdict Verdict        `json:"verdict"`
	Summary string         `json:"summary"`           // one sentence
	Witness []string       `json:"witness,omitempty"` // each line one fact, the most important first; at most 10
	Ops     []int          `json:"ops,omitempty"`     // indices of the operations that the witness is about, ascending
	Stats   map[string]any `json:"stats,omitempty"`   // figures for the report: int64, float64, string, and maps of them
}

// Func checks a history. It ends soon after ctx does, with Unknown.
type Func func(ctx context.Context, h history.History) Result

// Merge is the verdict over all: one Invalid makes it Invalid, failing that
// one Unknown makes it Unknown. No results at all are Unknown.
func Merge(results ...Result) Verdict {
	verdict := Valid
	if len(results) == 0 {
		verdict = Unknown
	}
	for _, r := range results {
		switch r.Verdict {
		case Invalid:
			return Invalid
		case Valid:
		case Unknown:
			verdict = Unknown
		default:
			verdict = Unknown
		}
	}
	return verdict
}
