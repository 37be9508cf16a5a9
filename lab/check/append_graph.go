package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"holdfast.dev/lab/check/cycle"
	"holdfast.dev/lab/history"
)

// examine finds anomalies that show without a circle.
func (l *lists) examine(ctx context.Context) {
	l.orders()
	for t := range int32(len(l.pairs)) {
		if t%ctxEvery == 0 && ctx.Err() != nil {
			return
		}
		if l.typ[t] != history.OK {
			continue
		}
		for i := l.first[t]; i < l.first[t+1]; i++ {
			if !l.ops[i].read {
				continue
			}
			if l.model != ReadCommitted {
				l.internal(t, i)
			}
			l.contents(t, i)
		}
	}
	if l.model == StrictSerializable {
		l.lost()
	}
}

// orders examines the order of each key.
func (l *lists) orders() {
	for k := range l.names {
		if len(l.bad[k]) == 0 {
			continue
		}
		op := l.longest[k]
		list := l.list(op)
		for _, i := range l.bad[k] {
			a := l.find(int32(k), list[i])
			if a < 0 || l.typ[l.writer[a]] != history.Fail {
				continue
			}
			for j := int(i) + 1; j < len(list); j++ {
				if b := l.at[l.start[k]+int32(j)]; b >= 0 {
					l.wrong("dirty-update", []int32{l.writer[a], l.writer[b]}, "%s appended %s to %s after %s of %s, which had failed",
						l.who(l.writer[b]), l.what(b), l.names[k], l.what(a), l.who(l.writer[a]))
					break
				}
			}
		}
	}
}

// fits reports whether a read is a beginning of the longest one.
func (l *lists) fits(op int32) bool {
	best := l.longest[l.ops[op].key]
	if best == op {
		return true
	}
	long := l.list(best)
	for i, v := range l.list(op) {
		if !equal(v, long[i]) {
			return false
		}
	}
	return true
}

// contents examines one read of a transaction against those of others.
func (l *lists) contents(t, op int32) {
	k := l.ops[op].key
	list := l.list(op)
	read := func() string { return fmt.Sprintf("%s read %s", l.who(t), l.names[k]) }
	element := func(i int) {
		a := l.find(k, list[i])
		switch {
		case a < 0:
			l.wrong("garbage-read", []int32{t}, "%s with %s, which nobody had appended", read(), say(list[i]))
		case l.typ[l.writer[a]] == history.Fail:
			l.wrong("G1a", []int32{l.writer[a], t}, "%s with %s, though the transaction of %s that appended it had failed", read(), say(list[i]), l.who(l.writer[a]))
		}
	}
	if l.fits(op) {
		for _, i := range l.bad[k] {
			if int(i) >= len(list) {
				break
			}
			element(int(i))
			if a := l.find(k, list[i]); a >= 0 && l.pos[a] >= 0 {
				l.wrong("duplicate-append", []int32{l.writer[a], t}, "%s with %s twice, which %s appended once", read(), say(list[i]), l.who(l.writer[a]))
			}
		}
	} else {
		best := l.longest[k]
		long, i := l.list(best), 0
		for equal(list[i], long[i]) {
			i++
		}
		other := l.of(best)
		l.wrong("incompatible-order", []int32{other, t}, "%s with %s at place %d, where %s read %s", read(), say(list[i]), i+1, l.who(other), say(long[i]))
		seen := make(map[any]bool, len(list))
		for i, v := range list {
			if element(i); seen[ident(v)] {
				l.wrong("duplicate-append", []int32{t}, "%s with %s twice", read(), say(v))
			}
			seen[ident(v)] = true
		}
	}
	// The last element of what others appended must be the last of its transaction.
	if n := l.outside(t, op); n > 0 {
		if a := l.find(k, list[n-1]); a >= 0 && l.partial[a] && l.writer[a] != t && l.typ[l.writer[a]] != history.Fail {
			l.wrong("G1b", []int32{l.writer[a], t}, "%s up to %s, after which the transaction of %s appended more", read(), l.what(a), l.who(l.writer[a]))
		}
	}
}

