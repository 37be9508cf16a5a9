package engine

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast.dev"
)

// MemoryConfig sets up a [Memory]; the zero value works. Values below 1 mean
// the default.
type MemoryConfig struct {
	// MinTTL is the shortest time to live of a lease; a shorter one is raised
	// to it. Default 1 s, what etcd has with an election timeout of 500 ms.
	MinTTL time.Duration
	// MaxOps bounds a transaction: the sum over its levels of nesting of the
	// greatest of the lengths of If, Then and Else. Default 128, as etcd's.
	MaxOps int
	// MaxBytes bounds the size of a transaction. Default 1.5 MiB, as etcd's.
	MaxBytes int
}

func (c MemoryConfig) withDefaults() MemoryConfig {
	c.MinTTL = cmp.Or(max(c.MinTTL, 0), time.Second)
	c.MaxOps = cmp.Or(max(c.MaxOps, 0), maxTxnOps)
	c.MaxBytes = cmp.Or(max(c.MaxBytes, 0), maxTxnBytes)
	return c
}

// Memory is an [Engine] in this process's memory. It keeps etcd's semantics,
// those of nested transactions and of leases too, and depends on nothing but
// the order of the calls and the monotonic clock: in a testing/synctest bubble
// it runs on the bubble's time. History grows until Compact. It is safe for
// concurrent use.
type Memory struct {
	cfg  MemoryConfig
	done chan struct{}  // closed by Close
	work sync.WaitGroup // watches, and the expiry that is due

	mu       sync.Mutex // guards all below; held only for computing
	store    store
	path     []bool // scratch of Txn
	leases   leaseTable
	watchers []*memoryWatch
	outage   chan struct{} // closed when the quorum is back; nil while it is there
	term     uint64
	closed   bool
}

var _ Engine = (*Memory)(nil)

// NewMemory makes an empty store at revision 1.
func NewMemory(cfg MemoryConfig) *Memory {
	return &Memory{
		cfg:    cfg.withDefaults(),
		done:   make(chan struct{}),
		store:  newStore(),
		leases: leaseTable{byID: map[LeaseID]*memoryLease{}},
		term:   1,
	}
}

// Outage takes the quorum away, or gives it back under a new leader. Without
// it, calls that need it wait until their context ends or, when it comes back,
// fail with holdfast.ErrNoQuorum and the outcome Unknown (they were not
// applied, but a caller has no way to know); watches are silent; leases do not
// expire, and start their TTL anew when it is back.
func (m *Memory) Outage(on bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed || on == (m.outage != nil) {
		return
	}
	if on {
		m.outage = make(chan struct{})
		return
	}
	close(m.outage)
	m.outage = nil
	m.term++
	m.leases.renewAll(time.Now())
	m.schedule()
	for _, w := range m.watchers {
		w.signal()
	}
}

// enter takes m.mu for a call that needs the quorum; with an error it does not.
// The outcome is that of a call which was sent and not answered.
func (m *Memory) enter(ctx context.Context, op string, unanswered holdfast.Outcome) error {
	if ctx.Err() != nil {
		return waitError(ctx, op, holdfast.NotApplied)
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return callError(op, "", holdfast.CodeClosed, holdfast.NotApplied, nil)
	}
	outage := m.outage
	if outage == nil {
		return nil
	}
	m.mu.Unlock()
	select {
	case <-outage:
		return callError(op, "", holdfast.CodeNoQuorum, unanswered, nil)
	case <-m.done:
		return callError(op, "", holdfast.CodeClosed, unanswered, nil)
	case <-ctx.Done():
		return waitError(ctx, op, unanswered)
	}
}

