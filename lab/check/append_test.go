package check_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

// txns reads transactions as text, one per line:
//
//	PROCESS STEP… START-END [OUTCOME]
//
// where a step is x+1, append 1 to x, or x:1,2, read x as [1, 2], or x: for an
// empty list. The rest is as in parse.
func txns(t *testing.T, text string) history.History {
	t.Helper()
	var out strings.Builder
	for line := range strings.Lines(text) {
		w := strings.Fields(line)
		if len(w) == 0 {
			continue
		}
		in, done, n := []string{}, []string{}, 1
		for ; n < len(w) && strings.ContainsAny(w[n], "+:"); n++ {
			if key, v, ok := strings.Cut(w[n], "+"); ok {
				in = append(in, fmt.Sprintf(`["append","%s",%s]`, key, v))
				done = append(done, in[len(in)-1])
				continue
			}
			key, list, _ := strings.Cut(w[n], ":")
			in = append(in, fmt.Sprintf(`["r","%s",null]`, key))
			done = append(done, fmt.Sprintf(`["r","%s",[%s]]`, key, list))
		}
		fmt.Fprintf(&out, "%s txn - [%s]>[%s] %s\n", w[0], strings.Join(in, ","), strings.Join(done, ","), strings.Join(w[n:], " "))
	}
	return parse(t, out.String())
}

var models = []check.Model{check.StrictSerializable, check.Serializable, check.SnapshotIsolation, check.ReadCommitted}

