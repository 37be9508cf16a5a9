package grant

import (
	"context"
	"errors"
	"slices"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// entry is what the agent knows and wants of one name. Its fields are guarded
// by the agent's mu; while working is set, one goroutine decides and writes.
type entry struct {
	name    string
	working bool

	known  bool // record, mod and asOf were read or written, not assumed
	record Record
	mod    int64 // revision of the record; 0: it does not exist
	asOf   int64 // revision up to which the above is known
	news   *news // what the feed saw since

	waiting []*wish
	leaving []*departure
	changes []*alteration

	raced bool // the last write was refused: others write as well

	dead     map[engine.SessionID]bool // looked up: is it gone?
	delaying bool                      // the delay key existed at asOf
}

// result is the answer to a wish.
type result struct {
	grant Grant
	err   error
}

// departure is a leave that is told when it is done; done may be nil.
type departure struct {
	leave
	done    chan error
	checked bool // the record was read since it was asked for
}

// alteration is a change that is told when it is done.
type alteration struct {
	change
	done    chan error
	checked bool // the record was read since it was asked for
}

// news is a state of the record that the feed saw.
type news struct {
	kv      engine.KV
	missing bool
	rev     int64
}

// entry finds or makes the entry of a name. a.mu is held.
func (a *Agent) entry(name string) *entry {
	e := a.entries[name]
	if e == nil {
		e = &entry{name: name}
		a.entries[name] = e
	}
	return e
}

// poke sees to it that somebody works on e. a.mu is held.
func (a *Agent) poke(e *entry) {
	switch {
	case e.working:
	case a.closed || a.ctx.Err() != nil:
		e.abort(context.Cause(a.ctx))
	default:
		e.working = true
		select {
		case a.idle <- e:
		default:
			a.running.Go(func() { a.worker(e) })
		}
	}
}

// maxIdle is how many workers an agent keeps for what comes next: starting one
// costs as much as all that it then does here.
const maxIdle = 64

// worker works on e and then on what else comes up.
func (a *Agent) worker(e *entry) {
	for {
		a.work(e)
		if a.resting.Add(1) > maxIdle {
			a.resting.Add(-1)
			return
		}
		select {
		case e = <-a.idle:
			a.resting.Add(-1)
		case <-a.ctx.Done():
			return
		}
	}
}

// abort answers everything with err. a.mu is held.
func (e *entry) abort(err error) {
	if holdfast.CodeOf(err) == holdfast.CodeUnknown {
		err = &holdfast.Error{Code: holdfast.CodeClosed, Outcome: holdfast.NotApplied, Err: err}
	}
	for _, w := range e.waiting {
		w.result <- result{err: err}
	}
	for _, d := range e.leaving {
		if d.done != nil {
			d.done <- err
		}
	}
	for _, c := range e.changes {
		c.done <- err
	}
	e.waiting, e.leaving, e.changes = nil, nil, nil
}

// work decides and writes until there is nothing to do.
func (a *Agent) work(e *entry) {
	for {
		a.mu.Lock()
		step := a.next(e)
		a.mu.Unlock()
		if step == nil {
			return
		}
		if err := step(); err != nil {
			a.failed(e, err)
		}
	}
}

// next answers what the known record answers, and says what to do at the
// quorum; nil ends the work. a.mu is held.
func (a *Agent) next(e *entry) (step func() error) {
	if a.ctx.Err() != nil {
		e.abort(context.Cause(a.ctx))
		e.working = false
		return nil
	}
	if err := e.catchUp(a.key(e.name)); err != nil {
		e.abort(err)
	}
	if doubt := a.settle(e); doubt || !e.known && (len(e.leaving) > 0 || len(e.changes) > 0) {
		return e.step(func() error { return a.look(e, nil) })
	}
	v := a.view(e)
	p := decide(v)
	for w, err := range p.refused {
		if !w.checked || !a.feedKnows(e.mod) && !e.lookedUp() {
			// Refuse only on what was true after the question was asked.
			ids := e.mentioned()
			return e.step(func() error { return a.look(e, ids) })
		}
		w.result <- result{err: err}
		e.waiting = slices.DeleteFunc(e.waiting, func(o *wish) bool { return o == w })
	}
	if p.write && (len(e.waiting)+len(e.leaving)+len(e.changes) > 0 || len(p.gone) > 0) {
		hurry := e.raced || slices.ContainsFunc(e.waiting, func(w *wish) bool { return w.noWait })
		return e.step(func() error { return a.write(e, p, hurry) })
	}
	e.working = false
	if len(e.waiting) > 0 {
		a.feed()
		if !a.feedKnows(e.mod) {
			a.behind[e] = struct{}{}
		}
	} else if !e.record.served(a.session.ID()) {
		delete(a.entries, e.name)
		delete(a.behind, e)
	}
	return nil
}

// step notes that what waits now is older than what the step will find out.
// a.mu is held.
func (e *entry) step(f func() error) func() error {
	e.mark(true)
	return f
}

// mark sets whether the record was read since what is asked now was asked.
func (e *entry) mark(checked bool) {
	for _, w := range e.waiting {
		w.checked = checked
	}
	for _, d := range e.leaving {
		d.checked = checked
	}
	for _, c := range e.changes {
		c.checked = checked
	}
}

// served says whether agent looks after a holder: then its record is kept, so
// that the release needs no read.
func (r *Record) served(agent engine.SessionID) bool {
	return slices.ContainsFunc(r.Holders, func(c Claim) bool { return c.Agent == agent })
}

// catchUp takes in what the feed saw.
func (e *entry) catchUp(key string) error {
	n := e.news
	e.news = nil
	if n == nil || n.rev <= e.asOf {
		return nil
	}
	return e.learn(key, n.kv, n.missing, n.rev)
}

// learn sets the record to what it was at revision rev.
func (e *entry) learn(key string, kv engine.KV, missing bool, rev int64) error {
	e.known, e.asOf, e.mod, e.record = true, rev, 0, Record{}
	if missing {
		return nil
	}
	rec, err := decode(key, kv.Value, kv.ModRevision)
	e.record, e.mod = rec, kv.ModRevision
	e.markQueued()
	return err
}

// markQueued marks the wishes that this agent has in the record's queue.
func (e *entry) markQueued() {
	for _, w := range e.waiting {
		if c := find(e.record.Queue, Owner{w.Session, w.Request}); c != nil && c.Agent == w.Agent {
			w.queued = true
		}
	}
}

// settle answers what the record as it is known answers. Doubt says that some of
// it may have changed at another agent before it was asked for: what this one
// knows may be older, unless the claims are those of its own session, which
// nobody else makes. a.mu is held.
func (a *Agent) settle(e *entry) (doubt bool) {
	if !e.known {
		return false
	}
	sure := func(o Owner, checked bool) bool {
		sure := checked || o.Session == a.session.ID()
		doubt = doubt || !sure
		return sure
	}
	e.waiting = slices.DeleteFunc(e.waiting, func(w *wish) bool {
		o := Owner{w.Session, w.Request}
		h := e.record.holder(o)
		ending := slices.ContainsFunc(e.leaving, func(d *departure) bool { return d.ends(o) })
		if h == nil || ending || !sure(o, w.checked || w.queued) {
			return false
		}
		w.result <- result{grant: Grant{Revision: h.Granted, Mode: h.Mode, Permits: h.Permits, Vanished: e.record.Vanished}}
		return true
	})
	e.leaving = slices.DeleteFunc(e.leaving, func(d *departure) bool {
		waits, holds := find(e.record.Queue, d.owner), e.record.holder(d.owner)
		own := a.session.ID()
		there := waits != nil && d.takes(waits, own, false) || holds != nil && d.takes(holds, own, true)
		if there || !d.waiting && !d.mine && !sure(d.owner, d.checked) {
			return false
		}
		if d.done != nil {
			d.done <- nil
		}
		return true
	})
	e.changes = slices.DeleteFunc(e.changes, func(c *alteration) bool {
		h := e.record.holder(c.owner)
		differs := h != nil && ((c.value != nil && string(h.Value) != string(c.value)) || c.ready && !h.Ready)
		switch {
		case differs || !sure(c.owner, c.checked):
			return false
		case h == nil:
			c.done <- &holdfast.Error{Code: holdfast.CodeLost, Outcome: holdfast.NotApplied, Err: errors.New("not held")}
		default:
			c.done <- nil
		}
		return true
	})
	return doubt
}

// view is what the machine decides on. a.mu is held.
func (a *Agent) view(e *entry) view {
	v := view{agent: a.session.ID(), record: e.record, waiting: e.waiting, keep: a.cfg.KeepVanished}
	for _, d := range e.leaving {
		v.leaving = append(v.leaving, d.leave)
	}
	for _, c := range e.changes {
		v.changes = append(v.changes, c.change)
	}
	v.dead = func(id engine.SessionID) bool {
		// One that only a wish names may be younger than what the feed has seen.
		return e.dead[id] || a.live.Dead(id, v.record.existed(id, e.mod)) && v.record.mentions(id)
	}
	v.delaying = e.delaying
	if a.feedRev >= e.asOf && a.feeding {
		_, v.delaying = a.delays[e.name]
	}
	return v
}

// mentioned are the sessions that the record names.
func (e *entry) mentioned() []engine.SessionID {
	var ids []engine.SessionID
	for _, list := range [][]Claim{e.record.Holders, e.record.Queue} {
		for _, c := range list {
			ids = append(ids, c.Session, c.Agent)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// existed is a revision at which a session that the record names existed: a
// holder's when it was granted, any other when the record was written, at mod.
func (r *Record) existed(id engine.SessionID, mod int64) int64 {
	for _, h := range r.Holders {
		if h.Session == id {
			mod = min(mod, h.Granted)
		}
	}
	return mod
}

// mentions says whether the record names a session.
func (r *Record) mentions(id engine.SessionID) bool {
	named := func(c Claim) bool { return c.Session == id || c.Agent == id }
	return slices.ContainsFunc(r.Holders, named) || slices.ContainsFunc(r.Queue, named)
}

// lookedUp says whether it was read which of the mentioned sessions live.
func (e *entry) lookedUp() bool {
	for _, id := range e.mentioned() {
		if _, ok := e.dead[id]; !ok {
			return false
		}
	}
	return true
}

// look reads the record and which of the sessions exist.
func (a *Agent) look(e *entry, ids []engine.SessionID) error {
	res, err := engine.Submit(a.ctx, a.session.Engine(), a.session.Attempt(), engine.Txn{Then: a.reads(e, ids)})
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.read(e, res, ids)
}

// reads are the operations whose answer read takes in.
func (a *Agent) reads(e *entry, ids []engine.SessionID) []engine.Op {
	ops := []engine.Op{engine.Get(a.key(e.name)), engine.GetRange(engine.RangeRequest{Key: a.delayKey(e.name), KeysOnly: true})}
	for _, id := range ids {
		ops = append(ops, engine.GetRange(engine.RangeRequest{Key: engine.SessionKey(id), KeysOnly: true}))
	}
	return ops
}

// read takes in the answer to the reads that look and write make. a.mu is held.
func (a *Agent) read(e *entry, res engine.TxnResult, ids []engine.SessionID) error {
	for i, id := range ids {
		kvs := res.Results[2+i].Range.KVs
		if id == a.session.ID() {
			if len(kvs) == 0 {
				return &holdfast.Error{Key: "session " + id.String(), Code: holdfast.CodeLost, Outcome: holdfast.NotApplied}
			}
			a.session.Renewed(kvs[0].ModRevision)
		}
		gone := len(kvs) == 0
		if !gone && res.Revision >= a.live.Revision() { // opened anew, if it was gone
			delete(e.dead, id)
		}
		e.note(id, gone)
	}
	e.delaying = len(res.Results[1].Range.KVs) > 0
	kvs := res.Results[0].Range.KVs
	if len(kvs) == 0 {
		return e.learn("", engine.KV{}, true, res.Revision)
	}
	return e.learn(a.key(e.name), kvs[0], false, res.Revision)
}

// write carries a plan out, or learns why it could not be: with hurry in the same
// round trip, which makes the transaction twice as large.
func (a *Agent) write(e *entry, p plan, hurry bool) error {
	key, guard := a.key(e.name), a.session.Guard()
	t := engine.Txn{If: []engine.Compare{engine.ModIs(key, e.mod), guard}}
	own := a.session.ID()
	ids := []engine.SessionID{own}
	for _, id := range p.gone {
		t.If = append(t.If, engine.Missing(engine.SessionKey(id)))
		ids = append(ids, id)
	}
	for _, id := range p.alive {
		if id != own && !slices.Contains(ids, id) {
			t.If = append(t.If, engine.Alive(id))
			ids = append(ids, id)
		}
	}
	if p.noDelay {
		t.If = append(t.If, engine.Missing(a.delayKey(e.name)))
	}
	if p.next.empty() {
		t.Then = []engine.Op{engine.Delete(key)}
	} else {
		value, err := p.next.encode()
		if err != nil {
			return err
		}
		t.Then = []engine.Op{engine.Put(key, value)}
	}
	if p.delay > 0 {
		lease := engine.LeaseID(engine.NewSessionID())
		if _, err := a.session.Engine().Grant(a.ctx, lease, p.delay); err != nil {
			return err
		}
		t.Then = append(t.Then, engine.PutLeased(a.delayKey(e.name), nil, lease))
	}
	if hurry {
		t.Else = a.reads(e, ids)
	}
	ctx, cancel := context.WithTimeout(a.ctx, a.session.Attempt())
	res, err := a.session.Engine().Txn(ctx, t)
	cancel()
	switch {
	case err == nil:
	case holdfast.OutcomeOf(err) == holdfast.NotApplied:
		return err
	default:
		// It may be applied later, when nobody expects it: end that first, then
		// see what became of it.
		if rerr := a.session.Retire(a.ctx, guard); rerr != nil {
			return rerr
		}
		if lerr := a.look(e, nil); lerr != nil {
			return lerr
		}
		if holdfast.CodeOf(err) == holdfast.CodeExhausted {
			return &holdfast.Error{Code: holdfast.CodeExhausted, Outcome: holdfast.NotApplied, Err: err}
		}
		return nil
	}
	a.mu.Lock()
	if e.raced = !res.Succeeded; !e.raced || hurry {
		defer a.mu.Unlock()
		if res.Succeeded {
			a.written(e, p, res.Revision)
			return nil
		}
		return a.read(e, res, ids)
	}
	a.mu.Unlock()
	return a.look(e, ids)
}

// written takes in that the plan is the record since revision rev.
func (a *Agent) written(e *entry, p plan, rev int64) {
	e.known, e.asOf, e.mod, e.record = true, rev, rev, p.next
	if p.next.empty() {
		e.mod = 0
	}
	for i := range e.record.Holders {
		if e.record.Holders[i].Granted == 0 {
			e.record.Holders[i].Granted = rev
		}
	}
	e.markQueued()
	e.delaying = p.delay > 0
	mentioned := e.mentioned()
	for id := range e.dead {
		wished := slices.ContainsFunc(e.waiting, func(w *wish) bool { return w.Session == id })
		if !wished && !slices.Contains(mentioned, id) {
			delete(e.dead, id)
		}
	}
}

// note keeps whether a session was found to be gone.
func (e *entry) note(id engine.SessionID, gone bool) {
	if e.dead == nil {
		e.dead = map[engine.SessionID]bool{}
	}
	e.dead[id] = e.dead[id] || gone
}

// failed deals with a step that got no answer or a refusal: what time can mend
// is tried again, anything else is told to everybody who asked. What they have
// in the record's queue is still taken out, when that can be done: nobody else
// would.
func (a *Agent) failed(e *entry, err error) {
	pause := a.session.Attempt() / 16
	a.mu.Lock()
	e.mark(false)
	// Not found is the lease of a lock-delay that ran out on the way.
	if code := holdfast.CodeOf(err); !engine.Transient(err) && code != holdfast.CodeNotFound {
		owed := e.owed()
		e.abort(err)
		e.known, e.record, e.mod = false, Record{}, 0
		if code != holdfast.CodeInternal && code != holdfast.CodeLost && code != holdfast.CodeClosed {
			e.leaving, pause = owed, a.session.Attempt()
		}
	}
	a.mu.Unlock()
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-a.ctx.Done():
	}
}

// owed is what is to be taken out of the record when everybody is told that
// he has failed.
func (e *entry) owed() []*departure {
	owed := make([]*departure, 0, len(e.waiting)+len(e.leaving))
	for _, w := range e.waiting {
		owed = append(owed, &departure{leave: leave{owner: Owner{w.Session, w.Request}, mine: true}})
	}
	for _, d := range e.leaving {
		owed = append(owed, &departure{leave: d.leave})
	}
	return owed
}
