package check

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"time"

	"holdfast.dev/lab/history"
)

// Register checks that independent registers, one per key, are linearizable:
// each read and each write takes effect at one moment between its invocation and
// its completion, and a read returns what was written last. It needs written
// values that are unique per key, and then decides in O(n log n), however many
// clients there are and however many writes have unknown outcomes.
//
// Calls are write, with the value, and read, whose completion has it; other
// functions make the verdict Unknown. Writes of unknown outcome that somebody
// read have happened; those that nobody read do not matter. Reads that did not
// succeed are ignored. Intervals are closed: calls that touch are concurrent.
//
// The algorithm is Gibbons' and Korach's ("Testing Shared Memories", 1997). The
// calls on one value, its write and its reads, must take effect in one
// uninterrupted block. Let r be the earliest end and i the latest beginning
// among them. If r < i for a value, all time from r to i belongs to it. The block
// of a must precede the block of b if a's r is before b's i; two values are in
// conflict if each must precede the other. A history is linearizable if and only
// if no read ends before its write begins and no two values are in conflict:
// longer circles contain a conflict of two. The two values are the witness.
type Register struct {
	// Initial is what reads return before anything is written. Default: nil.
	Initial any
}

// Check judges the history.
func (c Register) Check(ctx context.Context, h history.History) Result {
	const name = "register"
	if ctx.Err() != nil {
		return interrupted(ctx, name)
	}
	pairs, err := h.Pairs()
	if err != nil {
		return unknown(name, "the history is malformed: %v", err)
	}
	z := zones{h: h, pairs: pairs, timeless: h.Timeless()}
	if reason := z.writes(ctx, ident(c.Initial)); reason != "" {
		return unknown(name, "%s", reason)
	}
	z.reads(ctx)
	z.sweep(ctx)
	if ctx.Err() != nil {
		return interrupted(ctx, name)
	}
	return z.result(name)
}

// A cluster is the calls on one value of one key.
type cluster struct {
	minEnd, maxStart     int64
	writeStart           int64
	minEndAt, maxStartAt int32 // the calls these times are of; -1 for the initial value
	write                int32 // the call that wrote the value, -1 if none did
	key                  int32
	reads                int32
	state                clusterState
}

type clusterState uint8

const (
	written   clusterState = iota // by a call that succeeded or may have
	initial                       // by nobody, before everything
	failed                        // by a call that is said to have failed
	unwritten                     // by nobody
	backwards                     // read before the write began: already reported
)

type (
	slot struct {
		key     int32
		cluster int32 // less one: 0 is a free slot
	}
	intValue struct {
		key   int32
		value int64
	}
	anyValue struct {
		key   int32
		value any
	}
)

// zones is the state of one check.
type zones struct {
	h        history.History
	pairs    []history.Pair
	timeless bool

	keys     []string
	keyOf    map[string]int32
	dense    []slot             // to clusters, by value, where values are small and one key's
	ints     map[intValue]int32 // to clusters
	others   map[anyValue]int32
	clusters []cluster

	readCalls, readOK, writeCalls, writeOK, writeUnknown int
	bad                                                  []violation
}

// A violation is a read that should not be, or two clusters in conflict.
type violation struct {
	time int64 // when it showed
	read int32 // the call that shows it
	a, b int32 // clusters: that of the read, and the other one, or -1
}

func (z *zones) time(position int) int64 {
	if z.timeless {
		return int64(position) + 1
	}
	return int64(z.h[position].Time)
}

func (z *zones) start(call int32) int64 { return z.time(z.pairs[call].Invoke) }

// outcome is the type of a call's completion.
func (z *zones) outcome(p history.Pair) history.Type {
	if p.Complete < 0 {
		return history.Info
	}
	return z.h[p.Complete].Type
}

// find returns the cluster of a value, or -1 and remembers id for it.
func (z *zones) find(key int32, v any, id int32) int32 {
	if n, ok := v.(int64); ok {
		if uint64(n) < uint64(len(z.dense)) {
			switch s := &z.dense[n]; {
			case s.cluster == 0:
				*s = slot{key, id + 1}
				return -1
			case s.key == key:
				return s.cluster - 1
			}
		}
		k := intValue{key, n}
		if at, ok := z.ints[k]; ok {
			return at
		}
		z.ints[k] = id
		return -1
	}
	k := anyValue{key, ident(v)}
	if n, ok := k.value.(int64); ok {
		return z.find(key, n, id)
	}
	if at, ok := z.others[k]; ok {
		return at
	}
	z.others[k] = id
	return -1
}

