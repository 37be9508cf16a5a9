package check

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"holdfast.dev/lab/history"
)

// CAS checks that independent registers with compare-and-set, one per key, are
// linearizable. Values need not be unique. Calls are read, write, cas with the
// value [old, new], and delete, which writes Initial; get and put are other
// names of read and write. A cas that failed because the value was another is
// Fail, as is one that certainly was not executed: both are left out. A call of
// unknown outcome may take effect once, at any time after its invocation, or
// never; a cas that meets another value has none.
//
// The search is porcupine's (Wing and Gong 1993, Lowe 2017), per key. It is
// exponential in how many calls overlap: keep to about ten processes for a key
// and take a new key every few hundred calls. Before it, what can be decided
// without is: values that nobody wrote; where values are unique, the conflicts of
// Register; unknown writes that nobody saw are left out, and those that were
// seen must have happened by then. What Timeout or Memory end is Unknown.
type CAS struct {
	// Initial is what reads return before anything is written. Default: nil.
	Initial any
	// Timeout bounds the check. Default: one minute.
	Timeout time.Duration
	// Memory bounds what the search of one key remembers, in bytes, about.
	// Default: 1 GiB.
	Memory int64
}

// KV is CAS by another name, for stores of keys and values: get, put, delete,
// cas, by key.
type KV CAS

// Check judges the history.
func (c CAS) Check(ctx context.Context, h history.History) Result { return c.check(ctx, "cas", h) }

// Check judges the history.
func (c KV) Check(ctx context.Context, h history.History) Result { return CAS(c).check(ctx, "kv", h) }

type casKind uint8

const (
	casRead casKind = iota
	casWrite
	casSwap
)

// A casOp is a call that may have happened. Values are numbers; 0 is the
// initial one.
type casOp struct {
	kind       casKind
	old, new   int32 // a read's value is old
	start, end int64
	maybe      bool // whether it happened is not known
	call       *history.Call
}

// settled reports whether the call's outcome is not known but follows from the
// others'.
func (op *casOp) settled() bool { return !op.maybe && op.call.Complete.Type != history.OK }

// A casKey is the calls on one key.
type casKey struct {
	name   string
	values []any
	ids    map[any]int32
	ops    []casOp
}

func (k *casKey) id(v any) int32 {
	v = ident(v)
	id, ok := k.ids[v]
	if !ok {
		id = int32(len(k.values))
		k.ids[v] = id
		k.values = append(k.values, v)
	}
	return id
}

// add takes a call in. It returns what is wrong with it, if anything is.
func (k *casKey) add(c *history.Call) string {
	op := casOp{start: int64(c.Invoke.Time), end: int64(c.End()), maybe: c.Complete.Type != history.OK, call: c}
	switch c.Invoke.F {
	case "read", "get":
		if op.maybe {
			return ""
		}
		op.kind, op.old = casRead, k.id(c.Complete.Value)
	case "write", "put":
		op.kind, op.new = casWrite, k.id(c.Invoke.Value)
	case "delete":
		op.kind, op.new = casWrite, 0
	case "cas":
		pair, ok := listOf(c.Invoke.Value)
		if !ok || len(pair) != 2 {
			return fmt.Sprintf("the value of cas (index %d) is %s, want [old, new]", c.Invoke.Index, say(c.Invoke.Value))
		}
		op.kind, op.old, op.new = casSwap, k.id(pair[0]), k.id(pair[1])
	default:
		return fmt.Sprintf("%s (index %d) is no call on a register: want read, write, cas, get, put or delete", c.Invoke.F, c.Invoke.Index)
	}
	if c.Complete.Type == history.Fail {
		return ""
	}
	k.ops = append(k.ops, op)
	return ""
}

