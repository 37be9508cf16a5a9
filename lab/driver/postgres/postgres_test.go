package postgres_test

import (
	"errors"
	"os"
	"os/user"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/drivertest"
	"holdfast.dev/internal/pgtest"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/driver/postgres"
	"holdfast.dev/lab/history"
)

// Short names for what every line needs.
var ok, fails, same, list = drivertest.OK, drivertest.Fails, drivertest.Same, drivertest.List

// world is servers that run.
func world(t *testing.T, n int, options ...string) (*postgres.System, *drivertest.Env) {
	t.Helper()
	if !pgtest.Available() {
		t.Skip("missing server postgres: install postgresql (Debian: apt-get install postgresql)")
	}
	if os.Geteuid() != 0 { // then the servers are ours
		me, err := user.Current()
		if err != nil {
			t.Fatal(err)
		}
		options = append(options, "user="+me.Username)
	}
	env := drivertest.NewEnv(t, n, options...)
	s := postgres.New()
	if err := s.Setup(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	return s, env
}

func TestSingle(t *testing.T) {
	s, env := world(t, 1)
	at := func(t *testing.T, workload string) driver.Client {
		t.Helper()
		return drivertest.Client(t, s, env, "n1", workload)
	}
	t.Run("kv", func(t *testing.T) {
		c := at(t, "kv")
		same(t, ok(t, c, "read", "k", nil), nil)
		fails(t, c, "cas", "k", list(int64(1), int64(2)))
		ok(t, c, "cas", "k", list(nil, int64(2)))
		fails(t, c, "cas", "k", list(nil, int64(3)))
		ok(t, c, "cas", "k", list(int64(2), int64(3)))
		same(t, ok(t, c, "read", "k", nil), int64(3))
		ok(t, c, "write", "k", int64(4))
		same(t, ok(t, c, "read", "k", nil), int64(4))
		ok(t, c, "delete", "k", nil)
		same(t, ok(t, c, "read", "k", nil), nil)
		fails(t, c, "explode", "k", nil)
	})
	t.Run("set", func(t *testing.T) {
		c := at(t, "set")
		same(t, ok(t, c, "read", "", nil), list())
		ok(t, c, "add", "", int64(10))
		ok(t, c, "add", "", int64(2))
		same(t, ok(t, c, "read", "", nil), list(int64(2), int64(10)))
	})
	t.Run("counter", func(t *testing.T) {
		c := at(t, "counter")
		same(t, ok(t, c, "read", "", nil), int64(0))
		ok(t, c, "add", "", int64(2))
		ok(t, c, "add", "", int64(3))
		same(t, ok(t, c, "read", "", nil), int64(5))
	})
	t.Run("queue", func(t *testing.T) {
		c := at(t, "queue")
		same(t, ok(t, c, "dequeue", "", nil), nil)
		for _, v := range []int64{9, 10, 1} {
			ok(t, c, "enqueue", "", v)
		}
		same(t, ok(t, c, "dequeue", "", nil), int64(9))
		same(t, ok(t, c, "drain", "", nil), list(int64(10), int64(1)))
		same(t, ok(t, c, "drain", "", nil), list())
	})
	t.Run("unique-ids", func(t *testing.T) {
		c := at(t, "unique-ids")
		if a, b := ok(t, c, "generate", "", nil), ok(t, c, "generate", "", nil); a == b {
			t.Errorf("%v twice", a)
		}
	})
	t.Run("append", func(t *testing.T) {
		c := at(t, "append")
		got := ok(t, c, "txn", "", list(list("append", "x", int64(1)), list("r", "x", nil), list("r", "y", nil)))
		same(t, got, list(list("append", "x", int64(1)), list("r", "x", list(int64(1))), list("r", "y", list())))
		ok(t, c, "txn", "", list(list("append", "x", int64(2)), list("append", "y", int64(3))))
		got = ok(t, c, "txn", "", list(list("r", "x", nil), list("r", "y", nil)))
		same(t, got, list(list("r", "x", list(int64(1), int64(2))), list("r", "y", list(int64(3)))))
	})
	t.Run("bank", func(t *testing.T) {
		c := at(t, "bank")
		ok(t, c, "init", "", map[string]any{"accounts": int64(3), "total": int64(100)})
		ok(t, c, "transfer", "", map[string]any{"from": "0", "to": "2", "amount": int64(30)})
		fails(t, c, "transfer", "", map[string]any{"from": "0", "to": "2", "amount": int64(30)})
		fails(t, c, "transfer", "", map[string]any{"from": "0", "to": "7", "amount": int64(1)})
		same(t, ok(t, c, "read", "", nil), map[string]any{"0": int64(4), "1": int64(33), "2": int64(63)})
	})
	t.Run("idempotent", func(t *testing.T) {
		c := at(t, "idempotent")
		for _, id := range []int64{7, 7, 8} {
			ok(t, c, "apply", "", id)
		}
		same(t, ok(t, c, "effects", "", nil), list(int64(7), int64(8)))
	})
	t.Run("unsupported", func(t *testing.T) {
		if _, err := s.Client(t.Context(), env, "n1", "watch"); !errors.Is(err, driver.ErrUnsupported) {
			t.Error(err)
		}
	})

	c := at(t, "set")
	ok(t, c, "add", "crash", int64(1))
	env.Pause("n1")
	if op := drivertest.Invoke(t, c, "add", "crash", int64(2)); op.Type != history.Info {
		t.Errorf("at a server that is paused: %s %s", op.Type, op.Error)
	}
	env.Resume("n1")
	env.Kill("n1")
	drivertest.Until(t, "a refused connection", func() bool {
		op := drivertest.Invoke(t, c, "add", "crash", int64(3))
		return op.Type == history.Fail && strings.Contains(op.Error, "refused")
	})
	if err := env.Restart(t.Context(), "n1"); err != nil {
		t.Fatal(err)
	}
	if got := ok(t, c, "read", "crash", nil).([]any); len(got) == 0 || got[0] != int64(1) {
		t.Errorf("after a crash: %v", got)
	}
}

// TestFailover promotes a standby while the primary goes on: there are two of
// them, and what the old one takes from then on is lost.
func TestFailover(t *testing.T) {
	s, env := world(t, 2, "synchronous=true", "fsync=false")
	old, next := drivertest.Client(t, s, env, "n1", "register"), drivertest.Client(t, s, env, "n2", "register")
	same(t, drivertest.Primary(t, s, env), "n1")
	ok(t, old, "write", "x", int64(1))
	drivertest.Until(t, "the write on the standby", func() bool { return ok(t, next, "read", "x", nil) == int64(1) })
	if why := fails(t, next, "write", "x", int64(2)); !strings.Contains(why, "25006") {
		t.Error(why)
	}
	if err := s.Act(t.Context(), env, "promote", []string{"n3"}); err == nil {
		t.Error("promoted a server that is not there")
	}
	if err := s.Act(t.Context(), env, "promote", []string{"n2"}); err != nil {
		t.Fatal(err)
	}
	ok(t, next, "write", "x", int64(3))
	primaries, err := s.Primaries(t.Context(), env)
	if err != nil || len(primaries) != 2 {
		t.Errorf("primaries %v, %v", primaries, err)
	}
	finals, err := s.FinalNodes(t.Context(), env)
	if err != nil || len(finals) != 1 || finals[0] != "n2" {
		t.Errorf("finals %v, %v", finals, err)
	}
	// Its only standby is gone, and commits wait for one.
	if op := drivertest.Invoke(t, old, "write", "x", int64(4)); op.Type != history.Info {
		t.Errorf("without a standby: %s %s", op.Type, op.Error)
	}
}

// TestAudit kills and pauses the only server.
func TestAudit(t *testing.T) {
	s, env := world(t, 1, "timeout=200ms")
	count := drivertest.Audit(t, s, env, func() {
		for range 2 {
			drivertest.For(300 * time.Millisecond)
			env.Kill("n1")
			drivertest.For(100 * time.Millisecond)
			if err := env.Restart(t.Context(), "n1"); err != nil {
				t.Fatal(err)
			}
			drivertest.For(200 * time.Millisecond)
			env.Pause("n1")
			drivertest.For(300 * time.Millisecond)
			env.Resume("n1")
		}
	})
	t.Logf("%+v", count)
}
