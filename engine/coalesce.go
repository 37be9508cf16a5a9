package engine

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast.dev"
)

// CoalesceConfig sets up a [Coalescer]; the zero value works. Values below 1
// mean the default.
type CoalesceConfig struct {
	// MaxOps is how many transactions one batch holds. Default 64; more than
	// about 100 only makes the slowest ones slower.
	MaxOps int
	// InFlight is how many transactions, batches or single ones, may be on
	// their way before the next ones have to gather. Default 4.
	InFlight int
	// TxnOps is the engine's own limit on a transaction: the sum over its
	// levels of nesting of the greatest of the lengths of If, Then and Else.
	// Default 128, as etcd's.
	TxnOps int
	// MaxBytes bounds the size of a batch. Default 1 MiB; etcd refuses 1.5 MiB.
	MaxBytes int
	// Stall is after how long an unanswered transaction no longer counts as in
	// flight, so that what a dying leader swallowed does not hold up what comes
	// after it. Default 500 ms.
	Stall time.Duration
	// Timeout ends a batch whose callers would wait longer; they get
	// holdfast.ErrNoQuorum with the outcome Unknown. Default 10 s.
	Timeout time.Duration
}

func (c CoalesceConfig) withDefaults() CoalesceConfig {
	c.MaxOps = cmp.Or(max(c.MaxOps, 0), 64)
	c.InFlight = cmp.Or(max(c.InFlight, 0), 4)
	c.TxnOps = cmp.Or(max(c.TxnOps, 0), maxTxnOps)
	c.MaxBytes = cmp.Or(max(c.MaxBytes, 0), 1<<20)
	c.Stall = cmp.Or(max(c.Stall, 0), 500*time.Millisecond)
	c.Timeout = cmp.Or(max(c.Timeout, 0), 10*time.Second)
	return c
}

// CoalesceStats counts what a [Coalescer] did with transactions that may write.
type CoalesceStats struct {
	Ops     uint64 // transactions that came
	Alone   uint64 // that went as they are
	Batched uint64 // that went in a batch
	Batches uint64 // batches sent, those of splits included
	Splits  uint64 // batches that were refused and sent again in halves
}

// Coalescer is an [Engine] with group commit: transactions that come while
// others are on their way travel together, as children of one transaction. A
// batch waits for nothing but a place in flight, and a transaction that finds
// one goes at once, as it is, in the caller's goroutine.
//
// What a caller sees is what the engine itself would do, except that
// transactions may share a revision. No batch has two transactions of which
// one writes a key that the other reads, compares or writes; transactions on
// the same key leave in the order in which they came, but as in any engine two
// calls that overlap may be applied in either order. When the engine refuses a
// batch, it is sent again in halves, so that one bad transaction fails alone.
// What all transactions of a batch compare, such as their session's key, the
// batch compares once; when that does not hold, they are sent again without it.
//
// Never batched are: transactions that only read and have nothing nested (a
// flat read needs no log entry); those with a leased put that no compare
// guards, or a read at a given revision, because these are the two ways in
// which a transaction that is well-formed can make the engine refuse the batch
// (a put guarded by the existence of the session's key cannot: the key goes
// with the lease); and those that the engine would refuse anyway. When the
// engine says that its space is exhausted, transactions that only delete no
// longer travel with others, because etcd still takes them then.
//
// It is safe for concurrent use. Source: group commit as in DeWitt et al.,
// "Implementation techniques for main memory database systems" (1984).
type Coalescer struct {
	engine Engine
	cfg    CoalesceConfig
	life   context.Context // ends with Close
	end    context.CancelFunc
	work   sync.WaitGroup // batches
	full   atomic.Bool    // the engine has no space

	mu     sync.Mutex // guards all below
	queue  []*call    // in the order in which they came; empty when there is a place in flight
	flying int
	claims claims // scratch of take
	stats  CoalesceStats
	closed bool
}

var _ Engine = (*Coalescer)(nil)

// Coalesce puts group commit before e. Close does not close e.
func Coalesce(e Engine, cfg CoalesceConfig) *Coalescer {
	life, end := context.WithCancel(context.Background())
	return &Coalescer{engine: e, cfg: cfg.withDefaults(), life: life, end: end}
}

