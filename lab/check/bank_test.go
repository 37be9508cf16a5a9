package check_test

import (
	"math/rand/v2"
	"strconv"
	"testing"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

func TestBank(t *testing.T) {
	const init = `0 init - {"accounts":3,"total":10} 0-1
		1 transfer - {"from":"0","to":"1","amount":2} 2-3
		`
	expectAll(t, check.Bank{}.Check, []expect{
		{"all the money", check.Valid, "1 read among 1 transfer had all the money", init + `
			2 read - {"0":2,"1":5,"2":3} 4-5`},
		{"too little", check.Invalid, "wrong total: process 2 at n3 read from 0.004s to 0.005s (index 5): 3 accounts have 9 together, and not 10", init + `
			2 read - {"0":2,"1":5,"2":2} 4-5`},
		{"one in two", check.Invalid, "of 2 reads 1 had a wrong total", init + `
			2 read - {"0":2,"1":5,"2":4} 4-5
			2 read - {"0":2,"1":5,"2":3} 6-7`},
		{"below zero", check.Invalid, "account 1 has -1", init + `
			2 read - {"0":8,"1":-1,"2":3} 4-5`},
		{"another account", check.Invalid, `unexpected: process 2 at n3 read from 0.004s to 0.005s (index 5): account "3", and there are only 3`, init + `
			2 read - {"0":2,"1":5,"2":3,"3":0} 4-5`},
		{"another name", check.Invalid, `account "01"`, init + `
			2 read - {"0":2,"01":5,"2":3} 4-5`},
		{"one missing", check.Invalid, "1 of 3 accounts", init + `
			2 read - {"0":2,"1":8} 4-5`},
		{"all missing", check.Invalid, "3 of 3 accounts", init + `
			2 read - {} 4-5`},
		{"no balance", check.Invalid, "account 1 has null", init + `
			2 read - {"0":2,"1":null,"2":8} 4-5`},
		{"before init", check.Valid, "1 read", `
			2 read - {} 0-1` + "\n" + init + `
			2 read - {"0":2,"1":5,"2":3} 4-5`},
		{"failed and unknown reads", check.Valid, "1 read", init + `
			2 read - {"0":2,"1":5,"2":3} 4-5
			2 read - {"0":2} 6-7 fail
			2 read - {"0":2} 8-9 info`},
		{"failed transfers only", check.Unknown, "no money was moved", `0 init - {"accounts":3,"total":10} 0-1
			1 transfer - {"from":"0","to":"1","amount":2} 2-3 fail
			2 read - {"0":2,"1":5,"2":3} 4-5`},
		{"nothing read", check.Unknown, "nothing was read", init},
		{"no init", check.Unknown, "nothing says how many accounts", `2 read - {"0":2,"1":5,"2":3} 4-5`},
		{"two inits", check.Unknown, "second init (index 4)", init + `0 init - {"accounts":3,"total":10} 4-5`},
		{"init without sense", check.Unknown, "want accounts and total", `0 init - 3 0-1`},
		{"no balances", check.Unknown, "want balances", init + `2 read - 7 4-5`},
		{"other calls", check.Unknown, "deposit (index 4)", init + `2 deposit - 7 4-5`},
	})
	expectAll(t, check.Bank{Accounts: 2, Total: 10, Negative: true}.Check, []expect{
		{"options", check.Valid, "", `
			1 transfer - {"from":"0","to":"1","amount":2} 2-3
			2 read - {"0":-2,"1":12} 4-5`},
		{"wrong", check.Invalid, "11 together", `
			1 transfer - {"from":"0","to":"1","amount":2} 2-3
			2 read - {"0":-2,"1":13} 4-5`},
	})
	stops(t, check.Bank{}.Check, parse(t, `2 read - {"0":2} 4-5`))
}

// Snapshots of a bank are right; with one unit more or less none is.
func TestBank_random(t *testing.T) {
	for seed := range uint64(50) {
		rnd := rand.New(rand.NewPCG(seed, 2))
		balances := []int64{10, 10, 10, 10}
		calls := []call{{f: "init", in: map[string]any{"accounts": int64(4), "total": int64(40)}, start: 0, end: 1, outcome: history.OK}}
		var reads []int
		for i := range int64(60) {
			from, to, n := rnd.IntN(4), rnd.IntN(4), rnd.Int64N(5)
			c := call{
				process: int(i % 5), f: "transfer", start: 2 + 2*i, end: 3 + 2*i, outcome: history.OK,
				in: map[string]any{"from": strconv.Itoa(from), "to": strconv.Itoa(to), "amount": n},
			}
			switch {
			case rnd.IntN(3) == 0:
				all := map[string]any{}
				for a, n := range balances {
					all[strconv.Itoa(a)] = n
				}
				c.f, c.in, c.out = "read", nil, all
				reads = append(reads, len(calls))
			case balances[from] < n:
				c.outcome = history.Fail
			default:
				balances[from] -= n
				balances[to] += n
			}
			calls = append(calls, c)
		}
		if r := (check.Bank{}).Check(t.Context(), recorded(calls)); r.Verdict != check.Valid {
			t.Fatalf("seed %d: %s: %v", seed, r.Summary, r.Witness)
		}
		all := calls[reads[rnd.IntN(len(reads))]].out.(map[string]any)
		a := strconv.Itoa(rnd.IntN(4))
		all[a] = all[a].(int64) + 1 - 2*rnd.Int64N(2)
		if r := (check.Bank{}).Check(t.Context(), recorded(calls)); r.Verdict != check.Invalid {
			t.Fatalf("seed %d: %s", seed, r.Summary)
		}
	}
}
