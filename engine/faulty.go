package engine

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"holdfast.dev"
)

// FaultConfig says what a [FaultyEngine] does to requests; the zero value does
// nothing until Pause or Cut is called. Probabilities are from 0 to 1.
type FaultConfig struct {
	// Seed makes runs repeatable: the n-th call of a method meets the same
	// faults for the same seed, whatever the other methods are called for.
	Seed uint64
	// LoseRequest is the probability that a request never arrives.
	LoseRequest float64
	// LoseResponse is the probability that the answer to a request that arrived
	// gets lost.
	LoseResponse float64
	// DelayP is the probability that a request is delayed, and as much again
	// that its answer is, so that calls overtake each other; a request may
	// arrive after its caller has gone. It holds for each batch of a watch too,
	// but batches stay in order.
	DelayP float64
	// Delay is the longest delay. Default 100 ms.
	Delay time.Duration
	// Duplicate is the probability that a request arrives a second time, up to
	// Delay after it was answered. No engine does this by itself; it stands for
	// what retries and proxies on the way do.
	Duplicate float64
	// Timeout is how long a call without an answer waits for one when its
	// context does not end before: then it fails with holdfast.ErrNoQuorum.
	// Default 5 s.
	Timeout time.Duration
}

func (c FaultConfig) withDefaults() FaultConfig {
	if c.Delay <= 0 {
		c.Delay = 100 * time.Millisecond
	}
	if c.Timeout <= 0 {
		c.Timeout = 5 * time.Second
	}
	return c
}

// FaultStats counts faults, so that a test can tell whether there were any.
type FaultStats struct {
	Calls         uint64
	LostRequests  uint64 // those sent during a cut included
	LostResponses uint64 // likewise
	Delays        uint64
	Duplicates    uint64
}

// FaultyEngine is an [Engine] as one client sees it through a bad network, and
// from a process that can be stopped. It keeps an engine's promises but one: a
// duplicated transaction is applied twice. It is safe for concurrent use.
type FaultyEngine struct {
	engine Engine
	cfg    FaultConfig
	life   context.Context // ends with Close
	end    context.CancelFunc
	work   sync.WaitGroup // requests and watches

	mu      sync.Mutex // guards all below
	streams map[string]*rand.Rand
	stats   FaultStats
	paused  gate
	cut     gate
	closed  bool
}

var _ Engine = (*FaultyEngine)(nil)

// Faulty puts faults before e. Close does not close e.
func Faulty(e Engine, cfg FaultConfig) *FaultyEngine {
	life, end := context.WithCancel(context.Background())
	return &FaultyEngine{
		engine: e, cfg: cfg.withDefaults(), life: life, end: end,
		streams: map[string]*rand.Rand{}, paused: newGate(), cut: newGate(),
	}
}

// gate is open or shut, and tells when that changes.
type gate struct{ open, shut chan struct{} }

func newGate() gate {
	g := gate{make(chan struct{}), make(chan struct{})}
	close(g.open)
	return g
}

// isShut tells whether the gate is shut.
func (g gate) isShut() bool {
	select {
	case <-g.open:
		return false
	default:
		return true
	}
}

// set opens or shuts the gate.
func (g *gate) set(shut bool) {
	switch {
	case shut == g.isShut():
	case shut:
		g.open = make(chan struct{})
		close(g.shut)
	default:
		g.shut = make(chan struct{})
		close(g.open)
	}
}

// gates is both gates as they are now.
func (f *FaultyEngine) gates() (paused, cut gate) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.paused, f.cut
}

// Pause stops the client's process as far as an engine can: calls, those whose
// context ends too, do not return, and watches deliver nothing until Resume.
// What was sent before it goes on its way.
func (f *FaultyEngine) Pause() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused.set(true)
}

// Resume lets the process go on.
func (f *FaultyEngine) Resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.paused.set(false)
}

// Cut swallows all requests and answers until it is called with false; watches
// are silent and then go on where they were.
func (f *FaultyEngine) Cut(on bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cut.set(on)
}

// Stats is a copy of the counters.
func (f *FaultyEngine) Stats() FaultStats {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.stats
}

// fate is what becomes of one call.
type fate struct {
	loseRequest, loseResponse, duplicate  bool
	requestLate, responseLate, secondLate time.Duration
}

// clean tells whether nothing happens to the call.
func (x fate) clean() bool { return x == fate{} }

