package engine_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// wire is an engine that a test can cut off.
type wire struct {
	engine.Engine
	hole     atomic.Bool // calls hang until their context ends
	deaf     atomic.Bool // transactions are applied, their answers lost
	attempts atomic.Int64
}

func (w *wire) Renew(ctx context.Context, id engine.LeaseID) (time.Duration, error) {
	if w.hole.Load() {
		<-ctx.Done()
		return 0, ctx.Err()
	}
	return w.Engine.Renew(ctx, id)
}

func (w *wire) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	w.attempts.Add(1)
	if w.hole.Load() {
		<-ctx.Done()
		return engine.TxnResult{}, ctx.Err()
	}
	res, err := w.Engine.Txn(ctx, t)
	if w.deaf.Load() && err == nil {
		<-ctx.Done()
		return engine.TxnResult{}, ctx.Err()
	}
	return res, err
}

func open(t *testing.T, e engine.Engine, cfg engine.SessionConfig) *engine.Session {
	t.Helper()
	s, err := engine.OpenSession(t.Context(), e, cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func exists(t *testing.T, e engine.Engine, key string) bool {
	t.Helper()
	res, err := e.Range(t.Context(), engine.RangeRequest{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return len(res.KVs) > 0
}

func TestSession_LivesAndCloses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		var states []engine.SessionState
		s := open(t, m, engine.SessionConfig{TTL: 2 * time.Second, Name: "n", OnState: func(st engine.SessionState) { states = append(states, st) }})
		if s.Epoch() != 1 {
			t.Errorf("epoch %d", s.Epoch())
		}
		wait(t, time.Hour)
		if s.Err() != nil || s.State() != engine.Safe {
			t.Fatalf("after an hour: %v, %v", s.State(), s.Err())
		}
		all, err := engine.Sessions(t.Context(), m)
		if err != nil || len(all) != 1 || all[0].ID != s.ID() || all[0].Name != "n" || all[0].TTL != 2*time.Second {
			t.Errorf("sessions: %+v, %v", all, err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		if exists(t, m, engine.SessionKey(s.ID())) {
			t.Error("the key outlived the session")
		}
		if !errors.Is(s.Err(), holdfast.ErrClosed) || !slices.Equal(states, []engine.SessionState{engine.Closed}) {
			t.Errorf("after close: %v, %v", s.Err(), states)
		}
	})
}

// wait lets bubble time pass.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-time.NewTimer(d).C:
	case <-t.Context().Done():
	}
}

func TestSession_LostInABlackHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		w := &wire{Engine: m}
		type change struct {
			state engine.SessionState
			after time.Duration
		}
		var (
			mu      sync.Mutex
			changes []change
			cut     time.Time
		)
		s := open(t, w, engine.SessionConfig{OnState: func(st engine.SessionState) {
			mu.Lock()
			defer mu.Unlock()
			changes = append(changes, change{st, time.Since(cut)})
		}})
		wait(t, time.Minute)
		cut = time.Now()
		w.hole.Store(true)
		<-s.Done()
		lost := time.Since(cut)
		if !exists(t, m, engine.SessionKey(s.ID())) {
			t.Error("the quorum gave the session up before its owner knew")
		}
		wait(t, 10*time.Second-lost)
		if exists(t, m, engine.SessionKey(s.ID())) {
			t.Error("the session outlived its TTL")
		}
		mu.Lock()
		defer mu.Unlock()
		if len(changes) != 2 || changes[0].state != engine.Jeopardy || changes[1].state != engine.Lost || changes[1].after >= 9*time.Second {
			t.Errorf("changes %v", changes)
		}
		if !errors.Is(s.Err(), holdfast.ErrLost) {
			t.Errorf("cause %v", s.Err())
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestSession_SurvivesALeaderChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		s := open(t, m, engine.SessionConfig{})
		for range 20 {
			m.Outage(true)
			wait(t, 3*time.Second)
			m.Outage(false)
			wait(t, 2*time.Second)
		}
		if s.Err() != nil {
			t.Errorf("lost: %v", s.Err())
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestSession_ConfigFaultsAllAtOnce(t *testing.T) {
	m := engine.NewMemory(engine.MemoryConfig{})
	defer func() { _ = m.Close() }()
	_, err := engine.OpenSession(t.Context(), m, engine.SessionConfig{TTL: time.Millisecond, Attempt: -1})
	if !errors.Is(err, holdfast.ErrInvalid) {
		t.Fatal(err)
	}
	for _, want := range []string{"ttl 1ms", "attempt -1ns"} {
		if !containsText(err, want) {
			t.Errorf("%v: does not say %q", err, want)
		}
	}
}

func TestOnce_AppliesOnceThroughLostAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		w := &wire{Engine: m}
		s := open(t, w, engine.SessionConfig{})
		defer func() { _ = s.Close(t.Context()) }()
		w.deaf.Store(true)
		heal := time.AfterFunc(2*time.Second, func() { w.deaf.Store(false) })
		defer heal.Stop()
		before := w.attempts.Load()
		res, err := s.Once(t.Context(), engine.Txn{Then: []engine.Op{engine.Put("k", []byte("v"))}})
		if err != nil || !res.Duplicate || !res.Succeeded {
			t.Fatalf("%+v, %v", res, err)
		}
		if n := w.attempts.Load() - before; n < 3 {
			t.Errorf("%d attempts", n)
		}
		kv := get(t, m, "k")
		if kv.Version != 1 || kv.ModRevision != res.Revision {
			t.Errorf("applied %d times, last at %d; answered %d", kv.Version, kv.ModRevision, res.Revision)
		}
	})
}

