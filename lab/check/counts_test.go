package check_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

func TestCounter(t *testing.T) {
	expectAll(t, check.Counter{}.Check, []expect{
		{"exact", check.Valid, "", `
			0 add - 3 0-1
			0 add - -1 2-3
			1 read - 2 4-5`},
		{"too little", check.Invalid, "process 1 at n2 read 2 from 0.004s to 0.005s (index 5), but at least 3 had been added", `
			0 add - 3 0-1
			0 add - 0 2-3
			1 read - 2 4-5`},
		{"too much", check.Invalid, "at most 3 can have been added", `
			0 add - 3 0-1
			1 read - 4 4-5`},
		{"unknown add counts or not", check.Valid, "1 of unknown outcome", `
			0 add - 1 0-1
			0 add - 3 2-3 info
			1 read - 1 4-5
			1 read - 4 6-7`},
		{"unknown negative add", check.Valid, "", `
			0 add - 1 0-1
			0 add - -3 2-3 info
			1 read - -2 4-5
			2 add - 5 4-?
			1 read - 3 6-7`},
		{"unknown add not before it began", check.Invalid, "at most 1", `
			0 add - 1 0-1
			1 read - 4 2-3
			0 add - 3 4-5 info`},
		{"failed add", check.Invalid, "at most 0", `
			0 add - 1 0-1 fail
			0 add - 0 2-3
			1 read - 1 4-5`},
		{"concurrent add", check.Valid, "", `
			0 add - 1 0-9
			1 read - 0 2-3
			1 read - 1 4-5`},
		{"touching is concurrent", check.Valid, "", `
			0 add - 1 0-2
			1 read - 0 2-3
			0 add - 1 3-4`},
		{"falls back", check.Invalid, "read 0 from 0.004s to 0.005s (index 4), but process 1 at n2 had read 1 until 0.003s (index 2), and nothing was taken away", `
			0 add - 1 0-9
			1 read - 1 2-3
			1 read - 0 4-5`},
		{"may fall where something was taken", check.Valid, "", `
			0 add - 1 0-9
			2 add - -1 0-9
			1 read - 1 2-3
			1 read - 0 4-5`},
		{"keys apart", check.Invalid, "key y: process 1", `
			0 add x 1 0-1
			1 read y 1 2-3`},
		{"nothing added", check.Unknown, "nothing was added", `1 read - 0 2-3`},
		{"nothing read", check.Unknown, "nothing was read", `1 add - 1 2-3`},
		{"no number", check.Unknown, "want a whole number", `1 add - "x" 2-3`},
		{"no number read", check.Unknown, "want a whole number", `1 read - 1.5 2-3`},
		{"other calls", check.Unknown, "reset (index 0)", `1 reset - 1 2-3`},
	})
	expectAll(t, check.Counter{Initial: 5}.Check, []expect{
		{"initial", check.Valid, "", "0 add - 1 0-1\n0 read - 6 2-3"},
		{"initial", check.Invalid, "", "0 add - 1 0-1\n0 read - 1 2-3"},
	})
}

// The bounds are those of a plain count; reads of a legal run are within them.
func TestCounterAgreesWithCount(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	invalid := 0
	for i := range 2000 {
		var calls []call
		free := make([]int64, 4)
		sum := int64(0)
		at := int64(0)
		for range 5 + rnd.IntN(25) {
			p := rnd.IntN(4)
			at++ // when it takes effect
			start := max(free[p], at-rnd.Int64N(4))
			if start > at {
				continue
			}
			c := call{process: p, f: "read", start: start, end: at + rnd.Int64N(4), outcome: history.OK}
			if rnd.IntN(2) == 0 {
				n := rnd.Int64N(7) - 2
				c.f, c.in, c.out = "add", n, n
				switch rnd.IntN(6) {
				case 0:
					c.outcome = history.Fail
				case 1:
					if c.outcome = history.Info; rnd.IntN(2) == 0 {
						sum += n
					}
				default:
					sum += n
				}
			} else {
				c.out = sum
			}
			free[p] = c.end + 1
			calls = append(calls, c)
		}
		if i%2 == 1 {
			for j := range calls {
				if c := &calls[j]; c.f == "read" && rnd.IntN(4) == 0 {
					c.out = c.out.(int64) + rnd.Int64N(9) - 4
				}
			}
		}
		want := counterCount(calls)
		h := recorded(calls)
		r := check.Counter{}.Check(t.Context(), h)
		sound(t, h, r)
		if got := r.Verdict == check.Invalid; got != want || i%2 == 0 && got {
			t.Fatalf("history %d: %+v, want invalid %v\n%+v", i, r, want, calls)
		}
		if want {
			invalid++
		}
	}
	if invalid < 200 {
		t.Errorf("only %d histories are invalid", invalid)
	}
}

