package check_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

func TestQueue(t *testing.T) {
	expectAll(t, check.Queue{}.Check, []expect{
		{"in and out", check.Valid, "2 elements acknowledged, 2 deliveries", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			1 dequeue - null>1 4-5
			1 dequeue - null>2 6-7
			1 dequeue - null>null 8-9`},
		{"drained", check.Valid, "", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			1 drain - null>[1,2] 4-5`},
		{"lost", check.Invalid, "lost: 2 was enqueued by process 0 at n1 from 0.002s to 0.003s (index 2) and acknowledged, and never came out", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			1 drain - null>[1] 4-5`},
		{"still in it", check.Unknown, "1 acknowledged element not delivered, but the queue was never seen empty after the last enqueue", `
			0 enqueue - 1 0-1
			1 dequeue - null>null 1-2
			0 enqueue - 2 2-3
			1 dequeue - null>1 4-5`},
		{"an unknown dequeue may have it", check.Unknown, "1 acknowledged element not delivered, which 1 call of unknown outcome may have", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			1 dequeue - null>1 4-5 info
			1 drain - null>[2] 6-7`},
		{"but not two", check.Invalid, "2 lost", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			0 enqueue - 3 4-5
			1 dequeue - null 4-5 info
			1 drain - null>[3] 6-7`},
		{"a failed dequeue has nothing", check.Invalid, "1 lost", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			1 dequeue - null 4-5 fail
			1 drain - null>[2] 6-7`},
		{"an unknown drain may have all", check.Unknown, "2 acknowledged elements not delivered, which 1 call of unknown outcome may have", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			0 enqueue - 3 4-5
			1 drain - null 6-7 info
			2 drain - null>[3] 6-7`},
		{"a failed drain has none", check.Invalid, "2 lost", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			0 enqueue - 3 4-5
			1 drain - null 6-7 fail
			2 drain - null>[3] 8-9`},
		{"unknown enqueue", check.Valid, "", `
			0 enqueue - 1 0-1 info
			0 enqueue - 2 2-3 info
			0 enqueue - 3 4-5
			1 drain - null>[3,1] 6-7`},
		{"duplicated", check.Invalid, "duplicated: 1 was enqueued by process 0 at n1 from 0s to 0.001s (index 0) and came out 2 times, to process 1 at n2 from 0.002s to 0.003s (index 3) and to process 2 at n3 from 0.004s", `
			0 enqueue - 1 0-1
			1 dequeue - null>1 2-3
			2 dequeue - null>1 4-5`},
		{"enqueued twice", check.Valid, "", `
			0 enqueue - 1 0-1
			0 enqueue - 1 2-3
			1 dequeue - null>1 2-3
			2 dequeue - null>1 4-5`},
		{"never enqueued", check.Invalid, "unexpected: 7 came out to process 1 at n2 from 0.002s to 0.003s (index 3), but was never enqueued", `
			0 enqueue - 1 0-1
			1 dequeue - null>7 2-3
			2 dequeue - null>1 4-5`},
		{"enqueue failed", check.Invalid, "its enqueue by process 0 at n1 was answered as failed", `
			0 enqueue - 1 0-1 fail
			1 dequeue - null>1 2-3`},
		{"too early", check.Invalid, "before process 0 at n1 began to enqueue it at 0.004s", `
			1 dequeue - null>1 2-3
			0 enqueue - 1 4-5`},
		{"reordered", check.Invalid, "reordered: 1 was enqueued by process 0 at n1 from 0s to 0.001s (index 0), before 2 (index 2), but came out after it: to process 1 at n2 from 0.006s to 0.007s (index 7), the other to process 1 at n2 from 0.004s", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			1 dequeue - null>2 4-5
			1 dequeue - null>1 6-7`},
		{"reordered in a drain", check.Invalid, "reordered: 1 was", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			1 drain - null>[2,1] 4-5`},
		{"reordered within a drain", check.Invalid, "1 reordered", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			0 enqueue - 3 4-5
			1 drain - null>[2,1,3] 6-7`},
		{"reordered over several", check.Invalid, "1 reordered", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			0 enqueue - 3 4-5
			1 dequeue - null>2 6-7
			1 dequeue - null>1 8-9
			1 dequeue - null>3 10-11`},
		{"other producers have their own order", check.Valid, "", `
			0 enqueue - 1 0-1
			1 enqueue - 2 2-3
			2 drain - null>[2,1] 4-5`},
		{"unknown enqueue may come late", check.Valid, "", `
			0 enqueue - 1 0-1 info
			0 enqueue - 2 2-3
			1 dequeue - null>2 4-5
			1 dequeue - null>1 6-7`},
		{"concurrent dequeues", check.Valid, "", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			1 dequeue - null>2 4-6
			2 dequeue - null>1 5-7`},
		{"keys apart", check.Invalid, "key b: unexpected", `
			0 enqueue a 1 0-1
			1 dequeue b null>1 2-3`},
		{"nothing enqueued", check.Unknown, "nothing was enqueued", `1 drain - null>[] 6-7`},
		{"nothing dequeued", check.Unknown, "", `0 enqueue - 1 6-7`},
		{"bad drain", check.Unknown, "want a list", `0 drain - null>7 6-7`},
		{"other calls", check.Unknown, "peek (index 0)", `0 peek - null>7 6-7`},
	})
	expectAll(t, check.Queue{Redelivers: true}.Check, []expect{
		{"redelivered", check.Valid, "1 duplicated", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			1 dequeue - null>1 4-5
			1 dequeue - null>2 6-7
			1 dequeue - null>1 8-9`},
	})
	expectAll(t, check.Queue{Unordered: true}.Check, []expect{
		{"any order", check.Valid, "", `
			0 enqueue - 1 0-1
			0 enqueue - 2 2-3
			1 drain - null>[2,1] 4-5`},
	})
}

