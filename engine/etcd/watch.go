package etcd

import (
	"context"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev"
	"holdfast.dev/engine"
)

const (
	progressFirst = 150 * time.Millisecond // after which a new stream's member is asked where it stands: it reads history in steps of 100 ms
	progressEvery = 2 * time.Second        // how often it is asked from then on
	createWait    = time.Second            // how long Watch itself waits for a watch "from now"
	closeGrace    = time.Second            // how long Close waits for a reader to take the last batch
	reopenFirst   = 25 * time.Millisecond  // pause before a broken stream is opened again
	reopenMost    = 500 * time.Millisecond // the same, after several failures
	quietMost     = time.Minute            // longest silence suffered, after several silent streams
)

var (
	errMoved  = errors.New("another member is used now")
	errSilent = errors.New("watch fell silent")
)

// Watch implements [engine.Engine]. The stream is opened again, gap-free, when
// it breaks, when its member loses its leader, when another member is used, and
// when nothing comes for some seconds although the member is asked every two
// seconds where it stands. With Revision 0 the call waits up to a second for
// the member to say from where it watches.
func (e *Engine) Watch(ctx context.Context, req engine.WatchRequest) <-chan engine.WatchBatch {
	w := &watch{e: e, req: req, next: req.Revision, out: make(chan engine.WatchBatch, 1), created: make(chan struct{}), quiet: e.opt.Quiet}
	if req.Key == "" && req.End == "" || req.End != "" && req.End <= req.Key || req.Revision < 0 {
		w.out <- engine.WatchBatch{Err: invalid("watch", req.Key, "no such range or revision")}
		close(w.out)
		return w.out
	}
	if !e.begin() {
		w.out <- engine.WatchBatch{Err: w.failed(holdfast.CodeClosed, nil)}
		close(w.out)
		return w.out
	}
	go func() {
		defer e.busy.Done()
		defer close(w.out)
		w.run(ctx)
	}()
	if req.Revision == 0 {
		t := time.NewTimer(createWait)
		defer t.Stop()
		select {
		case <-w.created:
		case <-ctx.Done():
		case <-t.C:
		}
	}
	return w.out
}

// watch is one watch over however many streams it takes.
type watch struct {
	e         *Engine
	req       engine.WatchRequest
	next      int64 // first revision not delivered yet; 0 until the first stream says
	delivered int64
	out       chan engine.WatchBatch
	created   chan struct{} // closed when the first stream is there
	once      sync.Once
	quiet     time.Duration
	pause     time.Duration

	// whole is set on members whose answers to progress requests may overtake
	// events: everything under the prefix is watched then, so that whatever
	// comes tells how far the watch is, and busy whether anything came.
	whole bool
	busy  bool
}

func (w *watch) failed(c holdfast.Code, err error) error {
	return &holdfast.Error{Op: "watch", Key: w.req.Key, Code: c, Outcome: holdfast.NotApplied, Err: err}
}

// run opens streams until the watch ends for good.
func (w *watch) run(ctx context.Context) {
	defer w.once.Do(func() { close(w.created) })
	stopping, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(w.e.stop, cancel)() //nolint:contextcheck // closing the engine ends it too
	w.pause = reopenFirst
	for {
		err := w.stream(stopping)
		switch code := judge(ctx, err, true).code; {
		case ctx.Err() != nil:
			return
		case w.e.stop.Err() != nil:
			w.last(ctx, w.failed(holdfast.CodeClosed, nil))
			return
		case staleToken(err) && w.e.b.Refresh(stopping):
		case code == holdfast.CodeCompacted, code == holdfast.CodeInvalid, code == holdfast.CodeDenied:
			w.last(ctx, w.failed(code, err))
			return
		case errors.Is(err, errMoved):
			continue
		default:
			w.e.b.Suspect()
		}
		t := time.NewTimer(w.pause)
		select {
		case <-t.C:
		case <-stopping.Done():
		}
		t.Stop()
		w.pause = min(2*w.pause, reopenMost)
	}
}

// last delivers the batch that ends the watch, to a reader that is there.
func (w *watch) last(ctx context.Context, err error) {
	t := time.NewTimer(closeGrace)
	defer t.Stop()
	select {
	case w.out <- engine.WatchBatch{Revision: w.delivered, Err: err}:
	case <-ctx.Done():
	case <-t.C:
	}
}

