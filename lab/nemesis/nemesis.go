package nemesis

import (
	"context"
	"errors"
	"time"
)

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
	// VerifyEvery is how often an injected fault is asked what it touched, until
	// it touched something; default 200ms.
	VerifyEvery time.Duration
}

// Nemesis injects faults into one world and takes them back. Its methods may be
// called concurrently; several faults can be active at once.
type Nemesis struct{}

// New returns a nemesis of the world. It starts nothing.
func New(world World, cfg Config) *Nemesis { return &Nemesis{} }

// Inject breaks what the fault says and returns when it is broken. When the
// fault has a duration it recovers by itself after it; otherwise the caller
// calls Recover or HealAll. On an error nothing stays broken, or the error says
// what could not be taken back; the failure is in Records all the same.
func (n *Nemesis) Inject(ctx context.Context, f Fault) (*Active, error) {
	return nil, errors.New("not yet")
}

// Active is the faults that are not recovered, oldest first.
func (n *Nemesis) Active() []*Active { return nil }

// HealAll recovers all active faults, and returns when they are recovered. It
// goes on when one fails, and joins the errors.
func (n *Nemesis) HealAll(ctx context.Context) error { return nil }

// Records is what became of every fault so far, by ID.
func (n *Nemesis) Records() []Record { return nil }

// Active is a fault that was injected.
type Active struct{}

// ID is the number of the injection, from 1; the events carry it.
func (a *Active) ID() int { return 0 }

// Fault is what was asked for.
func (a *Active) Fault() Fault { return Fault{} }

// Record is what became of the fault so far.
func (a *Active) Record() Record { return Record{} }

// Done is closed when the fault is recovered, or its recovery has failed.
func (a *Active) Done() <-chan struct{} { return nil }

// Recover takes the fault back and returns when it is gone. It may be called
// any number of times, also after the fault ended by itself: all calls return
// the outcome of the one recovery. It finishes although ctx is done, within
// Config.HealTimeout.
func (a *Active) Recover(ctx context.Context) error { return nil }

// Record is one fault: what it was, when, and what it did.
type Record struct {
	ID        int           `json:"id"`
	Kind      Kind          `json:"kind"`
	Fault     string        `json:"fault"`              // as it was asked for
	Resolved  string        `json:"resolved,omitempty"` // with the names of the hosts that were hit
	Hosts     []string      `json:"hosts,omitempty"`    // that it affects
	From      time.Duration `json:"from"`               // when it was injected
	To        time.Duration `json:"to,omitempty"`       // when it was recovered; 0 while it is active
	Effect    Effect        `json:"effect"`             // what it touched
	Recovered bool          `json:"recovered"`          // nothing of it is left
	Err       string        `json:"err,omitempty"`      // what went wrong
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
// PhaseRecovered of the same ID, or with PhaseError where injecting failed.
const (
	PhaseInject    Phase = "inject"    // it is broken now
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