// queueRun is a random legal run of a queue that is drained in the end. Each
// element of out is also where it was taken.
func queueRun(rnd *rand.Rand, n int) []call {
	var calls []call
	var have []any
	at := int64(0)
	for next := int64(0); next < int64(n); {
		at += 10
		if rnd.IntN(5) < 3 {
			c := call{process: rnd.IntN(3), f: "enqueue", in: next, out: next, start: at, end: at + rnd.Int64N(9), outcome: history.OK}
			taken := true
			switch rnd.IntN(12) {
			case 0:
				c.outcome, taken = history.Info, rnd.IntN(2) == 0
			case 1:
				c.outcome, taken = history.Fail, false
			}
			if taken {
				have = append(have, next)
			}
			next++
			calls = append(calls, c)
			continue
		}
		c := call{process: 3 + rnd.IntN(3), f: "dequeue", start: at, end: at + rnd.Int64N(9), outcome: history.OK}
		if len(have) > 0 {
			c.out = have[0]
			have = have[1:]
		}
		calls = append(calls, c)
	}
	return append(calls, call{process: 9, f: "drain", out: append([]any{}, have...), start: at + 100, end: at + 110, outcome: history.OK})
}

func TestQueueMutations(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		legal := queueRun(rnd, 30+rnd.IntN(50))
		h := recorded(legal)
		if r := (check.Queue{}).Check(t.Context(), h); r.Verdict != check.Valid {
			t.Fatalf("%+v\n%+v", r, legal)
		}
		var acked []any
		var taken []int // dequeues of acknowledged elements
		producer := map[any]int{}
		for i, c := range legal {
			if c.f == "enqueue" && c.outcome == history.OK {
				acked = append(acked, c.in)
				producer[c.in] = c.process
			}
			if c.f == "dequeue" && slices.Contains(acked, c.out) {
				taken = append(taken, i)
			}
		}
		last := len(legal) - 1
		ways := map[string]func(c []call) bool{
			"lost": func(c []call) bool {
				i := taken[rnd.IntN(len(taken))]
				c[i].out = nil
				return true
			},
			"duplicated": func(c []call) bool {
				i := taken[rnd.IntN(len(taken))]
				c[last].out = append(slices.Clone(c[last].out.([]any)), c[i].out)
				return true
			},
			"unexpected": func(c []call) bool {
				c[last].out = append(slices.Clone(c[last].out.([]any)), "x")
				return true
			},
			"reordered": func(c []call) bool {
				for i, a := range taken {
					for _, b := range taken[i+1:] {
						if producer[c[a].out] == producer[c[b].out] && c[a].start < c[b].start {
							first := slices.IndexFunc(c, func(o call) bool { return o.f == "enqueue" && o.in == c[b].out })
							if c[first].end >= c[a].start {
								continue // it would come out before it is in
							}
							c[a].out, c[b].out = c[b].out, c[a].out
							return true
						}
					}
				}
				return false
			},
		}
		for _, name := range slices.Sorted(maps.Keys(ways)) {
			broken := slices.Clone(legal)
			if !ways[name](broken) {
				continue
			}
			h := recorded(broken)
			r := check.Queue{}.Check(t.Context(), h)
			sound(t, h, r)
			if n, _ := r.Stats[name].(int64); r.Verdict != check.Invalid || n < 1 || name != "reordered" && n != 1 {
				t.Fatalf("%s is not found: %+v\n%+v", name, r, broken)
			}
		}
	}
	stops(t, check.Queue{}.Check, recorded(queueRun(rnd, 10)))
}