// call is a transaction that waits for its batch.
type call struct {
	ctx    context.Context
	txn    *Txn
	foot   footprint
	ops    int          // of the limit TxnOps
	bytes  int          // of the limit MaxBytes
	alone  bool         // must not travel with others
	grows  bool         // has a put, so that it needs space in the store
	queued bool         // guarded by Coalescer.mu
	done   chan verdict // receives once
}

// verdict is what becomes of a call: its result, or the order to go by itself.
type verdict struct {
	res    TxnResult
	err    error
	flight *flight
}

// flight is a place taken in flight.
type flight struct {
	timer  *time.Timer // gives the place up after Stall; nil if the caller gives up sooner
	landed bool        // guarded by Coalescer.mu
}

// Txn implements [Engine].
func (c *Coalescer) Txn(ctx context.Context, t Txn) (TxnResult, error) {
	if t.readOnly() || ctx.Err() != nil {
		if err := c.check("txn"); err != nil {
			return TxnResult{}, err
		}
		return c.engine.Txn(ctx, t)
	}
	if f, err := c.board(ctx, nil); f != nil || err != nil {
		return c.alone(ctx, f, t, err)
	}
	k := c.newCall(ctx, t)
	if f, err := c.board(ctx, k); f != nil || err != nil {
		return c.alone(ctx, f, t, err)
	}
	var v verdict
	select {
	case v = <-k.done:
	case <-ctx.Done():
		v = c.leave(k)
	}
	switch {
	case v.flight != nil:
		return c.alone(ctx, v.flight, t, nil)
	case v.err != nil && ctx.Err() != nil:
		return TxnResult{}, waitError(ctx, "txn", holdfast.OutcomeOf(v.err))
	}
	return v.res, v.err
}

// newCall computes what a batch must know of t, and keeps a copy: the batch may
// be under way when the caller is gone.
func (c *Coalescer) newCall(ctx context.Context, t Txn) *call {
	k := &call{ctx: ctx, txn: cloneTxn(&t), done: make(chan verdict, 1)}
	k.ops, k.bytes = txnOps(k.txn), txnBytes(k.txn)
	if checkTxn(k.txn, c.cfg.TxnOps) != nil {
		k.alone = true // and refused, so that its keys do not matter
		return k
	}
	k.foot = appendFootprint(nil, k.txn)
	k.alone = refusable(k.txn, false)
	k.grows = hasPut(k.txn)
	return k
}

// refusable tells whether the state of the store can make the engine refuse t.
func refusable(t *Txn, guarded bool) bool {
	inThen := guarded || len(t.If) > 0
	for i, ops := range [2][]Op{t.Then, t.Else} {
		safe := guarded || i == 0 && inThen
		for j := range ops {
			switch op := &ops[j]; op.Kind {
			case OpGet:
				if op.Range.Revision != 0 {
					return true
				}
			case OpPut:
				if op.Lease != 0 && !safe {
					return true
				}
			case OpTxn:
				if refusable(op.Txn, safe) {
					return true
				}
			case OpDelete:
			}
		}
	}
	return false
}

// board takes a place in flight if there is one and nobody waits; otherwise k,
// if given, joins the queue and the flight is nil.
func (c *Coalescer) board(ctx context.Context, k *call) (*flight, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, callError("txn", "", holdfast.CodeClosed, holdfast.NotApplied, nil)
	case c.flying < c.cfg.InFlight && len(c.queue) == 0:
		c.stats.Ops++
		c.stats.Alone++
		return c.takeOff(ctx), nil
	case k != nil:
		c.stats.Ops++
		k.queued = true
		c.queue = append(c.queue, k)
	}
	return nil, nil
}

// takeOff takes a place for a transaction that ends with ctx at the latest.
func (c *Coalescer) takeOff(ctx context.Context) *flight {
	c.flying++
	f := &flight{}
	if dl, ok := ctx.Deadline(); !ok || time.Until(dl) > c.cfg.Stall {
		f.timer = time.AfterFunc(c.cfg.Stall, func() { c.land(f) }) //nolint:contextcheck // a batch outlives its callers
	}
	return f
}

