package check_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

// tiny is a history so small that all ways to run it can be tried. One half are runs
// under serializability or snapshot isolation, some of them with a read or an
// outcome changed; the other half reads whatever it likes.
func tiny(rnd *rand.Rand) []call {
	n := 2 + rnd.IntN(3)
	keys := []string{"x", "y"}
	next := map[string]int64{}
	var calls []call
	for i := range n {
		start := rnd.Int64N(12)
		c := call{process: i, f: "txn", start: start, end: start + rnd.Int64N(8), outcome: history.OK}
		switch rnd.IntN(8) {
		case 0:
			c.outcome = history.Info
		case 1:
			c.outcome = history.Fail
		}
		var in []any
		for range 1 + rnd.IntN(3) {
			k := keys[rnd.IntN(2)]
			if rnd.IntN(2) == 0 {
				in = append(in, []any{"r", k, nil})
			} else {
				next[k]++
				in = append(in, []any{"append", k, next[k]})
			}
		}
		c.in, c.out = in, in
		calls = append(calls, c)
	}
	wild := rnd.IntN(3) == 0
	state := map[string][]any{}
	old := map[string][]any{}
	for _, i := range rnd.Perm(n) {
		c := &calls[i]
		from := state
		if rnd.IntN(4) == 0 {
			from = old // a snapshot from before
		}
		view := map[string][]any{"x": slices.Clone(from["x"]), "y": slices.Clone(from["y"])}
		old = map[string][]any{"x": slices.Clone(state["x"]), "y": slices.Clone(state["y"])}
		happens := c.outcome == history.OK || rnd.IntN(2) == 0
		var out []any
		for _, s := range c.in.([]any) {
			step := s.([]any)
			k := step[1].(string)
			if step[0] == "append" {
				view[k] = append(view[k], step[2])
				if happens {
					state[k] = append(state[k], step[2])
				}
				out = append(out, step)
				continue
			}
			list := slices.Clone(view[k])
			if wild && rnd.IntN(2) == 0 {
				list = nil
				for v := range next[k] {
					if rnd.IntN(2) == 0 {
						list = append(list, v+1)
					}
				}
				rnd.Shuffle(len(list), func(a, b int) {
					if rnd.IntN(3) == 0 {
						list[a], list[b] = list[b], list[a]
					}
				})
			}
			out = append(out, []any{"r", k, list})
		}
		if c.outcome == history.OK {
			c.out = out
		}
	}
	return calls
}

// fits replays a transaction on lists, and reports whether its reads fit.
func fits(c call, view map[string]string) (map[string]string, bool) {
	now := map[string]string{"x": view["x"], "y": view["y"]}
	for _, s := range c.out.([]any) {
		step := s.([]any)
		k := step[1].(string)
		if step[0] == "append" {
			now[k] += fmt.Sprint(step[2], ",")
			continue
		}
		if c.outcome != history.OK {
			continue
		}
		var list strings.Builder
		l, _ := step[2].([]any)
		for _, v := range l {
			fmt.Fprint(&list, v, ",")
		}
		if now[k] != list.String() {
			return nil, false
		}
	}
	return now, true
}

// serializable tries all orders of what may have happened.
func serializable(calls []call, strict bool) bool {
	used := make([]bool, len(calls))
	var try func(view map[string]string) bool
	try = func(view map[string]string) bool {
		all := true
		for i, c := range calls {
			if used[i] || c.outcome == history.Fail {
				continue
			}
			if c.outcome == history.OK {
				all = false
			}
			if strict && slices.ContainsFunc(calls, func(b call) bool {
				j := slices.IndexFunc(calls, func(x call) bool { return x.process == b.process })
				return !used[j] && b.outcome == history.OK && b.end < c.start
			}) {
				continue
			}
			if next, ok := fits(c, view); ok {
				used[i] = true
				if try(next) {
					return true
				}
				used[i] = false
			}
		}
		return all
	}
	return try(map[string]string{})
}

// snapshots tries all orders of beginnings and commits: each transaction reads
// what was committed when it began, and none that wrote the same commits in
// between.
func snapshots(calls []call) bool {
	begun := make([]map[string]string, len(calls)) // what each saw when it began
	ended := make([]bool, len(calls))
	writes := func(c call) string {
		w := ""
		for _, s := range c.out.([]any) {
			if step := s.([]any); step[0] == "append" {
				w += step[1].(string)
			}
		}
		return w
	}
	var try func(view map[string]string) bool
	try = func(view map[string]string) bool {
		all := true
		for i, c := range calls {
			if ended[i] || c.outcome == history.Fail {
				continue
			}
			if c.outcome == history.OK {
				all = false
			}
			if begun[i] == nil {
				if _, ok := fits(c, view); !ok {
					continue
				}
				begun[i] = view
				if try(view) {
					return true
				}
				begun[i] = nil
				continue
			}
			next, ok := map[string]string{"x": view["x"], "y": view["y"]}, true
			mine, _ := fits(c, begun[i])
			for _, k := range writes(c) {
				k := string(k)
				if begun[i][k] != view[k] {
					ok = false
				}
				next[k] = mine[k]
			}
			if !ok {
				continue
			}
			ended[i] = true
			if try(next) {
				return true
			}
			ended[i] = false
		}
		return all
	}
	return try(map[string]string{})
}

