package engine

import (
	"bytes"
	"slices"
)

// access is keys that a transaction reads, compares or writes in some branch.
type access struct {
	span
	write bool
}

// footprint is all that a transaction may touch.
type footprint []access

// appendFootprint adds that of t, whose shape has been checked.
func appendFootprint(f footprint, t *Txn) footprint {
	for i := range t.If {
		f = append(f, access{span{t.If[i].Key, t.If[i].End}, false})
	}
	for _, ops := range [2][]Op{t.Then, t.Else} {
		for i := range ops {
			switch op := &ops[i]; op.Kind {
			case OpGet:
				f = append(f, access{span{op.Range.Key, op.Range.End}, false})
			case OpDelete:
				f = append(f, access{span{op.Range.Key, op.Range.End}, true})
			case OpPut:
				f = append(f, access{span{key: op.Key}, true})
			case OpTxn:
				f = appendFootprint(f, op.Txn)
			}
		}
	}
	return f
}

// hasPut tells whether a put is in any branch of t.
func hasPut(t *Txn) bool {
	has := func(op Op) bool { return op.Kind == OpPut || op.Kind == OpTxn && hasPut(op.Txn) }
	return slices.ContainsFunc(t.Then, has) || slices.ContainsFunc(t.Else, has)
}

// overlaps tells whether two spans share a key.
func (s span) overlaps(o span) bool {
	switch {
	case s.end == "":
		return o.has(s.key)
	case o.end == "":
		return s.has(o.key)
	}
	return max(s.key, o.key) < min(s.end, o.end)
}

// claims is what the transactions ahead in the queue touch.
type claims struct {
	keys  map[string]bool // whether it is written
	spans []access        // with an end
}

func (c *claims) reset() {
	if c.keys == nil {
		c.keys = map[string]bool{}
	}
	clear(c.keys)
	c.spans = c.spans[:0]
}

// clash tells whether f touches what is claimed and one of the two writes it.
func (c *claims) clash(f footprint) bool {
	return slices.ContainsFunc(f, c.clashes)
}

func (c *claims) clashes(a access) bool {
	if a.end == "" {
		if written, ok := c.keys[a.key]; ok && (written || a.write) {
			return true
		}
	} else {
		for key, written := range c.keys {
			if (written || a.write) && a.has(key) {
				return true
			}
		}
	}
	return slices.ContainsFunc(c.spans, func(s access) bool { return (s.write || a.write) && s.overlaps(a.span) })
}

func (c *claims) add(f footprint) {
	for _, a := range f {
		if a.end == "" {
			c.keys[a.key] = c.keys[a.key] || a.write
		} else {
			c.spans = append(c.spans, a)
		}
	}
}

// take removes the next batch from the queue: its head, and what follows it
// and fits. What stays behind claims its keys too, so that nothing overtakes
// it, and since the head always goes, nothing stays for ever.
func (c *Coalescer) take() []*call {
	c.claims.reset()
	batch := make([]*call, 0, min(len(c.queue), c.cfg.MaxOps))
	stay := 0
	var bytes, ops, seen int
	apart := c.full.Load()
	for _, k := range c.queue {
		if len(batch) == c.cfg.MaxOps || seen == 4*c.cfg.MaxOps || len(batch) == 1 && batch[0].alone {
			break
		}
		seen++
		fits := len(batch) == 0 ||
			!k.alone && (k.grows == batch[0].grows || !apart) && bytes+k.bytes <= c.cfg.MaxBytes &&
				len(batch)+1+max(ops, k.ops) <= c.cfg.TxnOps && !c.claims.clash(k.foot)
		c.claims.add(k.foot)
		if !fits {
			c.queue[stay] = k
			stay++
			continue
		}
		k.queued = false
		batch = append(batch, k)
		bytes += k.bytes
		ops = max(ops, k.ops)
	}
	rest := copy(c.queue[stay:], c.queue[seen:])
	clear(c.queue[stay+rest:])
	c.queue = c.queue[:stay+rest]
	return batch
}

// plainBundle is the transaction that carries a batch.
func plainBundle(batch []*call) Txn {
	t := Txn{Then: make([]Op, len(batch))}
	for i, k := range batch {
		t.Then[i] = Op{Kind: OpTxn, Txn: k.txn}
	}
	return t
}

// bundle is the same with what all calls compare, usually their session's key,
// compared once before them: then none of them runs when that does not hold.
func bundle(batch []*call) Txn {
	t := plainBundle(batch)
	for _, c := range batch[0].txn.If {
		missing := func(k *call) bool { return !slices.ContainsFunc(k.txn.If, c.equal) }
		if len(t.If) < len(batch) && !slices.ContainsFunc(t.If, c.equal) && !slices.ContainsFunc(batch, missing) {
			t.If = append(t.If, c)
		}
	}
	if len(t.If) == 0 {
		return t
	}
	children := make([]Txn, len(batch))
	for i, k := range batch {
		children[i] = Txn{Then: k.txn.Then, Else: k.txn.Else}
		for _, c := range k.txn.If {
			if !slices.ContainsFunc(t.If, c.equal) {
				children[i].If = append(children[i].If, c)
			}
		}
		t.Then[i].Txn = &children[i]
	}
	return t
}

// equal says whether two compares hold alike.
func (c Compare) equal(o Compare) bool {
	return c.Key == o.Key && c.End == o.End && c.Target == o.Target && c.Op == o.Op && c.Int == o.Int && bytes.Equal(c.Value, o.Value)
}
