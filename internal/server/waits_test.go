package server

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/internal/wire"
)

var key = waitKey{kind: "lock", session: 1, name: "x", request: "r"}

func newTestQueue() *queue {
	return newQueue(time.Minute, 5*time.Second, newQuota("waiting calls", "session", 10, 2))
}

// forever waits until its context ends.
func forever(ctx context.Context) (any, error) {
	<-ctx.Done()
	return nil, &holdfast.Error{Code: holdfast.CodeCanceled, Outcome: holdfast.NotApplied, Err: ctx.Err()}
}

func TestQueue_SliceThenGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue()
		defer q.close()
		var started atomic.Int32
		f := func(ctx context.Context) (any, error) {
			started.Add(1)
			return forever(ctx)
		}
		begin := time.Now()
		for range 3 { // each within the grace of the one before
			if _, err := q.attend(t.Context(), key, "", f); !errors.Is(err, wire.ErrAgain) {
				t.Fatalf("got %v", err)
			}
			if err := pause(t.Context(), 4*time.Second); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(begin); took != 3*64*time.Second || started.Load() != 1 {
			t.Errorf("took %v in %d waits", took, started.Load())
		}
		if err := pause(t.Context(), 2*time.Second); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if q.quota.used() != 0 || len(q.waiting("lock")) != 0 {
			t.Error("the wait goes on unattended")
		}
	})
}

func TestQueue_TwoAttendOneWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue()
		defer q.close()
		granted := make(chan struct{})
		f := func(ctx context.Context) (any, error) {
			select {
			case <-granted:
				return 7, nil
			case <-ctx.Done():
				return forever(ctx)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		type result struct {
			v   any
			err error
		}
		first, second := make(chan result, 1), make(chan result, 1)
		go func() {
			v, err := q.attend(ctx, key, "", f)
			first <- result{v, err}
		}()
		go func() {
			v, err := q.attend(t.Context(), key, "", f)
			second <- result{v, err}
		}()
		synctest.Wait()
		if n := q.quota.used(); n != 1 {
			t.Errorf("%d waits", n)
		}
		cancel() // one caller goes away, the other one still waits
		if r := <-first; holdfast.CodeOf(r.err) != holdfast.CodeCanceled || holdfast.OutcomeOf(r.err) != holdfast.Unknown {
			t.Errorf("the one who left got %v", r)
		}
		close(granted)
		if r := <-second; r.v != 7 || r.err != nil {
			t.Errorf("the one who stayed got %v", r)
		}
	})
}

// A grant that comes as its only caller goes away is returned, not lost: it
// belongs to the caller's session, and asking again finds it.
func TestQueue_ResultAfterCancel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue()
		defer q.close()
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		v, err := q.attend(ctx, key, "", func(ctx context.Context) (any, error) {
			<-ctx.Done()
			return 7, nil
		})
		if v != 7 || err != nil {
			t.Errorf("got %v, %v", v, err)
		}
	})
}

func TestQueue_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue()
		got := make(chan error, 1)
		go func() {
			_, err := q.attend(t.Context(), key, "", forever)
			got <- err
		}()
		synctest.Wait()
		q.close()
		if err := <-got; !errors.Is(err, wire.ErrAgain) {
			t.Errorf("got %v", err)
		}
		if _, err := q.attend(t.Context(), key, "", forever); !errors.Is(err, wire.ErrAgain) {
			t.Errorf("after the end: %v", err)
		}
	})
}

func TestQuota(t *testing.T) {
	q := newQuota("things", "owner", 3, 2)
	var back []func()
	for i, c := range []struct {
		key string
		ok  bool
	}{{"a", true}, {"a", true}, {"a", false}, {"b", true}, {"b", false}, {"c", false}} {
		f, err := q.take(c.key)
		if (err == nil) != c.ok || err != nil && !errors.Is(err, holdfast.ErrExhausted) {
			t.Errorf("%d: %v", i, err)
		}
		if err == nil {
			back = append(back, f)
		}
	}
	for _, f := range back {
		f()
	}
	if q.used() != 0 || len(q.by) != 0 {
		t.Errorf("%d left, %v", q.used(), q.by)
	}
}

func TestRates_ForgetsTheQuiet(t *testing.T) {
	r := newRates(10)
	now := time.Now()
	for i := range manyClients {
		if _, err := r.allow(fmt.Sprint(i), now); err != nil {
			t.Fatal(err)
		}
	}
	for range 9 {
		if _, err := r.allow("0", now); err != nil {
			t.Fatal(err)
		}
	}
	wait, err := r.allow("0", now)
	if !errors.Is(err, holdfast.ErrExhausted) || wait != 100*time.Millisecond {
		t.Errorf("one too many: %v, %v", wait, err)
	}
	if _, err := r.allow("new", now.Add(time.Second/5)); err != nil || len(r.by) != 2 { // "0" has not been quiet for long enough
		t.Errorf("%v, %d remembered", err, len(r.by))
	}
}