func (c CAS) check(ctx context.Context, name string, h history.History) Result {
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	timeout := cmp.Or(c.Timeout, time.Minute)
	limited, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	names, groups := byKey(calls)
	keys := make([]*casKey, len(names))
	var nops, nmaybe, nreads, nmutations int
	for i, n := range names {
		k := &casKey{name: n, ids: map[any]int32{}}
		k.id(c.Initial)
		for _, call := range groups[n] {
			if wrong := k.add(call); wrong != "" {
				return unknown(name, "%s%s", of(n), wrong)
			}
		}
		for _, op := range k.ops {
			if op.kind == casRead {
				nreads++
			} else {
				nmutations++
			}
			if op.maybe {
				nmaybe++
			}
		}
		nops += len(k.ops)
		k.resolve()
		keys[i] = k
	}

	r := Result{Checker: name, Verdict: Valid, Stats: map[string]any{
		"keys": int64(len(keys)), "calls": int64(nops), "calls_unknown": int64(nmaybe), "reads_ok": int64(nreads),
	}}
	var found, open findings
	var steps int64
	for _, k := range keys {
		if k.decide(&found) {
			continue
		}
		s := search{ctx: limited, memory: cmp.Or(c.Memory, 1<<30), key: k}
		verdict := s.run()
		steps += s.steps
		switch verdict {
		case Invalid:
			s.explain(&found)
		case Unknown:
			why := "out of memory"
			if limited.Err() != nil {
				why = "out of time"
			}
			open.add(nil, "%snot decided, %s: %s, up to %d at once", of(k.name), why, plural(len(k.ops), "call"), k.concurrency())
		case Valid:
		}
		if ctx.Err() != nil && found.total == 0 {
			return interrupted(ctx, name)
		}
	}
	r.Stats["steps"], r.Stats["keys_invalid"], r.Stats["keys_undecided"] = steps, int64(found.total), int64(open.total)
	switch {
	case found.total > 0:
		r.Verdict = Invalid
		r.Summary = fmt.Sprintf("%s of %d cannot be explained by any order of the calls", plural(found.total, "key"), len(keys))
		found.into(&r)
	case open.total > 0:
		r.Verdict = Unknown
		r.Summary = fmt.Sprintf("%s of %d not decided: fewer processes per key, or fewer calls, can be", plural(open.total, "key"), len(keys))
		open.into(&r)
	case nreads+nmutations == 0:
		r.Verdict, r.Summary = Unknown, "no call on a register succeeded, so nothing is shown"
	case nreads == 0 && !observes(keys):
		r.Verdict, r.Summary = Unknown, "nothing was read, so nothing is shown"
	default:
		r.Summary = fmt.Sprintf("%s on %s are linearizable", plural(nops, "call"), plural(len(keys), "key"))
	}
	return r
}

// observes reports whether a cas succeeded, which shows a value as a read does.
func observes(keys []*casKey) bool {
	for _, k := range keys {
		for _, op := range k.ops {
			if op.kind == casSwap && !op.maybe {
				return true
			}
		}
	}
	return false
}

// resolve settles calls of unknown outcome where the others' answers tell. One
// whose value nobody can have seen is dropped: it may as well have happened last.
// One that alone can have made a value that was seen has happened, by the end of
// the call that saw it.
func (k *casKey) resolve() {
	for {
		made := make([]int, len(k.values))
		seen := make([]bool, len(k.values)) // or may have been
		by := make([]int64, len(k.values))
		for i := range by {
			by[i] = math.MaxInt64
		}
		for _, op := range k.ops {
			if op.kind != casRead {
				made[op.new]++
			}
			if op.kind != casWrite {
				seen[op.old] = true
				if !op.maybe {
					by[op.old] = min(by[op.old], op.end)
				}
			}
		}
		before := len(k.ops)
		changed := false
		k.ops = slices.DeleteFunc(k.ops, func(op casOp) bool {
			return op.maybe && !seen[op.new]
		})
		for i := range k.ops {
			op := &k.ops[i]
			alone := op.new != 0 && made[op.new] == 1 && (op.kind == casWrite || op.old != op.new)
			if op.maybe && alone && by[op.new] < math.MaxInt64 && by[op.new] >= op.start {
				op.maybe, op.end, changed = false, by[op.new], true
			}
		}
		if len(k.ops) == before && !changed {
			return
		}
	}
}

