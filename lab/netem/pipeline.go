package netem

import (
	"errors"
	"math/bits"
	"time"
)

// Frame is an Ethernet frame on its way. Who pushes it gives it away.
type Frame struct {
	Data []byte
	Ref  any // the caller's; comes out with the frame

	held *class // the rules that it was held under
}

// Fate is what becomes of a frame.
type Fate uint8

// What becomes of a frame.
const (
	Deliver       Fate = iota // at the time that is said
	Wait                      // comes to a rate at the time that is said: it has to be passed to Egress then
	DropCut                   // dropped, the link is stopped
	DropJam                   // dropped, a jam holds as many as it may
	DropMTU                   // dropped, too long
	DropLoss                  // dropped by chance
	DropQueue                 // dropped, no room in the queue of a rate
	DropAbandoned             // dropped by the caller
)

// Mark is what was done to a frame that was not dropped.
type Mark uint8

// What was done to a frame.
const (
	Copied    Mark = 1 << iota // this one is the copy
	Corrupted                  // a bit was flipped
	Reordered                  // it goes before those that are delayed
	Released                   // it was held
)

// Out is a frame that leaves a pipeline.
type Out struct {
	At    time.Duration
	Frame Frame
	Fate  Fate
	Marks Mark
	Rule  *Rule // that dropped it

	class *class
}

// Set is a set of rules of one pipeline.
type Set uint64

// Rules is how many rules one pipeline can have.
const Rules = 64

// ErrFull says that a pipeline has as many rules as it can have.
var ErrFull = errors.New("64 rules on one link")

// Rule is an impairment on a link.
type Rule struct {
	im    Impairment
	key   uint64
	slot  int
	gone  bool
	met   int64 // how often a frame met it: what chance depends on
	count Counters

	duplicate, loss, corrupt, reorder chain
	burst                             burst
	jitter                            jitter
	sinceReorder                      int
	rate                              server
}

// Set is the set of this rule alone.
func (r *Rule) Set() Set { return 1 << r.slot }

// Impairment is what the rule does.
func (r *Rule) Impairment() Impairment { return r.im }

// Counters is what the rule did so far.
func (r *Rule) Counters() Counters { return r.count }

// Config is the settings of a Pipeline. The zero value works.
type Config struct {
	Seed  uint64
	Link  string            // its name; links with different names have different luck
	Jam   int               // frames that are held while the link is jammed; default 10000. More are dropped
	Clone func(Frame) Frame // copies a frame; default: Data into new memory, Ref as it is
}

// Pipeline is what one directed link does to frames. It is not safe for
// concurrent use.
type Pipeline struct {
	config  Config
	rules   [Rules]*Rule
	active  Set
	classes []*class
	count   Counters
	frames  uint64 // that came in
	jam     []held
}

// held is a frame in a jam.
type held struct {
	frame Frame
	by    *Rule
}

// New returns a pipeline that does nothing to frames yet.
func New(c Config) *Pipeline {
	if c.Jam <= 0 {
		c.Jam = 10_000
	}
	if c.Clone == nil {
		c.Clone = func(f Frame) Frame {
			f.Data = append([]byte(nil), f.Data...)
			return f
		}
	}
	return &Pipeline{config: c}
}

// Add adds a rule. Its id makes its luck: rules with the same id on the same
// link do the same to the same frames.
func (p *Pipeline) Add(id string, im Impairment) (*Rule, error) {
	if err := im.Validate(); err != nil {
		return nil, err
	}
	slot := bits.TrailingZeros64(^uint64(p.active))
	if slot == Rules {
		return nil, ErrFull
	}
	if im.Gilbert != nil {
		g := im.Gilbert.normal()
		im.Gilbert = &g
	}
	if im.Limit == 0 {
		im.Limit = defaultLimit
	}
	if im.Gap == 0 {
		im.Gap = 1
	}
	r := &Rule{im: im, key: keyOf(p.config.Seed, p.config.Link, id), slot: slot}
	p.rules[slot] = r
	p.active |= r.Set()
	return r, nil
}

// Remove ends a rule. Frames that are under way keep their times, and those that
// come later do not overtake them, unless one of several rates is removed. If the rule held frames they are returned, in the
// order in which they came; the caller pushes them again, with the rules that
// match them now.
func (p *Pipeline) Remove(r *Rule) []Frame {
	if r.gone {
		return nil
	}
	r.gone = true
	p.rules[r.slot] = nil
	p.active &^= r.Set()
	p.forget(r)
	if r.im.Cut != Jammed {
		return nil
	}
	out := make([]Frame, len(p.jam))
	for i, h := range p.jam {
		out[i] = h.frame
		h.by.count.Held--
	}
	p.count.Held -= int64(len(p.jam))
	p.jam = nil
	return out
}
