package client

import (
	"context"

	"connectrpc.com/connect"

	"holdfast.dev"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/kv"
)

// Watch delivers the changes of some keys, with the meaning and promises of
// kv.Store.Watch: it goes on at another node where it stood. The channel is
// closed after a batch with Err set, or when ctx or the client ends.
func (k *KV) Watch(ctx context.Context, w kv.WatchRequest) <-chan kv.Batch {
	out := make(chan kv.Batch, 1)
	if !k.c.spawn(&k.c.work, func() {
		defer close(out)
		k.watch(ctx, w, out)
	}) {
		out <- kv.Batch{Err: errClosed("watch")}
		close(out)
	}
	return out
}

func (k *KV) watch(ctx context.Context, w kv.WatchRequest, out chan<- kv.Batch) {
	next, first := w.From, w.From == 0
	open := func(ctx context.Context, e *endpoint) (*connect.ServerStreamForClient[v1.KVServiceWatchResponse], error) {
		return e.kv.Watch(ctx, &v1.KVServiceWatchRequest{Key: w.Key, Prefix: w.Prefix, From: next, Previous: w.Prev})
	}
	var broken error
	err := follow(ctx, k.c, open, func(m *v1.KVServiceWatchResponse) bool {
		batch := kv.Batch{Revision: m.GetRevision()}
		for _, ev := range m.GetEvents() {
			event, err := eventOf(ev)
			if err != nil {
				broken = err
				return false
			}
			if event.Entry.Revision >= next {
				batch.Events = append(batch.Events, event)
			}
		}
		next = max(next, batch.Revision+1)
		if len(batch.Events) == 0 && !w.Progress && !first {
			return true
		}
		first = false
		return deliver(ctx, k.c, out, batch)
	})
	if err == nil {
		err = broken
	}
	if err != nil {
		deliver(ctx, k.c, out, kv.Batch{Revision: max(next-1, 0), Err: &holdfast.Error{
			Op: "watch", Key: "kv", Code: holdfast.CodeOf(err), Outcome: holdfast.NotApplied, Err: bare(err),
		}})
	}
}

func eventOf(m *v1.KVEvent) (kv.Event, error) {
	ev := kv.Event{Deleted: m.GetDeleted()}
	var err error
	if ev.Entry, err = entryOf(m.GetEntry(), 0); err != nil || m.GetPrevious() == nil {
		return ev, err
	}
	prev, err := entryOf(m.GetPrevious(), 0)
	ev.Prev = &prev
	return ev, err
}
