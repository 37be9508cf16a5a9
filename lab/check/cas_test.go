package check_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

func TestCAS(t *testing.T) {
	expectAll(t, check.CAS{}.Check, []expect{
		{"in turn", check.Valid, "4 calls on 1 key", `
			0 write x 1 0-1
			0 cas x [1,2] 2-3
			1 read x 2 4-5
			0 write x 1 6-7`},
		{"failed cas is left out", check.Valid, "", `
			0 write x 1 0-1
			0 cas x [5,2] 2-3 fail
			1 read x 1 4-5`},
		{"cas against the wrong value", check.Invalid, "swapped 5 for 2 from 0.004s to 0.005s", `
			0 write x 5 0-1
			0 write x 1 2-3
			0 cas x [5,2] 4-5
			0 write x 5 6-7`},
		{"both win", check.Invalid, "swapped 1 for", `
			0 write x 1 0-1
			0 cas x [1,2] 2-9
			1 cas x [1,3] 2-9`},
		{"both win, values repeat", check.Invalid, "the longest that was found has 2, leaves 2, and breaks off where process 1 at n2 swapped 1 for 2", `
			0 write x 1 0-1
			0 cas x [1,2] 2-9
			1 cas x [1,2] 3-9`},
		{"unknown cas happened", check.Valid, "", `
			0 write x 1 0-1
			0 cas x [1,2] 2-3 info
			1 read x 1 4-5
			1 read x 2 6-7`},
		{"unknown cas happened twice", check.Invalid, "", `
			0 write x 1 0-1
			0 cas x [1,2] 2-3 info
			1 read x 2 4-5
			1 write x 1 6-7
			1 read x 2 8-9`},
		{"unknown cas met another value", check.Valid, "", `
			0 write x 1 0-1
			0 cas x [7,2] 2-3 info
			1 read x 1 8-9`},
		{"unknown cas could not happen", check.Invalid, "process 0 at n1 must have swapped 7 for 2", `
			0 write x 1 0-1
			0 cas x [7,2] 2-3 info
			1 read x 2 8-9`},
		{"nobody wrote it", check.Invalid, "a value that nobody can have written", `
			0 write x 1 0-1
			1 read x 9 8-9`},
		{"failed write read", check.Invalid, "nobody can have written", `
			0 write x 1 0-1 fail
			1 read x 1 8-9`},
		{"stale", check.Invalid, "read 1 from 0.008s to 0.009s (index 5), after process 1 at n2 read 2 until 0.007s (index 3); 1 is the older: process 0 at n1 wrote 1 until 0.001s (index 0), before process 1 at n2 read 2 from 0.006s (index 3)", `
			0 write x 1 0-1
			0 cas x [1,2] 2-?
			1 read x 2 6-7
			1 read x 1 8-9`},
		{"the initial value comes back", check.Invalid, "null is the initial value", `
			0 write x 1 0-1
			1 read x 1 2-3
			1 read x null 8-9`},
		{"keys apart", check.Invalid, "1 key of 2", `
			0 write x 1 0-1
			0 write y 2 2-3
			1 read x 2 4-5
			1 read y 2 6-7`},
		{"bad value", check.Unknown, "want [old, new]", `0 cas x 5 0-1`},
		{"bad function", check.Unknown, "append (index 0) is no call on a register", `0 append x 5 0-1`},
		{"nothing succeeded", check.Unknown, "nothing is shown", `0 write x 5 0-1 fail`},
		{"only writes", check.Unknown, "nothing was read", `0 write x 5 0-1`},
	})
	expectAll(t, check.KV{}.Check, []expect{
		{"put, get, delete", check.Valid, "", `
			0 put x 1 0-1
			1 get x null>1 2-3
			0 delete x null 4-5
			1 get x null>null 6-7
			0 cas x [null,2] 8-9
			1 get x null>2 10-11`},
		{"deleted and back", check.Invalid, "read 1", `
			0 put x 1 0-1
			0 delete x null 4-5
			0 put x 2 6-7
			0 delete x null 8-9
			1 get x null>1 10-11`},
	})
	expectAll(t, check.CAS{Initial: 0}.Check, []expect{
		{"other initial value", check.Valid, "", `
			1 read x 0 0-1
			0 cas x [0,1] 2-3
			0 delete x null 4-5
			1 read x 0 6-7`},
	})
}