// of is the transaction of an operation.
func (l *lists) of(op int32) int32 {
	t, _ := slices.BinarySearch(l.first, op+1)
	return int32(t) - 1
}

// own is how many elements the transaction itself appended to the key of a read, before it.
func (l *lists) own(t, op int32) int {
	n := 0
	for i := l.first[t]; i < op; i++ {
		if !l.ops[i].read && l.ops[i].key == l.ops[op].key {
			n++
		}
	}
	return n
}

// outside is how many elements of a read are not the transaction's own.
func (l *lists) outside(t, op int32) int { return max(0, len(l.list(op))-l.own(t, op)) }

// repeated reports whether the transaction read the same key before.
func (l *lists) repeated(t, op int32) bool {
	for i := l.first[t]; i < op; i++ {
		if l.ops[i].read && l.ops[i].key == l.ops[op].key {
			return true
		}
	}
	return false
}

// internal examines a read against what the transaction itself did.
func (l *lists) internal(t, op int32) {
	k, list := l.ops[op].key, l.list(op)
	last := int32(-1) // the read before
	var since []any   // own appends since then
	for i := l.first[t]; i < op; i++ {
		switch o := &l.ops[i]; {
		case o.key != k:
		case o.read:
			last, since = i, since[:0]
		default:
			since = append(since, o.value)
		}
	}
	if last >= 0 {
		before := l.list(last)
		if len(list) != len(before)+len(since) || !slices.EqualFunc(list[:len(before)], before, equal) || !slices.EqualFunc(list[len(before):], since, equal) {
			l.wrong("internal", []int32{t}, "%s read %s twice: with %s, and then with %s, having appended %s", l.who(t), l.names[k],
				plural(len(before), "element"), plural(len(list), "element"), plural(len(since), "element"))
		}
		return
	}
	if n := len(list) - len(since); n < 0 || !slices.EqualFunc(list[n:], since, equal) {
		l.wrong("internal", []int32{t}, "%s read %s without %s at its end, which it had appended itself", l.who(t), l.names[k], say(since[len(since)-1]))
		return
	}
	for i := op + 1; i < l.first[t+1]; i++ { // what it will append must not be there yet
		if o := &l.ops[i]; !o.read && o.key == k && slices.ContainsFunc(list, func(v any) bool { return equal(v, o.value) }) {
			l.wrong("internal", []int32{t}, "%s read %s with %s, which it only appended afterwards", l.who(t), l.names[k], say(o.value))
			return
		}
	}
}

// lost finds appends that were acknowledged and never read, though some read of
// the list began afterwards.
func (l *lists) lost() {
	for k, unread := range l.unread {
		for _, a := range unread {
			t, r := l.writer[a], l.late[k]
			if l.typ[t] == history.OK && l.ended(t) < l.began(r) {
				l.wrong("lost-append", []int32{t, r}, "%s appended %s to %s until %s, but it is in no read, not even in that of %s, begun at %s",
					l.who(t), l.what(a), l.names[k], at(l.ended(t)), l.who(r), at(l.began(r)))
			}
		}
	}
}

// What an edge is about: a place, or an append that was never read.
func aboutUnread(a int32) int32 { return -1 - a }

// graph says which transactions come before which.
func (l *lists) graph(ctx context.Context) *cycle.Graph {
	b := &cycle.Builder{}
	b.Grow(4*len(l.pairs) + len(l.writer) + 2*l.reads)
	nodes := int32(len(l.pairs))
	beyond := l.overwritten(b, &nodes)
	for t := range int32(len(l.pairs)) {
		if t%ctxEvery == 0 && ctx.Err() != nil {
			break
		}
		if l.typ[t] != history.OK {
			continue
		}
		for i := l.first[t]; i < l.first[t+1]; i++ {
			if l.ops[i].read && !l.repeated(t, i) && l.fits(i) {
				l.dependencies(b, t, i, beyond)
			}
		}
	}
	if l.model == StrictSerializable {
		l.processes(b)
		l.realtime(b, &nodes)
	}
	return b.Build(int(nodes), len(l.pairs))
}

