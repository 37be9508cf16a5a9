package enginetest

import (
	"context"
	"fmt"
	"sync"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

var contextTests = []test{
	{"Context/ended before", func(w *world) {
		canceled, cancel := context.WithCancel(w.ctx)
		cancel()
		late, cancel := context.WithDeadline(w.ctx, time.Now().Add(-time.Second))
		defer cancel()
		id, _ := w.grant(time.Minute)
		for code, ctx := range map[holdfast.Code]context.Context{holdfast.CodeCanceled: canceled, holdfast.CodeDeadline: late} {
			_, err := w.Engine.Txn(ctx, engine.Txn{Then: []engine.Op{engine.Put(w.key("a"), nil)}})
			w.refused(err, code)
			_, err = w.Engine.Txn(ctx, engine.Txn{Then: []engine.Op{engine.Get(w.key("a"))}})
			w.refused(err, code)
			_, err = w.Engine.Range(ctx, w.all())
			w.refused(err, code)
			_, err = w.Engine.Range(ctx, engine.RangeRequest{Key: w.key("a"), Stale: true})
			w.refused(err, code)
			_, err = w.Engine.Grant(ctx, w.lease(), time.Minute)
			w.refused(err, code)
			_, err = w.Engine.Renew(ctx, id)
			w.refused(err, code)
			w.refused(w.Engine.Revoke(ctx, id), code)
			w.refused(w.Engine.Compact(ctx, 1), code)
			_, err = w.Engine.Status(ctx)
			w.refused(err, code)
		}
		w.wantState("")
	}},
	{"Context/ended during", func(w *world) {
		outcomes := make([]holdfast.Outcome, 100)
		var wg sync.WaitGroup
		for i := range outcomes {
			wg.Go(func() {
				ctx, cancel := context.WithTimeout(w.ctx, time.Duration(i)*20*time.Microsecond)
				defer cancel()
				_, err := w.Engine.Txn(ctx, engine.Txn{Then: []engine.Op{engine.Put(w.key(fmt.Sprint(i)), nil)}})
				outcomes[i] = holdfast.OutcomeOf(err)
			})
		}
		wg.Wait()
		w.put("z", "") // what was sent before it is mostly decided now
		w.wantOutcomes(outcomes)
	}},
}

// wantOutcomes fails unless the key of every applied put is there and that of
// every put that was not applied is not.
func (w *world) wantOutcomes(outcomes []holdfast.Outcome) {
	w.Helper()
	present := map[string]bool{}
	for _, kv := range w.read(w.all()).KVs {
		present[kv.Key] = true
	}
	n := map[holdfast.Outcome]int{}
	for i, o := range outcomes {
		n[o]++
		if is := present[w.key(fmt.Sprint(i))]; o == holdfast.Applied && !is || o == holdfast.NotApplied && is {
			w.Errorf("put %d is said to be %v, there: %v", i, o, is)
		}
	}
	w.Logf("applied %d, not applied %d, unknown %d", n[holdfast.Applied], n[holdfast.NotApplied], n[holdfast.Unknown])
}

var compactTests = []test{
	{"Compact", func(w *world) {
		w.put("a", "1")
		two := w.put("a", "2")
		w.then(engine.Delete(w.key("a")))
		w.put("b", "1")
		four := w.put("b", "2")
		if err := w.Engine.Compact(w.ctx, four); err != nil {
			w.Fatalf("compact: %v", err)
		}
		w.put("c", "1")
		w.wantState("b=2 c=1")
		old := w.all()
		old.Revision = two
		_, err := w.Engine.Range(w.ctx, old)
		w.refused(err, holdfast.CodeCompacted)
		_, err = w.Engine.Txn(w.ctx, engine.Txn{Then: []engine.Op{engine.GetRange(old), engine.Put(w.key("d"), nil)}})
		w.refused(err, holdfast.CodeCompacted)
		_, err = w.Engine.Txn(w.ctx, engine.Txn{Then: []engine.Op{engine.GetRange(old)}})
		w.refused(err, holdfast.CodeCompacted)
		old.Revision = four
		if got := w.text(w.read(old).KVs); got != "b=2" {
			w.Fatalf("at the revision of the compaction: %q", got)
		}
		w.refused(w.Engine.Compact(w.ctx, two), holdfast.CodeCompacted)
		w.refused(w.Engine.Compact(w.ctx, 1<<50), holdfast.CodeInvalid)

		ch := w.watch(two)
		for b := w.next(ch); ; b = w.next(ch) {
			if b.Err != nil {
				w.refused(b.Err, holdfast.CodeCompacted)
				break
			}
			if len(b.Events) > 0 {
				w.Fatalf("a watch of what is compacted delivers %+v", b)
			}
		}
		w.closes(ch)
		from := w.watch(four)
		w.wantLines(w.until(from, w.get("c").ModRevision), []string{
			line(four, event{w.key("b"), "2", false}),
			line(w.get("c").ModRevision, event{w.key("c"), "1", false}),
		})
		last := w.put("c", "2")
		for _, b := range w.until(from, last) {
			for _, ev := range b.Events {
				if ev.Prev == nil || string(ev.Prev.Value) != "1" {
					w.Fatalf("after the compaction Prev is %+v", ev.Prev)
				}
			}
		}
	}},
}

var closeTests = []test{
	{"Close", func(w *world) {
		w.put("a", "1")
		ch := w.watch(0)
		if err := w.Engine.Close(); err != nil {
			w.Fatalf("close: %v", err)
		}
		w.closes(ch)
		_, err := w.Engine.Txn(w.ctx, engine.Txn{Then: []engine.Op{engine.Put(w.key("a"), nil)}})
		w.refused(err, holdfast.CodeClosed)
		_, err = w.Engine.Range(w.ctx, w.all())
		w.refused(err, holdfast.CodeClosed)
		_, err = w.Engine.Grant(w.ctx, w.lease(), time.Minute)
		w.refused(err, holdfast.CodeClosed)
		w.closes(w.watch(1))
		if err := w.Engine.Close(); err != nil {
			w.Fatalf("close again: %v", err)
		}
	}},
}

// failureTests are the tests of what the harness can break.
func failureTests(h Harness) []test {
	var all []test
	if h.LoseLeader != nil {
		all = append(all, test{"LoseLeader", testLoseLeader})
	}
	if h.Restart != nil {
		all = append(all, test{"Restart", testRestart})
	}
	return all
}

// attempt is how long one call may take while there may be no leader.
const attempt = 500 * time.Millisecond

// settle writes until a write is acknowledged and returns its revision.
func (w *world) settle(name string) int64 {
	w.Helper()
	for {
		ctx, cancel := context.WithTimeout(w.ctx, attempt)
		res, err := w.Engine.Txn(ctx, engine.Txn{Then: []engine.Op{engine.Put(w.key(name), nil)}})
		cancel()
		if err == nil {
			return res.Revision
		}
		w.wait(attempt / 10)
	}
}

// testLoseLeader writes while the leader goes away twice.
func testLoseLeader(w *world) {
	id, _ := w.grant(10 * time.Second)
	first := w.hold(id, "leased")
	ch := w.watch(first + 1)
	const writers = 8
	var (
		wg       sync.WaitGroup
		stop     = make(chan struct{})
		mu       sync.Mutex
		outcomes []holdfast.Outcome
		acked    = map[string]int64{}
	)
	for range writers {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				n := len(outcomes)
				outcomes = append(outcomes, holdfast.Unknown)
				mu.Unlock()
				key := w.key(fmt.Sprint(n))
				ctx, cancel := context.WithTimeout(w.ctx, attempt)
				res, err := w.Engine.Txn(ctx, engine.Txn{If: []engine.Compare{engine.Missing(key)}, Then: []engine.Op{engine.Put(key, nil)}})
				cancel()
				mu.Lock()
				outcomes[n] = holdfast.OutcomeOf(err)
				if err == nil {
					acked[key] = res.Revision
				}
				mu.Unlock()
				if pause(w.ctx, 10*time.Millisecond) != nil {
					return
				}
			}
		})
	}
	for i := range 2 {
		w.settle("before" + fmt.Sprint(i))
		w.LoseLeader(w.T)
		w.settle("after" + fmt.Sprint(i))
	}
	close(stop)
	wg.Wait()
	last := w.settle("end")
	w.wantOutcomes(outcomes)

	seen := map[string]int64{}
	for _, b := range w.until(ch, last) {
		for _, ev := range b.Events {
			if _, twice := seen[ev.KV.Key]; twice && ev.KV.Version == 1 || ev.Deleted {
				w.Errorf("watch: %+v, deleted %v, after revision %d", ev.KV, ev.Deleted, seen[ev.KV.Key])
			}
			seen[ev.KV.Key] = ev.KV.ModRevision
		}
	}
	for key, rev := range acked {
		if seen[key] != rev {
			w.Errorf("%s was written at %d, the watch saw it at %d", key, rev, seen[key])
		}
	}
	for _, kv := range w.read(w.all()).KVs {
		if rev, ok := acked[kv.Key]; ok && kv.ModRevision != rev {
			w.Errorf("%s was written at %d, the store has it at %d", kv.Key, rev, kv.ModRevision)
		}
	}
	if _, err := w.Engine.Renew(w.ctx, id); err != nil {
		w.Errorf("the lease did not survive: %v", err)
	}
}

// testRestart stops the store and looks for what it had.
func testRestart(w *world) {
	id, ttl := w.grant(time.Minute)
	w.hold(id, "leased")
	j := w.churn(4, 10)
	before := w.read(w.all())
	w.Engine = w.Restart(w.T)
	if last := w.settle("end"); last <= before.Revision {
		w.Fatalf("revision %d after %d", last, before.Revision)
	}
	old := w.all()
	old.Revision = j.last
	if got := w.read(old); w.text(got.KVs) != w.text(before.KVs) {
		w.Fatalf("after the restart %q, before %q", w.text(got.KVs), w.text(before.KVs))
	}
	got, err := w.Engine.Renew(w.ctx, id)
	if err != nil || got != ttl {
		w.Fatalf("renew: %v, %v; want %v", got, err, ttl)
	}
	ch := w.Engine.Watch(w.ctx, engine.WatchRequest{Key: w.key("k"), End: w.key("l"), Revision: j.first + 1, Progress: true})
	w.wantLines(w.until(ch, j.last), j.lines(j.first+1, func(key string) bool { return key < w.key("l") && key >= w.key("k") }))
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
