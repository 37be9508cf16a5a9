package membership

import (
	"context"
	"errors"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// watchSilence is how long the engine's watch may say nothing, progress
// included, before it is thought dead and opened anew.
const watchSilence = 15 * time.Second

// Watch tells of those present, as Joined, then once Synced, and then of every
// change, in order. It outlives the loss of connections, of leaders and of
// history. The channel is closed after an event with Err set or when ctx ends.
func (r *Registry) Watch(ctx context.Context, group string) <-chan Event {
	out := make(chan Event)
	go func() {
		defer close(out)
		w := watcher{registry: r, view: view{group: group}, out: out}
		err := invalid("watch", group, checkName("group", group))
		if err == nil {
			err = w.run(ctx)
		}
		if err != nil && ctx.Err() == nil {
			_ = w.send(ctx, []Event{{Revision: w.view.next - 1, Err: wrap("watch", groupSubject(group), err)}})
		}
	}()
	return out
}

// watcher is one watch.
type watcher struct {
	registry *Registry
	view     view
	out      chan<- Event
}

// run lists, then follows, and lists again whenever history is gone.
func (w *watcher) run(ctx context.Context) error {
	listed := false
	for {
		var err error
		if listed {
			err = w.follow(ctx)
		} else {
			err = w.relist(ctx)
			listed = err == nil
		}
		switch {
		case errors.Is(err, holdfast.ErrCompacted):
			listed = false
		case err != nil && !engine.Transient(err):
			return err
		}
		if err := engine.Pause(ctx); err != nil {
			return err
		}
	}
}

// relist reads the whole group, tells the difference and, of members that went
// unseen, reads whether their sessions were alive at that revision.
func (w *watcher) relist(ctx context.Context) error {
	kvs, rev, err := w.registry.list(ctx, w.view.group)
	if err != nil {
		return err
	}
	alive := map[engine.SessionID]bool{}
	for _, id := range w.view.missing(kvs) {
		res, err := w.registry.read(ctx, engine.RangeRequest{Key: engine.SessionKey(id), KeysOnly: true, Revision: rev})
		if err != nil {
			return err
		}
		alive[id] = len(res.KVs) > 0
	}
	events, err := w.view.relist(kvs, rev, alive)
	if err != nil {
		return err
	}
	return w.send(ctx, events)
}

// follow reads one watch of the engine until it ends, fails or falls silent.
func (w *watcher) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	key := groupPrefix(w.view.group)
	batches := w.registry.engine.Watch(ctx, engine.WatchRequest{
		Key: key, End: engine.PrefixEnd(key), Revision: w.view.next, Progress: true,
	})
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
				return nil
			}
			if b.Err != nil {
				return b.Err
			}
			events, err := w.view.apply(b)
			if err := errors.Join(w.send(ctx, events), err); err != nil {
				return err
			}
			silence.Reset(watchSilence)
		case <-silence.C:
			return nil
		}
	}
}

// send delivers events unless ctx ends first.
func (w *watcher) send(ctx context.Context, events []Event) error {
	for _, ev := range events {
		select {
		case w.out <- ev:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}
