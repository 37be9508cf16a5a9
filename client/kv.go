package client

import (
	"context"
	"errors"
	"fmt"

	"holdfast.dev"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/kv"
)

// KV is the key-value store over the network, with the methods and promises of
// kv.Store. It is safe for concurrent use.
//
// Writes of a session's KV happen exactly once: they are repeated at any node
// until they are answered. Those of a client's KV have no session to remember
// them by: they are sent once, and an unknown outcome stays unknown; Leased is
// refused.
type KV struct {
	c *Client
	s *Session // nil: a client's
}

// KV is the store without a session.
func (c *Client) KV() *KV { return &KV{c: c} }

// KV is the store with the session's memory of writes.
func (s *Session) KV() *KV { return &KV{c: s.c, s: s} }

// Get reads one key; see kv.Store.Get.
func (k *KV) Get(ctx context.Context, key string, opts ...kv.ReadOption) (kv.Entry, error) {
	spec := kv.SpecOfGet(opts...)
	res, err := call(ctx, k.c, "get", "kv "+key, reading, func(ctx context.Context, e *endpoint) (*v1.KVServiceGetResponse, error) {
		return e.kv.Get(ctx, &v1.KVServiceGetRequest{Key: key, Stale: spec.Stale, Revision: spec.At})
	})
	if err != nil {
		return kv.Entry{Key: key}, err
	}
	return entryOf(res.GetEntry(), res.GetRevision())
}

// List reads the keys that begin with a prefix, a page at a time; see
// kv.Store.List.
func (k *KV) List(ctx context.Context, prefix string, opts ...kv.ListOption) (kv.Page, error) {
	spec := kv.SpecOfList(opts...)
	subject := "kv " + prefix
	if spec.Limit < 1 || spec.Limit > kv.MaxPage {
		return kv.Page{}, invalid("list", subject, "limit %d, want 1 to %d", spec.Limit, kv.MaxPage)
	}
	req := &v1.KVServiceListRequest{
		Prefix: prefix, After: spec.After, Limit: uint32(spec.Limit), KeysOnly: spec.KeysOnly, Stale: spec.Stale, Revision: spec.At,
	}
	res, err := call(ctx, k.c, "list", subject, reading, func(ctx context.Context, e *endpoint) (*v1.KVServiceListResponse, error) {
		return e.kv.List(ctx, req)
	})
	if err != nil {
		return kv.Page{}, err
	}
	page := kv.Page{More: res.GetMore(), Revision: res.GetRevision(), Entries: make([]kv.Entry, len(res.GetEntries()))}
	for i, m := range res.GetEntries() {
		if page.Entries[i], err = entryOf(m, res.GetRevision()); err != nil {
			return kv.Page{}, err
		}
	}
	return page, nil
}

// Put writes a key and returns the revision of the write; see kv.Store.Put.
func (k *KV) Put(ctx context.Context, key string, value []byte, opts ...kv.WriteOption) (int64, error) {
	w, err := k.prepare("put", "kv "+key, opts)
	if err == nil {
		err = fits("put", key, value)
	}
	if err != nil {
		return 0, err
	}
	req := &v1.PutRequest{
		Key: key, Content: &v1.PutRequest_Value{Value: value}, Session: w.session, IfMissing: w.missing, IfRevision: w.revision, Fence: w.fence,
	}
	res, err := write(ctx, k, "put", "kv "+key, func(ctx context.Context, e *endpoint, id string) (*v1.PutResponse, error) {
		req.RequestId = id
		return e.kv.Put(ctx, req)
	})
	return res.GetRevision(), err
}

// CompareAndSet writes a key if it was last written at revision expect; see
// kv.Store.CompareAndSet.
func (k *KV) CompareAndSet(ctx context.Context, key string, expect int64, value []byte, opts ...kv.WriteOption) (int64, error) {
	const op = "compare and set"
	w, err := k.prepare(op, "kv "+key, opts)
	if err == nil && w.guarded {
		err = invalid(op, "kv "+key, "a compare besides that of the call")
	}
	if err == nil {
		err = fits(op, key, value)
	}
	if err != nil {
		return 0, err
	}
	req := &v1.CompareAndSetRequest{
		Key: key, Expect: expect, Content: &v1.CompareAndSetRequest_Value{Value: value}, Session: w.session, Fence: w.fence,
	}
	res, err := write(ctx, k, op, "kv "+key, func(ctx context.Context, e *endpoint, id string) (*v1.CompareAndSetResponse, error) {
		req.RequestId = id
		return e.kv.CompareAndSet(ctx, req)
	})
	return res.GetRevision(), err
}

