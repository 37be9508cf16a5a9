package simtest

import (
	"context"
	"strings"
	"testing"

	"holdfast.dev/engine"
)

// Caught runs f, a simulation with a defect planted, in a parallel subtest with
// the seeds 1 to n, and fails unless one of them finds a fault. It shows that
// the simulation can fail.
func Caught(t *testing.T, name string, n uint64, f func(t *testing.T, seed uint64) (faults []string)) {
	t.Helper()
	t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
		t.Parallel()
		for seed := uint64(1); seed <= n; seed++ {
			if faults := f(t, seed); len(faults) > 0 {
				why, _, _ := strings.Cut(faults[0], "\n")
				t.Logf("caught by seed %d: %s", seed, why)
				return
			}
		}
		t.Errorf("not caught within %d seeds", n)
	})
}

// Rewriting is an engine that changes each transaction on its way, and those nested
// in it.
func Rewriting(f func(engine.Txn) engine.Txn) func(engine.Engine) engine.Engine {
	return func(e engine.Engine) engine.Engine { return &rewriter{e, f} }
}

type rewriter struct {
	engine.Engine
	rewrite func(engine.Txn) engine.Txn
}

func (r *rewriter) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	return r.Engine.Txn(ctx, r.deep(t))
}

// deep rewrites a transaction and those nested in it.
func (r *rewriter) deep(t engine.Txn) engine.Txn {
	t = r.rewrite(t)
	for _, ops := range []*[]engine.Op{&t.Then, &t.Else} {
		out := make([]engine.Op, len(*ops))
		for i, op := range *ops {
			if op.Kind == engine.OpTxn {
				op = engine.Nested(r.deep(*op.Txn))
			}
			out[i] = op
		}
		*ops = out
	}
	return t
}

// Amnesia is an engine whose watches begin now, wherever they were to begin.
func Amnesia(e engine.Engine) engine.Engine { return &amnesia{e} }

type amnesia struct{ engine.Engine }

func (e *amnesia) Watch(ctx context.Context, w engine.WatchRequest) <-chan engine.WatchBatch {
	w.Revision = 0
	return e.Engine.Watch(ctx, w)
}
