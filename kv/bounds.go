package kv

import (
	"errors"
	"fmt"
	"unicode/utf8"

	"holdfast.dev"
)

// The bounds of a store.
const (
	MaxKey      = 1 << 10       // bytes of a key, a prefix or a fence's resource
	MaxValue    = 1 << 20       // bytes of a value
	MaxOps      = 100           // conditions, and operations of each branch, in a transaction
	MaxTxn      = 5 * (1 << 18) // bytes of all keys and values in a transaction: 1.25 MiB
	MaxFences   = 4             // fences of one write
	DefaultPage = 100           // entries of a page when Limit is not given
	MaxPage     = 1000          // entries of a page
)

// faults collects everything that is wrong with a request.
type faults []error

// add notes one fault.
func (f *faults) add(format string, args ...any) { *f = append(*f, fmt.Errorf(format, args...)) }

// err is all faults as one holdfast.ErrInvalid, or nil.
func (f faults) err(op, key string) error {
	if len(f) == 0 {
		return nil
	}
	return &holdfast.Error{Op: op, Key: key, Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: errors.Join(f...)}
}

// key checks a key.
func (f *faults) key(what, key string) {
	if key == "" {
		f.add("%s is empty", what)
	}
	f.text(what, key)
}

// text checks what a key and a prefix have in common.
func (f *faults) text(what, s string) {
	if len(s) > MaxKey {
		f.add("%s has %d bytes, at most %d are allowed", what, len(s), MaxKey)
	}
	if !utf8.ValidString(s) {
		f.add("%s is not valid UTF-8", what)
	}
}

// program checks a whole write.
func (f *faults) program(p *program) {
	size := 0
	if len(p.txn.If) > MaxOps {
		f.add("%d conditions, at most %d are allowed", len(p.txn.If), MaxOps)
	}
	for i, c := range p.txn.If {
		if !p.plain {
			f.key(fmt.Sprintf("condition %d: key", i+1), c.Key)
		}
		size += len(c.Key) + len(c.Value)
		switch {
		case c.Kind < CondRevision || c.Kind > CondValue:
			f.add("condition %d: unknown kind %d", i+1, c.Kind)
		case c.Revision < 0:
			f.add("condition %d: negative revision %d", i+1, c.Revision)
		}
	}
	size += f.branch("then", p.txn.Then, p) + f.branch("else", p.txn.Else, p)
	if size > MaxTxn {
		f.add("keys and values have %d bytes together, at most %d are allowed", size, MaxTxn)
	}
	f.fences(p.fences)
}

// branch checks the operations of one branch and returns their size.
func (f *faults) branch(name string, ops []Op, p *program) (size int) {
	if len(ops) > MaxOps {
		f.add("%d operations in %s, at most %d are allowed", len(ops), name, MaxOps)
	}
	written := map[string]bool{}
	for i, op := range ops {
		what := fmt.Sprintf("%s %d: ", name, i+1)
		if p.plain {
			what = ""
		}
		f.key(what+"key", op.Key)
		size += len(op.Key) + len(op.Value)
		if op.Kind < OpGet || op.Kind > OpDelete {
			f.add("%sunknown kind %d", what, op.Kind)
			continue
		}
		if len(op.Value) > MaxValue {
			f.add("%svalue has %d bytes, at most %d are allowed", what, len(op.Value), MaxValue)
		}
		if op.Kind != OpPut && (op.Leased || len(op.Value) > 0) {
			f.add("%sonly a put has a value or hangs on the session", what)
		}
		if op.Leased && p.lease == 0 {
			f.add("%snothing to hang it on: no session", what)
		}
		if op.Kind == OpGet {
			continue
		}
		if written[op.Key] {
			f.add("%skey %q is written twice", what, op.Key)
		}
		written[op.Key] = true
	}
	return size
}

// fences checks the fences of a write.
func (f *faults) fences(fences []Fence) {
	if len(fences) > MaxFences {
		f.add("%d fences, at most %d are allowed", len(fences), MaxFences)
	}
	seen := map[string]bool{}
	for _, fence := range fences {
		f.key("fence: resource", fence.Resource)
		if fence.Token == 0 {
			f.add("fence %s: no token", fence.Resource)
		}
		if seen[fence.Resource] {
			f.add("fence %s: named twice", fence.Resource)
		}
		seen[fence.Resource] = true
	}
}