// draw decides the fate of a method's next call. It always takes the same
// number of random values, so that one call's fate does not move the next's.
func (f *FaultyEngine) draw(method string) fate {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stats.Calls++
	rng := f.stream(method)
	chance := func(p float64) bool { return rng.Float64() < p }
	late := func(p float64) time.Duration {
		yes, d := chance(p), time.Duration(rng.Float64()*float64(f.cfg.Delay))
		if !yes {
			return 0
		}
		return max(d, 1)
	}
	x := fate{loseRequest: chance(f.cfg.LoseRequest), loseResponse: chance(f.cfg.LoseResponse)}
	x.requestLate, x.responseLate = late(f.cfg.DelayP), late(f.cfg.DelayP)
	x.secondLate = late(f.cfg.Duplicate)
	x.duplicate = x.secondLate > 0
	if x.requestLate > 0 || x.responseLate > 0 {
		f.stats.Delays++
	}
	return x
}

// stream is the source of chance of a method; f.mu is held.
func (f *FaultyEngine) stream(method string) *rand.Rand {
	rng := f.streams[method]
	if rng == nil {
		h := uint64(14695981039346656037) // FNV-1a
		for i := range len(method) {
			h = (h ^ uint64(method[i])) * 1099511628211
		}
		rng = rand.New(rand.NewPCG(f.cfg.Seed, h))
		f.streams[method] = rng
	}
	return rng
}

func (f *FaultyEngine) count(n *uint64) {
	f.mu.Lock()
	*n++
	f.mu.Unlock()
}

// spawn runs g in a goroutine that Close waits for, unless it is closed.
func (f *FaultyEngine) spawn(g func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.work.Go(g)
	}
}

// running waits until the process is not paused, whatever its contexts say,
// and fails only when the engine is closed.
func (f *FaultyEngine) running(op string, o holdfast.Outcome) error {
	for {
		paused, _ := f.gates()
		if f.life.Err() != nil {
			return callError(op, "", holdfast.CodeClosed, o, nil)
		}
		if !paused.isShut() {
			return nil
		}
		select {
		case <-paused.open:
		case <-f.life.Done():
		}
	}
}

// faultyCall passes one call on and does to it what fate wants. The outcome is
// that of a call which was sent and not answered.
func faultyCall[T any](ctx context.Context, f *FaultyEngine, op string, unanswered holdfast.Outcome, do func(context.Context) (T, error)) (T, error) {
	var none T
	x := f.draw(op)
	if err := f.running(op, holdfast.NotApplied); err != nil {
		return none, err
	}
	if ctx.Err() != nil {
		return none, waitError(ctx, op, holdfast.NotApplied)
	}
	c := &faultyRequest[T]{f: f, op: op, fate: x, unanswered: unanswered, do: do, answers: make(chan faultyAnswer[T], 1)}
	a := c.run(ctx)
	if err := f.running(op, unanswered); err != nil { // it cannot see the answer while it is stopped
		return none, err
	}
	return a.res, a.err
}

// faultyRequest is one call on its way.
type faultyRequest[T any] struct {
	f          *FaultyEngine
	op         string
	fate       fate
	unanswered holdfast.Outcome
	do         func(context.Context) (T, error)
	answers    chan faultyAnswer[T] // at most one
}

type faultyAnswer[T any] struct {
	res T
	err error
}

func (c *faultyRequest[T]) run(ctx context.Context) faultyAnswer[T] {
	_, cut := c.f.gates()
	switch {
	case c.fate.loseRequest || cut.isShut():
		c.f.count(&c.f.stats.LostRequests)
	case c.fate.clean():
		var a faultyAnswer[T]
		a.res, a.err = c.do(ctx)
		if _, cut := c.f.gates(); !cut.isShut() {
			return a
		}
		c.f.count(&c.f.stats.LostResponses)
	default:
		c.f.spawn(c.travel)
	}
	timer := time.NewTimer(c.f.cfg.Timeout)
	defer timer.Stop()
	select {
	case a := <-c.answers:
		return a
	case <-ctx.Done():
		return faultyAnswer[T]{err: waitError(ctx, c.op, c.unanswered)}
	case <-timer.C:
		return faultyAnswer[T]{err: callError(c.op, "", holdfast.CodeNoQuorum, c.unanswered, nil)}
	case <-c.f.life.Done():
		return faultyAnswer[T]{err: callError(c.op, "", holdfast.CodeClosed, c.unanswered, nil)}
	}
}

// travel is the way of a request to the engine and of its answer back.
func (c *faultyRequest[T]) travel() {
	f := c.f
	if !f.pass(c.fate.requestLate) {
		f.count(&f.stats.LostRequests)
		return
	}
	a := c.serve()
	if c.fate.duplicate {
		f.count(&f.stats.Duplicates)
		f.spawn(func() {
			if f.pass(c.fate.secondLate) {
				c.serve()
			}
		})
	}
	if c.fate.loseResponse || !f.pass(c.fate.responseLate) {
		f.count(&f.stats.LostResponses)
		return
	}
	c.answers <- a
}

