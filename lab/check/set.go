package check

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"time"

	"holdfast.dev/lab/history"
)

// Set checks that what was added to a set stays there: of each element it finds
// when it was known to be in the set (its add was acknowledged, or a read
// returned it), and which later reads missed it. Calls are add, with the element,
// and read, whose completion has the list of all elements; sets of different keys
// are apart. An add of unknown outcome may show or not; once it was read
// it must stay. Reads that did not succeed are ignored.
//
// Invalid are: an element lost (known, and missing in the end), diverged
// (missing in the end at some nodes only), duplicated in one read, and one that
// nobody added, whose add failed, or that was read before its add began. The end
// is the last read of each node among those that began after all adds had
// ended; without any such read, it is the last read that began after the element
// was known. An element that reads missed for a while and had in the end
// is stale; that is no violation unless Strict.
//
// Unknown: nothing was acknowledged, or nothing was read afterwards. It takes
// time linear in the number of elements of all reads.
type Set struct {
	// Strict makes stale elements violations, as for a set that promises to be
	// linearizable.
	Strict bool
}

type element struct {
	value any
	add   *history.Call // the first that was acknowledged, failing that the first that may have happened
	state history.Type  // of that call
	start int64         // the earliest begin of an add that may have happened

	known     int64 // when it was known to be there
	knownBy   *history.Call
	present   int32 // the last read that has it, -1 for none
	has, late int32 // how many reads have it; how many of those that began after known
	suffix    int32 // how many of the last reads have it, without a gap
	finals    int32 // how many nodes' final reads have it
	seenIn    int32 // the read that was last looked at for it
	phantom   bool  // some read has it that ended before it can have been added
}

type setReads struct {
	call  *history.Call
	start int64
	items []int32
}

// setCheck is the check of one key.
type setCheck struct {
	key      string
	elements []element
	ids      map[any]int32
	reads    []setReads
	finals   []int32 // the last read of each node after all adds

	acked, recovered, stable, never int
	lost, diverged, stale           []*element // by known
	phantom                         []int32
	doubled                         []doubled
	latencies                       []time.Duration
}

type doubled struct {
	element int32
	read    int32
}

