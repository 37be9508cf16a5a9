package grant

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// between is an engine that a test gets between: before each transaction that
// writes, and, as etcd does it, before the context's end has a cause.
type between struct {
	engine.Engine
	txn  atomic.Pointer[func(context.Context, engine.Txn) error]
	deaf atomic.Bool // watches hear nothing
}

func (b *between) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	if f := b.txn.Load(); f != nil {
		if err := (*f)(ctx, t); err != nil {
			return engine.TxnResult{}, err
		}
	}
	return b.Engine.Txn(ctx, t)
}

func (b *between) Watch(ctx context.Context, w engine.WatchRequest) <-chan engine.WatchBatch {
	in, out := b.Engine.Watch(ctx, w), make(chan engine.WatchBatch)
	go func() {
		defer close(out)
		for batch := range in {
			if !b.deaf.Load() {
				out <- batch
			}
		}
	}()
	return out
}

func (b *between) before(f func(context.Context, engine.Txn) error) { b.txn.Store(&f) }

// stage is an engine with sessions and agents that end with the test.
type stage struct {
	*testing.T
	engine *between
	ends   []func()
}

func bubble(t *testing.T, f func(*stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := engine.NewMemory(engine.MemoryConfig{})
		w := &stage{T: t, engine: &between{Engine: m}}
		f(w)
		for _, end := range slices.Backward(w.ends) {
			end()
		}
		_ = m.Close()
	})
}

func (w *stage) session() *engine.Session {
	w.Helper()
	s, err := engine.OpenSession(w.Context(), w.engine, engine.SessionConfig{TTL: time.Minute})
	if err != nil {
		w.Fatal(err)
	}
	w.ends = append(w.ends, func() { _ = s.Close(context.WithoutCancel(w.Context())) })
	return s
}

func (w *stage) agent(s *engine.Session, cfg Config) *Agent {
	a := NewAgent(s, cfg)
	w.ends = append(w.ends, a.Close)
	return a
}

func (w *stage) holders(a *Agent) []Claim {
	w.Helper()
	s, err := a.Read(w.Context(), "x")
	if err != nil {
		w.Fatal(err)
	}
	return s.Holders
}

func writes(t engine.Txn) bool {
	for _, op := range t.Then {
		if op.Kind != engine.OpGet && (op.Kind != engine.OpPut || !strings.HasPrefix(op.Key, "session/")) {
			return true
		}
	}
	return false
}

// TestAgent_BusyIsNeverGranted: who was told that a wait is over does not ask
// again, so that a grant which was under way must not stay with him.
func TestAgent_BusyIsNeverGranted(t *testing.T) {
	bubble(t, func(w *stage) {
		client := w.session()
		a := w.agent(w.session(), Config{Kind: "lock", Sweep: true})
		w.engine.before(func(ctx context.Context, t engine.Txn) error {
			if writes(t) {
				<-time.NewTimer(200 * time.Millisecond).C
			}
			return nil
		})
		ctx, cancel := context.WithTimeoutCause(w.Context(), 100*time.Millisecond, &holdfast.Error{Code: holdfast.CodeBusy})
		defer cancel()
		_, err := a.Acquire(ctx, Ask{Owner: Owner{client.ID(), "r1"}, Name: "x", Mode: Exclusive, Keep: true})
		if !errors.Is(err, holdfast.ErrBusy) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			w.Fatal(err)
		}
		<-time.NewTimer(5 * time.Second).C
		if h := w.holders(a); len(h) != 0 {
			w.Errorf("refused, and granted all the same: %+v", h)
		}
	})
}

// TestAgent_CloseWhileSweeping: an agent whose session has ended gives up what
// it would do on its own account.
func TestAgent_CloseWhileSweeping(t *testing.T) {
	bubble(t, func(w *stage) {
		client := w.session()
		a := w.agent(w.session(), Config{Kind: "lock", Sweep: true})
		if _, err := a.Acquire(w.Context(), Ask{Owner: Owner{client.ID(), "r1"}, Name: "x", Mode: Exclusive, Keep: true}); err != nil {
			w.Fatal(err)
		}
		n := 0
		w.engine.before(func(ctx context.Context, t engine.Txn) error {
			if n++; n > 1000 {
				panic("spins")
			}
			if ctx.Err() != nil { // etcd's words
				return &holdfast.Error{Code: holdfast.CodeCanceled, Outcome: holdfast.NotApplied, Err: context.Cause(ctx)}
			}
			return &holdfast.Error{Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied}
		})
		_ = client.Close(w.Context())
		<-time.NewTimer(time.Second).C
		a.Close()
	})
}

