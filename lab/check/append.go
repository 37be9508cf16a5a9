package check

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast.dev/lab/check/cycle"
	"holdfast.dev/lab/history"
)

// Model is what transactions are promised.
type Model string

// The models, the strongest first. Each forbids what the next one does, and more.
const (
	StrictSerializable Model = "strict-serializable" // one after another, in an order that agrees with real time
	Serializable       Model = "serializable"        // one after another, in any order
	SnapshotIsolation  Model = "snapshot-isolation"  // reads from one snapshot, and no two write the same at once
	ReadCommitted      Model = "read-committed"      // nobody sees what was not committed; Adya's PL-2
)

// Append checks transactions over lists, in the manner of Elle (Kingsbury and
// Alvaro: "Elle: Inferring Isolation Anomalies from Experimental Observations",
// VLDB 2020). The call is txn, whose value is a list of operations: ["append",
// key, element], and ["r", key, nil], which the completion has with the list
// read. No element is appended twice to one key.
//
// A list tells its own history: the longest that was read of a key has the order of the
// appends, and every other read must be a beginning of it. So who overwrote whom
// (ww), who read whose append (wr), and whose append a read did not see (rw) is known
// for certain; with StrictSerializable besides which transactions had ended
// before others began (realtime), and the order within a process. Each says
// that one transaction comes before another; a circle of them is a contradiction.
//
// Invalid are, for every model:
//
//	garbage-read         an element that nobody appended
//	duplicate-append     an element twice in a list
//	G1a                  a read of an append that failed
//	G1b                  a read of an append that its transaction had not finished
//	dirty-update         an append to a list with an element that failed
//	incompatible-order   two reads, neither of which is a beginning of the other
//	G0, G1c              circles of ww, or of ww and wr
//
// for all but ReadCommitted
//
//	internal             a transaction whose reads contradict itself
//	G-single             a circle with one rw: read skew
//	G-nonadjacent        a circle with several rw, no two in a row
//
// from Serializable on G2, a circle with several rw in a row, such as write skew; and for
// StrictSerializable lost-append, an append acknowledged before reads began
// that never showed, and all circles with the suffix -process or -realtime, which need
// those orders to close.
//
// Appends of unknown outcome that were read have happened, and so have all
// others of their transaction; those that were not read do not matter, nor does what
// transactions of unknown outcome read. The order in real time is kept as a
// chain of all completions, which says the same as an edge for each pair, in linear space.
// The search for circles is linear too; it takes about 100 bytes for each
// operation. Which circles are shown depends on how many there are; whether there is
// any does not.
//
// Unknown: nothing that was appended was read, or an element was appended twice.
type Append struct {
	// Model is what is promised. Default: StrictSerializable.
	Model Model
}

// Check judges the history.
func (a Append) Check(ctx context.Context, h history.History) Result {
	const name = "append"
	model := a.Model
	switch model {
	case "":
		model = StrictSerializable
	case StrictSerializable, Serializable, SnapshotIsolation, ReadCommitted:
	default:
		return unknown(name, "there is no model %q", string(model))
	}
	if ctx.Err() != nil {
		return interrupted(ctx, name)
	}
	l, wrong := newLists(ctx, h, model)
	if wrong == "" {
		wrong = l.read(ctx)
	}
	if ctx.Err() != nil {
		return interrupted(ctx, name)
	}
	if wrong != "" {
		return unknown(name, "%s", wrong)
	}
	l.order()
	l.examine(ctx)
	g := l.graph(ctx)
	if ctx.Err() != nil {
		return interrupted(ctx, name)
	}
	if err := l.circles(ctx, g); err != nil {
		return interrupted(ctx, name)
	}
	return l.result(name, g)
}

// kinds of anomalies without a circle, in the order in which they are told.
var plainKinds = []string{"garbage-read", "duplicate-append", "G1a", "dirty-update", "G1b", "incompatible-order", "lost-append", "internal"}

// anomalies of one kind.
type anomalies struct {
	total int
	lines []string
	ops   []int
}

// operation is one of a transaction's. The value of a read is the list.
type operation struct {
	value any
	key   int32
	read  bool
}

