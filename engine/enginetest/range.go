package enginetest

import (
	"holdfast.dev"
	"holdfast.dev/engine"
)

var rangeTests = []test{
	{"Range/order and bounds", func(w *world) {
		for _, name := range []string{"b", "a", "c/2", "c/1", "c", "d", "c0"} {
			w.put(name, "")
		}
		w.wantState("a= b= c= c/1= c/2= c0= d=")
		for _, c := range []struct{ key, end, want string }{
			{"c/", engine.PrefixEnd("c/"), "c/1= c/2="},
			{"b", "d", "b= c= c/1= c/2= c0="},
			{"b", "b", ""},
			{"c1", "d", ""},
		} {
			res := w.read(engine.RangeRequest{Key: w.key(c.key), End: w.key(c.end)})
			if got := w.text(res.KVs); got != c.want {
				w.Errorf("[%s, %s): %q, want %q", c.key, c.end, got, c.want)
			}
		}
		if res := w.read(engine.RangeRequest{Key: w.key("c")}); w.text(res.KVs) != "c=" || res.Count != 1 || res.More {
			w.Errorf("one key: %+v", res)
		}
		if res := w.read(engine.RangeRequest{Key: w.key("none")}); len(res.KVs) != 0 || res.Count != 0 || res.More {
			w.Errorf("no key: %+v", res)
		}
	}},
	{"Range/limit count keys", func(w *world) {
		for _, name := range []string{"1", "2", "3"} {
			w.put(name, "v")
		}
		r := w.all()
		r.Limit = 2
		if res := w.read(r); w.text(res.KVs) != "1=v 2=v" || !res.More || res.Count != 3 {
			w.Errorf("limit 2: %+v", res)
		}
		r.Limit = 3
		if res := w.read(r); len(res.KVs) != 3 || res.More || res.Count != 3 {
			w.Errorf("limit 3: %+v", res)
		}
		r.Limit, r.KeysOnly = 0, true
		if res := w.read(r); w.text(res.KVs) != "1= 2= 3=" || res.KVs[0].ModRevision == 0 || res.KVs[0].Version != 1 {
			w.Errorf("keys only: %+v", res)
		}
		r.KeysOnly, r.Count = false, true
		if res := w.read(r); len(res.KVs) != 0 || res.Count != 3 {
			w.Errorf("count: %+v", res)
		}
		r = w.all()
		r.Limit = 1
		res := w.then(engine.GetRange(r)).Results[0].Range
		if w.text(res.KVs) != "1=v" || !res.More || res.Count != 3 {
			w.Errorf("limit 1 in a transaction: %+v", res)
		}
	}},
	{"Range/at a revision", func(w *world) {
		one := w.put("a", "1")
		two := w.put("b", "2")
		three := w.then(engine.Delete(w.key("a")), engine.Put(w.key("b"), []byte("3"))).Revision
		for rev, want := range map[int64]string{one: "a=1", two: "a=1 b=2", three: "b=3", 0: "b=3"} {
			r := w.all()
			r.Revision = rev
			res := w.read(r)
			if got := w.text(res.KVs); got != want || res.Count != int64(len(res.KVs)) {
				w.Errorf("at %d: %q, count %d, want %q", rev, got, res.Count, want)
			}
			if res.Revision < three {
				w.Errorf("at %d: the store's revision is %d, want at least %d", rev, res.Revision, three)
			}
			if in := w.then(engine.GetRange(r)).Results[0].Range; w.text(in.KVs) != want {
				w.Errorf("at %d in a transaction: %q, want %q", rev, w.text(in.KVs), want)
			}
		}
		_, err := w.Engine.Range(w.ctx, engine.RangeRequest{Key: w.key("a"), Revision: 1 << 50})
		w.refused(err, holdfast.CodeInvalid)
	}},
	{"Range/stale", func(w *world) {
		rev := w.put("a", "1")
		r := w.all()
		r.Stale = true
		for {
			res := w.read(r)
			if res.Revision >= rev {
				if got := w.text(res.KVs); got != "a=1" {
					w.Fatalf("at %d: %q", res.Revision, got)
				}
				return
			}
			if len(res.KVs) != 0 {
				w.Fatalf("revision %d has a key of revision %d", res.Revision, rev)
			}
			w.wait(attempt / 100)
		}
	}},
	{"Range/linearizable", func(w *world) {
		for range 20 {
			rev := w.put("a", "x")
			if res := w.read(engine.RangeRequest{Key: w.key("a")}); res.Revision < rev || res.KVs[0].ModRevision < rev {
				w.Fatalf("read %+v after a put at %d", res, rev)
			}
		}
	}},
	{"Range/status", func(w *world) {
		rev := w.put("a", "1")
		w.read(w.all())
		s, err := w.Engine.Status(w.ctx)
		if err != nil {
			w.Fatal(err)
		}
		if s.Kind == "" || s.Leader == 0 || s.MemberID == 0 || s.ClusterID == 0 || s.Revision < rev {
			w.Fatalf("after revision %d: %+v", rev, s)
		}
	}},
}
