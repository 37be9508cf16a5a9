package grant

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev/engine"
)

// TestAgent_SessionThatComesBack: a session opened anew under an old id ends no
// agent's peace.
func TestAgent_SessionThatComesBack(t *testing.T) {
	bubble(t, func(w *stage) {
		open := func() *engine.Session {
			s, err := engine.OpenSession(w.Context(), w.engine, engine.SessionConfig{TTL: time.Minute, ID: 7})
			if err != nil {
				w.Fatal(err)
			}
			return s
		}
		s := open()
		a := w.agent(w.session(), Config{Kind: "lock", Sweep: true})
		o := Owner{s.ID(), "r1"}
		if _, err := a.Acquire(w.Context(), Ask{Owner: o, Name: "x", Mode: Exclusive, Keep: true}); err != nil {
			w.Fatal(err)
		}
		waited := make(chan struct{})
		go func() {
			defer close(waited)
			_, _ = a.Acquire(w.Context(), Ask{Owner: Owner{s.ID(), "r2"}, Name: "x", Mode: Exclusive, Keep: true})
		}()
		synctest.Wait()
		n := 0
		w.engine.before(func(ctx context.Context, t engine.Txn) error {
			if t.Then[0].Kind != engine.OpGet && t.Then[0].Key == "lock/r/x" || t.Then[0].Range.Key == "lock/r/x" {
				n++
				<-time.NewTimer(100 * time.Millisecond).C
			}
			return nil
		})
		_ = s.Close(w.Context())
		<-time.NewTimer(10 * time.Millisecond).C
		s = open()
		w.ends = append(w.ends, func() { _ = s.Close(context.WithoutCancel(w.Context())) })
		<-time.NewTimer(time.Minute).C
		if n > 10 {
			w.Errorf("%d requests", n)
		}
		if err := a.Release(w.Context(), o, "x"); err != nil {
			w.Error(err)
		}
		w.engine.txn.Store(nil)
		_ = a.Release(w.Context(), Owner{s.ID(), "r2"}, "x")
		<-waited
	})
}
