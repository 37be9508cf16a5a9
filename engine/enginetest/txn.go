package enginetest

import (
	"bytes"
	"fmt"
	"strings"

	"holdfast.dev"
	"holdfast.dev/engine"
)

var txnTests = []test{
	{"Txn/branches", func(w *world) {
		guarded := engine.Txn{
			If:   []engine.Compare{engine.Missing(w.key("a"))},
			Then: []engine.Op{engine.Put(w.key("a"), []byte("1"))},
			Else: []engine.Op{engine.Get(w.key("a"))},
		}
		if res := w.txn(guarded); !res.Succeeded || len(res.Results) != 1 {
			w.Fatalf("first: %+v", res)
		}
		res := w.txn(guarded)
		if res.Succeeded || w.text(res.Results[0].Range.KVs) != "a=1" {
			w.Fatalf("second: %+v", res)
		}
		if res := w.txn(engine.Txn{}); !res.Succeeded || len(res.Results) != 0 {
			w.Fatalf("empty: %+v", res)
		}
	}},
	{"Txn/all compares must hold", func(w *world) {
		w.put("a", "1")
		res := w.txn(engine.Txn{
			If:   []engine.Compare{engine.Exists(w.key("a")), engine.Missing(w.key("a")), engine.Exists(w.key("a"))},
			Then: []engine.Op{engine.Put(w.key("b"), nil)},
		})
		if res.Succeeded {
			w.Fatal("a compare that does not hold was overlooked")
		}
		w.wantState("a=1")
	}},
	{"Txn/compares", testCompares},
	{"Txn/range compares", func(w *world) {
		span := func(c engine.Compare) engine.Compare {
			c.Key, c.End = w.key("r/"), engine.PrefixEnd(w.key("r/"))
			return c
		}
		w.holds("no key: missing", span(engine.Missing("")), true)
		w.holds("no key: exists", span(engine.Exists("")), false)
		w.holds("no key: value", span(engine.Compare{Target: engine.CompareValue, Op: engine.NotEqual, Value: []byte("x")}), false)
		w.put("r/1", "x")
		w.put("r/2", "x")
		w.put("s", "y")
		w.holds("all", span(engine.ValueIs("", []byte("x"))), true)
		w.holds("missing", span(engine.Missing("")), false)
		w.put("r/2", "y")
		w.holds("not all", span(engine.ValueIs("", []byte("x"))), false)
	}},
	{"Txn/one revision", func(w *world) {
		before := w.put("gone", "0")
		res := w.then(engine.Put(w.key("a"), []byte("1")), engine.Delete(w.key("gone")), engine.Put(w.key("b"), []byte("2")))
		if res.Revision <= before {
			w.Fatalf("revision %d after %d", res.Revision, before)
		}
		for _, name := range []string{"a", "b"} {
			if kv := w.get(name); kv.ModRevision != res.Revision || kv.CreateRevision != res.Revision {
				w.Fatalf("%s: %+v, want revision %d", name, kv, res.Revision)
			}
		}
		w.wantState("a=1 b=2")
	}},
	{"Txn/order of operations", func(w *world) {
		a := w.key("a")
		w.put("a", "1")
		res := w.then(engine.Get(a), engine.Put(a, []byte("2")), engine.Get(a))
		first, last := w.text(res.Results[0].Range.KVs), w.text(res.Results[2].Range.KVs)
		if first != "a=1" || last != "a=2" {
			w.Fatalf("read %q before the put and %q after it", first, last)
		}
	}},
	{"Txn/versions", func(w *world) {
		one := w.put("a", "1")
		two := w.put("a", "2")
		if kv := w.get("a"); kv.Version != 2 || kv.CreateRevision != one || kv.ModRevision != two {
			w.Fatalf("after two puts: %+v", kv)
		}
		w.then(engine.Delete(w.key("a")))
		three := w.put("a", "3")
		if kv := w.get("a"); kv.Version != 1 || kv.CreateRevision != three || kv.ModRevision != three {
			w.Fatalf("created again: %+v", kv)
		}
	}},
	{"Txn/delete", func(w *world) {
		w.put("d/1", "x")
		w.put("d/2", "y")
		w.put("e", "z")
		op := engine.DeleteRange(w.key("d/"), engine.PrefixEnd(w.key("d/")))
		op.Prev = true
		res := w.then(op, engine.Delete(w.key("never")))
		if r := res.Results[0]; r.Deleted != 2 || w.text(r.Prev) != "d/1=x d/2=y" {
			w.Fatalf("got %+v", r)
		}
		if res.Results[1].Deleted != 0 {
			w.Fatal("deleted what was not there")
		}
		w.wantState("e=z")
	}},
	{"Txn/any bytes", func(w *world) {
		value := []byte("\x00\xff\xfe\n")
		w.then(engine.Put(w.key("bytes"), value), engine.Put(w.key("empty"), nil))
		if kv := w.get("bytes"); !bytes.Equal(kv.Value, value) {
			w.Fatalf("got %q", kv.Value)
		}
		if kv := w.get("empty"); kv.Version != 1 || len(kv.Value) != 0 {
			w.Fatalf("got %+v", kv)
		}
	}},
	{"Txn/value is copied", func(w *world) {
		value := []byte("before")
		w.then(engine.Put(w.key("a"), value))
		copy(value, "behind")
		w.wantState("a=before")
	}},
	{"Txn/invalid", func(w *world) {
		big := strings.Repeat("x", 1600<<10)
		for _, c := range []struct {
			name string
			txn  engine.Txn
		}{
			{"empty key", engine.Txn{Then: []engine.Op{engine.Put("", nil)}}},
			{"too large", engine.Txn{Then: []engine.Op{engine.Put(w.key("big"), []byte(big))}}},
			{"future", engine.Txn{Then: []engine.Op{engine.GetRange(engine.RangeRequest{Key: w.key("a"), Revision: 1 << 50}), engine.Put(w.key("a"), nil)}}},
		} {
			_, err := w.Engine.Txn(w.ctx, c.txn)
			w.Logf("%s: %v", c.name, err)
			w.refused(err, holdfast.CodeInvalid)
		}
		w.wantState("")
	}},
	{"Txn/unknown lease", func(w *world) {
		put := engine.PutLeased(w.key("leased"), nil, w.lease())
		_, err := w.Engine.Txn(w.ctx, engine.Txn{Then: []engine.Op{engine.Put(w.key("a"), nil), put}})
		w.refused(err, holdfast.CodeNotFound)
		_, err = w.Engine.Txn(w.ctx, engine.Txn{Then: []engine.Op{
			engine.Nested(engine.Txn{Then: []engine.Op{engine.Put(w.key("a"), nil)}}),
			engine.Nested(engine.Txn{Then: []engine.Op{put}}),
		}})
		w.refused(err, holdfast.CodeNotFound)
		w.wantState("")
		w.txn(engine.Txn{If: []engine.Compare{engine.Exists(w.key("a"))}, Then: []engine.Op{put}, Else: []engine.Op{engine.Put(w.key("b"), nil)}})
		w.wantState("b=")
	}},
}

