package engine_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/engine/enginetest"
)

func coalesce(tb testing.TB, e engine.Engine, cfg engine.CoalesceConfig) *engine.Coalescer {
	tb.Helper()
	c := engine.Coalesce(e, cfg)
	tb.Cleanup(func() {
		if err := c.Close(); err != nil {
			tb.Error(err)
		}
	})
	return c
}

func TestCoalesce(t *testing.T) {
	t.Parallel()
	enginetest.Run(t, func(t *testing.T) enginetest.Harness {
		m := openMemory(t)
		return memoryHarness(m, coalesce(t, m, engine.CoalesceConfig{InFlight: 1}))
	})
}

// slowed answers each Txn some time later, so that batches form, and keeps
// what was sent.
type slowed struct {
	engine.Engine
	delay time.Duration
	fail  func(engine.Txn) error // if not nil, asked before each Txn

	mu   sync.Mutex
	sent []engine.Txn
}

func (s *slowed) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	if ctx.Err() != nil {
		return s.Engine.Txn(ctx, t)
	}
	s.mu.Lock()
	s.sent = append(s.sent, t)
	s.mu.Unlock()
	if s.fail != nil {
		if err := s.fail(t); err != nil {
			return engine.TxnResult{}, err
		}
	}
	timer := time.NewTimer(s.delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return engine.TxnResult{}, &holdfast.Error{Op: "txn", Code: holdfast.CodeOf(ctx.Err()), Err: ctx.Err()}
	}
	return s.Engine.Txn(ctx, t)
}

func TestCoalesce_InBubble(t *testing.T) {
	enginetest.RunInBubble(t, func(t *testing.T) enginetest.Harness {
		m := openMemory(t)
		return memoryHarness(m, coalesce(t, &slowed{Engine: m, delay: time.Millisecond}, engine.CoalesceConfig{MaxOps: 5, InFlight: 2}))
	})
}

// trial is a transaction of TestCoalesce_Property with what came of it.
type trial struct {
	txn  engine.Txn
	bad  holdfast.Code // it must fail with this code; CodeUnknown: it must not fail
	keys []string      // put
	gets []string      // read before the puts
	res  engine.TxnResult
	err  error
}

// newTrial makes a transaction over some keys; one in eight is bad.
func newTrial(rng *rand.Rand, n int, compacted int64) *trial {
	tr := &trial{}
	value := []byte(fmt.Sprint(n))
	perm := rng.Perm(30)
	for _, k := range perm[:1+rng.IntN(3)] {
		tr.keys = append(tr.keys, fmt.Sprintf("k%02d", k))
	}
	for _, k := range perm[10 : 10+rng.IntN(3)] {
		tr.gets = append(tr.gets, fmt.Sprintf("k%02d", k))
	}
	tr.txn.If = []engine.Compare{engine.Exists("session")}
	for _, k := range tr.gets {
		tr.txn.Then = append(tr.txn.Then, engine.Get(k))
	}
	for _, k := range tr.keys {
		tr.txn.Then = append(tr.txn.Then, engine.Put(k, value))
	}
	switch rng.IntN(24) {
	case 0: // guarded, but by the wrong key
		tr.txn.Then = append(tr.txn.Then, engine.PutLeased("leased"+string(value), nil, 99))
		tr.bad = holdfast.CodeNotFound
	case 1:
		tr.txn.Then = append(tr.txn.Then, engine.Put(tr.keys[0], nil))
		tr.bad = holdfast.CodeInvalid
	case 2:
		tr.txn.Then = append(tr.txn.Then, engine.GetRange(engine.RangeRequest{Key: "k", Revision: compacted - 1}))
		tr.bad = holdfast.CodeCompacted
	}
	return tr
}

// Transactions that are hurled at it by the hundred end as they would alone:
// the bad ones fail for their own reason, no good one fails, what each read is
// what was there before its revision, and what it wrote is there at it.
func TestCoalesce_Property(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { hurl(t, seed) })
		})
	}
}

