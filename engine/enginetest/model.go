package enginetest

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"maps"
	"slices"
	"strings"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// model is an engine as plain as can be: a map, copied at every revision.
type model struct {
	state   map[string]engine.KV
	history map[int64]map[string]engine.KV // the state after each revision that wrote
	events  []engine.Event
	lease   engine.LeaseID // the one that exists
}

// step is a transaction on its way through the model.
type step struct {
	*model
	before map[string]engine.KV // what compares see
	rev    int64                // that of its writes
	wrote  bool
}

// apply runs t as revision rev and returns its result, or the code of its error.
func (m *model) apply(t engine.Txn, rev int64) (engine.TxnResult, holdfast.Code) {
	if clash(t.Then) || clash(t.Else) {
		return engine.TxnResult{}, holdfast.CodeInvalid
	}
	s := &step{model: m, before: maps.Clone(m.state), rev: rev}
	if !s.leasesExist(t) {
		return engine.TxnResult{}, holdfast.CodeNotFound
	}
	res := s.run(t)
	res.Revision = rev
	if s.wrote {
		m.history[rev] = maps.Clone(m.state)
	}
	return res, holdfast.CodeUnknown
}

// branch is the operations of t that run.
func (s *step) branch(t engine.Txn) (bool, []engine.Op) {
	for _, c := range t.If {
		if !s.holds(c) {
			return false, t.Else
		}
	}
	return true, t.Then
}

func (s *step) leasesExist(t engine.Txn) bool {
	_, ops := s.branch(t)
	for _, op := range ops {
		if op.Kind == engine.OpPut && op.Lease != 0 && op.Lease != s.lease || op.Kind == engine.OpTxn && !s.leasesExist(*op.Txn) {
			return false
		}
	}
	return true
}

func (s *step) run(t engine.Txn) engine.TxnResult {
	yes, ops := s.branch(t)
	res := engine.TxnResult{Succeeded: yes}
	for _, op := range ops {
		var r engine.OpResult
		switch op.Kind {
		case engine.OpGet:
			state := s.state
			if op.Range.Revision != 0 {
				state = s.history[op.Range.Revision]
			}
			r.Range = answer(state, op.Range)
		case engine.OpPut:
			s.put(op)
		case engine.OpDelete:
			for _, kv := range within(s.state, op.Range.Key, op.Range.End) {
				s.delete(kv.Key)
				r.Deleted++
				if op.Prev {
					r.Prev = append(r.Prev, kv)
				}
			}
		case engine.OpTxn:
			child := s.run(*op.Txn)
			r.Txn = &child
		}
		res.Results = append(res.Results, r)
	}
	return res
}

func (s *step) put(op engine.Op) {
	kv := engine.KV{Key: op.Key, Value: op.Value, CreateRevision: s.rev, ModRevision: s.rev, Version: 1, Lease: op.Lease}
	if prev, ok := s.state[op.Key]; ok {
		kv.CreateRevision, kv.Version = prev.CreateRevision, prev.Version+1
	}
	s.state[op.Key] = kv
	s.event(engine.Event{KV: kv})
}

func (s *step) delete(key string) {
	delete(s.state, key)
	s.event(engine.Event{Deleted: true, KV: engine.KV{Key: key, ModRevision: s.rev}})
}

func (s *step) event(ev engine.Event) {
	if prev, ok := s.before[ev.KV.Key]; ok {
		ev.Prev = &prev
	}
	s.wrote = true
	s.events = append(s.events, ev)
}

func (s *step) holds(c engine.Compare) bool {
	kvs := within(s.before, c.Key, c.End)
	if len(kvs) == 0 {
		if c.Target == engine.CompareValue {
			return false
		}
		kvs = []engine.KV{{}}
	}
	for _, kv := range kvs {
		sign := map[engine.CompareTarget]int{
			engine.CompareVersion: cmp.Compare(kv.Version, c.Int),
			engine.CompareCreate:  cmp.Compare(kv.CreateRevision, c.Int),
			engine.CompareMod:     cmp.Compare(kv.ModRevision, c.Int),
			engine.CompareValue:   bytes.Compare(kv.Value, c.Value),
		}[c.Target]
		if !map[engine.CompareOp]bool{engine.Equal: sign == 0, engine.NotEqual: sign != 0, engine.Greater: sign > 0, engine.Less: sign < 0}[c.Op] {
			return false
		}
	}
	return true
}

// within is the keys of a range in order.
func within(state map[string]engine.KV, key, end string) []engine.KV {
	var kvs []engine.KV
	for _, k := range slices.Sorted(maps.Keys(state)) {
		if k == key || end != "" && key <= k && k < end {
			kvs = append(kvs, state[k])
		}
	}
	return kvs
}

