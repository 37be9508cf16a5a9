package engine

import (
	"context"
	"time"

	"holdfast.dev"
)

// Update is what [Follow] tells: a snapshot, or what changed since the update
// before.
type Update struct {
	Revision int64   // of the store, as far as this update goes
	Snapshot bool    // KVs is all there is; forget what was known
	KVs      []KV    // with Snapshot
	Events   []Event // without
}

// followSilence is how long a watch may stay silent, progress included, before
// it is thought dead and begun anew from a snapshot.
const followSilence = 10 * time.Second

// Follow reads the keys in [key, end), calls f with them, and then with every
// change, gap-free and in order, until ctx ends. When history is compacted
// under it, when the watch falls silent or fails, it starts over with a
// snapshot. f is called from one goroutine, the caller's own.
func Follow(ctx context.Context, e Engine, attempt time.Duration, key, end string, f func(Update)) {
	for ctx.Err() == nil {
		var res RangeResult
		err := resend(ctx, attempt, func(ctx context.Context) (err error) {
			res, err = e.Range(ctx, RangeRequest{Key: key, End: end})
			return err
		})
		if err != nil {
			if pause(ctx, time.Second) != nil {
				return
			}
			continue
		}
		f(Update{Revision: res.Revision, Snapshot: true, KVs: res.KVs})
		followWatch(ctx, e, WatchRequest{Key: key, End: end, Revision: res.Revision + 1, Progress: true}, f)
		if pause(ctx, retryPause) != nil {
			return
		}
	}
}

// followWatch reads one watch until it ends or falls silent.
func followWatch(ctx context.Context, e Engine, req WatchRequest, f func(Update)) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silence := time.AfterFunc(followSilence, func() {
		cancel(&holdfast.Error{Op: "watch", Key: req.Key, Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied})
	})
	defer silence.Stop()
	for b := range e.Watch(ctx, req) {
		if b.Err != nil {
			cancel(nil)
			continue
		}
		silence.Reset(followSilence)
		f(Update{Revision: b.Revision, Events: b.Events})
	}
}
