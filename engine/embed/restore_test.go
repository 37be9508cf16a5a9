package embed

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// put writes keys, each with its own name as value, and returns the revision.
func put(tb testing.TB, e engine.Engine, keys ...string) int64 {
	tb.Helper()
	var t engine.Txn
	for _, k := range keys {
		t.Then = append(t.Then, engine.Put(k, []byte(k)))
	}
	res, err := e.Txn(tb.Context(), t)
	if err != nil {
		tb.Fatalf("put: %v", err)
	}
	return res.Revision
}

// get is the value of a key, or "-".
func get(tb testing.TB, e engine.Engine, key string) string {
	tb.Helper()
	res, err := e.Range(tb.Context(), engine.RangeRequest{Key: key})
	if err != nil {
		tb.Fatalf("get %s: %v", key, err)
	}
	if len(res.KVs) == 0 {
		return "-"
	}
	return string(res.KVs[0].Value)
}

// backup writes a snapshot of n to a file.
func backup(tb testing.TB, n *Node) string {
	tb.Helper()
	var b bytes.Buffer
	info, err := n.Snapshot(tb.Context(), &b)
	if err != nil {
		tb.Fatalf("snapshot: %v", err)
	}
	if info.Bytes != int64(b.Len()) {
		tb.Fatalf("%d bytes are said to be %d", b.Len(), info.Bytes)
	}
	file := filepath.Join(tb.TempDir(), "backup")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		tb.Fatal(err)
	}
	return file
}

// openSession makes what a session leaves in a store.
func openSession(tb testing.TB, e engine.Engine, id engine.LeaseID) {
	tb.Helper()
	ctx := tb.Context()
	if _, err := e.Grant(ctx, id, time.Minute); err != nil {
		tb.Fatalf("grant: %v", err)
	}
	if _, err := e.Txn(ctx, engine.Txn{Then: []engine.Op{
		engine.PutLeased("session/1", nil, id), engine.PutLeased("dedup/1/00", nil, id), engine.PutLeased("kv/leased", nil, id),
		engine.Put("lock/r/a", nil), engine.Put("election/r/a", nil), engine.Put("kv/kept", []byte("kept")), engine.Put("fence/x", []byte("9")),
	}}); err != nil {
		tb.Fatalf("open: %v", err)
	}
}

