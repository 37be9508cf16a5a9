package enginetest

import (
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// unknownLease is the error of every lease call on a lease that is not there.
func (w *world) unknownLease(id engine.LeaseID) {
	w.Helper()
	_, err := w.Engine.Renew(w.ctx, id)
	w.refused(err, holdfast.CodeNotFound)
	w.refused(w.Engine.Revoke(w.ctx, id), holdfast.CodeNotFound)
}

// grant makes a lease that must be new.
func (w *world) grant(ttl time.Duration) (engine.LeaseID, time.Duration) {
	w.Helper()
	id := w.lease()
	got, err := w.Engine.Grant(w.ctx, id, ttl)
	if err != nil {
		w.Fatalf("grant: %v", err)
	}
	if got < ttl || got < w.MinTTL {
		w.Fatalf("asked for %v, got %v, the least is %v", ttl, got, w.MinTTL)
	}
	return id, got
}

// hold puts keys of a lease.
func (w *world) hold(id engine.LeaseID, names ...string) int64 {
	w.Helper()
	var ops []engine.Op
	for _, n := range names {
		ops = append(ops, engine.PutLeased(w.key(n), nil, id))
	}
	return w.then(ops...).Revision
}

// wantEnd fails unless the watch's next events are the deletion of n keys in
// one revision.
func (w *world) wantEnd(ch <-chan engine.WatchBatch, n int) {
	w.Helper()
	b := w.next(ch)
	for b.Err == nil && len(b.Events) == 0 {
		b = w.next(ch)
	}
	if b.Err != nil || len(b.Events) != n {
		w.Fatalf("got %+v, want %d deletions", b, n)
	}
	for _, ev := range b.Events {
		if !ev.Deleted || ev.KV.ModRevision != b.Events[0].KV.ModRevision {
			w.Fatalf("%+v with %+v: want deletions of one revision", ev, b.Events[0])
		}
	}
}

var leaseTests = []test{
	{"Lease/expiry", func(w *world) {
		start := time.Now()
		id, ttl := w.grant(w.MinTTL)
		w.put("stays", "")
		rev := w.hold(id, "a", "b", "c")
		if kv := w.get("a"); kv.Lease != id {
			w.Fatalf("got %+v, want lease %x", kv, id)
		}
		w.wantEnd(w.watch(rev+1), 3)
		if d := time.Since(start); d < ttl {
			w.Fatalf("gone after %v, the TTL is %v", d, ttl)
		}
		w.wantState("stays=")
		w.unknownLease(id)
	}},
	{"Lease/renewal", func(w *world) {
		id, ttl := w.grant(w.MinTTL)
		rev := w.hold(id, "a")
		var sent time.Time
		for range 4 {
			w.wait(ttl / 2)
			sent = time.Now()
			got, err := w.Engine.Renew(w.ctx, id)
			if err != nil {
				w.Fatalf("renew: %v", err)
			}
			if got != ttl {
				w.Fatalf("renewed for %v, granted for %v", got, ttl)
			}
		}
		w.wantEnd(w.watch(rev+1), 1)
		if d := time.Since(sent); d < ttl {
			w.Fatalf("gone %v after the last renewal was sent, the TTL is %v", d, ttl)
		}
	}},
	{"Lease/revoke", func(w *world) {
		id, _ := w.grant(time.Minute)
		rev := w.hold(id, "a", "b")
		w.put("stays", "")
		if err := w.Engine.Revoke(w.ctx, id); err != nil {
			w.Fatalf("revoke: %v", err)
		}
		w.wantState("stays=")
		last := w.put("end", "")
		gone := map[int64]int{}
		for _, b := range w.until(w.watch(rev+1), last) {
			for _, ev := range b.Events {
				if ev.Deleted {
					gone[ev.KV.ModRevision]++
				}
			}
		}
		if len(gone) != 1 {
			w.Fatalf("deletions by revision: %v, want both in one", gone)
		}
		w.unknownLease(id)
		_, err := w.Engine.Txn(w.ctx, engine.Txn{Then: []engine.Op{engine.PutLeased(w.key("a"), nil, id)}})
		w.refused(err, holdfast.CodeNotFound)
	}},
	{"Lease/ids", func(w *world) {
		id, _ := w.grant(time.Minute)
		_, err := w.Engine.Grant(w.ctx, id, time.Minute)
		w.refused(err, holdfast.CodeConflict)
		_, err = w.Engine.Grant(w.ctx, 0, time.Minute)
		w.refused(err, holdfast.CodeInvalid)
		w.unknownLease(w.lease())
		if err := w.Engine.Revoke(w.ctx, id); err != nil {
			w.Fatal(err)
		}
		if _, err := w.Engine.Grant(w.ctx, id, time.Minute); err != nil {
			w.Fatalf("grant again: %v", err)
		}
		if err := w.Engine.Revoke(w.ctx, id); err != nil {
			w.Fatal(err)
		}
	}},
	{"Lease/moved keys", func(w *world) {
		one, _ := w.grant(time.Minute)
		two, _ := w.grant(time.Minute)
		w.hold(one, "stays", "moves", "goes", "again")
		w.put("stays", "")
		w.hold(two, "moves")
		w.then(engine.Delete(w.key("again")))
		w.put("again", "")
		if err := w.Engine.Revoke(w.ctx, one); err != nil {
			w.Fatal(err)
		}
		w.wantState("again= moves= stays=")
		if err := w.Engine.Revoke(w.ctx, two); err != nil {
			w.Fatal(err)
		}
		w.wantState("again= stays=")
	}},
}
