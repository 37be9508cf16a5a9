package server

import (
	"context"
	"slices"
	"sync"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/internal/wire"
)

// waitKey names what one session waits for.
type waitKey struct {
	kind    string // "lock", "election"
	session engine.SessionID
	name    string
	request string
}

// queue is the waits of clients at this node. A wait outlives the calls that
// attend it by a grace period, so that a client which has to call again every
// now and then keeps its place. Safe for concurrent use.
type queue struct {
	slice time.Duration // how long one call attends
	grace time.Duration // how long a wait goes on unattended
	quota *quota

	ctx  context.Context // ends when the node stops
	stop context.CancelFunc
	all  sync.WaitGroup // the waits under way

	mu sync.Mutex // guards the field below, and attending of each wait
	by map[waitKey]*wait
}

// wait is one wait with its result.
type wait struct {
	mode      string    // for people
	since     time.Time // for people
	cancel    context.CancelFunc
	done      chan struct{} // closed when the fields below are set
	result    any
	err       error
	attending int // calls that wait for the result
	idle      *time.Timer
}

func newQueue(slice, grace time.Duration, q *quota) *queue {
	w := &queue{slice: slice, grace: grace, quota: q, by: map[waitKey]*wait{}}
	w.ctx, w.stop = context.WithCancel(context.Background())
	return w
}

// close ends all waits and waits for them.
func (q *queue) close() {
	q.mu.Lock()
	q.stop()
	q.mu.Unlock()
	q.all.Wait()
}

// attend waits for the result of f, which it starts unless the same wait is
// under way. When ctx ends and nobody else attends, f is cancelled and its
// result returned all the same. After the slice the error has wire.ErrAgain and
// f goes on for the grace period.
func (q *queue) attend(ctx context.Context, key waitKey, mode string, f func(context.Context) (any, error)) (any, error) {
	w, err := q.join(ctx, key, mode, f)
	if err != nil {
		return nil, err
	}
	slice := time.NewTimer(q.slice)
	defer slice.Stop()
	select {
	case <-w.done:
		q.leave(w, 0)
		if holdfast.CodeOf(w.err) == holdfast.CodeCanceled && ctx.Err() == nil {
			return nil, q.again(key) // joined at the very end of its grace
		}
	case <-q.ctx.Done(): // the node stops: another one will go on
		<-w.done
		if w.err != nil {
			return nil, q.again(key)
		}
	case <-slice.C:
		q.leave(w, q.grace)
		return nil, q.again(key)
	case <-ctx.Done():
		if !q.leave(w, 0) { // another call of the same request waits on
			return nil, &holdfast.Error{Code: holdfast.CodeOf(ctx.Err()), Outcome: holdfast.Unknown, Request: key.request, Err: ctx.Err()}
		}
		<-w.done
	}
	return w.result, w.err
}

// again tells the client to call again.
func (q *queue) again(key waitKey) error {
	return &holdfast.Error{Code: holdfast.CodeBusy, Outcome: holdfast.Unknown, Request: key.request, Err: wire.ErrAgain}
}

// join finds the wait of that key or starts it.
func (q *queue) join(ctx context.Context, key waitKey, mode string, f func(context.Context) (any, error)) (*wait, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.ctx.Err() != nil {
		return nil, q.again(key)
	}
	if w, ok := q.by[key]; ok {
		w.attending++
		if w.idle != nil {
			w.idle.Stop()
			w.idle = nil
		}
		return w, nil
	}
	giveBack, err := q.quota.take(key.session.String())
	if err != nil {
		return nil, err
	}
	w := &wait{mode: mode, since: time.Now(), done: make(chan struct{}), attending: 1}
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	unhook := context.AfterFunc(q.ctx, cancel) //nolint:contextcheck // a wait outlives the call that began it
	w.cancel = cancel
	q.by[key] = w
	q.all.Go(func() {
		defer cancel()
		defer unhook()
		w.result, w.err = f(wctx)
		giveBack()
		q.mu.Lock()
		delete(q.by, key)
		if w.idle != nil {
			w.idle.Stop()
		}
		q.mu.Unlock()
		close(w.done)
	})
	return w, nil
}

// leave says that a call attends no longer. It returns whether it was the last
// one; then the wait is cancelled after grace.
func (q *queue) leave(w *wait, grace time.Duration) (last bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	w.attending--
	if w.attending > 0 {
		return false
	}
	if grace == 0 {
		w.cancel()
	} else {
		w.idle = time.AfterFunc(grace, w.cancel)
	}
	return true
}

// waiter is what people see of a wait.
type waiter struct {
	waitKey
	mode  string
	since time.Time
}

// waiting lists the waits of one kind, by name, the oldest first. The quorum
// does not know of all of them: a node hands over among its own.
func (q *queue) waiting(kind string) map[string][]waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	by := map[string][]waiter{}
	for key, w := range q.by {
		if key.kind == kind {
			by[key.name] = append(by[key.name], waiter{waitKey: key, mode: w.mode, since: w.since})
		}
	}
	for _, list := range by {
		slices.SortFunc(list, func(a, b waiter) int { return a.since.Compare(b.since) })
	}
	return by
}
