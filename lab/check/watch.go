package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sort"

	"holdfast.dev/lab/history"
)

// Watch checks that watchers see every change once and in order. Calls are put,
// with the value, and delete, whose completions have {"rev": revision}; and watch, with
// {"from": revision}, whose completion has the events seen, as a list of {"rev", "key",
// "type", "value"}. A watch from 0 begins anywhere. Written values are unique.
//
// The promises have the names of etcd's, each judged over all watches that
// succeeded:
//
//	ordered     revisions do not go back within a watch; and one that was
//	            acknowledged before another put began is the smaller
//	unique      no event, a key at a revision, comes twice in a watch
//	atomic      a watch that has an event of a revision has all of it
//	resumable   a watch has nothing older than it was to begin with, and
//	            nothing is missing between there and its first event
//	reliable    nothing is missing between its first event and its last
//	true        an event is what was written: by a put that did not fail, had begun,
//	            and was acknowledged, if so, with that revision; all watches agree
//
// What a watch should have seen are the puts that were acknowledged and what
// other watches saw. Deletes count only where some watch saw them: one of a key that
// there was not changes nothing. What a watch may have been about to see when it
// ended is not held against it.
//
// Unknown: no watch saw anything, or no put was acknowledged.
type Watch struct{}

type change struct {
	rev int64
	key string
}

type event struct {
	change

	kind  string // put or delete
	value any
	call  *history.Call // the put that was acknowledged, or the watch that has it
}

type watched struct {
	call   *history.Call
	from   int64
	events []event
}

type watchCheck struct {
	puts    map[any]*history.Call // value → its put
	known   map[change]*event
	changes []*event // known, in order
	watches []watched

	acked, seen int
	bad         map[string]int
	found       findings
	lines       map[string][]line
}

type line struct {
	ops  []int
	text string
}

var watchPromises = []string{"reliable", "resumable", "unique", "atomic", "ordered", "true"}

// Check judges the history.
func (Watch) Check(ctx context.Context, h history.History) Result {
	const name = "watch"
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	w := watchCheck{puts: map[any]*history.Call{}, known: map[change]*event{}, bad: map[string]int{}, lines: map[string][]line{}}
	if wrong := w.collect(calls); wrong != "" {
		return unknown(name, "%s", wrong)
	}
	w.acknowledged(calls)
	for i := range w.watches {
		if ctx.Err() != nil {
			return interrupted(ctx, name)
		}
		w.contents(&w.watches[i])
	}
	for _, e := range w.known {
		w.changes = append(w.changes, e)
	}
	slices.SortFunc(w.changes, func(a, b *event) int {
		return cmp.Or(cmp.Compare(a.rev, b.rev), cmp.Compare(a.key, b.key))
	})
	for i := range w.watches {
		if ctx.Err() != nil {
			return interrupted(ctx, name)
		}
		w.gaps(&w.watches[i])
	}
	return w.result(name)
}

func (w *watchCheck) wrong(promise string, ops []int, format string, args ...any) {
	const most = 5
	if w.bad[promise]++; len(w.lines[promise]) < most {
		w.lines[promise] = append(w.lines[promise], line{ops, fmt.Sprintf(format, args...)})
	}
}

// collect takes the calls in. It returns what is wrong with them, if anything is.
func (w *watchCheck) collect(calls []history.Call) string {
	for i := range calls {
		c := &calls[i]
		switch c.Invoke.F {
		case "put":
			v := ident(c.Invoke.Value)
			if other := w.puts[v]; other != nil {
				return fmt.Sprintf("value %s was put twice (index %d and %d): events do not tell whose it is", say(v), other.Invoke.Index, c.Invoke.Index)
			}
			w.puts[v] = c
		case "delete":
		case "watch":
			if c.Complete.Type != history.OK {
				continue
			}
			from, ok := field(c.Invoke.Value, "from")
			if !ok {
				return fmt.Sprintf("a watch (index %d) has the value %s, want from", c.Invoke.Index, say(c.Invoke.Value))
			}
			list, ok := listOf(c.Complete.Value)
			if !ok {
				return fmt.Sprintf("a watch (index %d) has the value %s, want a list of events", c.Complete.Index, say(c.Complete.Value))
			}
			n := watched{call: c, from: from}
			for _, v := range list {
				m, _ := v.(map[string]any)
				rev, ok := field(v, "rev")
				key, isKey := m["key"].(string)
				kind, _ := m["type"].(string)
				if !ok || !isKey || kind != "put" && kind != "delete" {
					return fmt.Sprintf("a watch (index %d) has the event %s, want rev, key, type and value", c.Complete.Index, say(v))
				}
				n.events = append(n.events, event{change: change{rev, key}, kind: kind, value: ident(m["value"]), call: c})
			}
			w.watches = append(w.watches, n)
		default:
			return fmt.Sprintf("%s (index %d) is no call of a watched store: want put, delete and watch", c.Invoke.F, c.Invoke.Index)
		}
	}
	return ""
}