func hurl(t *testing.T, seed uint64) {
	t.Helper()
	ctx := t.Context()
	rng := rand.New(rand.NewPCG(seed, 0))
	m := openMemory(t)
	s := &slowed{Engine: m, delay: time.Millisecond}
	c := coalesce(t, s, engine.CoalesceConfig{MaxOps: 1 + rng.IntN(70), InFlight: 1 + rng.IntN(4)})
	var compacted int64
	for range 3 {
		res, err := m.Txn(ctx, engine.Txn{Then: []engine.Op{engine.Put("session", nil)}})
		if err != nil {
			t.Fatal(err)
		}
		compacted = res.Revision
	}
	if err := m.Compact(ctx, compacted); err != nil {
		t.Fatal(err)
	}
	trials := make([]*trial, 300)
	var wg sync.WaitGroup
	for i := range trials {
		trials[i] = newTrial(rng, i, compacted)
		wait := time.Duration(rng.IntN(5000)) * time.Microsecond
		wg.Go(func() {
			<-time.NewTimer(wait).C
			trials[i].res, trials[i].err = c.Txn(ctx, trials[i].txn)
		})
	}
	wg.Wait()
	for i, tr := range trials {
		if tr.bad != holdfast.CodeUnknown {
			if holdfast.CodeOf(tr.err) != tr.bad || holdfast.OutcomeOf(tr.err) != holdfast.NotApplied {
				t.Errorf("trial %d: %v (%v), want %v, not applied", i, tr.err, holdfast.OutcomeOf(tr.err), tr.bad)
			}
			continue
		}
		if tr.err != nil {
			t.Errorf("trial %d: %v", i, tr.err)
			continue
		}
		checkTrial(t, m, i, tr)
	}
	for _, sent := range s.sent {
		checkBatch(t, sent)
	}
	st := c.Stats()
	t.Logf("%+v", st)
	if st.Ops != uint64(len(trials)) || st.Alone+st.Batched != st.Ops {
		t.Errorf("%+v for %d transactions", st, len(trials))
	}
}

// checkTrial compares what a transaction read and wrote with history.
func checkTrial(t *testing.T, m engine.Engine, i int, tr *trial) {
	t.Helper()
	for j, k := range tr.gets {
		was, err := m.Range(t.Context(), engine.RangeRequest{Key: k, Revision: tr.res.Revision - 1})
		if err != nil {
			t.Fatal(err)
		}
		if got := tr.res.Results[j].Range.KVs; fmt.Sprint(got) != fmt.Sprint(was.KVs) {
			t.Errorf("trial %d at revision %d read %v, it was %v", i, tr.res.Revision, got, was.KVs)
		}
	}
	for _, k := range tr.keys {
		is, err := m.Range(t.Context(), engine.RangeRequest{Key: k, Revision: tr.res.Revision})
		if err != nil {
			t.Fatal(err)
		}
		if len(is.KVs) != 1 || string(is.KVs[0].Value) != fmt.Sprint(i) || is.KVs[0].ModRevision != tr.res.Revision {
			t.Errorf("trial %d put %s at revision %d, there is %+v", i, k, tr.res.Revision, is.KVs)
		}
	}
}

// checkBatch fails if one child of a batch writes a key that another touches.
func checkBatch(t *testing.T, batch engine.Txn) {
	t.Helper()
	touched, written := map[string]int{}, map[string]int{}
	for i, op := range batch.Then {
		if op.Kind != engine.OpTxn {
			return // it went alone
		}
		mine, puts := map[string]bool{}, map[string]bool{}
		for _, cmp := range slices.Concat(batch.If, op.Txn.If) {
			mine[cmp.Key] = true
		}
		for _, o := range op.Txn.Then {
			mine[o.Key+o.Range.Key] = true
			puts[o.Key] = true
		}
		for k := range mine {
			if j, ok := written[k]; ok {
				t.Errorf("child %d touches %s, which child %d writes", i, k, j)
			}
			touched[k] = i
		}
		for k := range puts {
			if j, ok := touched[k]; ok && j != i {
				t.Errorf("child %d writes %s, which child %d touches", i, k, j)
			}
			written[k] = i
		}
	}
}

func put(key string) engine.Txn { return engine.Txn{Then: []engine.Op{engine.Put(key, nil)}} }

// sentKeys is what was sent: the keys of each transaction's puts.
func (s *slowed) sentKeys() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, t := range s.sent {
		var keys []string
		for _, op := range t.Then {
			switch op.Kind {
			case engine.OpTxn:
				keys = append(keys, op.Txn.Then[0].Key)
			case engine.OpPut:
				keys = append(keys, op.Key)
			case engine.OpGet, engine.OpDelete:
			}
		}
		out = append(out, strings.Join(keys, "+"))
	}
	return out
}

// crowd sends transactions one after another without waiting for answers.
func crowd(ctx context.Context, e engine.Engine, txns ...engine.Txn) (wait func() []error) {
	errs := make([]error, len(txns))
	var wg sync.WaitGroup
	for i, t := range txns {
		wg.Go(func() { _, errs[i] = e.Txn(ctx, t) })
		synctest.Wait()
	}
	return func() []error {
		wg.Wait()
		return errs
	}
}