// land gives a place back, once, and lets those who wait take it.
func (c *Coalescer) land(f *flight) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f.landed {
		return
	}
	f.landed = true
	if f.timer != nil {
		f.timer.Stop()
	}
	c.flying--
	for !c.closed && c.flying < c.cfg.InFlight && len(c.queue) > 0 {
		c.launch(c.take())
	}
}

// launch sends a batch on its way. One of one goes by itself, in the goroutine
// of its caller.
func (c *Coalescer) launch(batch []*call) {
	if len(batch) == 1 {
		c.stats.Alone++
		batch[0].done <- verdict{flight: c.takeOff(batch[0].ctx)}
		return
	}
	c.stats.Batched += uint64(len(batch))
	end := time.Now()
	limit := end.Add(c.cfg.Timeout)
	for _, k := range batch {
		dl, ok := k.ctx.Deadline()
		if !ok || dl.After(limit) {
			dl = limit
		}
		if dl.After(end) {
			end = dl
		}
	}
	ctx, cancel := context.WithDeadline(c.life, end)
	f := c.takeOff(ctx)
	c.work.Go(func() {
		defer cancel()
		c.send(ctx, batch)
		c.land(f) //nolint:contextcheck // a batch outlives its callers
	})
}

// alone runs a transaction as it is, in a place taken for it.
func (c *Coalescer) alone(ctx context.Context, f *flight, t Txn, err error) (TxnResult, error) {
	if err != nil {
		return TxnResult{}, err
	}
	defer c.land(f) //nolint:contextcheck // a batch outlives its callers
	res, err := c.engine.Txn(ctx, t)
	c.space(&t, err)
	return res, err
}

// space learns from a transaction's end whether the store has space left.
func (c *Coalescer) space(t *Txn, err error) {
	switch {
	case err != nil && holdfast.CodeOf(err) == holdfast.CodeExhausted:
		c.full.Store(true)
	case err == nil && c.full.Load() && hasPut(t):
		c.full.Store(false)
	}
}

// leave takes a call out whose caller waits no longer, and tells what is known
// of it.
func (c *Coalescer) leave(k *call) verdict {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k.queued {
		k.queued = false
		i := slices.Index(c.queue, k)
		c.queue = slices.Delete(c.queue, i, i+1)
		return verdict{err: waitError(k.ctx, "txn", holdfast.NotApplied)}
	}
	select {
	case v := <-k.done:
		return v
	default:
		return verdict{err: waitError(k.ctx, "txn", holdfast.Unknown)}
	}
}

// send runs a batch and answers its calls.
func (c *Coalescer) send(ctx context.Context, batch []*call) {
	if len(batch) == 1 {
		res, err := c.engine.Txn(ctx, *batch[0].txn)
		c.space(batch[0].txn, err)
		batch[0].done <- verdict{res: res, err: c.own(ctx, err)}
		return
	}
	t := bundle(batch)
	c.count(&c.stats.Batches)
	res, err := c.engine.Txn(ctx, t)
	c.space(&t, err)
	if err == nil && !res.Succeeded { // what all compare does not hold: each has its Else
		t = plainBundle(batch)
		c.count(&c.stats.Batches)
		res, err = c.engine.Txn(ctx, t)
		c.space(&t, err)
	}
	switch {
	case err == nil:
		for i, k := range batch {
			child := *res.Results[i].Txn
			child.Revision = res.Revision
			k.done <- verdict{res: child}
		}
	case divisible(err):
		c.count(&c.stats.Splits)
		c.send(ctx, batch[:len(batch)/2])
		c.send(ctx, batch[len(batch)/2:])
	default:
		err = c.own(ctx, err)
		for _, k := range batch {
			k.done <- verdict{err: err}
		}
	}
}

func (c *Coalescer) count(n *uint64) {
	c.mu.Lock()
	*n++
	c.mu.Unlock()
}

