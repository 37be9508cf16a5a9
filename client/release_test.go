package client_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/lock"
)

// TestRelease_GoesOnWithoutItsCaller: a release whose context ends is done all
// the same, while the session lives.
func TestRelease_GoesOnWithoutItsCaller(t *testing.T) {
	n := node(t, memory(t), "a")
	c := dial(t, n.URL())
	s, other := session(t, c), session(t, c)
	held, err := s.Acquire(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	leads, err := s.Campaign(t.Context(), "x", nil)
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for _, err := range []error{held.Release(ended), leads.Resign(ended)} {
		if err != nil && holdfast.OutcomeOf(err) != holdfast.Unknown {
			t.Errorf("%v: %v", err, holdfast.OutcomeOf(err))
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	if _, err := other.Acquire(ctx, "x"); err != nil {
		t.Error(err)
	}
	if _, err := other.Campaign(ctx, "x", nil); err != nil {
		t.Error(err)
	}
}

// TestAcquireAll_EndsWithoutNodes: it does not wait for nodes that are gone to
// take back what it has.
func TestAcquireAll_EndsWithoutNodes(t *testing.T) {
	n := node(t, memory(t), "a")
	r := newRelay(t, n.URL())
	s, other := session(t, dial(t, r.url)), session(t, dial(t, n.URL()))
	if _, err := other.Acquire(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		set, err := s.AcquireAll(ctx, []string{"a", "b"}, lock.Note("all"))
		_ = set
		done <- err
	}()
	until(t, func() bool {
		info, err := other.Client().Inspect(t.Context(), "b")
		return err == nil && len(info.Waiters) == 1
	})
	close(r.silent)
	select {
	case err := <-done:
		if err == nil || errors.Is(err, holdfast.ErrInvalid) {
			t.Error(err)
		}
	case <-time.NewTimer(5 * time.Second).C:
		t.Fatal("still waiting")
	}
}