func TestCoalesce_Batches(t *testing.T) {
	leased := func(key string, guard ...engine.Compare) engine.Txn {
		return engine.Txn{If: guard, Then: []engine.Op{engine.PutLeased(key, nil, 1)}}
	}
	many := func(key string, n int) engine.Txn {
		t := put(key)
		for range n {
			t.If = append(t.If, engine.Missing("none"))
		}
		return t
	}
	sweep := engine.Txn{Then: []engine.Op{engine.Put("x", nil), engine.DeleteRange("a", "c")}}
	for _, c := range []struct {
		name string
		txns []engine.Txn
		want string
	}{
		{"alone", []engine.Txn{put("a")}, "a"},
		{"gather behind the first", []engine.Txn{put("a"), put("b"), put("c")}, "a b+c"},
		{"one key", []engine.Txn{put("0"), put("a"), put("a"), put("b"), put("a")}, "0 a+b a a"},
		{"nothing overtakes", []engine.Txn{put("0"), put("a"), sweep, put("b"), put("d"), put("x")}, "0 a+d x b+x"},
		{"full", []engine.Txn{put("0"), put("a"), put("b"), put("c"), put("d"), put("e"), put("f")}, "0 a+b+c+d e+f"},
		{"leased and guarded", []engine.Txn{put("0"), leased("a", engine.Missing("s")), leased("b", engine.Missing("s"))}, "0 a+b"},
		{"all guarded by what is missing", []engine.Txn{put("0"), leased("a", engine.Exists("s")), leased("b", engine.Exists("s"))}, "0 a+b a+b"},
		{"leased without a guard", []engine.Txn{put("0"), put("a"), leased("b"), put("c"), leased("d"), leased("e")}, "0 a+c b d e"},
		{"guard that another writes", []engine.Txn{put("0"), put("s"), leased("a", engine.Exists("s"))}, "0 s a"},
		{"as much as nests", []engine.Txn{put("0"), many("a", 125), put("b"), put("c"), put("d")}, "0 a+b+c d"},
		{"too much to nest", []engine.Txn{put("0"), many("a", 128), put("b"), put("c")}, "0 a b+c"},
		{"read only", []engine.Txn{put("0"), put("a"), {Then: []engine.Op{engine.Get("a")}}, put("b")}, "0  a+b"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := openMemory(t)
				grant(t, m, 1, time.Hour)
				s := &slowed{Engine: m, delay: time.Second}
				e := coalesce(t, s, engine.CoalesceConfig{MaxOps: 4, InFlight: 1, Stall: time.Hour})
				for i, err := range crowd(t.Context(), e, c.txns...)() {
					if err != nil {
						t.Errorf("transaction %d: %v", i, err)
					}
				}
				if got := strings.Join(s.sentKeys(), " "); got != c.want {
					t.Errorf("sent %q, want %q", got, c.want)
				}
			})
		})
	}
}

// What all transactions of a batch compare travels once, and when it does not
// hold, each takes its Else.
func TestCoalesce_CommonCompare(t *testing.T) {
	for _, holds := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			m := openMemory(t)
			if holds {
				if _, err := m.Txn(t.Context(), put("session")); err != nil {
					t.Fatal(err)
				}
			}
			s := &slowed{Engine: m, delay: time.Second}
			e := coalesce(t, s, engine.CoalesceConfig{InFlight: 1, Stall: time.Hour})
			txn := func(key string) engine.Txn {
				return engine.Txn{
					If:   []engine.Compare{engine.Missing(key), engine.Exists("session")},
					Then: []engine.Op{engine.Put(key, []byte("then"))},
					Else: []engine.Op{engine.Put(key, []byte("else"))},
				}
			}
			for _, err := range crowd(t.Context(), e, put("0"), txn("a"), txn("b"), txn("c"))() {
				if err != nil {
					t.Error(err)
				}
			}
			first := s.sent[1]
			if len(first.If) != 1 || first.If[0].Key != "session" || len(first.Then) != 3 || len(first.Then[0].Txn.If) != 1 {
				t.Errorf("sent %+v", first)
			}
			want := map[bool]string{true: "then", false: "else"}[holds]
			for _, key := range []string{"a", "b", "c"} {
				got, err := m.Range(t.Context(), engine.RangeRequest{Key: key})
				if err != nil || len(got.KVs) != 1 || string(got.KVs[0].Value) != want {
					t.Errorf("session there: %v; %s: %+v, %v", holds, key, got.KVs, err)
				}
			}
		})
	}
}