// holds fails unless a compare holds or does not, as told.
func (w *world) holds(name string, c engine.Compare, want bool) {
	w.Helper()
	if res := w.txn(engine.Txn{If: []engine.Compare{c}}); res.Succeeded != want {
		w.Errorf("%s: %+v: %v, want %v", name, c, res.Succeeded, want)
	}
}

// testCompares tries every target with every operator on a present and on a
// missing key.
func testCompares(w *world) {
	w.put("k", "m")
	w.put("k", "m")
	kv := w.get("k")
	for target, is := range map[engine.CompareTarget]int64{
		engine.CompareVersion: kv.Version, engine.CompareCreate: kv.CreateRevision, engine.CompareMod: kv.ModRevision,
	} {
		for d := int64(-1); d <= 1; d++ {
			for op, want := range map[engine.CompareOp]bool{
				engine.Equal: d == 0, engine.NotEqual: d != 0, engine.Greater: d < 0, engine.Less: d > 0,
			} {
				w.holds("present", engine.Compare{Key: w.key("k"), Target: target, Op: op, Int: is + d}, want)
				w.holds("missing", engine.Compare{Key: w.key("none"), Target: target, Op: op, Int: d}, want)
			}
		}
	}
	for value, sign := range map[string]int{"l": 1, "m": 0, "n": -1, "": 1, "mm": -1} {
		for op, want := range map[engine.CompareOp]bool{
			engine.Equal: sign == 0, engine.NotEqual: sign != 0, engine.Greater: sign > 0, engine.Less: sign < 0,
		} {
			w.holds("present", engine.Compare{Key: w.key("k"), Target: engine.CompareValue, Op: op, Value: []byte(value)}, want)
			w.holds("missing", engine.Compare{Key: w.key("none"), Target: engine.CompareValue, Op: op, Value: []byte(value)}, false)
		}
	}
}