// Txn implements [Engine].
func (m *Memory) Txn(ctx context.Context, t Txn) (TxnResult, error) {
	if err := checkTxn(&t, m.cfg.MaxOps); err != nil {
		return TxnResult{}, err
	}
	if n := txnBytes(&t); n > m.cfg.MaxBytes {
		return TxnResult{}, invalid("txn", "", "%d bytes, the limit is %d", n, m.cfg.MaxBytes)
	}
	unanswered := holdfast.Unknown
	if t.readOnly() {
		unanswered = holdfast.NotApplied
	}
	if err := m.enter(ctx, "txn", unanswered); err != nil {
		return TxnResult{}, err
	}
	defer m.mu.Unlock()
	m.path = m.compares(&t, m.path[:0])
	if _, err := m.check(&t, m.path); err != nil {
		return TxnResult{}, err
	}
	res, _ := m.execute(&t, m.path)
	m.commit()
	res.Revision = m.store.rev
	return res, nil
}

// branch is the operations that run.
func (t *Txn) branch(succeeded bool) []Op {
	if succeeded {
		return t.Then
	}
	return t.Else
}

// compares appends to path which branch of t runs, and of the transactions
// nested in it, in the order in which execute comes to them.
func (m *Memory) compares(t *Txn, path []bool) []bool {
	holds := true
	for i := range t.If {
		if holds = m.holds(&t.If[i]); !holds {
			break
		}
	}
	path = append(path, holds)
	ops := t.branch(holds)
	for i := range ops {
		if ops[i].Kind == OpTxn {
			path = m.compares(ops[i].Txn, path)
		}
	}
	return path
}

// holds evaluates one compare. A range without keys compares like one missing
// key, as in etcd.
func (m *Memory) holds(c *Compare) bool {
	if c.End == "" {
		return c.holds(m.store.get(c.Key, m.store.rev))
	}
	holds, some := true, false
	m.store.each(span{c.Key, c.End}, m.store.rev, func(kv *KV) bool {
		some, holds = true, c.holds(kv)
		return holds
	})
	if !some {
		return c.holds(nil)
	}
	return holds
}

// holds evaluates the compare for one key, nil if it is missing.
func (c *Compare) holds(kv *KV) bool {
	if kv == nil {
		if c.Target == CompareValue {
			return false
		}
		kv = &KV{}
	}
	var d int
	switch c.Target {
	case CompareVersion:
		d = cmp.Compare(kv.Version, c.Int)
	case CompareCreate:
		d = cmp.Compare(kv.CreateRevision, c.Int)
	case CompareMod:
		d = cmp.Compare(kv.ModRevision, c.Int)
	case CompareValue:
		d = bytes.Compare(kv.Value, c.Value)
	}
	switch c.Op {
	case Equal:
		return d == 0
	case NotEqual:
		return d != 0
	case Greater:
		return d > 0
	case Less:
		return d < 0
	}
	return false
}

// check refuses a transaction of which an operation that is about to run
// cannot: puts under a lease that is not there, reads of revisions that are
// not. It returns the rest of path.
func (m *Memory) check(t *Txn, path []bool) ([]bool, error) {
	ops := t.branch(path[0])
	path = path[1:]
	for i := range ops {
		var err error
		switch op := &ops[i]; op.Kind {
		case OpGet:
			err = m.checkRevision("txn", op.Range)
		case OpPut:
			if op.Lease != 0 && m.leases.byID[op.Lease] == nil {
				err = callError("txn", op.Key, holdfast.CodeNotFound, holdfast.NotApplied, fmt.Errorf("lease %x is not there", uint64(op.Lease)))
			}
		case OpTxn:
			path, err = m.check(op.Txn, path)
		case OpDelete:
		}
		if err != nil {
			return nil, err
		}
	}
	return path, nil
}

// checkRevision refuses reads of the future and of what is compacted.
func (m *Memory) checkRevision(op string, r RangeRequest) error {
	switch {
	case r.Revision < 0 || r.Revision > m.store.rev:
		return invalid(op, r.Key, "revision %d does not exist, the last is %d", r.Revision, m.store.rev)
	case r.Revision != 0 && r.Revision < m.store.compacted:
		return callError(op, r.Key, holdfast.CodeCompacted, holdfast.NotApplied, nil)
	}
	return nil
}

