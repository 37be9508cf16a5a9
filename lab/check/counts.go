package check

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast.dev/lab/history"
)

// Stats guards against histories that show nothing: Unknown unless every
// function that was called succeeded at least once. It never is Invalid.
type Stats struct {
	// Least is how many calls of each function must have succeeded. Default: 1.
	Least int
}

type outcomes struct {
	calls, ok, fail, info int
	errors                map[string]int
}

func (o *outcomes) count(c *history.Call) {
	o.calls++
	switch c.Complete.Type {
	case history.OK:
		o.ok++
		return
	case history.Fail:
		o.fail++
	case history.Info, history.Invoke:
		o.info++
	}
	if e := c.Complete.Error; e != "" {
		o.errors[shorten(e)]++
	}
}

func (o *outcomes) stats() map[string]any {
	m := map[string]any{"calls": int64(o.calls), "ok": int64(o.ok), "fail": int64(o.fail), "info": int64(o.info)}
	if o.calls > 0 {
		m["ok_rate"] = float64(o.ok) / float64(o.calls)
	}
	if len(o.errors) > 0 {
		const most = 8
		names := slices.SortedFunc(maps.Keys(o.errors), func(a, b string) int {
			if d := o.errors[b] - o.errors[a]; d != 0 {
				return d
			}
			return strings.Compare(a, b)
		})
		errs := map[string]any{}
		for _, name := range names[:min(most, len(names))] {
			errs[name] = int64(o.errors[name])
		}
		m["errors"] = errs
	}
	return m
}

// Check counts the calls by function and outcome.
func (s Stats) Check(ctx context.Context, h history.History) Result {
	const name = "stats"
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	all := outcomes{errors: map[string]int{}}
	by := map[string]*outcomes{}
	var first, last time.Duration
	for i := range calls {
		c := &calls[i]
		if by[c.Invoke.F] == nil {
			by[c.Invoke.F] = &outcomes{errors: map[string]int{}}
		}
		by[c.Invoke.F].count(c)
		all.count(c)
		if i == 0 || c.Invoke.Time < first {
			first = c.Invoke.Time
		}
		last = max(last, c.Invoke.Time)
		if c.Complete.Index >= 0 {
			last = max(last, c.Complete.Time)
		}
	}
	fs := slices.Sorted(maps.Keys(by))
	r := Result{Checker: name, Verdict: Valid, Stats: all.stats()}
	perF := map[string]any{}
	var found findings
	for _, f := range fs {
		perF[f] = by[f].stats()
		if o := by[f]; o.ok < max(s.Least, 1) {
			found.add(nil, "%s succeeded %s in %s (%d failed, %d unknown): what it would have shown is not known", f, times(o.ok), plural(o.calls, "call"), o.fail, o.info)
		}
	}
	r.Stats["by_f"] = perF
	r.Stats["seconds"] = (last - first).Seconds()
	if last > first {
		r.Stats["calls_per_second"] = float64(all.calls) / (last - first).Seconds()
	}
	r.Summary = fmt.Sprintf("%s of %s: %d ok, %d failed, %d unknown", plural(all.calls, "call"), plural(len(fs), "function"), all.ok, all.fail, all.info)
	if all.calls == 0 {
		r.Verdict, r.Summary = Unknown, "no client called anything"
	}
	if found.total > 0 {
		r.Verdict = Unknown
		r.Summary += fmt.Sprintf("; too little of %s to judge by", plural(found.total, "function"))
	}
	found.into(&r)
	return r
}

func times(n int) string {
	switch n {
	case 0:
		return "never"
	case 1:
		return "once"
	default:
		return fmt.Sprintf("%d times", n)
	}
}

// Counter checks that reads of a counter are possible: not less than what was
// certainly added when the read began, with all that may have been taken away by
// its end, and not more than the other way round. Calls are add, with a whole
// number that may be negative, and read, whose completion has the sum; counters
// of different keys are apart. Adds of unknown outcome may count from their
// beginning on. If nothing is ever taken away, a read that begins after
// another ended must not return less. The bounds are necessary, not sufficient: a
// counter within them need not be linearizable.
type Counter struct {
	// Initial is the sum before anything is added.
	Initial int64
}