// ctxEvery is how many calls are looked at between two looks at ctx.
const ctxEvery = 1 << 14

// writes finds the keys and makes a cluster for each value that was written. It
// returns why the history cannot be decided, if it cannot.
func (z *zones) writes(ctx context.Context, start any) string {
	z.keyOf = map[string]int32{}
	z.dense = make([]slot, 2*len(z.pairs))
	z.ints = map[intValue]int32{}
	z.others = map[anyValue]int32{}
	z.clusters = make([]cluster, 0, len(z.pairs)/2+16)
	other := map[string]int{}
	lastKey, lastID := "", int32(-1)
	for i, p := range z.pairs {
		if i%ctxEvery == 0 && ctx.Err() != nil {
			return ""
		}
		op := &z.h[p.Invoke]
		key := lastID
		if key < 0 || op.Key != lastKey {
			id, ok := z.keyOf[op.Key]
			if !ok {
				id = int32(len(z.keys))
				z.keyOf[op.Key] = id
				z.keys = append(z.keys, op.Key)
				z.find(id, start, int32(len(z.clusters)))
				z.clusters = append(z.clusters, cluster{
					minEnd: math.MinInt64, maxStart: math.MinInt64, minEndAt: -1, maxStartAt: -1, write: -1, key: id, state: initial,
				})
			}
			key, lastKey, lastID = id, op.Key, id
		}
		switch op.F {
		case "read":
			z.readCalls++
			continue
		case "write":
			z.writeCalls++
		default:
			other[op.F]++
			continue
		}
		c := cluster{write: int32(i), key: key, minEndAt: int32(i), maxStartAt: int32(i)}
		c.writeStart = z.time(p.Invoke)
		c.maxStart, c.minEnd = c.writeStart, math.MaxInt64
		switch z.outcome(p) {
		case history.OK:
			z.writeOK++
			c.minEnd = z.time(p.Complete)
		case history.Fail:
			c.state = failed
		case history.Info, history.Invoke:
			z.writeUnknown++
		}
		at := z.find(key, op.Value, int32(len(z.clusters)))
		switch {
		case at < 0:
			z.clusters = append(z.clusters, c)
		case c.state == failed:
		case z.clusters[at].state == failed:
			z.clusters[at] = c
		case z.clusters[at].state == initial:
			return fmt.Sprintf("%s%s is written (index %d) but is also the initial value: only unique values can be told apart", of(op.Key), say(op.Value), op.Index)
		default:
			return fmt.Sprintf("%s%s is written twice (index %d and %d): only unique values can be told apart; the checker cas can judge small histories without", of(op.Key), say(op.Value), z.h[z.pairs[z.clusters[at].write].Invoke].Index, op.Index)
		}
	}
	if len(other) > 0 {
		names := make([]string, 0, len(other))
		n := 0
		for f, k := range other {
			names = append(names, f)
			n += k
		}
		slices.Sort(names)
		return fmt.Sprintf("%s of %s: a register of this checker has only read and write", plural(n, "call"), names)
	}
	return ""
}

// reads adds the reads to their clusters.
func (z *zones) reads(ctx context.Context) {
	for i, p := range z.pairs {
		if i%ctxEvery == 0 && ctx.Err() != nil {
			return
		}
		if z.outcome(p) != history.OK || z.h[p.Invoke].F != "read" {
			continue
		}
		z.readOK++
		key := z.keyOf[z.h[p.Invoke].Key]
		at := z.find(key, z.h[p.Complete].Value, int32(len(z.clusters)))
		if at < 0 {
			at = int32(len(z.clusters))
			z.clusters = append(z.clusters, cluster{
				write: -1, key: key, state: unwritten, minEnd: math.MaxInt64, maxStart: math.MinInt64, writeStart: math.MinInt64,
			})
		}
		c := &z.clusters[at]
		c.reads++
		start, end := z.time(p.Invoke), z.time(p.Complete)
		if end < c.minEnd {
			c.minEnd, c.minEndAt = end, int32(i)
		}
		if start > c.maxStart {
			c.maxStart, c.maxStartAt = start, int32(i)
		}
	}
}