// casModel is the register with compare-and-set as a set of states: what has an
// unknown outcome happened or not.
var casModel = (&porcupine.NondeterministicModel{
	Init: func() []any { return []any{nil} },
	Step: func(state, input, output any) []any {
		c := input.(call)
		var to []any
		switch c.f {
		case "write":
			to = append(to, c.in)
		case "cas":
			if pair := c.in.([]any); pair[0] == state {
				to = append(to, pair[1])
			}
		case "read":
			if c.out == state {
				to = append(to, state)
			}
		}
		if c.outcome != history.OK && c.f != "read" {
			to = append(to, state)
		}
		return to
	},
}).ToModel()

func casLegal(calls []call) bool {
	var ops []porcupine.Operation
	for _, c := range calls {
		op := porcupine.Operation{ClientId: c.process, Input: c, Call: c.start, Return: c.end}
		switch {
		case c.outcome == history.Fail, c.f == "read" && c.outcome != history.OK:
			continue
		case c.outcome != history.OK:
			op.Return = math.MaxInt64
		}
		ops = append(ops, op)
	}
	return porcupine.CheckOperations(casModel, ops)
}

// someCAS is a random history of one register with compare-and-set. Values are
// few and repeat, or each is new.
func someCAS(rnd *rand.Rand, lies float64, unique bool) []call {
	const horizon = 24
	free := make([]int64, 1+rnd.IntN(4))
	type effect struct {
		at   float64
		call int
	}
	var calls []call
	var effects []effect
	next := int64(0)
	fresh := func() any {
		if next++; unique {
			return next
		}
		return rnd.Int64N(3)
	}
	for range 2 + rnd.IntN(9) {
		p := rnd.IntN(len(free))
		c := call{process: p, f: "read", start: free[p] + rnd.Int64N(4), outcome: history.OK}
		if c.start >= math.MaxInt32 {
			continue
		}
		c.end = c.start + rnd.Int64N(8)
		switch rnd.IntN(4) {
		case 0:
			c.f, c.in = "write", fresh()
		case 1:
			c.f, c.in = "cas", []any{nil, fresh()} // the old value when it takes effect
		}
		at := float64(c.start) + rnd.Float64()*float64(c.end-c.start)
		switch rnd.IntN(6) {
		case 0:
			c.outcome = history.Info
			if at = float64(c.start) + rnd.Float64()*horizon; rnd.IntN(2) == 0 {
				at = math.Inf(1)
			}
		case 1:
			c.outcome = ""
			at = float64(c.start) + rnd.Float64()*horizon
		case 2:
			if rnd.IntN(3) == 0 {
				c.outcome, at = history.Fail, math.Inf(1)
			}
		}
		free[p] = c.end + 1 + rnd.Int64N(2)
		if c.outcome == "" {
			free[p] = math.MaxInt32
		}
		calls = append(calls, c)
		effects = append(effects, effect{at, len(calls) - 1})
	}
	slices.SortFunc(effects, func(a, b effect) int {
		if a.at < b.at {
			return -1
		}
		return 1
	})
	var state any
	for _, e := range effects {
		c := &calls[e.call]
		happens := !math.IsInf(e.at, 1)
		switch c.f {
		case "write":
			if happens {
				state = c.in
			}
		case "cas":
			pair := c.in.([]any)
			if pair[0] = state; c.outcome != history.OK && rnd.IntN(3) == 0 {
				pair[0] = rnd.Int64N(5)
			}
			if happens && pair[0] == state {
				state = pair[1]
			}
		default:
			c.out = state
		}
	}
	for i := range calls {
		c := &calls[i]
		if rnd.Float64() >= lies {
			continue
		}
		var v any
		if rnd.IntN(4) > 0 {
			v = rnd.Int64N(max(3, next))
		}
		switch c.f {
		case "read":
			c.out = v
		case "cas":
			c.in = []any{v, c.in.([]any)[1]}
		}
	}
	for i := range calls {
		if c := &calls[i]; c.f != "read" {
			c.out = c.in
		}
	}
	return calls
}