// Check judges the history.
func (c Set) Check(ctx context.Context, h history.History) Result {
	const name = "set"
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	keys, groups := byKey(calls)
	r := Result{Checker: name, Verdict: Valid}
	var found findings
	var sum setCheck
	var attempts, reads int
	for _, k := range keys {
		s := setCheck{key: k, ids: map[any]int32{}}
		if wrong := s.collect(ctx, groups[k]); wrong != "" {
			return unknown(name, "%s%s", of(k), wrong)
		}
		s.judge()
		if ctx.Err() != nil {
			return interrupted(ctx, name)
		}
		s.explain(&found, c.Strict)
		attempts += len(s.elements) - len(s.phantom)
		reads += len(s.reads)
		sum.acked += s.acked
		sum.recovered += s.recovered
		sum.stable += s.stable
		sum.never += s.never
		sum.lost = append(sum.lost, s.lost...)
		sum.diverged = append(sum.diverged, s.diverged...)
		sum.stale = append(sum.stale, s.stale...)
		sum.phantom = append(sum.phantom, s.phantom...)
		sum.doubled = append(sum.doubled, s.doubled...)
		sum.latencies = append(sum.latencies, s.latencies...)
	}
	found.into(&r)
	r.Stats = map[string]any{
		"attempts": int64(attempts), "acknowledged": int64(sum.acked), "recovered": int64(sum.recovered), "reads": int64(reads),
		"stable": int64(sum.stable), "lost": int64(len(sum.lost)), "diverged": int64(len(sum.diverged)), "stale": int64(len(sum.stale)),
		"never_read": int64(sum.never), "duplicated": int64(len(sum.doubled)), "unexpected": int64(len(sum.phantom)),
	}
	if q := quantiles(sum.latencies); q != nil {
		r.Stats["stable_latency"] = q
	}
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{len(sum.lost), "lost"}, {len(sum.diverged), "missing at some nodes"}, {len(sum.phantom), "unexpected"}, {len(sum.doubled), "duplicated"}, {len(sum.stale), "stale for a while"}, {sum.never, "added after the last read"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	r.Summary = fmt.Sprintf("of %d acknowledged elements %d are stable", sum.acked, sum.stable)
	if sum.recovered > 0 {
		r.Summary += fmt.Sprintf(" (with %d of unknown outcome that showed)", sum.recovered)
	}
	if len(parts) > 0 {
		r.Summary += ", " + strings.Join(parts, ", ")
	}
	switch {
	case found.total > 0:
		r.Verdict = Invalid
	case attempts == 0 || sum.acked+sum.recovered == 0:
		r.Verdict, r.Summary = Unknown, "nothing was added, so nothing is shown"
	case reads == 0:
		r.Verdict, r.Summary = Unknown, "nothing was read, so nothing is shown"
	case sum.stable == 0:
		r.Verdict = Unknown
		r.Summary += ": nothing is shown"
	}
	return r
}

// collect takes the calls in. It returns what is wrong with them, if anything is.
func (s *setCheck) collect(ctx context.Context, calls []*history.Call) string {
	var lastAdd int64 = math.MinInt64
	for _, c := range calls {
		switch c.Invoke.F {
		case "add":
			lastAdd = max(lastAdd, int64(c.Invoke.Time))
			if c.Complete.Index >= 0 {
				lastAdd = max(lastAdd, int64(c.Complete.Time))
			}
			s.added(c)
		case "read":
			if c.Complete.Type == history.OK {
				s.reads = append(s.reads, setReads{call: c, start: int64(c.Invoke.Time)})
			}
		default:
			return fmt.Sprintf("%s (index %d) is no call on a set: want add and read", c.Invoke.F, c.Invoke.Index)
		}
	}
	slices.SortStableFunc(s.reads, func(a, b setReads) int { return cmp.Compare(a.start, b.start) })
	last := map[string]int32{}
	var nodes []string
	for i := range s.reads {
		if ctx.Err() != nil {
			return ""
		}
		r := &s.reads[i]
		list, ok := listOf(r.call.Complete.Value)
		if !ok {
			return fmt.Sprintf("a read (index %d) returned %s, want a list", r.call.Complete.Index, say(r.call.Complete.Value))
		}
		s.read(int32(i), r, list)
		if r.start > lastAdd {
			node := cmp.Or(r.call.Complete.Node, r.call.Invoke.Node)
			if _, ok := last[node]; !ok {
				nodes = append(nodes, node)
			}
			last[node] = int32(i)
		}
	}
	slices.SortFunc(nodes, compareNames)
	for _, n := range nodes {
		s.finals = append(s.finals, last[n])
	}
	return ""
}

func (s *setCheck) find(v any) int32 {
	v = ident(v)
	id, ok := s.ids[v]
	if !ok {
		id = int32(len(s.elements))
		s.ids[v] = id
		s.elements = append(s.elements, element{value: v, start: math.MaxInt64, known: math.MaxInt64, present: -1, seenIn: -1})
	}
	return id
}

func (s *setCheck) added(c *history.Call) {
	e := &s.elements[s.find(c.Invoke.Value)]
	typ := c.Complete.Type
	if typ != history.Fail {
		e.start = min(e.start, int64(c.Invoke.Time))
	}
	rank := func(t history.Type) int {
		switch t { //nolint:exhaustive // completions only
		case history.OK:
			return 3
		case history.Info:
			return 2
		case history.Fail:
			return 1
		default:
			return 0
		}
	}
	if rank(typ) > rank(e.state) {
		e.add, e.state = c, typ
	}
	if end := int64(c.Complete.Time); typ == history.OK && end < e.known {
		e.known, e.knownBy = end, c
	}
}

func (s *setCheck) read(at int32, r *setReads, list []any) {
	r.items = make([]int32, 0, len(list))
	end := int64(r.call.Complete.Time)
	for _, v := range list {
		id := s.find(v)
		e := &s.elements[id]
		if e.seenIn == at {
			if n := len(s.doubled); n == 0 || s.doubled[n-1] != (doubled{id, at}) {
				s.doubled = append(s.doubled, doubled{id, at})
			}
			continue
		}
		e.seenIn = at
		e.has++
		e.present = at
		r.items = append(r.items, id)
		if end < e.known {
			e.known, e.knownBy = end, r.call
		}
		if end < e.start && !e.phantom { // it may have been added later, failed, or nobody did
			e.phantom = true
			s.phantom = append(s.phantom, id)
		}
	}
}

// judge finds what became of each element.
func (s *setCheck) judge() {
	n := int32(len(s.reads))
	for j := n - 1; j >= 0; j-- {
		for _, id := range s.reads[j].items {
			e := &s.elements[id]
			if e.suffix == n-1-j {
				e.suffix++
			}
			if s.reads[j].start > e.known {
				e.late++
			}
		}
	}
	for _, f := range s.finals {
		for _, id := range s.reads[f].items {
			s.elements[id].finals++
		}
	}
	for i := range s.elements {
		e := &s.elements[i]
		if e.add == nil || e.state == history.Fail {
			continue
		}
		if e.state == history.OK {
			s.acked++
		} else if e.has > 0 {
			s.recovered++
		}
		if e.known == math.MaxInt64 {
			continue // nobody can tell whether it was added
		}
		after := n - s.firstAfter(e.known) // reads that began when it was known
		absent := n - 1 - e.suffix         // the last read without it
		missed := absent >= 0 && s.reads[absent].start > e.known
		switch {
		case len(s.finals) > 0 && e.finals == 0, len(s.finals) == 0 && missed && e.present < absent:
			s.lost = append(s.lost, e)
			continue
		case len(s.finals) > 0 && int(e.finals) < len(s.finals):
			s.diverged = append(s.diverged, e)
			continue
		case e.has == 0 && after == 0:
			s.never++
			continue
		case e.late < after:
			s.stale = append(s.stale, e)
		}
		s.stable++
		late := time.Duration(0)
		if missed {
			late = time.Duration(s.reads[absent].start - e.known)
		}
		s.latencies = append(s.latencies, late)
	}
	early := func(a, b *element) int { return cmp.Or(cmp.Compare(a.known, b.known), compareIdents(a.value, b.value)) }
	slices.SortFunc(s.lost, early)
	slices.SortFunc(s.diverged, early)
	slices.SortFunc(s.stale, early)
}

// firstAfter is the first read that began after t.
func (s *setCheck) firstAfter(t int64) int32 {
	return int32(sort.Search(len(s.reads), func(i int) bool { return s.reads[i].start > t }))
}

func (s *setCheck) explain(found *findings, strict bool) {
	found.some(len(s.lost), func(i int) {
		e := s.lost[i]
		gone := &s.reads[s.missing(e)]
		ops, line := s.history(e)
		ops = append(ops, gone.call.Invoke.Index, gone.call.Complete.Index)
		if e.has > 0 {
			last := &s.reads[e.present]
			ops = append(ops, last.call.Complete.Index)
			line += fmt.Sprintf(", last read by %s %s (index %d)", who(last.call), span(last.call), last.call.Complete.Index)
		} else {
			line += ", was never read"
		}
		found.add(ops, "%slost: %s, and is missing from what %s read %s (index %d)", of(s.key), line, who(gone.call), span(gone.call), gone.call.Complete.Index)
	})
	found.some(len(s.diverged), func(i int) {
		e := s.diverged[i]
		var with, without *history.Call
		for _, f := range s.finals {
			if c := s.reads[f].call; slices.Contains(s.reads[f].items, s.ids[e.value]) {
				with = c
			} else {
				without = c
			}
		}
		ops, line := s.history(e)
		found.add(append(ops, with.Complete.Index, without.Complete.Index), "%sdiverged: %s; in the end %s reads it (index %d) and %s does not (index %d)",
			of(s.key), line, who(with), with.Complete.Index, who(without), without.Complete.Index)
	})
	found.some(len(s.phantom), func(i int) {
		e := &s.elements[s.phantom[i]]
		line := fmt.Sprintf("%sunexpected: %s was read by %s %s (index %d)", of(s.key), say(e.value), who(e.knownBy), span(e.knownBy), e.knownBy.Complete.Index)
		switch {
		case e.add == nil:
			found.add([]int{e.knownBy.Complete.Index}, "%s, which nobody had added", line)
		case e.state == history.Fail:
			found.add([]int{e.knownBy.Complete.Index, e.add.Complete.Index}, "%s, whose add by %s was answered as failed (index %d)", line, who(e.add), e.add.Complete.Index)
		default:
			found.add([]int{e.knownBy.Complete.Index, e.add.Invoke.Index}, "%s, before %s began to add it at %s (index %d)", line, who(e.add), at(e.add.Invoke.Time), e.add.Invoke.Index)
		}
	})
	found.some(len(s.doubled), func(i int) {
		d := s.doubled[i]
		c := s.reads[d.read].call
		found.add([]int{c.Invoke.Index, c.Complete.Index}, "%sduplicated: %s read %s more than once %s (index %d)", of(s.key), who(c), say(s.elements[d.element].value), span(c), c.Complete.Index)
	})
	if !strict {
		return
	}
	found.some(len(s.stale), func(i int) {
		e := s.stale[i]
		gone := s.reads[s.missing(e)].call
		ops, line := s.history(e)
		found.add(append(ops, gone.Invoke.Index, gone.Complete.Index), "%sstale: %s, but is missing from what %s read %s (index %d)", of(s.key), line, who(gone), span(gone), gone.Complete.Index)
	})
}

// missing is a read that misses an element which is known to be there: the first
// after which none has it, or else the first.
func (s *setCheck) missing(e *element) int32 {
	first := s.firstAfter(e.known)
	if n := int32(len(s.reads)); e.suffix == 0 && e.present+1 < n {
		return max(first, e.present+1)
	}
	for j := first; ; j++ {
		if !slices.Contains(s.reads[j].items, s.ids[e.value]) {
			return j
		}
	}
}

// history is how an element came to be known.
func (s *setCheck) history(e *element) ([]int, string) {
	if e.state == history.OK {
		return []int{e.add.Invoke.Index, e.add.Complete.Index}, fmt.Sprintf("%s was added by %s until %s (index %d)", say(e.value), who(e.add), at(e.add.Complete.Time), e.add.Complete.Index)
	}
	return []int{e.add.Invoke.Index, e.knownBy.Complete.Index}, fmt.Sprintf("%s, whose add has an unknown outcome (index %d), was read by %s until %s (index %d)",
		say(e.value), e.add.Invoke.Index, who(e.knownBy), at(e.knownBy.Complete.Time), e.knownBy.Complete.Index)
}
