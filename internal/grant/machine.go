package grant

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// The bounds of the queue.
const (
	// localRun is how often in a row an agent may hand a record from one of its
	// own claims to the next while claims of other agents wait.
	localRun = 16
	// window is how many claims one agent keeps in the record's queue at a time.
	window = 16
)

// view is what an agent knows when it decides: the record, what it was asked,
// and who is dead. The machine is pure: view in, plan out.
type view struct {
	agent    engine.SessionID
	record   Record
	waiting  []*wish // local claims that are not granted, first come first
	leaving  []leave // claims that are given back
	changes  []change
	dead     func(engine.SessionID) bool // known to be gone
	delaying bool                        // the delay key is known to exist
	keep     bool                        // remember a holder that vanished (elections)
}

// wish is a local claim with what only its agent knows of it.
type wish struct {
	Claim
	capacity int  // permits that the asker believes there are
	noWait   bool // refuse rather than wait
	queued   bool // was seen in the record's queue, put there by this agent
	checked  bool // the record was read since the wish was made
	result   chan result
}

// leave gives a claim back.
type leave struct {
	owner Owner
	// waiting: only if it still waits at this agent. Otherwise granted too.
	waiting bool
	// mine: only if this agent asked for it. Otherwise wherever it stands.
	mine bool
}

// takes says whether agent's leave takes c out, which waits or is granted.
func (l leave) takes(c *Claim, agent engine.SessionID, granted bool) bool {
	if l.waiting && granted || (l.waiting || l.mine) && c.Agent != agent {
		return false
	}
	return c.is(l.owner)
}

// ends says whether the leave ends all that o has here.
func (l leave) ends(o Owner) bool { return l.owner == o && !l.waiting }

// change is a holder's wish to change its own entry.
type change struct {
	owner Owner
	value []byte // nil: as it was
	ready bool   // confirm
}

// plan is what to do: replace the record by next under guards; then, or if the
// record is not to be changed, some wishes are refused.
type plan struct {
	next    Record
	write   bool
	gone    []engine.SessionID // sessions of removed claims: guard that they are missing
	alive   []engine.SessionID // sessions of new grants: guard that they exist
	noDelay bool               // something is granted although a delay may run: guard its key missing
	delay   time.Duration      // start a lock-delay with this write
	refused map[*wish]error
}

// decide is the machine's one step. It is idempotent: deciding again on the
// record it made, with nothing new asked, changes nothing.
func decide(v view) plan {
	p := plan{next: v.record.clone(), refused: map[*wish]error{}}
	r := &p.next

	freed := p.drop(v)
	for _, l := range v.leaving {
		freed = p.leave(v, l) || freed
	}
	for _, c := range v.changes {
		p.change(c)
	}
	waiting := p.admissible(v)
	p.grant(v, &waiting, freed)
	p.enqueue(v, waiting)
	if len(r.Queue) == 0 {
		p.write = p.write || r.Run != 0
		r.Run = 0
	}
	if !slices.ContainsFunc(r.Holders, isPermit) && !slices.ContainsFunc(r.Queue, isPermit) {
		r.Capacity = 0
	}
	return p
}

func isPermit(c Claim) bool { return c.Mode == Permits }

// drop removes the claims of dead sessions and dead agents' waiting claims. It
// says whether a claim that this agent looked after was freed.
func (p *plan) drop(v view) (freed bool) {
	r := &p.next
	r.Holders = slices.DeleteFunc(r.Holders, func(c Claim) bool {
		if !v.dead(c.Session) {
			return false
		}
		p.gone = append(p.gone, c.Session)
		p.write = true
		p.delay = max(p.delay, c.Delay)
		freed = freed || c.Agent == v.agent
		if v.keep && c.Ready && r.Vanished == nil {
			r.Vanished = &c
		}
		return true
	})
	r.Queue = slices.DeleteFunc(r.Queue, func(c Claim) bool {
		gone := v.dead(c.Session) || v.dead(c.Agent)
		p.write = p.write || gone
		return gone
	})
	if p.delay > 0 {
		// The key is put anew: a longer delay that runs already starts over.
		p.delay = max(p.delay, r.Delay)
		r.Delayed, r.Delay = true, p.delay
	}
	return freed
}

// leave takes a claim out. It says whether a claim that this agent looked after
// was freed.
func (p *plan) leave(v view, l leave) (freed bool) {
	r := &p.next
	before := len(r.Holders) + len(r.Queue)
	r.Queue = slices.DeleteFunc(r.Queue, func(c Claim) bool { return l.takes(&c, v.agent, false) })
	r.Holders = slices.DeleteFunc(r.Holders, func(c Claim) bool {
		taken := l.takes(&c, v.agent, true)
		freed = freed || taken && c.Agent == v.agent
		return taken
	})
	p.write = p.write || len(r.Holders)+len(r.Queue) != before
	return freed
}

// change applies a holder's change to its own entry.
func (p *plan) change(c change) {
	h := p.next.holder(c.owner)
	if h == nil {
		return
	}
	if c.value != nil && string(h.Value) != string(c.value) {
		h.Value = c.value
		p.write = true
	}
	if c.ready && !h.Ready {
		h.Ready = true
		p.next.Vanished = nil
		p.write = true
	}
}

