package check_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

func TestLock(t *testing.T) {
	expectAll(t, check.Lock{}.Check, []expect{
		{"one after another", check.Valid, "2 grants, each with a greater token", `
			0 acquire l null>5 0-1
			0 add l 1 2-3
			0 release l null 4-5
			1 acquire l null>7 0-6
			1 release l null 7-8`},
		{"without tokens", check.Valid, "2 grants, one after another", `
			0 acquire l null 0-1
			0 release l null 4-5
			1 acquire l null 0-6`},
		{"a paused holder, ordered by tokens", check.Valid, "1 began while an older one had not noticed its end, for up to 0.003s (key l: process 0 with token 5, index 2, and process 1 with token 7, index 3): tokens order them", `
			0 acquire l null>5 0-1
			1 acquire l null>7 0-6
			0 release l null 9-10 fail
			1 release l null 12-13`},
		{"a paused holder, no tokens", check.Invalid, "key l: process 0 at n1 was granted it at 0.001s (index 2) and held it until 0.009s (index 4), but process 1 at n2 was granted it at 0.006s (index 3): both at once for 0.003s, and no token tells who came first", `
			0 acquire l null 0-1
			1 acquire l null 0-6
			0 release l null 9-10
			1 release l null 12-13`},
		{"one has a token", check.Invalid, "no token tells", `
			0 acquire l null>5 0-1
			1 acquire l null 0-6
			0 release l null 9-10
			1 release l null 12-13`},
		{"a bare one behind a longer one", check.Invalid, "2 overlapped without tokens", `
			0 acquire l null>5 0-1
			1 acquire l null 1-2
			2 acquire l null>9 3-4
			1 release l null 7-8
			0 release l null 20-21`},
		{"the same token", check.Invalid, "the same token twice", `
			0 acquire l null>5 0-1
			0 release l null 2-3
			1 acquire l null>5 0-6`},
		{"the token goes back", check.Invalid, "but afterwards process 1 at n2 was granted it with token 4 at 0.006s (index 5), having asked at 0.004s: the token went back", `
			0 acquire l null>5 0-1
			0 release l null 2-3
			1 acquire l null>4 4-6`},
		{"back behind one long ago", check.Invalid, "1 an older one than was known", `
			0 acquire l null>9 0-1
			0 release l null 2-3
			1 acquire l null>12 1-6
			1 release l null 7-8
			2 acquire l null>10 9-10`},
		{"asked at once, tokens in any order", check.Valid, "", `
			0 acquire l null>9 0-1
			0 release l null 2-3
			1 acquire l null>4 1-6
			1 release l null 7-8`},
		{"the same key only", check.Valid, "4 grants", `
			0 acquire l null>5 0-1
			1 acquire m null>5 0-1
			0 release l null 2-3
			0 acquire l null>6 4-5
			1 release m null 2-3
			1 acquire m null>6 4-5`},
		{"unknown acquire may not hold", check.Valid, "2 grants", `
			0 acquire l null>5 0-1
			1 acquire l null>5 0-2 info
			2 acquire l null 1-?
			0 release l null 3-4
			3 acquire l null>8 5-6`},
		{"a crashed holder holds until its last answer", check.Valid, "one after another", `
			0 acquire l null 0-1
			0 add l 1 2-9 info
			1 acquire l null 2-3
			1 release l null 4-5`},
		{"a holder's answers are signs of life", check.Invalid, "held it until 0.009s at least", `
			0 acquire l null 0-1
			0 add l 1 2-9
			1 acquire l null 2-3
			1 release l null 4-5`},
		{"released is released, whatever the answer", check.Valid, "one after another", `
			0 acquire l null 0-1
			0 release l null 2-9 info
			1 acquire l null 2-3`},
		{"a second acquire of the holder", check.Valid, "2 grants", `
			0 acquire l null>5 0-1
			0 acquire l null>5 2-3
			0 release l null 4-5
			1 acquire l null>6 4-6`},
		{"granted at the moment of another's life", check.Invalid, "both at once for 0s", `
			0 acquire l null 0-1
			1 acquire l null 0-2
			0 release l null 3-4`},
		{"touching", check.Valid, "", `
			0 acquire l null 0-1
			0 release l null 2-4
			1 acquire l null 0-2`},
		{"granted once", check.Unknown, "no lock twice", `
			0 acquire l null>5 0-1
			1 acquire m null>5 0-1
			2 acquire m null>5 0-1 fail`},
		{"a token of another kind", check.Unknown, "is no whole number", `0 acquire l null>"x" 0-1`},
	})
	expectAll(t, check.Lock{Strict: true}.Check, []expect{
		{"overlap", check.Invalid, "both at once for 0.003s", `
			0 acquire l null>5 0-1
			1 acquire l null>7 0-6
			0 release l null 9-10
			1 release l null 12-13`},
		{"none", check.Valid, "", `
			0 acquire l null>5 0-1
			0 release l null 2-3
			1 acquire l null>7 0-6`},
	})
	expectAll(t, check.Lock{Shared: true}.Check, []expect{
		{"together", check.Valid, "more is not known", `
			0 acquire l null>5 0-1
			1 acquire l null>5 0-1
			2 acquire l null 0-1`},
		{"back", check.Invalid, "went back", `
			0 acquire l null>5 0-1
			1 acquire l null>4 2-3`},
	})
	stops(t, check.Lock{}.Check, parse(t, `0 acquire l null>5 0-1`))
}