// Check judges the history.
func (c Counter) Check(ctx context.Context, h history.History) Result {
	const name = "counter"
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	keys, groups := byKey(calls)
	r := Result{Checker: name, Verdict: Valid}
	var found findings
	var adds, unsure, reads int
	var slack int64
	for _, k := range keys {
		s := sums{key: k, initial: c.Initial}
		if wrong := s.collect(groups[k]); wrong != "" {
			return unknown(name, "%s%s", of(k), wrong)
		}
		s.judge(&found)
		if ctx.Err() != nil {
			return interrupted(ctx, name)
		}
		adds += s.ok
		unsure += s.unsure
		reads += len(s.reads)
		slack = max(slack, s.slack)
	}
	found.into(&r)
	r.Stats = map[string]any{
		"adds_ok": int64(adds), "adds_unknown": int64(unsure), "reads": int64(reads),
		"widest_bounds": slack, "violations": int64(found.total),
	}
	switch {
	case found.total > 0:
		r.Verdict = Invalid
		r.Summary = fmt.Sprintf("%s of %s returned a sum that is not possible", plural(found.total, "time"), plural(reads, "read"))
	case reads == 0:
		r.Verdict, r.Summary = Unknown, "nothing was read, so nothing is shown"
	case adds+unsure == 0:
		r.Verdict, r.Summary = Unknown, "nothing was added, so nothing is shown"
	default:
		r.Summary = fmt.Sprintf("%s are within the bounds of %s (%d of unknown outcome)", plural(reads, "read"), plural(adds+unsure, "add"), unsure)
	}
	return r
}

type sums struct {
	key        string
	initial    int64
	edges      []edge
	reads      []sumRead
	ok, unsure int
	slack      int64
	falling    bool // something was taken away
}

// An edge is when a bound changes. What lowers the lower bound or raises the
// upper one does so when the add begins, the other when it has ended.
type edge struct {
	at        int64
	low, high int64
	ended     bool
}

type sumRead struct {
	call       *history.Call
	start, end int64
	sum        int64
}

func (s *sums) collect(calls []*history.Call) string {
	for _, c := range calls {
		switch c.Invoke.F {
		case "add":
			n, ok := whole(c.Invoke.Value)
			if !ok {
				return fmt.Sprintf("an add (index %d) is of %s, want a whole number", c.Invoke.Index, say(c.Invoke.Value))
			}
			if c.Complete.Type == history.Fail {
				continue
			}
			begun := edge{at: int64(c.Invoke.Time)}
			ended := edge{at: int64(c.End()), ended: true}
			if n < 0 {
				begun.low, ended.high = n, n
				s.falling = true
			} else {
				begun.high, ended.low = n, n
			}
			s.edges = append(s.edges, begun)
			if c.Complete.Type == history.OK {
				s.ok++
				s.edges = append(s.edges, ended)
			} else {
				s.unsure++
			}
		case "read":
			if c.Complete.Type != history.OK {
				continue
			}
			n, ok := whole(c.Complete.Value)
			if !ok {
				return fmt.Sprintf("a read (index %d) returned %s, want a whole number", c.Complete.Index, say(c.Complete.Value))
			}
			s.reads = append(s.reads, sumRead{call: c, start: int64(c.Invoke.Time), end: int64(c.Complete.Time), sum: n})
		default:
			return fmt.Sprintf("%s (index %d) is no call on a counter: want add and read", c.Invoke.F, c.Invoke.Index)
		}
	}
	return ""
}

