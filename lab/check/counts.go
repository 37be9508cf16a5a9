package check

import (
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
