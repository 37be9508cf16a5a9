package check_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

func TestIdempotent(t *testing.T) {
	expectAll(t, check.Idempotent{}.Check, []expect{
		{"once", check.Valid, "2 requests in 3 attempts, each of 2 acknowledged ones had its effect once", `
			0 apply - 1 0-1
			0 apply - 1 2-3
			0 apply - 2 4-5
			1 effects - null>[1,2] 6-7`},
		{"unknown, then acknowledged", check.Valid, "", `
			0 apply - 1 0-1 info
			3 apply - 1 2-3
			1 effects - null>[1] 6-7`},
		{"unknown, once", check.Valid, "and so had 1 of unknown outcome", `
			0 apply - 1 0-1 info
			3 apply - 2 2-3
			1 effects - null>[1,2] 6-7`},
		{"unknown, never", check.Valid, "each of 1 acknowledged", `
			0 apply - 1 0-1 info
			3 apply - 2 2-3
			1 effects - null>[2] 6-7`},
		{"twice", check.Invalid, "more than once: 1, sent 2 times since 0s (index 0), is 2 times in what process 1 at n2 read from 0.006s to 0.007s (index 5)", `
			0 apply - 1 0-1 info
			3 apply - 1 2-3
			1 effects - null>[1,1] 6-7`},
		{"unknown, twice", check.Invalid, "1 had it more than once", `
			0 apply - 1 0-1 info
			3 apply - 2 2-3
			1 effects - null>[1,2,1] 6-7`},
		{"lost", check.Invalid, "lost: 1, acknowledged to process 0 at n1 until 0.001s (index 1), is missing from", `
			0 apply - 1 0-1
			1 effects - null>[] 6-7`},
		{"seen, and lost", check.Invalid, "lost: 1, read by process 1 at n2 until 0.003s (index 2), is missing from", `
			0 apply - 1 0-9 info
			1 effects - null>[1] 2-3
			1 effects - null>[] 6-7`},
		{"not yet", check.Valid, "", `
			0 apply - 1 0-4
			1 effects - null>[] 3-7
			1 effects - null>[1] 8-9`},
		{"failed, without effect", check.Valid, "", `
			0 apply - 1 0-1 fail
			0 apply - 2 2-3
			1 effects - null>[2] 6-7`},
		{"failed, with effect", check.Invalid, "though all of 1 attempt had failed (index 1)", `
			0 apply - 1 0-1 fail
			0 apply - 2 2-3
			1 effects - null>[2,1] 6-7`},
		{"failed, then it worked", check.Valid, "1 acknowledged", `
			0 apply - 1 0-1 fail
			0 apply - 1 2-3
			1 effects - null>[1] 6-7`},
		{"nobody's", check.Invalid, "7 is in what process 1 at n2 read from 0.006s to 0.007s (index 3), and nobody had sent it", `
			0 apply - 1 0-1
			1 effects - null>[1,7] 6-7`},
		{"before it was sent", check.Invalid, "before process 0 at n1 sent it at 0.004s", `
			1 effects - null>[1] 2-3
			0 apply - 1 4-5
			1 effects - null>[1] 6-7`},
		{"keys apart", check.Invalid, "key b: lost: 1", `
			0 apply a 1 0-1
			0 apply b 1 2-3
			1 effects a null>[1] 4-5
			1 effects b null>[] 6-7`},
		{"after the last read", check.Valid, "1 came after the last read", `
			0 apply - 1 0-1
			1 effects - null>[1] 2-3
			0 apply - 2 4-5`},
		{"never read", check.Unknown, "not read after", `
			1 effects - null>[] 0-1
			0 apply - 2 4-5`},
		{"never acknowledged", check.Unknown, "no request was acknowledged", `
			0 apply - 2 0-1 fail
			1 effects - null>[] 2-3`},
		{"no list", check.Unknown, "want a list", `1 effects - null>7 0-1`},
		{"other calls", check.Unknown, "read (index 0) is no request", `1 read - 7 0-1`},
	})
	stops(t, check.Idempotent{}.Check, parse(t, `0 apply - 2 0-1`))
}

