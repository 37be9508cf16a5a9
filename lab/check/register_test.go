package check_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/anishathalye/porcupine"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

func TestRegister(t *testing.T) {
	expectAll(t, check.Register{}.Check, []expect{
		{"in turn", check.Valid, "2 reads and 2 writes on 1 key", `
			0 write x 1 0-1
			1 read x 1 2-3
			0 write x 2 4-5
			1 read x 2 6-7`},
		{"initial value", check.Valid, "", `
			1 read x null 0-1
			0 write x 1 0-9
			1 read x 1 3-4`},
		{"stale read", check.Invalid, `key x: process 2 at n3 read 1 from 0.006s to 0.007s (index 6), after process 0 at n1 had written 2 until 0.005s (index 5); 1 is the older: written by process 0 at n1 until 0.001s (index 1), before process 0 at n1 began to write 2 at 0.004s (index 4)`, `
			0 write x 1 0-1
			1 read x 1 2-3
			0 write x 2 4-5
			2 read x 1 6-7`},
		{"initial value comes back", check.Invalid, `process 1 at n2 read null from 0.003s to 0.004s (index 2), after process 0 at n1 had written 1 until 0.001s (index 1); null is the initial value`, `
			0 write x 1 0-1
			1 read x null 3-4
			1 read x 1 5-6`},
		{"two reads disagree on the order", check.Invalid, "read 1", `
			0 write x 1 0-9
			1 write x 2 0-9
			2 read x 2 1-2
			2 read x 1 3-4
			3 read x 1 1-2
			3 read x 2 3-4`},
		{"forward zones overlap", check.Invalid, "read 2 from 0.008s", `
			0 write x 1 0-1
			1 write x 2 2-3
			2 read x 1 6-7
			2 read x 2 8-9`},
		{"touching calls are concurrent", check.Valid, "", `
			0 write x 1 0-1
			0 write x 2 2-3
			1 read x 1 3-4`},
		{"nobody wrote it", check.Invalid, "read 7 from 0.002s to 0.003s (index 2), which nobody had written; 2 reads returned it", `
			0 write x 1 0-1
			1 read x 7 2-3
			1 read x 7 4-5`},
		{"another key's value", check.Invalid, "key y: process 1 at n2 read 1", `
			0 write x 1 0-1
			1 read y 1 2-3`},
		{"failed write read", check.Invalid, "whose write by process 0 at n1 was answered as failed (index 1)", `
			0 write x 1 0-1 fail
			1 read x 1 2-3`},
		{"failed write not read", check.Valid, "", `
			0 write x 1 0-1 fail
			0 write x 2 2-3
			1 read x 2 4-5`},
		{"failed and written again", check.Valid, "", `
			0 write x 1 0-1 fail
			0 write x 1 2-3
			1 read x 1 4-5`},
		{"read from the future", check.Invalid, "before process 0 at n1 began to write it at 0.004s", `
			1 read x 1 0-1
			0 write x 1 4-5
			1 read x 1 6-7`},
		{"unknown write takes effect late", check.Valid, "", `
			0 write x 1 0-1 info
			1 write x 2 2-3
			2 read x 2 4-5
			2 read x 1 6-7`},
		{"unknown write takes effect twice", check.Invalid, "read 1 from 0.008s", `
			0 write x 1 0-1 info
			2 read x 1 2-3
			1 write x 2 4-5
			2 read x 2 6-7
			2 read x 1 8-9`},
		{"unknown write without completion", check.Valid, "", `
			0 write x 1 0-?
			1 read x null 100-101
			1 read x 1 102-103`},
		{"unknown and failed reads are ignored", check.Valid, "", `
			0 write x 1 0-1
			0 write x 2 2-3
			1 read x 1 4-5 info
			2 read x 1 4-5 fail
			3 read x 1 4-?
			4 read x 2 4-5`},
		{"duplicate values", check.Unknown, "key x: 1 is written twice (index 0 and 2)", `
			0 write x 1 0-1
			0 write x 1 2-3
			1 read x 1 4-5`},
		{"writing the initial value", check.Unknown, "also the initial value", `
			0 write x null 0-1
			1 read x null 4-5`},
		{"same value in two keys", check.Valid, "2 keys", `
			0 write x 1 0-1
			0 write y 1 2-3
			1 read x 1 4-5
			1 read y 1 6-7`},
		{"values of any type", check.Invalid, `read ["a",1]`, `
			0 write x ["a",1] 0-1
			0 write x {"a":[1]} 2-3
			1 read x {"a":[1]} 4-5
			1 read x ["a",1] 6-7`},
		{"nothing read", check.Unknown, "nothing was read", `0 write x 1 0-1`},
		{"nothing written", check.Unknown, "nothing was written", `0 read x null 0-1`},
		{"cas", check.Unknown, "1 call of [cas]", `
			0 write x 1 0-1
			0 cas x [1,2] 2-3
			1 read x 2 4-5`},
		{"nothing", check.Unknown, "nothing", ``},
	})
	expectAll(t, check.Register{Initial: 0}.Check, []expect{
		{"other initial value", check.Valid, "", `
			1 read x 0 0-1
			0 write x 1 2-3
			1 read x 1 4-5`},
		{"not that", check.Invalid, "read null", `
			1 read x null 0-1
			0 write x 1 2-3`},
	})
}