// execute runs a checked transaction and returns the rest of path.
func (m *Memory) execute(t *Txn, path []bool) (TxnResult, []bool) {
	res := TxnResult{Succeeded: path[0]}
	ops := t.branch(path[0])
	path = path[1:]
	if len(ops) > 0 {
		res.Results = make([]OpResult, len(ops))
	}
	for i := range ops {
		out := &res.Results[i]
		switch op := &ops[i]; op.Kind {
		case OpGet:
			out.Range = m.store.read(op.Range)
		case OpPut:
			prev := m.store.put(op.Key, op.Value, op.Lease)
			m.leases.moved(op.Key, prev, op.Lease)
		case OpDelete:
			gone := m.remove(span{op.Range.Key, op.Range.End})
			out.Deleted = int64(len(gone))
			for _, kv := range gone {
				if op.Prev {
					out.Prev = append(out.Prev, *kv)
				}
			}
		case OpTxn:
			var child TxnResult
			child, path = m.execute(op.Txn, path)
			out.Txn = &child
		}
	}
	return res, path
}

// remove deletes keys and takes them from their leases.
func (m *Memory) remove(sp span) []*KV {
	gone := m.store.delete(sp)
	for _, kv := range gone {
		m.leases.moved(kv.Key, kv, 0)
	}
	return gone
}

// commit makes the revision and wakes the watches it concerns.
func (m *Memory) commit() {
	made := m.store.commit()
	if made == nil {
		return
	}
	for _, w := range m.watchers {
		if slices.ContainsFunc(made, func(c change) bool { return w.span.has(c.kv.Key) }) {
			w.pending = true
			w.signal()
		} else if !w.pending {
			w.quiet = m.store.rev
		}
	}
}

// Range implements [Engine].
func (m *Memory) Range(ctx context.Context, r RangeRequest) (RangeResult, error) {
	if r.Key == "" && r.End == "" {
		return RangeResult{}, invalid("range", "", "the empty key")
	}
	if err := m.enterRead(ctx, r); err != nil {
		return RangeResult{}, err
	}
	defer m.mu.Unlock()
	if err := m.checkRevision("range", r); err != nil {
		return RangeResult{}, err
	}
	return m.store.read(r), nil
}

// enterRead is enter for a read, which may be stale.
func (m *Memory) enterRead(ctx context.Context, r RangeRequest) error {
	if !r.Stale {
		return m.enter(ctx, "range", holdfast.NotApplied)
	}
	if ctx.Err() != nil {
		return waitError(ctx, "range", holdfast.NotApplied)
	}
	m.mu.Lock()
	if m.closed {
		m.mu.Unlock()
		return callError("range", "", holdfast.CodeClosed, holdfast.NotApplied, nil)
	}
	return nil
}

// Compact implements [Engine].
func (m *Memory) Compact(ctx context.Context, rev int64) error {
	if err := m.enter(ctx, "compact", holdfast.Unknown); err != nil {
		return err
	}
	defer m.mu.Unlock()
	switch {
	case rev > m.store.rev:
		return invalid("compact", "", "revision %d does not exist, the last is %d", rev, m.store.rev)
	case rev <= m.store.compacted:
		return callError("compact", "", holdfast.CodeCompacted, holdfast.NotApplied, nil)
	}
	m.store.compact(rev)
	for _, w := range m.watchers {
		w.signal()
	}
	return nil
}

// Status implements [Engine].
func (m *Memory) Status(ctx context.Context) (Status, error) {
	if ctx.Err() != nil {
		return Status{}, waitError(ctx, "status", holdfast.NotApplied)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return Status{}, callError("status", "", holdfast.CodeClosed, holdfast.NotApplied, nil)
	}
	s := Status{Kind: "memory", ClusterID: 1, MemberID: 1, Leader: 1, Term: m.term, Revision: m.store.rev}
	if m.outage != nil {
		s.Leader = 0
	}
	return s, nil
}

// Close implements [Engine]. Watches end with holdfast.ErrClosed.
func (m *Memory) Close() error {
	m.mu.Lock()
	if !m.closed {
		m.closed = true
		close(m.done)
		m.unschedule()
	}
	m.mu.Unlock()
	m.work.Wait()
	return nil
}
