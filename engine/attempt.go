package engine

import (
	"context"
	"errors"
	"time"

	"holdfast.dev"
)

// DefaultAttempt is how long one attempt may take before it is sent again: a
// little more than the default election timeout (500 ms), so that the attempt
// which a dying leader swallowed is repeated when the next one is there. etcd
// itself would let it hang for 5 s + 2 × election.
const DefaultAttempt = 600 * time.Millisecond

// retryPause is the pause between attempts that failed at once.
const retryPause = 25 * time.Millisecond

// Submit sends a transaction until its outcome is known or ctx ends. It may be
// applied more than once, so it is only for transactions whose guards make the
// repetition harmless: a compare on the revision it replaces, or on the absence
// of what it creates. When ctx ends first, the error's outcome is Unknown if
// any attempt may have been applied.
func Submit(ctx context.Context, e Engine, attempt time.Duration, t Txn) (TxnResult, error) {
	var res TxnResult
	err := resend(ctx, attempt, func(ctx context.Context) (err error) {
		res, err = e.Txn(ctx, t)
		return err
	})
	return res, err
}

// Read repeats a read until it succeeds, fails for good, or ctx ends; attempt is
// how long one may take, DefaultAttempt if it is 0.
func Read(ctx context.Context, e Engine, attempt time.Duration, r RangeRequest) (RangeResult, error) {
	var res RangeResult
	var last error
	err := resend(ctx, attempt, func(ctx context.Context) error {
		res, last = e.Range(ctx, r)
		return last
	})
	if err != nil && ctx.Err() != nil && last != nil {
		err = &holdfast.Error{Code: codeOfContext(ctx), Outcome: holdfast.NotApplied, Err: errors.Join(context.Cause(ctx), last)}
	}
	return res, err
}

// Pause waits as long as is good between two attempts that failed at once, or
// until ctx ends.
func Pause(ctx context.Context) error { return pause(ctx, retryPause) }

// resend calls f, each time under its own deadline, until it succeeds or fails
// in a way that a repetition cannot change.
func resend(ctx context.Context, attempt time.Duration, f func(context.Context) error) error {
	if attempt <= 0 {
		attempt = DefaultAttempt
	}
	outcome := holdfast.NotApplied
	for {
		actx, cancel := context.WithTimeout(ctx, attempt)
		err := f(actx)
		cancel()
		if err == nil {
			return nil
		}
		if holdfast.OutcomeOf(err) != holdfast.NotApplied {
			outcome = holdfast.Unknown
		}
		if !Transient(err) {
			return withOutcome(err, outcome)
		}
		if err := pause(ctx, retryPause); err != nil {
			return &holdfast.Error{Op: "wait for the quorum", Code: codeOfContext(ctx), Outcome: outcome, Err: context.Cause(ctx)}
		}
	}
}

// Transient tells errors that time may mend from those that it will not.
func Transient(err error) bool {
	c := holdfast.CodeOf(err)
	return c == holdfast.CodeNoQuorum || c == holdfast.CodeCanceled || c == holdfast.CodeDeadline || c == holdfast.CodeUnknown
}

// withOutcome gives err the outcome of all attempts together.
func withOutcome(err error, o holdfast.Outcome) error {
	if holdfast.OutcomeOf(err) == o {
		return err
	}
	return &holdfast.Error{Code: holdfast.CodeOf(err), Outcome: o, Err: err}
}

// codeOfContext is the code for an ended context: that of the error which is
// its cause, if it has one.
func codeOfContext(ctx context.Context) holdfast.Code {
	if c := holdfast.CodeOf(context.Cause(ctx)); c != holdfast.CodeUnknown {
		return c
	}
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return holdfast.CodeDeadline
	}
	return holdfast.CodeCanceled
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
