package kv

import (
	"context"
	"time"

	"holdfast.dev/engine"
)

// WatchRequest names the keys to watch: Key, or all that begin with Prefix;
// with neither, all.
type WatchRequest struct {
	Key    string
	Prefix string
	// From is the first revision to be delivered: one above the last that is
	// known, from a Page, an Entry or a Batch. 0 is from now on: then the first
	// batch is empty and says from where.
	From int64
	// Prev delivers what each change replaced. It may be missing when history
	// was compacted in between.
	Prev bool
	// Progress delivers also empty batches, every few seconds, so that the
	// revision to resume from stays young.
	Progress bool
}

// Batch is the changes of one or more whole revisions, in order. To resume
// behind it, watch From Revision+1.
type Batch struct {
	Revision int64 // everything up to it has been delivered
	Events   []Event
	Err      error // the last batch only
}

// Event is one change of one key.
type Event struct {
	Deleted bool
	Entry   Entry  // after the change; of a deletion only Key and Revision
	Prev    *Entry // before it, if asked for and still in history
}

// watchSilence is how long the engine's watch may say nothing, progress
// included, before it is thought dead and opened anew.
const watchSilence = 15 * time.Second

// Watch delivers the changes of some keys. It outlives the loss of
// connections and leaders and stays silent while there is no majority. The
// channel is closed after a batch with Err set, which is holdfast.ErrCompacted
// when history no longer reaches back to where the watch stands, or when ctx
// ends.
func (st *Store) Watch(ctx context.Context, req WatchRequest) <-chan Batch {
	out := make(chan Batch)
	go func() {
		defer close(out)
		st.watch(ctx, req, out)
	}()
	return out
}

// watch runs one watch of the caller over as many of the engine as it takes.
func (st *Store) watch(ctx context.Context, req WatchRequest, out chan<- Batch) {
	c := cursor{next: req.From}
	er := engine.WatchRequest{Key: keyPrefix + req.Key, Prev: req.Prev, Progress: true}
	if req.Key == "" {
		er.Key, er.End = keyPrefix+req.Prefix, engine.PrefixEnd(keyPrefix+req.Prefix)
	}
	if err := req.faults().err("watch", subject("")); err != nil {
		send(ctx, out, c.fail(err))
		return
	}
	if c.next == 0 {
		res, err := st.read(ctx, engine.RangeRequest{Key: er.Key, End: er.End, Count: true})
		if err != nil {
			if ctx.Err() == nil {
				send(ctx, out, c.fail(err))
			}
			return
		}
		c.next = res.Revision + 1
		if !send(ctx, out, Batch{Revision: res.Revision}) {
			return
		}
	}
	for ctx.Err() == nil {
		er.Revision = c.next
		if st.one(ctx, er, &c, req.Progress, out) == ended {
			return
		}
		if engine.Pause(ctx) != nil {
			return
		}
	}
}

// one reads one watch of the engine until it ends or falls silent.
func (st *Store) one(ctx context.Context, er engine.WatchRequest, c *cursor, progress bool, out chan<- Batch) verdict {
	ctx, cancel := context.WithCancel(ctx)
	batches := st.engine.Watch(ctx, er)
	defer func() { // the engine's goroutine has ended when its channel is closed
		cancel()
		for range batches {
		}
	}()
	silence := time.NewTimer(watchSilence)
	defer silence.Stop()
	for {
		select {
		case b, open := <-batches:
			if !open {
				return anew
			}
			batch, ok, v := c.take(b, progress)
			if ok && !send(ctx, out, batch) {
				return ended
			}
			if v != goOn {
				return v
			}
			silence.Reset(watchSilence)
		case <-silence.C:
			return anew
		}
	}
}

// send delivers a batch unless ctx ends first.
func send(ctx context.Context, out chan<- Batch, b Batch) bool {
	select {
	case out <- b:
		return true
	case <-ctx.Done():
		return false
	}
}

// faults is everything that is wrong with the request.
func (r WatchRequest) faults() (f faults) {
	if r.Key != "" && r.Prefix != "" {
		f.add("both a key and a prefix")
	}
	f.text("key", r.Key)
	f.text("prefix", r.Prefix)
	if r.From < 0 {
		f.add("negative revision %d", r.From)
	}
	return f
}