func TestCASAgreesWithPorcupine(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	const histories = 24_000
	legal, searched := 0, 0
	for i := range histories {
		calls := someCAS(rnd, []float64{0, 0.2, 0.5}[i%3], i%2 == 0)
		h := recorded(calls)
		r := check.CAS{}.Check(t.Context(), h)
		sound(t, h, r)
		want := casLegal(calls)
		if i%3 == 0 && !want {
			t.Fatalf("history %d should be legal:\n%+v", i, calls)
		}
		if (r.Verdict == check.Invalid) == want {
			t.Fatalf("history %d: %s, %s %s; porcupine says %v\n%+v", i, r.Verdict, r.Summary, r.Witness, want, calls)
		}
		if want {
			legal++
		} else if strings.Contains(r.Witness[0], "no order") {
			searched++
		}
	}
	if legal < histories/3 || legal > histories*9/10 || searched < histories/50 {
		t.Errorf("%d of %d histories are legal, %d illegal by search: that is no test", legal, histories, searched)
	}
	t.Logf("%d legal, %d illegal, %d of them by search", legal, histories-legal, searched)
}

// crowd is a history that is too much for a search: n clients who all write few
// values at the same time, and one read that fits nowhere.
func crowd(n int) history.History {
	var calls []call
	for round := range int64(40) {
		for p := range n {
			f, v := "write", any(int64(p%3))
			if p%2 == 0 {
				f, v = "read", int64(p%3)
			}
			calls = append(calls, call{process: p, f: f, in: v, out: v, start: round * 10, end: round*10 + 9, outcome: history.OK})
		}
	}
	calls = append(calls, call{process: 0, f: "write", in: int64(7), out: int64(7), start: 1000, end: 1001, outcome: history.OK})
	calls = append(calls, call{process: 0, f: "read", out: int64(1), start: 1002, end: 1003, outcome: history.OK})
	return recorded(calls)
}

func TestCASBounds(t *testing.T) {
	h := crowd(30)
	r := check.CAS{Memory: 8 << 20}.Check(t.Context(), h)
	sound(t, h, r)
	if r.Verdict != check.Unknown || !strings.Contains(r.Witness[0], "out of memory: 1202 calls, up to 30 at once") {
		t.Errorf("%+v", r)
	}
	start := time.Now()
	r = check.CAS{Timeout: 50 * time.Millisecond}.Check(t.Context(), h)
	sound(t, h, r)
	if r.Verdict != check.Unknown || !strings.Contains(r.Witness[0], "out of time") || time.Since(start) > 5*time.Second {
		t.Errorf("%v: %+v", time.Since(start), r)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r = (check.CAS{}).Check(ctx, h); r.Verdict != check.Unknown || !strings.Contains(r.Summary, "interrupted") {
		t.Errorf("%+v", r)
	}
	stops(t, check.CAS{}.Check, h)
	stops(t, check.KV{}.Check, h)

	// What is found on another key stands.
	worse := append(slices.Clone(h), parse(t, `
		900 write z 1 0-1
		900 read z 2 2-3`)...)
	for i := range worse {
		worse[i].Index = i
	}
	if r := (check.CAS{Memory: 8 << 20}).Check(t.Context(), worse); r.Verdict != check.Invalid || r.Stats["keys_undecided"] != int64(1) {
		t.Errorf("%+v", r)
	}
}

// Writes of unknown outcome cost nothing where values are unique.
func TestCASUnknownWrites(t *testing.T) {
	var calls []call
	at := int64(0)
	for i := range int64(300) {
		calls = append(calls, call{process: int(i), f: "write", in: i, start: at, outcome: ""})
		if i%2 == 0 {
			calls = append(calls, call{process: 1000, f: "read", out: i, start: at + 1, end: at + 2, outcome: history.OK})
		}
		at += 3
	}
	if r := (check.CAS{}).Check(t.Context(), recorded(calls)); r.Verdict != check.Valid {
		t.Errorf("%+v", r)
	}
	calls = append(calls, call{process: 1000, f: "read", out: int64(10), start: at, end: at + 1, outcome: history.OK})
	if r := (check.CAS{}).Check(t.Context(), recorded(calls)); r.Verdict != check.Invalid {
		t.Errorf("%+v", r)
	}
}

func BenchmarkCAS(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		h := recorded(bigRegister(n, 10, n/200+1))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			for b.Loop() {
				if r := (check.CAS{}).Check(context.Background(), h); r.Verdict != check.Valid {
					b.Fatal(r)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}
