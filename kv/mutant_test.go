package kv

import (
	"context"
	"strings"
	"testing"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/internal/simtest"
)

// mutantSeeds is within how many seeds the simulation must catch a mutant.
const mutantSeeds = 60

// mutants are stores with one defect each, of those that real stores had.
var mutants = []mutant{
	{name: "compare and set without the compare", engine: simtest.Rewriting(withoutCompares)},
	{name: "fence without the check", engine: simtest.Rewriting(withoutFence)},
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
	{name: "watch resumed from now", engine: simtest.Amnesia},
}

// TestSimulation_CatchesMutants shows that the simulation can fail.
func TestSimulation_CatchesMutants(t *testing.T) {
	for _, m := range mutants {
		simtest.Caught(t, m.name, mutantSeeds, func(t *testing.T, seed uint64) []string {
			if err := simulate(t, seed, m); err != nil {
				return []string{err.Error()}
			}
			return nil
		})
	}
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
