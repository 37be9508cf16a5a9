package engine_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/engine/enginetest"
)

func faulty(t *testing.T, e engine.Engine, cfg engine.FaultConfig) *engine.FaultyEngine {
	t.Helper()
	f := engine.Faulty(e, cfg)
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestFaulty_WithoutFaults(t *testing.T) {
	t.Parallel()
	enginetest.Run(t, func(t *testing.T) enginetest.Harness {
		m := openMemory(t)
		return memoryHarness(m, coalesce(t, faulty(t, m, engine.FaultConfig{}), engine.CoalesceConfig{}))
	})
}

// Delay alone breaks no promise of an engine, nor of group commit over it.
func TestFaulty_Delays(t *testing.T) {
	slow := engine.FaultConfig{Seed: 1, DelayP: 0.9, Delay: 20 * time.Millisecond}
	t.Run("faulty", func(t *testing.T) {
		enginetest.RunInBubble(t, func(t *testing.T) enginetest.Harness {
			m := openMemory(t)
			return memoryHarness(m, faulty(t, m, slow))
		})
	})
	t.Run("coalesced", func(t *testing.T) {
		enginetest.RunInBubble(t, func(t *testing.T) enginetest.Harness {
			m := openMemory(t)
			return memoryHarness(m, coalesce(t, faulty(t, m, slow), engine.CoalesceConfig{MaxOps: 8, InFlight: 2}))
		})
	})
}

// versionOf is how often a key was put, 0 if it is missing.
func versionOf(t *testing.T, m engine.Engine, key string) int64 {
	t.Helper()
	res, err := m.Range(t.Context(), engine.RangeRequest{Key: key})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.KVs) == 0 {
		return 0
	}
	return res.KVs[0].Version
}

func TestFaulty_Faults(t *testing.T) {
	for _, c := range []struct {
		name        string
		cfg         engine.FaultConfig
		patience    time.Duration
		want        holdfast.Code // CodeUnknown: no error
		took        time.Duration // 0: it depends
		now, at1min int64         // version of the key
		stats       engine.FaultStats
	}{
		{
			name: "request lost", cfg: engine.FaultConfig{LoseRequest: 1}, patience: time.Second,
			want: holdfast.CodeDeadline, took: time.Second, stats: engine.FaultStats{Calls: 1, LostRequests: 1},
		},
		{
			name: "response lost", cfg: engine.FaultConfig{LoseResponse: 1}, patience: time.Second,
			want: holdfast.CodeDeadline, took: time.Second, now: 1, at1min: 1, stats: engine.FaultStats{Calls: 1, LostResponses: 1},
		},
		{
			name: "nobody waits for ever", cfg: engine.FaultConfig{LoseResponse: 1}, patience: time.Hour,
			want: holdfast.CodeNoQuorum, took: 5 * time.Second, now: 1, at1min: 1, stats: engine.FaultStats{Calls: 1, LostResponses: 1},
		},
		{
			name: "late", cfg: engine.FaultConfig{DelayP: 1, Delay: 10 * time.Second}, patience: time.Millisecond,
			want: holdfast.CodeDeadline, took: time.Millisecond, at1min: 1, stats: engine.FaultStats{Calls: 1, Delays: 1},
		},
		{
			name: "twice", cfg: engine.FaultConfig{Duplicate: 1, Delay: time.Second}, patience: time.Hour,
			now: 1, at1min: 2, stats: engine.FaultStats{Calls: 1, Duplicates: 1},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := openMemory(t)
				f := faulty(t, m, c.cfg)
				ctx, cancel := context.WithTimeout(t.Context(), c.patience)
				defer cancel()
				start := time.Now()
				_, err := f.Txn(ctx, put("a"))
				took := time.Since(start)
				if holdfast.CodeOf(err) != c.want || err != nil && holdfast.OutcomeOf(err) != holdfast.Unknown {
					t.Fatalf("%v (%v), want %v", err, holdfast.OutcomeOf(err), c.want)
				}
				if c.took != 0 && took != c.took {
					t.Errorf("after %v, want %v", took, c.took)
				}
				if v := versionOf(t, m, "a"); v != c.now {
					t.Errorf("version %d at once, want %d", v, c.now)
				}
				<-time.NewTimer(time.Minute).C
				if v := versionOf(t, m, "a"); v != c.at1min {
					t.Errorf("version %d after a minute, want %d", v, c.at1min)
				}
				if s := f.Stats(); s != c.stats {
					t.Errorf("%+v, want %+v", s, c.stats)
				}
			})
		})
	}
}

