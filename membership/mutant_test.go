package membership

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"holdfast.dev/engine"
	"holdfast.dev/internal/simtest"
)

// mutantSeeds is within how many seeds the simulation must catch a mutant.
const mutantSeeds = 60

// mutants are registries with one defect each.
var mutants = []mutant{
	{"loss reported as leave", func(e engine.Engine) engine.Engine { return &kindLoss{e} }},
	{"leave without the word", simtest.Rewriting(withoutGoodbye)},
	{"id of another taken over", simtest.Rewriting(withoutBusy)},
	{"watch resumed from now", simtest.Amnesia},
	{"gap taken for leaving", func(e engine.Engine) engine.Engine { return &immortal{e} }},
	{"resend without dedup", simtest.Rewriting(withoutDedup)},
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

// kindLoss is an engine whose watches make a goodbye of every deletion.
type kindLoss struct{ engine.Engine }

func (e *kindLoss) Watch(ctx context.Context, w engine.WatchRequest) <-chan engine.WatchBatch {
	out := make(chan engine.WatchBatch)
	go func() {
		defer close(out)
		for b := range e.Engine.Watch(ctx, w) {
			for i, ev := range b.Events {
				if ev.Deleted {
					ev.Deleted, ev.KV.Value = false, record{State: left}.encode()
					b.Events[i] = ev
				}
			}
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// immortal is an engine in which every session of the past seems alive.
type immortal struct{ engine.Engine }

func (e *immortal) Range(ctx context.Context, r engine.RangeRequest) (engine.RangeResult, error) {
	res, err := e.Engine.Range(ctx, r)
	if prefix, _ := engine.SessionRange(); strings.HasPrefix(r.Key, prefix) && r.Revision > 0 && err == nil {
		res.KVs = []engine.KV{{Key: r.Key}}
	}
	return res, err
}

// withoutGoodbye deletes the record at once.
func withoutGoodbye(t engine.Txn) engine.Txn {
	if len(t.Then) == 1 && bytes.HasPrefix(t.Then[0].Value, []byte(`{"state":"left"`)) {
		t.Then = []engine.Op{engine.Delete(t.Then[0].Key)}
	}
	return t
}

// withoutBusy does not look whether an id is taken.
func withoutBusy(t engine.Txn) engine.Txn {
	if len(t.If) == 1 && strings.HasPrefix(t.If[0].Key, prefix) && t.If[0].Target == engine.CompareCreate {
		t.If = nil
	}
	return t
}

// withoutDedup forgets that a request was there before.
func withoutDedup(t engine.Txn) engine.Txn {
	if len(t.If) == 1 && strings.HasPrefix(t.If[0].Key, "dedup/") {
		t.If = []engine.Compare{engine.Missing(t.If[0].Key), engine.Exists(t.If[0].Key)} // never
	}
	return t
}
