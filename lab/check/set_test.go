package check_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

func TestSet(t *testing.T) {
	expectAll(t, check.Set{}.Check, []expect{
		{"stays", check.Valid, "of 2 acknowledged elements 2 are stable", `
			0 add - 1 0-1
			0 add - 2 2-3
			1 read - [2,1] 4-5`},
		{"lost, never read", check.Invalid, "lost: 2 was added by process 0 at n1 until 0.003s (index 3), was never read, and is missing from what process 1 at n2 read from 0.004s to 0.005s (index 5)", `
			0 add - 1 0-1
			0 add - 2 2-3
			1 read - [1] 4-5`},
		{"lost, read before", check.Invalid, "last read by process 1 at n2 from 0.002s to 0.003s (index 3), and is missing from what process 1 at n2 read from 0.006s", `
			0 add - 1 0-1
			1 read - [1] 2-3
			0 add - 2 4-5
			1 read - [2] 6-7`},
		{"unknown add, read, then lost", check.Invalid, "1, whose add has an unknown outcome (index 0), was read by", `
			0 add - 1 0-1 info
			1 read - [1] 2-3
			0 add - 2 4-5
			1 read - [2] 6-7`},
		{"unknown add never shows", check.Valid, "of 1 acknowledged", `
			0 add - 1 0-1 info
			0 add - 2 4-5
			2 add - 3 0-?
			1 read - [2] 6-7`},
		{"unknown add shows late", check.Valid, "with 1 of unknown outcome", `
			0 add - 1 0-1 info
			0 add - 2 4-5
			1 read - [2] 6-7
			1 read - [2,1] 8-9`},
		{"failed add shows", check.Invalid, "1 was read by process 1 at n2 from 0.006s to 0.007s (index 5), whose add by process 0 at n1 was answered as failed (index 1)", `
			0 add - 1 0-1 fail
			0 add - 2 4-5
			1 read - [2,1] 6-7`},
		{"nobody added it", check.Invalid, "unexpected: 7 was read", `
			0 add - 2 4-5
			1 read - [2,7] 6-7`},
		{"read before it was added", check.Invalid, "before process 0 at n1 began to add it at 0.004s", `
			1 read - [2] 0-1
			0 add - 2 4-5
			1 read - [2] 6-7`},
		{"read before it was added, within a longer read", check.Invalid, "1 unexpected", `
			1 read - [2] 0-9
			2 read - [2] 1-2
			0 add - 2 4-5
			1 read - [2] 10-11`},
		{"twice in a read", check.Invalid, "process 1 at n2 read 2 more than once", `
			0 add - 2 4-5
			1 read - [2,2,2] 6-7`},
		{"stale", check.Valid, "1 stale for a while", `
			0 add - 1 0-1
			1 read - [] 2-3
			1 read - [1] 4-5`},
		{"concurrent read may miss it", check.Valid, "1 are stable", `
			0 add - 1 0-3
			1 read - [] 2-5
			1 read - [1] 6-7`},
		{"diverged", check.Invalid, "diverged: 1 was added by process 0 at n1 until 0.001s (index 1); in the end process 1 at n2 reads it (index 3) and process 2 at n3 does not (index 5)", `
			0 add - 1 0-1
			1 read - [1] 2-3
			2 read - [] 4-5`},
		{"a node's last read counts", check.Valid, "1 stale", `
			0 add - 1 0-1
			2 read - [] 2-3
			1 read - [1] 4-5
			2 read - [1] 6-7`},
		{"lost in the middle, no final read", check.Invalid, "lost: 1", `
			0 add - 1 0-1
			1 read - [1] 2-3
			1 read - [] 4-5
			0 add - 2 6-7`},
		{"missed once, no final read", check.Valid, "1 stale for a while, 1 added after the last read", `
			0 add - 1 0-1
			1 read - [] 2-3
			1 read - [1] 4-5
			0 add - 2 6-7`},
		{"missed by the only read, no final read", check.Invalid, "lost: 1", `
			0 add - 1 0-1
			1 read - [] 2-3
			0 add - 2 4-5`},
		{"read while it was added", check.Valid, "of 1 acknowledged elements 1 are stable", `
			0 add - 1 0-9
			1 read - [1] 2-3`},
		{"a read during the last add is not final", check.Valid, "1 stale for a while", `
			0 add - 1 0-1
			0 add - 2 2-9
			2 read - [] 4-5
			1 read - [1,2] 10-11`},
		{"stale, back, and lost", check.Invalid, "last read by process 1 at n2 from 0.004s to 0.005s (index 5), and is missing from what process 1 at n2 read from 0.006s", `
			0 add - 1 0-1
			1 read - [] 2-3
			1 read - [1] 4-5
			1 read - [] 6-7
			1 read - [] 8-9`},
		{"unknown read is ignored", check.Valid, "", `
			0 add - 1 0-1
			1 read - [1] 2-3
			1 read - [] 4-5 info
			2 read - [] 4-5 fail`},
		{"keys apart", check.Invalid, "key b: lost: 1 was added", `
			0 add a 1 0-1
			0 add b 1 2-3
			1 read a [1] 4-5
			1 read b [] 6-7`},
		{"elements of any type", check.Valid, "", `
			0 add - ["x",1] 0-1
			0 add - {"y":2} 2-3
			1 read - [{"y":2},["x",1]] 4-5`},
		{"nothing added", check.Unknown, "nothing was added", `
			0 add - 1 0-1 fail
			1 read - [] 4-5`},
		{"nothing read", check.Unknown, "nothing was read", `0 add - 1 0-1`},
		{"nothing read afterwards", check.Unknown, "nothing is shown", `
			1 read - [] 0-1
			0 add - 1 2-3`},
		{"no list", check.Unknown, "want a list", `
			0 add - 1 2-3
			1 read - 5 4-5`},
		{"other calls", check.Unknown, "remove (index 0)", `0 remove - 1 2-3`},
	})
	expectAll(t, check.Set{Strict: true}.Check, []expect{
		{"stale", check.Invalid, "stale: 1 was added by process 0 at n1 until 0.001s (index 1), but is missing from what process 1 at n2 read from 0.002s", `
			0 add - 1 0-1
			1 read - [] 2-3
			1 read - [1] 4-5`},
		{"touching is concurrent", check.Valid, "", `
			0 add - 1 0-2
			1 read - [] 2-3
			1 read - [1] 4-5`},
	})
}