func TestAtomicCommit(t *testing.T) {
	const commit = `0 commit - {"txn":7,"participants":["p0","p1"]} 0-1
		`
	expectAll(t, check.AtomicCommit{}.Check, []expect{
		{"everywhere", check.Valid, "1 transaction, 1 acknowledged and 0 failed", commit + `
			1 read p0 {"7":"committed"} 2-3
			1 read p1 {"7":"committed"} 4-5`},
		{"aborted, and not known", check.Valid, "1 failed", commit + `
			2 commit - {"txn":8,"participants":["p1","p0"]} 0-1 fail
			1 read p0 {"7":"committed","8":"aborted"} 2-3
			1 read p1 {"7":"committed"} 4-5`},
		{"unknown, nowhere", check.Valid, "", commit + `
			2 commit - {"txn":8,"participants":["p1","p0"]} 0-1 info
			1 read p0 {"7":"committed"} 2-3
			1 read p1 {"7":"committed","8":"aborted"} 4-5`},
		{"unknown, everywhere", check.Valid, "", commit + `
			2 commit - {"txn":8,"participants":["p1","p0"]} 0-1 info
			1 read p0 {"7":"committed","8":"committed"} 2-3
			1 read p1 {"7":"committed","8":"committed"} 4-5`},
		{"undecided meanwhile", check.Valid, "", commit + `
			1 read p0 {"7":"prepared"} 0-1
			1 read p0 {"7":"committed"} 2-3
			1 read p1 {"7":"committed"} 4-5`},
		{"mixed", check.Invalid, "mixed: transaction 8 of process 2 at n3 (index 1) is committed at p0 (index 5) and aborted at p1 (index 7)", commit + `
			2 commit - {"txn":8,"participants":["p1","p0"]} 0-1 info
			1 read p0 {"7":"committed","8":"committed"} 2-3
			1 read p1 {"7":"committed","8":"aborted"} 4-5`},
		{"mixed meanwhile", check.Invalid, "1 mixed", commit + `
			2 commit - {"txn":8,"participants":["p1","p0"]} 0-1 info
			1 read p0 {"8":"committed"} 0-1
			4 read p1 {"8":"aborted"} 0-2
			3 read p0 {"7":"committed"} 4-5
			3 read p1 {"7":"committed"} 6-7`},
		{"half known", check.Invalid, "mixed: transaction 8 of process 2 at n3 (index 1) is committed at p0 (index 5), and at the end it is not known at p1 (index 7)", commit + `
			2 commit - {"txn":8,"participants":["p1","p0"]} 0-1 info
			1 read p0 {"7":"committed","8":"committed"} 2-3
			1 read p1 {"7":"committed"} 4-5`},
		{"half decided", check.Invalid, `at the end it is "prepared" at p1`, commit + `
			2 commit - {"txn":8,"participants":["p1","p0"]} 0-1 info
			1 read p0 {"7":"committed","8":"committed"} 2-3
			1 read p1 {"7":"committed","8":"prepared"} 4-5`},
		{"undecided", check.Invalid, `undecided: transaction 8 of process 2 at n3 (index 1) is "prepared" at p1 even at the end (index 7)`, commit + `
			2 commit - {"txn":8,"participants":["p1","p0"]} 0-1 info
			1 read p0 {"7":"committed"} 2-3
			1 read p1 {"7":"committed","8":"prepared"} 4-5`},
		{"acknowledged, and gone", check.Invalid, "lost: transaction 7 of process 0 at n1 (index 0) was acknowledged as committed (index 1), and at the end it is not known at p1", commit + `
			1 read p0 {"7":"committed"} 2-3
			1 read p1 {} 4-5`},
		{"acknowledged, and aborted", check.Invalid, "and is aborted at p1 (index 5)", commit + `
			1 read p0 {} 2-3
			1 read p1 {"7":"aborted"} 4-5`},
		{"failed, and committed", check.Invalid, "though it was answered as failed (index 3)", commit + `
			2 commit - {"txn":8,"participants":["p1","p0"]} 0-1 fail
			1 read p0 {"7":"committed","8":"committed"} 2-3
			1 read p1 {"7":"committed","8":"committed"} 4-5`},
		{"changed", check.Invalid, "changed: participant p0 said of transaction 8 that it is committed (index 5), and that it is aborted (index 7)", commit + `
			2 commit - {"txn":8,"participants":["p1","p0"]} 0-1 info
			1 read p0 {"7":"committed","8":"committed"} 2-3
			1 read p0 {"7":"committed","8":"aborted"} 4-5
			1 read p1 {"7":"committed"} 6-7`},
		{"nobody's", check.Invalid, "which nobody had begun", commit + `
			1 read p0 {"7":"committed","9":"aborted"} 2-3
			1 read p1 {"7":"committed"} 4-5`},
		{"none of its own", check.Invalid, "in which it has no part", commit + `
			1 read p0 {"7":"committed"} 2-3
			1 read p1 {"7":"committed"} 4-5
			1 read p2 {"7":"committed"} 6-7`},
		{"before it began", check.Invalid, "before process 0 at n1 began it at 0.006s", `
			1 read p0 {"7":"committed"} 2-3
			0 commit - {"txn":7,"participants":["p0"]} 6-7
			1 read p0 {"7":"committed"} 8-9`},
		{"one not read", check.Unknown, "1 participant not read at the end, first of them p1", commit + `
			1 read p1 {} 0-1
			1 read p0 {"7":"committed"} 2-3`},
		{"nothing acknowledged", check.Unknown, "no transaction was committed", `
			2 commit - {"txn":8,"participants":["p1"]} 0-1 fail
			1 read p1 {} 2-3`},
		{"twice", check.Unknown, "transaction 7 is there twice", commit + commit[:1] + ` commit - {"txn":7,"participants":["p0"]} 2-3`},
		{"no participants", check.Unknown, "want txn and participants", `2 commit - {"txn":8} 0-1`},
		{"no outcomes", check.Unknown, "want outcomes", commit + `1 read p1 7 2-3`},
		{"no word", check.Unknown, "want a word", commit + `1 read p1 {"7":1} 2-3`},
		{"other calls", check.Unknown, "abort (index 0)", `2 abort - 1 0-1`},
	})
	stops(t, check.AtomicCommit{}.Check, parse(t, commit))
}

