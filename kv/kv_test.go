package kv_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/kv"
)

// bubble runs f in a synctest bubble with a store under a session of its own.
func bubble(t *testing.T, f func(t *testing.T, e *engine.Memory, s *engine.Session, st *kv.Store)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewMemory(engine.MemoryConfig{})
		s, err := engine.OpenSession(t.Context(), e, engine.SessionConfig{})
		if err != nil {
			t.Fatal(err)
		}
		f(t, e, s, kv.New(s))
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		_ = e.Close()
	})
}

// want fails the test unless err is as expected.
func want(t *testing.T, what string, err, target error, outcome holdfast.Outcome) {
	t.Helper()
	if !errors.Is(err, target) || holdfast.OutcomeOf(err) != outcome {
		t.Errorf("%s: got %v (%v), want %v (%v)", what, err, holdfast.OutcomeOf(err), target, outcome)
	}
}

func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestStore_ReadsHistory(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, _ *engine.Session, st *kv.Store) {
		ctx := t.Context()
		first := must[int64](t)(st.Put(ctx, "a", []byte("1")))
		second := must[int64](t)(st.Put(ctx, "a", []byte("2")))
		del := must[kv.Deleted](t)(st.Delete(ctx, "a"))
		if !del.Existed || del.Revision <= second {
			t.Errorf("delete: %+v", del)
		}
		old := must[kv.Entry](t)(st.Get(ctx, "a", kv.At(first)))
		if string(old.Value) != "1" || old.ReadRevision != first || old.Version != 1 {
			t.Errorf("at %d: %+v", first, old)
		}
		gone, err := st.Get(ctx, "a")
		want(t, "get", err, holdfast.ErrNotFound, holdfast.NotApplied)
		if gone.ReadRevision < del.Revision {
			t.Errorf("a missing key was read at %d, deleted at %d", gone.ReadRevision, del.Revision)
		}
		again := must[kv.Deleted](t)(st.Delete(ctx, "a"))
		if again.Existed {
			t.Error("deleted twice")
		}
		if err := e.Compact(ctx, second); err != nil {
			t.Fatal(err)
		}
		_, err = st.Get(ctx, "a", kv.At(first))
		want(t, "get compacted", err, holdfast.ErrCompacted, holdfast.NotApplied)
		_, err = st.Get(ctx, "a", kv.At(del.Revision+1000))
		want(t, "get the future", err, holdfast.ErrInvalid, holdfast.NotApplied)
	})
}

func TestStore_StaleAnswersWithoutQuorum(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, _ *engine.Session, st *kv.Store) {
		rev := must[int64](t)(st.Put(t.Context(), "a", []byte("1")))
		e.Outage(true)
		got := must[kv.Entry](t)(st.Get(t.Context(), "a", kv.Stale()))
		if got.ReadRevision < rev {
			t.Errorf("read at %d, written at %d", got.ReadRevision, rev)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := st.Get(ctx, "a")
		if !errors.Is(err, context.DeadlineExceeded) || holdfast.CodeOf(err) != holdfast.CodeDeadline {
			t.Errorf("linearizable read without a quorum: %v", err)
		}
		_, err = st.Put(ctx, "a", []byte("2"))
		if err == nil {
			t.Error("a write without a quorum succeeded")
		}
		e.Outage(false)
	})
}

func TestStore_Conditions(t *testing.T) {
	bubble(t, func(t *testing.T, _ *engine.Memory, _ *engine.Session, st *kv.Store) {
		ctx := t.Context()
		rev := must[int64](t)(st.Put(ctx, "a", []byte("1"), kv.IfMissing()))
		_, err := st.Put(ctx, "a", []byte("2"), kv.IfMissing())
		want(t, "put if missing", err, holdfast.ErrConflict, holdfast.NotApplied)
		_, err = st.CompareAndSet(ctx, "a", 0, []byte("2"))
		want(t, "set if missing", err, holdfast.ErrConflict, holdfast.NotApplied)
		_, err = st.Delete(ctx, "a", kv.IfRevision(rev-1))
		want(t, "delete of another revision", err, holdfast.ErrConflict, holdfast.NotApplied)
		next := must[int64](t)(st.CompareAndSet(ctx, "a", rev, []byte("2")))
		res := must[kv.TxnResult](t)(st.Txn(ctx, kv.Txn{
			If:   []kv.Cond{kv.RevisionIs("a", rev)},
			Else: []kv.Op{kv.Get("a"), kv.Put("b", []byte("3")), kv.Get("b")},
		}))
		if res.Succeeded || len(res.Results) != 3 || res.Results[0].Entry.Revision != next || !res.Results[2].Found {
			t.Errorf("transaction: %+v", res)
		}
		res = must[kv.TxnResult](t)(st.Txn(ctx, kv.Txn{If: []kv.Cond{kv.Exists("b"), kv.ValueIs("a", []byte("2"))}}))
		if !res.Succeeded {
			t.Error("conditions that hold do not")
		}
	})
}

