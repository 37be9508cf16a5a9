package lock_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/lock"
)

func TestHeld_LostWhenSessionExpires(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		net := engine.Faulty(e, engine.FaultConfig{Seed: 1})
		defer func() { _ = net.Close() }()
		a, b := open(net), open(e)
		h := acquire(t, a, "x")
		net.Cut(true)
		cut := time.Now()
		next := acquire(t, b, "x")
		if d := time.Since(cut); d > 11*time.Second {
			t.Errorf("taken over after %v", d)
		}
		select {
		case <-h.Lost():
		default:
			t.Error("the old holder still believes")
		}
		if err := h.Release(t.Context()); !errors.Is(err, holdfast.ErrLost) {
			t.Errorf("release of a lost lock: %v", err)
		}
		if next.Token() <= h.Token() {
			t.Errorf("token %v after %v", next.Token(), h.Token())
		}
		net.Cut(false)
		release(t, next)
	})
}

func TestAcquire_WaitEndsWithSession(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		net := engine.Faulty(e, engine.FaultConfig{Seed: 1})
		defer func() { _ = net.Close() }()
		a, b := open(e), open(net)
		h := acquire(t, a, "x")
		done := make(chan error)
		go func() {
			_, err := b.Acquire(context.WithoutCancel(t.Context()), "x")
			done <- err
		}()
		synctest.Wait()
		net.Cut(true)
		if err := <-done; !errors.Is(err, holdfast.ErrLost) {
			t.Errorf("wait of a lost session: %v", err)
		}
		net.Cut(false)
		release(t, h)
	})
}

func TestAcquire_Delay(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		net := engine.Faulty(e, engine.FaultConfig{Seed: 1})
		defer func() { _ = net.Close() }()
		a, b := open(net), open(e)
		acquire(t, a, "x", lock.Delay(30*time.Second))
		cut := time.Now()
		net.Cut(true)
		h := acquire(t, b, "x")
		if d := time.Since(cut); d < 36*time.Second || d > 45*time.Second {
			t.Errorf("granted after %v: want the rest of the TTL and 30 s", d)
		}
		release(t, h)
		release(t, acquire(t, b, "x", lock.NoWait(), lock.Delay(time.Minute)))
		release(t, acquire(t, b, "x", lock.NoWait()))
		net.Cut(false)
	})
}

func TestAcquireFor_SurvivesTheProcessThatAsked(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, open func(engine.Engine) client) {
		net := engine.Faulty(e, engine.FaultConfig{Seed: 1})
		defer func() { _ = net.Close() }()
		a, b := open(net), open(e)
		remote, err := engine.StartLifeline(t.Context(), engine.Leases(e), engine.SessionConfig{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = remote.Close(t.Context()) }()
		o := lock.Owner{Session: remote.ID(), Request: "r1"}
		first, err := a.AcquireFor(t.Context(), o, "x", lock.NewRequest())
		if err != nil {
			t.Fatal(err)
		}
		net.Cut(true)
		<-a.session.Done()
		again, err := b.AcquireFor(t.Context(), o, "x", lock.NewRequest())
		if err != nil || again.Token != first.Token {
			t.Fatalf("asked again: %+v, %v; want %+v", again, err, first)
		}
		if err := b.ReleaseFor(t.Context(), o, "x"); err != nil {
			t.Fatal(err)
		}
		release(t, acquire(t, b, "x", lock.NoWait()))
		net.Cut(false)
	})
}
