package grant

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// Config says which records an agent works on.
type Config struct {
	// Kind is the first part of the keys, and of error texts: "lock".
	Kind string
	// KeepVanished remembers a holder that vanished until the next one is ready.
	KeepVanished bool
	// Sweep frees grants of dead sessions within seconds, also where nobody
	// waits for them. It costs a watch on all records of the kind, and reading
	// them all after a session ended.
	Sweep bool
}

// Agent works on the records of one kind for one process. Safe for concurrent
// use.
type Agent struct {
	session *engine.Session
	cfg     Config
	ctx     context.Context // ends with the session or with Close
	cancel  context.CancelCauseFunc
	running sync.WaitGroup
	idle    chan *entry   // to workers that have nothing to do
	resting atomic.Int64  // how many there are
	due     chan struct{} // holds one signal: with Sweep, a sweep is due

	mu      sync.Mutex // guards the fields below and the entries
	closed  bool
	feeding bool
	entries map[string]*entry
	behind  map[*entry]struct{} // wait for the sessions' feed to catch up with the record
	live    engine.Liveness
	feedRev int64               // up to which revision delays is right
	delays  map[string]struct{} // names whose delay key exists
}

// NewAgent makes the agent of session s.
func NewAgent(s *engine.Session, cfg Config) *Agent {
	a := &Agent{
		session: s, cfg: cfg, idle: make(chan *entry), due: make(chan struct{}, 1),
		entries: map[string]*entry{}, behind: map[*entry]struct{}{}, delays: map[string]struct{}{},
	}
	a.ctx, a.cancel = context.WithCancelCause(s.Context())
	if cfg.Sweep {
		a.mu.Lock()
		a.feed()
		a.mu.Unlock()
		a.running.Go(a.sweeper)
	}
	return a
}

// Close ends all waiting calls with ErrClosed and waits for the agent's
// goroutines. Grants stay until their sessions end.
func (a *Agent) Close() {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel(&holdfast.Error{Op: "close", Key: a.cfg.Kind + " agent", Code: holdfast.CodeClosed, Outcome: holdfast.NotApplied})
	a.running.Wait()
}

// Ask is one wish for a name.
type Ask struct {
	Owner    Owner
	Name     string
	Mode     Mode
	Permits  int // with mode Permits: how many
	Capacity int // with mode Permits: of how many
	NoWait   bool
	Delay    time.Duration
	Note     string
	Value    []byte
	// Keep leaves a grant that comes too late for the caller with its owner,
	// who may ask again; otherwise, and when the context ended with ErrBusy, the
	// agent gives it back.
	Keep bool
}

// Grant is what was granted.
type Grant struct {
	Revision int64
	Mode     Mode
	Permits  int
	Vanished *Claim // the holder before, if it vanished and the records keep that
}

// Acquire waits until the wish is granted, is refused, ctx ends or the session
// of the agent or of the owner does. Asked again for the same owner, it answers
// with the same grant, even if that was made through another agent.
func (a *Agent) Acquire(ctx context.Context, ask Ask) (Grant, error) {
	if err := ctx.Err(); err != nil {
		return Grant{}, a.fail(ask.Name, "acquire", waitError(ctx))
	}
	w := &wish{
		Claim: Claim{
			Session: ask.Owner.Session, Agent: a.session.ID(), Request: ask.Owner.Request, Mode: ask.Mode, Permits: ask.Permits,
			Since: time.Now(), Delay: ask.Delay, Note: ask.Note, Value: ask.Value,
		},
		capacity: ask.Capacity, noWait: ask.NoWait, result: make(chan result, 1),
	}
	a.mu.Lock()
	e := a.entry(ask.Name)
	e.waiting = append(e.waiting, w)
	a.poke(e) //nolint:contextcheck // the work goes on without the caller
	a.mu.Unlock()

	select {
	case r := <-w.result:
		return r.grant, a.refused(ask, r.err)
	case <-a.ctx.Done():
		a.wake(e) //nolint:contextcheck // the work goes on without the caller
		r := <-w.result
		return r.grant, a.refused(ask, r.err)
	case <-ctx.Done():
	}
	a.mu.Lock()
	i := slices.Index(e.waiting, w)
	if i >= 0 {
		e.waiting = slices.Delete(e.waiting, i, i+1)
		again := slices.ContainsFunc(e.waiting, func(o *wish) bool { return o.is(ask.Owner) })
		if !again {
			// Who is told that his wait is over, rather than that his call is, does not
			// ask again.
			over := waitCode(ctx) == holdfast.CodeBusy
			e.leaving = append(e.leaving, &departure{leave: leave{owner: ask.Owner, waiting: ask.Keep && !over, mine: ask.Keep && over}})
			a.poke(e) //nolint:contextcheck // the work goes on without the caller
		}
	}
	a.mu.Unlock()
	if i < 0 { // answered meanwhile
		r := <-w.result
		return r.grant, a.refused(ask, r.err)
	}
	return Grant{}, a.fail(ask.Name, "acquire", waitError(ctx))
}