// A read that got no answer did nothing.
func TestFaulty_ReadsAreNotApplied(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := faulty(t, openMemory(t), engine.FaultConfig{LoseRequest: 1})
		_, err := f.Range(t.Context(), engine.RangeRequest{Key: "a"})
		if !errors.Is(err, holdfast.ErrNoQuorum) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Errorf("range: %v (%v)", err, holdfast.OutcomeOf(err))
		}
		_, err = f.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Get("a")}})
		if !errors.Is(err, holdfast.ErrNoQuorum) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Errorf("txn: %v (%v)", err, holdfast.OutcomeOf(err))
		}
		if err := f.Revoke(t.Context(), 1); !errors.Is(err, holdfast.ErrNoQuorum) || holdfast.OutcomeOf(err) != holdfast.Unknown {
			t.Errorf("revoke: %v (%v)", err, holdfast.OutcomeOf(err))
		}
	})
}

// faultyRun is what a client sees of a bad network: each call's duration and
// outcome.
func faultyRun(t *testing.T, seed uint64) string {
	t.Helper()
	var seen strings.Builder
	synctest.Test(t, func(t *testing.T) {
		f := faulty(t, openMemory(t), engine.FaultConfig{Seed: seed, LoseRequest: 0.1, LoseResponse: 0.1, DelayP: 0.3, Duplicate: 0.1})
		for i := range 200 {
			ctx, cancel := context.WithTimeout(t.Context(), 80*time.Millisecond)
			start := time.Now()
			res, err := f.Txn(ctx, put("a"))
			cancel()
			fmt.Fprintln(&seen, i, time.Since(start), res.Revision, err)
			if seed%2 == 0 && i%3 == 0 { // other methods do not move the fate of this one
				if _, err := f.Status(t.Context()); err != nil {
					fmt.Fprintln(&seen, err)
				}
			}
		}
	})
	return seen.String()
}

func TestFaulty_Repeatable(t *testing.T) {
	one := faultyRun(t, 1)
	if again := faultyRun(t, 1); again != one {
		t.Errorf("the same seed gave\n%s\nand then\n%s", one, again)
	}
	if other := faultyRun(t, 3); other == one {
		t.Error("another seed gave the same")
	}
}

// A stopped process sees nothing: neither an answer, nor the end of its own
// context, nor a watch's events; then all of it at once.
func TestFaulty_Pause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openMemory(t)
		f := faulty(t, m, engine.FaultConfig{})
		w := f.Watch(t.Context(), engine.WatchRequest{Key: "a", Revision: 1})
		f.Pause()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		returned := make(chan error, 1)
		go func() {
			_, err := f.Txn(ctx, put("b"))
			returned <- err
		}()
		for range 3 {
			if _, err := m.Txn(t.Context(), put("a")); err != nil {
				t.Fatal(err)
			}
		}
		<-time.NewTimer(time.Minute).C
		select {
		case err := <-returned:
			t.Fatalf("a paused call returned %v", err)
		case b := <-w:
			t.Fatalf("a paused watch delivered %+v", b)
		default:
		}
		f.Resume()
		if err := <-returned; holdfast.CodeOf(err) != holdfast.CodeDeadline || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Errorf("%v (%v)", err, holdfast.OutcomeOf(err))
		}
		for n := 0; n < 3; n += len((<-w).Events) {
		}
	})
}

