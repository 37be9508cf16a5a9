package check_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

func TestWatch(t *testing.T) {
	const puts = `0 put a 1>{"rev":5} 0-1
		0 put b 2>{"rev":6} 2-3
		0 put a 3>{"rev":8} 4-5
		`
	const (
		e5 = `{"rev":5,"key":"a","type":"put","value":1}`
		e6 = `{"rev":6,"key":"b","type":"put","value":2}`
		d7 = `{"rev":7,"key":"b","type":"delete","value":null}`
		e8 = `{"rev":8,"key":"a","type":"put","value":3}`
	)
	watch := func(process, from int, events, span string) string {
		return fmt.Sprintf("%d watch - {\"from\":%d}>[%s] %s\n", process, from, events, span)
	}
	expectAll(t, check.Watch{}.Check, []expect{
		{"all of it", check.Valid, "3 events in 1 watches, each once and in order: 3 changes there were", puts + watch(1, 1, e5+","+e6+","+e8, "0-9")},
		{"resumed", check.Valid, "4 events in 2 watches", puts + watch(1, 1, e5, "0-3") + watch(1, 6, e6+","+d7+","+e8, "4-9")},
		{"from now on", check.Valid, "1 event in 1 watches", puts + watch(1, 0, e8, "3-9")},
		{"it ended before", check.Valid, "", puts + watch(1, 1, e5, "0-9")},
		{"out of order", check.Invalid, "not ordered: process 1 at n2 watched from revision 1 from 0s to 0.009s (index 7) and saw the put of 1 to a at revision 5 after revision 6", puts + watch(1, 1, e6+","+e5+","+e8, "0-9")},
		{"twice", check.Invalid, "not unique: process 1 at n2 watched from revision 1 from 0s to 0.009s (index 7) and saw the put of 2 to b at revision 6 twice", puts + watch(1, 1, e5+","+e6+","+e6, "0-9")},
		{"acknowledged, and missed", check.Invalid, "not reliable: process 1 at n2 watched from revision 1 from 0s to 0.009s (index 7) and saw revisions 5 to 8, but not the put of 2 to b at revision 6, acknowledged by process 0", puts + watch(1, 1, e5+","+e8, "0-9")},
		{"a delete that another saw", check.Invalid, "but not the delete of b at revision 7, seen by process 2", puts + watch(1, 1, e5+","+e6+","+e8, "0-9") + watch(2, 7, d7, "0-9")},
		{"missed between two watches", check.Invalid, "not resumable: process 1 at n2 watched from revision 6 from 0.004s to 0.009s (index 9) and saw revisions 8 to 8, but not the put of 2", puts + watch(1, 1, e5, "0-3") + watch(1, 6, e8, "4-9")},
		{"older than asked for", check.Invalid, "not resumable: process 1 at n2 watched from revision 6 from 0.004s to 0.009s (index 7) and saw the put of 1 to a at revision 5, which is older", puts + watch(1, 6, e5+","+e6, "4-9")},
		{"half of a revision", check.Invalid, "not atomic: process 1 at n2", `0 put a 1>{"rev":5} 0-1
			2 put b 2>{"rev":5} 0-1
			` + watch(1, 1, e5, "0-9")},
		{"nobody's value", check.Invalid, "not true: process 1 at n2 watched from revision 1 from 0s to 0.009s (index 3) and saw the put of 2 to b at revision 6, which nobody had put there", `0 put a 1>{"rev":5} 0-1
			` + watch(1, 1, e5+","+e6, "0-9")},
		{"another key", check.Invalid, "which nobody had put there", `0 put a 2>{"rev":6} 0-1
			` + watch(1, 1, e6, "0-9")},
		{"failed", check.Invalid, "which by process 2 at n3 had failed (index 4)", `0 put a 1>{"rev":5} 0-1
			2 put b 2 2-3 fail
			` + watch(1, 1, e5+","+e6, "0-9")},
		{"unknown put", check.Valid, "2 events", `0 put a 1>{"rev":5} 0-1
			2 put b 2 2-3 info
			` + watch(1, 1, e5+","+e6, "0-9")},
		{"seen before", check.Invalid, "before process 0 at n1 began it at 0.01s", `0 put a 1>{"rev":5} 10-11
			` + watch(1, 1, e5, "0-9")},
		{"another revision", check.Invalid, "which was acknowledged to process 0 at n1 at revision 9", `0 put a 1>{"rev":9} 0-1
			` + watch(1, 1, e5, "0-9")},
		{"two watches disagree", check.Invalid, "where process 1 at n2 has the delete of b at revision 7", puts + watch(1, 7, d7, "0-9") +
			"3 put b 9 0-1 info\n" + watch(2, 7, `{"rev":7,"key":"b","type":"put","value":9}`, "0-9")},
		{"revisions go back", check.Invalid, "not ordered: a put by process 0 at n1 was acknowledged at revision 5 (index 2), and one by process 2 at n3, begun afterwards, at revision 4", `0 put a 1>{"rev":5} 0-1
			2 put b 2>{"rev":4} 2-3
			` + watch(1, 5, e5, "0-9")},
		{"two at one revision", check.Invalid, "and so was that of 1 by process 0", `0 put a 1>{"rev":5} 0-9
			2 put a 2>{"rev":5} 2-3
			` + watch(1, 5, e5, "0-9")},
		{"watches that failed", check.Valid, "1 event in 1", puts + watch(1, 1, e5, "0-9") + watch(2, 1, e8, "0-9 fail")},
		{"nothing seen", check.Unknown, "1 watches saw nothing", puts + watch(1, 1, "", "0-9")},
		{"nothing put", check.Unknown, "no put was acknowledged", watch(1, 1, "", "0-9")},
		{"put twice", check.Unknown, "value 1 was put twice (index 0 and 2)", "0 put a 1 0-1\n0 put a 1 2-3\n"},
		{"no from", check.Unknown, "want from", "0 watch a 1 0-1"},
		{"no list", check.Unknown, "want a list of events", `0 watch a {"from":1}>7 0-1`},
		{"no event", check.Unknown, "has the event 7", `0 watch a {"from":1}>[7] 0-1`},
		{"other calls", check.Unknown, "get (index 0)", "0 get a 1 0-1"},
	})
	stops(t, check.Watch{}.Check, parse(t, puts))
}