func get(t *testing.T, e engine.Engine, key string) engine.KV {
	t.Helper()
	res, err := e.Range(t.Context(), engine.RangeRequest{Key: key})
	if err != nil || len(res.KVs) != 1 {
		t.Fatalf("get %s: %+v, %v", key, res, err)
	}
	return res.KVs[0]
}

func TestOnce_BranchesAndLostSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		s := open(t, m, engine.SessionConfig{})
		txn := engine.Txn{
			If:   []engine.Compare{engine.Missing("k")},
			Then: []engine.Op{engine.Put("k", []byte("v")), engine.Get("k")},
			Else: []engine.Op{engine.Get("k")},
		}
		first, err := s.Once(t.Context(), txn)
		if err != nil || !first.Succeeded || len(first.Results) != 2 || string(first.Results[1].Range.KVs[0].Value) != "v" {
			t.Fatalf("%+v, %v", first, err)
		}
		second, err := s.Once(t.Context(), txn)
		if err != nil || second.Succeeded || len(second.Results) != 1 || second.Results[0].Range.KVs[0].ModRevision != first.Revision {
			t.Fatalf("%+v, %v", second, err)
		}
		if _, err := s.Once(t.Context(), engine.Txn{Else: []engine.Op{engine.Put("k", nil)}}); !errors.Is(err, holdfast.ErrInvalid) {
			t.Errorf("a write in Else: %v", err)
		}
		if err := m.Revoke(t.Context(), engine.LeaseID(s.ID())); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Once(t.Context(), txn); !errors.Is(err, holdfast.ErrLost) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Errorf("under a lost session: %v", err)
		}
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

func TestResolve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		w := &wire{Engine: m}
		s := open(t, w, engine.SessionConfig{})
		defer func() { _ = s.Close(t.Context()) }()
		txn := engine.Txn{Then: []engine.Op{engine.Put("k", nil)}}
		unknown := func(fault *atomic.Bool) engine.RequestID {
			t.Helper()
			fault.Store(true)
			defer fault.Store(false)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err := s.Once(ctx, txn)
			if holdfast.OutcomeOf(err) != holdfast.Unknown {
				t.Fatalf("%v", err)
			}
			e, _ := errors.AsType[*holdfast.Error](err)
			id, err := engine.ParseRequestID(e.Request)
			if err != nil {
				t.Fatal(err)
			}
			return id
		}
		applied, dropped := unknown(&w.deaf), unknown(&w.hole)
		for range 2 {
			outcome, rev, err := s.Resolve(t.Context(), applied)
			if err != nil || outcome != holdfast.Applied || rev != get(t, m, "k").ModRevision {
				t.Errorf("applied: %v at %d, %v", outcome, rev, err)
			}
			outcome, _, err = s.Resolve(t.Context(), dropped)
			if err != nil || outcome != holdfast.NotApplied {
				t.Errorf("dropped: %v, %v", outcome, err)
			}
		}
		// The attempt that was resolved as not applied arrives after all.
		if _, err := engine.Once(t.Context(), m, time.Second, dropped, txn); holdfast.OutcomeOf(err) != holdfast.NotApplied || holdfast.CodeOf(err) != holdfast.CodeCanceled {
			t.Errorf("a late attempt: %v", err)
		}
		if v := get(t, m, "k").Version; v != 1 {
			t.Errorf("applied %d times", v)
		}
	})
}