// What was sent before the pause is done during it, and answered after it.
func TestFaulty_PauseInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openMemory(t)
		f := faulty(t, m, engine.FaultConfig{DelayP: 1, Delay: time.Second})
		wait := crowd(t.Context(), f, put("a"))
		f.Pause()
		<-time.NewTimer(3 * time.Second).C
		if versionOf(t, m, "a") != 1 {
			t.Error("what was sent did not arrive")
		}
		f.Resume()
		if err := wait()[0]; err != nil {
			t.Error(err)
		}
	})
}

func TestFaulty_Cut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openMemory(t)
		f := faulty(t, m, engine.FaultConfig{})
		w := f.Watch(t.Context(), engine.WatchRequest{Key: "a", Revision: 2, Progress: true})
		gone := f.Watch(t.Context(), engine.WatchRequest{Key: "a", Revision: 2})
		synctest.Wait()
		f.Cut(true)
		if _, err := f.Txn(t.Context(), put("b")); !errors.Is(err, holdfast.ErrNoQuorum) || holdfast.OutcomeOf(err) != holdfast.Unknown {
			t.Errorf("%v (%v)", err, holdfast.OutcomeOf(err))
		}
		for range 2000 {
			if _, err := m.Txn(t.Context(), put("a")); err != nil {
				t.Fatal(err)
			}
		}
		select {
		case b := <-w:
			t.Fatalf("a watch that is cut delivered %+v", b)
		default:
		}
		f.Cut(false)
		for next := int64(2); next < 2002; {
			for _, ev := range (<-w).Events {
				if ev.KV.ModRevision != next {
					t.Fatalf("revision %d, want %d", ev.KV.ModRevision, next)
				}
				next++
			}
		}
		f.Cut(true)
		for range 2000 {
			if _, err := m.Txn(t.Context(), put("a")); err != nil {
				t.Fatal(err)
			}
		}
		if err := m.Compact(t.Context(), 4001); err != nil {
			t.Fatal(err)
		}
		f.Cut(false)
		next := int64(2)
		for b := range gone {
			for _, ev := range b.Events {
				if ev.KV.ModRevision != next {
					t.Fatalf("revision %d, want %d", ev.KV.ModRevision, next)
				}
				next++
			}
			if b.Err != nil && !errors.Is(b.Err, holdfast.ErrCompacted) {
				t.Fatal(b.Err)
			}
		}
		if next > 4001 {
			t.Error("the history that the watch needed was compacted, and it did not say so")
		}
	})
}

// Close lets nobody wait, paused or not, and nothing goes on after it.
func TestFaulty_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openMemory(t)
		f := faulty(t, m, engine.FaultConfig{DelayP: 1, Delay: time.Hour, Duplicate: 1, Timeout: 2 * time.Hour})
		w := f.Watch(t.Context(), engine.WatchRequest{Key: "a"})
		late := crowd(t.Context(), f, put("a"), put("b"))
		f.Pause()
		paused := crowd(t.Context(), f, put("c"))
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		for _, err := range late() {
			if !errors.Is(err, holdfast.ErrClosed) || holdfast.OutcomeOf(err) != holdfast.Unknown {
				t.Errorf("on its way: %v (%v)", err, holdfast.OutcomeOf(err))
			}
		}
		if err := paused()[0]; !errors.Is(err, holdfast.ErrClosed) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Errorf("not sent: %v (%v)", err, holdfast.OutcomeOf(err))
		}
		for range w {
			t.Error("the watch goes on")
		}
		<-time.NewTimer(3 * time.Hour).C
		if s, err := m.Status(t.Context()); err != nil || s.Revision != 1 {
			t.Errorf("something arrived after Close: %+v, %v", s, err)
		}
	})
}