func TestStore_FenceRemembersTheHighestToken(t *testing.T) {
	bubble(t, func(t *testing.T, _ *engine.Memory, _ *engine.Session, st *kv.Store) {
		ctx := t.Context()
		put := func(token holdfast.Token, opts ...kv.WriteOption) error {
			_, err := st.Put(ctx, "a", []byte(token.String()), append(opts, kv.Fenced("r", token))...)
			return err
		}
		// 9 and 10 as text would compare the other way round.
		for _, token := range []holdfast.Token{9, 10, 10, holdfast.NewToken(2, 1)} {
			if err := put(token); err != nil {
				t.Fatalf("token %v: %v", token, err)
			}
		}
		want(t, "a lower token", put(holdfast.NewToken(1, 900)), holdfast.ErrFenced, holdfast.NotApplied)
		// A failed compare has shown the token to the resource all the same.
		want(t, "conflict", put(holdfast.NewToken(3, 1), kv.IfMissing()), holdfast.ErrConflict, holdfast.NotApplied)
		want(t, "a token between", put(holdfast.NewToken(2, 1)), holdfast.ErrFenced, holdfast.NotApplied)
		_, err := st.Delete(ctx, "a", kv.Fenced("other", 1), kv.Fenced("r", 9))
		want(t, "delete", err, holdfast.ErrFenced, holdfast.NotApplied)
		if _, err := st.Delete(ctx, "a", kv.Fenced("other", 1)); err != nil {
			t.Errorf("a refused write raised another fence: %v", err)
		}
	})
}

func TestStore_LeasedKeyGoesWithItsSession(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, s *engine.Session, st *kv.Store) {
		ctx := t.Context()
		other, err := engine.OpenSession(ctx, e, engine.SessionConfig{})
		if err != nil {
			t.Fatal(err)
		}
		theirs := kv.New(other)
		must[int64](t)(theirs.Put(ctx, "goes", []byte("x"), kv.Leased()))
		must[int64](t)(theirs.Put(ctx, "stays", []byte("x"), kv.Leased()))
		must[int64](t)(st.Put(ctx, "stays", []byte("untied by another write")))
		if err := other.Close(ctx); err != nil {
			t.Fatal(err)
		}
		_, err = st.Get(ctx, "goes")
		want(t, "get", err, holdfast.ErrNotFound, holdfast.NotApplied)
		must[kv.Entry](t)(st.Get(ctx, "stays"))
		_, err = theirs.Put(ctx, "late", []byte("x"))
		if !errors.Is(err, holdfast.ErrLost) {
			t.Errorf("put under a session that is gone: %v", err)
		}
		_, err = kv.NewFor(e, 0).For(kv.Caller{Session: other.ID()}).Put(ctx, "late", []byte("x"), kv.Leased())
		want(t, "put for a session that is gone", err, holdfast.ErrLost, holdfast.NotApplied)
		_, err = kv.NewFor(e, 0).Put(ctx, "late", []byte("x"), kv.Leased())
		want(t, "leased without a session", err, holdfast.ErrInvalid, holdfast.NotApplied)
		_ = s
	})
}

