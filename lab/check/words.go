package check

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast.dev/lab/history"
)

// What the checkers share: reading values, saying what is wrong.

// maxWitness is how many lines a witness has at most.
const maxWitness = 10

// findings collects what is wrong: the first few in words, all by number.
type findings struct {
	lines []string
	ops   []int
	total int
}

// add records a finding and the indices of the operations it is about; -1
// stands for none. Call it in a deterministic order, the worst first.
func (f *findings) add(ops []int, format string, args ...any) {
	f.total++
	if len(f.lines) == maxWitness {
		return
	}
	f.lines = append(f.lines, fmt.Sprintf(format, args...))
	for _, i := range ops {
		if i >= 0 {
			f.ops = append(f.ops, i)
		}
	}
}

// some adds the first findings of a kind, so that there is room for other kinds,
// and counts the rest.
func (f *findings) some(n int, add func(i int)) {
	const most = 4
	for i := range min(n, most) {
		add(i)
	}
	f.total += max(0, n-most)
}

// full reports whether further findings are only counted.
func (f *findings) full() bool { return len(f.lines) == maxWitness }

// into makes the findings the result's witness.
func (f *findings) into(r *Result) {
	lines, more := f.lines, f.total-len(f.lines)
	if more > 0 {
		if len(lines) == maxWitness {
			lines, more = lines[:maxWitness-1], more+1
		}
		lines = append(slices.Clone(lines), fmt.Sprintf("… and %d more", more))
	}
	r.Witness = lines
	slices.Sort(f.ops)
	r.Ops = slices.Compact(f.ops)
}

// unknown is a result that decides nothing, and why.
func unknown(checker, format string, args ...any) Result {
	return Result{Checker: checker, Verdict: Unknown, Summary: fmt.Sprintf(format, args...)}
}

// interrupted is the result of a check that ctx ended.
func interrupted(ctx context.Context, checker string) Result {
	return unknown(checker, "interrupted: %v", context.Cause(ctx))
}

// callsOf is h.Calls, or the result to return instead.
func callsOf(ctx context.Context, checker string, h history.History) ([]history.Call, *Result) {
	if ctx.Err() != nil {
		r := interrupted(ctx, checker)
		return nil, &r
	}
	calls, err := h.Calls()
	if err != nil {
		r := unknown(checker, "the history is malformed: %v", err)
		return nil, &r
	}
	return calls, nil
}

// byKey groups calls by their key, in the order of the keys, keeping their
// order otherwise.
func byKey(calls []history.Call) (keys []string, groups map[string][]*history.Call) {
	groups = map[string][]*history.Call{}
	for i := range calls {
		k := calls[i].Invoke.Key
		if groups[k] == nil {
			keys = append(keys, k)
		}
		groups[k] = append(groups[k], &calls[i])
	}
	slices.SortFunc(keys, compareNames)
	return keys, groups
}

// compareNames orders names as people do: n2 before n10.
func compareNames(a, b string) int {
	tail := func(s string) (string, uint64, bool) {
		i := len(s)
		for i > 0 && s[i-1]-'0' <= 9 {
			i--
		}
		n, err := strconv.ParseUint(s[i:], 10, 64)
		return s[:i], n, err == nil
	}
	ah, an, aok := tail(a)
	bh, bn, bok := tail(b)
	if aok && bok && ah == bh && an != bn {
		return cmp.Compare(an, bn)
	}
	return cmp.Compare(a, b)
}

// composite is the identity of a value with parts.
type composite string

// ident is a comparable form of a value: equal values have equal ones.
func ident(v any) any {
	switch v := v.(type) {
	case nil, bool, int64, float64, string:
		return v
	case int:
		return int64(v)
	}
	n, err := history.Normalize(v)
	if err != nil {
		return composite(fmt.Sprintf("%#v", v))
	}
	switch n.(type) {
	case []any, map[string]any:
		b, err := json.Marshal(n) // sorts the keys of maps
		if err != nil {
			return composite(fmt.Sprintf("%#v", v))
		}
		return composite(b)
	default:
		return n
	}
}