// tail is what comes after all that was read of a key: the transactions whose
// appends nobody read. Each of those that read, or appended, the last that
// is known comes before all of them, itself excepted. Two chains of auxiliary nodes
// say so in linear space: up[i] leads to members i, i+1 and so on, and down[i] to
// i, i-1 and so on.
type tail struct {
	members  map[int32]int32 // transaction → number
	up, down int32           // the first nodes
}

func (l *lists) overwritten(b *cycle.Builder, nodes *int32) []tail {
	tails := make([]tail, len(l.names))
	for k := range int32(len(l.names)) {
		var members []int32
		tl := &tails[k]
		for _, a := range l.unread[k] {
			if tl.members == nil {
				tl.members = map[int32]int32{}
				tl.up = *nodes
			}
			t := l.writer[a]
			if _, again := tl.members[t]; again {
				continue
			}
			tl.members[t] = int32(len(members))
			members = append(members, a)
		}
		n := int32(len(members))
		tl.down = tl.up + n
		*nodes += 2 * n
		for i, a := range members {
			i, t := int32(i), l.writer[a]
			b.Add(cycle.Edge{From: tl.up + i, To: t, Kind: cycle.Pass, About: aboutUnread(a)})
			b.Add(cycle.Edge{From: tl.down + i, To: t, Kind: cycle.Pass, About: aboutUnread(a)})
			if i > 0 {
				b.Add(cycle.Edge{From: tl.up + i - 1, To: tl.up + i, Kind: cycle.Pass})
				b.Add(cycle.Edge{From: tl.down + i, To: tl.down + i - 1, Kind: cycle.Pass})
			}
		}
		// Who overwrote whom.
		last := int32(-1)
		for p := l.start[k]; p < l.start[k+1]; p++ {
			if l.at[p] < 0 {
				continue
			}
			if last >= 0 {
				b.Add(cycle.Edge{From: l.writer[l.at[last]], To: l.writer[l.at[p]], Kind: cycle.WW, About: p})
			}
			last = p
		}
		if last >= 0 {
			tl.lead(b, l.writer[l.at[last]], cycle.WW, last)
		}
	}
	return tails
}

// lead adds that a transaction comes before all members but itself.
func (tl *tail) lead(b *cycle.Builder, t int32, kind cycle.Kind, about int32) {
	n := int32(len(tl.members))
	i, member := tl.members[t]
	switch {
	case n == 0:
	case !member:
		b.Add(cycle.Edge{From: t, To: tl.up, Kind: kind, About: about})
	default:
		if i+1 < n {
			b.Add(cycle.Edge{From: t, To: tl.up + i + 1, Kind: kind, About: about})
		}
		if i > 0 {
			b.Add(cycle.Edge{From: t, To: tl.down + i - 1, Kind: kind, About: about})
		}
	}
}

// dependencies adds what a read tells: who came before, and who after.
func (l *lists) dependencies(b *cycle.Builder, t, op int32, tails []tail) {
	k := l.ops[op].key
	from := l.start[k]
	next := from + int32(l.outside(t, op))
	last := next - 1
	for last >= from && l.at[last] < 0 {
		last--
	}
	if last >= from {
		b.Add(cycle.Edge{From: l.writer[l.at[last]], To: t, Kind: cycle.WR, About: last})
	}
	for next < l.start[k+1] && l.at[next] < 0 {
		next++
	}
	if next < l.start[k+1] {
		b.Add(cycle.Edge{From: t, To: l.writer[l.at[next]], Kind: cycle.RW, About: next})
		return
	}
	tails[k].lead(b, t, cycle.RW, last)
}

// processes adds the order of each process.
func (l *lists) processes(b *cycle.Builder) {
	last := map[int]int32{}
	for t := range int32(len(l.pairs)) {
		if !l.committed(t) {
			continue
		}
		p := l.h[l.pairs[t].Invoke].Process
		if before, ok := last[p]; ok {
			b.Add(cycle.Edge{From: before, To: t, Kind: cycle.Process})
		}
		if delete(last, p); l.typ[t] == history.OK {
			last[p] = t
		}
	}
}

