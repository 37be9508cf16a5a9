package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"
)

// ErrClosed says that the nemesis injects nothing more.
var ErrClosed = errors.New("nemesis: closed")

// Config is how a Nemesis works. The zero value works.
type Config struct {
	// Seed decides what faults leave to chance.
	Seed uint64
	// Now is the time since the run began, on a monotonic clock; default: since
	// New.
	Now func() time.Duration
	// Journal is told what happens as it happens; nil is nobody. Events of one
	// fault come one after the other, those of several may come at once. It must
	// not call the Nemesis.
	Journal func(Event)
	// HealTimeout bounds how long the recovery of one fault may take; default 1m.
	// It runs to its end whatever becomes of the caller's context.
	HealTimeout time.Duration
	// VerifyEvery is how soon an injected fault is asked what it touched; then
	// at twice the time each, up to ten times, until it touched something.
	// Default 200ms.
	VerifyEvery time.Duration
}

// measureTimeout bounds one look at what a fault touched.
const measureTimeout = 5 * time.Second

// Nemesis injects faults into one world and takes them back. Its methods may be
// called concurrently; several faults can be active at once.
type Nemesis struct {
	world  World
	cfg    Config
	ledger *ledger

	mu     sync.Mutex
	closed bool
	all    []*Active      // every fault, by ID
	times  map[string]int // how often a text was injected
}

// New returns a nemesis of the world. It starts nothing.
func New(world World, cfg Config) *Nemesis {
	if cfg.Now == nil {
		start := time.Now()
		cfg.Now = func() time.Duration { return time.Since(start) }
	}
	if cfg.Journal == nil {
		cfg.Journal = func(Event) {}
	}
	if cfg.HealTimeout <= 0 {
		cfg.HealTimeout = time.Minute
	}
	if cfg.VerifyEvery <= 0 {
		cfg.VerifyEvery = 200 * time.Millisecond
	}
	return &Nemesis{world: world, cfg: cfg, ledger: newLedger(world, cfg.Now), times: make(map[string]int)}
}

// Inject breaks what the fault says and returns when it is broken; faults that
// go step by step go on in the background. When the fault has a duration it
// recovers by itself after it; restarts, resets and the like end by themselves;
// for all others call Recover or HealAll. When ctx ends during the injection,
// what was begun is taken back; afterwards it does not matter.
//
// On an error the fault was taken back; where that failed too it stays in
// Active, for HealAll to try again. Records has it in any case.
func (n *Nemesis) Inject(ctx context.Context, f Fault) (*Active, error) {
	if f.IsZero() {
		return nil, errors.New("fault: empty")
	}
	wanted, ask := context.WithCancel(context.WithoutCancel(ctx))
	a, seed, err := n.add(f, ask)
	if err != nil {
		ask()
		return nil, err
	}
	go a.live(ctx, wanted, seed) // done is closed at its end, and Recover waits for that
	<-a.injected
	if err := a.injectErr; err != nil {
		<-a.done
		return nil, fmt.Errorf("%s: %w", f, err)
	}
	return a, nil
}

// add gives the fault a number, and its draws a name that does not depend on
// what else is injected: the text and how often it was there before.
func (n *Nemesis) add(f Fault, ask func()) (*Active, uint64, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, 0, ErrClosed
	}
	text := f.String()
	seed := newDraw(n.cfg.Seed, "inject", text, strconv.Itoa(n.times[text])).number()
	n.times[text]++
	a := &Active{
		nemesis: n, fault: f, id: len(n.all) + 1, ask: ask,
		injected: make(chan struct{}), hurry: make(chan struct{}), done: make(chan struct{}),
		again: newTurn(),
	}
	a.record = Record{ID: a.id, Kind: f.Kind(), Fault: text, Effect: Effect{Text: "touched nothing"}}
	n.all = append(n.all, a)
	return a, seed, nil
}

// Active is the faults that are not recovered, oldest first: also those that
// are just being injected, and those whose recovery has failed.
func (n *Nemesis) Active() []*Active {
	return slices.DeleteFunc(n.snapshot(), func(a *Active) bool { return !a.broken() })
}

func (n *Nemesis) snapshot() []*Active {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.all)
}