func counterCount(calls []call) (invalid bool) {
	falling := slices.ContainsFunc(calls, func(c call) bool {
		return c.f == "add" && c.outcome != history.Fail && c.in.(int64) < 0
	})
	for _, r := range calls {
		if r.f != "read" {
			continue
		}
		low, high := int64(0), int64(0)
		for _, a := range calls {
			if a.f == "read" {
				if !falling && a.end < r.start && a.out.(int64) > r.out.(int64) {
					return true
				}
				continue
			}
			if a.outcome == history.Fail {
				continue
			}
			n := a.in.(int64)
			done := a.outcome == history.OK && a.end < r.start
			begun := a.start <= r.end
			if n > 0 && done || n < 0 && begun {
				low += n
			}
			if n > 0 && begun || n < 0 && done {
				high += n
			}
		}
		if r.out.(int64) < low || r.out.(int64) > high {
			return true
		}
	}
	return false
}

func TestUniqueIDs(t *testing.T) {
	expectAll(t, check.UniqueIDs{}.Check, []expect{
		{"unique", check.Valid, "3 identifiers, no two alike", `
			0 generate - null>1 0-1
			1 generate - null>2 0-1
			1 generate - null>"1" 2-3`},
		{"twice", check.Invalid, "1 was given to process 0 at n1 from 0s to 0.001s (index 2) and again to process 1 at n2 from 0s to 0.001s (index 3)", `
			0 generate - null>1 0-1
			1 generate - null>1 0-1`},
		{"with parts", check.Invalid, `[1,"n1"]`, `
			0 generate - null>[1,"n1"] 0-1
			1 generate - null>[1,"n1"] 0-1`},
		{"not given out", check.Valid, "", `
			0 generate - null>1 0-1
			1 generate - null>1 0-1 info
			2 generate - null>1 0-1 fail`},
		{"keys apart", check.Valid, "", `
			0 generate a null>1 0-1
			1 generate b null>1 0-1`},
		{"none", check.Unknown, "nothing is shown", `0 generate a null>1 0-1 fail`},
		{"other calls", check.Unknown, "read (index 0)", `0 read a 1 0-1`},
	})
	var calls []call
	for i := range int64(500) {
		calls = append(calls, call{process: int(i), f: "generate", out: i % 400, start: i, end: i + 1, outcome: history.OK})
	}
	h := recorded(calls)
	r := check.UniqueIDs{}.Check(t.Context(), h)
	sound(t, h, r)
	if r.Stats["duplicated"] != int64(100) || r.Witness[9] != "… and 91 more" || r.Stats["least"] != nil {
		t.Errorf("%+v", r)
	}
	stops(t, check.UniqueIDs{}.Check, h)
	stops(t, check.Counter{}.Check, h)
	stops(t, check.Stats{}.Check, h)
}