// Delete removes a key; see kv.Store.Delete.
func (k *KV) Delete(ctx context.Context, key string, opts ...kv.WriteOption) (kv.Deleted, error) {
	w, err := k.prepare("delete", "kv "+key, opts)
	if err == nil && (w.missing || w.session != "") {
		err = invalid("delete", "kv "+key, "a deletion takes a revision above 0 and fences as conditions, and no session")
	}
	if err != nil {
		return kv.Deleted{}, err
	}
	req := &v1.DeleteRequest{Key: key, IfRevision: w.revision, Fence: w.fence}
	res, err := write(ctx, k, "delete", "kv "+key, func(ctx context.Context, e *endpoint, id string) (*v1.DeleteResponse, error) {
		req.RequestId = id
		return e.kv.Delete(ctx, req)
	})
	return kv.Deleted{Revision: res.GetRevision(), Existed: res.GetExisted()}, err
}

// Txn writes several keys at once, or none; see kv.Store.Txn.
func (k *KV) Txn(ctx context.Context, t kv.Txn, opts ...kv.WriteOption) (kv.TxnResult, error) {
	const op, subject = "transaction", "kv"
	w, err := k.prepare(op, subject, opts)
	if err == nil && (w.guarded || w.session != "") {
		err = invalid(op, subject, "a transaction has its own conditions and leases")
	}
	if err != nil {
		return kv.TxnResult{}, err
	}
	req := &v1.TxnRequest{Fence: w.fence}
	if k.s != nil {
		req.Session = k.s.ID().String()
	}
	for _, cond := range t.If {
		req.If = append(req.If, condition(cond))
	}
	var e1, e2 error
	req.Then, e1 = k.operations(t.Then)
	req.Else, e2 = k.operations(t.Else)
	if err := errors.Join(e1, e2); err != nil {
		return kv.TxnResult{}, err
	}
	res, err := write(ctx, k, op, subject, func(ctx context.Context, e *endpoint, id string) (*v1.TxnResponse, error) {
		req.RequestId = id
		return e.kv.Txn(ctx, req)
	})
	if err != nil {
		return kv.TxnResult{}, err
	}
	return txnResult(t, res)
}

// Resolve settles a write of the session whose outcome was unknown, for good;
// see kv.Store.Resolve.
func (k *KV) Resolve(ctx context.Context, cause error) (holdfast.Outcome, int64, error) {
	id, err := engine.ParseRequestID(requestOf(cause))
	if err != nil {
		return holdfast.OutcomeOf(cause), 0, err
	}
	res, err := call(ctx, k.c, "resolve", "request "+id.String(), safe, func(ctx context.Context, e *endpoint) (*v1.ResolveResponse, error) {
		return e.kv.Resolve(ctx, &v1.ResolveRequest{RequestId: id.String()})
	})
	switch {
	case err != nil:
		return holdfast.Unknown, 0, err
	case res.GetOutcome() == v1.Outcome_OUTCOME_APPLIED:
		k.settle(id)
		return holdfast.Applied, res.GetRevision(), nil
	case res.GetOutcome() == v1.Outcome_OUTCOME_NOT_APPLIED:
		k.settle(id)
		return holdfast.NotApplied, 0, nil
	}
	return holdfast.Unknown, 0, nil
}

func (k *KV) settle(id engine.RequestID) {
	if k.s != nil && id.Session == k.s.ID() {
		k.s.slots.settle(id)
	}
}

// write sends a write: with a session exactly once, without one at most once.
func write[Res any](ctx context.Context, k *KV, op, key string, f func(context.Context, *endpoint, string) (Res, error)) (Res, error) {
	if k.s == nil {
		return call(ctx, k.c, op, key, single, func(ctx context.Context, e *endpoint) (Res, error) { return f(ctx, e, "") })
	}
	id, err := k.s.slots.take(ctx, k.s.ID())
	if err != nil {
		var none Res
		return none, k.c.failed(op, key, false, err)
	}
	res, err := call(ctx, k.c, op, key, safe, func(ctx context.Context, e *endpoint) (Res, error) { return f(ctx, e, id.String()) })
	k.s.slots.put(id, holdfast.OutcomeOf(err) == holdfast.Unknown)
	if e, ok := errors.AsType[*holdfast.Error](err); ok && e.Outcome == holdfast.Unknown && e.Request == "" {
		e.Request = id.String() // the error is the call's own copy
	}
	return res, err
}