var nestedTests = []test{
	{"Nested/compares see the state before", func(w *world) {
		none := engine.Missing(w.key("n/"))
		none.End = engine.PrefixEnd(w.key("n/"))
		child := func(name string) engine.Op {
			return engine.Nested(engine.Txn{If: []engine.Compare{none}, Then: []engine.Op{engine.Put(w.key("n/"+name), nil)}})
		}
		res := w.then(child("1"), child("2"))
		for i, r := range res.Results {
			if r.Txn == nil || !r.Txn.Succeeded {
				w.Fatalf("child %d saw what the other wrote: %+v", i, r.Txn)
			}
		}
		res = w.then(
			engine.Nested(engine.Txn{Then: []engine.Op{engine.Put(w.key("p"), nil)}}),
			engine.Nested(engine.Txn{If: []engine.Compare{engine.Exists(w.key("p"))}, Then: []engine.Op{engine.Delete(w.key("p"))}}),
		)
		if res.Results[1].Txn.Succeeded {
			w.Fatal("the guard saw a write of its own transaction")
		}
		w.wantState("n/1= n/2= p=")
	}},
	{"Nested/reads see earlier writes", func(w *world) {
		res := w.then(
			engine.Nested(engine.Txn{Then: []engine.Op{engine.Put(w.key("a"), []byte("1"))}}),
			engine.Nested(engine.Txn{Then: []engine.Op{engine.Get(w.key("a"))}}),
		)
		if got := w.text(res.Results[1].Txn.Results[0].Range.KVs); got != "a=1" {
			w.Fatalf("read %q", got)
		}
	}},
	{"Nested/one revision", func(w *world) {
		res := w.then(
			engine.Nested(engine.Txn{Then: []engine.Op{engine.Put(w.key("a"), nil)}}),
			engine.Nested(engine.Txn{Then: []engine.Op{engine.Nested(engine.Txn{Then: []engine.Op{engine.Put(w.key("b"), nil)}})}}),
		)
		for _, name := range []string{"a", "b"} {
			if kv := w.get(name); kv.CreateRevision != res.Revision {
				w.Fatalf("%s: %+v, want revision %d", name, kv, res.Revision)
			}
		}
		if b := w.next(w.watch(res.Revision)); len(b.Events) != 2 {
			w.Fatalf("the watch split a revision: %+v", b)
		}
	}},
	{"Nested/branches", func(w *world) {
		w.put("yes", "")
		leaf := func(guard, name string) engine.Op {
			return engine.Nested(engine.Txn{
				If:   []engine.Compare{engine.Exists(w.key(guard))},
				Then: []engine.Op{engine.Put(w.key(name), []byte("then"))},
				Else: []engine.Op{engine.Put(w.key(name), []byte("else"))},
			})
		}
		res := w.then(
			leaf("yes", "1"),
			engine.Nested(engine.Txn{
				If:   []engine.Compare{engine.Missing(w.key("yes"))},
				Then: []engine.Op{leaf("yes", "2"), leaf("no", "3")},
				Else: []engine.Op{leaf("no", "4"), leaf("yes", "5")},
			}),
			leaf("no", "6"),
		)
		w.wantState("1=then 4=else 5=then 6=else yes=")
		mid := res.Results[1].Txn
		if !res.Results[0].Txn.Succeeded || mid.Succeeded || mid.Results[0].Txn.Succeeded || !mid.Results[1].Txn.Succeeded || res.Results[2].Txn.Succeeded {
			w.Fatalf("the branches reported are not those that ran: %+v", res)
		}
	}},
	{"Nested/one key twice", testDuplicates},
	{"Nested/limits", func(w *world) {
		nest := func(children, gets int) engine.Txn {
			var t engine.Txn
			for i := range children {
				c := engine.Txn{If: []engine.Compare{engine.Missing(w.key("none"))}, Then: []engine.Op{engine.Put(w.key(fmt.Sprint(i)), nil)}}
				for range gets {
					c.Else = append(c.Else, engine.Get(w.key("none")))
				}
				t.Then = append(t.Then, engine.Nested(c))
			}
			return t
		}
		for _, bad := range []engine.Txn{nest(128, 1), nest(64, 65)} {
			_, err := w.Engine.Txn(w.ctx, bad)
			w.refused(err, holdfast.CodeInvalid)
		}
		w.wantState("")
		w.txn(nest(64, 64))
		if res := w.txn(nest(127, 1)); len(res.Results) != 127 {
			w.Fatalf("%d results", len(res.Results))
		}
		if n := w.read(w.all()).Count; n != 127 {
			w.Fatalf("%d keys", n)
		}
	}},
}

