package enginetest_test

import (
	"context"
	"flag"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/engine/enginetest"
)

// A suite is worth what it catches: each mutant is an engine with one defect,
// and the test of the same name as the defect must fail.
var mutants = []struct {
	name   string
	caught string // a test that must fail
	make   func(*engine.Memory) engine.Engine
}{
	{"none", "", func(m *engine.Memory) engine.Engine { return m }},
	{"watch loses an event", "Watch/reliable", watchMutant(func(_ int, b engine.WatchBatch) []engine.WatchBatch {
		if len(b.Events) > 0 {
			b.Events = b.Events[1:]
		}
		return []engine.WatchBatch{b}
	})},
	{"watch delivers twice", "Watch/unique", watchMutant(func(_ int, b engine.WatchBatch) []engine.WatchBatch {
		first := b
		if len(b.Events) > 0 {
			first.Revision = b.Events[0].KV.ModRevision - 1
		}
		return []engine.WatchBatch{first, b}
	})},
	{"watch splits a revision", "Watch/atomic", watchMutant(func(_ int, b engine.WatchBatch) []engine.WatchBatch {
		var out []engine.WatchBatch
		for _, ev := range b.Events {
			out = append(out, engine.WatchBatch{Revision: ev.KV.ModRevision, Events: []engine.Event{ev}})
		}
		return append(out, engine.WatchBatch{Revision: b.Revision, Err: b.Err})
	})},
	{"watch goes backwards", "Watch/ordered", watchMutant(func(_ int, b engine.WatchBatch) []engine.WatchBatch {
		if n := len(b.Events); n > 1 {
			evs := append([]engine.Event{}, b.Events...)
			evs[0], evs[n-1] = evs[n-1], evs[0]
			b.Events = evs
		}
		return []engine.WatchBatch{b}
	})},
	{"watch invents what was before", "Watch/previous_values", watchMutant(func(_ int, b engine.WatchBatch) []engine.WatchBatch {
		for i := range b.Events {
			if b.Events[i].Prev != nil {
				b.Events[i].Prev = &b.Events[i].KV
			}
		}
		return []engine.WatchBatch{b}
	})},
	{"watch hides a compaction", "Compact", func(m *engine.Memory) engine.Engine { return &blindWatch{Memory: m} }},
	{"transaction runs twice", "Txn/versions", func(m *engine.Memory) engine.Engine { return &twice{m} }},
	{"nested children are transactions of their own", "Nested/one_revision", func(m *engine.Memory) engine.Engine { return &apart{m} }},
	{"a caller who left is told that nothing happened", "Context/ended_during", func(m *engine.Memory) engine.Engine { return &liar{m} }},
	{"reads are stale", "Range/linearizable", func(m *engine.Memory) engine.Engine { return &stale{Memory: m} }},
	{"lease ends early", "Lease/expiry", func(m *engine.Memory) engine.Engine { return &hasty{m} }},
	{"renewal does nothing", "Lease/renewal", func(m *engine.Memory) engine.Engine { return &idle{m} }},
	{"revoke goes key by key", "Lease/revoke", func(m *engine.Memory) engine.Engine { return &piecemeal{m} }},
	{"a grant takes what is there", "Lease/ids", func(m *engine.Memory) engine.Engine { return &greedy{m} }},
	{"a new leader forgets", "LoseLeader", func(m *engine.Memory) engine.Engine { return &forgetful{m} }},
}

var mutant = flag.String("mutant", "", "run the suite over the mutant of this name")

// TestMutants runs itself once per mutant, because a test cannot fail without
// failing its parent.
func TestMutants(t *testing.T) {
	if *mutant != "" {
		for _, mt := range mutants {
			if mt.name == *mutant {
				enginetest.RunInBubble(t, func(t *testing.T) enginetest.Harness { return harness(t, mt.make) })
			}
		}
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, mt := range mutants {
		t.Run(mt.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			out, err := exec.CommandContext(ctx, self, "-test.run=^TestMutants$", "-test.timeout=30s", "-mutant="+mt.name).CombinedOutput()
			switch failed := strings.Contains(string(out), "--- FAIL: TestMutants/"+mt.caught+" "); {
			case mt.caught == "" && err != nil:
				t.Errorf("the suite fails without a defect:\n%s", out)
			case mt.caught != "" && !failed:
				t.Errorf("%s did not catch it: %v\n%s", mt.caught, err, out)
			}
		})
	}
}

func harness(t *testing.T, mutate func(*engine.Memory) engine.Engine) enginetest.Harness {
	t.Helper()
	m := engine.NewMemory(engine.MemoryConfig{})
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	e := mutate(m)
	return enginetest.Harness{
		Engine: e,
		MinTTL: time.Second,
		LoseLeader: func(t *testing.T) {
			t.Helper()
			if f, ok := e.(*forgetful); ok {
				f.forget(t.Context())
			}
			m.Outage(true)
			time.AfterFunc(time.Second, func() { m.Outage(false) })
		},
	}
}

// watched changes the batches of watches.
type watched struct {
	*engine.Memory
	change func(n int, b engine.WatchBatch) []engine.WatchBatch
}