// lists is the state of a check. Transactions, keys, appends and places in the
// orders of lists are numbers.
type lists struct {
	model Model
	h     history.History
	pairs []history.Pair
	bare  bool // the history has no times

	typ   []history.Type // transaction → outcome
	first []int32        // transaction → its first operation; one more at the end
	ops   []operation

	names []string
	keys  map[string]int32

	ints     map[intElement]int32 // → append
	others   map[anyElement]int32
	writer   []int32 // append → transaction
	element  []int32 // append → operation
	partial  []bool  // append → the transaction appends to the same key again
	pos      []int32 // append → place in the order of its key, -1 if it was never read
	observed []bool  // transaction → one of its appends was read

	longest []int32 // key → operation of a transaction, -1 if it was never read
	late    []int32 // key → the transaction that read it and began last
	start   []int32 // key → first place of its order; one more at the end
	at      []int32 // place → append, -1 for elements that count for nothing
	bad     [][]int32
	unread  [][]int32 // key → appends that happened and were never read

	found  map[string]*anomalies
	circle []found
	reads  int // of known result
}

type intElement struct {
	key   int32
	value int64
}

type anyElement struct {
	key   int32
	value any
}

// found is a circle and its name.
type found struct {
	name  string
	edges []cycle.Edge
}

// newLists takes in the appends. It returns what is wrong, if anything is.
func newLists(ctx context.Context, h history.History, model Model) (*lists, string) {
	l := &lists{model: model, h: h, bare: h.Timeless(), keys: map[string]int32{}, found: map[string]*anomalies{}}
	var err error
	if l.pairs, err = h.Pairs(); err != nil {
		return nil, fmt.Sprintf("the history is malformed: %v", err)
	}
	n := len(l.pairs)
	l.typ, l.first, l.observed = make([]history.Type, n), make([]int32, 1, n+1), make([]bool, n)
	size := 0
	for _, p := range l.pairs {
		steps, _ := h[p.Invoke].Value.([]any)
		size += len(steps)
	}
	l.ops = make([]operation, 0, size)
	l.writer, l.element, l.partial = make([]int32, 0, size), make([]int32, 0, size), make([]bool, 0, size)
	l.ints, l.others = make(map[intElement]int32, size/2), map[anyElement]int32{}
	for t, p := range l.pairs {
		if t%ctxEvery == 0 && ctx.Err() != nil {
			return nil, ""
		}
		op := &h[p.Invoke]
		l.typ[t] = history.Info
		if p.Complete >= 0 {
			l.typ[t] = h[p.Complete].Type
		}
		if op.F != "txn" {
			return nil, fmt.Sprintf("%s (index %d) is no transaction: want txn", op.F, op.Index)
		}
		answer := op
		if l.typ[t] == history.OK {
			answer = &h[p.Complete]
		}
		if wrong := l.take(int32(t), op, answer); wrong != "" {
			return nil, wrong
		}
		l.first = append(l.first, int32(len(l.ops)))
	}
	return l, ""
}

// take takes in one transaction: what it was to do, and what it was answered
// where that is known.
func (l *lists) take(t int32, op, answer *history.Op) string {
	steps, ok := listOf(op.Value)
	malformed := func(v any) string {
		return fmt.Sprintf(`the transaction at index %d has %s, want ["append", key, element] and ["r", key, list]`, op.Index, say(v))
	}
	if !ok {
		return malformed(op.Value)
	}
	answers, ok := listOf(answer.Value)
	if !ok || len(answers) != len(steps) {
		return fmt.Sprintf("the transaction at index %d was answered with %s (index %d): want one answer for each of %s", op.Index, say(answer.Value), answer.Index, plural(len(steps), "operation"))
	}
	begin := len(l.ops)
	for i, v := range steps {
		f, key, value, ok := step(v)
		if !ok {
			return malformed(v)
		}
		o := operation{key: l.key(key), value: value}
		if answer != op {
			af, akey, avalue, ok := step(answers[i])
			if !ok || af != f || !equal(akey, key) || f == "append" && !equal(avalue, value) {
				return fmt.Sprintf("the transaction at index %d was to do %s, and the answer is to %s (index %d)", op.Index, say(v), say(answers[i]), answer.Index)
			}
			o.value = avalue
		}
		switch {
		case f == "r":
			if o.read = true; l.typ[t] != history.OK {
				continue // what it read is not known
			}
		case f == "append" && value != nil:
			if other := l.appended(t, o, int32(len(l.ops))); other >= 0 {
				return fmt.Sprintf("element %s was appended to %s twice (index %d and %d): reads do not tell whose it is", say(value), l.names[o.key], l.index(other), l.index(t))
			}
		default:
			return malformed(v)
		}
		l.ops = append(l.ops, o)
	}
	// Which appends are followed by another to the same key?
	for i := begin; i < len(l.ops); i++ {
		if l.ops[i].read {
			continue
		}
		for _, later := range l.ops[i+1:] {
			if !later.read && later.key == l.ops[i].key {
				l.partial[l.find(l.ops[i].key, l.ops[i].value)] = true
				break
			}
		}
	}
	return ""
}

