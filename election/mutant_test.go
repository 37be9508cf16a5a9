package election_test

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"holdfast.dev/engine"
	"holdfast.dev/internal/simtest"
)

// TestSimulation_CatchesMutants shows that the simulation can fail: each mutant
// breaks one rule, and some seed has to notice.
func TestSimulation_CatchesMutants(t *testing.T) {
	for _, m := range []struct {
		name        string
		wrap, blind func(engine.Engine) engine.Engine
	}{
		{name: "ready without the hook", wrap: simtest.Rewriting(withoutWaiting)},
		{name: "campaign without a session guard", wrap: simtest.Rewriting(withoutGuard)},
		{name: "token not increasing", wrap: func(e engine.Engine) engine.Engine { return coarse{e} }},
		{name: "takeover without a death", wrap: simtest.Rewriting(withoutDeath)},
		{name: "vanished leader forgotten", wrap: simtest.Rewriting(withoutVanished)},
		{name: "observer that hides vacancies", blind: func(e engine.Engine) engine.Engine { return blind{e} }},
	} {
		simtest.Caught(t, m.name, 100, func(t *testing.T, seed uint64) []string {
			w := &simtest.World{Seed: seed, Length: 20 * time.Second, LateTxns: 0.2, Wrap: m.wrap}
			return simulate(t, 0, w, m.blind)
		})
	}
}

// onRecord says whether a transaction writes the record of an election.
func onRecord(t engine.Txn) bool {
	return len(t.If) > 1 && strings.HasPrefix(t.If[0].Key, "election/r/") && len(t.Then) > 0
}

// replaced is a transaction that stores something else instead.
func replaced(t engine.Txn, f func(value []byte) []byte) engine.Txn {
	if !onRecord(t) || t.Then[0].Kind != engine.OpPut {
		return t
	}
	then := append([]engine.Op{}, t.Then...)
	then[0].Value = f(then[0].Value)
	t.Then = then
	return t
}

func withoutWaiting(t engine.Txn) engine.Txn {
	return replaced(t, func(v []byte) []byte { return bytes.ReplaceAll(v, []byte(`,"waits":true`), nil) })
}

func withoutVanished(t engine.Txn) engine.Txn {
	return replaced(withoutWaiting(t), func(v []byte) []byte {
		if i := bytes.Index(v, []byte(`,"vanished":`)); i >= 0 {
			return append(v[:i:i], '}')
		}
		return v
	})
}

func withoutGuard(t engine.Txn) engine.Txn {
	if onRecord(t) {
		t.If = t.If[:1]
	}
	return t
}

func withoutDeath(t engine.Txn) engine.Txn {
	if onRecord(t) {
		t.If = t.If[1:2]
	}
	return t
}

// coarse is an engine whose answers forget the lower bits of revisions.
type coarse struct{ engine.Engine }

func (e coarse) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	res, err := e.Engine.Txn(ctx, t)
	if onRecord(t) && res.Succeeded {
		res.Revision -= res.Revision % 16
	}
	return res, err
}

// blind is an engine whose watches say nothing of elections without a leader.
type blind struct{ engine.Engine }

func (e blind) Watch(ctx context.Context, w engine.WatchRequest) <-chan engine.WatchBatch {
	out := make(chan engine.WatchBatch)
	in := e.Engine.Watch(ctx, w)
	go func() {
		defer close(out)
		for b := range in {
			var events []engine.Event
			for _, ev := range b.Events {
				if !strings.HasPrefix(ev.KV.Key, "election/r/") || stateOf(ev).token != 0 {
					events = append(events, ev)
				}
			}
			b.Events = events
			select {
			case out <- b:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
