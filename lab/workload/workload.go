package workload

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

// Instance is a workload for one run. It does no I/O. Next may be called
// concurrently for different workers; the other methods not.
type Instance interface {
	// Setup is what one client does before all others, in order. Each must end
	// OK, or the run cannot begin.
	Setup() []history.Op

	// Next is the n-th operation of a worker, from 0: F, Key and Value are set,
	// the rest is the caller's. It is false where this worker has nothing to do
	// now; the same n may then be asked again later. Every choice by chance comes
	// from rnd, which the caller derives from the seed, the worker and n alone.
	Next(w Worker, n int, rnd *rand.Rand) (op history.Op, ok bool)

	// Final is what is asked after everything was healed, in order.
	Final(nodes []string) []FinalOp

	// Checks judge the history.
	Checks() []Check
}

// Worker is one of those who make operations, one at a time.
type Worker struct {
	Index   int    // from 0, below Config.Workers; the same for the whole run
	Process int    // the process that the next operation will have: another one after an Info
	Node    string // the server that its client talks to
	// Last is how this worker's last operation ended, nil before the first. Where
	// its Process is not the worker's, the operation was never answered, and the
	// worker has a new client since.
	Last *history.Op
}

// held says whether the worker still has the client that made the last operation.
func (w Worker) held() bool { return w.Last != nil && w.Last.Process == w.Process }

// FinalOp is a read at the end, and for how long it is tried again.
type FinalOp struct {
	Op   history.Op
	Node string // whom to ask; "": any node, and at each attempt the next
	// Every attempt is a call of its own in the history. They go on until one is
	// OK, for Within; between two of them Pause passes.
	Within time.Duration
	Pause  time.Duration
	// Must says that without an OK the verdict is at best unknown.
	Must bool
}

// Check is a checker and what it is called in the report.
type Check struct {
	Name string
	Func check.Func
}

// Config says how a workload is to be. The zero value of each field is its
// default; a field that the workload has no use for is an error. The doc tags
// are the descriptions in the scenario's schema.
type Config struct {
	// Workers is how many workers there are, default 5, and Nodes are the hosts
	// of the system. The runner sets both.
	Workers int      `yaml:"-" json:"-"`
	Nodes   []string `yaml:"-" json:"-"`

	Keys      int           `yaml:"keys" json:"keys,omitempty" doc:"How many objects are in use at once: registers, lists, watched keys, locks, elections, participants. The default depends on the workload."`
	OpsPerKey int           `yaml:"ops_per_key" json:"ops_per_key,omitempty" doc:"After how many operations a key is given up for a new one. Default 150 for cas and kv, 48 appends for append."`
	Reads     float64       `yaml:"reads" json:"reads,omitempty" doc:"The share of reads, above 0 and below 1. The default depends on the workload."`
	Accounts  int           `yaml:"accounts" json:"accounts,omitempty" doc:"How many accounts the bank has. Default 8."`
	Total     int64         `yaml:"total" json:"total,omitempty" doc:"What they have together. Default 10 each."`
	TxnOps    int           `yaml:"txn_ops" json:"txn_ops,omitempty" doc:"The most operations in one transaction. Default 4."`
	Hold      time.Duration `yaml:"hold" json:"hold,omitempty" doc:"How long the holder of a lock works on the resource between reading and writing it, on average: each time between 0 and twice that. Default 50ms."`
	Fencing   bool          `yaml:"fencing" json:"fencing,omitempty" doc:"The holder of a lock sends its token to the resource, which refuses tokens older than the newest it saw."`
	WatchFor  time.Duration `yaml:"watch_for" json:"watch_for,omitempty" doc:"How long one watch lasts. Default 500ms."`
}

// DefaultHold is what Config.Hold is when it is zero.
const DefaultHold = 50 * time.Millisecond

// kind is one of the workloads that there are.
type kind struct {
	name   string
	doc    string
	new    func(cfg Config) generator
	checks func(cfg Config) []Check
	uses   []string // fields of Config
}

// generator is an Instance without its checks.
type generator interface {
	Setup() []history.Op
	Next(w Worker, n int, rnd *rand.Rand) (history.Op, bool)
	Final(nodes []string) []FinalOp
}

type instance struct {
	generator
	checks []Check
}

func (i instance) Checks() []Check { return i.checks }

// New makes a workload by its name. The error names every fault of the
// configuration.
func New(name string, cfg Config) (Instance, error) {
	i := slices.IndexFunc(kinds, func(k kind) bool { return k.name == name })
	if i < 0 {
		return nil, fmt.Errorf("workload %q: there is none; there are %s", name, strings.Join(Names(), ", "))
	}
	cfg.Workers = cmp.Or(cfg.Workers, 5)
	if err := cfg.check(kinds[i]); err != nil {
		return nil, fmt.Errorf("workload %s: %w", name, err)
	}
	return instance{kinds[i].new(cfg), kinds[i].checks(cfg)}, nil
}

// Names are all workloads, sorted.
func Names() []string {
	var names []string
	for _, k := range kinds {
		names = append(names, k.name)
	}
	slices.Sort(names)
	return names
}

// Doc is one line about a workload, "" for one that there is not.
func Doc(name string) string {
	for _, k := range kinds {
		if k.name == name {
			return k.doc
		}
	}
	return ""
}