func watchMutant(change func(int, engine.WatchBatch) []engine.WatchBatch) func(*engine.Memory) engine.Engine {
	return func(m *engine.Memory) engine.Engine { return &watched{m, change} }
}

func (e *watched) Watch(ctx context.Context, w engine.WatchRequest) <-chan engine.WatchBatch {
	out := make(chan engine.WatchBatch)
	go func() {
		defer close(out)
		n := 0
		for b := range e.Memory.Watch(ctx, w) {
			n++
			for _, c := range e.change(n, b) {
				select {
				case out <- c:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

// blindWatch begins after a compaction without a word.
type blindWatch struct {
	*engine.Memory
	compacted int64
}

func (e *blindWatch) Compact(ctx context.Context, rev int64) error {
	e.compacted = max(e.compacted, min(rev, 1<<40))
	return e.Memory.Compact(ctx, rev)
}

func (e *blindWatch) Watch(ctx context.Context, w engine.WatchRequest) <-chan engine.WatchBatch {
	if w.Revision > 0 {
		w.Revision = max(w.Revision, e.compacted)
	}
	return e.Memory.Watch(ctx, w)
}

type twice struct{ *engine.Memory }

func (e *twice) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	if res, err := e.Memory.Txn(ctx, t); err != nil {
		return res, err
	}
	return e.Memory.Txn(ctx, t)
}

type apart struct{ *engine.Memory }

func (e *apart) Txn(ctx context.Context, t engine.Txn) (res engine.TxnResult, err error) {
	if len(t.If) > 0 || len(t.Then) < 2 || t.Then[0].Kind != engine.OpTxn {
		return e.Memory.Txn(ctx, t)
	}
	res.Succeeded = true
	for _, op := range t.Then {
		child, err := e.Memory.Txn(ctx, engine.Txn{Then: []engine.Op{op}})
		if err != nil {
			return res, err
		}
		res.Revision = child.Revision
		res.Results = append(res.Results, child.Results...)
	}
	return res, nil
}

type liar struct{ *engine.Memory }

func (e *liar) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	if ctx.Err() != nil {
		return e.Memory.Txn(ctx, t)
	}
	res, err := e.Memory.Txn(ctx, t)
	timer := time.NewTimer(time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return res, err
	case <-ctx.Done():
		return res, &holdfast.Error{Code: holdfast.CodeOf(ctx.Err()), Outcome: holdfast.NotApplied}
	}
}

// stale answers reads from the revision before.
type stale struct {
	*engine.Memory
	mu   sync.Mutex
	last int64
}

func (e *stale) Range(ctx context.Context, r engine.RangeRequest) (engine.RangeResult, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if r.Revision == 0 && e.last > 1 {
		old := r
		old.Revision = e.last - 1
		if res, err := e.Memory.Range(ctx, old); err == nil {
			res.Revision = old.Revision
			return res, nil
		}
	}
	return e.Memory.Range(ctx, r)
}

func (e *stale) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	res, err := e.Memory.Txn(ctx, t)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last = max(e.last, res.Revision)
	return res, err
}

type hasty struct{ *engine.Memory }

func (e *hasty) Grant(ctx context.Context, id engine.LeaseID, ttl time.Duration) (time.Duration, error) {
	got, err := e.Memory.Grant(ctx, id, ttl)
	return got + time.Second, err
}

type idle struct{ *engine.Memory }

func (e *idle) Renew(ctx context.Context, id engine.LeaseID) (time.Duration, error) {
	if id%2 == 0 {
		return e.Memory.Renew(ctx, id)
	}
	return time.Second, nil
}

type piecemeal struct{ *engine.Memory }

func (e *piecemeal) Revoke(ctx context.Context, id engine.LeaseID) error {
	all, err := e.Range(ctx, engine.RangeRequest{Key: "a", End: "z"})
	if err != nil {
		return err
	}
	for _, kv := range all.KVs {
		if kv.Lease != id {
			continue
		}
		if _, err := e.Txn(ctx, engine.Txn{Then: []engine.Op{engine.Delete(kv.Key)}}); err != nil {
			return err
		}
	}
	return e.Memory.Revoke(ctx, id)
}

type greedy struct{ *engine.Memory }

func (e *greedy) Grant(ctx context.Context, id engine.LeaseID, ttl time.Duration) (time.Duration, error) {
	got, err := e.Memory.Grant(ctx, id, ttl)
	if holdfast.CodeOf(err) == holdfast.CodeConflict {
		return ttl, nil
	}
	return got, err
}

type forgetful struct{ *engine.Memory }

// forget deletes what was written last.
func (e *forgetful) forget(ctx context.Context) {
	all, err := e.Range(ctx, engine.RangeRequest{Key: "a", End: "z"})
	if err != nil || len(all.KVs) == 0 {
		return
	}
	last := all.KVs[0]
	for _, kv := range all.KVs {
		if kv.ModRevision > last.ModRevision {
			last = kv
		}
	}
	if _, err := e.Txn(ctx, engine.Txn{Then: []engine.Op{engine.Delete(last.Key)}}); err != nil {
		return
	}
}