// field is a whole number in an object.
func field(v any, name string) (int64, bool) {
	m, ok := v.(map[string]any)
	if !ok {
		return 0, false
	}
	return whole(m[name])
}

// acknowledged takes in the puts that succeeded, and compares their revisions.
func (w *watchCheck) acknowledged(calls []history.Call) {
	var byEnd []*event
	for i := range calls {
		c := &calls[i]
		if c.Invoke.F != "put" || c.Complete.Type != history.OK {
			continue
		}
		w.acked++
		rev, ok := field(c.Complete.Value, "rev")
		if !ok {
			continue // its revision is not known
		}
		e := &event{change{rev, c.Invoke.Key}, "put", ident(c.Invoke.Value), c}
		byEnd = append(byEnd, e)
		if other := w.known[e.change]; other != nil {
			w.wrong("true", []int{other.call.Complete.Index, c.Complete.Index}, "%s of %s by %s was acknowledged at revision %d (index %d), and so was that of %s by %s (index %d)",
				say(e.value), e.key, who(c), rev, c.Complete.Index, say(other.value), who(other.call), other.call.Complete.Index)
			continue
		}
		w.known[e.change] = e
	}
	byStart := slices.Clone(byEnd)
	slices.SortStableFunc(byEnd, func(a, b *event) int { return cmp.Compare(a.call.Complete.Time, b.call.Complete.Time) })
	slices.SortStableFunc(byStart, func(a, b *event) int { return cmp.Compare(a.call.Invoke.Time, b.call.Invoke.Time) })
	var most *event
	ended := 0
	for _, e := range byStart {
		for ; ended < len(byEnd) && byEnd[ended].call.Complete.Time < e.call.Invoke.Time; ended++ {
			if most == nil || byEnd[ended].rev > most.rev {
				most = byEnd[ended]
			}
		}
		if most != nil && most.rev >= e.rev {
			w.wrong("ordered", []int{most.call.Complete.Index, e.call.Invoke.Index, e.call.Complete.Index}, "a put by %s was acknowledged at revision %d (index %d), and one by %s, begun afterwards, at revision %d (index %d)",
				who(most.call), most.rev, most.call.Complete.Index, who(e.call), e.rev, e.call.Complete.Index)
		}
	}
}

func (w *watched) words() string {
	return fmt.Sprintf("%s watched from revision %d %s (index %d)", who(w.call), w.from, span(w.call), w.call.Complete.Index)
}

func (e *event) words() string {
	if e.kind == "delete" {
		return fmt.Sprintf("the delete of %s at revision %d", e.key, e.rev)
	}
	return fmt.Sprintf("the put of %s to %s at revision %d", say(e.value), e.key, e.rev)
}

// contents examines the events of a watch one by one.
func (w *watchCheck) contents(n *watched) {
	index := n.call.Complete.Index
	twice := map[change]bool{}
	for i := range n.events {
		e := &n.events[i]
		w.seen++
		if i > 0 && e.rev < n.events[i-1].rev {
			w.wrong("ordered", []int{index}, "%s and saw %s after revision %d", n.words(), e.words(), n.events[i-1].rev)
		}
		if twice[e.change] {
			w.wrong("unique", []int{index}, "%s and saw %s twice", n.words(), e.words())
			continue
		}
		twice[e.change] = true
		if n.from > 0 && e.rev < n.from {
			w.wrong("resumable", []int{index}, "%s and saw %s, which is older", n.words(), e.words())
		}
		w.truth(n, e)
	}
}

