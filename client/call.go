package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"
	"unicode/utf8"

	"holdfast.dev"
	"holdfast.dev/internal/wire"
)

// kind says how a call may be treated when its answer does not come.
type kind uint8

const (
	// reading changes nothing. It is sent until it is answered or ctx ends.
	reading kind = iota + 1
	// safe is like reading, because nodes recognise a repeat; but it changes
	// something.
	safe
	// waiting is safe and takes as long as it takes; it moves to another node
	// when the one it hangs on stops serving.
	waiting
	// single is sent to a second node only if the first surely has not seen it.
	single
)

// Pauses between rounds of attempts that failed at once.
const (
	firstPause = 25 * time.Millisecond
	lastPause  = 500 * time.Millisecond
)

// call does one request at the node in use and, as k allows, at others. The
// error is a *holdfast.Error with the given op and key.
func call[Res any](ctx context.Context, c *Client, op, key string, k kind, f func(context.Context, *endpoint) (Res, error)) (Res, error) {
	var (
		none    Res
		last    error
		tried   int
		unclear bool // an attempt without an answer may have been executed
	)
	if !utf8.ValidString(key) {
		return none, invalid(op, key, "the name is not UTF-8")
	}
	pause := firstPause
	for {
		if err := c.life.Err(); err != nil {
			return none, c.failed(op, key, unclear, &holdfast.Error{Code: holdfast.CodeClosed, Outcome: holdfast.NotApplied})
		}
		i := c.current.Load()
		res, err := attempt(ctx, c, c.endpoints[i], k, f)
		if err == nil {
			return res, nil
		}
		again := errors.Is(err, wire.ErrAgain)
		if !again && !failover(err) {
			return none, c.failed(op, key, false, err)
		}
		unsent := notSent(err)
		unclear = unclear || (k != reading && !unsent && !again && holdfast.OutcomeOf(err) != holdfast.NotApplied)
		if ctx.Err() != nil {
			return none, c.failed(op, key, unclear, stopped(ctx, last))
		}
		last = err
		if !again || holdfast.CodeOf(err) == holdfast.CodeNoQuorum { // a node that is stopping says both
			c.suspect(i)
		}
		if k == single && !unsent && holdfast.OutcomeOf(err) != holdfast.NotApplied {
			return none, c.failed(op, key, true, err)
		}
		if tried++; tried%len(c.endpoints) != 0 {
			continue
		}
		if !sleep(ctx, c.life, pause+rand.N(pause/2)) { //nolint:forbidigo // jitter; nothing is to be repeated
			return none, c.failed(op, key, unclear, stopped(ctx, last))
		}
		pause = min(2*pause, lastPause)
	}
}

// attempt sends the request to one node. Waiting calls end when the node is
// given up, others when it takes too long.
func attempt[Res any](ctx context.Context, c *Client, e *endpoint, k kind, f func(context.Context, *endpoint) (Res, error)) (Res, error) {
	ctx, end := c.ending(ctx)
	defer end()
	if k == waiting {
		e.long.Add(1)
		defer e.long.Add(-1)
		actx, cancel := e.during(ctx)
		defer cancel()
		res, err := f(actx, e)
		return res, wire.FromConnect(err)
	}
	limit := c.cfg.Attempt
	if d, ok := ctx.Deadline(); ok && len(c.endpoints) > 1 {
		limit = min(limit, max(time.Until(d)/2, 50*time.Millisecond)) // leave time for another node
	}
	actx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	res, err := f(actx, e)
	return res, wire.FromConnect(err)
}

// failover tells errors that another node, or the same one later, may mend.
func failover(err error) bool {
	code := holdfast.CodeOf(err)
	if wire.IsWire(err) {
		return code == holdfast.CodeNoQuorum || code == holdfast.CodeDeadline || code == holdfast.CodeCanceled
	}
	// No node said so: the connection broke, nobody answered, or it is the word
	// of a proxy or of another service, which asking again will not change.
	return code != holdfast.CodeInvalid && code != holdfast.CodeDenied
}

// notSent says that no node can have seen the request: there was no connection.
func notSent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// stopped is the error for a call whose context ended; last is why it was
// still trying.
func stopped(ctx context.Context, last error) error {
	code := holdfast.CodeOf(ctx.Err())
	if code == holdfast.CodeDeadline && last != nil {
		code = holdfast.CodeNoQuorum
	}
	cause := context.Cause(ctx)
	if last != nil {
		cause = several{cause, bare(last)}
	}
	return &holdfast.Error{Code: code, Outcome: holdfast.NotApplied, Err: cause}
}

// failed is the error of a whole call. Unclear attempts before make its
// outcome unknown; a node's answer stands as it is, because nodes recognise
// repeats.
func (c *Client) failed(op, key string, unclear bool, err error) error {
	e, ok := errors.AsType[*holdfast.Error](err)
	if !ok {
		return &holdfast.Error{Op: op, Key: key, Code: holdfast.CodeOf(err), Err: err}
	}
	out := *e
	if out.Op == "" {
		out.Op = op
	}
	if out.Key == "" {
		out.Key = key
	}
	if unclear {
		out.Outcome = holdfast.Unknown
	}
	return &out
}

// sleep waits for d; false: ctx or life ended first.
func sleep(ctx, life context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-life.Done():
	}
	return false
}