// A protocol that works is never blamed; one participant that thinks differently
// always is.
func TestAtomicCommit_random(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 5))
		outcomes := []map[string]any{{}, {}, {}}
		var calls []call
		type at struct {
			p  int
			id string
		}
		var acked []at
		for i := range int64(20) {
			id := strconv.FormatInt(i, 10)
			var names []any
			var ps []int
			for _, p := range rnd.Perm(3)[:1+rnd.IntN(3)] {
				ps = append(ps, p)
				names = append(names, fmt.Sprint("p", p))
			}
			c := call{process: int(i), f: "commit", in: map[string]any{"txn": i, "participants": names}, start: 10 * i, end: 10*i + rnd.Int64N(30)}
			c.out = c.in
			c.outcome = []history.Type{history.OK, history.OK, history.Fail, history.Info}[rnd.IntN(4)]
			done := c.outcome == history.OK || c.outcome == history.Info && rnd.IntN(2) == 0
			for _, p := range ps {
				switch {
				case done:
					outcomes[p][id] = "committed"
				case rnd.IntN(2) == 0:
					outcomes[p][id] = "aborted"
				}
				if c.outcome == history.OK {
					acked = append(acked, at{p, id})
				}
			}
			calls = append(calls, c)
		}
		for p, o := range outcomes {
			calls = append(calls, call{process: 50, f: "read", key: fmt.Sprint("p", p), out: o, start: int64(1000 + 10*p), end: int64(1001 + 10*p), outcome: history.OK})
		}
		if r := (check.AtomicCommit{}).Check(t.Context(), recorded(calls)); r.Verdict != check.Valid {
			t.Fatalf("seed %d: %s: %v", seed, r.Summary, r.Witness)
		}
		a := acked[rnd.IntN(len(acked))]
		switch rnd.IntN(3) {
		case 0:
			delete(outcomes[a.p], a.id)
		case 1:
			outcomes[a.p][a.id] = "aborted"
		default:
			outcomes[a.p][a.id] = "prepared"
		}
		if r := (check.AtomicCommit{}).Check(t.Context(), recorded(calls)); r.Verdict != check.Invalid {
			t.Fatalf("seed %d: %s", seed, r.Summary)
		}
	}
}

func TestIdempotent_random(t *testing.T) {
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 6))
		var calls []call
		var effects []any
		var acked []int64
		for i := range int64(40) {
			id := rnd.Int64N(15)
			c := call{process: int(i), f: "apply", in: id, out: id, start: 10 * i, end: 10*i + 5}
			c.outcome = []history.Type{history.OK, history.Fail, history.Info}[rnd.IntN(3)]
			if (c.outcome == history.OK || c.outcome == history.Info && rnd.IntN(2) == 0) && !slices.Contains(effects, any(id)) {
				effects = append(effects, id)
			}
			if c.outcome == history.OK {
				acked = append(acked, id)
			}
			calls = append(calls, c)
			if rnd.IntN(4) == 0 {
				calls = append(calls, call{process: 100 + int(i), f: "effects", out: slices.Clone(effects), start: 10*i + 6, end: 10*i + 8, outcome: history.OK})
			}
		}
		end := call{process: 99, f: "effects", out: slices.Clone(effects), start: 1000, end: 1001, outcome: history.OK}
		if r := (check.Idempotent{}).Check(t.Context(), recorded(append(calls, end))); r.Verdict != check.Valid {
			t.Fatalf("seed %d: %s: %v", seed, r.Summary, r.Witness)
		}
		id := any(acked[rnd.IntN(len(acked))])
		if rnd.IntN(2) == 0 {
			end.out = slices.DeleteFunc(slices.Clone(effects), func(v any) bool { return v == id })
		} else {
			end.out = append(slices.Clone(effects), id)
		}
		if r := (check.Idempotent{}).Check(t.Context(), recorded(append(calls, end))); r.Verdict != check.Invalid {
			t.Fatalf("seed %d: %s", seed, r.Summary)
		}
	}
}
