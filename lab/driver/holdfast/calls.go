package holdfast

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strconv"
	"strings"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/internal/call"
	"holdfast.dev/kv"
	"holdfast.dev/lab/history"
	"holdfast.dev/lock"
)

// register is the client of register, cas and kv.
func register(ctx context.Context, c *connection, op history.Op) history.Op {
	key := "register/" + op.Key
	switch op.F {
	case "read":
		return c.read(ctx, op, func(ctx context.Context, s *client.KV) (any, error) {
			e, err := s.Get(ctx, key)
			if errors.Is(err, holdfast.ErrNotFound) {
				return nil, nil
			}
			if err != nil {
				return nil, err
			}
			return call.Decode(string(e.Value))
		})
	case "write":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		return c.write(ctx, op, func(ctx context.Context, s *client.KV) (int64, error) { return s.Put(ctx, key, []byte(text)) })
	case "cas":
		from, to, err := call.Pair(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		next, err := call.Encode(to)
		if err != nil {
			return call.Fail(op, err)
		}
		is := kv.Missing(key)
		if from != nil {
			text, err := call.Encode(from)
			if err != nil {
				return call.Fail(op, err)
			}
			is = kv.ValueIs(key, []byte(text))
		}
		return c.write(ctx, op, func(ctx context.Context, s *client.KV) (int64, error) {
			return txn(ctx, s, []kv.Cond{is}, []kv.Op{kv.Put(key, []byte(next))})
		})
	case "delete":
		return c.write(ctx, op, func(ctx context.Context, s *client.KV) (int64, error) {
			d, err := s.Delete(ctx, key)
			return d.Revision, err
		})
	}
	return call.Unknown(op)
}

// txn writes if all conditions hold.
func txn(ctx context.Context, s *client.KV, conds []kv.Cond, ops []kv.Op) (int64, error) {
	r, err := s.Txn(ctx, kv.Txn{If: conds, Then: ops})
	if err == nil && !r.Succeeded {
		err = errConflict
	}
	return r.Revision, err
}

// list reads all keys with a prefix as they are at one revision.
func list(ctx context.Context, s *client.KV, prefix string) ([]kv.Entry, error) {
	var all []kv.Entry
	opts := []kv.ListOption{kv.Limit(kv.MaxPage)}
	for {
		p, err := s.List(ctx, prefix, opts...)
		if err != nil {
			return nil, err
		}
		all = append(all, p.Entries...)
		if !p.More {
			return all, nil
		}
		opts = []kv.ListOption{kv.Limit(kv.MaxPage), kv.At(p.Revision), kv.After(all[len(all)-1].Key)}
	}
}

// set has one key for each element.
func set(ctx context.Context, c *connection, op history.Op) history.Op {
	prefix := "set/" + op.Key + "/"
	switch op.F {
	case "add":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		return c.write(ctx, op, func(ctx context.Context, s *client.KV) (int64, error) {
			return s.Put(ctx, prefix+text, []byte(text))
		})
	case "read":
		return c.read(ctx, op, func(ctx context.Context, s *client.KV) (any, error) { return values(ctx, s, prefix) })
	}
	return call.Unknown(op)
}

// values are those of all keys with a prefix, decoded, the one created first first.
func values(ctx context.Context, s *client.KV, prefix string) ([]any, error) {
	entries, err := list(ctx, s, prefix)
	if err != nil {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b kv.Entry) int { return cmp.Compare(a.CreateRevision, b.CreateRevision) })
	all := make([]any, 0, len(entries))
	for _, e := range entries {
		v, err := call.Decode(string(e.Value))
		if err != nil {
			return nil, err
		}
		all = append(all, v)
	}
	return all, nil
}