func TestStore_RequestHappensOnce(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, s *engine.Session, st *kv.Store) {
		ctx := t.Context()
		node := kv.NewFor(e, 0)
		id := engine.RequestID{Session: s.ID(), Slot: 100, Seq: 1}
		mine := node.For(kv.Caller{Request: &id})
		next := func() { id.Seq++; mine = node.For(kv.Caller{Request: &id}) }
		rev := must[int64](t)(mine.Put(ctx, "a", []byte("1")))
		must[int64](t)(st.Put(ctx, "a", []byte("2")))
		if again := must[int64](t)(mine.Put(ctx, "a", []byte("1"))); again != rev {
			t.Errorf("sent again: revision %d, the first was %d", again, rev)
		}
		if e := must[kv.Entry](t)(st.Get(ctx, "a")); string(e.Value) != "2" {
			t.Errorf("the request happened twice: %s", e.Value)
		}

		// A conflict is an answer as well: it does not become a success later.
		next()
		_, err := mine.Put(ctx, "a", []byte("3"), kv.IfMissing())
		want(t, "conflict", err, holdfast.ErrConflict, holdfast.NotApplied)
		must[kv.Deleted](t)(st.Delete(ctx, "a"))
		_, err = mine.Put(ctx, "a", []byte("3"), kv.IfMissing())
		want(t, "conflict, sent again", err, holdfast.ErrConflict, holdfast.NotApplied)

		// A request that was resolved before it arrived never happens.
		next()
		outcome, _, err := node.ResolveRequest(ctx, id)
		if outcome != holdfast.NotApplied || err != nil {
			t.Errorf("resolve: %v, %v", outcome, err)
		}
		_, err = mine.Put(ctx, "a", []byte("late"))
		if holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Errorf("a cancelled request: %v", err)
		}

		// Whoever knows nothing but the id is told of a refusal, too.
		tokens := kv.Fenced("resource", 5)
		must[int64](t)(st.Put(ctx, "fenced", nil, tokens))
		for i, c := range []struct {
			write func() error
			want  holdfast.Outcome
		}{
			{func() error { _, err := mine.Put(ctx, "new", nil, kv.IfMissing()); return err }, holdfast.Applied},
			{func() error { _, err := mine.Put(ctx, "new", nil, kv.IfMissing()); return err }, holdfast.NotApplied},
			{func() error { _, err := mine.Put(ctx, "fenced", nil, kv.Fenced("resource", 4)); return err }, holdfast.NotApplied},
			{func() error { _, err := mine.Put(ctx, "fenced", nil, tokens); return err }, holdfast.Applied},
			{func() error { _, err := mine.Put(ctx, "fenced", nil, tokens, kv.IfMissing()); return err }, holdfast.NotApplied},
			{func() error { _, err := mine.Delete(ctx, "fenced"); return err }, holdfast.Applied},
		} {
			next()
			err := c.write()
			outcome, rev, rerr := node.ResolveRequest(ctx, id)
			if holdfast.OutcomeOf(err) != c.want || outcome != c.want || rerr != nil || (rev > 0) != (c.want == holdfast.Applied) {
				t.Errorf("write %d: %v, resolved as %v at %d, %v; want %v", i, err, outcome, rev, rerr, c.want)
			}
		}

		// The answer of an old request is found, the values it read are not.
		next()
		must[kv.Deleted](t)(mine.Delete(ctx, "b"))
		now := must[int64](t)(st.Put(ctx, "c", []byte("1")))
		if err := e.Compact(ctx, now); err != nil {
			t.Fatal(err)
		}
		_, err = mine.Delete(ctx, "b")
		want(t, "compacted answer", err, holdfast.ErrCompacted, holdfast.Applied)

		_, err = node.For(kv.Caller{Session: s.ID() + 1, Request: &id}).Put(ctx, "a", []byte("1"))
		want(t, "another's request", err, holdfast.ErrInvalid, holdfast.NotApplied)
	})
}

func TestStore_UnknownCanBeResolved(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, _ *engine.Session, st *kv.Store) {
		e.Outage(true)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := st.Put(ctx, "a", []byte("1"))
		if holdfast.OutcomeOf(err) != holdfast.Unknown {
			t.Fatalf("put without a quorum: %v", err)
		}
		e.Outage(false)
		outcome, _, rerr := st.Resolve(t.Context(), err)
		if outcome != holdfast.NotApplied || rerr != nil {
			t.Errorf("resolve: %v, %v", outcome, rerr)
		}
		_, _, rerr = st.Resolve(t.Context(), errors.New("not ours"))
		want(t, "resolve of nothing", rerr, holdfast.ErrInvalid, holdfast.NotApplied)
	})
}

func TestStore_ListPages(t *testing.T) {
	bubble(t, func(t *testing.T, _ *engine.Memory, _ *engine.Session, st *kv.Store) {
		ctx := t.Context()
		var all []string
		for i := range 7 {
			key := fmt.Sprintf("a/%d", i)
			all = append(all, key)
			must[int64](t)(st.Put(ctx, key, []byte("x")))
		}
		must[int64](t)(st.Put(ctx, "a", []byte("x")))
		must[int64](t)(st.Put(ctx, "b", []byte("x")))
		var got []string
		page := must[kv.Page](t)(st.List(ctx, "a/", kv.Limit(3)))
		at := page.Revision
		must[int64](t)(st.Put(ctx, "a/99", []byte("too late for this list")))
		for {
			for _, e := range page.Entries {
				got = append(got, e.Key)
			}
			if !page.More {
				break
			}
			page = must[kv.Page](t)(st.List(ctx, "a/", kv.Limit(3), kv.At(at), kv.After(got[len(got)-1]), kv.KeysOnly()))
			if len(page.Entries[0].Value) > 0 || page.Revision != at {
				t.Errorf("page: %+v", page)
			}
		}
		if !slices.Equal(got, all) {
			t.Errorf("got %v, want %v", got, all)
		}
		if page := must[kv.Page](t)(st.List(ctx, "")); len(page.Entries) != 10 {
			t.Errorf("%d keys in all", len(page.Entries))
		}
		_, err := st.List(ctx, "a/", kv.Limit(0), kv.After("c"), kv.At(-1))
		want(t, "list", err, holdfast.ErrInvalid, holdfast.NotApplied)
		if n := strings.Count(err.Error(), "\n"); n != 2 {
			t.Errorf("want three faults at once, got %q", err)
		}
	})
}

