package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/election"
	"holdfast.dev/engine"
	"holdfast.dev/internal/server"
	"holdfast.dev/kv"
	"holdfast.dev/lock"
	"holdfast.dev/membership"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node starts a node on e.
func node(t *testing.T, e engine.Engine, name string) *server.Server {
	t.Helper()
	s, err := server.Start(t.Context(), server.Config{Engine: e, Name: name, Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_ = s.Shutdown(ctx) // calls that still wait are cut
	})
	return s
}

func memory(t *testing.T) *engine.Memory {
	t.Helper()
	e := engine.NewMemory(engine.MemoryConfig{})
	t.Cleanup(func() { _ = e.Close() })
	return e
}

// dial connects with short patience, so that failovers do not take long.
func dial(t *testing.T, endpoints ...string) *client.Client {
	t.Helper()
	c, err := client.Dial(t.Context(), client.Config{Endpoints: endpoints, Attempt: 300 * time.Millisecond, Probe: 100 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func session(t *testing.T, c *client.Client) *client.Session {
	t.Helper()
	s, err := c.OpenSession(t.Context(), engine.SessionConfig{Name: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_ = s.Close(ctx) // some tests leave no node to tell
	})
	return s
}

// relay is a way to a node that can fall silent: it keeps its connections and
// forwards nothing, as a network that loses everything.
type relay struct {
	url string

	mu     sync.Mutex
	silent chan struct{} // closed: silent
	conns  []net.Conn
}

func newRelay(t *testing.T, to string) *relay {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{url: "http://" + l.Addr().String(), silent: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			var d net.Dialer
			out, err := d.DialContext(context.Background(), "tcp", strings.TrimPrefix(to, "http://"))
			if err != nil {
				_ = in.Close()
				continue
			}
			r.mu.Lock()
			r.conns = append(r.conns, in, out)
			r.mu.Unlock()
			wg.Go(func() { r.copy(out, in) })
			wg.Go(func() { r.copy(in, out) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		r.mu.Lock()
		for _, c := range r.conns {
			_ = c.Close()
		}
		r.mu.Unlock()
		wg.Wait()
	})
	return r
}

func (r *relay) copy(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		select {
		case <-r.silent:
			n = 0
		default:
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

func TestDial_NobodyThere(t *testing.T) {
	_, err := client.Dial(t.Context(), client.Config{Endpoints: []string{"127.0.0.1:1", "127.0.0.1:2"}})
	if !errors.Is(err, holdfast.ErrNoQuorum) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
		t.Fatalf("got %v, outcome %v", err, holdfast.OutcomeOf(err))
	}
	for _, want := range []string{"127.0.0.1:1: ", "127.0.0.1:2: ", "refused"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %q", err, want)
		}
	}
}

func TestDial_AllFaultsAtOnce(t *testing.T) {
	_, err := client.Dial(t.Context(), client.Config{
		Endpoints: []string{"ftp://x:1", "http://10.1.2.3:7450"}, Token: "secret", Attempt: time.Millisecond, Probe: -1,
	})
	if !errors.Is(err, holdfast.ErrInvalid) {
		t.Fatalf("got %v", err)
	}
	for _, want := range []string{"ftp://x:1", "needs https", "attempt 1ms", "probe"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not name %q", err, want)
		}
	}
}

func TestSession_LocksAcrossClients(t *testing.T) {
	n := node(t, memory(t), "n1")
	a, b := session(t, dial(t, n.URL())), session(t, dial(t, n.URL()))
	first, err := a.Acquire(t.Context(), "x", lock.Note("first"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Acquire(t.Context(), "x", lock.NoWait()); !errors.Is(err, holdfast.ErrBusy) {
		t.Fatalf("a second holder: %v", err)
	}
	info, err := b.Client().Inspect(t.Context(), "x")
	if err != nil || len(info.Holders) != 1 || info.Holders[0].Token != first.Token() || info.Holders[0].Note != "first" {
		t.Fatalf("inspect: %+v, %v", info, err)
	}
	if info.SessionNames[a.ID()] != t.Name() {
		t.Errorf("the holder's session has no name: %v", info.SessionNames)
	}
	if err := first.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	second, err := b.Acquire(t.Context(), "x")
	if err != nil || second.Token() <= first.Token() {
		t.Fatalf("token %v after %v, %v", second.Token(), first.Token(), err)
	}
	if _, err := b.Acquire(second.Context(), "x"); !errors.Is(err, holdfast.ErrBusy) || !strings.Contains(err.Error(), "reentrant") {
		t.Errorf("reentrance: %v", err)
	}
}

func TestAcquire_CancelLeavesNothingHeld(t *testing.T) {
	n := node(t, memory(t), "n1")
	c := dial(t, n.URL())
	a, b := session(t, c), session(t, c)
	held, err := a.Acquire(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		_, err := b.Acquire(ctx, "x")
		done <- err
	}()
	until(t, func() bool { return waits(t, c) == 1 })
	cancel()
	if err := <-done; holdfast.CodeOf(err) != holdfast.CodeCanceled {
		t.Fatalf("a cancelled wait: %v", err)
	}
	until(t, func() bool { return waits(t, c) == 0 })
	if err := held.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestFailover_GracefulStop(t *testing.T) {
	e := memory(t)
	n1, n2 := node(t, e, "n1"), node(t, e, "n2")
	c := dial(t, n1.URL())
	s := session(t, dial(t, n1.URL(), n2.URL()))
	held, err := s.Acquire(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	two := dial(t, n1.URL(), n2.URL())
	client.Prefer(two, n1.URL())
	waiting := session(t, two)
	next := make(chan error, 1)
	go func() {
		_, err := waiting.Acquire(t.Context(), "x")
		next <- err
	}()
	until(t, func() bool { return waits(t, c) == 1 })
	if err := n1.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := held.Err(); err != nil {
		t.Fatalf("lost with the node: %v", err)
	}
	if err := held.Release(t.Context()); err != nil {
		t.Fatalf("release at the other node: %v", err)
	}
	if err := <-next; err != nil {
		t.Fatalf("the wait did not go on: %v", err)
	}
}

func TestFailover_SilentNode(t *testing.T) {
	e := memory(t)
	n1, n2 := node(t, e, "n1"), node(t, e, "n2")
	r := newRelay(t, n1.URL())
	c := dial(t, r.url, n2.URL())
	other := session(t, dial(t, n2.URL()))
	client.Prefer(c, r.url)
	s := session(t, c)
	held, err := other.Acquire(t.Context(), "x")
	if err != nil {
		t.Fatal(err)
	}
	var (
		granted = make(chan error, 1)
		ctx     = t.Context()
	)
	go func() {
		_, err := s.Acquire(ctx, "x")
		granted <- err
	}()
	batches := s.KV().Watch(ctx, kv.WatchRequest{Prefix: "w/"})
	<-batches // from where
	until(t, func() bool { return waits(t, c) == 1 })
	close(r.silent)
	if _, err := other.KV().Put(ctx, "w/a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	if b := <-batches; b.Err != nil || len(b.Events) != 1 || b.Events[0].Entry.Key != "w/a" {
		t.Fatalf("the watch did not go on: %+v", b)
	}
	if err := held.Release(ctx); err != nil {
		t.Fatal(err)
	}
	if err := <-granted; err != nil {
		t.Fatalf("the wait did not go on: %v", err)
	}
	if c.Endpoint() != n2.URL() {
		t.Errorf("still at %s", c.Endpoint())
	}
	if err := s.Err(); err != nil {
		t.Errorf("the session did not survive: %v", err)
	}
}

func TestKV_ExactlyOnceAndWatch(t *testing.T) {
	n := node(t, memory(t), "n1")
	s := session(t, dial(t, n.URL()))
	store := s.KV()
	ctx := t.Context()
	rev, err := store.Put(ctx, "a", []byte("1"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	batches := store.Watch(ctx, kv.WatchRequest{Key: "a", From: rev, Prev: true})
	if b := <-batches; len(b.Events) != 1 || string(b.Events[0].Entry.Value) != "1" {
		t.Fatalf("watch from the past: %+v", b)
	}
	if _, err := store.CompareAndSet(ctx, "a", rev+1000, nil); !errors.Is(err, holdfast.ErrConflict) {
		t.Fatalf("compare: %v", err)
	}
	rev2, err := store.CompareAndSet(ctx, "a", rev, []byte("2"), kv.Fenced("r", 7), kv.Leased())
	if err != nil {
		t.Fatal(err)
	}
	if b := <-batches; len(b.Events) != 1 || b.Events[0].Prev == nil || string(b.Events[0].Prev.Value) != "1" {
		t.Fatalf("watch: %+v", b)
	}
	if _, err := store.Put(ctx, "a", nil, kv.Fenced("r", 6)); !errors.Is(err, holdfast.ErrFenced) {
		t.Fatalf("fence: %v", err)
	}
	e, err := store.Get(ctx, "a")
	if err != nil || e.Revision != rev2 || e.Session != s.ID() {
		t.Fatalf("get: %+v, %v", e, err)
	}
	old, err := store.Get(ctx, "a", kv.At(rev))
	if err != nil || string(old.Value) != "1" {
		t.Fatalf("history: %+v, %v", old, err)
	}
	res, err := store.Txn(ctx, kv.Txn{
		If:   []kv.Cond{kv.Exists("a"), kv.Missing("b"), kv.ValueIs("a", []byte("2"))},
		Then: []kv.Op{kv.Put("b", []byte("x")), kv.Get("a"), kv.Delete("none"), kv.PutLeased("c", nil)},
	})
	if err != nil || !res.Succeeded || string(res.Results[1].Entry.Value) != "2" || res.Results[2].Found {
		t.Fatalf("transaction: %+v, %v", res, err)
	}
	page, err := store.List(ctx, "", kv.Limit(2), kv.KeysOnly())
	if err != nil || len(page.Entries) != 2 || !page.More {
		t.Fatalf("list: %+v, %v", page, err)
	}
	d, err := store.Delete(ctx, "b")
	if err != nil || !d.Existed {
		t.Fatalf("delete: %+v, %v", d, err)
	}
	if _, err := store.Get(ctx, "b"); !errors.Is(err, holdfast.ErrNotFound) {
		t.Fatalf("get of nothing: %v", err)
	}
	if _, err := s.Client().KV().Put(ctx, "d", nil, kv.Leased()); !errors.Is(err, holdfast.ErrInvalid) {
		t.Fatalf("leased without a session: %v", err)
	}
}

func TestElection_CampaignFenceObserve(t *testing.T) {
	e := memory(t)
	n := node(t, e, "n1")
	c := dial(t, n.URL())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	views := c.Observe(ctx, "boss")
	if v := <-views; v.Leader != nil {
		t.Fatalf("before anybody: %+v", v)
	}
	a := session(t, c)
	first, err := a.Campaign(ctx, "boss", []byte("a"))
	if err != nil {
		t.Fatal(err)
	}
	if v := <-views; v.Leader == nil || string(v.Leader.Value) != "a" || v.Leader.Token != first.Token() {
		t.Fatalf("observed %+v", v)
	}
	if err := first.Proclaim(ctx, []byte("a2")); err != nil {
		t.Fatal(err)
	}
	if v := <-views; v.Leader == nil || string(v.Leader.Value) != "a2" {
		t.Fatalf("observed %+v", v)
	}
	// The leader vanishes: the next one must fence it off first.
	if err := e.Revoke(ctx, engine.LeaseID(a.ID())); err != nil {
		t.Fatal(err)
	}
	var fenced holdfast.Token
	second, err := session(t, c).Campaign(ctx, "boss", []byte("b"), election.Fence(func(_ context.Context, vanished election.Leader) error {
		fenced = vanished.Token
		return nil
	}))
	if err != nil || fenced != first.Token() || second.Token() <= first.Token() {
		t.Fatalf("second %v after %v, fenced %v, %v", second.Token(), first.Token(), fenced, err)
	}
	until(t, func() bool { return first.Err() != nil })
	list, err := c.Elections(ctx, "", "", 10)
	if err != nil || len(list) != 1 || list[0].Leader == nil || string(list[0].Leader.Value) != "b" {
		t.Fatalf("list: %+v, %v", list, err)
	}
	if err := second.Resign(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Leader(ctx, "boss"); !errors.Is(err, holdfast.ErrNotFound) {
		t.Fatalf("leader after resigning: %v", err)
	}
}

func TestMembership_WatchSurvivesItsNode(t *testing.T) {
	e := memory(t)
	n1, n2 := node(t, e, "n1"), node(t, e, "n2")
	c := dial(t, n1.URL(), n2.URL())
	client.Prefer(c, n1.URL())
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	other := dial(t, n2.URL())
	a := session(t, other)
	ra, err := a.Register(ctx, "g", membership.Member{ID: "a", Address: "h:1"})
	if err != nil {
		t.Fatal(err)
	}
	events := c.WatchMembers(ctx, "g")
	for _, want := range []membership.Kind{membership.Joined, membership.Synced} {
		if ev := <-events; ev.Kind != want {
			t.Fatalf("got %+v, want %v", ev, want)
		}
	}
	if err := n1.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	b := session(t, other)
	if _, err := b.Register(ctx, "g", membership.Member{ID: "b", Address: "h:2"}); err != nil {
		t.Fatal(err)
	}
	if ev := <-events; ev.Kind != membership.Joined || ev.Member.ID != "b" {
		t.Fatalf("got %+v", ev)
	}
	if err := ra.Update(ctx, membership.Member{Address: "h:3"}); err != nil {
		t.Fatal(err)
	}
	if ev := <-events; ev.Kind != membership.Updated || ev.Member.Address != "h:3" {
		t.Fatalf("got %+v", ev)
	}
	if err := ra.Leave(ctx); err != nil {
		t.Fatal(err)
	}
	if ev := <-events; ev.Kind != membership.Left || ev.Member.ID != "a" {
		t.Fatalf("got %+v", ev)
	}
	if err := e.Revoke(ctx, engine.LeaseID(b.ID())); err != nil {
		t.Fatal(err)
	}
	if ev := <-events; ev.Kind != membership.Lost || ev.Member.ID != "b" {
		t.Fatalf("got %+v", ev)
	}
}

func TestClose_EndsWatches(t *testing.T) {
	n := node(t, memory(t), "n1")
	c, err := client.Dial(t.Context(), client.Config{Endpoints: []string{n.URL()}})
	if err != nil {
		t.Fatal(err)
	}
	batches := c.KV().Watch(t.Context(), kv.WatchRequest{})
	<-batches
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if b, open := <-batches; open {
		t.Errorf("still open: %+v", b)
	}
	if _, err := c.KV().Get(t.Context(), "a"); !errors.Is(err, holdfast.ErrClosed) {
		t.Errorf("a call after Close: %v", err)
	}
	if b := <-c.KV().Watch(t.Context(), kv.WatchRequest{}); !errors.Is(b.Err, holdfast.ErrClosed) {
		t.Errorf("a watch after Close: %+v", b)
	}
}

func TestKV_WhatNoNodeTakesIsNotSent(t *testing.T) {
	n := node(t, memory(t), "n1")
	c := dial(t, n.URL())
	if err := n.Shutdown(t.Context()); err != nil { // nobody is there to refuse it
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	large := make([]byte, kv.MaxValue+1)
	for name, call := range map[string]func() error{
		"a large value to put":         func() error { _, err := c.KV().Put(ctx, "a", large); return err },
		"a large value to compare":     func() error { _, err := c.KV().CompareAndSet(ctx, "a", 0, large); return err },
		"a large value in transaction": func() error { _, err := c.KV().Txn(ctx, kv.Txn{Then: []kv.Op{kv.Put("a", large)}}); return err },
		"a key that is not UTF-8":      func() error { _, err := c.KV().Put(ctx, "\xff", nil); return err },
	} {
		if err := call(); !errors.Is(err, holdfast.ErrInvalid) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestBackup_OfMemoryIsRefused(t *testing.T) {
	n := node(t, memory(t), "n1")
	if _, err := dial(t, n.URL()).Backup(t.Context(), io.Discard); !errors.Is(err, holdfast.ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

// waits is how many calls wait at the first of a client's nodes.
func waits(t *testing.T, c *client.Client) int {
	t.Helper()
	st, err := c.Status(t.Context(), c.Endpoints()[0])
	if err != nil {
		return -1
	}
	return st.Waiters
}

// until repeats a check that must come true.
func until(t *testing.T, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatal("it did not come true")
		}
	}
}