// decide finds what is impossible without a search, and reports whether it did.
func (k *casKey) decide(found *findings) bool {
	made := make([]int32, len(k.values)) // how often, and below by which
	maker := make([]int32, len(k.values))
	unique := true
	for i, op := range k.ops {
		if op.kind != casRead {
			made[op.new]++
			maker[op.new] = int32(i)
		}
	}
	made[0]++
	for _, n := range made {
		unique = unique && n <= 1
	}
	for _, op := range k.ops {
		if op.kind == casWrite || op.maybe || made[op.old] > 0 {
			continue
		}
		found.add([]int{op.call.Invoke.Index, op.call.Complete.Index}, "%s%s %s %s (index %d), a value that nobody can have written", of(k.name), who(op.call), k.did(&op), span(op.call), op.call.Invoke.Index)
		return true
	}
	if !unique {
		return false
	}
	// Where each value is made once, the calls that make it and see it are one
	// block, but for the cas that ends it, which also begins the next; the
	// conflicts of such blocks are those of Register.
	z := zones{clusters: make([]cluster, len(k.values))}
	for i := range z.clusters {
		z.clusters[i] = cluster{minEnd: math.MaxInt64, maxStart: math.MinInt64, minEndAt: -1, maxStartAt: -1}
	}
	z.clusters[0].minEnd, z.clusters[0].state = math.MinInt64, initial
	touch := func(value int32, i int) {
		c, op := &z.clusters[value], &k.ops[i]
		if op.end < c.minEnd || op.end == c.minEnd && c.minEndAt >= 0 && k.ops[c.minEndAt].settled() {
			c.minEnd, c.minEndAt = op.end, int32(i)
		}
		if op.start > c.maxStart {
			c.maxStart, c.maxStartAt = op.start, int32(i)
		}
	}
	for i := range k.ops {
		op := &k.ops[i]
		if op.kind != casRead {
			touch(op.new, i)
		}
		if op.kind != casWrite && !op.maybe {
			if made[op.old] == 1 && op.old != 0 && op.end < k.ops[maker[op.old]].start {
				w := &k.ops[maker[op.old]]
				found.add(indices(op, w), "%s%s %s %s (index %d), before %s began to make that value at %s (index %d)", of(k.name), who(op.call), k.did(op), span(op.call), op.call.Invoke.Index, who(w.call), at(time.Duration(w.start)), w.call.Invoke.Index)
				return true
			}
			touch(op.old, i)
		}
	}
	var forward, backward []zone
	for i, c := range z.clusters {
		switch {
		case c.maxStartAt < 0:
		case c.minEnd < c.maxStart:
			forward = append(forward, zone{c.minEnd, c.maxStart, int32(i)})
		default:
			backward = append(backward, zone{c.maxStart, c.minEnd, int32(i)})
		}
	}
	z.collide(forward, backward)
	if len(z.bad) == 0 {
		return false
	}
	v := slices.MinFunc(z.bad, func(a, b violation) int { return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.b, b.b)) })
	a, b := z.clusters[v.a], z.clusters[v.b]
	late, done, next := &k.ops[a.maxStartAt], &k.ops[b.minEndAt], &k.ops[b.maxStartAt]
	line := fmt.Sprintf("%s%s %s %s (index %d), after %s %s until %s (index %d)", of(k.name), who(late.call), k.did(late), span(late.call), late.call.Invoke.Index,
		who(done.call), k.did(done), at(time.Duration(done.end)), done.call.Invoke.Index)
	ops := indices(late, done, next)
	if v.a == 0 {
		line += fmt.Sprintf("; %s is the initial value", say(k.values[0]))
	} else {
		first := &k.ops[a.minEndAt]
		ops = append(ops, indices(first)...)
		line += fmt.Sprintf("; %s is the older: %s %s until %s (index %d), before %s %s from %s (index %d)", say(k.values[v.a]), who(first.call), k.did(first), at(time.Duration(first.end)), first.call.Invoke.Index,
			who(next.call), k.did(next), at(time.Duration(next.start)), next.call.Invoke.Index)
	}
	found.add(ops, "%s", line)
	return true
}

func indices(ops ...*casOp) []int {
	var out []int
	for _, op := range ops {
		out = append(out, op.call.Invoke.Index, op.call.Complete.Index)
	}
	return out
}