func TestRegisterManyViolations(t *testing.T) {
	var calls []call
	for i := range int64(100) {
		calls = append(calls, call{process: 0, f: "write", key: fmt.Sprint("k", i%7), in: i, out: i, start: 10 * i, end: 10*i + 1, outcome: history.OK})
		calls = append(calls, call{process: 1, f: "read", key: fmt.Sprint("k", i%7), out: i - 7, start: 10*i + 2, end: 10*i + 3, outcome: history.OK})
	}
	h := recorded(calls)
	r := check.Register{}.Check(t.Context(), h)
	sound(t, h, r)
	if r.Verdict != check.Invalid || len(r.Witness) != 10 || r.Witness[9] != "… and 91 more" || r.Stats["violations"] != int64(100) {
		t.Errorf("%+v", r)
	}
	stops(t, check.Register{}.Check, h)
}

// Without times the order of the lines is all there is.
func TestRegisterWithoutTimes(t *testing.T) {
	for text, want := range map[string]check.Verdict{
		"0 write x 1 0-1\n0 write x 2 2-3\n1 read x 1 4-5": check.Invalid,
		"0 write x 1 0-1\n0 write x 2 2-9\n1 read x 1 4-5": check.Valid,
	} {
		h := parse(t, text)
		for i := range h {
			h[i].Time = 0
		}
		r := check.Register{}.Check(t.Context(), h)
		sound(t, h, r)
		if r.Verdict != want || (check.CAS{}).Check(t.Context(), h).Verdict != want {
			t.Errorf("%s\n%+v, want %s", text, r, want)
		}
	}
}

// registerModel is what porcupine needs to know of registers.
var registerModel = porcupine.Model{
	Init: func() any { return nil },
	Step: func(state, input, output any) (bool, any) {
		if in := input.(call); in.f == "write" {
			return true, in.in
		}
		return output == state, state
	},
}

// porcupineSays judges the calls on one register.
func porcupineSays(calls []call) bool {
	var ops []porcupine.Operation
	for _, c := range calls {
		op := porcupine.Operation{ClientId: c.process, Input: c, Call: c.start, Return: c.end, Output: c.out}
		switch {
		case c.outcome == history.Fail, c.f == "read" && c.outcome != history.OK:
			continue
		case c.outcome != history.OK:
			op.Return = math.MaxInt64
		}
		ops = append(ops, op)
	}
	return porcupine.CheckOperations(registerModel, ops)
}