// TestAgent_StaleKnowledge: what another node did is looked up before it is
// denied.
func TestAgent_StaleKnowledge(t *testing.T) {
	for _, what := range []string{"release", "change", "acquire"} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(w *stage) {
				client, other := w.session(), w.session()
				a := w.agent(w.session(), Config{Kind: "lock"})
				b := w.agent(w.session(), Config{Kind: "lock", Sweep: true})
				o, p := Owner{client.ID(), "r1"}, Owner{other.ID(), "r1"}
				take := func(a *Agent, o Owner) Grant {
					g, err := a.Acquire(w.Context(), Ask{Owner: o, Name: "x", Mode: Exclusive, Keep: true})
					if err != nil {
						w.Fatal(err)
					}
					return g
				}
				if what == "acquire" {
					take(b, o) // b keeps the entry
					w.engine.deaf.Store(true)
					if err := a.Release(w.Context(), o, "x"); err != nil {
						w.Fatal(err)
					}
					newer := take(a, p)
					ctx, cancel := context.WithTimeout(w.Context(), time.Second)
					defer cancel()
					if g, err := b.Acquire(ctx, Ask{Owner: o, Name: "x", Mode: Exclusive, Keep: true}); err == nil {
						w.Errorf("granted %+v, but %+v is current", g, newer)
					}
					return
				}
				take(b, p)
				w.engine.deaf.Store(true)
				if err := a.Release(w.Context(), p, "x"); err != nil {
					w.Fatal(err)
				}
				take(a, o)
				if what == "change" {
					if err := b.Change(w.Context(), o, "x", []byte("v"), false); err != nil {
						w.Error(err)
					}
					return
				}
				if err := b.Release(w.Context(), o, "x"); err != nil {
					w.Fatal(err)
				}
				if h := w.holders(a); len(h) != 0 {
					w.Errorf("released, and still held: %+v", h)
				}
			})
		})
	}
}

// TestAgent_RefusedForLackOfSpace: a wish that fails leaves the queue.
func TestAgent_RefusedForLackOfSpace(t *testing.T) {
	bubble(t, func(w *stage) {
		sa, sb := w.session(), w.session()
		a, b := w.agent(sa, Config{Kind: "lock"}), w.agent(sb, Config{Kind: "lock"})
		o := Owner{sa.ID(), "1"}
		if _, err := a.Acquire(w.Context(), Ask{Owner: o, Name: "x", Mode: Exclusive}); err != nil {
			w.Fatal(err)
		}
		failed := make(chan error, 2)
		ask := func(req string) {
			_, err := b.Acquire(w.Context(), Ask{Owner: Owner{sb.ID(), req}, Name: "x", Mode: Exclusive})
			failed <- err
		}
		go ask("1")
		synctest.Wait()
		w.engine.before(func(ctx context.Context, t engine.Txn) error {
			if writes(t) {
				return &holdfast.Error{Code: holdfast.CodeExhausted, Outcome: holdfast.NotApplied}
			}
			return nil
		})
		go ask("2")
		for range 2 {
			if err := <-failed; !errors.Is(err, holdfast.ErrExhausted) {
				w.Error(err)
			}
		}
		<-time.NewTimer(time.Second).C
		w.engine.txn.Store(nil)
		if err := a.Release(w.Context(), o, "x"); err != nil {
			w.Fatal(err)
		}
		<-time.NewTimer(5 * time.Second).C
		if h := w.holders(a); len(h) != 0 {
			w.Errorf("refused, and granted all the same: %+v", h)
		}
	})
}

// TestAgent_DelayIsNotCutShort: the delay of one holder outlasts the shorter one
// of another who was lost after it.
func TestAgent_DelayIsNotCutShort(t *testing.T) {
	bubble(t, func(w *stage) {
		long, short := w.session(), w.session()
		s := w.session()
		a := w.agent(s, Config{Kind: "lock", Sweep: true})
		for o, d := range map[Owner]time.Duration{{long.ID(), "1"}: 30 * time.Second, {short.ID(), "1"}: time.Second} {
			if _, err := a.Acquire(w.Context(), Ask{Owner: o, Name: "x", Mode: Shared, Delay: d, Keep: true}); err != nil {
				w.Fatal(err)
			}
		}
		_ = long.Close(w.Context())
		lost := time.Now()
		<-time.NewTimer(time.Second).C
		_ = short.Close(w.Context())
		if _, err := a.Acquire(w.Context(), Ask{Owner: Owner{s.ID(), "1"}, Name: "x", Mode: Exclusive}); err != nil {
			w.Fatal(err)
		}
		if d := time.Since(lost); d < 30*time.Second {
			w.Errorf("granted after %v", d)
		}
	})
}