// setRun is a random legal run of a set: calls take effect in order of their
// start, adds of unknown outcome or not at all.
func setRun(rnd *rand.Rand, adds, readEvery int) []call {
	var calls []call
	var have []any
	for i := range adds {
		at := int64(i) * 10
		c := call{process: rnd.IntN(5), f: "add", in: int64(i), out: int64(i), start: at, end: at + 1 + rnd.Int64N(8), outcome: history.OK}
		switch rnd.IntN(10) {
		case 0:
			c.outcome = history.Info
			if rnd.IntN(2) == 0 {
				have = append(have, c.in)
			}
		case 1:
			c.outcome = history.Fail
		default:
			have = append(have, c.in)
		}
		calls = append(calls, c)
		if i%readEvery == 0 {
			out := slices.Clone(have)
			rnd.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
			calls = append(calls, call{process: 5 + rnd.IntN(3), f: "read", out: out, start: at + 9, end: at + 9, outcome: history.OK})
		}
	}
	for p := range 3 {
		calls = append(calls, call{process: 5 + p, f: "read", out: slices.Clone(have), start: int64(adds)*10 + 5*int64(p), end: int64(adds)*10 + 4 + 5*int64(p), outcome: history.OK})
	}
	return calls
}

// Whatever is broken in a legal run is found.
func TestSetMutations(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		legal := setRun(rnd, 40+rnd.IntN(60), 1+rnd.IntN(12))
		h := recorded(legal)
		if r := (check.Set{Strict: true}).Check(t.Context(), h); r.Verdict != check.Valid {
			t.Fatalf("%+v", r)
		}
		acked := map[any]bool{}
		for _, c := range legal {
			if c.f == "add" && c.outcome == history.OK {
				acked[c.in] = true
			}
		}
		last := len(legal) - 3 // the first of the final reads
		final := legal[last].out.([]any)
		var victim any
		for !acked[victim] {
			victim = final[rnd.IntN(len(final))]
		}
		without := func(list any) []any {
			return slices.DeleteFunc(slices.Clone(list.([]any)), func(v any) bool { return v == victim })
		}
		ways := map[string]func(c []call){
			"lost": func(c []call) {
				c[last].out, c[last+1].out, c[last+2].out = without(final), without(final), without(final)
			},
			"diverged":   func(c []call) { i := last + rnd.IntN(3); c[i].out = without(final) },
			"duplicated": func(c []call) { c[last+rnd.IntN(3)].out = append(slices.Clone(final), victim) },
			"unexpected": func(c []call) { c[last+rnd.IntN(3)].out = append(slices.Clone(final), "x") },
			"stale": func(c []call) {
				var reads []int
				for i := range c[:last] {
					if c[i].f == "read" && slices.Contains(c[i].out.([]any), victim) && c[i].start > victim.(int64)*10+9 {
						reads = append(reads, i)
					}
				}
				if len(reads) == 0 { // none so early: lose it
					c[last].out, c[last+1].out, c[last+2].out = without(final), without(final), without(final)
					return
				}
				i := reads[rnd.IntN(len(reads))]
				c[i].out = without(c[i].out)
			},
			"lost for good at some time": func(c []call) {
				from := rnd.IntN(last)
				for i := range c {
					if i >= from && c[i].f == "read" {
						c[i].out = without(c[i].out)
					}
				}
			},
		}
		for _, name := range slices.Sorted(maps.Keys(ways)) {
			breakIt := ways[name]
			broken := slices.Clone(legal)
			breakIt(broken)
			h := recorded(broken)
			r := check.Set{Strict: true}.Check(t.Context(), h)
			sound(t, h, r)
			if r.Verdict != check.Invalid {
				t.Fatalf("%s of %v is not found: %+v\n%+v", name, victim, r, broken)
			}
			if n, counted := r.Stats[name].(int64); counted && name != "stale" && n != 1 {
				t.Errorf("%s: %v", name, r.Stats)
			}
		}
	}
}

