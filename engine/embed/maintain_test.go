package embed

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// eventually calls f until it says true or the test takes too long.
func eventually(tb testing.TB, what string, f func() bool) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	for !f() {
		if !pause(ctx, 20*time.Millisecond) {
			tb.Fatalf("never: %s", what)
		}
	}
}

// maintain runs a node's maintenance until the test ends.
func maintain(t *testing.T, n *Node, cfg MaintainConfig) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- n.Maintain(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("maintain: %v", err)
		}
	})
}

// fill overwrites one key until the store is full.
func fill(t *testing.T, n *Node) {
	t.Helper()
	big := make([]byte, 64<<10)
	for {
		_, err := n.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Put("kv/big", big)}})
		if err == nil {
			continue
		}
		if !errors.Is(err, holdfast.ErrExhausted) || holdfast.OutcomeOf(err) != holdfast.Unknown {
			t.Fatalf("got %v, %v", err, holdfast.OutcomeOf(err))
		}
		return
	}
}

func TestRecoverFromNoSpace(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.Quota = 4 << 20
	n := start(t, cfg)
	put(t, n, "kv/a")
	fill(t, n)
	eventually(t, "the alarm", func() bool {
		st, err := n.Status(t.Context())
		return err == nil && len(st.Alarms) == 1 && st.Alarms[0] == "NOSPACE" && st.Quota == cfg.Quota
	})
	// Deletions still work: locks can be released.
	if _, err := n.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Delete("kv/a")}}); err != nil {
		t.Fatalf("delete: %v", err)
	}
	states := make(chan QuotaState, 10)
	maintain(t, n, MaintainConfig{Every: 20 * time.Millisecond, OnQuota: func(q QuotaState) { states <- q }})
	eventually(t, "a write", func() bool {
		_, err := n.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Put("kv/b", nil)}})
		return err == nil
	})
	if q := <-states; !q.Alert || q.Size < q.Quota/2 {
		t.Errorf("first told %+v", q)
	}
	if q := <-states; q.Alert || q.Size > q.Quota/2 {
		t.Errorf("then told %+v", q)
	}
	if len(n.Alarms()) > 0 {
		t.Errorf("alarms %v", n.Alarms())
	}
}

// TestFullStaysFull fills a store with what nobody may throw away.
func TestFullStaysFull(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.Quota = 2 << 20
	n := start(t, cfg)
	big := make([]byte, 64<<10)
	for i := 0; ; i++ {
		if _, err := n.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Put(fmt.Sprint("kv/", i), big)}}); err != nil {
			break
		}
	}
	eventually(t, "the alarm", func() bool { return len(n.Alarms()) > 0 })
	m := &maintainer{n: n, cfg: MaintainConfig{}.withDefaults(n)}
	if err := m.look(t.Context()); !errors.Is(err, holdfast.ErrExhausted) {
		t.Fatalf("got %v", err)
	}
	if len(n.Alarms()) == 0 {
		t.Fatal("disarmed although it is full")
	}
	if _, err := n.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.DeleteRange("kv/", "kv0")}}); err != nil {
		t.Fatal(err)
	}
	if err := m.look(t.Context()); err != nil || len(n.Alarms()) > 0 {
		t.Fatalf("after deletions %v, %v", err, n.Alarms())
	}
}

func TestDefragmentWhenHalfEmpty(t *testing.T) {
	t.Parallel()
	n := start(t, quick(t))
	big := make([]byte, 64<<10)
	var last int64
	for range 100 {
		res, err := n.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Put("kv/big", big)}})
		if err != nil {
			t.Fatal(err)
		}
		last = res.Revision
	}
	if err := n.compactFully(t.Context(), last); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		st, err := n.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.DBSize
	}
	before := size()

	// Another member is at it: wait.
	if _, err := n.Grant(t.Context(), 5, time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.PutLeased(defragKey, nil, 5)}}); err != nil {
		t.Fatal(err)
	}
	m := &maintainer{n: n, cfg: MaintainConfig{DefragFloor: 1 << 20}.withDefaults(n)}
	eventually(t, "free pages", func() bool {
		// What a batch freed counts as free only after the next batch.
		if _, err := n.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Put("kv/small", nil)}}); err != nil {
			return false
		}
		st, err := n.Status(t.Context())
		return err == nil && st.DBInUse < st.DBSize/2
	})
	if err := m.look(t.Context()); err != nil || size() < before {
		t.Fatalf("defragmented while another does: %v", err)
	}
	if err := n.Revoke(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	if err := m.look(t.Context()); err != nil || size() > before/2 {
		t.Fatalf("size %d of %d, %v", size(), before, err)
	}
	if got := get(t, n, defragKey); got != "-" {
		t.Errorf("the key is still held by %q", got)
	}
}

func TestMaintainRefuses(t *testing.T) {
	t.Parallel()
	n := start(t, quick(t))
	err := n.Maintain(t.Context(), MaintainConfig{Every: -1, AlertAt: 2, DefragFloor: -1})
	if !errors.Is(err, holdfast.ErrInvalid) {
		t.Fatalf("got %v", err)
	}
}
