package kv

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// TestReplay sends random programs on a store of few keys twice under one
// request id: the second answer, worked out from the state before, must be the
// first one's.
func TestReplay(t *testing.T) {
	ctx := t.Context()
	rapid.Check(t, func(t *rapid.T) {
		e := engine.NewMemory(engine.MemoryConfig{})
		defer func() { _ = e.Close() }()
		s, err := engine.OpenSession(ctx, e, engine.SessionConfig{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close(ctx) }()
		node := NewFor(e, 0)
		for seq := range rapid.Uint64Range(1, 12).Draw(t, "programs") {
			p := drawProgram(t)
			id := engine.RequestID{Session: s.ID(), Slot: 3, Seq: seq + 1}
			st := node.For(Caller{Request: &id})
			p.lease = engine.LeaseID(st.lease)
			first, err1 := st.exec(ctx, "transaction", "", p)
			second, err2 := st.exec(ctx, "transaction", "", p)
			if d := cmp.Diff(text(err1), text(err2)); d != "" {
				t.Fatalf("errors differ (-first +second):\n%s", d)
			}
			if p.readOnly() {
				continue
			}
			if d := cmp.Diff(first, second, cmp.AllowUnexported(answer{})); d != "" {
				t.Fatalf("answers differ (-first +second):\n%s", d)
			}
		}
	})
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// drawProgram is a valid program on the keys a, b and c, values x and y, and
// one fence.
func drawProgram(t *rapid.T) *program {
	keys := rapid.SampledFrom([]string{"a", "b", "c"})
	value := rapid.Map(rapid.SampledFrom([]string{"x", "y"}), func(s string) []byte { return []byte(s) })
	cond := rapid.Custom(func(t *rapid.T) Cond {
		key := keys.Draw(t, "key")
		switch rapid.IntRange(0, 3).Draw(t, "condition") {
		case 0:
			return RevisionIs(key, rapid.Int64Range(0, 10).Draw(t, "revision"))
		case 1:
			return Exists(key)
		case 2:
			return ValueIs(key, value.Draw(t, "value"))
		default:
			return Missing(key)
		}
	})
	branch := rapid.Custom(func(t *rapid.T) []Op {
		var ops []Op
		written := map[string]bool{}
		for range rapid.IntRange(0, 5).Draw(t, "operations") {
			key := keys.Draw(t, "key")
			kind := rapid.IntRange(0, 3).Draw(t, "operation")
			switch {
			case kind == 0 || written[key]:
				ops = append(ops, Get(key))
				continue
			case kind == 1:
				ops = append(ops, Put(key, value.Draw(t, "value")))
			case kind == 2:
				ops = append(ops, PutLeased(key, value.Draw(t, "value")))
			default:
				ops = append(ops, Delete(key))
			}
			written[key] = true
		}
		return ops
	})
	p := &program{txn: Txn{
		If:   rapid.SliceOfN(cond, 0, 2).Draw(t, "if"),
		Then: branch.Draw(t, "then"),
		Else: branch.Draw(t, "else"),
	}}
	if rapid.Bool().Draw(t, "fenced") {
		p.fences = []Fence{{Resource: "r", Token: holdfast.Token(rapid.Uint64Range(1, 3).Draw(t, "token"))}}
	}
	return p
}
