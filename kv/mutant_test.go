package kv

import (
	"context"
	"strings"
	"testing"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// mutantSeeds is within how many seeds the simulation must catch a mutant.
const mutantSeeds = 60

// mutants are stores with one defect each, of those that real stores had.
var mutants = []mutant{
	{name: "compare and set without the compare", engine: rewriting(withoutCompares)},
	{name: "fence without the check", engine: rewriting(withoutFence)},
	{name: "stale read served as linearizable", engine: func(e engine.Engine) engine.Engine { return &staleEngine{Engine: e} }},
	{name: "resend without dedup", store: func(s *engine.Session, st *Store) {
		st.once = func(ctx context.Context, t engine.Txn) (engine.OnceResult, error) {
			res, err := engine.Submit(ctx, s.Engine(), s.Attempt(), t)
			return engine.OnceResult{TxnResult: res}, err
		}
	}},
	{name: "unknown taken for not applied", store: func(s *engine.Session, st *Store) {
		st.once = func(ctx context.Context, t engine.Txn) (engine.OnceResult, error) {
			res, err := s.Once(ctx, t)
			if err != nil {
				err = &holdfast.Error{Code: holdfast.CodeOf(err), Outcome: holdfast.NotApplied, Err: context.Cause(ctx)}
			}
			return res, err
		}
	}},
	{name: "answer of a duplicate made up", store: func(s *engine.Session, st *Store) {
		st.once = func(ctx context.Context, t engine.Txn) (engine.OnceResult, error) {
			res, err := s.Once(ctx, t)
			if res.Duplicate { // the present instead of the past
				now, rerr := s.Engine().Range(ctx, engine.RangeRequest{Key: keyPrefix, Count: true})
				if rerr == nil {
					res.Revision = now.Revision
				}
			}
			return res, err
		}
	}},
	{name: "watch resumed from now", engine: func(e engine.Engine) engine.Engine { return &amnesia{Engine: e} }},
}

// TestSimulation_CatchesMutants shows that the simulation can fail.
func TestSimulation_CatchesMutants(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= mutantSeeds; seed++ {
				if err := simulate(t, seed, m); err != nil {
					why, _, _ := strings.Cut(err.Error(), "\n")
					t.Logf("caught by seed %d: %s", seed, why)
					return
				}
			}
			t.Errorf("not caught within %d seeds", mutantSeeds)
		})
	}
}

// rewriting is an engine that changes each transaction on its way.
func rewriting(f func(engine.Txn) engine.Txn) func(engine.Engine) engine.Engine {
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

func withoutCompares(t engine.Txn) engine.Txn {
	if len(t.If) > 0 && strings.HasPrefix(t.If[0].Key, keyPrefix) {
		t.If = nil
	}
	return t
}

func withoutFence(t engine.Txn) engine.Txn {
	if len(t.If) > 0 && strings.HasPrefix(t.If[0].Key, fencePrefix) && t.If[0].Op == engine.Greater {
		t.If = []engine.Compare{engine.Missing(t.If[0].Key), engine.Exists(t.If[0].Key)} // never
	}
	return t
}

// staleEngine answers reads of the present from a few revisions ago.
type staleEngine struct{ engine.Engine }

func (e *staleEngine) Range(ctx context.Context, r engine.RangeRequest) (engine.RangeResult, error) {
	res, err := e.Engine.Range(ctx, r)
	if err != nil || r.Stale || r.Revision != 0 || res.Revision < 4 || !strings.HasPrefix(r.Key, keyPrefix) {
		return res, err
	}
	r.Revision = res.Revision - 2
	return e.Engine.Range(ctx, r)
}

// amnesia is an engine whose watches begin now, wherever they were to begin.
type amnesia struct{ engine.Engine }

func (e *amnesia) Watch(ctx context.Context, w engine.WatchRequest) <-chan engine.WatchBatch {
	w.Revision = 0
	return e.Engine.Watch(ctx, w)
}
