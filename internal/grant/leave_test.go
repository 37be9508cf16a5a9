package grant

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// TestAgent_BusyHereGrantedThere: the end of a wait at one node takes nothing
// from a call for the same claim at another.
func TestAgent_BusyHereGrantedThere(t *testing.T) {
	bubble(t, func(w *stage) {
		client, other := w.session(), w.session()
		a, b := w.agent(w.session(), Config{Kind: "lock", Sweep: true}), w.agent(w.session(), Config{Kind: "lock", Sweep: true})
		o, p := Owner{client.ID(), "r1"}, Owner{other.ID(), "r1"}
		if _, err := a.Acquire(w.Context(), Ask{Owner: p, Name: "x", Mode: Exclusive, Keep: true}); err != nil {
			w.Fatal(err)
		}
		granted := make(chan error, 1)
		go func() {
			_, err := a.Acquire(w.Context(), Ask{Owner: o, Name: "x", Mode: Exclusive, Keep: true})
			granted <- err
		}()
		synctest.Wait()
		ctx, cancel := context.WithTimeoutCause(w.Context(), time.Second, &holdfast.Error{Code: holdfast.CodeBusy})
		defer cancel()
		time.AfterFunc(500*time.Millisecond, func() {
			w.engine.deaf.Store(true)
			_ = a.Release(w.Context(), p, "x")
		})
		_, err := b.Acquire(ctx, Ask{Owner: o, Name: "x", Mode: Exclusive, Keep: true})
		if gerr := <-granted; gerr != nil {
			w.Fatal(gerr)
		}
		<-time.NewTimer(5 * time.Second).C
		if h := w.holders(a); len(h) != 1 || !h[0].is(o) {
			w.Errorf("granted at one node, %v at the other, and then held by %+v", err, h)
		}
	})
}

// TestAgent_AskedAgainWhileReleasing: a claim that is being released is not
// granted to who asks for it again.
func TestAgent_AskedAgainWhileReleasing(t *testing.T) {
	bubble(t, func(w *stage) {
		client := w.session()
		a := w.agent(w.session(), Config{Kind: "lock", Sweep: true})
		ask := Ask{Owner: Owner{client.ID(), "r1"}, Name: "x", Mode: Exclusive, Keep: true}
		if _, err := a.Acquire(w.Context(), ask); err != nil {
			w.Fatal(err)
		}
		w.engine.before(func(context.Context, engine.Txn) error {
			return &holdfast.Error{Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied}
		})
		ctx, cancel := context.WithTimeout(w.Context(), time.Second)
		defer cancel()
		if err := a.Release(ctx, ask.Owner, "x"); holdfast.OutcomeOf(err) != holdfast.Unknown {
			w.Fatal(err)
		}
		asked := make(chan error, 1)
		go func() {
			_, err := a.Acquire(w.Context(), ask)
			asked <- err
		}()
		synctest.Wait()
		w.engine.txn.Store(nil)
		err := <-asked
		<-time.NewTimer(time.Second).C
		held := len(w.holders(a)) > 0
		if held != (err == nil) || err != nil && holdfast.CodeOf(err) != holdfast.CodeCanceled {
			w.Errorf("answered %v, and held: %v", err, held)
		}
		if errors.Is(err, holdfast.ErrLost) {
			w.Error(err)
		}
	})
}