// step is one operation of a transaction.
func step(v any) (f string, key, value any, ok bool) {
	s, ok := listOf(v)
	if !ok || len(s) < 2 || len(s) > 3 {
		return "", nil, nil, false
	}
	if len(s) == 3 {
		value = s[2]
	}
	f, ok = s[0].(string)
	return f, s[1], value, ok
}

// key is the number of a key.
func (l *lists) key(v any) int32 {
	name, ok := v.(string)
	if !ok {
		name = say(v)
	}
	k, ok := l.keys[name]
	if !ok {
		k = int32(len(l.names))
		l.keys[name] = k
		l.names = append(l.names, name)
	}
	return k
}

// appended takes in an append. It returns who appended the same, or -1.
func (l *lists) appended(t int32, o operation, at int32) int32 {
	if a := l.find(o.key, o.value); a >= 0 {
		return l.writer[a]
	}
	a := int32(len(l.writer))
	switch v := ident(o.value).(type) {
	case int64:
		l.ints[intElement{o.key, v}] = a
	default:
		l.others[anyElement{o.key, v}] = a
	}
	l.writer = append(l.writer, t)
	l.element = append(l.element, at)
	l.partial = append(l.partial, false)
	return -1
}

// find is the append of an element to a key, -1 if there is none.
func (l *lists) find(key int32, v any) int32 {
	if n, ok := v.(int64); ok {
		if a, ok := l.ints[intElement{key, n}]; ok {
			return a
		}
		return -1
	}
	switch v := ident(v).(type) {
	case int64:
		if a, ok := l.ints[intElement{key, v}]; ok {
			return a
		}
	default:
		if a, ok := l.others[anyElement{key, v}]; ok {
			return a
		}
	}
	return -1
}

// equal reports whether two elements are the same.
func equal(a, b any) bool {
	switch x := a.(type) {
	case int64:
		if y, ok := b.(int64); ok {
			return x == y
		}
	case string:
		if y, ok := b.(string); ok {
			return x == y
		}
	}
	return ident(a) == ident(b)
}

// read finds the longest read of each key, and makes all of them lists.
func (l *lists) read(ctx context.Context) string {
	l.longest, l.late = make([]int32, len(l.names)), make([]int32, len(l.names))
	for k := range l.longest {
		l.longest[k], l.late[k] = -1, -1
	}
	for t := range l.pairs {
		if t%ctxEvery == 0 && ctx.Err() != nil {
			return ""
		}
		for i := l.first[t]; i < l.first[t+1]; i++ {
			o := &l.ops[i]
			if !o.read {
				continue
			}
			list, ok := listOf(o.value)
			if !ok {
				return fmt.Sprintf("the transaction at index %d read %s of %s, want a list", l.index(int32(t)), say(o.value), l.names[o.key])
			}
			if _, same := o.value.([]any); !same {
				o.value = list
			}
			l.reads++
			if b := l.longest[o.key]; b < 0 || len(list) > len(l.list(b)) {
				l.longest[o.key] = i
			}
			if b := l.late[o.key]; b < 0 || l.began(int32(t)) > l.began(b) {
				l.late[o.key] = int32(t)
			}
		}
	}
	return ""
}

// list is what a read returned.
func (l *lists) list(op int32) []any {
	list, _ := l.ops[op].value.([]any)
	return list
}

// order finds the order of the appends to each key.
func (l *lists) order() {
	l.pos = make([]int32, len(l.writer))
	for a := range l.pos {
		l.pos[a] = -1
	}
	l.start, l.bad, l.unread = make([]int32, 1, len(l.names)+1), make([][]int32, len(l.names)), make([][]int32, len(l.names))
	for k := range int32(len(l.names)) {
		if op := l.longest[k]; op >= 0 {
			for i, v := range l.list(op) {
				a, place := l.find(k, v), int32(len(l.at))
				switch {
				case a >= 0 && l.pos[a] < 0 && l.typ[l.writer[a]] != history.Fail:
					l.pos[a] = place
					l.observed[l.writer[a]] = true
				default:
					a = -1
					l.bad[k] = append(l.bad[k], int32(i))
				}
				l.at = append(l.at, a)
			}
		}
		l.start = append(l.start, int32(len(l.at)))
	}
	for a, t := range l.writer {
		if k := l.ops[l.element[a]].key; l.pos[a] < 0 && l.longest[k] >= 0 && l.committed(t) {
			l.unread[k] = append(l.unread[k], int32(a))
		}
	}
}