// Each anomaly, in the smallest history that has it; and the models that allow it.
func TestAppend(t *testing.T) {
	const none = "none"
	for _, tt := range []struct {
		name  string
		kind  string // "" for valid
		from  check.Model
		words string
		text  string
	}{
		{"serial", "", none, "3 transactions with 2 appends and 2 reads of 2 lists are", `
			0 x+1 0-1
			0 x:1 y+2 2-3
			1 y:2 4-5`},
		{"unknown append shows", "", none, "1 of unknown outcome showed", `
			0 x+1 0-1 info
			1 x:1 2-3`},
		{"unknown append does not show", "", none, "", `
			0 x+1 0-1 info
			2 x+2 0-?
			1 x+3 2-3
			1 x:3 4-5
			1 x:3,2 6-7`},
		{"reads of unknown outcome", "", none, "", `
			0 x+1 0-1
			1 x:1 2-3
			2 x:7,8 4-5 info
			3 x:9 4-5 fail`},
		{"concurrent in any order", "", none, "", `
			0 x+1 x: 0-9 info
			1 x+2 0-9
			2 x:2,1 0-9
			3 x:2 0-9`},
		{"garbage", "garbage-read", check.ReadCommitted, "x with 7, which nobody had appended", `
			0 x+1 0-1
			1 x:1,7 2-3`},
		{"duplicate", "duplicate-append", check.ReadCommitted, "x with 1 twice, which process 0 at n1 (index 1) appended once", `
			0 x+1 0-1
			1 x:1,1 2-3`},
		{"aborted read", "G1a", check.ReadCommitted, "process 1 at n2 (index 3) read x with 1, though the transaction of process 0 at n1 (index 1) that appended it had failed", `
			0 x+1 0-1 fail
			1 x:1 2-3`},
		{"dirty update", "dirty-update", check.ReadCommitted, "process 1 at n2 (index 3) appended 2 to x after 1 of process 0 at n1 (index 1), which had failed", `
			0 x+1 0-1 fail
			1 x+2 2-3
			2 x:1,2 4-5`},
		{"intermediate read", "G1b", check.ReadCommitted, "x up to 1, after which the transaction of process 0 at n1 (index 2) appended more", `
			0 x+1 x+2 0-1
			1 x:1 0-3
			1 x:1,2 4-5`},
		{"incompatible order", "incompatible-order", check.ReadCommitted, "x with 2 at place 1, where process 2 at n3 (index 4) read 1", `
			0 x+1 0-9
			1 x+2 0-9
			2 x:1,2 1-2
			3 x:2,1 1-2`},
		{"own append missing", "internal", check.SnapshotIsolation, "read x without 1 at its end", `
			0 x+1 x: 0-1
			1 x:1 2-3`},
		{"own append seen early", "internal", check.SnapshotIsolation, "only appended afterwards", `
			0 x:1 x+1 0-1`},
		{"two reads differ", "internal", check.SnapshotIsolation, "read x twice", `
			1 x+1 0-9
			0 x: x:1 0-9`},
		{"two reads, appended between", "", none, "", `
			1 x+1 0-1
			0 x:1 x+2 x:1,2 2-3`},
		{"G0", "G0", check.ReadCommitted, "each of these 2 transactions comes before the next", `
			0 x+1 y+1 0-9
			1 x+2 y+2 0-9
			2 x:1,2 10-11
			2 y:2,1 12-13`},
		{"G1c", "G1c", check.ReadCommitted, "process 0 at n1 (index 2) appended 1 to x, which process 1 at n2 (index 3) read", `
			0 x+1 y:2 0-9
			1 y+2 x:1 0-9`},
		{"read skew", "G-single", check.SnapshotIsolation, "read y without 1, which process 0", `
			0 x+1 y+1 0-9
			1 x:1 y: 0-9
			2 y:1 10-11`},
		{"lost update", "G-single", check.SnapshotIsolation, "read x without", `
			0 x:1 x+2 0-9
			1 x:1 x+3 0-9
			2 x+1 0-9
			3 x:1,2,3 10-11`},
		{"lost update, never read", "G2", check.Serializable, "read x without 2, which", `
			0 x: x+1 0-9
			1 x: x+2 0-9
			2 y+1 0-9
			3 y:1 0-9`},
		{"long fork", "G-nonadjacent", check.SnapshotIsolation, "each of these 4 transactions", `
			0 x+1 0-9
			1 y+1 0-9
			2 x:1 y: 0-9
			3 x: y:1 0-9`},
		{"write skew", "G2", check.Serializable, "each of these 2 transactions", `
			0 x: y+1 0-9
			1 y: x+1 0-9
			2 x:1 y:1 10-11`},
		{"stale read", "G-single-realtime", check.StrictSerializable, "ended at 0.001s, before process 1 at n2 (index 3) began at 0.002s", `
			0 x+1 0-1
			1 x: 2-3
			2 x:1 4-5`},
		{"stale read by who wrote", "G-single-process", check.StrictSerializable, "ended before process 0 at n1 (index 3) began, the same process", `
			0 x+1 0-1
			0 x: 2-3
			2 x:1 4-5`},
		{"lost", "lost-append", check.StrictSerializable, "appended 2 to x until 0.003s, but it is in no read", `
			0 x+1 0-1
			1 x+2 2-3
			2 x:1 4-5`},
		{"read early", "G1c-realtime", check.StrictSerializable, "", `
			0 x:1 0-1
			1 x+1 2-3`},
		{"overwritten early", "G0-realtime", check.StrictSerializable, "", `
			0 x+1 0-1
			1 x+2 2-3
			2 x:2,1 4-5`},
		{"a long fork, closed by time", "G-nonadjacent-realtime", check.StrictSerializable, "", `
			0 x+1 0-9
			1 y+1 0-9
			2 x:1 0-1
			3 y: 2-9
			4 y:1 x: 0-9`},
		{"write skew, seen in order", "G2-realtime", check.StrictSerializable, "", `
			0 x+1 0-1
			1 y: 2-3
			2 x: y+1 0-9
			3 x:1 y:1 10-11`},
		{"half of an unknown transaction", "G-single", check.SnapshotIsolation, "read y without 1", `
			0 x+1 y+1 0-9 info
			1 x:1 y: 2-9`},
	} {
		for _, m := range models {
			t.Run(tt.name+", "+string(m), func(t *testing.T) {
				h := txns(t, tt.text)
				checker := check.Append{Model: m}.Check
				r := checker(t.Context(), h)
				sound(t, h, r)
				all := r.Summary + "\n" + strings.Join(r.Witness, "\n")
				want := check.Valid
				if tt.kind != "" && slices.Index(models, m) <= slices.Index(models, tt.from) {
					want = check.Invalid
				}
				if r.Verdict != want {
					t.Fatalf("%s, want %s\n%s", r.Verdict, want, all)
				}
				if want == check.Invalid || tt.kind == "" {
					kinds, _ := r.Stats["anomalies"].(map[string]any)
					if tt.kind != "" && kinds[tt.kind] == nil || tt.kind == "" && len(kinds) > 0 || !strings.Contains(all, tt.words) {
						t.Errorf("want %q with %q\n%v\n%s", tt.kind, tt.words, kinds, all)
					}
				}
				if again := checker(t.Context(), h); fmt.Sprint(r) != fmt.Sprint(again) {
					t.Errorf("two results:\n%v\n%v", r, again)
				}
			})
		}
	}
	expectAll(t, check.Append{}.Check, []expect{
		{"nothing read", check.Unknown, "of 1 append none was read", `0 txn - [["append","x",1]] 0-1`},
		{"twice", check.Unknown, "element 1 was appended to x twice (index 1 and 3)", `
			0 txn - [["append","x",1]] 0-1
			0 txn - [["append","x",1]] 2-3 info`},
		{"no list", check.Unknown, "want a list", `0 txn - [["r","x",7]] 0-1`},
		{"no transaction", check.Unknown, `want ["append"`, `0 txn - 7 0-1`},
		{"no operation", check.Unknown, `has ["w","x",1]`, `0 txn - [["w","x",1]] 0-1`},
		{"nothing appended", check.Unknown, `has ["append","x",null]`, `0 txn - [["append","x",null]] 0-1`},
		{"another answer", check.Unknown, `was to do ["append","x",1], and the answer is to ["append","x",2]`, `0 txn - [["append","x",1]]>[["append","x",2]] 0-1`},
		{"half an answer", check.Unknown, `want one answer for each of 1 operation`, `0 txn - [["append","x",1]]>[] 0-1`},
		{"other calls", check.Unknown, "write (index 0) is no transaction", `0 write - 7 0-1`},
		{"elements and keys of other kinds", check.Invalid, "1 G-single-realtime", `
			0 txn - [["append",1,"a"],["append",1,[2]]] 0-1
			1 txn - [["r",1,null]]>[["r",1,[]]] 2-3
			2 txn - [["r",1,null]]>[["r",1,["a",[2]]]] 4-5`},
	})
	if r := (check.Append{Model: "linearizable"}).Check(t.Context(), nil); r.Verdict != check.Unknown || !strings.Contains(r.Summary, "no model") {
		t.Errorf("%+v", r)
	}
	stops(t, check.Append{}.Check, txns(t, `0 x+1 0-1`))
}