func TestStats(t *testing.T) {
	expectAll(t, check.Stats{}.Check, []expect{
		{"all succeed", check.Valid, "3 calls of 2 functions: 2 ok, 1 failed, 0 unknown", `
			0 read - 1 0-1
			0 write - 1 2-3
			0 write - 1 4-5 fail`},
		{"one never does", check.Unknown, "write succeeded never in 2 calls (1 failed, 1 unknown)", `
			0 read - 1 0-1
			0 write - 1 2-3 info
			0 write - 1 4-5 fail`},
		{"nothing", check.Unknown, "no client called anything", ``},
	})
	expectAll(t, check.Stats{Least: 2}.Check, []expect{
		{"too few", check.Unknown, "read succeeded once", "0 read - 1 0-1\n0 read - 1 2-3 fail"},
		{"enough", check.Valid, "", "0 read - 1 0-1\n0 read - 1 2-3"},
	})
	calls := []call{
		{f: "read", start: 0, end: 1000, outcome: history.OK},
		{process: 1, f: "read", start: 0, end: 1000, outcome: history.Info, err: "timeout"},
		{process: 2, f: "read", start: 0, end: 2000, outcome: history.Info, err: "timeout"},
		{process: 3, f: "read", start: 0, end: 1000, outcome: history.Fail, err: "refused"},
	}
	r := check.Stats{}.Check(t.Context(), recorded(calls))
	want := map[string]any{"calls": int64(4), "ok": int64(1), "fail": int64(1), "info": int64(2), "ok_rate": 0.25, "errors": map[string]any{"timeout": int64(2), "refused": int64(1)}}
	byF := r.Stats["by_f"].(map[string]any)
	if d := cmp.Diff(want, byF["read"]); d != "" || r.Stats["calls_per_second"] != 2.0 {
		t.Errorf("%s\n%+v", d, r.Stats)
	}
}

func TestExposed(t *testing.T) {
	h := parse(t, `
		0 read - 1 0-1
		0 read - 1 2-5
		0 write - 1 6-9 info
		0 read - 1 10-11
		1 write - 1 0-? `)
	ms := func(from, to int) check.Window {
		return check.Window{From: time.Duration(from) * time.Millisecond, To: time.Duration(to) * time.Millisecond}
	}
	for _, tt := range []struct {
		windows           []check.Window
		concurrent, begun int
	}{
		{nil, 0, 0},
		{[]check.Window{ms(0, 20)}, 5, 5},
		{[]check.Window{ms(5, 6)}, 3, 1},
		{[]check.Window{ms(12, 14)}, 1, 0},
		{[]check.Window{ms(8, 9), ms(3, 4), ms(3, 8)}, 3, 1},
		{[]check.Window{ms(9, 3)}, 0, 0},
	} {
		e, err := check.Exposed(h, tt.windows)
		if err != nil || e.Calls != 5 || e.Concurrent != tt.concurrent || e.Begun != tt.begun {
			t.Errorf("%v: %+v, %v; want %d concurrent, %d begun", tt.windows, e, err, tt.concurrent, tt.begun)
		}
	}
	e, err := check.Exposed(h, []check.Window{ms(5, 6)})
	if err != nil || e.Share() != 0.6 || e.Inside != 1.0/3 || e.Outside != 1 || e.ByF["write"] != 2 {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := check.Exposed(history.History{{Type: history.OK, F: "x"}}, nil); err == nil {
		t.Error("a malformed history passes")
	}
	if (check.Exposure{}).Share() != 0 {
		t.Error("a share of nothing")
	}
}

func TestNemesisWindows(t *testing.T) {
	var h history.History
	for i, f := range []string{"start-partition", "start-kill", "start-kill", "stop-partition", "heal", "stop", "start", "stop", "start-clock"} {
		h = append(h, history.Op{Index: i, Time: time.Duration(i), Process: history.Nemesis, Type: history.Info, F: f})
	}
	h = append(h, history.Op{Index: 9, Time: 20, Type: history.Invoke, F: "start-read"})
	want := []check.Window{{From: 0, To: 3}, {From: 1, To: 4}, {From: 6, To: 7}, {From: 8, To: 20}}
	if d := cmp.Diff(want, check.NemesisWindows(h)); d != "" {
		t.Error(d)
	}
}

func TestMerge(t *testing.T) {
	v := func(vs ...check.Verdict) (out []check.Result) {
		for _, v := range vs {
			out = append(out, check.Result{Verdict: v})
		}
		return out
	}
	for _, tt := range []struct {
		results []check.Result
		want    check.Verdict
	}{
		{nil, check.Unknown},
		{v(check.Valid, check.Valid), check.Valid},
		{v(check.Valid, check.Unknown), check.Unknown},
		{v(check.Unknown, check.Invalid, check.Valid), check.Invalid},
		{v(check.Valid, ""), check.Unknown},
	} {
		if got := check.Merge(tt.results...); got != tt.want {
			t.Errorf("%v: %s, want %s", tt.results, got, tt.want)
		}
	}
}

func TestGuess(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"0 read - 1 0-1\n0 write - 1 2-3", "stats register"},
		{"0 read - 1 0-1\n0 cas - [1,2] 2-3", "stats cas"},
		{"0 get k null>1 0-1\n0 put k 1 2-3", "stats kv"},
		{"0 add - 1 0-1\n0 read - [] 2-3", "stats set"},
		{"0 add - 1 0-1\n0 read - 1 2-3", "stats counter"},
		{"0 enqueue - 1 0-1\n0 drain - null>[] 2-3", "stats queue"},
		{"0 generate - null>1 0-1", "stats unique-ids"},
		{"0 something - 1 0-1", "stats"},
		{"", ""},
	} {
		h := append(parse(t, tt.text), history.Op{Index: 100, Time: time.Hour, Process: history.Nemesis, Type: history.Info, F: "cut"})
		if got := strings.Join(check.Guess(h), " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.text, got, tt.want)
		}
	}
}

