package kv

import (
	"fmt"
	"maps"
	"slices"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// This file is the pure core: it turns a write into an engine's transaction,
// reads the answer, and works out the answer a second time from the state
// before, when the first one was lost. It does no I/O.

// Where things lie in the engine.
const (
	keyPrefix     = "kv/"
	fencePrefix   = "fence/"
	refusedPrefix = "refused/" // <session>/<slot>: when that request slot last refused a write
)

// program is a write with everything that belongs to it, valid.
type program struct {
	plain  bool // one key: faults need not say which operation they mean
	txn    Txn
	fences []Fence
	lease  engine.LeaseID // what Leased operations hang on

	// request is whose refusal has to be told from its success by somebody who
	// knows nothing but the id. Nil: by nobody.
	request *engine.RequestID
}

// readOnly: the program changes nothing whichever branch runs.
func (p *program) readOnly() bool {
	return len(p.fences) == 0 && !writes(p.txn.Then) && !writes(p.txn.Else)
}

// writes: one of the operations changes something.
func writes(ops []Op) bool {
	for _, op := range ops {
		if op.Kind != OpGet {
			return true
		}
	}
	return false
}

// core is the program without its fences.
func (p *program) core() engine.Txn {
	t := engine.Txn{If: conds(p.txn.If), Then: p.ops(p.txn.Then), Else: p.ops(p.txn.Else)}
	if len(t.If) > 0 && !writes(p.txn.Else) {
		t.Else = append(t.Else, p.refuse()...)
	}
	return t
}

// refuse notes that the program was executed and changed nothing, in the
// revision in which it was: one key for each request slot.
func (p *program) refuse() []engine.Op {
	if p.request == nil {
		return nil
	}
	return []engine.Op{engine.PutLeased(refusedKey(*p.request), nil, engine.LeaseID(p.request.Session))}
}

// refusedKey is where refuse makes its note.
func refusedKey(id engine.RequestID) string {
	return fmt.Sprintf("%s%v/%02x", refusedPrefix, id.Session, id.Slot)
}

// compile is the transaction that runs the program: unconditional outside, so
// that a failed condition is an answer as final as any other, recorded once
// and not asked again by a late duplicate; inside, a chain with one link for
// each fence. "No higher token" cannot be one compare, as a missing key
// compares false to everything; "a higher token" can, so each link goes on in
// its Else.
func (p *program) compile() engine.Txn {
	inner := p.core()
	if len(p.fences) > 0 {
		inner = engine.Txn{Then: append(raises(p.fences), engine.Nested(inner))}
	}
	for _, f := range slices.Backward(p.fences) {
		key, value := fenceKey(f), fenceValue(f.Token)
		inner = engine.Txn{
			If:   []engine.Compare{{Key: key, Target: engine.CompareValue, Op: engine.Greater, Value: value}},
			Then: append([]engine.Op{engine.Get(key)}, p.refuse()...),
			Else: []engine.Op{engine.Nested(inner)},
		}
	}
	return engine.Txn{Then: []engine.Op{engine.Nested(inner)}}
}

// raises remember the tokens that are higher than what their resources have
// seen. An equal one is not written again: a holder writes often.
func raises(fences []Fence) []engine.Op {
	ops := make([]engine.Op, len(fences))
	for i, f := range fences {
		ops[i] = engine.Nested(engine.Txn{
			If:   []engine.Compare{engine.ValueIs(fenceKey(f), fenceValue(f.Token))},
			Else: []engine.Op{engine.Put(fenceKey(f), fenceValue(f.Token))},
		})
	}
	return ops
}

// answer is what became of a program.
type answer struct {
	TxnResult
	fenced  *Fence         // the fence that stopped it, or nil
	highest holdfast.Token // what that resource has seen
}

// interpret reads the result of the compiled transaction.
func (p *program) interpret(res engine.TxnResult) (answer, error) {
	inner, err := nested(&res, 0)
	for i := range p.fences {
		if err != nil {
			return answer{}, err
		}
		if inner.Succeeded {
			return p.stopped(i, res.Revision, inner)
		}
		inner, err = nested(inner, 0)
	}
	if n := len(p.fences); n > 0 && err == nil {
		inner, err = nested(inner, n)
	}
	if err != nil {
		return answer{}, err
	}
	return p.interpretCore(inner, res.Revision)
}

// interpretCore reads the result of the program without its fences.
func (p *program) interpretCore(core *engine.TxnResult, rev int64) (answer, error) {
	ops := p.txn.Then
	if !core.Succeeded {
		ops = p.txn.Else
	}
	if len(core.Results) < len(ops) { // behind them may be the note of refuse
		return answer{}, fmt.Errorf("%d results for %d operations", len(core.Results), len(ops))
	}
	a := answer{TxnResult: TxnResult{Revision: rev, Succeeded: core.Succeeded, Results: make([]OpResult, len(ops))}}
	for i, op := range ops {
		r := core.Results[i]
		switch op.Kind {
		case OpGet:
			if len(r.Range.KVs) > 0 {
				a.Results[i] = OpResult{Found: true, Entry: entryOf(r.Range.KVs[0], rev)}
			}
		case OpDelete:
			a.Results[i].Found = r.Deleted > 0
		case OpPut:
		}
	}
	return a, nil
}

// stopped is the answer of a program that its i-th fence stopped.
func (p *program) stopped(i int, rev int64, link *engine.TxnResult) (answer, error) {
	a := answer{TxnResult: TxnResult{Revision: rev}, fenced: &p.fences[i]}
	if len(link.Results) > 0 && len(link.Results[0].Range.KVs) > 0 {
		t, err := holdfast.ParseToken(string(link.Results[0].Range.KVs[0].Value))
		if err != nil {
			return answer{}, err
		}
		a.highest = t
	}
	return a, nil
}

// needs are the engine's keys whose former state replay has to know, each once.
func (p *program) needs() []string {
	seen := map[string]bool{}
	var keys []string
	add := func(key string) {
		if !seen[key] {
			seen[key] = true
			keys = append(keys, key)
		}
	}
	for _, f := range p.fences {
		add(fenceKey(f))
	}
	for _, c := range p.txn.If {
		add(keyPrefix + c.Key)
	}
	for _, ops := range [][]Op{p.txn.Then, p.txn.Else} {
		reads := false
		for _, op := range ops {
			reads = reads || op.Kind == OpGet
			if op.Kind != OpPut {
				add(keyPrefix + op.Key)
			}
		}
		for _, op := range ops {
			if reads && op.Kind == OpPut {
				add(keyPrefix + op.Key) // a read of it after the put shows its version
			}
		}
	}
	return keys
}

// replay is the answer that the program gave when it was applied at revision
// rev, worked out from the state just before.
func (p *program) replay(before map[string]engine.KV, rev int64) (answer, error) {
	for i, f := range p.fences {
		old, ok := before[fenceKey(f)]
		if ok && string(old.Value) > string(fenceValue(f.Token)) {
			return p.stopped(i, rev, &engine.TxnResult{Results: []engine.OpResult{{Range: engine.RangeResult{KVs: []engine.KV{old}}}}})
		}
	}
	a := answer{TxnResult: TxnResult{Revision: rev, Succeeded: true}}
	for _, c := range p.txn.If {
		a.Succeeded = a.Succeeded && c.holds(before)
	}
	ops := p.txn.Then
	if !a.Succeeded {
		ops = p.txn.Else
	}
	a.Results = make([]OpResult, len(ops))
	state := maps.Clone(before)
	for i, op := range ops {
		key := keyPrefix + op.Key
		kv, ok := state[key]
		var r OpResult
		switch op.Kind {
		case OpGet:
			if ok {
				r = OpResult{Found: true, Entry: entryOf(kv, rev)}
			}
		case OpDelete:
			r.Found = ok
			delete(state, key)
		case OpPut:
			if !ok {
				kv = engine.KV{Key: key, CreateRevision: rev}
			}
			kv.Value, kv.ModRevision, kv.Lease = op.Value, rev, 0
			kv.Version++
			if op.Leased {
				kv.Lease = p.lease
			}
			state[key] = kv
		}
		a.Results[i] = r
	}
	return a, nil
}

// holds says whether the condition held in a state.
func (c Cond) holds(state map[string]engine.KV) bool {
	kv, ok := state[keyPrefix+c.Key]
	switch c.Kind {
	case CondRevision:
		return kv.ModRevision == c.Revision
	case CondExists:
		return ok
	case CondValue:
		return ok && string(kv.Value) == string(c.Value)
	}
	return false
}

// nested is the result of the nested transaction at place i.
func nested(res *engine.TxnResult, i int) (*engine.TxnResult, error) {
	if i >= len(res.Results) || res.Results[i].Txn == nil {
		return nil, fmt.Errorf("no nested result at place %d of %d", i, len(res.Results))
	}
	return res.Results[i].Txn, nil
}

// conds are conditions as the engine's compares.
func conds(cs []Cond) []engine.Compare {
	out := make([]engine.Compare, len(cs))
	for i, c := range cs {
		key := keyPrefix + c.Key
		switch c.Kind {
		case CondRevision:
			out[i] = engine.ModIs(key, c.Revision)
		case CondExists:
			out[i] = engine.Exists(key)
		case CondValue:
			out[i] = engine.ValueIs(key, c.Value)
		}
	}
	return out
}

// ops are operations as the engine's.
func (p *program) ops(ops []Op) []engine.Op {
	out := make([]engine.Op, len(ops))
	for i, op := range ops {
		key := keyPrefix + op.Key
		switch {
		case op.Kind == OpGet:
			out[i] = engine.Get(key)
		case op.Kind == OpDelete:
			out[i] = engine.Delete(key)
		case op.Leased:
			out[i] = engine.PutLeased(key, op.Value, p.lease)
		default:
			out[i] = engine.Put(key, op.Value)
		}
	}
	return out
}

// fenceKey is where the highest token of the fence's resource is kept.
func fenceKey(f Fence) string { return fencePrefix + f.Resource }

// fenceValue is a token in twenty digits, so that bytes compare as numbers do.
func fenceValue(t holdfast.Token) []byte { return fmt.Appendf(nil, "%020d", uint64(t)) }

// entryOf is the engine's key and value as the caller knows it.
func entryOf(kv engine.KV, readAt int64) Entry {
	return Entry{
		Key:            kv.Key[len(keyPrefix):],
		Value:          kv.Value,
		Revision:       kv.ModRevision,
		CreateRevision: kv.CreateRevision,
		Version:        kv.Version,
		Session:        engine.SessionID(kv.Lease),
		ReadRevision:   readAt,
	}
}
