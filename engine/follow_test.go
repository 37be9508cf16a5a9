package engine_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// containsText says whether err's text has sub.
func containsText(err error, sub string) bool { return strings.Contains(err.Error(), sub) }

func TestFollow_SnapshotThenEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		put := func(k string) {
			t.Helper()
			if _, err := m.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Put(k, nil)}}); err != nil {
				t.Fatal(err)
			}
		}
		put("a/1")
		ctx, cancel := context.WithCancel(t.Context())
		var seen []string
		gate := make(chan struct{}, 100)
		done := make(chan struct{})
		go func() {
			defer close(done)
			engine.Follow(ctx, m, time.Second, "a/", engine.PrefixEnd("a/"), func(u engine.Update) {
				<-gate
				if u.Snapshot {
					seen = append(seen, "snapshot")
				}
				for _, kv := range u.KVs {
					seen = append(seen, kv.Key)
				}
				for _, ev := range u.Events {
					seen = append(seen, ev.KV.Key)
				}
			})
		}()
		gate <- struct{}{}
		synctest.Wait()
		put("a/2")
		put("b/1")
		for range 50 {
			gate <- struct{}{}
		}
		wait(t, 3*time.Second)
		cancel()
		close(gate)
		<-done
		if got := strings.Join(seen, " "); got != "snapshot a/1 a/2" {
			t.Errorf("saw %s", got)
		}
	})
}

// forgetful is an engine whose first watch finds its history compacted.
type forgetful struct {
	engine.Engine
	watches int
}

func (f *forgetful) Watch(ctx context.Context, req engine.WatchRequest) <-chan engine.WatchBatch {
	if f.watches++; f.watches > 1 {
		return f.Engine.Watch(ctx, req)
	}
	c := make(chan engine.WatchBatch, 1)
	c <- engine.WatchBatch{Err: &holdfast.Error{Code: holdfast.CodeCompacted, Outcome: holdfast.NotApplied}}
	close(c)
	return c
}

func TestFollow_StartsOverWhenHistoryIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		ctx, cancel := context.WithCancel(t.Context())
		snapshots := 0
		engine.Follow(ctx, &forgetful{Engine: m}, time.Second, "a/", engine.PrefixEnd("a/"), func(u engine.Update) {
			if u.Snapshot {
				snapshots++
			}
			if snapshots == 2 {
				cancel()
			}
		})
		if snapshots != 2 {
			t.Errorf("%d snapshots", snapshots)
		}
	})
}

func TestLiveness(t *testing.T) {
	kv := func(id engine.SessionID) engine.KV { return engine.KV{Key: engine.SessionKey(id)} }
	var l engine.Liveness
	if l.Dead(1, 0) {
		t.Error("dead before anything is known")
	}
	l.Apply(engine.Update{Snapshot: true, Revision: 5, KVs: []engine.KV{kv(1), kv(2)}})
	if l.Dead(1, 5) || !l.Dead(3, 5) || l.Dead(3, 6) {
		t.Error("after the snapshot")
	}
	dead := l.Apply(engine.Update{Revision: 7, Events: []engine.Event{{Deleted: true, KV: kv(1)}, {KV: kv(3)}}})
	if len(dead) != 1 || dead[0] != 1 || !l.Dead(1, 7) || l.Dead(3, 7) {
		t.Errorf("after the events: %v", dead)
	}
	dead = l.Apply(engine.Update{Snapshot: true, Revision: 9, KVs: []engine.KV{kv(3)}})
	if len(dead) != 1 || dead[0] != 2 {
		t.Errorf("after a new snapshot: %v", dead)
	}
}