// divisible tells whether a batch was refused for what is in it, not for what
// it was sent to.
func divisible(err error) bool {
	if holdfast.OutcomeOf(err) != holdfast.NotApplied {
		return false
	}
	switch holdfast.CodeOf(err) {
	case holdfast.CodeNoQuorum, holdfast.CodeClosed, holdfast.CodeCanceled, holdfast.CodeDeadline,
		holdfast.CodeExhausted, holdfast.CodeBusy, holdfast.CodeLost:
		return false
	case holdfast.CodeUnknown, holdfast.CodeFenced, holdfast.CodeConflict, holdfast.CodeInvalid,
		holdfast.CodeNotFound, holdfast.CodeCompacted, holdfast.CodeDenied, holdfast.CodeInternal:
	}
	return true
}

// own turns the end of a batch's context, which is none of the callers', into
// what it means for them.
func (c *Coalescer) own(ctx context.Context, err error) error {
	switch {
	case err == nil || ctx.Err() == nil:
		return err
	case c.life.Err() != nil:
		return callError("txn", "", holdfast.CodeClosed, holdfast.OutcomeOf(err), nil)
	}
	return callError("txn", "", holdfast.CodeNoQuorum, holdfast.OutcomeOf(err), err)
}

// Stats is a copy of the counters.
func (c *Coalescer) Stats() CoalesceStats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stats
}

// check refuses calls after Close.
func (c *Coalescer) check(op string) error {
	if c.life.Err() != nil {
		return callError(op, "", holdfast.CodeClosed, holdfast.NotApplied, nil)
	}
	return nil
}

// Range implements [Engine].
func (c *Coalescer) Range(ctx context.Context, r RangeRequest) (RangeResult, error) {
	if err := c.check("range"); err != nil {
		return RangeResult{}, err
	}
	return c.engine.Range(ctx, r)
}

// Watch implements [Engine]. At Close the channel closes, which a reader may
// take for the end of its context: the next call says that it is closed.
func (c *Coalescer) Watch(ctx context.Context, w WatchRequest) <-chan WatchBatch {
	if err := c.check("watch"); err != nil {
		ended := make(chan WatchBatch, 1)
		ended <- WatchBatch{Revision: max(w.Revision-1, 0), Err: err}
		close(ended)
		return ended
	}
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.life, cancel) //nolint:contextcheck // it joins the two
	context.AfterFunc(ctx, func() { stop() })
	return c.engine.Watch(ctx, w)
}

// Grant implements [Engine].
func (c *Coalescer) Grant(ctx context.Context, id LeaseID, ttl time.Duration) (time.Duration, error) {
	if err := c.check("grant"); err != nil {
		return 0, err
	}
	return c.engine.Grant(ctx, id, ttl)
}

// Renew implements [Engine].
func (c *Coalescer) Renew(ctx context.Context, id LeaseID) (time.Duration, error) {
	if err := c.check("renew"); err != nil {
		return 0, err
	}
	return c.engine.Renew(ctx, id)
}

// Revoke implements [Engine].
func (c *Coalescer) Revoke(ctx context.Context, id LeaseID) error {
	if err := c.check("revoke"); err != nil {
		return err
	}
	return c.engine.Revoke(ctx, id)
}

// Compact implements [Engine].
func (c *Coalescer) Compact(ctx context.Context, rev int64) error {
	if err := c.check("compact"); err != nil {
		return err
	}
	return c.engine.Compact(ctx, rev)
}

// Status implements [Engine].
func (c *Coalescer) Status(ctx context.Context) (Status, error) {
	if err := c.check("status"); err != nil {
		return Status{}, err
	}
	return c.engine.Status(ctx)
}

// Close refuses what waits, ends batches and watches, and waits for the
// batches; it leaves the engine below open.
func (c *Coalescer) Close() error {
	c.mu.Lock()
	c.closed = true
	for _, k := range c.queue {
		k.queued = false
		k.done <- verdict{err: callError("txn", "", holdfast.CodeClosed, holdfast.NotApplied, nil)}
	}
	c.queue = nil
	c.mu.Unlock()
	c.end()
	c.work.Wait()
	return nil
}
