package kv

import (
	"context"
	"errors"
	"fmt"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// Put writes a key and returns the revision of the write. Options: IfRevision,
// IfMissing, Leased, Fenced.
func (st *Store) Put(ctx context.Context, key string, value []byte, opts ...WriteOption) (int64, error) {
	o := writeOptionsOf(opts)
	p := st.program(o, key, Op{Kind: OpPut, Key: key, Value: value, Leased: o.leased})
	a, err := st.run(ctx, "put", key, p)
	return a.Revision, err
}

// CompareAndSet writes a key if it was last written at revision expect, 0 if it
// does not exist, and returns the revision of the write; otherwise it is
// holdfast.ErrConflict. Options: Leased, Fenced.
func (st *Store) CompareAndSet(ctx context.Context, key string, expect int64, value []byte, opts ...WriteOption) (int64, error) {
	o := writeOptionsOf(opts)
	var extra faults
	if len(o.guards) > 0 {
		extra.add("a compare besides that of the call")
	}
	o.guards = []Cond{RevisionIs("", expect)}
	p := st.program(o, key, Op{Kind: OpPut, Key: key, Value: value, Leased: o.leased})
	a, err := st.run(ctx, "compare and set", key, p, extra...)
	return a.Revision, err
}

// Deleted is what a Delete found.
type Deleted struct {
	Revision int64 // of the store after it
	Existed  bool  // there was such a key
}

// Delete removes a key; that it does not exist is no error. Options:
// IfRevision, Fenced.
func (st *Store) Delete(ctx context.Context, key string, opts ...WriteOption) (Deleted, error) {
	o := writeOptionsOf(opts)
	p := st.program(o, key, Op{Kind: OpDelete, Key: key, Leased: o.leased})
	a, err := st.run(ctx, "delete", key, p)
	if err != nil {
		return Deleted{}, err
	}
	return Deleted{Revision: a.Revision, Existed: a.Results[0].Found}, nil
}

// Txn runs a transaction. That its conditions did not hold is no error: see
// TxnResult.Succeeded. Options: Fenced.
func (st *Store) Txn(ctx context.Context, t Txn, opts ...WriteOption) (TxnResult, error) {
	o := writeOptionsOf(opts)
	var extra faults
	if len(o.guards) > 0 || o.leased {
		extra.add("a transaction has its own conditions and leases")
	}
	p := &program{txn: t, fences: o.fences, lease: engine.LeaseID(st.lease), request: st.request}
	a, err := st.exec(ctx, "transaction", "", p, extra...)
	return a.TxnResult, err
}

// program is the write of one key, under the guards of its options.
func (st *Store) program(o writeOptions, key string, op Op) *program {
	p := &program{plain: true, txn: Txn{Then: []Op{op}}, fences: o.fences, lease: engine.LeaseID(st.lease), request: st.request}
	for _, g := range o.guards {
		g.Key = key
		p.txn.If = append(p.txn.If, g)
	}
	return p
}

// run is exec for writes to which a failed condition is an error.
func (st *Store) run(ctx context.Context, op, key string, p *program, extra ...error) (answer, error) {
	a, err := st.exec(ctx, op, key, p, extra...)
	if err == nil && !a.Succeeded {
		return answer{}, &holdfast.Error{Op: op, Key: subject(key), Code: holdfast.CodeConflict, Outcome: holdfast.NotApplied}
	}
	return a, err
}

// exec checks a program, runs it, and finds its first answer again when it had
// been applied before.
func (st *Store) exec(ctx context.Context, op, key string, p *program, extra ...error) (answer, error) {
	f := faults(extra)
	f.program(p)
	if err := f.err(op, subject(key)); err != nil {
		return answer{}, err
	}
	var a answer
	if p.readOnly() {
		res, err := engine.Submit(ctx, st.engine, st.attempt, p.core())
		if err == nil {
			a, err = p.interpretCore(&res, res.Revision)
		}
		if err != nil {
			return answer{}, &holdfast.Error{Op: op, Key: subject(key), Code: holdfast.CodeOf(err), Outcome: holdfast.NotApplied, Err: bare(err)}
		}
		return a, nil
	}
	res, err := st.once(ctx, p.compile())
	if err != nil {
		return answer{}, p.unknown(wrap(op, key, err))
	}
	if res.Duplicate {
		a, err = st.recall(ctx, p, res.Revision)
	} else {
		a, err = p.interpret(res.TxnResult)
	}
	if err != nil { // it was executed, but whether it was refused then is not known
		e := wrap(op, key, fmt.Errorf("its result: %w", bare(err)))
		if e.Request, e.Outcome = res.Request.String(), holdfast.Applied; p.refusable() {
			e.Outcome = holdfast.Unknown
		}
		return answer{}, p.unknown(e)
	}
	if a.fenced != nil {
		return answer{}, &holdfast.Error{
			Op: op, Key: subject(key), Code: holdfast.CodeFenced, Outcome: holdfast.NotApplied,
			Err: fmt.Errorf("fence %s: %w: %v, seen %v", a.fenced.Resource, holdfast.ErrFenced, a.fenced.Token, a.highest),
		}
	}
	return a, nil
}

// recall is the answer of a program that was applied at revision rev.
func (st *Store) recall(ctx context.Context, p *program, rev int64) (answer, error) {
	keys := p.needs()
	before := make(map[string]engine.KV, len(keys))
	for len(keys) > 0 {
		n := min(len(keys), MaxOps)
		t := engine.Txn{Then: make([]engine.Op, n)}
		for i, key := range keys[:n] {
			t.Then[i] = engine.GetRange(engine.RangeRequest{Key: key, Revision: rev - 1})
		}
		res, err := engine.Submit(ctx, st.engine, st.attempt, t)
		if err != nil {
			return answer{}, err
		}
		for _, r := range res.Results {
			for _, kv := range r.Range.KVs {
				before[kv.Key] = kv
			}
		}
		keys = keys[n:]
	}
	a, err := p.replay(before, rev)
	if err != nil {
		return answer{}, errors.Join(errors.New("replay"), err)
	}
	return a, nil
}

// refusable says whether the program may be executed and change nothing.
func (p *program) refusable() bool {
	return len(p.fences) > 0 || len(p.txn.If) > 0 && (!writes(p.txn.Then) || !writes(p.txn.Else))
}

// changed says whether the answer is that of a write that took place: it was
// not fenced off, and the branch that ran had something to write.
func (p *program) changed(a answer) bool {
	if a.Succeeded {
		return writes(p.txn.Then)
	}
	return a.fenced == nil && writes(p.txn.Else)
}

// pending is the cause of an unknown outcome, with the write that Resolve has
// to look into.
type pending struct {
	program *program
	cause   error
}

// unknown puts the program into an error whose outcome Resolve can settle.
func (p *program) unknown(e *holdfast.Error) error {
	if e.Request != "" && e.Outcome == holdfast.Unknown {
		e.Err = &pending{program: p, cause: e.Err}
	}
	return e
}

func (p *pending) Error() string { return p.cause.Error() }
func (p *pending) Unwrap() error { return p.cause }

// Resolve settles a write whose outcome was unknown, for good: it finds that
// it happened, and at which revision, or makes sure that it never will, even
// if it is still under way. Cause is the error of the write. It fails with
// holdfast.ErrInvalid when that carries no request id, which only writes
// through a session or with a request id do. The outcome stays Unknown, with an
// error, when the session is gone, or when a conditional write was decided at a
// revision that is no longer in history.
func (st *Store) Resolve(ctx context.Context, cause error) (holdfast.Outcome, int64, error) {
	id, err := engine.ParseRequestID(requestOf(cause))
	if err != nil {
		return holdfast.OutcomeOf(cause), 0, err
	}
	outcome, rev, err := st.ResolveRequest(ctx, id)
	write, ok := errors.AsType[*pending](cause)
	if !ok || err != nil || outcome != holdfast.Applied {
		return outcome, rev, err
	}
	a, err := st.recall(ctx, write.program, rev)
	switch {
	case err != nil:
		return holdfast.Unknown, 0, unresolved(id, holdfast.Unknown, err)
	case !write.program.changed(a):
		return holdfast.NotApplied, 0, nil
	}
	return holdfast.Applied, rev, nil
}

// ResolveRequest settles a write that was sent with a request id of its own, by
// that id, as Resolve does.
func (st *Store) ResolveRequest(ctx context.Context, id engine.RequestID) (holdfast.Outcome, int64, error) {
	outcome, rev, err := st.resolve(ctx, id)
	if err != nil {
		return outcome, 0, unresolved(id, outcome, err)
	}
	if outcome == holdfast.Applied { // executed; but the note of a refusal may stand beside it, even if it went with the session since
		res, err := st.read(ctx, engine.RangeRequest{Key: refusedKey(id), Revision: rev, KeysOnly: true})
		switch {
		case err != nil:
			return holdfast.Unknown, 0, unresolved(id, holdfast.Unknown, err)
		case len(res.KVs) > 0 && res.KVs[0].ModRevision == rev:
			return holdfast.NotApplied, 0, nil
		}
	}
	return outcome, rev, nil
}

// unresolved is the error of a request that could not be settled.
func unresolved(id engine.RequestID, outcome holdfast.Outcome, err error) error {
	return &holdfast.Error{
		Op: "resolve", Key: "request " + id.String(), Code: holdfast.CodeOf(err), Outcome: outcome, Request: id.String(), Err: bare(err),
	}
}