// answer is what a range read gives.
func answer(state map[string]engine.KV, r engine.RangeRequest) engine.RangeResult {
	kvs := within(state, r.Key, r.End)
	res := engine.RangeResult{Count: int64(len(kvs))}
	if r.Count {
		return res
	}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, res.More = kvs[:r.Limit], true
	}
	for _, kv := range kvs {
		if r.KeysOnly {
			kv.Value = nil
		}
		res.KVs = append(res.KVs, kv)
	}
	return res
}

// clash tells whether a list of operations could put a key twice, or put what
// it deletes, in a way that is refused: all ways but a put in a child and the
// delete in a later child. The branches of one child do not clash.
func clash(ops []engine.Op) bool {
	for i, a := range ops {
		if a.Kind == engine.OpTxn && (clash(a.Txn.Then) || clash(a.Txn.Else)) {
			return true
		}
		for j, b := range ops {
			if j == i {
				continue
			}
			for _, p := range writes(a, engine.OpPut) {
				for _, q := range writes(b, engine.OpPut) {
					if p.Key == q.Key {
						return true
					}
				}
				for _, d := range writes(b, engine.OpDelete) {
					covered := d.Range.End == "" && p.Key == d.Range.Key || d.Range.End != "" && d.Range.Key <= p.Key && p.Key < d.Range.End
					childThenLaterChild := a.Kind == engine.OpTxn && b.Kind == engine.OpTxn && i < j
					if covered && !childThenLaterChild {
						return true
					}
				}
			}
		}
	}
	return false
}

// writes is the operations of a kind in op and below it.
func writes(op engine.Op, kind engine.OpKind) []engine.Op {
	if op.Kind == kind {
		return []engine.Op{op}
	}
	var all []engine.Op
	if op.Kind == engine.OpTxn {
		for _, o := range slices.Concat(op.Txn.Then, op.Txn.Else) {
			all = append(all, writes(o, kind)...)
		}
	}
	return all
}

// draw generates transactions over few keys.
type draw struct {
	*rapid.T
	*model
	prefix string
	lost   engine.LeaseID // one that does not exist
}

func (d draw) key() string {
	return d.prefix + string(rapid.SampledFrom([]rune("abcdef")).Draw(d.T, "key"))
}

// span is a key, or a range.
func (d draw) span() (key, end string) {
	key = d.key()
	if rapid.IntRange(0, 3).Draw(d.T, "range") == 0 {
		end = d.key()
		key, end = min(key, end), max(key, end)+"~"
	}
	return key, end
}

func (d draw) value() []byte {
	return []byte(rapid.SampledFrom([]string{"", "x", "y", "yy"}).Draw(d.T, "value"))
}

// revision is one of those that the model knows.
func (d draw) revision() int64 {
	known := append(slices.Sorted(maps.Keys(d.history)), 0)
	return rapid.SampledFrom(known).Draw(d.T, "revision")
}

func (d draw) txn(depth int) engine.Txn {
	var t engine.Txn
	for range rapid.IntRange(0, 2).Draw(d.T, "compares") {
		t.If = append(t.If, d.compare())
	}
	for range rapid.IntRange(0, 3).Draw(d.T, "then") {
		t.Then = append(t.Then, d.op(depth))
	}
	for range rapid.IntRange(0, 2).Draw(d.T, "else") {
		t.Else = append(t.Else, d.op(depth))
	}
	return t
}

func (d draw) compare() engine.Compare {
	key, end := d.span()
	c := engine.Compare{
		Key: key, End: end,
		Target: engine.CompareTarget(rapid.IntRange(1, 4).Draw(d.T, "target")),
		Op:     engine.CompareOp(rapid.IntRange(1, 4).Draw(d.T, "operator")),
	}
	switch c.Target {
	case engine.CompareVersion:
		c.Int = rapid.Int64Range(0, 3).Draw(d.T, "version")
	case engine.CompareCreate, engine.CompareMod:
		c.Int = d.revision()
	case engine.CompareValue:
		c.Value = d.value()
	}
	return c
}

func (d draw) op(depth int) engine.Op {
	kinds := 5 + min(depth, 1)*3
	switch rapid.IntRange(0, kinds-1).Draw(d.T, "kind") {
	case 0, 1:
		return engine.Put(d.key(), d.value())
	case 2:
		key, end := d.span()
		return engine.Op{Kind: engine.OpDelete, Range: engine.RangeRequest{Key: key, End: end}, Prev: rapid.Bool().Draw(d.T, "prev")}
	case 3:
		return engine.GetRange(d.read())
	case 4:
		lease := rapid.SampledFrom([]engine.LeaseID{d.lease, d.lease, d.lease, d.lost}).Draw(d.T, "lease")
		return engine.PutLeased(d.key(), d.value(), lease)
	default:
		return engine.Nested(d.txn(depth - 1))
	}
}

