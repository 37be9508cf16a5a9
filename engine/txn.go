package engine

import (
	"context"
	"fmt"
	"slices"

	"holdfast.dev"
)

const (
	// maxTxnOps is etcd's default bound on a transaction: on every path through
	// its nesting, the sum over the levels of the greatest of the numbers of
	// compares, of operations of Then and of operations of Else.
	maxTxnOps = 128
	// maxTxnBytes is etcd's default bound on the size of a request.
	maxTxnBytes = 3 << 19
)

// callError is an error of an engine's call.
func callError(op, key string, c holdfast.Code, o holdfast.Outcome, cause error) error {
	return &holdfast.Error{Op: op, Key: key, Code: c, Outcome: o, Err: cause}
}

// waitError is the error of a call that stopped waiting because ctx ended.
func waitError(ctx context.Context, op string, o holdfast.Outcome) error {
	return callError(op, "", codeOfContext(ctx), o, context.Cause(ctx))
}

// invalid is the error of a request that can never succeed as it is.
func invalid(op, key, format string, args ...any) error {
	return callError(op, key, holdfast.CodeInvalid, holdfast.NotApplied, fmt.Errorf(format, args...))
}

// checkTxn refuses what etcd's server refuses before it looks at the store:
// unknown kinds, empty keys, too many operations, and two writes of one key
// that could both run. It follows checkTxnRequest and checkIntervals in etcd's
// server/etcdserver/api/v3rpc/key.go.
func checkTxn(t *Txn, maxOps int) error {
	if err := checkShape(t); err != nil {
		return err
	}
	if n := txnOps(t); n > maxOps {
		return invalid("txn", "", "%d operations, the limit is %d", n, maxOps)
	}
	if flat, writes := countWrites(t); flat && writes < 2 {
		return nil
	}
	for _, ops := range [][]Op{t.Then, t.Else} {
		if _, err := checkWrites(ops); err != nil {
			return err
		}
	}
	return nil
}