func TestEffects(t *testing.T) {
	expectAll(t, check.Effects{}.Check, []expect{
		{"all there", check.Valid, "of 2 acknowledged elements 2 are stable", `
			0 acquire l null>5 0-1
			0 add l 1 2-3
			0 release l null 4-5
			1 add l 2 6-7
			2 read l [1,2] 8-9`},
		{"a stale holder wrote", check.Invalid, "key l: lost: 2 was added by process 1 at n2", `
			0 add l 1 2-9
			1 add l 2 6-7
			2 read l [1] 10-11`},
		{"turned away", check.Valid, "1 acknowledged", `
			0 add l 1 2-9 fail
			1 add l 2 6-7
			2 read l [2] 10-11`},
		{"unknown, there or not", check.Valid, "", `
			0 add l 1 2-9 info
			1 add l 2 6-7
			3 add l 3 6-7 info
			2 read l [2,3] 10-11`},
		{"turned away, and there", check.Invalid, "answered as failed", `
			0 add l 1 2-9 fail
			1 add l 2 6-7
			2 read l [1,2] 10-11`},
		{"nothing written", check.Unknown, "nothing was added", `0 acquire l null>5 0-1`},
		{"nothing read", check.Unknown, "nothing was read", `0 add l 1 0-1`},
	})
	stops(t, check.Effects{}.Check, parse(t, `0 add l 1 0-1`))
	if r := (check.Effects{}).Check(t.Context(), history.History{{Type: history.OK}}); r.Verdict != check.Unknown || r.Checker != "effects" {
		t.Errorf("malformed: %+v", r)
	}
}

func TestElection(t *testing.T) {
	expectAll(t, check.Election{}.Check, []expect{
		{"one after another", check.Valid, "2 terms, each with a greater token than those before, and 3 observations", `
			0 campaign e null>5 0-1
			2 observe e null>5 1-2
			0 resign e null 4-5
			2 observe e null 5-6
			1 campaign e null>7 0-6
			2 observe e null>7 7-8
			0 observe e null>7 7-8`},
		{"two leaders of one term", check.Invalid, "the same token twice", `
			0 campaign e null>5 0-1
			1 campaign e null>5 0-6`},
		{"the token goes back", check.Invalid, "the token went back", `
			0 campaign e null>5 0-1
			1 campaign e null>4 2-6`},
		{"a deposed leader does not notice", check.Valid, "tokens order them", `
			0 campaign e null>5 0-1
			1 campaign e null>7 2-6
			0 resign e null 9-10`},
		{"no tokens", check.Invalid, "no token tells", `
			0 campaign e null 0-1
			1 campaign e null 2-6
			0 resign e null 9-10`},
		{"observes go back", check.Invalid, "key e: process 2 at n3 observed token 7 until 0.006s (index 7), and observed the older 5 from 0.007s to 0.008s (index 9)", `
			0 campaign e null>5 0-1
			0 resign e null 2-3
			1 campaign e null>7 2-4
			2 observe e null>7 5-6
			2 observe e null>5 7-8`},
		{"those of different processes may", check.Valid, "", `
			0 campaign e null>5 0-1
			0 resign e null 2-3
			1 campaign e null>7 2-4
			2 observe e null>7 5-6
			3 observe e null>5 7-8`},
		{"behind its own election", check.Invalid, "was elected with token 7", `
			0 campaign e null>5 0-1
			0 resign e null 2-3
			1 campaign e null>7 2-4
			1 observe e null>5 7-8`},
		{"seen before it began", check.Invalid, "before process 1 at n2 stood for it at 0.004s", `
			0 campaign e null>5 0-1
			2 observe e null>7 2-3
			1 campaign e null>7 4-6`},
		{"nobody's term", check.Invalid, "observed token 9 from 0.007s to 0.008s (index 5), which nobody can have won", `
			0 campaign e null>5 0-1
			1 campaign e null>7 2-4
			2 observe e null>9 7-8`},
		{"perhaps somebody's", check.Valid, "", `
			0 campaign e null>5 0-1
			3 campaign e null>9 0-1 fail
			1 campaign e null>7 2-4
			2 observe e null>9 7-8`},
		{"an observation without answer", check.Valid, "0 observations", `
			0 campaign e null>5 0-1
			1 campaign e null>7 2-4
			2 observe e null>9 7-8 fail`},
		{"elected once", check.Unknown, "no election twice", `0 campaign e null>5 0-1`},
		{"not a token", check.Unknown, "no whole number", `0 observe e null>"x" 0-1`},
		{"other calls", check.Unknown, "proclaim (index 0)", `0 proclaim e 1 0-1`},
	})
	expectAll(t, check.Election{Strict: true}.Check, []expect{
		{"overlap", check.Invalid, "both at once for 0.003s", `
			0 campaign e null>5 0-1
			1 campaign e null>7 0-6
			0 resign e null 9-10
			1 resign e null 12-13`},
	})
	stops(t, check.Election{}.Check, parse(t, `0 campaign e null>5 0-1`))
}