// Whatever the checker calls invalid cannot have happened; and it misses hardly
// anything that cannot.
func TestAppend_brute(t *testing.T) {
	type count struct{ valid, invalid, missed, unknown int }
	counts := map[check.Model]*count{}
	for _, m := range models {
		counts[m] = &count{}
	}
	runs := uint64(3000)
	if testing.Short() {
		runs = 1000
	}
	for seed := range runs {
		calls := tiny(rand.New(rand.NewPCG(seed, 7)))
		h := recorded(calls)
		possible := map[check.Model]bool{
			check.StrictSerializable: serializable(calls, true),
			check.Serializable:       serializable(calls, false),
			check.SnapshotIsolation:  snapshots(calls),
		}
		weaker := true // whether all stronger models were invalid
		for i, m := range models {
			r := check.Append{Model: m}.Check(t.Context(), h)
			sound(t, h, r)
			c := counts[m]
			show := func(what string) {
				t.Helper()
				t.Fatalf("seed %d, %s: %s: %s\n%s\n%s", seed, m, what, r.Summary, strings.Join(r.Witness, "\n"), words(calls))
			}
			fits, tried := possible[m]
			switch r.Verdict {
			case check.Unknown:
				c.unknown++
			case check.Invalid:
				c.invalid++
				if tried && fits {
					show("invalid, but possible")
				}
				if i > 0 && !weaker {
					show("invalid, where a stronger model is not")
				}
			case check.Valid:
				c.valid++
				if tried && !fits {
					c.missed++
				}
			}
			weaker = r.Verdict == check.Invalid
		}
	}
	for _, m := range models {
		c := counts[m]
		t.Logf("%s: %d valid, of which %d are not possible; %d invalid; %d unknown", m, c.valid, c.missed, c.invalid, c.unknown)
		if c.valid < 200 || c.invalid < 60 {
			t.Errorf("%s: %+v shows too little", m, *c)
		}
		if c.missed*20 > c.invalid+20 {
			t.Errorf("%s: of %d impossible histories %d were missed", m, c.invalid+c.missed, c.missed)
		}
	}
}

func words(calls []call) string {
	var b strings.Builder
	for _, c := range calls {
		fmt.Fprintf(&b, "%d %v %d-%d %s\n", c.process, c.out, c.start, c.end, c.outcome)
	}
	return b.String()
}

// What breaks a legal run is found: a read changed, a transaction forgotten, or
// answered as failed.
func TestAppend_mutants(t *testing.T) {
	found, mutants := 0, 0
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 8))
		calls := serial(rnd, 60, 4, 2, 0.05)
		h := recorded(calls)
		if r := (check.Append{}).Check(t.Context(), h); r.Verdict != check.Valid {
			t.Fatalf("seed %d: %s: %s", seed, r.Verdict, r.Summary)
		}
		// A read of a list that others wrote, of which an element in the middle is taken away, or two change places.
		c, step := someRead(rnd, calls)
		if c == nil {
			continue
		}
		list := slices.Clone(step[2].([]any))
		i := rnd.IntN(len(list) - 1)
		switch rnd.IntN(4) {
		case 0:
			list = slices.Delete(list, i, i+1)
		case 1:
			list[i], list[i+1] = list[i+1], list[i]
		case 2:
			list = append(list, list[i])
		default:
			list = append(list, int64(-1))
		}
		step[2] = list
		mutants++
		if r := (check.Append{}).Check(t.Context(), recorded(calls)); r.Verdict == check.Invalid {
			found++
		} else {
			t.Errorf("seed %d: %s with %s: %s", seed, strconv.Quote(fmt.Sprint(step)), r.Verdict, r.Summary)
		}
	}
	if mutants < 200 || found < mutants {
		t.Errorf("%d of %d found", found, mutants)
	}
}

// someRead is a read of at least two elements.
func someRead(rnd *rand.Rand, calls []call) (*call, []any) {
	for range 1000 {
		c := &calls[rnd.IntN(len(calls))]
		for _, s := range c.out.([]any) {
			step := s.([]any)
			if l, _ := step[2].([]any); c.outcome == history.OK && step[0] == "r" && len(l) > 1 {
				return c, step
			}
		}
	}
	return nil, nil
}