// whole is a value as a whole number.
func whole(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case int:
		return int64(v), true
	default:
		n, ok := ident(v).(int64)
		return n, ok
	}
}

// listOf is a value as a list. nil is the empty one.
func listOf(v any) ([]any, bool) {
	switch v := v.(type) {
	case nil:
		return nil, true
	case []any:
		return v, true
	}
	n, err := history.Normalize(v)
	if err != nil {
		return nil, false
	}
	l, ok := n.([]any)
	return l, ok
}

// compareIdents orders what ident gives: by kind, then by value.
func compareIdents(a, b any) int {
	kind := func(v any) int {
		switch v.(type) {
		case nil:
			return 0
		case bool:
			return 1
		case int64, float64:
			return 2
		case string:
			return 3
		default:
			return 4
		}
	}
	if d := cmp.Compare(kind(a), kind(b)); d != 0 {
		return d
	}
	switch a := a.(type) {
	case int64:
		if b, ok := b.(int64); ok {
			return cmp.Compare(a, b)
		}
		return cmp.Compare(float64(a), b.(float64))
	case float64:
		if b, ok := b.(int64); ok {
			return cmp.Compare(a, float64(b))
		}
		return cmp.Compare(a, b.(float64))
	case string:
		return cmp.Compare(a, b.(string))
	case composite:
		return cmp.Compare(a, b.(composite))
	case bool:
		if b := b.(bool); a != b {
			if b {
				return -1
			}
			return 1
		}
	}
	return 0
}

// say is a value in words: its JSON, cut where it is long.
func say(v any) string {
	if c, ok := v.(composite); ok {
		return shorten(string(c))
	}
	b, err := json.Marshal(v)
	if err != nil {
		return shorten(fmt.Sprint(v))
	}
	return shorten(string(b))
}

func shorten(s string) string {
	const most = 60
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// at is a time in words.
func at(d time.Duration) string {
	switch {
	case d == history.Never:
		return "the end"
	case d > -time.Millisecond && d < time.Millisecond:
		return d.String()
	default:
		return strconv.FormatFloat(float64(d.Round(time.Microsecond)/time.Microsecond)/1e6, 'f', -1, 64) + "s"
	}
}

// span is the time of a call in words.
func span(c *history.Call) string {
	if c.Complete.Type == history.Info {
		return "begun at " + at(c.Invoke.Time) + ", outcome unknown"
	}
	return "from " + at(c.Invoke.Time) + " to " + at(c.Complete.Time)
}

// who is the client of a call in words.
func who(c *history.Call) string {
	node := c.Complete.Node
	if node == "" {
		node = c.Invoke.Node
	}
	if node == "" {
		return "process " + strconv.Itoa(c.Invoke.Process)
	}
	return "process " + strconv.Itoa(c.Invoke.Process) + " at " + node
}

// of names the object of a call, for the beginning of a line: "key x: ".
func of(key string) string {
	if key == "" {
		return ""
	}
	return "key " + key + ": "
}

// plural is "1 operation" or "3 operations".
func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	if stem, ok := strings.CutSuffix(what, "y"); ok && !strings.ContainsAny(stem[len(stem)-1:], "aeiou") {
		return strconv.Itoa(n) + " " + stem + "ies"
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// quantiles gives p0, p50, p95, p99 and p100 of durations, in seconds. It sorts
// what it is given.
func quantiles(ds []time.Duration) map[string]any {
	if len(ds) == 0 {
		return nil
	}
	slices.Sort(ds)
	out := map[string]any{}
	for _, q := range []struct {
		name string
		q    float64
	}{{"p0", 0}, {"p50", 0.5}, {"p95", 0.95}, {"p99", 0.99}, {"p100", 1}} {
		i := int(math.Ceil(q.q*float64(len(ds)))) - 1
		out[q.name] = ds[max(i, 0)].Seconds()
	}
	return out
}