// The outcome of a batch that nobody answers is unknown to all in it, and one
// that could not be sent is not sent again in halves.
func TestCoalesce_BatchFails(t *testing.T) {
	for _, outcome := range []holdfast.Outcome{holdfast.Unknown, holdfast.NotApplied} {
		t.Run(outcome.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &slowed{Engine: openMemory(t), delay: time.Second}
				s.fail = func(x engine.Txn) error {
					if len(x.Then) > 1 {
						return &holdfast.Error{Code: holdfast.CodeNoQuorum, Outcome: outcome}
					}
					return nil
				}
				c := coalesce(t, s, engine.CoalesceConfig{InFlight: 1})
				errs := crowd(t.Context(), c, put("0"), put("a"), put("b"), put("c"))()
				if errs[0] != nil {
					t.Error(errs[0])
				}
				for _, err := range errs[1:] {
					if !errors.Is(err, holdfast.ErrNoQuorum) || holdfast.OutcomeOf(err) != outcome {
						t.Errorf("%v (%v), want %v", err, holdfast.OutcomeOf(err), outcome)
					}
				}
				if st := c.Stats(); st.Batches != 1 || st.Splits != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

// A store without space still takes deletes: they do not share the fate of
// puts, except the first time.
func TestCoalesce_NoSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowed{Engine: openMemory(t), delay: time.Second}
		full := true
		s.fail = func(x engine.Txn) error {
			if full && strings.ContainsAny(fmt.Sprint(puts(x)), "abc") {
				return &holdfast.Error{Code: holdfast.CodeExhausted, Outcome: holdfast.Unknown}
			}
			return nil
		}
		c := coalesce(t, s, engine.CoalesceConfig{InFlight: 1})
		drop := func(key string) engine.Txn { return engine.Txn{Then: []engine.Op{engine.Delete(key)}} }
		try := func(want string) {
			t.Helper()
			var got []string
			for _, err := range crowd(t.Context(), c, put("0"), put("a"), drop("d"), put("b"), drop("e"))() {
				got = append(got, holdfast.OutcomeOf(err).String())
			}
			if strings.Join(got, ", ") != want {
				t.Errorf("got %v, want %s", got, want)
			}
		}
		try("applied, unknown, unknown, unknown, unknown")
		if _, err := c.Txn(t.Context(), put("c")); !errors.Is(err, holdfast.ErrExhausted) {
			t.Fatal(err)
		}
		first := crowd(t.Context(), c, drop("0"), put("a"), drop("d"), put("b"), drop("e"))()
		for i, err := range first {
			if want := i == 1 || i == 3; errors.Is(err, holdfast.ErrExhausted) != want {
				t.Errorf("transaction %d: %v", i, err)
			}
		}
		full = false
		if _, err := c.Txn(t.Context(), put("c")); err != nil {
			t.Fatal(err)
		}
		before := c.Stats().Batches
		try("applied, applied, applied, applied, applied")
		if n := c.Stats().Batches - before; n != 1 {
			t.Errorf("%d batches with space again, want 1", n)
		}
	})
}

// puts is the keys that t puts.
func puts(t engine.Txn) (keys []string) {
	for _, op := range t.Then {
		switch op.Kind {
		case engine.OpPut:
			keys = append(keys, op.Key)
		case engine.OpTxn:
			keys = append(keys, puts(*op.Txn)...)
		case engine.OpGet, engine.OpDelete:
		}
	}
	return keys
}

// A caller who leaves before its transaction does knows that it did not happen;
// one who leaves later does not, and the others are not disturbed.
func TestCoalesce_CallerLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openMemory(t)
		s := &slowed{Engine: m, delay: time.Second}
		c := coalesce(t, s, engine.CoalesceConfig{InFlight: 1, Stall: time.Hour})
		first := crowd(t.Context(), c, put("0"))
		ctx, cancel := context.WithCancel(t.Context())
		queued := crowd(ctx, c, put("a"))
		cancel()
		if err := queued()[0]; holdfast.CodeOf(err) != holdfast.CodeCanceled || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Fatalf("queued: %v (%v)", err, holdfast.OutcomeOf(err))
		}
		ctx, cancel = context.WithCancel(t.Context())
		flying := crowd(ctx, c, put("b"))
		other := crowd(t.Context(), c, put("c"))
		if err := first()[0]; err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // b and c are on their way
		cancel()
		if err := flying()[0]; holdfast.CodeOf(err) != holdfast.CodeCanceled || holdfast.OutcomeOf(err) != holdfast.Unknown {
			t.Fatalf("flying: %v (%v)", err, holdfast.OutcomeOf(err))
		}
		if err := other()[0]; err != nil {
			t.Fatal(err)
		}
		if got := s.sentKeys(); !slices.Equal(got, []string{"0", "b+c"}) {
			t.Fatalf("sent %v", got)
		}
		res, err := m.Range(t.Context(), engine.RangeRequest{Key: "a", End: "z"})
		if err != nil || len(res.KVs) != 2 {
			t.Fatalf("%+v, %v", res, err)
		}
	})
}

