package lock_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/lock"
)

// client is one simulated process.
type client struct {
	*lock.Manager
	session *engine.Session
}

// bubble runs f in a synctest bubble with an engine and a way to open clients
// on it; everything is closed afterwards.
func bubble(t *testing.T, f func(t *testing.T, e *engine.Memory, open func(engine.Engine) client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewMemory(engine.MemoryConfig{})
		var clients []client
		f(t, e, func(over engine.Engine) client {
			s, err := engine.OpenSession(t.Context(), over, engine.SessionConfig{})
			if err != nil {
				t.Fatal(err)
			}
			c := client{lock.New(s, lock.Config{}), s}
			clients = append(clients, c)
			return c
		})
		for _, c := range clients {
			c.Close()
			if err := c.session.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
}

func acquire(t *testing.T, c client, name string, opts ...lock.Option) *lock.Held {
	t.Helper()
	h, err := c.Acquire(t.Context(), name, opts...)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func release(t *testing.T, h *lock.Held) {
	t.Helper()
	if err := h.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestAcquire_TokensIncreaseAndRecordGoes(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		a, b := open(e), open(e)
		var last holdfast.Token
		for i := range 10 {
			c := []client{a, b}[i%2]
			h := acquire(t, c, "jobs/nightly")
			if h.Token() <= last {
				t.Fatalf("token %v after %v", h.Token(), last)
			}
			if h.Err() != nil || h.Context().Err() != nil {
				t.Fatal("not valid while held")
			}
			last = h.Token()
			release(t, h)
			if !errors.Is(h.Err(), holdfast.ErrClosed) {
				t.Fatalf("after release: %v", h.Err())
			}
		}
		info, err := a.Inspect(t.Context(), "jobs/nightly")
		if err != nil || info.Revision != 0 {
			t.Fatalf("a released lock left %+v, %v", info, err)
		}
	})
}

func TestAcquire_NoWaitAndWaitAtMost(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		a, b := open(e), open(e)
		h := acquire(t, a, "x")
		for _, c := range []client{a, b} {
			if _, err := c.Acquire(t.Context(), "x", lock.NoWait()); !errors.Is(err, holdfast.ErrBusy) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
				t.Fatalf("no wait: %v", err)
			}
			start := time.Now()
			if _, err := c.Acquire(t.Context(), "x", lock.WaitAtMost(3*time.Second)); !errors.Is(err, holdfast.ErrBusy) {
				t.Fatalf("wait at most: %v", err)
			}
			if d := time.Since(start); d != 3*time.Second {
				t.Fatalf("waited %v", d)
			}
		}
		release(t, h)
		release(t, acquire(t, b, "x", lock.NoWait()))
	})
}