func (d draw) read() engine.RangeRequest {
	key, end := d.span()
	return engine.RangeRequest{
		Key: key, End: end, Revision: d.revision(),
		Limit:    rapid.Int64Range(0, 3).Draw(d.T, "limit"),
		KeysOnly: rapid.Bool().Draw(d.T, "keys only"),
		Count:    rapid.IntRange(0, 4).Draw(d.T, "count") == 0,
	}
}

// sameResult ignores what engines may choose: the revision of reads inside a
// transaction, the lease of a key read without its value, nil or empty.
var sameResult = gocmp.Options{
	cmpopts.EquateEmpty(),
	gocmp.FilterPath(func(p gocmp.Path) bool { return strings.HasSuffix(p.GoString(), "Range.Revision") }, gocmp.Ignore()),
	cmpopts.IgnoreFields(engine.KV{}, "Lease"),
}

// sameKVs is sameResult for whole keys.
var sameKVs = gocmp.Options{cmpopts.EquateEmpty()}

// checkModel runs random transactions on the engine and on a model and
// compares every answer, then the state, the history and what a watch saw.
func checkModel(w *world) {
	lease, lost := w.lease(), w.lease()
	if _, err := w.Engine.Grant(w.ctx, lease, 2*patience); err != nil {
		w.Fatal(err)
	}
	start := w.read(w.all())
	ch := w.watch(start.Revision + 1)
	rapid.Check(w.T, func(rt *rapid.T) {
		m := &model{state: map[string]engine.KV{}, history: map[int64]map[string]engine.KV{}, lease: lease}
		d := draw{T: rt, model: m, prefix: w.prefix + rand.Text() + "/", lost: lost}
		r := engine.RangeRequest{Key: d.prefix, End: engine.PrefixEnd(d.prefix)}
		for range rapid.IntRange(1, 8).Draw(rt, "transactions") {
			w.modelStep(rt, d)
		}
		w.modelState(rt, m, r)
		w.modelWatch(rt, m, r, ch)
	})
}

// modelStep runs one transaction.
func (w *world) modelStep(rt *rapid.T, d draw) {
	t := d.txn(2)
	got, err := w.Engine.Txn(w.ctx, t)
	want, code := d.apply(t, got.Revision)
	if code != holdfast.CodeUnknown {
		if holdfast.CodeOf(err) != code || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			rt.Fatalf("%+v: got %v (%v), want %v, not applied", t, err, holdfast.OutcomeOf(err), code)
		}
		return
	}
	if err != nil {
		rt.Fatalf("%+v: %v", t, err)
	}
	if diff := gocmp.Diff(want, got, sameResult); diff != "" {
		rt.Fatalf("%+v: (-want +got)\n%s", t, diff)
	}
}

// modelState compares the state now and at every revision.
func (w *world) modelState(rt *rapid.T, m *model, r engine.RangeRequest) {
	m.history[0] = m.state
	for _, rev := range slices.Sorted(maps.Keys(m.history)) {
		r.Revision = rev
		got, err := w.Engine.Range(w.ctx, r)
		if err != nil {
			rt.Fatal(err)
		}
		if diff := gocmp.Diff(within(m.history[rev], r.Key, r.End), got.KVs, sameKVs); diff != "" {
			rt.Fatalf("at revision %d: (-want +got)\n%s", rev, diff)
		}
	}
	delete(m.history, 0)
}

// modelWatch compares the events; the order within a revision is free except
// between events of one key.
func (w *world) modelWatch(rt *rapid.T, m *model, r engine.RangeRequest, ch <-chan engine.WatchBatch) {
	if len(m.events) == 0 {
		return
	}
	var got []engine.Event
	for _, b := range w.until(ch, m.events[len(m.events)-1].KV.ModRevision) {
		for _, ev := range b.Events {
			if r.Key <= ev.KV.Key && ev.KV.Key < r.End { // others are left from a run that failed
				got = append(got, ev)
			}
		}
	}
	order := func(a, b engine.Event) int {
		return cmp.Or(cmp.Compare(a.KV.ModRevision, b.KV.ModRevision), strings.Compare(a.KV.Key, b.KV.Key))
	}
	slices.SortStableFunc(got, order)
	slices.SortStableFunc(m.events, order)
	if diff := gocmp.Diff(m.events, got, sameKVs); diff != "" {
		rt.Fatalf("watch: (-want +got)\n%s", diff)
	}
}