// What a dead leader swallowed holds up the next ones for Stall, not for as
// long as it takes; a batch whose callers have all the time in the world ends.
func TestCoalesce_Stall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &slowed{Engine: openMemory(t), delay: time.Hour}
		c := coalesce(t, s, engine.CoalesceConfig{InFlight: 1})
		ctx, cancel := context.WithCancel(t.Context())
		stuck := crowd(ctx, c, put("0"))
		batch := crowd(ctx, c, put("a"), put("b"))
		start := time.Now()
		for _, err := range batch() {
			if !errors.Is(err, holdfast.ErrNoQuorum) || holdfast.OutcomeOf(err) != holdfast.Unknown {
				t.Errorf("%v (%v)", err, holdfast.OutcomeOf(err))
			}
		}
		if d := time.Since(start); d != 10*time.Second+500*time.Millisecond {
			t.Errorf("the batch ended after %v", d)
		}
		s.delay = 0
		if err := crowd(ctx, c, put("c"))()[0]; err != nil {
			t.Error(err)
		}
		cancel()
		stuck()
	})
}

// A caller may change its buffers when the call has returned, whatever became
// of the batch.
func TestCoalesce_KeepsNothingOfTheCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := openMemory(t)
		c := coalesce(t, &slowed{Engine: m, delay: time.Second}, engine.CoalesceConfig{InFlight: 1, Stall: time.Hour})
		first := crowd(t.Context(), c, put("0"))
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		value := []byte("before")
		mine := crowd(ctx, c, engine.Txn{Then: []engine.Op{engine.Put("a", value)}})
		other := crowd(t.Context(), c, put("b"))
		first()
		if err := mine()[0]; holdfast.OutcomeOf(err) != holdfast.Unknown {
			t.Fatal(err)
		}
		copy(value, "behind")
		if err := other()[0]; err != nil {
			t.Fatal(err)
		}
		res, err := m.Range(t.Context(), engine.RangeRequest{Key: "a"})
		if err != nil || len(res.KVs) != 1 || string(res.KVs[0].Value) != "before" {
			t.Fatalf("%+v, %v", res, err)
		}
	})
}

func TestCoalesce_Close(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := coalesce(t, &slowed{Engine: openMemory(t), delay: time.Hour}, engine.CoalesceConfig{InFlight: 2, Stall: 2 * time.Hour})
		ctx, cancel := context.WithCancel(t.Context())
		direct := crowd(ctx, c, put("0"), put("1"))
		queued := crowd(ctx, c, put("a"), put("b"))
		if err := c.Close(); err != nil {
			t.Fatal(err)
		}
		for _, err := range queued() {
			if !errors.Is(err, holdfast.ErrClosed) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
				t.Errorf("%v (%v)", err, holdfast.OutcomeOf(err))
			}
		}
		cancel()
		direct()
	})
}

func BenchmarkCoalesce(b *testing.B) {
	m := engine.NewMemory(engine.MemoryConfig{})
	b.Cleanup(func() {
		if err := m.Close(); err != nil {
			b.Error(err)
		}
	})
	benchmarkPuts(b, coalesce(b, m, engine.CoalesceConfig{}), func(rev int64) {
		if err := m.Compact(b.Context(), rev); err != nil {
			b.Fatal(err)
		}
	})
}

// BenchmarkCoalesce_Crowd has 256 callers; txns/op is how many transactions
// reach the engine for each that was asked for.
func BenchmarkCoalesce_Crowd(b *testing.B) {
	m := engine.NewMemory(engine.MemoryConfig{})
	b.Cleanup(func() {
		if err := m.Close(); err != nil {
			b.Error(err)
		}
	})
	c := coalesce(b, m, engine.CoalesceConfig{InFlight: 1})
	b.SetParallelism(128)
	b.ReportAllocs()
	var n atomic.Int64
	b.RunParallel(func(pb *testing.PB) {
		t := put(fmt.Sprint("key/", n.Add(1)))
		t.If = []engine.Compare{engine.Missing("never")}
		for pb.Next() {
			if _, err := c.Txn(b.Context(), t); err != nil {
				b.Error(err)
				return
			}
		}
	})
	st := c.Stats()
	b.ReportMetric(float64(st.Alone+st.Batches)/float64(b.N), "txns/op")
}