// written is what the options of a write come to in a request.
type written struct {
	session  string // not empty: leased
	guarded  bool
	missing  bool
	revision int64
	fence    *v1.Fence
}

func (k *KV) prepare(op, key string, opts []kv.WriteOption) (w written, err error) {
	spec := kv.SpecOfWrite(opts...)
	if spec.Leased {
		if k.s == nil {
			return w, invalid(op, key, "nothing to hang it on: no session")
		}
		w.session = k.s.ID().String()
	}
	if len(spec.Guards) > 1 || len(spec.Fences) > 1 {
		return w, invalid(op, key, "over the network one condition and one fence go with a write")
	}
	for _, g := range spec.Guards {
		w.guarded, w.missing, w.revision = true, g.Revision == 0, g.Revision
	}
	for _, f := range spec.Fences {
		w.fence = &v1.Fence{Resource: f.Resource, Token: uint64(f.Token)}
	}
	return w, nil
}

func (k *KV) operations(ops []kv.Op) ([]*v1.Operation, error) {
	out := make([]*v1.Operation, len(ops))
	for i, op := range ops {
		switch op.Kind {
		case kv.OpGet:
			out[i] = &v1.Operation{Do: &v1.Operation_Get{Get: op.Key}}
		case kv.OpDelete:
			out[i] = &v1.Operation{Do: &v1.Operation_Delete{Delete: op.Key}}
		case kv.OpPut:
			if err := fits("transaction", op.Key, op.Value); err != nil {
				return nil, err
			}
			put := &v1.PutOperation{Key: op.Key, Content: &v1.PutOperation_Value{Value: op.Value}}
			if op.Leased {
				if k.s == nil {
					return nil, invalid("transaction", "kv "+op.Key, "nothing to hang it on: no session")
				}
				put.Leased = true
			}
			out[i] = &v1.Operation{Do: &v1.Operation_Put{Put: put}}
		default:
			return nil, invalid("transaction", "kv "+op.Key, "unknown kind %d of operation", op.Kind)
		}
	}
	return out, nil
}

func condition(c kv.Cond) *v1.Condition {
	switch c.Kind {
	case kv.CondExists:
		return &v1.Condition{Key: c.Key, Is: &v1.Condition_Exists{Exists: true}}
	case kv.CondValue:
		return &v1.Condition{Key: c.Key, Is: &v1.Condition_Value{Value: c.Value}}
	case kv.CondRevision:
	}
	return &v1.Condition{Key: c.Key, Is: &v1.Condition_Revision{Revision: c.Revision}}
}

func txnResult(t kv.Txn, m *v1.TxnResponse) (kv.TxnResult, error) {
	ops := t.Then
	if !m.GetSucceeded() {
		ops = t.Else
	}
	res := kv.TxnResult{Revision: m.GetRevision(), Succeeded: m.GetSucceeded(), Results: make([]kv.OpResult, len(ops))}
	for i, r := range m.GetResults() {
		if i >= len(ops) {
			break
		}
		switch ops[i].Kind {
		case kv.OpDelete:
			res.Results[i].Found = r.GetExisted()
		case kv.OpGet:
			if r.GetEntry() == nil {
				continue
			}
			e, err := entryOf(r.GetEntry(), m.GetRevision())
			if err != nil {
				return kv.TxnResult{}, err
			}
			res.Results[i] = kv.OpResult{Found: true, Entry: e}
		case kv.OpPut:
		}
	}
	return res, nil
}

// fits refuses a value that no node takes before it is sent: what is larger
// than a request may be is cut off, which looks like a node in trouble.
func fits(op, key string, value []byte) error {
	if len(value) <= kv.MaxValue {
		return nil
	}
	return invalid(op, "kv "+key, "value has %d bytes, at most %d are allowed", len(value), kv.MaxValue)
}

// invalid is the error for a request that was not sent.
func invalid(op, key, format string, args ...any) error {
	return &holdfast.Error{Op: op, Key: key, Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: fmt.Errorf(format, args...)}
}

// requestOf is the request id of the first error in the chain that has one.
func requestOf(err error) string {
	for {
		e, ok := errors.AsType[*holdfast.Error](err)
		if !ok {
			return ""
		}
		if e.Request != "" {
			return e.Request
		}
		err = e.Err
	}
}