// stream opens one stream and reads it until it breaks.
func (w *watch) stream(ctx context.Context) error {
	stubs, moved := w.e.b.Stubs()
	prepared, _ := w.e.b.Prepare(ctx)
	sctx, cancel := context.WithCancel(prepared)
	received, broken := make(chan *etcdserverpb.WatchResponse), make(chan error, 1)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()

	stream, err := stubs.Watch.Watch(sctx, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		return err
	}
	reader.Go(func() {
		for {
			r, err := stream.Recv()
			if err != nil {
				broken <- err
				return
			}
			select {
			case received <- r:
			case <-sctx.Done():
				return
			}
		}
	})
	create := &etcdserverpb.WatchCreateRequest{StartRevision: w.next, ProgressNotify: true, PrevKv: w.req.Prev}
	create.Key, create.RangeEnd = w.e.keys.span(w.req.Key, w.req.End)
	w.whole = !stubs.Progress
	if w.whole {
		create.Key, create.RangeEnd = w.e.keys.span("", engine.PrefixEnd(""))
	}
	if err := stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_CreateRequest{CreateRequest: create}}); err != nil {
		return firstOf(broken, err)
	}
	ask := time.NewTimer(progressFirst)
	defer ask.Stop()
	silence := time.NewTimer(w.quiet)
	defer silence.Stop()
	for {
		select {
		case r := <-received:
			if err := w.take(ctx, r); err != nil {
				return err
			}
			silence.Reset(w.quiet)
		case <-ask.C:
			err := stream.Send(&etcdserverpb.WatchRequest{RequestUnion: &etcdserverpb.WatchRequest_ProgressRequest{ProgressRequest: &etcdserverpb.WatchProgressRequest{}}})
			if err != nil {
				return firstOf(broken, err)
			}
			if w.whole && w.req.Progress && !w.busy {
				w.fence(prepared, stubs)
			}
			w.busy = false
			ask.Reset(progressEvery)
		case <-silence.C:
			w.quiet = min(2*w.quiet, quietMost)
			return errSilent
		case <-moved:
			return errMoved
		case err := <-broken:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// firstOf prefers what the reader found: a failed Send says only "EOF".
func firstOf(broken <-chan error, err error) error {
	select {
	case b := <-broken:
		return b
	default:
		return err
	}
}

// take handles one answer of the member.
func (w *watch) take(ctx context.Context, r *etcdserverpb.WatchResponse) error {
	rev := r.GetHeader().GetRevision()
	switch {
	case r.GetCompactRevision() != 0:
		return rpctypes.ErrGRPCCompacted
	case r.GetCanceled():
		if r.GetCancelReason() == "" {
			return status.Error(codes.Unavailable, "watch canceled by the member")
		}
		// Some servers put the text of a whole gRPC error there.
		_, reason, found := strings.Cut(r.GetCancelReason(), " desc = ")
		if !found {
			reason = r.GetCancelReason()
		}
		return status.Error(codes.Unavailable, reason)
	case r.GetCreated():
		defer w.once.Do(func() { close(w.created) })
		if w.next == 0 {
			w.next = rev + 1
		}
		if w.next <= rev {
			return nil // history is to come
		}
		return w.progress(ctx, rev)
	case len(r.GetEvents()) == 0:
		// Without a watch's id it is the answer to a request for progress.
		if r.GetWatchId() == -1 && w.whole {
			rev = w.delivered
		}
		return w.progress(ctx, rev)
	}
	w.busy = true
	events := r.GetEvents()
	// A member that is catching up puts its present revision in the header,
	// which the events of this batch need not reach.
	rev = events[len(events)-1].GetKv().GetModRevision()
	if w.whole {
		events = slices.DeleteFunc(slices.Clone(events), func(ev *mvccpb.Event) bool {
			return !w.wants(w.e.keys.strip(ev.GetKv().GetKey()))
		})
		if len(events) == 0 {
			return w.progress(ctx, rev)
		}
	}
	w.quiet, w.pause = w.e.opt.Quiet, reopenFirst
	w.delivered = rev
	w.next = rev + 1
	return w.deliver(ctx, engine.WatchBatch{Revision: rev, Events: w.e.keys.events(events)})
}

// wants reports whether a key is in the range that is watched.
func (w *watch) wants(key string) bool {
	if w.req.End == "" {
		return key == w.req.Key
	}
	return w.req.Key <= key && key < w.req.End
}

// fenceKey is written so that there is an event to go by.
const fenceKey = "cluster/watch"

// fence writes a key that the watch sees, on members whose answers to progress
// requests may overtake events. When its event arrives, so have all before it.
// Whether the write succeeds does not matter: it is tried again.
func (w *watch) fence(ctx context.Context, s Stubs) {
	ctx, cancel := context.WithTimeout(ctx, createWait)
	defer cancel()
	if _, err := s.KV.Put(ctx, &etcdserverpb.PutRequest{Key: []byte(string(w.e.keys) + fenceKey)}); err != nil {
		w.e.b.Suspect()
	}
}

// progress notes that everything up to rev has been delivered, and tells so
// unless the member has no leader: it may then be cut off from the rest.
func (w *watch) progress(ctx context.Context, rev int64) error {
	w.quiet, w.pause = w.e.opt.Quiet, reopenFirst
	w.delivered = max(w.delivered, rev)
	w.next = max(w.next, w.delivered+1)
	if !w.req.Progress || !w.e.b.Leader() {
		return nil
	}
	return w.deliver(ctx, engine.WatchBatch{Revision: w.delivered})
}

func (w *watch) deliver(ctx context.Context, b engine.WatchBatch) error {
	select {
	case w.out <- b:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
