package etcd_test

import (
	"errors"
	"strings"
	"testing"

	"holdfast.dev/internal/drivertest"
	"holdfast.dev/internal/labtest"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/driver/etcd"
	"holdfast.dev/lab/history"
)

// world is a cluster that runs.
func world(t *testing.T, n int, options ...string) (*etcd.System, *drivertest.Env) {
	t.Helper()
	labtest.Server(t, "etcd", "etcd-server")
	env := drivertest.NewEnv(t, n, options...)
	s := etcd.New()
	if err := s.Setup(t.Context(), env); err != nil {
		t.Fatal(err)
	}
	return s, env
}

// Short names for what every line needs.
var ok, fails, same, list = drivertest.OK, drivertest.Fails, drivertest.Same, drivertest.List

func TestWorkloads(t *testing.T) {
	s, env := world(t, 3)
	at := func(t *testing.T, node, workload string) driver.Client {
		t.Helper()
		return drivertest.Client(t, s, env, node, workload)
	}
	t.Run("register", func(t *testing.T) {
		a, b := at(t, "n1", "register"), at(t, "n2", "register")
		same(t, ok(t, a, "read", "x", nil), nil)
		ok(t, a, "write", "x", int64(7))
		same(t, ok(t, b, "read", "x", nil), int64(7))
	})
	t.Run("kv", func(t *testing.T) {
		c := at(t, "n3", "kv")
		fails(t, c, "cas", "k", list(int64(1), int64(2)))
		ok(t, c, "cas", "k", list(nil, int64(2)))
		fails(t, c, "cas", "k", list(nil, int64(3)))
		ok(t, c, "cas", "k", list(int64(2), int64(3)))
		same(t, ok(t, c, "read", "k", nil), int64(3))
		ok(t, c, "delete", "k", nil)
		same(t, ok(t, c, "read", "k", nil), nil)
		fails(t, c, "cas", "k", "nonsense")
		fails(t, c, "explode", "k", nil)
	})
	t.Run("set", func(t *testing.T) {
		c := at(t, "n1", "set")
		same(t, ok(t, c, "read", "", nil), list())
		ok(t, c, "add", "", int64(2))
		ok(t, c, "add", "", int64(10))
		same(t, ok(t, at(t, "n2", "set"), "read", "", nil), list(int64(2), int64(10)))
	})
	t.Run("counter", func(t *testing.T) {
		c := at(t, "n1", "counter")
		same(t, ok(t, c, "read", "", nil), int64(0))
		ok(t, c, "add", "", int64(2))
		ok(t, c, "add", "", int64(3))
		same(t, ok(t, c, "read", "", nil), int64(5))
	})
	t.Run("queue", func(t *testing.T) {
		c := at(t, "n2", "queue")
		same(t, ok(t, c, "dequeue", "", nil), nil)
		for _, v := range []int64{9, 10, 1} {
			ok(t, c, "enqueue", "", v)
		}
		same(t, ok(t, c, "dequeue", "", nil), int64(9))
		same(t, ok(t, c, "drain", "", nil), list(int64(10), int64(1)))
		same(t, ok(t, c, "drain", "", nil), list())
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
		got := ok(t, w, "watch", "", map[string]any{"from": put, "for_ms": int64(200)})
		same(t, got, list(
			map[string]any{"rev": put, "key": "a", "type": "put", "value": int64(5)},
			map[string]any{"rev": del, "key": "a", "type": "delete", "value": nil}))
		same(t, ok(t, w, "watch", "", map[string]any{"from": int64(0), "for_ms": int64(50)}), list())
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
		waits := make(chan history.Op, 1)
		go func() { waits <- b.Invoke(t.Context(), history.Op{F: "acquire", Key: "l"}) }()
		ok(t, a, "release", "l", nil)
		if op := <-waits; op.Type != history.OK || op.Value.(int64) <= first {
			t.Fatalf("after %d: %+v", first, op)
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
		if _, err := s.Client(t.Context(), env, "n1", "commit"); !errors.Is(err, driver.ErrUnsupported) {
			t.Error(err)
		}
	})
}

func TestOptions_FaultsAreNamed(t *testing.T) {
	env := drivertest.NewEnv(t, 1, "election=soon", "reads=dirty", "snapshot-count=0")
	err := etcd.New().Setup(t.Context(), env)
	for _, name := range []string{"election", "reads", "snapshot-count"} {
		if err == nil || !strings.Contains(err.Error(), "option "+name+":") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
