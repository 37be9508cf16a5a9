package lock_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev/engine"
	"holdfast.dev/lock"
)

// TestManager_SecondOfASession: a second manager of the same session waits like
// another process.
func TestManager_SecondOfASession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = m.Close() }()
		s, err := engine.OpenSession(t.Context(), m, engine.SessionConfig{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close(context.WithoutCancel(t.Context())) }()
		one, two := lock.New(s, lock.Config{}), lock.New(s, lock.Config{})
		defer one.Close()
		defer two.Close()
		first, err := one.Acquire(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		if second, err := two.Acquire(t.Context(), "x", lock.WaitAtMost(time.Second)); err == nil {
			t.Fatalf("two hold it: %v and %v", first.Token(), second.Token())
		}
		_ = time.AfterFunc(time.Second, func() { _ = first.Release(context.WithoutCancel(t.Context())) })
		second, err := two.Acquire(t.Context(), "x")
		if err != nil || second.Token() <= first.Token() {
			t.Fatal(second, err)
		}
	})
}