// wantFresh fails unless the store was restored and finished.
func wantFresh(tb testing.TB, e engine.Engine, lease engine.LeaseID, epoch string, above int64) {
	tb.Helper()
	for key, want := range map[string]string{
		"epoch": epoch, "session/1": "-", "dedup/1/00": "-", "kv/leased": "-", "lock/r/a": "-", "election/r/a": "-",
		"kv/kept": "kept", "fence/x": "9", "kv/late": "-",
	} {
		if got := get(tb, e, key); got != want {
			tb.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if _, err := e.Renew(tb.Context(), lease); !errors.Is(err, holdfast.ErrNotFound) {
		tb.Errorf("an old lease is renewed: %v", err)
	}
	if rev := put(tb, e, "kv/new"); rev <= above {
		tb.Errorf("revision %d, there was %d before", rev, above)
	}
}

func TestRestore(t *testing.T) {
	t.Parallel()
	const lease = 77
	n := start(t, quick(t))
	openSession(t, n, lease)
	file := backup(t, n)
	var last int64
	for range 50 {
		last = put(t, n, "kv/late")
	}
	old, err := n.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg := quick(t)
	restored, err := Restore(t.Context(), RestoreConfig{Snapshot: file, Dir: cfg.Dir, Logger: cfg.Logger})
	if err != nil {
		t.Fatalf("restore: %v", err)
	}
	if restored.Token == "" || restored.Revision >= last || restored.Keys == 0 {
		t.Errorf("restored %+v", restored)
	}
	r := start(t, cfg)
	wantFresh(t, r, lease, "2", last)
	if st, err := r.Status(t.Context()); err != nil || st.ClusterID == old.ClusterID {
		t.Errorf("the cluster's id is the old one: %+v, %v", st, err)
	}

	// A watch that goes on from before must be told that it lost the thread.
	for b := range r.Watch(t.Context(), engine.WatchRequest{Key: "kv/", End: "kv0", Revision: last + 1}) {
		if !errors.Is(b.Err, holdfast.ErrCompacted) {
			t.Errorf("the old watch goes on: %+v", b)
		}
	}

	// What sessions do from now on survives the next starts.
	openSession(t, r, lease+1)
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	r = start(t, cfg)
	for key, want := range map[string]string{"epoch": "2", "session/1": ""} {
		if got := get(t, r, key); got != want {
			t.Errorf("after another start %s is %q, want %q", key, got, want)
		}
	}

	// A restore of what was restored raises the epoch again.
	cfg2 := quick(t)
	if _, err := Restore(t.Context(), RestoreConfig{Snapshot: backup(t, r), Dir: cfg2.Dir, Token: restored.Token, Logger: cfg.Logger}); err != nil {
		t.Fatalf("restore again: %v", err)
	}
	if got := get(t, start(t, cfg2), "epoch"); got != "3" {
		t.Errorf("epoch %s after the second restore, want 3", got)
	}

	// The first snapshot once more: the epoch must be given.
	cfg3 := quick(t)
	if _, err := Restore(t.Context(), RestoreConfig{Snapshot: file, Dir: cfg3.Dir, MinEpoch: 4, Logger: cfg.Logger}); err != nil {
		t.Fatalf("restore again: %v", err)
	}
	wantFresh(t, start(t, cfg3), lease, "4", last)
}

func TestRestoreCluster(t *testing.T) {
	t.Parallel()
	const lease = 77
	n := start(t, quick(t))
	put(t, n, "kv/x")
	openSession(t, n, lease)
	if _, err := n.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Put("epoch", []byte("41"))}}); err != nil {
		t.Fatal(err)
	}
	file := backup(t, n)
	last := put(t, n, "kv/late")

	c := &trio{nodes: make([]*Node, 3)}
	initial := ""
	for i, name := range []string{"n0", "n1", "n2"} {
		cfg := quick(t)
		cfg.Name, cfg.ListenPeer = name, freeURL(t)
		c.cfgs = append(c.cfgs, cfg)
		if i > 0 {
			initial += ","
		}
		initial += name + "=" + cfg.ListenPeer
	}
	for i := range c.cfgs {
		c.cfgs[i].InitialCluster = initial
		if _, err := Restore(t.Context(), RestoreConfig{
			Snapshot: file, Dir: c.cfgs[i].Dir, Name: c.cfgs[i].Name, AdvertisePeer: c.cfgs[i].ListenPeer,
			InitialCluster: initial, Token: "again", Logger: c.cfgs[i].Logger,
		}); err != nil {
			t.Fatalf("restore: %v", err)
		}
	}
	c.start(t, 0, 1, 2)
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, n := range c.nodes {
			wg.Go(func() {
				if err := n.Kill(); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
	for i, n := range c.nodes {
		wantFresh(t, n, lease, "42", last+int64(i))
	}
}

func TestRestoreRefuses(t *testing.T) {
	t.Parallel()
	n := start(t, quick(t))
	put(t, n, "a")
	file := backup(t, n)
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	whole[len(whole)/2] ^= 1
	damaged := filepath.Join(t.TempDir(), "damaged")
	if err := os.WriteFile(damaged, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	used := t.TempDir()
	if err := os.WriteFile(filepath.Join(used, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, cfg := range map[string]RestoreConfig{
		"damaged":  {Snapshot: damaged, Dir: filepath.Join(t.TempDir(), "d")},
		"missing":  {Snapshot: damaged + "?", Dir: filepath.Join(t.TempDir(), "d")},
		"used":     {Snapshot: file, Dir: used},
		"nothing":  {},
		"stranger": {Snapshot: file, Dir: filepath.Join(t.TempDir(), "d"), Name: "x", InitialCluster: "y=http://127.0.0.1:1"},
	} {
		cfg.Logger = quick(t).Logger
		if _, err := Restore(t.Context(), cfg); err == nil || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Errorf("%s: got %v", name, err)
		}
		if left, err := filepath.Glob(cfg.Dir + ".*"); cfg.Dir != "" && (err != nil || len(left) > 0) {
			t.Errorf("%s: left %v, %v", name, left, err)
		}
	}
}

// TestFinishRestoreOnce lets several finish one restore at the same time.
func TestFinishRestoreOnce(t *testing.T) {
	t.Parallel()
	n := start(t, quick(t))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := FinishRestore(context.WithoutCancel(t.Context()), n, "id"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if epoch, err := strconv.Atoi(get(t, n, "epoch")); err != nil || epoch != 2 {
		t.Errorf("epoch %d, %v", epoch, err)
	}
}