// Every checker can be had by name, gives its name, says Unknown of a history that
// is malformed or empty, and ends when it is told to.
func TestNames(t *testing.T) {
	for _, name := range check.Names() {
		run, ok := check.ByName(name)
		if !ok {
			t.Fatal(name)
		}
		malformed := history.History{{Type: history.OK, F: "read"}}
		for _, h := range []history.History{nil, malformed, {{Process: history.Nemesis, Type: history.Info, F: "cut"}}} {
			r := run(t.Context(), h)
			sound(t, h, r)
			if r.Checker != name || r.Verdict != check.Unknown {
				t.Errorf("%s of %v: %+v", name, h, r)
			}
		}
		stops(t, run, parse(t, "0 read - 1 0-1"))
	}
	if _, ok := check.ByName("none"); ok {
		t.Error("none is a checker")
	}
	r := check.Safely("bad", func(context.Context, history.History) check.Result { panic("oops") })(t.Context(), nil)
	if r.Verdict != check.Unknown || r.Summary != "the checker failed: oops" {
		t.Errorf("%+v", r)
	}
}

// No checker panics or contradicts itself on whatever history.
func TestAnyHistory(t *testing.T) {
	rnd := rand.New(rand.NewPCG(9, 9))
	fs := []string{"read", "write", "cas", "add", "enqueue", "dequeue", "drain", "generate", "get", "delete"}
	values := []any{nil, int64(1), int64(2), 1.5, "x", []any{}, []any{int64(1), int64(2)}, []any{nil}, map[string]any{"a": nil}, true}
	names := check.Names()
	for range 1500 {
		var calls []call
		few := []string{fs[rnd.IntN(len(fs))], fs[rnd.IntN(len(fs))]}
		for i := range 1 + rnd.IntN(8) {
			c := call{process: i, f: few[rnd.IntN(2)], in: values[rnd.IntN(len(values))], out: values[rnd.IntN(len(values))], start: rnd.Int64N(9)}
			c.end = c.start + rnd.Int64N(5)
			c.outcome = []history.Type{history.OK, history.OK, history.Fail, history.Info, ""}[rnd.IntN(5)]
			calls = append(calls, c)
		}
		h := recorded(calls)
		for _, name := range names {
			run, _ := check.ByName(name)
			r := run(t.Context(), h)
			sound(t, h, r)
			if strings.Contains(r.Summary, "checker failed") || fmt.Sprint(r) != fmt.Sprint(run(t.Context(), h)) {
				t.Fatalf("%s: %+v\n%+v", name, r, calls)
			}
		}
	}
}