// someRegister is a random history of one register with unique writes. The calls
// take effect at a random moment each; some reads then lie.
func someRegister(rnd *rand.Rand, lies float64) []call {
	const horizon = 24
	n := 2 + rnd.IntN(9)
	free := make([]int64, 1+rnd.IntN(5)) // when each process is free again
	type effect struct {
		at   float64
		call int
	}
	var calls []call
	var effects []effect
	for i := range n {
		p := rnd.IntN(len(free))
		c := call{process: p, f: "read", start: free[p] + rnd.Int64N(4)}
		c.end = c.start + rnd.Int64N(8)
		c.outcome = history.OK
		if rnd.IntN(2) == 0 {
			c.f, c.in, c.out = "write", int64(i+1), int64(i+1)
		}
		at := float64(c.start) + rnd.Float64()*float64(c.end-c.start)
		switch rnd.IntN(8) {
		case 0:
			c.outcome = history.Info
			if at = float64(c.start) + rnd.Float64()*horizon; rnd.IntN(2) == 0 {
				at = math.Inf(1) // never
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
			free[p] = math.MaxInt32 // it is stuck
		}
		if c.start >= math.MaxInt32 {
			continue
		}
		calls = append(calls, c)
		effects = append(effects, effect{at, len(calls) - 1})
	}
	var state any
	for range effects {
		first := -1
		for i, e := range effects {
			if e.call >= 0 && (first < 0 || e.at < effects[first].at) {
				first = i
			}
		}
		e := &effects[first]
		c := &calls[e.call]
		switch {
		case math.IsInf(e.at, 1):
		case c.f == "write":
			state = c.in
		default:
			c.out = state
		}
		e.call = -1
	}
	for i := range calls {
		if c := &calls[i]; c.f == "read" && rnd.Float64() < lies {
			if c.out = nil; rnd.IntN(4) > 0 {
				c.out = int64(1 + rnd.IntN(n))
			}
		}
	}
	return calls
}

// The zones and porcupine agree on small histories, legal and illegal, with
// calls of unknown outcome, in dense times.
func TestRegisterAgreesWithPorcupine(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	const histories = 24_000
	legal := 0
	for i := range histories {
		calls := someRegister(rnd, []float64{0, 0.3, 0.7}[i%3])
		h := recorded(calls)
		r := check.Register{}.Check(t.Context(), h)
		sound(t, h, r)
		want := porcupineSays(calls)
		if i%3 == 0 && !want {
			t.Fatalf("history %d should be legal:\n%+v", i, calls)
		}
		if (r.Verdict == check.Invalid) == want {
			t.Fatalf("history %d: %s, %s; porcupine says %v\n%+v", i, r.Verdict, r.Summary, want, calls)
		}
		if want {
			legal++
		}
	}
	if legal < histories/3 || legal > histories*9/10 {
		t.Errorf("%d of %d histories are legal: that is no test", legal, histories)
	}
	t.Logf("%d legal, %d illegal", legal, histories-legal)
}

// Many keys together are as good as the worst of them.
func TestRegisterKeys(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		var all []call
		want := true
		for k := range 5 {
			calls := someRegister(rnd, 0.02)
			want = want && porcupineSays(calls)
			for _, c := range calls {
				c.key = fmt.Sprint(k)
				c.process += 10 * k
				all = append(all, c)
			}
		}
		h := recorded(all)
		if r := (check.Register{}).Check(t.Context(), h); (r.Verdict == check.Invalid) == want {
			t.Fatalf("%s: %s; porcupine says %v", r.Verdict, r.Summary, want)
		}
	}
}

// bigRegister is a legal history of n calls by some clients on some keys, with
// a write of unknown outcome every hundred calls.
func bigRegister(n, clients, keys int) []call {
	rnd := rand.New(rand.NewPCG(5, 6))
	calls := make([]call, 0, n)
	state := make([]any, keys)
	free := make([]int64, clients)
	for i := range n {
		p := i % clients
		key := rnd.IntN(keys)
		c := call{process: p, f: "read", key: fmt.Sprint("r", key), outcome: history.OK}
		// Effects happen in the order of the loop, one every 10.
		at := int64(i) * 10
		c.start = min(at, max(free[p]+1, at-rnd.Int64N(20*int64(clients))))
		c.end = at + rnd.Int64N(5*int64(clients))
		free[p] = c.end
		if rnd.IntN(2) == 0 {
			c.f, c.in, c.out = "write", int64(i), int64(i)
			state[key] = int64(i)
			if i%100 == 0 {
				c.outcome = history.Info
			}
		} else {
			c.out = state[key]
		}
		calls = append(calls, c)
	}
	return calls
}

func TestRegisterBig(t *testing.T) {
	for _, keys := range []int{1, 20} {
		calls := bigRegister(4_000, 100, keys)
		h := recorded(calls)
		if r := (check.Register{}).Check(t.Context(), h); r.Verdict != check.Valid {
			t.Fatalf("%+v", r)
		}
		// One read that returns what was there long ago.
		rnd := rand.New(rand.NewPCG(7, 8))
		for range 8 {
			broken := append([]call(nil), calls...)
			for {
				i := 2_000 + rnd.IntN(2_000)
				j := rnd.IntN(1_000)
				if broken[i].f == "read" && broken[j].f == "write" && broken[i].key == broken[j].key {
					broken[i].out = broken[j].in
					break
				}
			}
			h := recorded(broken)
			r := check.Register{}.Check(t.Context(), h)
			sound(t, h, r)
			if r.Verdict != check.Invalid {
				t.Fatalf("a stale read was not found: %+v", r)
			}
		}
	}
}

func BenchmarkRegister(b *testing.B) {
	for _, n := range []int{1_000, 10_000, 100_000, 1_000_000} {
		h := recorded(bigRegister(n, 100, 20))
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if r := (check.Register{}).Check(context.Background(), h); r.Verdict != check.Valid {
					b.Fatal(r)
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "calls/s")
		})
	}
}
