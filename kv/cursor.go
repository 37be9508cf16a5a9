package kv

import (
	"holdfast.dev"
	"holdfast.dev/engine"
)

// cursor is the pure core of a watch: what has been delivered, and what to do
// with what comes. It survives the engine's watches, each of which may end at
// any time.
type cursor struct {
	next int64 // the first revision not yet delivered
}

// verdict is what to do after a batch of the engine.
type verdict uint8

const (
	goOn  verdict = iota + 1 // read the next batch
	anew                     // this watch is finished: open another one at next
	ended                    // the last batch has been delivered
)

// take turns a batch of the engine into one for the caller. Ok says whether
// there is anything to deliver: changes, an error, or, if wanted, progress.
func (c *cursor) take(b engine.WatchBatch, progress bool) (out Batch, ok bool, v verdict) {
	if b.Err != nil {
		if engine.Transient(b.Err) {
			return Batch{}, false, anew
		}
		return c.fail(b.Err), true, ended
	}
	out = Batch{Revision: max(b.Revision, c.next-1)}
	for _, ev := range b.Events {
		if ev.KV.ModRevision < c.next {
			continue // delivered by the watch before this one
		}
		e := Event{Deleted: ev.Deleted, Entry: entryOf(ev.KV, 0)}
		if ev.Prev != nil {
			prev := entryOf(*ev.Prev, 0)
			e.Prev = &prev
		}
		out.Events = append(out.Events, e)
	}
	ok = len(out.Events) > 0 || progress && out.Revision >= c.next
	c.next = out.Revision + 1
	return out, ok, goOn
}

// fail is the last batch of a watch.
func (c *cursor) fail(err error) Batch {
	return Batch{
		Revision: c.next - 1,
		Err:      &holdfast.Error{Op: "watch", Key: subject(""), Code: holdfast.CodeOf(err), Outcome: holdfast.NotApplied, Err: bare(err)},
	}
}