// The figures are right, too.
func TestFigures(t *testing.T) {
	for _, tt := range []struct {
		checker check.Func
		text    string
		want    map[string]any
	}{
		{check.Register{}.Check, `
			0 write x 1 0-1
			0 write x 2 2-3 info
			0 write x 3 4-5 fail
			0 write y 1 6-7
			1 read x 1 4-5
			1 read x 2 6-7
			1 read x 1 8-9
			1 read y 1 10-11 info`, map[string]any{
			"keys": int64(2), "reads": int64(4), "reads_ok": int64(3), "writes": int64(4), "writes_ok": int64(2), "writes_unknown": int64(1), "violations": int64(1),
		}},
		{check.CAS{}.Check, `
			0 write x 1 0-1
			0 cas x [1,2] 2-3
			0 cas x [2,1] 4-5 info
			1 read x 1 4-9
			2 read y null 0-1`, map[string]any{
			"keys": int64(2), "calls": int64(5), "calls_unknown": int64(1), "reads_ok": int64(2), "keys_invalid": int64(0), "keys_undecided": int64(0),
		}},
		{check.Set{}.Check, `
			0 add - 1 0-1
			0 add - 2 2-3
			0 add - 3 4-5 info
			0 add - 4 6-7 fail
			0 add - 5 8-9
			1 read - [2,3] 10-11
			1 read - [1,2,3,9,9,9] 20-21
			2 read - [1,2,3] 30-31`, map[string]any{
			"attempts": int64(5), "acknowledged": int64(3), "recovered": int64(1), "reads": int64(3), "stable": int64(3), "lost": int64(1), "diverged": int64(0),
			"stale": int64(1), "never_read": int64(0), "duplicated": int64(1), "unexpected": int64(1),
			"stable_latency": map[string]any{"p0": 0.0, "p50": 0.0, "p95": 0.009, "p99": 0.009, "p100": 0.009},
		}},
		{check.Queue{}.Check, `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			0 enqueue - 3 4-5 info
			0 enqueue - 4 6-7 fail
			0 enqueue - 5 8-9
			1 dequeue - null>2 10-11
			1 dequeue - null>1 12-13
			1 drain - null>[3,3,9] 14-15`, map[string]any{
			"attempts": int64(6), "acknowledged": int64(3), "recovered": int64(1), "delivered": int64(5), "undelivered": int64(1), "lost": int64(1), "duplicated": int64(1),
			"unexpected": int64(1), "reordered": int64(1),
			"delay": map[string]any{"p0": 0.009, "p50": 0.011, "p95": 0.013, "p99": 0.013, "p100": 0.013},
		}},
		{check.Counter{}.Check, `
			0 add - 2 0-1
			0 add - -3 2-3 info
			1 read - 2 4-5
			1 read - 9 6-7
			1 read - 9 8-9 info`, map[string]any{
			"adds_ok": int64(1), "adds_unknown": int64(1), "reads": int64(2), "widest_bounds": int64(3), "violations": int64(1),
		}},
		{check.UniqueIDs{}.Check, `
			0 generate - null>7 0-1
			0 generate - null>3 2-3
			0 generate - null 4-5 fail
			0 generate - null>5 6-7`, map[string]any{
			"attempts": int64(4), "acknowledged": int64(3), "duplicated": int64(0), "least": "3", "most": "7",
		}},
	} {
		r := tt.checker(t.Context(), parse(t, tt.text))
		delete(r.Stats, "steps")
		if d := cmp.Diff(tt.want, r.Stats); d != "" {
			t.Errorf("%s, %s: -want +got:\n%s", r.Checker, r.Summary, d)
		}
	}
}