// A zone is the time that belongs to a cluster, or, backward, the time in which
// its moment lies.
type zone struct {
	lo, hi  int64
	cluster int32
}

// sweep finds the clusters that cannot be, alone or side by side.
func (z *zones) sweep(ctx context.Context) {
	forward, backward := make([][]zone, len(z.keys)), make([][]zone, len(z.keys))
	for i := range z.clusters {
		c := &z.clusters[i]
		id := int32(i)
		switch {
		case c.reads == 0 && (c.state != written || c.minEnd == math.MaxInt64):
			continue
		case c.state == failed || c.state == unwritten:
			z.bad = append(z.bad, violation{time: z.start(c.minEndAt), read: c.minEndAt, a: id, b: -1})
			continue
		case c.state == written && c.minEnd < c.writeStart:
			c.state = backwards
			z.bad = append(z.bad, violation{time: c.minEnd, read: c.minEndAt, a: id, b: -1})
			continue
		}
		if c.minEnd < c.maxStart {
			forward[c.key] = append(forward[c.key], zone{c.minEnd, c.maxStart, id})
		} else {
			backward[c.key] = append(backward[c.key], zone{c.maxStart, c.minEnd, id})
		}
	}
	for key := range forward {
		if ctx.Err() != nil {
			return
		}
		z.collide(forward[key], backward[key])
	}
}

// collide finds forward zones that overlap, and backward zones inside forward
// ones.
func (z *zones) collide(forward, backward []zone) {
	slices.SortFunc(forward, func(a, b zone) int {
		return cmp.Or(cmp.Compare(a.lo, b.lo), cmp.Compare(a.cluster, b.cluster))
	})
	reach := make([]int32, len(forward)) // which of forward[:i+1] ends last
	for i, f := range forward {
		if i == 0 {
			continue
		}
		last := forward[reach[i-1]]
		reach[i] = reach[i-1]
		if f.lo < last.hi {
			z.conflict(last.cluster, f.cluster)
		}
		if f.hi > last.hi {
			reach[i] = int32(i)
		}
	}
	for _, b := range backward {
		n := sort.Search(len(forward), func(i int) bool { return forward[i].lo >= b.lo })
		if n == 0 {
			continue
		}
		if f := forward[reach[n-1]]; f.hi > b.hi {
			z.conflict(f.cluster, b.cluster)
		}
	}
}

// conflict records that two clusters must each precede the other. To be
// surprised at is the initial value, when it is one of them, or that whose
// latest call begins later.
func (z *zones) conflict(a, b int32) {
	switch {
	case z.clusters[a].state == initial:
	case z.clusters[b].state == initial, z.clusters[a].maxStart < z.clusters[b].maxStart:
		a, b = b, a
	}
	c := &z.clusters[a]
	z.bad = append(z.bad, violation{time: c.maxStart, read: c.maxStartAt, a: a, b: b})
}

func (z *zones) result(name string) Result {
	r := Result{Checker: name, Verdict: Valid, Stats: map[string]any{
		"keys":           int64(len(z.keys)),
		"reads":          int64(z.readCalls),
		"reads_ok":       int64(z.readOK),
		"writes":         int64(z.writeCalls),
		"writes_ok":      int64(z.writeOK),
		"writes_unknown": int64(z.writeUnknown),
		"violations":     int64(len(z.bad)),
	}}
	slices.SortFunc(z.bad, func(a, b violation) int {
		return cmp.Or(cmp.Compare(a.time, b.time), cmp.Compare(a.read, b.read), cmp.Compare(a.b, b.b))
	})
	var found findings
	keys := map[int32]bool{}
	for _, v := range z.bad {
		keys[z.clusters[v.a].key] = true
		if found.full() {
			found.total++
			continue
		}
		z.explain(&found, v)
	}
	found.into(&r)
	switch {
	case found.total > 0:
		r.Verdict = Invalid
		r.Summary = fmt.Sprintf("%s of %d cannot have been the registers that they were promised to be: %s", plural(len(keys), "key"), len(z.keys), plural(found.total, "contradiction"))
	case z.readOK == 0:
		r.Verdict, r.Summary = Unknown, "nothing was read, so nothing is shown"
	case z.writeOK+z.writeUnknown == 0:
		r.Verdict, r.Summary = Unknown, "nothing was written, so nothing is shown"
	default:
		r.Summary = fmt.Sprintf("%s and %s on %s are linearizable", plural(z.readOK, "read"), plural(z.writeOK+z.writeUnknown, "write"), plural(len(z.keys), "key"))
	}
	return r
}