// serial is a random run of a system that does one transaction after another.
func serial(rnd *rand.Rand, n, processes, keys int, unknown float64) []call {
	lists := map[string][]any{}
	free := make([]int64, processes) // when each process may begin
	ids := make([]int, processes)
	for p := range ids {
		ids[p] = p
	}
	var calls []call
	for i := range n {
		at := int64(10*i + 10)
		p := rnd.IntN(processes)
		var in, out []any
		outcome := history.OK
		switch d := rnd.Float64(); {
		case d < unknown:
			outcome = history.Info
		case d < 1.5*unknown:
			outcome = history.Fail
		}
		happens := outcome == history.OK || outcome == history.Info && rnd.IntN(2) == 0
		for j := range 1 + rnd.IntN(4) {
			key := "k" + strconv.Itoa(rnd.IntN(keys))
			if rnd.IntN(2) == 0 {
				in = append(in, []any{"r", key, nil})
				out = append(out, []any{"r", key, slices.Clone(lists[key])})
				continue
			}
			v := int64(10*i + j)
			in = append(in, []any{"append", key, v})
			out = append(out, []any{"append", key, v})
			if happens {
				lists[key] = append(lists[key], v)
			}
		}
		start := max(free[p], at-rnd.Int64N(100))
		if free[p] > at {
			at = free[p] // does not happen: end is always below
		}
		c := call{process: ids[p], f: "txn", in: in, out: out, start: start, end: at + rnd.Int64N(10), outcome: outcome}
		if outcome != history.OK {
			c.out = in
		}
		if outcome == history.Info {
			ids[p] += processes
		}
		free[p] = c.end + 1
		calls = append(calls, c)
	}
	return calls
}

func TestAppend_serial(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		seed := rapid.Uint64().Draw(t, "seed")
		rnd := rand.New(rand.NewPCG(seed, 3))
		h := recorded(serial(rnd, rapid.IntRange(1, 60).Draw(t, "transactions"), rapid.IntRange(1, 6).Draw(t, "processes"), rapid.IntRange(1, 4).Draw(t, "keys"), 0.1))
		for _, m := range models {
			if r := (check.Append{Model: m}).Check(context.Background(), h); r.Verdict == check.Invalid {
				t.Fatalf("%s: %s\n%s", m, r.Summary, strings.Join(r.Witness, "\n"))
			}
		}
	})
}

// rotated is a run as the workload makes it: lists are given up when they are full.
func rotated(rnd *rand.Rand, n, processes int) []call {
	lists := make([][]any, 4)
	names := make([]string, 4)
	made := 0
	fresh := func(i int) {
		lists[i], names[i] = nil, "k"+strconv.Itoa(made)
		made++
	}
	for i := range lists {
		fresh(i)
	}
	calls := make([]call, 0, n)
	next := int64(0)
	for i := range n {
		var in, out []any
		for range 1 + rnd.IntN(4) {
			k := rnd.IntN(4)
			if rnd.IntN(2) == 0 {
				in = append(in, []any{"r", names[k], nil})
				out = append(out, []any{"r", names[k], slices.Clip(lists[k])})
				continue
			}
			next++
			step := []any{"append", names[k], next}
			in, out = append(in, step), append(out, step)
			if lists[k] = append(lists[k], next); len(lists[k]) >= 48 {
				fresh(k)
			}
		}
		at := int64(10 * i)
		p := i % processes
		start := max(0, at-rnd.Int64N(int64(9*processes)))
		calls = append(calls, call{process: p, f: "txn", in: in, out: out, start: start, end: at, outcome: history.OK})
	}
	return calls
}
