package engine

import (
	"context"
	"slices"
	"time"

	"holdfast.dev"
)

const (
	// watchBatchEvents is how many events a batch of a Memory's watch holds,
	// unless one revision alone has more.
	watchBatchEvents = 512
	// watchProgressEvery is how often a Memory's watch that is to report
	// progress does so.
	watchProgressEvery = time.Second
)

// memoryWatch reads the log from its own place; nothing is queued for it, so a
// slow reader costs no memory and ends only by compaction.
type memoryWatch struct {
	span span
	wake chan struct{} // holds one signal: there may be something new

	// Guarded by the Memory's mu: while nothing is pending, nothing for the
	// watch has happened up to revision quiet, so compaction does not end it.
	pending bool
	quiet   int64
}

func (w *memoryWatch) signal() {
	select {
	case w.wake <- struct{}{}:
	default: // there is one already
	}
}

// Watch implements [Engine].
func (m *Memory) Watch(ctx context.Context, req WatchRequest) <-chan WatchBatch {
	out := make(chan WatchBatch, 1)
	w := &memoryWatch{span: span{req.Key, req.End}, wake: make(chan struct{}, 1), pending: true}
	m.mu.Lock()
	defer m.mu.Unlock()
	if req.Revision == 0 {
		req.Revision = m.store.rev + 1
	}
	if err := m.checkWatch(ctx, req); err != nil {
		out <- WatchBatch{Revision: req.Revision - 1, Err: err}
		close(out)
		return out
	}
	m.watchers = append(m.watchers, w)
	w.signal()
	m.work.Go(func() {
		defer close(out)
		m.watch(ctx, w, req, out)
		m.mu.Lock()
		defer m.mu.Unlock()
		i := slices.Index(m.watchers, w)
		m.watchers = slices.Delete(m.watchers, i, i+1)
	})
	return out
}

func (m *Memory) checkWatch(ctx context.Context, req WatchRequest) error {
	switch {
	case ctx.Err() != nil:
		return waitError(ctx, "watch", holdfast.NotApplied)
	case m.closed:
		return callError("watch", req.Key, holdfast.CodeClosed, holdfast.NotApplied, nil)
	case req.Key == "" && req.End == "":
		return invalid("watch", "", "the empty key")
	case req.End != "" && req.End <= req.Key:
		return invalid("watch", req.Key, "the range ends at %q, before it begins", req.End)
	case req.Revision < 0:
		return invalid("watch", req.Key, "revision %d", req.Revision)
	}
	return nil
}

// watch delivers until ctx ends, the engine closes or history is gone.
func (m *Memory) watch(ctx context.Context, w *memoryWatch, req WatchRequest, out chan WatchBatch) {
	next := req.Revision
	var beat <-chan time.Time
	if req.Progress {
		t := time.NewTicker(watchProgressEvery)
		defer t.Stop()
		beat = t.C
	}
	for {
		progress := false
		select {
		case <-w.wake:
		case <-beat:
			progress = true
		case <-ctx.Done():
			return
		case <-m.done:
			m.closeWatch(req, next, out)
			return
		}
		for more := true; more; {
			var b WatchBatch
			b, more = m.batch(w, req, next)
			if b.Err == nil && len(b.Events) == 0 && (!progress || b.Revision == 0) {
				next = max(next, b.Revision+1)
				continue
			}
			select {
			case out <- b:
			case <-ctx.Done():
				return
			case <-m.done:
				m.closeWatch(req, next, out)
				return
			}
			if b.Err != nil {
				return
			}
			next, progress = b.Revision+1, false
		}
	}
}

// closeWatch ends a watch whose engine is closed. The one slot of the channel
// is the calling goroutine's to fill: a batch that nobody has taken gives way,
// and is not counted as delivered.
func (m *Memory) closeWatch(req WatchRequest, next int64, out chan WatchBatch) {
	select {
	case b := <-out:
		if len(b.Events) > 0 {
			next = b.Events[0].KV.ModRevision
		}
	default:
	}
	out <- WatchBatch{Revision: next - 1, Err: callError("watch", req.Key, holdfast.CodeClosed, holdfast.NotApplied, nil)}
}

// batch reads the log from revision next on; more tells whether there is
// something left. There is nothing, and the batch's Revision is 0, during an
// outage and before the watch's first revision has come near.
func (m *Memory) batch(w *memoryWatch, req WatchRequest, next int64) (b WatchBatch, more bool) {
	m.mu.Lock()
	rev, compacted, log, logged, outage := m.store.rev, m.store.compacted, m.store.log, m.store.logged, m.outage != nil
	if !w.pending {
		next = max(next, w.quiet+1)
	}
	if !outage && next <= rev+1 {
		w.pending, w.quiet = false, rev // unless the batch is cut short below
	}
	m.mu.Unlock()
	switch {
	case outage || next > rev+1:
		return WatchBatch{}, false
	case next < compacted:
		return WatchBatch{
			Revision: next - 1,
			Err:      callError("watch", req.Key, holdfast.CodeCompacted, holdfast.NotApplied, nil),
		}, false
	}
	b.Revision = next - 1
	for r := max(next, logged); r <= rev; r++ {
		if len(b.Events) >= watchBatchEvents {
			m.mu.Lock()
			w.pending = true
			m.mu.Unlock()
			return b, true
		}
		for _, ch := range log[r-logged] {
			if !w.span.has(ch.kv.Key) {
				continue
			}
			ev := Event{Deleted: ch.deleted, KV: *ch.kv}
			if req.Prev && ch.prev != nil && r > compacted {
				prev := *ch.prev
				ev.Prev = &prev
			}
			b.Events = append(b.Events, ev)
		}
		b.Revision = r
	}
	return b, false
}