// serve is what the engine makes of the request.
func (c *faultyRequest[T]) serve() (a faultyAnswer[T]) {
	ctx, cancel := context.WithTimeout(c.f.life, c.f.cfg.Timeout)
	defer cancel()
	a.res, a.err = c.do(ctx)
	if a.err != nil && ctx.Err() != nil {
		a.err = callError(c.op, "", holdfast.CodeNoQuorum, holdfast.OutcomeOf(a.err), a.err)
	}
	return a
}

// pass waits for a delay and tells whether a message arrives after it.
func (f *FaultyEngine) pass(late time.Duration) bool {
	if late > 0 && pause(f.life, late) != nil {
		return false
	}
	_, cut := f.gates()
	return !cut.isShut()
}

// nothing is the result of methods that have none.
type nothing struct{}

// Txn implements [Engine].
func (f *FaultyEngine) Txn(ctx context.Context, t Txn) (TxnResult, error) {
	unanswered := holdfast.Unknown
	if t.readOnly() {
		unanswered = holdfast.NotApplied
	}
	own := *cloneTxn(&t)
	return faultyCall(ctx, f, "txn", unanswered, func(ctx context.Context) (TxnResult, error) { return f.engine.Txn(ctx, own) })
}

// Range implements [Engine].
func (f *FaultyEngine) Range(ctx context.Context, r RangeRequest) (RangeResult, error) {
	return faultyCall(ctx, f, "range", holdfast.NotApplied, func(ctx context.Context) (RangeResult, error) { return f.engine.Range(ctx, r) })
}

// Grant implements [Engine].
func (f *FaultyEngine) Grant(ctx context.Context, id LeaseID, ttl time.Duration) (time.Duration, error) {
	return faultyCall(ctx, f, "grant", holdfast.Unknown, func(ctx context.Context) (time.Duration, error) { return f.engine.Grant(ctx, id, ttl) })
}

// Renew implements [Engine].
func (f *FaultyEngine) Renew(ctx context.Context, id LeaseID) (time.Duration, error) {
	return faultyCall(ctx, f, "renew", holdfast.Unknown, func(ctx context.Context) (time.Duration, error) { return f.engine.Renew(ctx, id) })
}

// Revoke implements [Engine].
func (f *FaultyEngine) Revoke(ctx context.Context, id LeaseID) error {
	_, err := faultyCall(ctx, f, "revoke", holdfast.Unknown, func(ctx context.Context) (nothing, error) { return nothing{}, f.engine.Revoke(ctx, id) })
	return err
}

// Compact implements [Engine].
func (f *FaultyEngine) Compact(ctx context.Context, rev int64) error {
	_, err := faultyCall(ctx, f, "compact", holdfast.Unknown, func(ctx context.Context) (nothing, error) { return nothing{}, f.engine.Compact(ctx, rev) })
	return err
}

// Status implements [Engine].
func (f *FaultyEngine) Status(ctx context.Context) (Status, error) {
	return faultyCall(ctx, f, "status", holdfast.NotApplied, f.engine.Status)
}

// Watch implements [Engine]. At Close the channel closes, which a reader may
// take for the end of its context: the next call says that it is closed.
func (f *FaultyEngine) Watch(ctx context.Context, w WatchRequest) <-chan WatchBatch {
	out := make(chan WatchBatch)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		ended := make(chan WatchBatch, 1)
		ended <- WatchBatch{Revision: max(w.Revision-1, 0), Err: callError("watch", w.Key, holdfast.CodeClosed, holdfast.NotApplied, nil)}
		close(ended)
		return ended
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(f.life, cancel) //nolint:contextcheck // it joins the two
	in := f.engine.Watch(ctx, w)
	rng := rand.New(rand.NewPCG(f.stream("watch").Uint64(), f.cfg.Seed))
	f.work.Go(func() {
		defer close(out)
		defer stop()
		defer cancel()
		for b := range in {
			if rng.Float64() < f.cfg.DelayP && pause(ctx, time.Duration(rng.Float64()*float64(f.cfg.Delay))) != nil {
				return
			}
			if !f.deliver(ctx, out, b) {
				return
			}
		}
	})
	return out
}

// deliver hands a batch over while the process runs and the network is whole;
// false when ctx ended first.
func (f *FaultyEngine) deliver(ctx context.Context, out chan<- WatchBatch, b WatchBatch) bool {
	for {
		paused, cut := f.gates()
		to := out
		pausedChange, cutChange := paused.shut, cut.shut
		if paused.isShut() {
			to, pausedChange = nil, paused.open
		}
		if cut.isShut() {
			to, cutChange = nil, cut.open
		}
		select {
		case to <- b:
			return true
		case <-pausedChange:
		case <-cutChange:
		case <-ctx.Done():
			return false
		}
	}
}

// Close ends calls and watches and waits for what is on its way; it leaves the
// engine below open.
func (f *FaultyEngine) Close() error {
	f.mu.Lock()
	f.closed = true
	f.mu.Unlock()
	f.end()
	f.work.Wait()
	return nil
}
