package holdfast_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/drivertest"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/driver/holdfast"
	"holdfast.dev/lab/history"
)

// Short names for what every line needs.
var ok, fails, same, list = drivertest.OK, drivertest.Fails, drivertest.Same, drivertest.List

// world is a cluster that runs.
func world(t *testing.T, n int, options ...string) (*holdfast.System, *drivertest.Env) {
	t.Helper()
	env := drivertest.NewEnv(t, n, append(options, "binary="+binary(t))...)
	s := holdfast.New()
	if err := s.Setup(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	return s, env
}

func TestWorkloads(t *testing.T) {
	s, env := world(t, 3, "wait=1s")
	at := func(t *testing.T, node, workload string) driver.Client {
		t.Helper()
		return drivertest.Client(t, s, env, node, workload)
	}
	t.Run("kv", func(t *testing.T) {
		a, c := at(t, "n1", "kv"), at(t, "n3", "kv")
		same(t, ok(t, c, "read", "k", nil), nil)
		fails(t, c, "cas", "k", list(int64(1), int64(2)))
		ok(t, c, "cas", "k", list(nil, int64(2)))
		fails(t, c, "cas", "k", list(nil, int64(3)))
		ok(t, c, "cas", "k", list(int64(2), int64(3)))
		same(t, ok(t, a, "read", "k", nil), int64(3))
		ok(t, a, "write", "k", int64(4))
		same(t, ok(t, c, "read", "k", nil), int64(4))
		ok(t, c, "delete", "k", nil)
		same(t, ok(t, c, "read", "k", nil), nil)
		fails(t, c, "explode", "k", nil)
	})
	t.Run("set", func(t *testing.T) {
		c := at(t, "n1", "set")
		same(t, ok(t, c, "read", "", nil), list())
		ok(t, c, "add", "", int64(10))
		ok(t, c, "add", "", int64(2))
		same(t, ok(t, at(t, "n2", "set"), "read", "", nil), list(int64(10), int64(2)))
	})
	t.Run("counter", func(t *testing.T) {
		c := at(t, "n1", "counter")
		same(t, ok(t, c, "read", "", nil), int64(0))
		ok(t, c, "add", "", int64(2))
		ok(t, c, "add", "", int64(3))
		same(t, ok(t, c, "read", "", nil), int64(5))
	})
	t.Run("unique-ids", func(t *testing.T) {
		c := at(t, "n1", "unique-ids")
		if a, b := ok(t, c, "generate", "", nil), ok(t, c, "generate", "", nil); a == b {
			t.Errorf("%v twice", a)
		}
	})
	t.Run("append", func(t *testing.T) {
		c := at(t, "n1", "append")
		got := ok(t, c, "txn", "", list(list("append", "x", int64(1)), list("r", "x", nil), list("r", "y", nil)))
		same(t, got, list(list("append", "x", int64(1)), list("r", "x", list(int64(1))), list("r", "y", list())))
		ok(t, c, "txn", "", list(list("append", "x", int64(2)), list("append", "y", int64(3))))
		got = ok(t, at(t, "n3", "append"), "txn", "", list(list("r", "x", nil), list("r", "y", nil)))
		same(t, got, list(list("r", "x", list(int64(1), int64(2))), list("r", "y", list(int64(3)))))
	})
	t.Run("bank", func(t *testing.T) {
		c := at(t, "n1", "bank")
		ok(t, c, "init", "", map[string]any{"accounts": int64(3), "total": int64(100)})
		ok(t, c, "transfer", "", map[string]any{"from": "0", "to": "2", "amount": int64(30)})
		fails(t, c, "transfer", "", map[string]any{"from": "0", "to": "2", "amount": int64(30)})
		fails(t, c, "transfer", "", map[string]any{"from": "0", "to": "7", "amount": int64(1)})
		same(t, ok(t, c, "read", "", nil), map[string]any{"0": int64(4), "1": int64(33), "2": int64(63)})
	})
	t.Run("watch", func(t *testing.T) {
		w, c := at(t, "n2", "watch"), at(t, "n1", "watch")
		put := ok(t, c, "put", "a", int64(5)).(map[string]any)["rev"]
		del := ok(t, c, "delete", "a", nil).(map[string]any)["rev"]
		got := ok(t, w, "watch", "", map[string]any{"from": put, "for_ms": int64(300)})
		same(t, got, list(
			map[string]any{"rev": put, "key": "a", "type": "put", "value": int64(5)},
			map[string]any{"rev": del, "key": "a", "type": "delete", "value": nil}))
		same(t, ok(t, w, "watch", "", map[string]any{"from": int64(0), "for_ms": int64(100)}), list())
	})
	t.Run("idempotent", func(t *testing.T) {
		c := at(t, "n2", "idempotent")
		for _, id := range []int64{7, 7, 8} {
			ok(t, c, "apply", "", id)
		}
		same(t, ok(t, c, "effects", "", nil), list(int64(7), int64(8)))
	})
	t.Run("lock", func(t *testing.T) {
		a, b := at(t, "n1", "lock"), at(t, "n2", "lock")
		fails(t, a, "release", "l", nil)
		first := ok(t, a, "acquire", "l", nil).(int64)
		fails(t, a, "acquire", "l", nil)
		if why := fails(t, b, "acquire", "l", nil); !strings.Contains(why, "held by another") {
			t.Error(why)
		}
		ok(t, a, "release", "l", nil)
		if next := ok(t, b, "acquire", "l", nil).(int64); next <= first {
			t.Errorf("token %d after %d", next, first)
		}
		ok(t, b, "release", "l", nil)
	})
	t.Run("election", func(t *testing.T) {
		a, b := at(t, "n1", "election"), at(t, "n3", "election")
		same(t, ok(t, b, "observe", "e", nil), nil)
		token := ok(t, a, "campaign", "e", nil)
		same(t, ok(t, b, "observe", "e", nil), token)
		ok(t, a, "resign", "e", nil)
		same(t, ok(t, b, "observe", "e", nil), nil)
	})
	t.Run("unsupported", func(t *testing.T) {
		if _, err := s.Client(t.Context(), env, "n1", "queue"); !errors.Is(err, driver.ErrUnsupported) {
			t.Error(err)
		}
	})
}

// TestFaults kills the leader, restarts it, and pauses a majority.
func TestFaults(t *testing.T) {
	s, env := world(t, 3, "timeout=1s", "attempt=300ms", "resolve=true")
	first := drivertest.Primary(t, s, env)
	clients := map[string]driver.Client{}
	for _, n := range env.Nodes() {
		clients[n] = drivertest.Client(t, s, env, n, "register")
		ok(t, clients[n], "write", "x", int64(1))
	}

	env.Kill(first)
	op := drivertest.Invoke(t, clients[first], "write", "x", int64(2))
	if op.Type == history.OK {
		t.Fatal("the dead answer")
	}
	var second string
	drivertest.Until(t, "another leader", func() bool {
		second = drivertest.Primary(t, s, env)
		return second != first
	})
	drivertest.Until(t, "a write at the new leader", func() bool {
		return drivertest.Invoke(t, clients[second], "write", "x", int64(3)).Type == history.OK
	})
	if err := env.Restart(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	drivertest.Until(t, "the restarted node has caught up", func() bool {
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
	for _, n := range env.Nodes() {
		env.Resume(n)
	}
	drivertest.Until(t, "a write after the pause", func() bool {
		return drivertest.Invoke(t, clients[second], "write", "x", int64(5)).Type == history.OK
	})
}

// TestRestore sets the cluster back twice; tokens go on growing.
func TestRestore(t *testing.T) {
	s, env := world(t, 1)
	c := drivertest.Client(t, s, env, "n1", "lock")
	r := drivertest.Client(t, s, env, "n1", "register")
	ok(t, r, "write", "x", int64(1))
	if err := s.Act(t.Context(), env, "restore", nil); err == nil {
		t.Error("restored without a backup")
	}
	if err := s.Act(t.Context(), env, "backup", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.Act(t.Context(), env, "restore", nil); err == nil {
		t.Error("restored under a node that runs")
	}
	last := ok(t, c, "acquire", "l", nil).(int64)
	ok(t, c, "release", "l", nil)
	for range 2 {
		ok(t, r, "write", "x", int64(2))
		env.Kill("n1")
		if err := s.Act(t.Context(), env, "restore", nil); err != nil {
			t.Fatal(err)
		}
		if err := env.Restart(t.Context(), "n1"); err != nil {
			t.Fatal(err)
		}
		drivertest.Until(t, "the state of the backup", func() bool {
			op := drivertest.Invoke(t, r, "read", "x", nil)
			return op.Type == history.OK && op.Value == int64(1)
		})
		var next int64
		drivertest.Until(t, "a new session", func() bool {
			op := drivertest.Invoke(t, c, "acquire", "l", nil)
			if op.Type == history.OK {
				next = op.Value.(int64)
			}
			return op.Type == history.OK
		})
		if next <= last {
			t.Errorf("token %d after %d", next, last)
		}
		last = next
		ok(t, c, "release", "l", nil)
		drivertest.Until(t, "a write", func() bool { return drivertest.Invoke(t, r, "write", "x", int64(2)).Type == history.OK })
	}
}

func TestOptions_FaultsAreNamed(t *testing.T) {
	env := drivertest.NewEnv(t, 1, "election=soon", "mode=loose", "writes=once", "resolve=true")
	err := holdfast.New().Setup(t.Context(), env)
	for _, name := range []string{"election", "mode", "resolve"} {
		if err == nil || !strings.Contains(err.Error(), "option "+name+":") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestAudit kills and pauses whoever leads.
func TestAudit(t *testing.T) {
	for _, writes := range []string{"session", "once"} {
		t.Run(writes, func(t *testing.T) {
			s, env := world(t, 3, "heartbeat=20ms", "election=200ms", "timeout=600ms", "attempt=200ms", "writes="+writes)
			count := drivertest.Audit(t, s, env, func() {
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
				drivertest.For(300 * time.Millisecond)
			})
			t.Logf("%+v", count)
		})
	}
}