// testDuplicates tries what etcd accepts and refuses when a transaction could
// write a key twice.
func testDuplicates(w *world) {
	put, del := engine.Put(w.key("k"), []byte("v")), engine.Delete(w.key("k"))
	span := engine.DeleteRange(w.key("a"), w.key("z"))
	child := func(ops ...engine.Op) engine.Op { return engine.Nested(engine.Txn{Then: ops}) }
	either := func(then, other engine.Op) engine.Op {
		return engine.Nested(engine.Txn{Then: []engine.Op{then}, Else: []engine.Op{other}})
	}
	for _, c := range []struct {
		name string
		ops  []engine.Op
		ok   bool
	}{
		{"put put", []engine.Op{put, put}, false},
		{"put delete", []engine.Op{put, del}, false},
		{"delete put", []engine.Op{del, put}, false},
		{"delete range put", []engine.Op{span, put}, false},
		{"delete delete", []engine.Op{del, span, del}, true},
		{"child puts twice", []engine.Op{child(put), child(put)}, false},
		{"child puts, parent puts", []engine.Op{child(put), put}, false},
		{"child puts, parent deletes", []engine.Op{child(put), del}, false},
		{"child deletes, parent puts", []engine.Op{child(del), put}, false},
		{"child puts, later child deletes", []engine.Op{child(put), child(del)}, true},
		{"child puts, later child deletes range", []engine.Op{child(put), child(span)}, true},
		{"child deletes, later child puts", []engine.Op{child(del), child(put)}, false},
		{"child deletes range, later child puts", []engine.Op{child(span), child(put)}, false},
		{"then and else", []engine.Op{either(put, put)}, true},
		{"then puts, else deletes", []engine.Op{either(put, del)}, true},
		{"else puts, later child puts", []engine.Op{either(del, put), child(put)}, false},
		{"put, then or else puts", []engine.Op{child(put), either(del, put)}, false},
		{"grandchildren put", []engine.Op{child(child(put)), child(child(put))}, false},
	} {
		res, err := w.Engine.Txn(w.ctx, engine.Txn{Then: c.ops})
		switch {
		case c.ok && err != nil:
			w.Errorf("%s: %v, want it accepted", c.name, err)
		case !c.ok && err == nil:
			w.Errorf("%s: accepted with %+v, want it refused", c.name, res)
		case !c.ok && (holdfast.CodeOf(err) != holdfast.CodeInvalid || holdfast.OutcomeOf(err) != holdfast.NotApplied):
			w.Errorf("%s: %v (%v), want invalid, not applied", c.name, err, holdfast.OutcomeOf(err))
		}
	}
}
