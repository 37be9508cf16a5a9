package enginetest

import (
	"context"
	"fmt"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// The properties are those of etcd's robustness tests: filter, ordered,
// unique, atomic, resumable, reliable, previous values and creation.
var watchTests = []test{
	{"Watch/filter", func(w *world) {
		j := w.churn(4, 10)
		from := j.first + 1
		for _, c := range []struct {
			req  engine.WatchRequest
			want func(key string) bool
		}{
			{engine.WatchRequest{Key: w.key("k3")}, func(k string) bool { return k == w.key("k3") }},
			{engine.WatchRequest{Key: w.key("k2"), End: w.key("k5")}, func(k string) bool { return w.key("k2") <= k && k < w.key("k5") }},
			{engine.WatchRequest{Key: w.key("none"), End: w.key("nonf")}, func(string) bool { return false }},
		} {
			c.req.Revision, c.req.Progress = from, true
			ctx, cancel := context.WithCancel(w.ctx)
			w.wantLines(w.until(w.Engine.Watch(ctx, c.req), j.last), j.lines(from, c.want))
			cancel()
		}
	}},
	{"Watch/ordered", func(w *world) {
		done := int64(0)
		j := w.churn(4, 20)
		for _, b := range w.until(w.watch(j.first+1), j.last) {
			rev := done
			for _, ev := range b.Events {
				if ev.KV.ModRevision < rev || ev.KV.ModRevision <= done {
					w.Fatalf("revision %d after %d, with all up to %d delivered", ev.KV.ModRevision, rev, done)
				}
				rev = ev.KV.ModRevision
			}
			if b.Revision < rev {
				w.Fatalf("a batch at revision %d has an event of %d", b.Revision, rev)
			}
			done = b.Revision
		}
	}},
	{"Watch/unique", func(w *world) {
		j := w.churn(4, 20)
		seen := map[string]bool{}
		for _, l := range batchLines(w.until(w.watch(j.first+1), j.last)) {
			if seen[l] {
				w.Fatalf("twice: %s", l)
			}
			seen[l] = true
		}
	}},
	{"Watch/atomic", func(w *world) {
		ch := w.watch(w.read(w.all()).Revision + 1)
		j := w.churn(4, 20)
		in := map[int64]int{}
		for i, b := range w.until(ch, j.last) {
			for _, ev := range b.Events {
				if before, ok := in[ev.KV.ModRevision]; ok && before != i {
					w.Fatalf("revision %d came in two batches", ev.KV.ModRevision)
				}
				in[ev.KV.ModRevision] = i
			}
		}
	}},
	{"Watch/resumable", func(w *world) {
		j := w.churn(4, 10)
		step := max((j.last-j.first)/8, 1)
		for from := j.first + 1; from <= j.last; from += step {
			ctx, cancel := context.WithCancel(w.ctx)
			ch := w.Engine.Watch(ctx, engine.WatchRequest{Key: w.prefix, End: engine.PrefixEnd(w.prefix), Revision: from})
			w.wantLines(w.until(ch, j.last), j.lines(from, every))
			cancel()
		}
	}},
	{"Watch/resumed after each batch", func(w *world) {
		j := w.churn(2, 10)
		next := j.first + 1
		var all []engine.WatchBatch
		for next <= j.last {
			ctx, cancel := context.WithCancel(w.ctx)
			b := w.next(w.Engine.Watch(ctx, engine.WatchRequest{Key: w.prefix, End: engine.PrefixEnd(w.prefix), Revision: next}))
			cancel()
			if b.Err != nil || b.Revision < next {
				w.Fatalf("a watch from revision %d delivers %+v", next, b)
			}
			all = append(all, b)
			next = b.Revision + 1
		}
		w.wantLines(all, j.lines(j.first+1, every))
	}},
	{"Watch/reliable", func(w *world) {
		ch := w.watch(w.read(w.all()).Revision + 1)
		got := make(chan []engine.WatchBatch, 1)
		go func() {
			var all []engine.WatchBatch
			for b := range ch {
				all = append(all, b)
				if len(b.Events) > 0 && b.Events[len(b.Events)-1].KV.Key == w.key("end") || b.Err != nil {
					break
				}
			}
			got <- all
		}()
		j := w.churn(16, 15)
		w.wantLines(<-got, j.lines(j.first+1, every))
	}},
	{"Watch/slow reader", func(w *world) {
		ch := w.watch(w.read(w.all()).Revision + 1)
		j := w.churn(16, 15)
		w.wantLines(w.until(ch, j.last), j.lines(j.first+1, every))
	}},
	{"Watch/previous values", testPrevious},
	{"Watch/from now", func(w *world) {
		before := w.put("a", "0")
		ch := w.Engine.Watch(w.ctx, engine.WatchRequest{Key: w.key("a")})
		for n := 1; ; n++ { // the call does not wait until the watch is in place
			w.put("a", fmt.Sprint(n))
			select {
			case b := <-ch:
				if b.Err != nil || len(b.Events) == 0 || b.Events[0].KV.ModRevision <= before {
					w.Fatalf("got %+v, want what came after revision %d", b, before)
				}
				return
			default:
			}
		}
	}},
	{"Watch/from the future", func(w *world) {
		now := w.put("a", "0")
		ch := w.watch(now + 1)
		w.wantLines(w.until(ch, w.put("a", "1")), []string{line(w.get("a").ModRevision, event{w.key("a"), "1", false})})
	}},
	{"Watch/progress", func(w *world) {
		rev := w.put("elsewhere", "")
		ch := w.Engine.Watch(w.ctx, engine.WatchRequest{Key: w.key("idle"), Revision: rev, Progress: true})
		for _, b := range w.until(ch, rev) {
			if len(b.Events) != 0 {
				w.Fatalf("events in %+v", b)
			}
		}
		rev = w.put("idle", "")
		batches := w.until(ch, rev)
		w.wantLines(batches, []string{line(rev, event{key: w.key("idle")})})
	}},
	{"Watch/cancelled", func(w *world) {
		ctx, cancel := context.WithCancel(w.ctx)
		ch := w.Engine.Watch(ctx, engine.WatchRequest{Key: w.key("a")})
		cancel()
		w.closes(ch)
		w.closes(w.Engine.Watch(ctx, engine.WatchRequest{Key: w.key("a")}))
	}},
	{"Watch/invalid", func(w *world) {
		ch := w.Engine.Watch(w.ctx, engine.WatchRequest{Key: w.key("b"), End: w.key("a")})
		b := w.next(ch)
		w.refused(b.Err, holdfast.CodeInvalid)
		w.closes(ch)
	}},
}

// closes fails unless the channel closes.
func (w *world) closes(ch <-chan engine.WatchBatch) {
	w.Helper()
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-w.ctx.Done():
			w.Fatal("the channel was not closed")
		}
	}
}

// testPrevious replays a watch and compares each event's Prev, versions and
// creation with what came before.
func testPrevious(w *world) {
	j := w.churn(4, 20)
	state := map[string]engine.KV{}
	for _, b := range w.until(w.watch(j.first+1), j.last) {
		for _, ev := range b.Events {
			before, was := state[ev.KV.Key]
			if (ev.Prev != nil) != was || was && (ev.Prev.ModRevision != before.ModRevision || string(ev.Prev.Value) != string(before.Value) || ev.Prev.Version != before.Version) {
				w.Fatalf("%+v: Prev is %+v, it was %+v", ev.KV, ev.Prev, before)
			}
			if ev.Deleted {
				if !was {
					w.Fatalf("%s was deleted twice", ev.KV.Key)
				}
				delete(state, ev.KV.Key)
				continue
			}
			created := ev.KV.CreateRevision == ev.KV.ModRevision
			if created == was || ev.KV.Version != before.Version+1 || was && ev.KV.CreateRevision != before.CreateRevision {
				w.Fatalf("%+v after %+v", ev.KV, before)
			}
			state[ev.KV.Key] = ev.KV
		}
	}
}