// counter reads, and writes if nobody did meanwhile.
func counter(ctx context.Context, c *connection, op history.Op) history.Op {
	key := "counter/" + op.Key
	now := func(ctx context.Context, s *client.KV) (n, rev int64, err error) {
		e, err := s.Get(ctx, key)
		if errors.Is(err, holdfast.ErrNotFound) {
			return 0, 0, nil
		}
		if err != nil {
			return 0, 0, err
		}
		n, err = strconv.ParseInt(string(e.Value), 10, 64)
		return n, e.Revision, err
	}
	switch op.F {
	case "read":
		return c.read(ctx, op, func(ctx context.Context, s *client.KV) (any, error) {
			n, _, err := now(ctx, s)
			return n, err
		})
	case "add":
		n, err := call.Int(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		return c.write(ctx, op, func(ctx context.Context, s *client.KV) (int64, error) {
			was, rev, err := now(ctx, s)
			if err != nil {
				return 0, decidedError{err}
			}
			return s.CompareAndSet(ctx, key, rev, strconv.AppendInt(nil, was+n, 10))
		})
	}
	return call.Unknown(op)
}

// uniqueIDs takes the tokens of a lock as ids.
func uniqueIDs(ctx context.Context, c *connection, op history.Op) history.Op {
	if op.F != "generate" {
		return call.Unknown(op)
	}
	if err := c.openSoon(ctx); err != nil {
		return call.Fail(op, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	held, err := c.session.Acquire(ctx, "ids", lock.WaitAtMost(c.timeout/2))
	if err != nil {
		return call.End(op, nil, err, holdfast.OutcomeOf(err) == holdfast.NotApplied)
	}
	_ = held.Release(ctx) // the session goes on with it; the id is ours
	return call.OK(op, int64(held.Token()))
}

// idempotent has one key for each request and its effect; with keys=false, one
// for each time that it is made.
func idempotent(ctx context.Context, c *connection, op history.Op) history.Op {
	const prefix = "effects/"
	switch op.F {
	case "apply":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		key := prefix + text
		if !c.keys {
			key += "/" + rand.Text()
		}
		return c.write(ctx, op, func(ctx context.Context, s *client.KV) (int64, error) {
			rev, err := txn(ctx, s, []kv.Cond{kv.Missing(key)}, []kv.Op{kv.Put(key, []byte(text))})
			if errors.Is(err, errConflict) {
				err = nil // it had its effect before
			}
			return rev, err
		})
	case "effects":
		return c.read(ctx, op, func(ctx context.Context, s *client.KV) (any, error) { return values(ctx, s, prefix) })
	}
	return call.Unknown(op)
}

// transaction is the client of append: all keys are read in one transaction, and
// written in a second one if none of them was written meanwhile.
func transaction(ctx context.Context, c *connection, op history.Op) history.Op {
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
	var gets []kv.Op
	for _, o := range ops {
		if !slices.Contains(names, o.Name) {
			names = append(names, o.Name)
			gets = append(gets, kv.Get(prefix+o.Name))
		}
		writes[o.Name] = writes[o.Name] || o.Append
	}
	lists := map[string][]any{}
	var same []kv.Cond
	read := c.read(ctx, op, func(ctx context.Context, s *client.KV) (any, error) {
		r, err := s.Txn(ctx, kv.Txn{Then: gets})
		if err != nil {
			return nil, err
		}
		for i, n := range names {
			found := r.Results[i]
			if !found.Found {
				same = append(same, kv.Missing(prefix+n))
				continue
			}
			same = append(same, kv.RevisionIs(prefix+n, found.Entry.Revision))
			v, err := call.Decode(string(found.Entry.Value))
			if err != nil {
				return nil, err
			}
			lists[n], _ = v.([]any) // it is one of ours
		}
		return call.Run(ops, lists), nil
	})
	if read.Type != history.OK {
		return read
	}
	var puts []kv.Op
	for _, n := range names {
		if !writes[n] {
			continue
		}
		text, err := call.Encode(lists[n])
		if err != nil {
			return call.Fail(op, err)
		}
		puts = append(puts, kv.Put(prefix+n, []byte(text)))
	}
	if len(puts) == 0 {
		return read
	}
	written := c.write(ctx, op, func(ctx context.Context, s *client.KV) (int64, error) { return txn(ctx, s, same, puts) })
	if written.Type == history.OK {
		written.Value = read.Value
	}
	return written
}

// bank has one key for each account.
func bank(ctx context.Context, c *connection, op history.Op) history.Op {
	const prefix = "bank/"
	switch op.F {
	case "init":
		balances, err := call.Balances(op.Value)
		if err == nil && len(balances) > kv.MaxOps {
			err = errors.New("a transaction has at most 100 keys")
		}
		if err != nil {
			return call.Fail(op, err)
		}
		var puts []kv.Op
		for i, b := range balances {
			puts = append(puts, kv.Put(prefix+call.Account(i), strconv.AppendInt(nil, b, 10)))
		}
		return c.write(ctx, op, func(ctx context.Context, s *client.KV) (int64, error) {
			return txn(ctx, s, []kv.Cond{kv.Missing(prefix + call.Account(0))}, puts)
		})
	case "read":
		return c.read(ctx, op, func(ctx context.Context, s *client.KV) (any, error) {
			entries, err := list(ctx, s, prefix)
			if err != nil {
				return nil, err
			}
			all := map[string]any{}
			for _, e := range entries {
				n, err := strconv.ParseInt(string(e.Value), 10, 64)
				if err != nil {
					return nil, err
				}
				all[strings.TrimPrefix(e.Key, prefix)] = n
			}
			return all, nil
		})
	case "transfer":
		t, err := call.ParseTransfer(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		if t.From == t.To {
			return call.OK(op, op.Value)
		}
		return c.write(ctx, op, func(ctx context.Context, s *client.KV) (int64, error) {
			return transfer(ctx, s, prefix, t)
		})
	}
	return call.Unknown(op)
}

// transfer reads both accounts, one after the other, and writes both if neither
// was written meanwhile.
func transfer(ctx context.Context, s *client.KV, prefix string, t call.Transfer) (int64, error) {
	var now [2]int64
	var same []kv.Cond
	for i, name := range []string{t.From, t.To} {
		e, err := s.Get(ctx, prefix+name)
		if errors.Is(err, holdfast.ErrNotFound) {
			err = call.ErrMissing
		}
		if err == nil {
			now[i], err = strconv.ParseInt(string(e.Value), 10, 64)
		}
		if err != nil {
			return 0, decidedError{err} // nothing was written
		}
		same = append(same, kv.RevisionIs(prefix+name, e.Revision))
	}
	if now[0] < t.Amount {
		return 0, decidedError{call.ErrShort}
	}
	return txn(ctx, s, same, []kv.Op{
		kv.Put(prefix+t.From, strconv.AppendInt(nil, now[0]-t.Amount, 10)),
		kv.Put(prefix+t.To, strconv.AppendInt(nil, now[1]+t.Amount, 10)),
	})
}