func TestStore_Bounds(t *testing.T) {
	bubble(t, func(t *testing.T, _ *engine.Memory, _ *engine.Session, st *kv.Store) {
		ctx := t.Context()
		must[int64](t)(st.Put(ctx, strings.Repeat("k", kv.MaxKey), make([]byte, kv.MaxValue)))
		_, err := st.Put(ctx, strings.Repeat("k", kv.MaxKey)+"\xff", make([]byte, kv.MaxValue+1))
		want(t, "put", err, holdfast.ErrInvalid, holdfast.NotApplied)
		if n := strings.Count(err.Error(), "\n"); n != 2 {
			t.Errorf("want three faults at once, got %q", err)
		}
		_, err = st.Get(ctx, "")
		want(t, "get", err, holdfast.ErrInvalid, holdfast.NotApplied)
		big := kv.Txn{If: make([]kv.Cond, kv.MaxOps)}
		for i := range kv.MaxOps {
			key := fmt.Sprint(i)
			big.If[i] = kv.Missing(key)
			big.Then = append(big.Then, kv.Put(key, nil))
			big.Else = append(big.Else, kv.Delete(key))
		}
		fences := []kv.WriteOption{kv.Fenced("1", 1), kv.Fenced("2", 1), kv.Fenced("3", 1), kv.Fenced("4", 1)}
		for _, succeeds := range []bool{true, false} { // the largest transaction there is
			if res := must[kv.TxnResult](t)(st.Txn(ctx, big, fences...)); res.Succeeded != succeeds {
				t.Errorf("succeeded: %v", res.Succeeded)
			}
		}
		big.Then = append(big.Then, kv.Get("x"))
		_, err = st.Txn(ctx, big)
		want(t, "txn", err, holdfast.ErrInvalid, holdfast.NotApplied)
		_, err = st.Txn(ctx, kv.Txn{}, kv.Leased())
		want(t, "leased txn", err, holdfast.ErrInvalid, holdfast.NotApplied)
		_, err = st.CompareAndSet(ctx, "a", 0, nil, kv.IfMissing())
		want(t, "two compares", err, holdfast.ErrInvalid, holdfast.NotApplied)
	})
}

func TestStore_WatchFromNowSaysFromWhere(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, _ *engine.Session, st *kv.Store) {
		ctx, cancel := context.WithCancel(t.Context())
		must[int64](t)(st.Put(ctx, "a", []byte("before")))
		w := st.Watch(ctx, kv.WatchRequest{Key: "a"})
		first := <-w
		rev := must[int64](t)(st.Put(ctx, "a", []byte("after")))
		must[int64](t)(st.Put(ctx, "ab", []byte("another key")))
		b := <-w
		if len(first.Events) != 0 || len(b.Events) != 1 || b.Events[0].Entry.Revision != rev || b.Revision < rev {
			t.Errorf("first %+v, then %+v", first, b)
		}
		cancel()
		if _, open := <-w; open {
			t.Error("a batch after the end of its context")
		}

		// Who comes too late is told so.
		must[int64](t)(st.Put(t.Context(), "a", []byte("x")))
		if err := e.Compact(t.Context(), rev+1); err != nil {
			t.Fatal(err)
		}
		w = st.Watch(t.Context(), kv.WatchRequest{Key: "a", From: rev})
		last := <-w
		if !errors.Is(last.Err, holdfast.ErrCompacted) || last.Revision != rev-1 {
			t.Errorf("compacted: %+v", last)
		}
		if _, open := <-w; open {
			t.Error("a batch after the error")
		}
		last = <-st.Watch(t.Context(), kv.WatchRequest{Key: "a", Prefix: "b", From: -1})
		want(t, "watch", last.Err, holdfast.ErrInvalid, holdfast.NotApplied)
	})
}
