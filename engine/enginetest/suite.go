package enginetest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// patience ends a test whose engine does not answer.
const patience = time.Minute

// Harness is an engine to be tested and what can be done to it.
type Harness struct {
	Engine engine.Engine

	// MinTTL is the shortest lease that the engine grants. The lease tests take
	// a few times as long, at once.
	MinTTL time.Duration

	// LoseLeader takes the store's leader away and returns when it is gone. The
	// engine must serve again some seconds later without further help. Nil
	// means that there is no leader to lose.
	LoseLeader func(t *testing.T)

	// Restart stops the whole store, starts it again on its data, and returns
	// the engine to use from then on. Nil means that there is nothing to
	// restart: the store is gone when it stops.
	Restart func(t *testing.T) engine.Engine
}

// test is one test of the suite.
type test struct {
	name string
	run  func(*world)
}

// shared are the tests that can share a store and run at the same time.
var shared = join(txnTests, nestedTests, rangeTests, watchTests, leaseTests, contextTests)

// own are the tests that need a store to themselves.
var own = join(compactTests, closeTests)

func join(lists ...[]test) []test {
	var all []test
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// Run tests the engine that open opens; open is called several times.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	t.Helper()
	t.Run("shared", func(t *testing.T) {
		h := open(t)
		for _, c := range shared {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				c.run(newWorld(t, h))
			})
		}
		t.Run("Model", func(t *testing.T) {
			t.Parallel()
			checkModel(newWorld(t, h))
		})
	})
	for _, c := range own {
		t.Run(c.name, func(t *testing.T) { c.run(newWorld(t, open(t))) })
	}
	t.Run("Failure", func(t *testing.T) {
		h := open(t)
		for _, c := range failureTests(h) {
			t.Run(c.name, func(t *testing.T) { c.run(newWorld(t, h)) })
		}
	})
}

// RunInBubble is Run with each test in a bubble of testing/synctest, where
// open is called too. Time in a bubble costs nothing, so leases may be long.
func RunInBubble(t *testing.T, open func(t *testing.T) Harness) {
	t.Helper()
	bubble := func(c test) {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { c.run(newWorld(t, open(t))) })
		})
	}
	for _, c := range join(shared, own) {
		bubble(c)
	}
	for _, c := range failureTests(open(t)) {
		bubble(c)
	}
}

// world is a test with its engine and its part of the store.
type world struct {
	*testing.T
	Harness
	ctx    context.Context
	prefix string
}

func newWorld(t *testing.T, h Harness) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return &world{T: t, Harness: h, ctx: ctx, prefix: "test/" + rand.Text() + "/"}
}

// key is a key of this test.
func (w *world) key(name string) string { return w.prefix + name }

// all is the range of this test's keys.
func (w *world) all() engine.RangeRequest {
	return engine.RangeRequest{Key: w.prefix, End: engine.PrefixEnd(w.prefix)}
}

// lease is a new lease id.
func (w *world) lease() engine.LeaseID {
	var b [8]byte
	if _, err := rand.Read(b[:]); err != nil {
		w.Fatal(err)
	}
	return engine.LeaseID(binary.BigEndian.Uint64(b[:])>>1 | 1)
}

// txn runs a transaction that must succeed.
func (w *world) txn(t engine.Txn) engine.TxnResult {
	w.Helper()
	res, err := w.Engine.Txn(w.ctx, t)
	if err != nil {
		w.Fatalf("txn: %v", err)
	}
	return res
}

// then runs operations without a guard.
func (w *world) then(ops ...engine.Op) engine.TxnResult {
	w.Helper()
	return w.txn(engine.Txn{Then: ops})
}

// put writes one of this test's keys and returns the revision.
func (w *world) put(name, value string) int64 {
	w.Helper()
	return w.then(engine.Put(w.key(name), []byte(value))).Revision
}

// read runs a range read that must succeed.
func (w *world) read(r engine.RangeRequest) engine.RangeResult {
	w.Helper()
	res, err := w.Engine.Range(w.ctx, r)
	if err != nil {
		w.Fatalf("range %q: %v", r.Key, err)
	}
	return res
}

// get reads one of this test's keys, zero if it is missing.
func (w *world) get(name string) engine.KV {
	w.Helper()
	res := w.read(engine.RangeRequest{Key: w.key(name)})
	if len(res.KVs) == 0 {
		return engine.KV{}
	}
	return res.KVs[0]
}

// text is this test's keys in the order of the answer, as "name=value …".
func (w *world) text(kvs []engine.KV) string {
	var s []string
	for _, kv := range kvs {
		s = append(s, strings.TrimPrefix(kv.Key, w.prefix)+"="+string(kv.Value))
	}
	return strings.Join(s, " ")
}

// wantState fails unless the test's keys are as text says.
func (w *world) wantState(want string) {
	w.Helper()
	if got := w.text(w.read(w.all()).KVs); got != want {
		w.Fatalf("the store has %q, want %q", got, want)
	}
}

// refused fails unless err says why the call was not applied, and that it was
// not.
func (w *world) refused(err error, c holdfast.Code) {
	w.Helper()
	e, ok := errors.AsType[*holdfast.Error](err)
	if !ok {
		w.Fatalf("got %T %v, want a *holdfast.Error with code %v", err, err, c)
	}
	if e.Code != c || e.Outcome != holdfast.NotApplied {
		w.Fatalf("got %v (%v, %v), want %v, not applied", err, e.Code, e.Outcome, c)
	}
}

// wait waits for d of the engine's time.
func (w *world) wait(d time.Duration) {
	w.Helper()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.ctx.Done():
		w.Fatal("the test took too long")
	}
}

// next is the next batch of a watch, which must not have ended.
func (w *world) next(ch <-chan engine.WatchBatch) engine.WatchBatch {
	w.Helper()
	select {
	case b, ok := <-ch:
		if !ok {
			w.Fatal("the watch ended")
		}
		return b
	case <-w.ctx.Done():
		w.Fatal("the watch is silent")
		return engine.WatchBatch{}
	}
}

// until reads a watch until it has delivered revision rev.
func (w *world) until(ch <-chan engine.WatchBatch, rev int64) []engine.WatchBatch {
	w.Helper()
	var all []engine.WatchBatch
	for {
		b := w.next(ch)
		if b.Err != nil {
			w.Fatalf("watch: %v", b.Err)
		}
		all = append(all, b)
		if b.Revision >= rev {
			return all
		}
	}
}

// watch watches all keys of this test from rev on until the test ends.
func (w *world) watch(rev int64) <-chan engine.WatchBatch {
	return w.Engine.Watch(w.ctx, engine.WatchRequest{Key: w.prefix, End: engine.PrefixEnd(w.prefix), Revision: rev, Prev: true})
}