// judge compares each read with its bounds: edges of adds that ended count if they
// are before the read began, edges of adds that began if they are not after it
// ended.
func (s *sums) judge(found *findings) {
	type bounds struct{ low, high int64 }
	all := make([]bounds, len(s.reads))
	slices.SortFunc(s.reads, func(a, b sumRead) int { return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end)) })
	slices.SortFunc(s.edges, func(a, b edge) int { return cmp.Compare(a.at, b.at) })
	byEnd := make([]int, len(s.reads))
	for i := range byEnd {
		byEnd[i] = i
	}
	slices.SortStableFunc(byEnd, func(a, b int) int { return cmp.Compare(s.reads[a].end, s.reads[b].end) })

	now, next := bounds{s.initial, s.initial}, 0
	for i, r := range s.reads {
		for ; next < len(s.edges) && s.edges[next].at < r.start; next++ {
			if e := s.edges[next]; e.ended {
				now.low += e.low
				now.high += e.high
			}
		}
		all[i] = now
	}
	now, next = bounds{}, 0
	for _, i := range byEnd {
		for ; next < len(s.edges) && s.edges[next].at <= s.reads[i].end; next++ {
			if e := s.edges[next]; !e.ended {
				now.low += e.low
				now.high += e.high
			}
		}
		all[i].low += now.low
		all[i].high += now.high
		s.slack = max(s.slack, all[i].high-all[i].low)
	}

	// The greatest sum among the reads that ended before this one began.
	var most *sumRead
	ended := 0
	for i := range s.reads {
		r := &s.reads[i]
		for ; ended < len(byEnd) && s.reads[byEnd[ended]].end < r.start; ended++ {
			if e := &s.reads[byEnd[ended]]; most == nil || e.sum > most.sum {
				most = e
			}
		}
		b := all[i]
		ops := []int{r.call.Invoke.Index, r.call.Complete.Index}
		line := fmt.Sprintf("%s%s read %d %s (index %d)", of(s.key), who(r.call), r.sum, span(r.call), r.call.Complete.Index)
		switch {
		case r.sum < b.low:
			found.add(ops, "%s, but at least %d had been added", line, b.low)
		case r.sum > b.high:
			found.add(ops, "%s, but at most %d can have been added", line, b.high)
		case !s.falling && most != nil && most.sum > r.sum:
			found.add(append(ops, most.call.Complete.Index), "%s, but %s had read %d until %s (index %d), and nothing was taken away", line, who(most.call), most.sum, at(most.call.Complete.Time), most.call.Complete.Index)
		}
	}
}

// UniqueIDs checks that no identifier was given out twice. The call is generate,
// whose completion has the identifier; those of different keys are apart. Calls
// that did not succeed gave none out.
type UniqueIDs struct{}

// Check judges the history.
func (UniqueIDs) Check(ctx context.Context, h history.History) Result {
	const name = "unique-ids"
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	type id struct {
		key   string
		value any
	}
	given := map[id]*history.Call{}
	again := map[id]int{}
	var found findings
	var attempts, ok int
	var least, most any
	for i := range calls {
		c := &calls[i]
		if i%ctxEvery == 0 && ctx.Err() != nil {
			return interrupted(ctx, name)
		}
		if c.Invoke.F != "generate" {
			return unknown(name, "%s (index %d) does not make an identifier: want generate", c.Invoke.F, c.Invoke.Index)
		}
		attempts++
		if c.Complete.Type != history.OK {
			continue
		}
		ok++
		k := id{c.Invoke.Key, ident(c.Complete.Value)}
		if ok == 1 || compareIdents(k.value, least) < 0 {
			least = k.value
		}
		if ok == 1 || compareIdents(k.value, most) > 0 {
			most = k.value
		}
		first := given[k]
		if first == nil {
			given[k] = c
			continue
		}
		again[k]++
		found.add([]int{first.Complete.Index, c.Complete.Index}, "%s%s was given to %s %s (index %d) and again to %s %s (index %d)",
			of(k.key), say(k.value), who(first), span(first), first.Complete.Index, who(c), span(c), c.Complete.Index)
	}
	r := Result{Checker: name, Verdict: Valid, Stats: map[string]any{
		"attempts": int64(attempts), "acknowledged": int64(ok), "duplicated": int64(len(again)),
	}}
	found.into(&r)
	switch {
	case found.total > 0:
		r.Verdict, r.Summary = Invalid, fmt.Sprintf("%s of %d given out more than once", plural(len(again), "identifier"), ok)
	case ok == 0:
		r.Verdict, r.Summary = Unknown, "no identifier was given out, so nothing is shown"
	default:
		r.Stats["least"], r.Stats["most"] = say(least), say(most)
		r.Summary = fmt.Sprintf("%s, no two alike", plural(ok, "identifier"))
	}
	return r
}