// call makes the call at i.
func (z *zones) call(i int32) *history.Call {
	p := z.pairs[i]
	c := history.Call{Invoke: z.h[p.Invoke]}
	c.Invoke.Time = time.Duration(z.time(p.Invoke))
	if p.Complete < 0 {
		c.Complete = c.Invoke
		c.Complete.Type, c.Complete.Index, c.Complete.Time = history.Info, -1, history.Never
		return &c
	}
	c.Complete = z.h[p.Complete]
	c.Complete.Time = time.Duration(z.time(p.Complete))
	return &c
}

func (z *zones) value(cluster int32) any {
	c := &z.clusters[cluster]
	switch {
	case c.write >= 0:
		return z.h[z.pairs[c.write].Invoke].Value
	case c.minEndAt >= 0:
		return z.h[z.pairs[c.minEndAt].Complete].Value
	case c.maxStartAt >= 0:
		return z.h[z.pairs[c.maxStartAt].Complete].Value
	default:
		return nil
	}
}

// explain says what a violation is.
func (z *zones) explain(found *findings, v violation) {
	a := &z.clusters[v.a]
	key := of(z.keys[a.key])
	read := z.call(v.read)
	value := say(z.value(v.a))
	head := fmt.Sprintf("%s%s read %s %s (index %d)", key, who(read), value, span(read), read.Invoke.Index)
	if v.b < 0 {
		switch a.state { //nolint:exhaustive // the others are in order alone
		case unwritten:
			found.add([]int{read.Invoke.Index, read.Complete.Index}, "%s, which nobody had written%s", head, again(a.reads))
		case failed:
			w := z.call(a.write)
			found.add([]int{read.Invoke.Index, read.Complete.Index, w.Invoke.Index, w.Complete.Index}, "%s, whose write by %s was answered as failed (index %d)%s", head, who(w), w.Complete.Index, again(a.reads))
		default:
			w := z.call(a.write)
			found.add([]int{read.Invoke.Index, read.Complete.Index, w.Invoke.Index}, "%s, before %s began to write it at %s (index %d)", head, who(w), at(w.Invoke.Time), w.Invoke.Index)
		}
		return
	}
	b := &z.clusters[v.b]
	ops := []int{read.Invoke.Index, read.Complete.Index}
	done := z.call(b.minEndAt)
	ops = append(ops, done.Invoke.Index, done.Complete.Index)
	after := fmt.Sprintf("after %s had %s %s until %s (index %d)", who(done), verb(done), say(z.value(v.b)), at(done.Complete.Time), done.Complete.Index)
	older := value + " is the initial value"
	if a.state != initial {
		done, next := z.call(a.minEndAt), z.call(b.maxStartAt)
		ops = append(ops, done.Invoke.Index, done.Complete.Index, next.Invoke.Index)
		older = fmt.Sprintf("%s is the older: %s by %s until %s (index %d), before %s began to %s %s at %s (index %d)",
			value, verb(done), who(done), at(done.Complete.Time), done.Complete.Index, who(next), infinitive(next), say(z.value(v.b)), at(next.Invoke.Time), next.Invoke.Index)
	}
	found.add(ops, "%s, %s; %s", head, after, older)
}

func again(reads int32) string {
	if reads < 2 {
		return ""
	}
	return fmt.Sprintf("; %d reads returned it", reads)
}

func verb(c *history.Call) string {
	if c.Invoke.F == "write" {
		return "written"
	}
	return "read"
}

func infinitive(c *history.Call) string {
	if c.Invoke.F == "write" {
		return "write"
	}
	return "read"
}
