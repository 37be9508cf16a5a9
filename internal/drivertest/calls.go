package drivertest

import (
	"context"
	"reflect"
	"testing"
	"time"

	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/history"
)

// patience is how long a test waits for anything.
const patience = 20 * time.Second

// Client makes a client that is closed when the test ends.
func Client(t *testing.T, s driver.System, env driver.Env, node, workload string) driver.Client {
	t.Helper()
	c, err := s.Client(t.Context(), env, node, workload)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Invoke makes a call.
func Invoke(t *testing.T, c driver.Client, f, key string, value any) history.Op {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	return c.Invoke(ctx, history.Op{Type: history.Invoke, F: f, Key: key, Value: value})
}

// OK makes a call that must succeed, and returns its value.
func OK(t *testing.T, c driver.Client, f, key string, value any) any {
	t.Helper()
	op := Invoke(t, c, f, key, value)
	if op.Type != history.OK {
		t.Fatalf("%s %v: %s: %s", f, value, op.Type, op.Error)
	}
	return op.Value
}

// Fails makes a call that must certainly not happen, and returns why.
func Fails(t *testing.T, c driver.Client, f, key string, value any) string {
	t.Helper()
	op := Invoke(t, c, f, key, value)
	if op.Type != history.Fail || op.Error == "" {
		t.Fatalf("%s %v: %s: %q %v", f, value, op.Type, op.Error, op.Value)
	}
	return op.Error
}

// Same compares two values of operations.
func Same(t *testing.T, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("got %#v\nwant %#v", got, want)
	}
}

// List is a list as operations have it.
func List(v ...any) []any { return append([]any{}, v...) }

// Until waits for f to become true.
func Until(t *testing.T, what string, f func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// Primary waits until exactly one server takes itself for the leader.
func Primary(t *testing.T, s driver.Primaries, env driver.Env) string {
	t.Helper()
	var one string
	Until(t, "one primary", func() bool {
		p, err := s.Primaries(t.Context(), env)
		if err != nil || len(p) != 1 {
			return false
		}
		one = p[0]
		return true
	})
	return one
}