// Window is a time in which a fault was at work, from its injection to its
// removal, both included.
type Window struct{ From, To time.Duration }

// Exposure is how much of a history a set of faults can have touched.
type Exposure struct {
	Calls      int            `json:"calls"`
	Concurrent int            `json:"concurrent"` // calls that overlap a window
	Begun      int            `json:"begun"`      // calls that began in one
	ByF        map[string]int `json:"by_f"`       // of the concurrent ones
	Outside    float64        `json:"outside"`    // share of calls outside all windows that succeeded
	Inside     float64        `json:"inside"`     // share of concurrent calls that succeeded
}

// Share is the part of the calls that overlap a window: 0 if there are none.
func (e Exposure) Share() float64 {
	if e.Calls == 0 {
		return 0
	}
	return float64(e.Concurrent) / float64(e.Calls)
}

// Exposed counts the clients' calls that were open while a fault was at work. A
// run of which next to none were shows nothing about the fault. Calls of
// unknown outcome are open until they were given up, or else to the end. Windows may
// overlap and be in any order.
func Exposed(h history.History, windows []Window) (Exposure, error) {
	e := Exposure{ByF: map[string]int{}}
	calls, err := h.Calls()
	if err != nil {
		return e, err
	}
	ws := slices.SortedFunc(slices.Values(windows), func(a, b Window) int { return cmp.Compare(a.From, b.From) })
	var joined []Window
	for _, w := range ws {
		switch n := len(joined); {
		case w.To < w.From:
		case n > 0 && w.From <= joined[n-1].To:
			joined[n-1].To = max(joined[n-1].To, w.To)
		default:
			joined = append(joined, w)
		}
	}
	var okIn, okOut int
	for i := range calls {
		c := &calls[i]
		e.Calls++
		ok := c.Complete.Type == history.OK
		// The first window that ends after the call began.
		n, _ := slices.BinarySearchFunc(joined, c.Invoke.Time, func(w Window, t time.Duration) int {
			if w.To < t {
				return -1
			}
			return 1
		})
		if n == len(joined) || joined[n].From > c.Complete.Time {
			if ok {
				okOut++
			}
			continue
		}
		e.Concurrent++
		e.ByF[c.Invoke.F]++
		if joined[n].From <= c.Invoke.Time {
			e.Begun++
		}
		if ok {
			okIn++
		}
	}
	if out := e.Calls - e.Concurrent; out > 0 {
		e.Outside = float64(okOut) / float64(out)
	}
	if e.Concurrent > 0 {
		e.Inside = float64(okIn) / float64(e.Concurrent)
	}
	return e, nil
}

// NemesisWindows are the times between the nemesis's own operations in a history
// of Jepsen's kind: from one called start, or start-X, to the next called stop,
// or stop-X; heal, resume, restart and recover end everything that is open. A
// window without an end lasts to the end of the history.
func NemesisWindows(h history.History) []Window {
	var windows []Window
	open := map[string]time.Duration{}
	var last time.Duration
	for i := range h {
		op := &h[i]
		last = max(last, op.Time)
		if op.Process != history.Nemesis {
			continue
		}
		verb, what, _ := strings.Cut(op.F, "-")
		switch verb {
		case "start":
			if _, ok := open[what]; !ok {
				open[what] = op.Time
			}
		case "stop":
			if from, ok := open[what]; ok {
				windows = append(windows, Window{from, op.Time})
				delete(open, what)
			}
		case "heal", "resume", "restart", "recover":
			for _, from := range open {
				windows = append(windows, Window{from, op.Time})
			}
			clear(open)
		}
	}
	for _, from := range open {
		windows = append(windows, Window{from, last})
	}
	slices.SortFunc(windows, func(a, b Window) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	return windows
}