// realtime adds that a transaction comes before those that began after its end:
// by a chain of all ends, to which each leads, and which leads to each.
func (l *lists) realtime(b *cycle.Builder, nodes *int32) {
	var ends, begins []int32
	for t := range int32(len(l.pairs)) {
		if !l.committed(t) {
			continue
		}
		begins = append(begins, t)
		if l.typ[t] == history.OK {
			ends = append(ends, t)
		}
	}
	slices.SortStableFunc(ends, func(a, b int32) int { return cmp.Compare(l.ended(a), l.ended(b)) })
	slices.SortStableFunc(begins, func(a, b int32) int { return cmp.Compare(l.began(a), l.began(b)) })
	chain := *nodes
	*nodes += int32(len(ends))
	for i, t := range ends {
		b.Add(cycle.Edge{From: t, To: chain + int32(i), Kind: cycle.Realtime})
		if i > 0 {
			b.Add(cycle.Edge{From: chain + int32(i) - 1, To: chain + int32(i), Kind: cycle.Realtime})
		}
	}
	i := int32(0)
	for _, t := range begins {
		for int(i) < len(ends) && l.ended(ends[i]) < l.began(t) {
			i++
		}
		if i > 0 {
			b.Add(cycle.Edge{From: chain + i - 1, To: t, Kind: cycle.Realtime})
		}
	}
}

// circles finds the circles that the model forbids: one for each set of transactions
// that lie on common ones, as simple as can be.
func (l *lists) circles(ctx context.Context, g *cycle.Graph) error {
	s := cycle.NewSearch(g)
	all := cycle.Of(cycle.WW, cycle.WR, cycle.RW, cycle.Process, cycle.Realtime)
	rule := cycle.Rule{Kinds: all}
	switch l.model {
	case SnapshotIsolation:
		rule.Apart = true
	case ReadCommitted:
		rule.Kinds = cycle.Of(cycle.WW, cycle.WR)
	case Serializable, StrictSerializable:
	}
	parts, err := s.Components(ctx, rule, nil)
	if err != nil {
		return err
	}
	for _, part := range parts {
		c, err := l.simplest(ctx, s, part)
		if err != nil {
			return err
		}
		l.circle = append(l.circle, found{l.class(c), c})
	}
	return nil
}

// simplest is the gravest kind of circle within a component, and a short one of it.
func (l *lists) simplest(ctx context.Context, s *cycle.Search, part []int32) ([]cycle.Edge, error) {
	orders := []cycle.Kinds{cycle.Of(), cycle.Of(cycle.Process), cycle.Of(cycle.Process, cycle.Realtime)}
	if l.model != StrictSerializable {
		orders = orders[:1]
	}
	writes, reads := cycle.Of(cycle.WW), cycle.Of(cycle.WW, cycle.WR)
	all := cycle.Of(cycle.WW, cycle.WR, cycle.RW)
	for _, order := range orders {
		for _, try := range []struct {
			first cycle.Kind
			whole cycle.Rule // under which there must be a component
			rest  cycle.Rule // of the circle behind its first edge
		}{
			{cycle.WW, cycle.Rule{Kinds: writes}, cycle.Rule{Kinds: writes}},
			{cycle.WR, cycle.Rule{Kinds: reads}, cycle.Rule{Kinds: reads}},
			{cycle.RW, cycle.Rule{Kinds: all}, cycle.Rule{Kinds: reads}},
			{cycle.RW, cycle.Rule{Kinds: all, Apart: true}, cycle.Rule{Kinds: all, Apart: true}},
			{cycle.RW, cycle.Rule{Kinds: all}, cycle.Rule{Kinds: all}},
		} {
			try.whole.Kinds = try.whole.Kinds.With(order)
			try.rest.Kinds = try.rest.Kinds.With(order)
			inner, err := s.Components(ctx, try.whole, part)
			if err != nil {
				return nil, err
			}
			for _, within := range inner {
				if c, ok := s.Cycle(ctx, try.first, try.rest, within); ok {
					return l.joined(c), nil
				}
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
			}
		}
	}
	return nil, fmt.Errorf("no circle among %d transactions that lie on some", len(part))
}

