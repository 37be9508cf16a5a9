package etcd

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"holdfast.dev/internal/call"
	"holdfast.dev/lab/history"
)

// register is the client of register, cas and kv.
func register(ctx context.Context, m *member, op history.Op) history.Op {
	key := "register/" + op.Key
	switch op.F {
	case "read":
		r, err := m.get(ctx, key)
		if err != nil {
			return call.Fail(op, err) // a read has no effect
		}
		v, err := first(r)
		return call.End(op, v, err, true)
	case "write":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, _, err := m.put(ctx, key, text)
		return call.End(op, op.Value, err, certain)
	case "cas":
		from, to, err := call.Pair(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		next, err := call.Encode(to)
		if err != nil {
			return call.Fail(op, err)
		}
		is := unchanged(key, 0)
		if from != nil {
			text, err := call.Encode(from)
			if err != nil {
				return call.Fail(op, err)
			}
			is = has(key, text)
		}
		certain, err := m.txn(ctx, []*etcdserverpb.Compare{is}, []*etcdserverpb.RequestOp{put(key, next)})
		return call.End(op, op.Value, err, certain)
	case "delete":
		certain, _, err := m.remove(ctx, key)
		return call.End(op, op.Value, err, certain)
	}
	return call.Unknown(op)
}

// put writes one key and returns the revision of the write.
func (m *member) put(ctx context.Context, key, value string) (certain bool, rev int64, err error) {
	certain, err = m.change(ctx, func(ctx context.Context) error {
		r, err := m.kv.Put(ctx, &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)})
		rev = r.GetHeader().GetRevision()
		return err
	})
	return certain, rev, err
}

// remove deletes one key and returns the store's revision then.
func (m *member) remove(ctx context.Context, key string) (certain bool, rev int64, err error) {
	certain, err = m.change(ctx, func(ctx context.Context) error {
		r, err := m.kv.DeleteRange(ctx, &etcdserverpb.DeleteRangeRequest{Key: []byte(key)})
		rev = r.GetHeader().GetRevision()
		return err
	})
	return certain, rev, err
}

// set has one key for each element.
func set(ctx context.Context, m *member, op history.Op) history.Op {
	const prefix = "set/"
	dir := prefix + op.Key + "/"
	switch op.F {
	case "add":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, _, err := m.put(ctx, dir+text, text)
		return call.End(op, op.Value, err, certain)
	case "read":
		r, err := m.list(ctx, dir)
		if err != nil {
			return call.Fail(op, err)
		}
		all, err := values(r.GetKvs())
		return call.End(op, all, err, true)
	}
	return call.Unknown(op)
}

