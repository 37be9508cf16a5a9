package etcd_test

import (
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/drivertest"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/history"
)

// TestFaults kills the leader, restarts it, and pauses a majority.
func TestFaults(t *testing.T) {
	s, env := world(t, 3, "heartbeat=50ms", "election=500ms", "timeout=500ms", "fsync=false")
	first := drivertest.Primary(t, s, env)
	clients := map[string]driver.Client{}
	for _, n := range env.Nodes() {
		clients[n] = drivertest.Client(t, s, env, n, "register")
	}
	drivertest.Until(t, "a write at the leader", func() bool {
		return drivertest.Invoke(t, clients[first], "write", "x", int64(1)).Type == history.OK
	})

	env.Kill(first)
	drivertest.Until(t, "the connection notices", func() bool { // the connection has to notice
		op := drivertest.Invoke(t, clients[first], "write", "x", int64(2))
		if op.Type == history.OK {
			t.Fatal("the dead answer")
		}
		return op.Type == history.Fail
	})
	second := drivertest.Primary(t, s, env)
	if second == first {
		t.Fatalf("%s leads and is dead", first)
	}
	drivertest.Until(t, "a write at the new leader", func() bool { return drivertest.Invoke(t, clients[second], "write", "x", int64(3)).Type == history.OK })

	if err := env.Restart(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	drivertest.Until(t, "the restarted member has caught up", func() bool {
		op := drivertest.Invoke(t, clients[first], "read", "x", nil)
		return op.Type == history.OK && op.Value == int64(3)
	})

	second = drivertest.Primary(t, s, env)
	for _, n := range env.Nodes() {
		if n != second {
			env.Pause(n)
		}
	}
	if op := drivertest.Invoke(t, clients[second], "write", "x", int64(4)); op.Type == history.OK {
		t.Error("a write without a majority")
	}
	drivertest.Until(t, "the leader without a majority refuses", func() bool { // it steps down, and then refuses before it proposes
		op := drivertest.Invoke(t, clients[second], "write", "x", int64(5))
		return op.Type == history.Fail && strings.Contains(op.Error, "no leader")
	})
	for _, n := range env.Nodes() {
		env.Resume(n)
	}
	drivertest.Until(t, "reads again", func() bool { return drivertest.Invoke(t, clients[second], "read", "x", nil).Type == history.OK })
}

// TestLock_OfADeadHolder: who gives up waiting leaves the queue, and what a
// holder leaves behind goes to the next one, with a higher token.
func TestLock_OfADeadHolder(t *testing.T) {
	s, env := world(t, 1, "ttl=1s", "heartbeat=20ms", "election=200ms", "wait=300ms")
	a, b := drivertest.Client(t, s, env, "n1", "lock"), drivertest.Client(t, s, env, "n1", "lock")
	first := ok(t, a, "acquire", "l", nil).(int64)
	fails(t, b, "acquire", "l", nil) // after wait, and it leaves the queue
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if next := ok(t, b, "acquire", "l", nil).(int64); next <= first {
		t.Errorf("token %d after %d", next, first)
	}
	env.Pause("n1")
	op := drivertest.Invoke(t, b, "release", "l", nil)
	if op.Type != history.Info {
		t.Errorf("release at a server that is paused: %s %s", op.Type, op.Error)
	}
	env.Resume("n1")
}

// TestAudit kills and pauses whoever leads.
func TestAudit(t *testing.T) {
	s, env := world(t, 3, "heartbeat=20ms", "election=200ms", "timeout=300ms")
	count := drivertest.Audit(t, s, env, func() {
		for range 2 {
			drivertest.For(300 * time.Millisecond)
			victim := drivertest.Primary(t, s, env)
			env.Kill(victim)
			drivertest.For(500 * time.Millisecond)
			if err := env.Restart(t.Context(), victim); err != nil {
				t.Fatal(err)
			}
			victim = drivertest.Primary(t, s, env)
			env.Pause(victim)
			drivertest.For(500 * time.Millisecond)
			env.Resume(victim)
		}
	})
	t.Logf("%+v", count)
}