// The numbers are those of a plain count.
func TestSetAgreesWithCount(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	for range 400 {
		calls := setRun(rnd, 5+rnd.IntN(12), 1+rnd.IntN(3))
		for i := range calls { // lose elements at random
			if c := &calls[i]; c.f == "read" {
				c.out = slices.DeleteFunc(c.out.([]any), func(any) bool { return rnd.IntN(6) == 0 })
			}
		}
		lost, diverged, stable, stale := setCount(calls)
		r := check.Set{}.Check(t.Context(), recorded(calls))
		got := fmt.Sprint(r.Stats["lost"], r.Stats["diverged"], r.Stats["stable"], r.Stats["stale"])
		if want := fmt.Sprint(lost, diverged, stable, stale); got != want {
			t.Fatalf("%s, want %s\n%+v", got, want, calls)
		}
	}
}

func setCount(calls []call) (lost, diverged, stable, stale int) {
	finals := calls[len(calls)-3:]
	for _, add := range calls {
		if add.f != "add" || add.outcome == history.Fail {
			continue
		}
		known := int64(-1)
		if add.outcome == history.OK {
			known = add.end
		}
		for _, r := range calls {
			if r.f == "read" && slices.Contains(r.out.([]any), add.in) && (known < 0 || r.end < known) {
				known = r.end
			}
		}
		if known < 0 {
			continue
		}
		has, missed := 0, false
		for _, r := range finals {
			if slices.Contains(r.out.([]any), add.in) {
				has++
			}
		}
		for _, r := range calls {
			missed = missed || r.f == "read" && r.start > known && !slices.Contains(r.out.([]any), add.in)
		}
		switch {
		case has == 0:
			lost++
		case has < 3:
			diverged++
		case missed:
			stale++
			stable++
		default:
			stable++
		}
	}
	return
}

func TestSetBig(t *testing.T) {
	h := recorded(setRun(rand.New(rand.NewPCG(1, 1)), 1000, 10))
	if r := (check.Set{}).Check(t.Context(), h); r.Verdict != check.Valid || r.Stats["stable_latency"].(map[string]any)["p100"] != 0.0 {
		t.Errorf("%+v", r)
	}
	stops(t, check.Set{}.Check, h)
}

func BenchmarkSet(b *testing.B) {
	h := recorded(setRun(rand.New(rand.NewPCG(1, 1)), 10_000, 100))
	for b.Loop() {
		if r := (check.Set{}).Check(context.Background(), h); r.Verdict != check.Valid {
			b.Fatal(r)
		}
	}
}