// joined is a circle without its auxiliary nodes: paths through them become single
// edges, of the kind of their first and about what their first or last is about.
func (l *lists) joined(c []cycle.Edge) []cycle.Edge {
	n := int32(len(l.pairs))
	var out []cycle.Edge
	for _, e := range c {
		switch last := len(out) - 1; {
		case e.From < n:
			out = append(out, e)
		default:
			out[last].To = e.To
			if e.Kind == cycle.Pass && e.To < n {
				out[last].About = e.About
			}
		}
	}
	return out
}

// class names a circle.
func (l *lists) class(c []cycle.Edge) string {
	var has [cycle.Pass + 1]int
	apart := true
	for i, e := range c {
		has[e.Kind]++
		if e.Kind == cycle.RW && c[(i+1)%len(c)].Kind == cycle.RW {
			apart = false
		}
	}
	name := "G2"
	switch {
	case has[cycle.RW] == 0 && has[cycle.WR] == 0:
		name = "G0"
	case has[cycle.RW] == 0:
		name = "G1c"
	case has[cycle.RW] == 1:
		name = "G-single"
	case apart:
		name = "G-nonadjacent"
	}
	switch {
	case has[cycle.Realtime] > 0:
		name += "-realtime"
	case has[cycle.Process] > 0:
		name += "-process"
	}
	return name
}

// why is an edge in words.
func (l *lists) why(e cycle.Edge) string {
	from, to := l.who(e.From), l.who(e.To)
	var key, later string
	if e.About < 0 && e.Kind != cycle.Process && e.Kind != cycle.Realtime {
		a := -1 - e.About
		key, later = l.names[l.ops[l.element[a]].key], l.what(a)
	} else if e.Kind < cycle.Process {
		a := l.at[e.About]
		key, later = l.names[l.ops[l.element[a]].key], l.what(a)
	}
	switch e.Kind {
	case cycle.WW:
		return fmt.Sprintf("%s appended to %s before %s appended %s", from, key, to, later)
	case cycle.WR:
		return fmt.Sprintf("%s appended %s to %s, which %s read", from, later, key, to)
	case cycle.RW:
		return fmt.Sprintf("%s read %s without %s, which %s appended", from, key, later, to)
	case cycle.Process:
		return fmt.Sprintf("%s ended before %s began, the same process", from, to)
	case cycle.Realtime, cycle.Pass:
	}
	return fmt.Sprintf("%s ended at %s, before %s began at %s", from, at(l.ended(e.From)), to, at(l.began(e.To)))
}

// witness tells the gravest of what was found: some anomalies of each kind, and the
// shortest circle step by step.
func (l *lists) witness(r *Result, total int) {
	told := 0
	line := func(s string) { r.Witness = append(r.Witness, s) }
	most := 3
	if len(l.circle) > 0 {
		most = 1
	}
	for _, kind := range plainKinds {
		a := l.found[kind]
		if a == nil {
			continue
		}
		room := min(most, len(a.lines), maxWitness-1-len(r.Witness))
		for _, s := range a.lines[:max(room, 0)] {
			line(s)
			told++
		}
		r.Ops = append(r.Ops, a.ops...)
	}
	best := -1
	for i, c := range l.circle {
		if best < 0 || len(c.edges) < len(l.circle[best].edges) {
			best = i
		}
	}
	// A header, a line for each step, a line for the rest.
	if room := maxWitness - 2 - len(r.Witness); best >= 0 && room >= 2 {
		c := l.circle[best]
		line(fmt.Sprintf("%s: each of these %d transactions comes before the next, and the last before the first:", c.name, len(c.edges)))
		told++
		for i, e := range c.edges {
			if i == room-1 && len(c.edges) > room {
				line(fmt.Sprintf("… and %s back to %s", plural(len(c.edges)-i, "step"), l.who(c.edges[0].From)))
				break
			}
			line(l.why(e))
		}
		for _, e := range c.edges {
			r.Ops = append(r.Ops, l.index(e.From))
		}
	}
	if total > told {
		line(fmt.Sprintf("… and %d more", total-told))
	}
	slices.Sort(r.Ops)
	r.Ops = slices.Compact(r.Ops)
}