// Records is what became of every fault so far, by ID.
func (n *Nemesis) Records() []Record {
	all := n.snapshot()
	records := make([]Record, len(all))
	for i, a := range all {
		records[i] = a.Record()
	}
	return records
}

// HealAll recovers all active faults and returns when they are recovered: the
// latest first, but servers are started last, all at once, because one may wait
// for another and for the network. Faults that heal step by step heal at once.
// It goes on where one fails, tries those a second time at the end, and joins
// the errors that are left.
func (n *Nemesis) HealAll(ctx context.Context) error { return heal(ctx, n.Active()) }

// HealAmong recovers what keeps these hosts from working together and with
// their clients, and leaves the rest of the faults as they are: those of other
// hosts, and the links to them. A fault that hits these hosts and others is
// recovered as a whole. The order is HealAll's.
func (n *Nemesis) HealAmong(ctx context.Context, core []string) error {
	ends := slices.Concat(core, n.world.Clients(), []string{Lab})
	return heal(ctx, slices.DeleteFunc(n.Active(), func(a *Active) bool { return !a.concerns(core, ends) }))
}

// Close is HealAll, and lets nothing more be injected.
func (n *Nemesis) Close(ctx context.Context) error {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	return n.HealAll(ctx)
}

func heal(ctx context.Context, active []*Active) error {
	slices.Reverse(active)
	var failed, starts []*Active
	for _, a := range active {
		a.abandon()
		if a.startsServers() {
			starts = append(starts, a)
		} else if a.recover(ctx, true) != nil {
			failed = append(failed, a)
		}
	}
	errs := make([]error, len(starts))
	var wg sync.WaitGroup
	for i, a := range starts {
		wg.Go(func() { errs[i] = a.recover(ctx, true) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			failed = append(failed, starts[i])
		}
	}
	var left []error
	for _, a := range failed {
		if err := a.Recover(ctx); err != nil {
			left = append(left, fmt.Errorf("%s: %w", a.fault, err))
		}
	}
	return errors.Join(left...)
}

// Record is one fault: what it was, when, and what it did.
type Record struct {
	ID        int           `json:"id"`
	Kind      Kind          `json:"kind"`
	Fault     string        `json:"fault"`              // as it was asked for
	Resolved  string        `json:"resolved,omitempty"` // with the names of the hosts that were hit
	Hosts     []string      `json:"hosts,omitempty"`    // that it affects; of a partition those outside of the largest part that is whole
	From      time.Duration `json:"from"`               // when its injection began
	To        time.Duration `json:"to,omitempty"`       // when it was recovered; 0 while it is not
	Effect    Effect        `json:"effect"`             // what it touched
	Recovered bool          `json:"recovered"`          // nothing of it is left
	Err       string        `json:"err,omitempty"`      // what went wrong, one line for each thing
}

// Effect is what a fault touched. A fault that touched nothing proves nothing.
type Effect struct {
	Count int64  `json:"count"`          // 0: it touched nothing
	Unit  string `json:"unit,omitempty"` // frames, processes, operations, …
	Text  string `json:"text,omitempty"` // a sentence
}

// Nothing reports that the fault touched nothing.
func (e Effect) Nothing() bool { return e.Count == 0 }

// Phase is where a fault is in its life.
type Phase string

// The phases. A band in a plot begins with PhaseInject and ends with
// PhaseRecovered of the same ID; where that does not come, it never ended.
const (
	PhaseInject    Phase = "inject"    // it is being broken from now on
	PhaseVerified  Phase = "verified"  // what it touched is known; once, at the latest when it is recovered
	PhaseNote      Phase = "note"      // a step of a fault that has several
	PhaseRecover   Phase = "recover"   // it is being taken back
	PhaseRecovered Phase = "recovered" // it is gone, as far as can be measured
	PhaseError     Phase = "error"     // something of it failed: Detail says what
)

// Event is one line of the journal.
type Event struct {
	At       time.Duration `json:"at"`
	ID       int           `json:"id"` // of the injection; pairs beginning and end
	Phase    Phase         `json:"phase"`
	Kind     Kind          `json:"kind"`
	Fault    string        `json:"fault"`
	Resolved string        `json:"resolved,omitempty"`
	Hosts    []string      `json:"hosts,omitempty"`
	Effect   *Effect       `json:"effect,omitempty"` // in verified and recovered
	Detail   string        `json:"detail,omitempty"`
}
