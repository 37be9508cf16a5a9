package election

import (
	"context"
	"errors"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// Leadership is one term of this process as leader. Safe for concurrent use.
type Leadership struct {
	grant  Grant
	life   *engine.Lifeline
	ctx    context.Context
	cancel context.CancelCauseFunc
	remote Remote
}

// Grant is a leadership as it was granted, without the lifeline it hangs on.
type Grant struct {
	Name  string
	Token holdfast.Token
}

// Remote is how a leadership speaks to where it was granted.
type Remote struct {
	Proclaim func(context.Context, []byte) error
	Resign   func(context.Context) error
}

// NewLeadership is a grant together with the lifeline it hangs on. It is for
// those who carry grants over a network; others use Campaign.
func NewLeadership(life *engine.Lifeline, g Grant, r Remote) *Leadership {
	l := &Leadership{grant: g, life: life, remote: r}
	l.ctx, l.cancel = context.WithCancelCause(life.Context())
	return l
}

// Name is the election's name.
func (l *Leadership) Name() string { return l.grant.Name }

// Token is the fencing token of the term: send it with every effect.
func (l *Leadership) Token() holdfast.Token { return l.grant.Token }

// Context ends when the leadership is lost or resigned; its cause then matches
// holdfast.ErrLost or holdfast.ErrClosed. On a running process it ends before
// the quorum could elect another.
func (l *Leadership) Context() context.Context { return l.ctx }

// Lost is closed when the leadership is lost or resigned.
func (l *Leadership) Lost() <-chan struct{} { return l.ctx.Done() }

// Err is nil while this process surely leads. It looks at the clock, so it is
// right also just after a pause, when Lost is not closed yet.
func (l *Leadership) Err() error {
	if err := l.life.Err(); err != nil {
		return err
	}
	return context.Cause(l.ctx)
}

// ValidUntil is the instant until which the quorum surely keeps the leadership.
func (l *Leadership) ValidUntil() engine.Instant { return l.life.ValidUntil() }

// Proclaim replaces the value that observers see. ErrLost says that this
// process does not lead any more.
func (l *Leadership) Proclaim(ctx context.Context, value []byte) error {
	if err := l.Err(); err != nil {
		return &holdfast.Error{Key: "election " + l.grant.Name, Op: "proclaim", Code: holdfast.CodeOf(err), Outcome: holdfast.NotApplied, Err: err}
	}
	return l.remote.Proclaim(ctx, value)
}

// Resign ends the term; the context ends first. Repeating it is harmless. When
// ctx ends before the quorum has answered, the session goes on trying. Resigning
// a lost leadership is ErrLost.
func (l *Leadership) Resign(ctx context.Context) error {
	lost := l.life.Err()
	l.cancel(&holdfast.Error{
		Key: "election " + l.grant.Name, Op: "resign", Code: holdfast.CodeClosed, Outcome: holdfast.NotApplied, Err: errors.New("resigned"),
	})
	if lost != nil {
		return &holdfast.Error{Key: "election " + l.grant.Name, Op: "resign", Code: holdfast.CodeOf(lost), Outcome: holdfast.NotApplied, Err: lost}
	}
	return l.remote.Resign(ctx)
}