// Watches of a log are right, wherever they begin and end; one event less between two, or
// one more, is noticed.
func TestWatch_random(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 4))
		var calls []call
		var log []any
		rev := int64(1)
		for i := range int64(40) {
			key := string(rune('a' + rnd.IntN(3)))
			e := map[string]any{"key": key, "type": "put", "value": i}
			c := call{process: int(i % 4), f: "put", key: key, in: i, start: 10*i + 10 - rnd.Int64N(9), end: 10*i + 11 + rnd.Int64N(9), outcome: history.OK}
			if rnd.IntN(4) == 0 {
				e["type"], e["value"], c.f, c.in = "delete", nil, "delete", nil
			}
			if rev += rnd.Int64N(2); slices.ContainsFunc(log, func(v any) bool { m := v.(map[string]any); return m["rev"] == rev && m["key"] == key }) {
				rev++
			}
			if len(log) > 0 && log[len(log)-1].(map[string]any)["rev"] == rev {
				rev++
			}
			e["rev"], c.out = rev, map[string]any{"rev": rev}
			switch rnd.IntN(8) {
			case 0: // nobody knows, and it happened
				c.outcome, c.out = history.Info, c.in
			case 1: // nobody knows, and it did not
				c.outcome, c.out = history.Info, c.in
				calls = append(calls, c)
				continue
			}
			if c.outcome == history.Info {
				c.process = 100 + int(i)
			}
			log = append(log, e)
			calls = append(calls, c)
		}
		for i := range calls {
			calls[i].process = 100 + i // each its own: they may overlap
		}
		revOf := func(v any) int64 { return v.(map[string]any)["rev"].(int64) }
		whole := []any{}
		for p := range 4 {
			var seen []any
			from := rnd.Int64N(revOf(log[len(log)-1]))
			last := from + rnd.Int64N(30)
			for _, e := range log {
				if r := revOf(e); r >= max(from, 1) && r <= last {
					seen = append(seen, e)
				}
			}
			if len(seen) > len(whole) {
				whole = seen
			}
			calls = append(calls, call{process: p, f: "watch", in: map[string]any{"from": from}, out: seen, start: 500, end: 600, outcome: history.OK})
		}
		r := check.Watch{}.Check(t.Context(), recorded(calls))
		if r.Verdict != check.Valid && len(whole) > 0 {
			t.Fatalf("seed %d: %s: %s %v", seed, r.Verdict, r.Summary, r.Witness)
		}
		if len(whole) < 3 {
			continue
		}
		bad := slices.Clone(whole)
		i := 1 + rnd.IntN(len(bad)-2)
		switch rnd.IntN(3) {
		case 0:
			bad = slices.Delete(bad, i, i+1)
		case 1:
			bad = slices.Insert(bad, i, bad[i])
		default:
			m := map[string]any{"rev": revOf(bad[i]), "key": "z", "type": "put", "value": int64(-5)}
			bad[i] = m
		}
		all := calls[:len(calls)-4]
		all = append(slices.Clone(all), call{process: 0, f: "watch", in: map[string]any{"from": int64(0)}, out: bad, start: 500, end: 600, outcome: history.OK},
			call{process: 1, f: "watch", in: map[string]any{"from": int64(0)}, out: whole, start: 500, end: 600, outcome: history.OK})
		if r := (check.Watch{}).Check(t.Context(), recorded(all)); r.Verdict != check.Invalid {
			t.Fatalf("seed %d: %s: %s\n%v\n%v", seed, r.Verdict, r.Summary, whole, bad)
		}
	}
}
