package lock

import (
	"context"
	"errors"
	"slices"
	"sync"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// Held is a lock that was granted to this process. Safe for concurrent use.
type Held struct {
	name    string
	grant   Grant
	life    *engine.Lifeline
	ctx     context.Context
	cancel  context.CancelCauseFunc
	release func(context.Context) error

	mu       sync.Mutex // guards the field below
	released bool
}

// NewHeld is a grant together with the lifeline it hangs on and the way to give
// it back. It is for those who carry grants over a network; others use Acquire.
func NewHeld(ctx context.Context, life *engine.Lifeline, g Grant, release func(context.Context) error) *Held {
	h := &Held{name: g.Name, grant: g, life: life, release: release}
	h.ctx, h.cancel = context.WithCancelCause(life.Context())
	h.ctx = context.WithValue(h.ctx, chainKey{}, &chain{name: g.Name, next: chainOf(ctx)})
	return h
}

// Name is the lock's name.
func (h *Held) Name() string { return h.name }

// Token is the fencing token: send it with every effect.
func (h *Held) Token() holdfast.Token { return h.grant.Token }

// Context ends when the lock is lost or released; its cause then matches
// holdfast.ErrLost or holdfast.ErrClosed. On a running process it ends before
// the quorum could give the lock to another.
func (h *Held) Context() context.Context { return h.ctx }

// Lost is closed when the lock is lost or released.
func (h *Held) Lost() <-chan struct{} { return h.ctx.Done() }

// Err is nil while the lock is surely held. It looks at the clock, so it is
// right also just after a pause, when Lost is not closed yet.
func (h *Held) Err() error {
	if err := h.life.Err(); err != nil {
		return err
	}
	return context.Cause(h.ctx)
}

// ValidUntil is the instant until which the quorum surely keeps the lock.
func (h *Held) ValidUntil() engine.Instant { return h.life.ValidUntil() }

// Release gives the lock back. The context ends first. Repeating it, also after
// an error, is harmless; when ctx ends before the quorum has answered, the
// session goes on trying, and gives the lock up at the latest when it ends
// itself. Releasing a lost lock is ErrLost: somebody else may hold it.
func (h *Held) Release(ctx context.Context) error {
	h.mu.Lock()
	again := h.released
	h.released = true
	h.mu.Unlock()
	lost := h.life.Err()
	h.cancel(&holdfast.Error{Key: "lock " + h.name, Op: "release", Code: holdfast.CodeClosed, Outcome: holdfast.NotApplied, Err: errors.New("released")})
	switch {
	case lost == nil:
		return h.release(ctx)
	case again:
		return nil
	default:
		return &holdfast.Error{Key: "lock " + h.name, Op: "release", Code: holdfast.CodeOf(lost), Outcome: holdfast.NotApplied, Err: lost}
	}
}

// chain is the names held above a context, innermost first.
type chain struct {
	name string
	next *chain
}

type chainKey struct{}

func chainOf(ctx context.Context) *chain {
	c, _ := ctx.Value(chainKey{}).(*chain)
	return c
}

// CheckReentry refuses to wait for a name below a Held.Context that holds it:
// such a wait could only end by its own timeout.
func CheckReentry(ctx context.Context, name string) error {
	for c := chainOf(ctx); c != nil; c = c.next {
		if c.name == name {
			return &holdfast.Error{
				Key: "lock " + name, Op: "acquire", Code: holdfast.CodeBusy, Outcome: holdfast.NotApplied,
				Err: errors.New("already held by this chain of calls: locks are not reentrant"),
			}
		}
	}
	return nil
}

// Set is several locks held together.
type Set []*Held

// Release gives all of them back, the last one first, and returns all errors.
func (s Set) Release(ctx context.Context) error {
	var errs []error
	for _, h := range slices.Backward(s) {
		errs = append(errs, h.Release(ctx))
	}
	return errors.Join(errs...)
}