// did is what a call did, in words.
func (k *casKey) did(op *casOp) string {
	must := ""
	if op.settled() {
		must = "must have "
	}
	switch op.kind {
	case casRead:
		return "read " + say(k.values[op.old])
	case casWrite:
		switch {
		case op.call.Invoke.F == "delete":
			return must + "deleted it"
		case must != "":
			return must + "written " + say(k.values[op.new])
		}
		return "wrote " + say(k.values[op.new])
	case casSwap:
		return must + "swapped " + say(k.values[op.old]) + " for " + say(k.values[op.new])
	default:
		return "did something"
	}
}

// concurrency is how many calls were open at once at most.
func (k *casKey) concurrency() int {
	type edge struct {
		at   int64
		step int
	}
	var edges []edge
	for _, op := range k.ops {
		edges = append(edges, edge{op.start, 1}, edge{op.end, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(b.step, a.step)) })
	most, open := 0, 0
	for _, e := range edges {
		open += e.step
		most = max(most, open)
	}
	return most
}

// A search is porcupine's on one key, with bounds that it does not have: once a
// bound is reached nothing is a step any more, and it soon gives up.
type search struct {
	ctx    context.Context
	memory int64
	key    *casKey

	cost    int64 // of a state that is remembered
	steps   int64
	stopped bool
	best    *casState
}

// A casState is a register after some of its calls, in some order.
type casState struct {
	value int32
	depth int32
	op    *casOp
	after *casState
}

func (s *search) run() Verdict {
	ops := make([]porcupine.Operation, len(s.key.ops))
	for i := range ops {
		op := &s.key.ops[i]
		ops[i] = porcupine.Operation{ClientId: op.call.Invoke.Process, Input: op, Call: op.start, Return: op.end}
	}
	s.cost = int64(len(ops)/8 + 256)
	s.best = &casState{}
	model := porcupine.Model{
		Init:  func() any { return s.best },
		Step:  s.step,
		Equal: func(a, b any) bool { return a.(*casState).value == b.(*casState).value },
		Hash:  func(a any) uint64 { return uint64(a.(*casState).value) * 0x9e3779b97f4a7c15 },
	}
	ok := porcupine.CheckOperations(model, ops)
	switch {
	case s.stopped || s.ctx.Err() != nil:
		return Unknown
	case ok:
		return Valid
	default:
		return Invalid
	}
}

func (s *search) step(state, input, _ any) (bool, any) {
	if s.steps++; s.stopped || s.steps%1024 == 0 && s.ctx.Err() != nil {
		s.stopped = true
		return false, state
	}
	from, op := state.(*casState), input.(*casOp)
	to := &casState{value: from.value, depth: from.depth + 1, op: op, after: from}
	switch {
	case op.kind == casWrite:
		to.value = op.new
	case from.value != op.old:
		if !op.maybe {
			return false, state
		}
	case op.kind == casSwap:
		to.value = op.new
	}
	if s.memory -= s.cost; s.memory < 0 {
		s.stopped = true
		return false, state
	}
	if to.depth > s.best.depth {
		s.best = to
	}
	return true, to
}

// explain says where the longest order of calls that was found breaks off: at the
// call that must come next and cannot.
func (s *search) explain(found *findings) {
	k := s.key
	placed := map[*casOp]bool{}
	for at := s.best; at.op != nil; at = at.after {
		placed[at.op] = true
	}
	var stuck *casOp
	for i := range k.ops {
		if op := &k.ops[i]; !placed[op] && (stuck == nil || op.end < stuck.end) {
			stuck = op
		}
	}
	if stuck == nil { // cannot be: then all are placed
		found.add(nil, "%sno order of its %s explains them", of(k.name), plural(len(k.ops), "call"))
		return
	}
	line := fmt.Sprintf("%sno order of its %s explains them; the longest that was found has %d, leaves %s, and breaks off where %s %s %s (index %d)",
		of(k.name), plural(len(k.ops), "call"), s.best.depth, say(k.values[s.best.value]), who(stuck.call), k.did(stuck), span(stuck.call), stuck.call.Invoke.Index)
	ops := indices(stuck)
	if last := s.best.op; last != nil {
		line += fmt.Sprintf("; the last in it: %s %s %s (index %d)", who(last.call), k.did(last), span(last.call), last.call.Invoke.Index)
		ops = append(ops, indices(last)...)
	}
	found.add(ops, "%s", line)
}