// admissible are the wishes that may be granted or queued at all; the others
// are refused.
func (p *plan) admissible(v view) []*wish {
	r := &p.next
	var ok []*wish
	for _, w := range v.waiting {
		o := Owner{w.Session, w.Request}
		switch capacity := p.capacity(ok); {
		case r.holder(o) != nil || slices.ContainsFunc(ok, func(w *wish) bool { return w.is(o) }):
			continue // granted already, or asked for twice
		case v.dead(w.Session):
			p.refused[w] = &holdfast.Error{Key: "session " + w.Session.String(), Code: holdfast.CodeLost, Outcome: holdfast.NotApplied}
		case slices.ContainsFunc(v.leaving, func(l leave) bool { return l.ends(o) }):
			p.refused[w] = &holdfast.Error{Op: "wait", Code: holdfast.CodeCanceled, Outcome: holdfast.NotApplied, Err: errors.New("withdrawn by its owner")}
		case w.queued && find(v.record.Queue, o) == nil:
			p.refused[w] = &holdfast.Error{Op: "wait", Code: holdfast.CodeCanceled, Outcome: holdfast.NotApplied, Err: errors.New("withdrawn by its owner through another node")}
		case w.Mode == Permits && capacity != 0 && capacity != w.capacity:
			p.refused[w] = &holdfast.Error{
				Op: "acquire", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied,
				Err: fmt.Errorf("asked for permits of %d, but it has %d", w.capacity, capacity),
			}
		default:
			ok = append(ok, w)
		}
	}
	return ok
}

// capacity is how many permits there are; 0 if nobody has said yet.
func (p *plan) capacity(waiting []*wish) int {
	for _, w := range waiting {
		if w.Mode == Permits && p.next.Capacity == 0 {
			return w.capacity
		}
	}
	return p.next.Capacity
}

// grant gives what is free: to the queue in its order, to this agent's own
// claims when nobody else waits, and, for a bounded number of times in a row,
// from one of its own to its next oldest ahead of other agents' claims.
func (p *plan) grant(v view, waiting *[]*wish, freed bool) {
	r := &p.next
	if r.Delayed && (v.delaying || p.delay > 0) {
		return
	}
	handover := freed && len(r.Holders) == 0
	for {
		var own *wish // this agent's oldest, in the queue or not
		if len(*waiting) > 0 {
			own = (*waiting)[0]
		}
		switch {
		case own != nil && (len(r.Queue) == 0 || r.Queue[0].Agent != v.agent && handover && r.Run < localRun) && p.free(own.Claim):
			if len(r.Queue) > 0 {
				r.Run++
			}
			if own.Mode == Permits {
				r.Capacity = own.capacity
			}
			p.hold(own.Claim, waiting)
		case len(r.Queue) > 0 && p.free(r.Queue[0]):
			if r.Queue[0].Agent != v.agent {
				r.Run, handover = 0, false
			}
			p.hold(r.Queue[0], waiting)
		default:
			return
		}
	}
}

// free says whether c fits beside the present holders.
func (p *plan) free(c Claim) bool {
	used := 0
	for _, h := range p.next.Holders {
		if h.Mode != c.Mode || h.Mode == Exclusive {
			return false
		}
		used += h.Permits
	}
	return c.Mode == Shared || len(p.next.Holders) == 0 || used+c.Permits <= p.next.Capacity
}

// hold grants c, which waits no more.
func (p *plan) hold(c Claim, waiting *[]*wish) {
	o := Owner{c.Session, c.Request}
	*waiting = slices.DeleteFunc(*waiting, func(w *wish) bool { return w.is(o) })
	p.next.Queue = slices.DeleteFunc(p.next.Queue, func(q Claim) bool { return q.is(o) })
	c.Granted = 0 // the write's own revision
	c.Ready = p.next.Vanished == nil
	p.next.Holders = append(p.next.Holders, c)
	p.alive = append(p.alive, c.Session)
	p.write = true
	if p.next.Delayed {
		p.noDelay = true
		p.next.Delayed, p.next.Delay = false, 0
	}
}

// enqueue puts the first of the remaining wishes into the record's queue, so
// that other agents serve them in turn. There is no need while everybody who
// holds is looked after by this agent: it will serve them itself.
func (p *plan) enqueue(v view, waiting []*wish) {
	r := &p.next
	served := len(r.Holders) > 0 && !slices.ContainsFunc(r.Holders, func(c Claim) bool { return c.Agent != v.agent })
	queued := 0
	for _, c := range r.Queue {
		if c.Agent == v.agent {
			queued++
		}
	}
	for _, w := range waiting {
		o := Owner{w.Session, w.Request}
		switch c := find(r.Queue, o); {
		case w.noWait:
			p.refused[w] = &holdfast.Error{Code: holdfast.CodeBusy, Outcome: holdfast.NotApplied, Err: r.busy()}
		case c != nil || served || queued >= window:
		default:
			if w.Mode == Permits && r.Capacity == 0 {
				r.Capacity = w.capacity
			}
			r.Queue = append(r.Queue, w.Claim)
			queued++
			p.write = true
		}
	}
}

// busy says who is in the way.
func (r *Record) busy() error {
	switch {
	case len(r.Holders) == 1:
		return fmt.Errorf("%w: session %v", holdfast.ErrBusy, r.Holders[0].Session)
	case len(r.Holders) > 1:
		return fmt.Errorf("%w: %d sessions", holdfast.ErrBusy, len(r.Holders))
	case r.Delayed:
		return fmt.Errorf("%w: its last holder was lost, and its lock-delay is running", holdfast.ErrBusy)
	}
	return holdfast.ErrBusy
}
