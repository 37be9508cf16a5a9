package check

import (
	"context"
	"fmt"
	"slices"

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

// A checker by name. Fits says whether a history can be meant for it.
type entry struct {
	name  string
	check Func
	fits  func(*profile) bool
}

// entries are the checkers that have a name, in the order in which Guess
// proposes them. Checkers that need options run with those of their zero value.
func entries() []entry {
	return []entry{
		{"stats", Stats{}.Check, func(p *profile) bool { return p.calls > 0 }},
		{"register", Register{}.Check, func(p *profile) bool { return p.only("read", "write") && p.has("read", "write") }},
		{"cas", CAS{}.Check, func(p *profile) bool { return p.only("read", "write", "cas") && p.has("cas") }},
		{"kv", KV{}.Check, func(p *profile) bool {
			return p.only("read", "write", "get", "put", "delete", "cas") && (p.has("get") || p.has("put") || p.has("delete"))
		}},
		{"set", Set{}.Check, func(p *profile) bool { return p.only("add", "read") && p.has("add") && p.lists["read"] }},
		{"counter", Counter{}.Check, func(p *profile) bool { return p.only("add", "read") && p.has("add") && !p.lists["read"] }},
		{"queue", Queue{}.Check, func(p *profile) bool { return p.only("enqueue", "dequeue", "drain") && p.has("enqueue") }},
		{"lock", Lock{}.Check, func(p *profile) bool { return p.only("acquire", "release", "add", "read") && p.has("acquire") }},
		{"effects", Effects{}.Check, func(p *profile) bool {
			return p.only("acquire", "release", "add", "read") && p.has("acquire", "add", "read")
		}},
		{"election", Election{}.Check, func(p *profile) bool { return p.only("campaign", "resign", "observe") && p.has("campaign") }},
		{"bank", Bank{}.Check, func(p *profile) bool { return p.only("init", "transfer", "read") && p.has("transfer") }},
		{"append", Append{}.Check, func(p *profile) bool { return p.only("txn") && p.has("txn") }},
		{"watch", Watch{}.Check, func(p *profile) bool { return p.only("put", "delete", "watch") && p.has("watch") }},
		{"idempotent", Idempotent{}.Check, func(p *profile) bool { return p.only("apply", "effects") && p.has("apply") }},
		{"atomic-commit", AtomicCommit{}.Check, func(p *profile) bool { return p.only("commit", "read") && p.has("commit") }},
		{"unique-ids", UniqueIDs{}.Check, func(p *profile) bool { return p.only("generate") && p.has("generate") }},
	}
}

// profile is what Guess knows of a history.
type profile struct {
	calls int
	f     map[string]bool // the functions of clients' calls
	lists map[string]bool // those that returned lists
}

func (p *profile) has(fs ...string) bool {
	for _, f := range fs {
		if !p.f[f] {
			return false
		}
	}
	return true
}

// only reports that there is no other function than these.
func (p *profile) only(fs ...string) bool {
	for f := range p.f {
		if !slices.Contains(fs, f) {
			return false
		}
	}
	return true
}

// Names are the names of all checkers.
func Names() []string {
	var names []string
	for _, e := range entries() {
		names = append(names, e.name)
	}
	return names
}

// ByName is the checker of that name, with the options of its zero value. One
// that panics has the verdict Unknown.
func ByName(name string) (func(context.Context, history.History) Result, bool) {
	for _, e := range entries() {
		if e.name == name {
			return Safely(name, e.check), true
		}
	}
	return nil, false
}

// Safely is check with a panic turned into Unknown: a checker that fails says
// nothing about the system.
func Safely(name string, check Func) Func {
	return func(ctx context.Context, h history.History) (r Result) {
		defer func() {
			if p := recover(); p != nil {
				r = unknown(name, "the checker failed: %s", shorten(fmt.Sprint(p)))
			}
		}()
		return check(ctx, h)
	}
}

// Guess proposes the names of checkers that fit the operations of a history,
// stats first.
func Guess(h history.History) []string {
	p := profile{f: map[string]bool{}, lists: map[string]bool{}}
	for i := range h {
		op := &h[i]
		if op.Process == history.Nemesis {
			continue
		}
		if op.Type == history.Invoke {
			p.calls++
			p.f[op.F] = true
		}
		if _, list := op.Value.([]any); list && op.Type == history.OK {
			p.lists[op.F] = true
		}
	}
	var names []string
	for _, e := range entries() {
		if e.fits(&p) {
			names = append(names, e.name)
		}
	}
	return names
}