// values are those of some keys, decoded.
func values(kvs []*keyValue) ([]any, error) {
	all := make([]any, 0, len(kvs))
	for _, kv := range kvs {
		v, err := call.Decode(string(kv.GetValue()))
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// counter reads, and writes if nobody did meanwhile.
func counter(ctx context.Context, m *member, op history.Op) history.Op {
	key := "counter/" + op.Key
	r, err := m.get(ctx, key)
	if err != nil {
		return call.Fail(op, err) // nothing was changed yet
	}
	var now, rev int64
	if len(r.GetKvs()) > 0 {
		kv := r.GetKvs()[0]
		rev = kv.GetModRevision()
		if now, err = strconv.ParseInt(string(kv.GetValue()), 10, 64); err != nil {
			return call.Fail(op, err)
		}
	}
	switch op.F {
	case "read":
		return call.OK(op, now)
	case "add":
		n, err := call.Int(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, err := m.txn(ctx, []*etcdserverpb.Compare{unchanged(key, rev)},
			[]*etcdserverpb.RequestOp{put(key, strconv.FormatInt(now+n, 10))})
		return call.End(op, op.Value, err, certain)
	}
	return call.Unknown(op)
}

// uniqueIDs takes the revision of a write as an id.
func uniqueIDs(ctx context.Context, m *member, op history.Op) history.Op {
	if op.F != "generate" {
		return call.Unknown(op)
	}
	certain, rev, err := m.put(ctx, "ids", "")
	return call.End(op, rev, err, certain)
}

// queue has one key for each element; the oldest is the one created first.
func queue(ctx context.Context, m *member, op history.Op) history.Op {
	const prefix = "queue/"
	dir := prefix + op.Key + "/"
	switch op.F {
	case "enqueue":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, _, err := m.put(ctx, dir+text, text)
		return call.End(op, op.Value, err, certain)
	case "dequeue":
		rctx, cancel := m.bounded(ctx)
		defer cancel()
		req := &etcdserverpb.RangeRequest{
			Limit: 1, SortTarget: etcdserverpb.RangeRequest_CREATE, SortOrder: etcdserverpb.RangeRequest_ASCEND,
		}
		req.Key, req.RangeEnd = span(dir)
		r, err := m.kv.Range(rctx, req)
		if err != nil {
			return call.Fail(op, err)
		}
		v, err := first(r)
		if err != nil || v == nil {
			return call.End(op, nil, err, true)
		}
		kv := r.GetKvs()[0]
		key := string(kv.GetKey())
		certain, err := m.txn(ctx, []*etcdserverpb.Compare{unchanged(key, kv.GetModRevision())}, []*etcdserverpb.RequestOp{remove(key)})
		return call.End(op, v, err, certain)
	case "drain":
		var r *etcdserverpb.DeleteRangeResponse
		certain, err := m.change(ctx, func(ctx context.Context) (err error) {
			req := &etcdserverpb.DeleteRangeRequest{PrevKv: true}
			req.Key, req.RangeEnd = span(dir)
			r, err = m.kv.DeleteRange(ctx, req)
			return err
		})
		if err != nil {
			return call.End(op, nil, err, certain)
		}
		gone := slices.Clone(r.GetPrevKvs())
		slices.SortFunc(gone, func(a, b *keyValue) int { return cmp.Compare(a.GetCreateRevision(), b.GetCreateRevision()) })
		all, err := values(gone)
		return call.End(op, all, err, false)
	}
	return call.Unknown(op)
}

// idempotent has one key for each request and its effect; with keys=false, one
// for each time that it is made.
func idempotent(ctx context.Context, m *member, op history.Op) history.Op {
	const prefix = "effects/"
	switch op.F {
	case "apply":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		key := prefix + text
		if !m.keys {
			key += "/" + rand.Text()
		}
		certain, err := m.txn(ctx, []*etcdserverpb.Compare{unchanged(key, 0)}, []*etcdserverpb.RequestOp{put(key, text)})
		if errors.Is(err, errConflict) {
			return call.OK(op, op.Value) // it had its effect before
		}
		return call.End(op, op.Value, err, certain)
	case "effects":
		r, err := m.list(ctx, prefix)
		if err != nil {
			return call.Fail(op, err)
		}
		all, err := values(r.GetKvs())
		return call.End(op, all, err, true)
	}
	return call.Unknown(op)
}

// transaction is the client of append: all keys are read in one transaction, and
// written in a second one if none of them was written meanwhile.
func transaction(ctx context.Context, m *member, op history.Op) history.Op {
	if op.F != "txn" {
		return call.Unknown(op)
	}
	ops, err := call.Txn(op.Value)
	if err != nil {
		return call.Fail(op, err)
	}
	const prefix = "append/"
	var names []string // each key once
	writes := map[string]bool{}
	for _, o := range ops {
		if !slices.Contains(names, o.Name) {
			names = append(names, o.Name)
		}
		writes[o.Name] = writes[o.Name] || o.Append
	}
	req := &etcdserverpb.TxnRequest{}
	for _, n := range names {
		req.Success = append(req.Success, &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{
			RequestRange: &etcdserverpb.RangeRequest{Key: []byte(prefix + n), Serializable: m.serializable},
		}})
	}
	rctx, cancel := m.bounded(ctx)
	defer cancel()
	r, err := m.kv.Txn(rctx, req)
	if err != nil {
		return call.Fail(op, err) // only reads so far
	}
	lists := map[string][]any{}
	var same []*etcdserverpb.Compare
	for i, n := range names {
		answer := r.GetResponses()[i].GetResponseRange()
		v, err := first(answer)
		if err != nil {
			return call.Fail(op, err)
		}
		list, _ := v.([]any) // nil: the key is missing
		lists[n] = list
		var rev int64
		if len(answer.GetKvs()) > 0 {
			rev = answer.GetKvs()[0].GetModRevision()
		}
		same = append(same, unchanged(prefix+n, rev))
	}
	filled := call.Run(ops, lists)
	var puts []*etcdserverpb.RequestOp
	for _, n := range names {
		if !writes[n] {
			continue
		}
		text, err := call.Encode(lists[n])
		if err != nil {
			return call.Fail(op, err)
		}
		puts = append(puts, put(prefix+n, text))
	}
	if len(puts) == 0 {
		return call.OK(op, filled)
	}
	certain, err := m.txn(ctx, same, puts)
	return call.End(op, filled, err, certain)
}

// bank has one key for each account.
func bank(ctx context.Context, m *member, op history.Op) history.Op {
	const prefix = "bank/"
	switch op.F {
	case "init":
		balances, err := call.Balances(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		var puts []*etcdserverpb.RequestOp
		for i, b := range balances {
			puts = append(puts, put(prefix+call.Account(i), strconv.FormatInt(b, 10)))
		}
		certain, err := m.txn(ctx, []*etcdserverpb.Compare{unchanged(prefix+call.Account(0), 0)}, puts)
		return call.End(op, op.Value, err, certain)
	case "read":
		r, err := m.list(ctx, prefix)
		if err != nil {
			return call.Fail(op, err)
		}
		all := map[string]any{}
		for _, kv := range r.GetKvs() {
			n, err := strconv.ParseInt(string(kv.GetValue()), 10, 64)
			if err != nil {
				return call.Fail(op, err)
			}
			all[strings.TrimPrefix(string(kv.GetKey()), prefix)] = n
		}
		return call.OK(op, all)
	case "transfer":
		t, err := call.ParseTransfer(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		if t.From == t.To {
			return call.OK(op, op.Value)
		}
		var same []*etcdserverpb.Compare
		var now [2]int64
		for i, name := range []string{t.From, t.To} {
			r, err := m.get(ctx, prefix+name)
			if err == nil && len(r.GetKvs()) == 0 {
				err = call.ErrMissing
			}
			if err != nil {
				return call.Fail(op, err)
			}
			kv := r.GetKvs()[0]
			if now[i], err = strconv.ParseInt(string(kv.GetValue()), 10, 64); err != nil {
				return call.Fail(op, err)
			}
			same = append(same, unchanged(prefix+name, kv.GetModRevision()))
		}
		if now[0] < t.Amount {
			return call.Fail(op, call.ErrShort)
		}
		certain, err := m.txn(ctx, same, []*etcdserverpb.RequestOp{
			put(prefix+t.From, strconv.FormatInt(now[0]-t.Amount, 10)),
			put(prefix+t.To, strconv.FormatInt(now[1]+t.Amount, 10)),
		})
		return call.End(op, op.Value, err, certain)
	}
	return call.Unknown(op)
}