// refused is the error of a wish. Whatever happened at the quorum, a caller of
// this process holds nothing, and will not: what came of it is given back, or
// goes with the session. Another session's grant may stand.
func (a *Agent) refused(ask Ask, err error) error {
	if err == nil {
		return nil
	}
	err = a.fail(ask.Name, "acquire", a.own(ask.Owner, err))
	if e, ok := errors.AsType[*holdfast.Error](err); ok && ask.Owner.Session == a.session.ID() {
		e.Outcome = holdfast.NotApplied
	}
	return err
}

// own tells the end of the agent's session from the end of the owner's, if
// these are two.
func (a *Agent) own(o Owner, err error) error {
	if o.Session == a.session.ID() || a.ctx.Err() == nil {
		return err
	}
	if c := holdfast.CodeOf(err); c != holdfast.CodeLost && c != holdfast.CodeClosed {
		return err
	}
	return &holdfast.Error{Code: holdfast.CodeNoQuorum, Outcome: holdfast.Unknown, Err: errors.New("this node has lost its own session: " + err.Error())}
}

// wake sees to it that what is asked of an agent which has ended is answered.
func (a *Agent) wake(e *entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.poke(e)
}

// Release gives back what was granted to o, or withdraws its wish. What is not
// there is released already. When ctx ends first, the agent goes on trying.
func (a *Agent) Release(ctx context.Context, o Owner, name string) error {
	d := &departure{leave: leave{owner: o}, done: make(chan error, 1)}
	a.mu.Lock()
	e := a.entry(name)
	e.leaving = append(e.leaving, d)
	a.poke(e) //nolint:contextcheck // the work goes on without the caller
	a.mu.Unlock()
	select {
	case err := <-d.done:
		return a.fail(name, "release", a.own(o, err))
	case <-a.ctx.Done():
		a.wake(e) //nolint:contextcheck // the work goes on without the caller
		return a.fail(name, "release", a.own(o, <-d.done))
	case <-ctx.Done():
		return a.fail(name, "release", &holdfast.Error{Code: waitCode(ctx), Outcome: holdfast.Unknown, Err: ctx.Err()})
	}
}

// Change replaces the value of o's grant (nil leaves it) and marks it ready.
// Of several values the last one stays. ErrLost says that o holds no grant.
func (a *Agent) Change(ctx context.Context, o Owner, name string, value []byte, ready bool) error {
	c := &alteration{change: change{owner: o, value: value, ready: ready}, done: make(chan error, 1)}
	a.mu.Lock()
	e := a.entry(name)
	for _, older := range e.changes {
		if value != nil && older.value != nil && older.owner == o {
			older.value = value // what was not done yet must not undo this
		}
	}
	e.changes = append(e.changes, c)
	a.poke(e) //nolint:contextcheck // the work goes on without the caller
	a.mu.Unlock()
	select {
	case err := <-c.done:
		return a.fail(name, "change", a.own(o, err))
	case <-a.ctx.Done():
		a.wake(e) //nolint:contextcheck // the work goes on without the caller
		return a.fail(name, "change", a.own(o, <-c.done))
	case <-ctx.Done():
		return a.fail(name, "change", &holdfast.Error{Code: waitCode(ctx), Outcome: holdfast.Unknown, Err: ctx.Err()})
	}
}

// Snapshot is a record as it was read.
type Snapshot struct {
	Record
	Name     string
	Revision int64 // at which the record was last written; 0: there is none
	ReadAt   int64 // revision of the store when it was read
}

// addLocal puts this agent's own claims that wait outside the record behind its
// queue, for those who look.
func (a *Agent) addLocal(s *Snapshot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	e := a.entries[s.Name]
	if e == nil {
		return
	}
	for _, w := range e.waiting {
		o := Owner{w.Session, w.Request}
		if s.holder(o) == nil && find(s.Queue, o) == nil {
			s.Queue = append(s.Queue, w.Claim)
		}
	}
}