func TestAcquire_FirstComeFirstServedAcrossProcesses(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		a := open(e)
		h := acquire(t, a, "x")
		var (
			mu    sync.Mutex
			order []int
			wg    sync.WaitGroup
		)
		for i := range 8 {
			c := open(e)
			wg.Go(func() {
				h, err := c.Acquire(t.Context(), "x")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				if err := h.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		info, err := a.Inspect(t.Context(), "x")
		if err != nil || len(info.Holders) != 1 || len(info.Waiters) != 8 || info.Holders[0].Token != h.Token() {
			t.Fatalf("inspect: %+v, %v", info, err)
		}
		release(t, h)
		wg.Wait()
		if !slices.IsSorted(order) {
			t.Errorf("order %v", order)
		}
	})
}

func TestAcquire_LocalHandoverIsBounded(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		a, b := open(e), open(e)
		h := acquire(t, a, "x")
		var (
			mu    sync.Mutex
			turns []string
			wg    sync.WaitGroup
		)
		want := func(c client, who string) {
			wg.Go(func() {
				h, err := c.Acquire(t.Context(), "x")
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				turns = append(turns, who)
				mu.Unlock()
				if err := h.Release(t.Context()); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		for range 40 {
			want(a, "a")
		}
		want(b, "b")
		release(t, h)
		wg.Wait()
		if i := slices.Index(turns, "b"); i != 16 {
			t.Errorf("b had its turn after %d of a's: %v", i, turns)
		}
		if len(turns) != 41 {
			t.Errorf("%d turns", len(turns))
		}
	})
}

func TestAcquire_SharedAndExclusive(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		a, b, c := open(e), open(e), open(e)
		r1, r2 := acquire(t, a, "x", lock.Shared()), acquire(t, b, "x", lock.Shared())
		r3 := acquire(t, a, "x", lock.Shared())
		writer := make(chan *lock.Held)
		go func() {
			h, err := c.Acquire(context.WithoutCancel(t.Context()), "x")
			if err != nil {
				t.Error(err)
			}
			writer <- h
		}()
		synctest.Wait()
		if _, err := b.Acquire(t.Context(), "x", lock.Shared(), lock.NoWait()); !errors.Is(err, holdfast.ErrBusy) {
			t.Errorf("a reader overtook a waiting writer: %v", err)
		}
		for _, h := range []*lock.Held{r1, r2, r3} {
			release(t, h)
		}
		w := <-writer
		if w.Token() <= r3.Token() {
			t.Error("writer's token is not above the readers'")
		}
		release(t, w)
	})
}

func TestAcquire_Permits(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		a, b := open(e), open(e)
		h1, h2 := acquire(t, a, "s", lock.Permits(2, 5)), acquire(t, b, "s", lock.Permits(3, 5))
		if _, err := b.Acquire(t.Context(), "s", lock.Permits(1, 5), lock.NoWait()); !errors.Is(err, holdfast.ErrBusy) {
			t.Errorf("sixth permit of five: %v", err)
		}
		if _, err := b.Acquire(t.Context(), "s", lock.Permits(1, 6)); !errors.Is(err, holdfast.ErrInvalid) {
			t.Errorf("another capacity: %v", err)
		}
		release(t, h1)
		release(t, acquire(t, b, "s", lock.Permits(1, 5), lock.NoWait()))
		release(t, h2)
		release(t, acquire(t, b, "s", lock.Permits(6, 6), lock.NoWait()))
	})
}

func TestAcquire_ReentryIsRefused(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		a := open(e)
		outer := acquire(t, a, "x")
		inner, err := a.Acquire(outer.Context(), "y")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Acquire(inner.Context(), "x"); !errors.Is(err, holdfast.ErrBusy) {
			t.Errorf("reentry: %v", err)
		}
		release(t, inner)
		release(t, outer)
	})
}

func TestAcquireAll_NoDeadlock(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		var wg sync.WaitGroup
		for i := range 4 {
			c := open(e)
			names := []string{"a", "b", "c", "a"}
			if i%2 == 1 {
				slices.Reverse(names)
			}
			wg.Go(func() {
				for range 20 {
					set, err := c.AcquireAll(t.Context(), names)
					if err != nil || len(set) != 3 {
						t.Errorf("%d locks, %v", len(set), err)
						return
					}
					if err := set.Release(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
	})
}

func TestAcquire_CancelledWaitLeavesNothing(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		a, b := open(e), open(e)
		h := acquire(t, a, "x")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() {
			_, err := b.Acquire(ctx, "x")
			done <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Errorf("cancelled: %v", err)
		}
		synctest.Wait()
		info, err := a.Inspect(t.Context(), "x")
		if err != nil || len(info.Waiters) != 0 {
			t.Errorf("still waiting: %+v, %v", info, err)
		}
		release(t, h)
	})
}

func TestAcquire_InvalidSaysEveryFault(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		_, err := open(e).Acquire(t.Context(), "", lock.Permits(3, 2), lock.Delay(-1))
		if !errors.Is(err, holdfast.ErrInvalid) {
			t.Fatal(err)
		}
		for _, want := range []string{"name", "3 of 2 permits", "delay"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
	})
}
