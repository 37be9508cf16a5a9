package engine_test

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/engine/enginetest"
)

// openMemory opens a Memory that is closed when the test ends.
func openMemory(t *testing.T) *engine.Memory {
	t.Helper()
	m := engine.NewMemory(engine.MemoryConfig{MinTTL: 500 * time.Millisecond})
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// memoryHarness wraps e, which stands on m; m's outage is the lost leader.
func memoryHarness(m *engine.Memory, e engine.Engine) enginetest.Harness {
	return enginetest.Harness{
		Engine: e,
		MinTTL: 500 * time.Millisecond,
		LoseLeader: func(*testing.T) {
			m.Outage(true)
			time.AfterFunc(700*time.Millisecond, func() { m.Outage(false) })
		},
	}
}

func TestMemory(t *testing.T) {
	t.Parallel()
	enginetest.Run(t, func(t *testing.T) enginetest.Harness {
		m := openMemory(t)
		return memoryHarness(m, m)
	})
}

func TestMemory_InBubble(t *testing.T) {
	enginetest.RunInBubble(t, func(t *testing.T) enginetest.Harness {
		m := openMemory(t)
		return memoryHarness(m, m)
	})
}

// In a bubble leases end on the nanosecond.
func TestMemory_LeaseEndsOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openMemory(t)
		ctx := t.Context()
		start := time.Now()
		ttls := map[engine.LeaseID]time.Duration{3: 30 * time.Second, 1: 10 * time.Second, 2: 20 * time.Second}
		for id, ttl := range ttls {
			grant(t, m, id, ttl)
		}
		w := m.Watch(ctx, engine.WatchRequest{Key: "a", End: "z", Revision: 5})
		for id := engine.LeaseID(1); id <= 3; id++ {
			b := <-w
			if len(b.Events) != 1 || b.Events[0].KV.Key != leasedKey(id) || time.Since(start) != ttls[id] {
				t.Fatalf("%+v after %v", b, time.Since(start))
			}
		}
	})
}

// leasedKey is the key that grant puts.
func leasedKey(id engine.LeaseID) string { return "lease/" + strconv.Itoa(int(id)) }

func grant(t *testing.T, e engine.Engine, id engine.LeaseID, ttl time.Duration) {
	t.Helper()
	if _, err := e.Grant(t.Context(), id, ttl); err != nil {
		t.Fatal(err)
	}
	if _, err := e.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.PutLeased(leasedKey(id), nil, id)}}); err != nil {
		t.Fatal(err)
	}
}

// As under a new leader, a lease that should have ended during an outage gets
// its whole TTL afterwards.
func TestMemory_Outage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openMemory(t)
		grant(t, m, 1, 10*time.Second)
		w := m.Watch(t.Context(), engine.WatchRequest{Key: leasedKey(1), Progress: true})
		m.Outage(true)
		if s, err := m.Status(t.Context()); err != nil || s.Leader != 0 {
			t.Fatalf("%+v, %v", s, err)
		}
		start := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, err := m.Txn(ctx, engine.Txn{Then: []engine.Op{engine.Put("a", nil)}})
		if holdfast.CodeOf(err) != holdfast.CodeDeadline || holdfast.OutcomeOf(err) != holdfast.Unknown || time.Since(start) != time.Minute {
			t.Fatalf("%v (%v) after %v", err, holdfast.OutcomeOf(err), time.Since(start))
		}
		if _, err := m.Range(ctx, engine.RangeRequest{Key: "a"}); holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Fatalf("range: %v", err)
		}
		if res, err := m.Range(t.Context(), engine.RangeRequest{Key: leasedKey(1), Stale: true}); err != nil || len(res.KVs) != 1 {
			t.Fatalf("stale range: %+v, %v", res, err)
		}
		select {
		case b := <-w:
			t.Fatalf("the watch is not silent: %+v", b)
		default:
		}

		failed := make(chan error, 1)
		go func() {
			_, err := m.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Put("a", nil)}})
			failed <- err
		}()
		synctest.Wait()
		m.Outage(false)
		if err := <-failed; holdfast.CodeOf(err) != holdfast.CodeNoQuorum || holdfast.OutcomeOf(err) != holdfast.Unknown {
			t.Fatalf("%v (%v)", err, holdfast.OutcomeOf(err))
		}
		start = time.Now()
		for b := range w {
			if len(b.Events) > 0 {
				break
			}
		}
		if d := time.Since(start); d != 10*time.Second {
			t.Fatalf("the lease ended %v after the outage", d)
		}
	})
}

// A reader that stops reading costs nothing, misses nothing, and hears of it
// when the history it needs is gone.
func TestMemory_SlowWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openMemory(t)
		ctx := t.Context()
		w := m.Watch(ctx, engine.WatchRequest{Key: "a", Revision: 1})
		put := func(n int) {
			for range n {
				if _, err := m.Txn(ctx, engine.Txn{Then: []engine.Op{engine.Put("a", nil)}}); err != nil {
					t.Fatal(err)
				}
				synctest.Wait()
			}
		}
		put(5000)
		next := int64(2)
		for next < 5002 {
			b := <-w
			for _, ev := range b.Events {
				if ev.KV.ModRevision != next {
					t.Fatalf("revision %d, want %d", ev.KV.ModRevision, next)
				}
				next++
			}
		}
		put(5000)
		if err := m.Compact(ctx, 10001); err != nil {
			t.Fatal(err)
		}
		var last engine.WatchBatch
		for last = range w {
			if len(last.Events) > 0 {
				next = last.Revision + 1
			}
		}
		if holdfast.CodeOf(last.Err) != holdfast.CodeCompacted || last.Revision != next-1 {
			t.Fatalf("the watch ended with %+v after revision %d", last, next-1)
		}
	})
}

func BenchmarkMemory(b *testing.B) {
	m := engine.NewMemory(engine.MemoryConfig{})
	defer func() {
		if err := m.Close(); err != nil {
			b.Error(err)
		}
	}()
	benchmarkPuts(b, m, func(rev int64) {
		if err := m.Compact(b.Context(), rev); err != nil {
			b.Fatal(err)
		}
	})
}

// benchmarkPuts runs guarded puts of a thousand keys.
func benchmarkPuts(b *testing.B, e engine.Engine, compact func(rev int64)) {
	b.Helper()
	ctx := b.Context()
	var txns [1024]engine.Txn
	for i := range txns {
		txns[i] = engine.Txn{
			If:   []engine.Compare{engine.Missing("never")},
			Then: []engine.Op{engine.Put("key/"+strconv.Itoa(i), []byte("value"))},
		}
	}
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		res, err := e.Txn(ctx, txns[i%len(txns)])
		if err != nil {
			b.Fatal(err)
		}
		if i%100_000 == 99_999 {
			compact(res.Revision)
		}
	}
}
