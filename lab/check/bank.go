package check

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"holdfast.dev/lab/history"
)

// Bank checks that money moves and is neither made nor lost: in every read,
// which must be one snapshot of all accounts, the balances have the same total. The
// calls are init, with {"accounts": n, "total": t}, which makes the accounts "0" to
// n-1; transfer, with {"from", "to", "amount"}; and read, whose completion has
// the balances by account. Banks of different keys are apart.
//
// Invalid are reads with another total, with a balance below zero or that is no whole
// number, with an account that there is not, or without one that there is. Whether
// a transfer that was acknowledged was made is not asked: that is for Register and
// Append.
//
// Unknown: no read to judge, no transfer acknowledged, or neither init nor options
// say what the total is. Reads that end before init has are left out.
type Bank struct {
	Accounts int   // how many there are; 0: what init says
	Total    int64 // what they have together; 0: what init says
	Negative bool  // balances below zero are allowed
}

type bankCheck struct {
	Bank

	key    string
	since  time.Duration // reads that begin after this are judged
	before bool          // so are others, unless they are empty
	kinds  map[string]int
	reads  int
	moved  int
	totals map[int64]int
}

// Check judges the history.
func (b Bank) Check(ctx context.Context, h history.History) Result {
	const name = "bank"
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	kinds := map[string]int{}
	totals := map[int64]int{}
	var found findings
	var reads, moved int
	keys, groups := byKey(calls)
	for _, k := range keys {
		c := bankCheck{Bank: b, key: k, kinds: kinds, totals: totals}
		if wrong := c.open(groups[k]); wrong != "" {
			return unknown(name, "%s%s", of(k), wrong)
		}
		for i, call := range groups[k] {
			if i%ctxEvery == 0 && ctx.Err() != nil {
				return interrupted(ctx, name)
			}
			if wrong := c.judge(call, &found); wrong != "" {
				return unknown(name, "%s%s", of(k), wrong)
			}
		}
		reads, moved = reads+c.reads, moved+c.moved
	}
	r := Result{Checker: name, Verdict: Valid, Stats: map[string]any{
		"reads": int64(reads), "transfers": int64(moved), "totals": int64(len(totals)),
		"wrong_total": int64(kinds["wrong total"]), "negative": int64(kinds["negative"]),
		"unexpected": int64(kinds["unexpected"]), "missing": int64(kinds["missing"]), "no_number": int64(kinds["no number"]),
	}}
	found.into(&r)
	switch {
	case found.total > 0:
		r.Verdict = Invalid
		r.Summary = fmt.Sprintf("of %s %d had a wrong total, %d a balance below zero, %d an account that there is not, %d missed one, %d had no number for one",
			plural(reads, "read"), kinds["wrong total"], kinds["negative"], kinds["unexpected"], kinds["missing"], kinds["no number"])
	case reads == 0:
		r.Verdict, r.Summary = Unknown, "nothing was read, so nothing is shown"
	case moved == 0:
		r.Verdict, r.Summary = Unknown, "no money was moved, so nothing is shown"
	default:
		r.Summary = fmt.Sprintf("%s among %s had all the money", plural(reads, "read"), plural(moved, "transfer"))
	}
	return r
}

// open finds out what the bank has. It returns what is wrong, if anything is.
func (c *bankCheck) open(calls []*history.Call) string {
	var made bool
	for _, call := range calls {
		if call.Invoke.F != "init" || call.Complete.Type == history.Fail {
			continue
		}
		v, _ := call.Invoke.Value.(map[string]any)
		n, okN := whole(v["accounts"])
		total, okT := whole(v["total"])
		if !okN || !okT || n < 1 || n > 1<<20 {
			return fmt.Sprintf("init (index %d) has the value %s, want accounts and total", call.Invoke.Index, say(call.Invoke.Value))
		}
		if made {
			return fmt.Sprintf("there is a second init (index %d)", call.Invoke.Index)
		}
		made = true
		if c.Accounts == 0 {
			c.Accounts = int(n)
		}
		if c.Total == 0 {
			c.Total = total
		}
		c.since, c.before = call.End(), true
	}
	if c.Accounts == 0 || !made && c.Total == 0 {
		return "nothing says how many accounts there are and what they have: neither init nor the options"
	}
	return ""
}

func (c *bankCheck) judge(call *history.Call, found *findings) string {
	done := call.Complete.Type == history.OK
	switch call.Invoke.F {
	case "init":
		return ""
	case "transfer":
		if done {
			c.moved++
		}
		return ""
	case "read":
	default:
		return fmt.Sprintf("%s (index %d) is no call of a bank: want init, transfer and read", call.Invoke.F, call.Invoke.Index)
	}
	if !done {
		return ""
	}
	balances, ok := call.Complete.Value.(map[string]any)
	if !ok && call.Complete.Value != nil {
		return fmt.Sprintf("a read (index %d) returned %s, want balances by account", call.Complete.Index, say(call.Complete.Value))
	}
	if c.before && call.Invoke.Time <= c.since && len(balances) == 0 {
		return "" // there are no accounts yet
	}
	c.reads++
	var total int64
	numbers, accounts := true, 0
	line := fmt.Sprintf("%s%s read %s (index %d)", of(c.key), who(call), span(call), call.Complete.Index)
	ops := []int{call.Invoke.Index, call.Complete.Index}
	wrong := func(kind, format string, args ...any) {
		c.kinds[kind]++
		found.add(ops, "%s: %s: %s", kind, line, fmt.Sprintf(format, args...))
	}
	for _, a := range slices.SortedFunc(maps.Keys(balances), compareNames) {
		n, whole := whole(balances[a])
		switch {
		case !c.has(a):
			wrong("unexpected", "account %s, and there are only %d", say(a), c.Accounts)
			numbers = false
		case !whole:
			wrong("no number", "account %s has %s", a, say(balances[a]))
			numbers = false
		default:
			accounts++
			total += n
			if n < 0 && !c.Negative {
				wrong("negative", "account %s has %d", a, n)
			}
		}
	}
	if accounts < c.Accounts && numbers {
		wrong("missing", "%d of %d accounts", c.Accounts-accounts, c.Accounts)
		numbers = false
	}
	if !numbers {
		return ""
	}
	c.totals[total]++
	if total != c.Total {
		wrong("wrong total", "%s have %d together, and not %d: %s", plural(accounts, "account"), total, c.Total, say(call.Complete.Value))
	}
	return ""
}

// has reports whether there is an account of that name.
func (c *bankCheck) has(name string) bool {
	n, err := strconv.Atoi(name)
	return err == nil && n >= 0 && n < c.Accounts && strconv.Itoa(n) == name
}