// Read reads one name's record, linearizably, and adds what waits at this agent
// outside it.
func (a *Agent) Read(ctx context.Context, name string) (Snapshot, error) {
	res, err := a.session.Engine().Range(ctx, engine.RangeRequest{Key: a.key(name)})
	if err != nil {
		return Snapshot{}, a.fail(name, "read", err)
	}
	s := Snapshot{Name: name, ReadAt: res.Revision}
	if len(res.KVs) == 1 {
		s.Revision = res.KVs[0].ModRevision
		s.Record, err = decode(a.key(name), res.KVs[0].Value, s.Revision)
	}
	a.addLocal(&s)
	return s, a.fail(name, "read", err)
}

// List reads up to limit records whose names begin with prefix and come after
// the name after.
func (a *Agent) List(ctx context.Context, prefix, after string, limit int) ([]Snapshot, error) {
	req := engine.RangeRequest{Key: a.key(prefix), End: engine.PrefixEnd(a.key(prefix)), Limit: int64(limit)}
	if after != "" {
		req.Key = max(req.Key, a.key(after)+"\x00")
	}
	if req.Key >= req.End {
		return nil, nil
	}
	res, err := a.session.Engine().Range(ctx, req)
	if err != nil {
		return nil, a.fail(prefix, "list", err)
	}
	list := make([]Snapshot, 0, len(res.KVs))
	for _, kv := range res.KVs {
		rec, err := decode(kv.Key, kv.Value, kv.ModRevision)
		if err != nil {
			return nil, err
		}
		s := Snapshot{Record: rec, Name: kv.Key[len(a.key("")):], Revision: kv.ModRevision, ReadAt: res.Revision}
		a.addLocal(&s)
		list = append(list, s)
	}
	return list, nil
}

// Follow calls f with each state of one name's record, beginning with the
// present one, until ctx ends. States that follow each other quickly are all
// seen unless the feed has to start over.
func (a *Agent) Follow(ctx context.Context, name string, f func(Snapshot)) {
	key := a.key(name)
	tell := func(kv engine.KV, rev int64) {
		if rec, err := decode(key, kv.Value, kv.ModRevision); err == nil {
			f(Snapshot{Record: rec, Name: name, Revision: kv.ModRevision, ReadAt: rev})
		}
	}
	engine.Follow(ctx, a.session.Engine(), a.session.Attempt(), key, "", func(u engine.Update) {
		if u.Snapshot && len(u.KVs) == 0 {
			f(Snapshot{Name: name, ReadAt: u.Revision})
		}
		for _, kv := range u.KVs {
			tell(kv, u.Revision)
		}
		for _, ev := range u.Events {
			if ev.Deleted {
				f(Snapshot{Name: name, ReadAt: ev.KV.ModRevision})
			} else {
				tell(ev.KV, ev.KV.ModRevision)
			}
		}
	})
}

func (a *Agent) key(name string) string      { return a.cfg.Kind + "/r/" + name }
func (a *Agent) delayKey(name string) string { return a.cfg.Kind + "/d/" + name }

// fail puts the subject in front of an error.
func (a *Agent) fail(name, op string, err error) error {
	if err == nil {
		return nil
	}
	e := &holdfast.Error{Key: a.cfg.Kind + " " + name, Op: op, Code: holdfast.CodeOf(err), Outcome: holdfast.OutcomeOf(err), Err: err}
	if inner, ok := errors.AsType[*holdfast.Error](err); ok && inner == err && inner.Key == "" && inner.Op == "" { //nolint:errorlint // err itself, not what it wraps
		e.Err = inner.Err
	}
	return e
}

// waitError says that the caller gave up waiting. Nothing is held: a grant that
// comes later is given back, or kept for its owner as the ask said.
func waitError(ctx context.Context) error {
	return &holdfast.Error{Code: waitCode(ctx), Outcome: holdfast.NotApplied, Err: context.Cause(ctx)}
}

func waitCode(ctx context.Context) holdfast.Code {
	switch c := holdfast.CodeOf(context.Cause(ctx)); {
	case c != holdfast.CodeUnknown:
		return c
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return holdfast.CodeDeadline
	}
	return holdfast.CodeCanceled
}
