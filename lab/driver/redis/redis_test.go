package redis_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/drivertest"
	"holdfast.dev/internal/labtest"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/driver/redis"
	"holdfast.dev/lab/history"
)

// Short names for what every line needs.
var ok, fails, same, list = drivertest.OK, drivertest.Fails, drivertest.Same, drivertest.List

// world is servers that run.
func world(t *testing.T, n int, options ...string) (*redis.System, *drivertest.Env) {
	t.Helper()
	labtest.Server(t, "redis-server", "redis-server")
	env := drivertest.NewEnv(t, n, options...)
	s := redis.New()
	if err := s.Setup(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	return s, env
}

// TestSetup_Blanks: directories have any name.
func TestSetup_Blanks(t *testing.T) {
	parent := filepath.Join(t.TempDir(), `a "b" c`)
	if err := os.Mkdir(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("TMPDIR", parent)
	s, env := world(t, 1)
	ok(t, drivertest.Client(t, s, env, "n1", "register"), "write", "k", int64(1))
}

func TestWorkloads(t *testing.T) {
	s, env := world(t, 1, "ttl=300ms", "wait=2s")
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
	t.Run("lock", func(t *testing.T) {
		a, b := at(t, "lock"), at(t, "lock")
		fails(t, a, "release", "l", nil)
		same(t, ok(t, a, "acquire", "l", nil), nil)
		fails(t, a, "acquire", "l", nil)
		ok(t, b, "acquire", "l", nil) // after the time to live: there are two holders now
		if why := fails(t, a, "release", "l", nil); !strings.Contains(why, "lost") {
			t.Error(why)
		}
		ok(t, b, "release", "l", nil)
	})
	t.Run("unsupported", func(t *testing.T) {
		if _, err := s.Client(t.Context(), env, "n1", "election"); !errors.Is(err, driver.ErrUnsupported) {
			t.Error(err)
		}
	})
}

// TestDurability: what is written with appendfsync=always is there after a
// restart; without a log nothing is.
func TestDurability(t *testing.T) {
	for option, want := range map[string][]any{"appendfsync=always": list(int64(1)), "appendfsync=off": list()} {
		t.Run(option, func(t *testing.T) {
			s, env := world(t, 1, option)
			c := drivertest.Client(t, s, env, "n1", "set")
			ok(t, c, "add", "", int64(1))
			env.Kill("n1")
			drivertest.Until(t, "a refused connection", func() bool { return drivertest.Invoke(t, c, "add", "", int64(2)).Type == history.Fail })
			if err := env.Restart(t.Context(), "n1"); err != nil {
				t.Fatal(err)
			}
			same(t, ok(t, c, "read", "", nil), want)
		})
	}
}

// TestSentinel lets the Sentinels replace a master that was paused.
func TestSentinel(t *testing.T) {
	s, env := world(t, 3, "down-after=500ms", "failover-timeout=1s", "timeout=300ms")
	clients := map[string]driver.Client{}
	for _, n := range env.Nodes() {
		clients[n] = drivertest.Client(t, s, env, n, "set")
	}
	same(t, drivertest.Primary(t, s, env), "n1")
	ok(t, clients["n1"], "add", "", int64(1))
	if why := fails(t, clients["n2"], "add", "", int64(2)); !strings.HasPrefix(why, "READONLY") {
		t.Error(why)
	}
	env.Pause("n1")
	if op := drivertest.Invoke(t, clients["n1"], "add", "", int64(3)); op.Type != history.Info {
		t.Errorf("at a server that is paused: %s %s", op.Type, op.Error)
	}
	var next string
	drivertest.Until(t, "another master", func() bool {
		finals, err := s.FinalNodes(t.Context(), env)
		if err != nil || finals[0] == "n1" {
			return false
		}
		next = finals[0]
		return true
	})
	drivertest.Until(t, "writes at the new master", func() bool {
		return drivertest.Invoke(t, clients[next], "add", "", int64(4)).Type == history.OK
	})
	env.Resume("n1") // and until a Sentinel tells it, there are two
	primaries, err := s.Primaries(t.Context(), env)
	if err != nil || !slices.Contains(primaries, next) {
		t.Errorf("primaries %v, %v: %s is missing", primaries, err, next)
	}
}

func TestMinReplicas(t *testing.T) {
	s, env := world(t, 2, "mode=replicated", "min-replicas=1", "max-lag=1")
	c := drivertest.Client(t, s, env, "n1", "register")
	drivertest.Until(t, "a replica that lags no more", func() bool { return drivertest.Invoke(t, c, "write", "x", int64(1)).Type == history.OK })
	env.Kill("n2")
	drivertest.Until(t, "a refusal", func() bool {
		op := drivertest.Invoke(t, c, "write", "x", int64(2))
		return op.Type == history.Fail && strings.HasPrefix(op.Error, "NOREPLICAS")
	})
	finals, err := s.FinalNodes(t.Context(), env)
	if err != nil || len(finals) != 1 || finals[0] != "n1" {
		t.Errorf("%v, %v", finals, err)
	}
}

// TestAudit kills and pauses the only server.
func TestAudit(t *testing.T) {
	s, env := world(t, 1, "timeout=200ms", "appendfsync=always")
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