// truth compares an event with the put that it tells of, and with what others saw.
func (w *watchCheck) truth(n *watched, e *event) {
	index := n.call.Complete.Index
	put := w.puts[e.value]
	switch {
	case e.kind == "delete":
	case put == nil || put.Invoke.Key != e.key:
		w.wrong("true", []int{index}, "%s and saw %s, which nobody had put there", n.words(), e.words())
		return
	case put.Complete.Type == history.Fail:
		w.wrong("true", []int{index, put.Complete.Index}, "%s and saw %s, which by %s had failed (index %d)", n.words(), e.words(), who(put), put.Complete.Index)
		return
	case put.Invoke.Time > n.call.Complete.Time:
		w.wrong("true", []int{index, put.Invoke.Index}, "%s and saw %s, before %s began it at %s (index %d)", n.words(), e.words(), who(put), at(put.Invoke.Time), put.Invoke.Index)
		return
	case put.Complete.Type == history.OK:
		if rev, acked := field(put.Complete.Value, "rev"); acked && rev != e.rev {
			w.wrong("true", []int{index, put.Complete.Index}, "%s and saw %s, which was acknowledged to %s at revision %d (index %d)", n.words(), e.words(), who(put), rev, put.Complete.Index)
			return
		}
	}
	other := w.known[e.change]
	if other == nil {
		w.known[e.change] = e
		return
	}
	if other.kind != e.kind || other.kind == "put" && other.value != e.value {
		w.wrong("true", []int{index, other.call.Complete.Index}, "%s and saw %s, where %s has %s (index %d)", n.words(), e.words(), who(other.call), other.words(), other.call.Complete.Index)
	}
}

// gaps finds what a watch missed.
func (w *watchCheck) gaps(n *watched) {
	if len(n.events) == 0 {
		return
	}
	index := n.call.Complete.Index
	has, revs := map[change]bool{}, map[int64]bool{}
	first, last := n.events[0].rev, n.events[0].rev
	for i := range n.events {
		e := &n.events[i]
		has[e.change], revs[e.rev] = true, true
		first, last = min(first, e.rev), max(last, e.rev)
	}
	begin := first
	if n.from > 0 {
		begin = n.from
	}
	i := sort.Search(len(w.changes), func(i int) bool { return w.changes[i].rev >= begin })
	for ; i < len(w.changes) && w.changes[i].rev <= last; i++ {
		e := w.changes[i]
		if has[e.change] {
			continue
		}
		promise := "reliable"
		switch {
		case revs[e.rev]:
			promise = "atomic"
		case e.rev < first:
			promise = "resumable"
		}
		how := "acknowledged"
		if e.call.Invoke.F == "watch" {
			how = "seen"
		}
		w.wrong(promise, []int{index, e.call.Complete.Index}, "%s and saw revisions %d to %d, but not %s, %s by %s (index %d)",
			n.words(), first, last, e.words(), how, who(e.call), e.call.Complete.Index)
	}
}

func (w *watchCheck) result(name string) Result {
	r := Result{Checker: name, Verdict: Valid, Stats: map[string]any{
		"puts": int64(w.acked), "watches": int64(len(w.watches)), "events": int64(w.seen), "changes": int64(len(w.changes)),
	}}
	total, list := 0, ""
	for _, p := range watchPromises {
		r.Stats["not_"+p] = int64(w.bad[p])
		total += w.bad[p]
		if w.bad[p] > 0 {
			if list != "" {
				list += ", "
			}
			list += fmt.Sprintf("%d not %s", w.bad[p], p)
		}
		w.found.some(len(w.lines[p]), func(i int) { w.found.add(w.lines[p][i].ops, "not %s: %s", p, w.lines[p][i].text) })
	}
	w.found.total = total
	w.found.into(&r)
	switch {
	case total > 0:
		r.Verdict, r.Summary = Invalid, fmt.Sprintf("%s in %d watches: %s", plural(w.seen, "event"), len(w.watches), list)
	case w.acked == 0:
		r.Verdict, r.Summary = Unknown, "no put was acknowledged, so nothing is shown"
	case w.seen == 0:
		r.Verdict, r.Summary = Unknown, fmt.Sprintf("%d watches saw nothing, so nothing is shown", len(w.watches))
	default:
		r.Summary = fmt.Sprintf("%s in %d watches, each once and in order: %s there were", plural(w.seen, "event"), len(w.watches), plural(len(w.changes), "change"))
	}
	return r
}