// A service that grants as it should is never blamed, however late its answers
// and however dead its holders; one that grants out of turn always is.
func TestLocks_random(t *testing.T) {
	for seed := range uint64(400) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		var calls []call
		now, token := int64(0), int64(0)
		var holds []int // calls
		for p := range 30 {
			now += 1 + rnd.Int64N(5)
			token += 1 + rnd.Int64N(3)
			ask := max(0, now-rnd.Int64N(40))
			c := call{process: p, f: "acquire", key: "l", out: token, start: ask, end: now, outcome: history.OK}
			switch rnd.IntN(8) {
			case 0:
				c.outcome, c.out = history.Info, nil
			case 1:
				c.outcome, c.out = history.Fail, nil
			default:
				holds = append(holds, len(calls))
			}
			calls = append(calls, c)
			if c.outcome != history.OK || rnd.IntN(6) == 0 {
				continue // never given back: its client is gone
			}
			late := now + 1 + rnd.Int64N(20) // it may notice late that its lease ended
			calls = append(calls, call{process: p, f: "release", key: "l", start: late, end: late + rnd.Int64N(9), outcome: history.OK})
			now += rnd.Int64N(10)
		}
		r := check.Lock{}.Check(t.Context(), recorded(calls))
		sound(t, recorded(calls), r)
		if r.Verdict != check.Valid {
			t.Fatalf("seed %d: %s: %s\n%s", seed, r.Verdict, r.Summary, strings.Join(r.Witness, "\n"))
		}
		broken := slices.Clone(calls)
		a := holds[rnd.IntN(len(holds)-1)]
		b := holds[len(holds)-1]
		broken[b].start = broken[a].end + 1
		broken[b].end = max(broken[b].end, broken[b].start)
		broken[b].out = broken[a].out.(int64) - rnd.Int64N(3)
		if r := (check.Lock{}).Check(t.Context(), recorded(broken)); r.Verdict != check.Invalid {
			t.Fatalf("seed %d: %s: %s", seed, r.Verdict, fmt.Sprint(broken[a], broken[b]))
		}
	}
}

// The checkers of this half are proposed for what they are meant for.
func TestGuess_services(t *testing.T) {
	for _, tt := range []struct{ text, want string }{
		{"0 acquire l null>1 0-1\n0 release l null 2-3", "stats lock"},
		{"0 acquire l null>1 0-1\n0 add l 1 2-3\n0 read l [1] 4-5", "stats lock effects"},
		{"0 campaign e null>1 0-1\n0 observe e null>1 2-3", "stats election"},
		{`0 transfer - {"from":"0","to":"1","amount":1} 0-1`, "stats bank"},
		{`0 txn - [["append","x",1]] 0-1`, "stats append"},
		{`0 watch - {"from":1}>[] 0-1`, "stats watch"},
		{"0 apply - 1 0-1", "stats idempotent"},
		{`0 commit - {"txn":1,"participants":["p0"]} 0-1`, "stats atomic-commit"},
	} {
		if got := strings.Join(check.Guess(parse(t, tt.text)), " "); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.text, got, tt.want)
		}
	}
}