// TestOnce_ARefusalStaysOne: the first attempt is delayed, the second finds the
// guard false, and then the first arrives when it is true again.
func TestOnce_ARefusalStaysOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		late := &lateFirst{Engine: m}
		s := open(t, late, engine.SessionConfig{})
		defer func() { _ = s.Close(t.Context()) }()
		if _, err := s.Once(t.Context(), engine.Txn{Then: []engine.Op{engine.Put("k", nil)}}); err != nil {
			t.Fatal(err)
		}
		late.armed = true
		res, err := s.Once(t.Context(), engine.Txn{
			If: []engine.Compare{engine.Missing("k")}, Then: []engine.Op{engine.Put("k", []byte("again"))}, Else: []engine.Op{engine.Get("k")},
		})
		if err != nil || res.Succeeded || len(res.Results) != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
		if _, err := m.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Delete("k")}}); err != nil {
			t.Fatal(err)
		}
		if _, err := m.Txn(t.Context(), late.held); err != nil {
			t.Fatal(err)
		}
		if exists(t, m, "k") {
			t.Error("applied after it was refused")
		}
	})
}

// lateFirst keeps the first transaction after it was armed from arriving.
type lateFirst struct {
	engine.Engine
	armed bool
	held  engine.Txn
}

func (l *lateFirst) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	if l.armed {
		l.armed, l.held = false, t
		<-ctx.Done()
		return engine.TxnResult{}, ctx.Err()
	}
	return l.Engine.Txn(ctx, t)
}

func TestOnce_SlotsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		w := &wire{Engine: m}
		s := open(t, w, engine.SessionConfig{})
		defer func() { _ = s.Close(t.Context()) }()
		w.deaf.Store(true)
		var wg sync.WaitGroup
		for range 3 * engine.Slots {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				if _, err := s.Once(ctx, engine.Txn{Then: []engine.Op{engine.Put("k", nil)}}); err == nil {
					t.Error("an answer through a deaf wire")
				}
			})
		}
		wg.Wait()
		w.deaf.Store(false)
		if _, err := s.Once(t.Context(), engine.Txn{Then: []engine.Op{engine.Put("after", nil)}}); err != nil {
			t.Errorf("no slot is free after many unknown outcomes: %v", err)
		}
		res, err := m.Range(t.Context(), engine.RangeRequest{Key: "dedup/", End: engine.PrefixEnd("dedup/"), Count: true})
		if err != nil || res.Count > engine.Slots {
			t.Errorf("%d dedup records, %v", res.Count, err)
		}
	})
}

func TestRetire_EndsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		s := open(t, m, engine.SessionConfig{})
		defer func() { _ = s.Close(t.Context()) }()
		old := s.Guard()
		late := engine.Txn{If: []engine.Compare{old}, Then: []engine.Op{engine.Put("k", nil)}}
		if err := s.Retire(t.Context(), old); err != nil {
			t.Fatal(err)
		}
		if err := s.Retire(t.Context(), old); err != nil || s.Guard().Int == old.Int {
			t.Fatalf("%v, guard %d after %d", err, s.Guard().Int, old.Int)
		}
		if res, err := m.Txn(t.Context(), late); err != nil || res.Succeeded {
			t.Errorf("applied after its guard was retired: %+v, %v", res, err)
		}
		late.If = []engine.Compare{s.Guard()}
		if res, err := m.Txn(t.Context(), late); err != nil || !res.Succeeded {
			t.Errorf("refused under the new guard: %+v, %v", res, err)
		}
	})
}

func TestParseIDs(t *testing.T) {
	id := engine.RequestID{Session: 0xabc, Slot: 3, Seq: 17}
	back, err := engine.ParseRequestID(id.String())
	if err != nil || back != id {
		t.Errorf("%v: %v, %v", id, back, err)
	}
	for _, bad := range []string{"", "x", "0000000000000abc.3", "0000000000000abc.200.1", "0000000000000abc.3.0", "zz.1.1"} {
		if _, err := engine.ParseRequestID(bad); !errors.Is(err, holdfast.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, bad := range []string{"", "0", "0000000000000000", "ffffffffffffffff", "abc"} {
		if _, err := engine.ParseSessionID(bad); !errors.Is(err, holdfast.ErrInvalid) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
