package etcd

import (
	"math"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"holdfast.dev/engine"
)

// keyspace puts a prefix before every key and takes it off again.
type keyspace string

// span is the key and range end in etcd's form.
func (k keyspace) span(key, end string) (first, last []byte) {
	first = []byte(string(k) + key)
	if end != "" {
		last = []byte(string(k) + end)
	}
	return first, last
}

// txn converts a transaction that was checked.
func (k keyspace) txn(t engine.Txn) *etcdserverpb.TxnRequest {
	req := &etcdserverpb.TxnRequest{
		Compare: make([]*etcdserverpb.Compare, len(t.If)),
		Success: k.ops(t.Then),
		Failure: k.ops(t.Else),
	}
	for i, c := range t.If {
		req.Compare[i] = k.compare(c)
	}
	return req
}

func (k keyspace) compare(c engine.Compare) *etcdserverpb.Compare {
	out := &etcdserverpb.Compare{}
	out.Key, out.RangeEnd = k.span(c.Key, c.End)
	switch c.Op {
	case engine.Equal:
		out.Result = etcdserverpb.Compare_EQUAL
	case engine.NotEqual:
		out.Result = etcdserverpb.Compare_NOT_EQUAL
	case engine.Greater:
		out.Result = etcdserverpb.Compare_GREATER
	case engine.Less:
		out.Result = etcdserverpb.Compare_LESS
	}
	switch c.Target {
	case engine.CompareVersion:
		out.Target = etcdserverpb.Compare_VERSION
		out.TargetUnion = &etcdserverpb.Compare_Version{Version: c.Int}
	case engine.CompareCreate:
		out.Target = etcdserverpb.Compare_CREATE
		out.TargetUnion = &etcdserverpb.Compare_CreateRevision{CreateRevision: c.Int}
	case engine.CompareMod:
		out.Target = etcdserverpb.Compare_MOD
		out.TargetUnion = &etcdserverpb.Compare_ModRevision{ModRevision: c.Int}
	case engine.CompareValue:
		out.Target = etcdserverpb.Compare_VALUE
		out.TargetUnion = &etcdserverpb.Compare_Value{Value: c.Value}
	}
	return out
}

func (k keyspace) ops(ops []engine.Op) []*etcdserverpb.RequestOp {
	out := make([]*etcdserverpb.RequestOp, len(ops))
	for i, op := range ops {
		out[i] = k.op(op)
	}
	return out
}

func (k keyspace) op(op engine.Op) *etcdserverpb.RequestOp {
	switch op.Kind {
	case engine.OpGet:
		r := k.rangeRequest(op.Range)
		r.Serializable = false
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestRange{RequestRange: r}}
	case engine.OpPut:
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{RequestPut: &etcdserverpb.PutRequest{
			Key: []byte(string(k) + op.Key), Value: op.Value, Lease: int64(op.Lease),
		}}}
	case engine.OpDelete:
		d := &etcdserverpb.DeleteRangeRequest{PrevKv: op.Prev}
		d.Key, d.RangeEnd = k.span(op.Range.Key, op.Range.End)
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{RequestDeleteRange: d}}
	case engine.OpTxn:
		return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestTxn{RequestTxn: k.txn(*op.Txn)}}
	}
	panic("etcd: operation was not checked")
}

func (k keyspace) rangeRequest(r engine.RangeRequest) *etcdserverpb.RangeRequest {
	req := &etcdserverpb.RangeRequest{
		Revision: r.Revision, Limit: r.Limit, KeysOnly: r.KeysOnly, CountOnly: r.Count, Serializable: r.Stale,
	}
	req.Key, req.RangeEnd = k.span(r.Key, r.End)
	return req
}

func (k keyspace) rangeResult(r *etcdserverpb.RangeResponse, revision int64) engine.RangeResult {
	return engine.RangeResult{Revision: revision, KVs: k.kvs(r.GetKvs()), More: r.GetMore(), Count: r.GetCount()}
}

// txnResult converts an answer; revision is the outermost header's, which the
// nested ones lack.
func (k keyspace) txnResult(r *etcdserverpb.TxnResponse, revision int64) engine.TxnResult {
	res := engine.TxnResult{Succeeded: r.GetSucceeded(), Results: make([]engine.OpResult, len(r.GetResponses()))}
	for i, one := range r.GetResponses() {
		out := &res.Results[i]
		switch v := one.GetResponse().(type) {
		case *etcdserverpb.ResponseOp_ResponseRange:
			out.Range = k.rangeResult(v.ResponseRange, revision)
		case *etcdserverpb.ResponseOp_ResponseDeleteRange:
			out.Deleted, out.Prev = v.ResponseDeleteRange.GetDeleted(), k.kvs(v.ResponseDeleteRange.GetPrevKvs())
		case *etcdserverpb.ResponseOp_ResponseTxn:
			nested := k.txnResult(v.ResponseTxn, revision)
			out.Txn = &nested
		}
	}
	return res
}

func (k keyspace) kvs(in []*mvccpb.KeyValue) []engine.KV {
	if len(in) == 0 {
		return nil
	}
	out := make([]engine.KV, len(in))
	for i, kv := range in {
		out[i] = k.kv(kv)
	}
	return out
}

func (k keyspace) kv(kv *mvccpb.KeyValue) engine.KV {
	return engine.KV{
		Key: k.strip(kv.GetKey()), Value: kv.GetValue(),
		CreateRevision: kv.GetCreateRevision(), ModRevision: kv.GetModRevision(),
		Version: kv.GetVersion(), Lease: engine.LeaseID(kv.GetLease()),
	}
}

// strip takes the prefix off a key.
func (k keyspace) strip(key []byte) string { return string(key[len(k):]) }

func (k keyspace) events(in []*mvccpb.Event) []engine.Event {
	out := make([]engine.Event, len(in))
	for i, ev := range in {
		out[i] = engine.Event{Deleted: ev.GetType() == mvccpb.Event_DELETE, KV: k.kv(ev.GetKv())}
		if out[i].Deleted {
			out[i].KV = engine.KV{Key: out[i].KV.Key, ModRevision: out[i].KV.ModRevision}
		}
		if prev := ev.GetPrevKv(); prev != nil {
			kv := k.kv(prev)
			out[i].Prev = &kv
		}
	}
	return out
}

// seconds rounds a TTL up to the whole seconds that etcd counts in.
func seconds(ttl time.Duration) int64 {
	return max(1, int64(math.Ceil(ttl.Seconds())))
}