// committed reports whether a transaction certainly happened.
func (l *lists) committed(t int32) bool {
	return l.typ[t] == history.OK || l.typ[t] == history.Info && l.observed[t]
}

// The times of a transaction.
func (l *lists) began(t int32) time.Duration {
	p := l.pairs[t].Invoke
	if l.bare {
		return time.Duration(p) + 1
	}
	return l.h[p].Time
}

func (l *lists) ended(t int32) time.Duration {
	p := l.pairs[t].Complete
	switch {
	case p < 0 || l.typ[t] == history.Info:
		return history.Never
	case l.bare:
		return time.Duration(p) + 1
	default:
		return l.h[p].Time
	}
}

// index is the number by which a transaction is known: that of its completion.
func (l *lists) index(t int32) int {
	if p := l.pairs[t].Complete; p >= 0 {
		return l.h[p].Index
	}
	return l.h[l.pairs[t].Invoke].Index
}

// call is a transaction as a call.
func (l *lists) call(t int32) *history.Call {
	c := &history.Call{Invoke: l.h[l.pairs[t].Invoke]}
	if c.Complete = c.Invoke; l.pairs[t].Complete >= 0 {
		c.Complete = l.h[l.pairs[t].Complete]
	} else {
		c.Complete.Index, c.Complete.Type = -1, history.Info
	}
	c.Invoke.Time, c.Complete.Time = l.began(t), l.ended(t)
	return c
}

// who names a transaction.
func (l *lists) who(t int32) string {
	return fmt.Sprintf("%s (index %d)", who(l.call(t)), l.index(t))
}

// what is an appended element.
func (l *lists) what(a int32) string { return say(l.ops[l.element[a]].value) }

// wrong records an anomaly; most of them are only counted.
func (l *lists) wrong(kind string, ts []int32, format string, args ...any) {
	const most = 3
	a := l.found[kind]
	if a == nil {
		a = &anomalies{}
		l.found[kind] = a
	}
	if a.total++; len(a.lines) == most {
		return
	}
	a.lines = append(a.lines, kind+": "+fmt.Sprintf(format, args...))
	for _, t := range ts {
		a.ops = append(a.ops, l.index(t))
	}
}

func (l *lists) result(name string, g *cycle.Graph) Result {
	var ok, fail, info, recovered int
	for t, typ := range l.typ {
		switch typ {
		case history.OK:
			ok++
		case history.Fail:
			fail++
		case history.Info, history.Invoke:
			if info++; l.observed[t] {
				recovered++
			}
		}
	}
	counts := map[string]any{}
	var names []string
	total := 0
	count := func(name string, n int) {
		if n > 0 {
			names = append(names, fmt.Sprintf("%d %s", n, name))
			counts[name] = int64(n)
			total += n
		}
	}
	for _, kind := range plainKinds {
		if a := l.found[kind]; a != nil {
			count(kind, a.total)
		}
	}
	var circles []string
	for _, c := range l.circle {
		if !slices.Contains(circles, c.name) {
			circles = append(circles, c.name)
		}
	}
	for _, n := range circles {
		of := 0
		for _, c := range l.circle {
			if c.name == n {
				of++
			}
		}
		count(n, of)
	}
	seen := 0
	for _, a := range l.at {
		if a >= 0 {
			seen++
		}
	}
	r := Result{Checker: name, Verdict: Valid, Stats: map[string]any{
		"transactions": int64(len(l.typ)), "ok": int64(ok), "fail": int64(fail), "info": int64(info), "recovered": int64(recovered),
		"keys": int64(len(l.names)), "appends": int64(len(l.writer)), "appends_read": int64(seen), "reads": int64(l.reads),
		"edges": int64(g.Edges()), "model": string(l.model), "anomalies": counts,
	}}
	switch {
	case total > 0:
		r.Verdict = Invalid
		r.Summary = fmt.Sprintf("%s are not %s: %s", plural(ok, "transaction"), l.model, strings.Join(names, ", "))
		l.witness(&r, total)
	case seen == 0:
		r.Verdict, r.Summary = Unknown, fmt.Sprintf("of %s none was read by %s, so nothing is shown", plural(len(l.writer), "append"), plural(ok, "transaction"))
	default:
		r.Summary = fmt.Sprintf("%s with %s and %s of %s are %s", plural(ok, "transaction"), plural(len(l.writer), "append"), plural(l.reads, "read"), plural(len(l.names), "list"), l.model)
		if recovered > 0 {
			r.Summary += fmt.Sprintf("; %d of unknown outcome showed", recovered)
		}
	}
	return r
}