// checkShape refuses unknown kinds and empty keys.
func checkShape(t *Txn) error {
	for i := range t.If {
		c := &t.If[i]
		switch {
		case c.Key == "" && c.End == "":
			return invalid("txn", "", "compare of the empty key")
		case c.Target < CompareVersion || c.Target > CompareValue:
			return invalid("txn", c.Key, "compare target %d does not exist", c.Target)
		case c.Op < Equal || c.Op > Less:
			return invalid("txn", c.Key, "compare operator %d does not exist", c.Op)
		}
	}
	for _, ops := range [2][]Op{t.Then, t.Else} {
		for i := range ops {
			if err := checkOp(&ops[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkOp is checkShape for one operation.
func checkOp(op *Op) error {
	switch op.Kind {
	case OpGet, OpDelete:
		if op.Range.Key == "" && op.Range.End == "" {
			return invalid("txn", "", "operation on the empty key")
		}
	case OpPut:
		if op.Key == "" {
			return invalid("txn", "", "put of the empty key")
		}
	case OpTxn:
		if op.Txn == nil {
			return invalid("txn", "", "nested transaction is nil")
		}
		return checkShape(op.Txn)
	default:
		return invalid("txn", "", "operation kind %d does not exist", op.Kind)
	}
	return nil
}

// txnOps is what a transaction takes of the limit on operations.
func txnOps(t *Txn) int {
	nested := 0
	for _, ops := range [2][]Op{t.Then, t.Else} {
		for i := range ops {
			if ops[i].Kind == OpTxn {
				nested = max(nested, txnOps(ops[i].Txn))
			}
		}
	}
	return max(len(t.If), len(t.Then), len(t.Else)) + nested
}

// countWrites tells whether t has no nested transactions, and how many writes
// the branch with more of them has.
func countWrites(t *Txn) (flat bool, writes int) {
	for _, ops := range [2][]Op{t.Then, t.Else} {
		n := 0
		for i := range ops {
			switch ops[i].Kind {
			case OpPut, OpDelete:
				n++
			case OpTxn:
				return false, 0
			case OpGet:
			}
		}
		writes = max(writes, n)
	}
	return true, writes
}

// readOnly tells whether no branch of t writes; etcd serves such a transaction
// without a log entry only if nothing is nested, so nesting counts as a write.
func (t *Txn) readOnly() bool {
	flat, writes := countWrites(t)
	return flat && writes == 0
}

// txnBytes is about how long t is on the wire.
func txnBytes(t *Txn) int {
	n := 0
	for i := range t.If {
		n += 24 + len(t.If[i].Key) + len(t.If[i].End) + len(t.If[i].Value)
	}
	for _, ops := range [2][]Op{t.Then, t.Else} {
		for i := range ops {
			op := &ops[i]
			n += 24 + len(op.Key) + len(op.Value) + len(op.Range.Key) + len(op.Range.End)
			if op.Kind == OpTxn {
				n += txnBytes(op.Txn)
			}
		}
	}
	return n
}

// cloneTxn is a copy of t that shares nothing with it.
func cloneTxn(t *Txn) *Txn {
	return &Txn{If: cloneCompares(t.If), Then: cloneOps(t.Then), Else: cloneOps(t.Else)}
}

func cloneCompares(cs []Compare) []Compare {
	cs = slices.Clone(cs)
	for i := range cs {
		cs[i].Value = slices.Clone(cs[i].Value)
	}
	return cs
}

func cloneOps(ops []Op) []Op {
	ops = slices.Clone(ops)
	for i := range ops {
		ops[i].Value = slices.Clone(ops[i].Value)
		if ops[i].Txn != nil {
			ops[i].Txn = cloneTxn(ops[i].Txn)
		}
	}
	return ops
}

// span is the keys of a RangeRequest, a Compare or a WatchRequest: one key if
// end is empty, otherwise [key, end).
type span struct{ key, end string }

// has tells whether the span contains a key.
func (s span) has(key string) bool {
	if s.end == "" {
		return key == s.key
	}
	return s.key <= key && key < s.end
}

// writeSet is what the branches of a list of operations may write.
type writeSet struct {
	puts    map[string]struct{}
	order   []string // the keys of puts
	deletes map[string]struct{}
	spans   []span // deleted
}

// deleted tells whether a delete in the set covers key.
func (w *writeSet) deleted(key string) bool {
	if _, ok := w.deletes[key]; ok {
		return true
	}
	for _, s := range w.spans {
		if s.end != "" && s.has(key) {
			return true
		}
	}
	return false
}

func (w *writeSet) delete(s span) {
	w.spans = append(w.spans, s)
	if s.end != "" {
		return
	}
	if w.deletes == nil {
		w.deletes = map[string]struct{}{}
	}
	w.deletes[s.key] = struct{}{}
}

// put adds a put unless it clashes with what is in the set already.
func (w *writeSet) put(key string) error {
	if _, twice := w.puts[key]; twice || w.deleted(key) {
		return invalid("txn", key, "written twice in one transaction")
	}
	if w.puts == nil {
		w.puts = map[string]struct{}{}
	}
	w.puts[key] = struct{}{}
	w.order = append(w.order, key)
	return nil
}

// checkWrites refuses two puts of one key, a put with a delete of its key at
// the same level, and a delete in an earlier child or level above a put. A put
// in one child and a delete in a later one are accepted, as etcd does, and so
// are writes of one key in the two branches of one child.
func checkWrites(ops []Op) (*writeSet, error) {
	w := &writeSet{}
	for i := range ops {
		if ops[i].Kind == OpDelete {
			w.delete(span{ops[i].Range.Key, ops[i].Range.End})
		}
	}
	for i := range ops {
		if ops[i].Kind != OpTxn {
			continue
		}
		if err := w.child(ops[i].Txn); err != nil {
			return nil, err
		}
	}
	for i := range ops {
		if ops[i].Kind != OpPut {
			continue
		}
		if err := w.put(ops[i].Key); err != nil {
			return nil, err
		}
	}
	return w, nil
}

// child adds what a nested transaction may write.
func (w *writeSet) child(t *Txn) error {
	then, err := checkWrites(t.Then)
	if err != nil {
		return err
	}
	other, err := checkWrites(t.Else)
	if err != nil {
		return err
	}
	for _, k := range other.order {
		if _, both := then.puts[k]; both {
			continue // only one of the two runs; then's is checked below
		}
		if err := w.put(k); err != nil {
			return err
		}
	}
	for _, k := range then.order {
		if err := w.put(k); err != nil {
			return err
		}
	}
	for _, branch := range [2]*writeSet{then, other} {
		for _, s := range branch.spans {
			w.delete(s)
		}
	}
	return nil
}
