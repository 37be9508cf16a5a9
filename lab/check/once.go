package check

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast.dev/lab/history"
)

// Idempotent checks that a request has its effect once, however often it is
// sent. Calls are apply, with the request's id, which comes again when it is
// repeated; and effects, whose completion has the list of the ids that had effects, each as often
// as it had. Those of different keys are apart.
//
// In every read of the effects, an id is there at most once; one that was acknowledged
// before the read began, or was in a read that had ended by then, is there; and
// one that is there was sent by then, and not all that was sent of it had failed.
// A request of which nothing but unknown outcomes are known may be there or not.
//
// Unknown: no read began after a request was acknowledged.
type Idempotent struct{}

type request struct {
	id          any
	begun       *history.Call // the first attempt that may have had its effect
	first       *history.Call // the first attempt
	acked       *history.Call // the first acknowledgement
	seen        *history.Call // the first read that has it
	tries, fail int
}

// Check judges the history.
func (Idempotent) Check(ctx context.Context, h history.History) Result {
	const name = "idempotent"
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	c := onceCheck{}
	keys, groups := byKey(calls)
	for _, k := range keys {
		if wrong := c.check(ctx, k, groups[k]); wrong != "" {
			return unknown(name, "%s%s", of(k), wrong)
		}
		if ctx.Err() != nil {
			return interrupted(ctx, name)
		}
	}
	r := Result{Checker: name, Verdict: Valid, Stats: map[string]any{
		"requests": int64(c.requests), "attempts": int64(c.attempts), "acknowledged": int64(c.acked), "reads": int64(c.reads), "shown": int64(c.shown),
		"recovered": int64(c.recovered), "again": int64(c.again), "lost": int64(c.lost), "unexpected": int64(c.strange),
	}}
	c.found.into(&r)
	switch {
	case c.found.total > 0:
		r.Verdict = Invalid
		r.Summary = fmt.Sprintf("of %d acknowledged requests %d are without effect, %d had it more than once, and %d effects should not be", c.acked, c.lost, c.again, c.strange)
	case c.acked == 0:
		r.Verdict, r.Summary = Unknown, "no request was acknowledged, so nothing is shown"
	case c.shown == 0:
		r.Verdict, r.Summary = Unknown, "the effects were not read after a request was acknowledged, so nothing is shown"
	default:
		r.Summary = fmt.Sprintf("%s in %s, each of %d acknowledged ones had its effect once", plural(c.requests, "request"), plural(c.attempts, "attempt"), c.acked)
		if c.recovered > 0 {
			r.Summary += fmt.Sprintf(", and so had %d of unknown outcome", c.recovered)
		}
		if late := c.acked - c.shown; late > 0 {
			r.Summary += fmt.Sprintf("; %d came after the last read", late)
		}
	}
	return r
}

type onceCheck struct {
	found                            findings
	requests, attempts, acked, reads int
	shown, recovered                 int
	again, lost, strange             int
}

// check judges the requests of one key. It returns what is wrong with the calls.
func (c *onceCheck) check(ctx context.Context, key string, calls []*history.Call) string {
	requests := map[any]*request{}
	var all []*request
	var reads []*history.Call
	find := func(id any) *request {
		r := requests[id]
		if r == nil {
			r = &request{id: id}
			requests[id] = r
			all = append(all, r)
		}
		return r
	}
	for _, call := range calls {
		switch call.Invoke.F {
		case "apply":
			c.attempts++
			r := find(ident(call.Invoke.Value))
			if r.tries++; r.tries == 1 {
				r.first = call
				c.requests++
			}
			switch call.Complete.Type {
			case history.Fail:
				r.fail++
				continue
			case history.OK:
				if r.acked == nil {
					c.acked++
				}
				if r.acked == nil || call.Complete.Time < r.acked.Complete.Time {
					r.acked = call
				}
			case history.Info, history.Invoke:
			}
			if r.begun == nil || call.Invoke.Time < r.begun.Invoke.Time {
				r.begun = call
			}
		case "effects":
			if call.Complete.Type == history.OK {
				reads = append(reads, call)
			}
		default:
			return fmt.Sprintf("%s (index %d) is no request: want apply and effects", call.Invoke.F, call.Invoke.Index)
		}
	}
	c.reads += len(reads)
	slices.SortStableFunc(reads, func(a, b *history.Call) int { return cmp.Compare(a.Invoke.Time, b.Invoke.Time) })
	told, shown := map[*request]bool{}, map[*request]bool{}
	for _, read := range reads {
		if ctx.Err() != nil {
			return ""
		}
		list, ok := listOf(read.Complete.Value)
		if !ok {
			return fmt.Sprintf("a read of the effects (index %d) returned %s, want a list", read.Complete.Index, say(read.Complete.Value))
		}
		where := fmt.Sprintf("what %s read %s (index %d)", who(read), span(read), read.Complete.Index)
		count := make(map[*request]int, len(list))
		for _, v := range list {
			r := find(ident(v))
			if count[r]++; count[r] > 1 || told[r] {
				continue
			}
			ops := []int{read.Complete.Index}
			switch {
			case r.tries == 0:
				c.wrong(&c.strange, "%sunexpected: %s is in %s, and nobody had sent it", ops, of(key), say(r.id), where)
				told[r] = true
			case r.begun == nil:
				c.wrong(&c.strange, "%sunexpected: %s is in %s, though all of %s had failed (index %d)", append(ops, r.first.Complete.Index), of(key), say(r.id), where, plural(r.tries, "attempt"), r.first.Complete.Index)
				told[r] = true
			case r.begun.Invoke.Time > read.Complete.Time:
				c.wrong(&c.strange, "%sunexpected: %s is in %s, before %s sent it at %s (index %d)", append(ops, r.begun.Invoke.Index), of(key), say(r.id), where, who(r.begun), at(r.begun.Invoke.Time), r.begun.Invoke.Index)
				told[r] = true
			}
		}
		for _, r := range all {
			n := count[r]
			if told[r] {
				continue
			}
			if n > 1 {
				ops := []int{read.Complete.Index}
				if r.first != nil {
					ops = append(ops, r.first.Invoke.Index)
				}
				c.wrong(&c.again, "%smore than once: %s, sent %s since %s (index %d), is %s in %s", ops,
					of(key), say(r.id), times(r.tries), at(r.first.Invoke.Time), r.first.Invoke.Index, times(n), where)
				told[r] = true
				continue
			}
			known, by, what := history.Never, (*history.Call)(nil), ""
			if r.acked != nil {
				known, by, what = r.acked.Complete.Time, r.acked, "acknowledged to"
			}
			if r.seen != nil && r.seen.Complete.Time < known {
				known, by, what = r.seen.Complete.Time, r.seen, "read by"
			}
			if n == 0 && known < read.Invoke.Time {
				c.wrong(&c.lost, "%slost: %s, %s %s until %s (index %d), is missing from %s", []int{by.Complete.Index, read.Complete.Index},
					of(key), say(r.id), what, who(by), at(known), by.Complete.Index, where)
				told[r] = true
				continue
			}
			if n > 0 && (r.seen == nil || read.Complete.Time < r.seen.Complete.Time) {
				r.seen = read
			}
			if r.acked != nil && r.acked.Complete.Time < read.Invoke.Time {
				shown[r] = true
			}
		}
	}
	for _, r := range all {
		if r.acked == nil && r.seen != nil {
			c.recovered++
		}
		if shown[r] {
			c.shown++
		}
	}
	return ""
}

func (c *onceCheck) wrong(kind *int, format string, ops []int, args ...any) {
	*kind++
	c.found.add(ops, format, args...)
}

// AtomicCommit checks that a transaction is committed at all of its participants or
// at none. Calls are commit, with {"txn": id, "participants": [name, …]}, which fails
// where the transaction was aborted; and read, whose Key is a participant and whose
// completion has what became of the transactions there, {"7": "committed", "8": "aborted"}.
//
// Whenever it was read, no participant says "committed" where another says
// "aborted", or said so before; nor of a transaction that failed, has not begun, or is
// none of its own. At the end, that is in the last read of each participant among those
// that began after all commits had ended, whatever is committed anywhere, or was
// acknowledged, is committed at all participants, and nothing is undecided: any
// other word than those two. A participant that does not know a transaction has
// not committed it.
//
// Unknown: nothing was acknowledged, or a participant was not read at the end.
type AtomicCommit struct{}

const (
	committed = "committed"
	aborted   = "aborted"
)

type transaction struct {
	id           string
	call         *history.Call
	participants []string
	says         map[string]*opinion // of participants
}

// opinion is what a participant said of a transaction, and in which read.
type opinion struct {
	committed, aborted *history.Call
	word               string // in the read at the end
}

type commitCheck struct {
	txns   map[string]*transaction
	order  []*transaction
	final  map[string]*history.Call // participant → its read at the end
	reads  int
	acked  int
	failed int
	found  findings
	counts map[string]int
	lines  map[string][]line
}

var commitKinds = []string{"mixed", "lost", "changed", "unexpected", "undecided"}

// Check judges the history.
func (AtomicCommit) Check(ctx context.Context, h history.History) Result {
	const name = "atomic-commit"
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	c := commitCheck{txns: map[string]*transaction{}, final: map[string]*history.Call{}, counts: map[string]int{}, lines: map[string][]line{}}
	if wrong := c.collect(calls); wrong != "" {
		return unknown(name, "%s", wrong)
	}
	for i := range calls {
		if call := &calls[i]; call.Invoke.F == "read" && call.Complete.Type == history.OK {
			if ctx.Err() != nil {
				return interrupted(ctx, name)
			}
			if wrong := c.read(call); wrong != "" {
				return unknown(name, "%s", wrong)
			}
		}
	}
	var missing []string
	for _, t := range c.order {
		c.judge(t)
		for _, p := range t.participants {
			if c.final[p] == nil && !slices.Contains(missing, p) {
				missing = append(missing, p)
			}
		}
	}
	r := Result{Checker: name, Verdict: Valid, Stats: map[string]any{
		"transactions": int64(len(c.order)), "acknowledged": int64(c.acked), "aborted": int64(c.failed), "participants": int64(len(c.final)), "reads": int64(c.reads),
	}}
	list, total := "", 0
	for _, kind := range commitKinds {
		n := c.counts[kind]
		r.Stats[kind] = int64(n)
		total += n
		if n > 0 {
			if list != "" {
				list += ", "
			}
			list += fmt.Sprintf("%d %s", n, kind)
		}
		c.found.some(len(c.lines[kind]), func(i int) { c.found.add(c.lines[kind][i].ops, "%s: %s", kind, c.lines[kind][i].text) })
	}
	c.found.total = total
	c.found.into(&r)
	switch {
	case total > 0:
		r.Verdict, r.Summary = Invalid, fmt.Sprintf("of %s: %s", plural(len(c.order), "transaction"), list)
	case c.acked == 0:
		r.Verdict, r.Summary = Unknown, "no transaction was committed, so nothing is shown"
	case len(missing) > 0:
		slices.SortFunc(missing, compareNames)
		r.Verdict, r.Summary = Unknown, fmt.Sprintf("%s not read at the end, first of them %s", plural(len(missing), "participant"), missing[0])
	default:
		r.Summary = fmt.Sprintf("%s, %d acknowledged and %d failed: each is committed at all of its participants or at none", plural(len(c.order), "transaction"), c.acked, c.failed)
	}
	return r
}

func (c *commitCheck) wrong(kind string, ops []int, format string, args ...any) {
	const most = 5
	if c.counts[kind]++; len(c.lines[kind]) < most {
		c.lines[kind] = append(c.lines[kind], line{ops, fmt.Sprintf(format, args...)})
	}
}

// collect takes in the commits, and finds the reads at the end.
func (c *commitCheck) collect(calls []history.Call) string {
	var last time.Duration
	for i := range calls {
		call := &calls[i]
		switch call.Invoke.F {
		case "commit":
			v, _ := call.Invoke.Value.(map[string]any)
			names, ok := listOf(v["participants"])
			if v["txn"] == nil || !ok || len(names) == 0 {
				return fmt.Sprintf("commit (index %d) has the value %s, want txn and participants", call.Invoke.Index, say(call.Invoke.Value))
			}
			id := name(v["txn"])
			if other := c.txns[id]; other != nil {
				return fmt.Sprintf("transaction %s is there twice (index %d and %d)", id, other.call.Invoke.Index, call.Invoke.Index)
			}
			t := &transaction{id: id, call: call, says: map[string]*opinion{}}
			for _, n := range names {
				t.participants = append(t.participants, name(n))
			}
			c.txns[id] = t
			c.order = append(c.order, t)
			switch call.Complete.Type {
			case history.OK:
				c.acked++
			case history.Fail:
				c.failed++
			case history.Info, history.Invoke:
			}
			last = max(last, call.Invoke.Time)
			if call.Complete.Index >= 0 {
				last = max(last, call.Complete.Time)
			}
		case "read":
		default:
			return fmt.Sprintf("%s (index %d) is no call of a commit protocol: want commit and read", call.Invoke.F, call.Invoke.Index)
		}
	}
	for i := range calls {
		call := &calls[i]
		if p := call.Invoke.Key; call.Invoke.F == "read" && call.Complete.Type == history.OK && call.Invoke.Time > last &&
			(c.final[p] == nil || call.Invoke.Time >= c.final[p].Invoke.Time) {
			c.final[p] = call
		}
	}
	return ""
}

// name is a name that may be a number.
func name(v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	return say(v)
}

// read takes in what a participant said. It returns what is wrong, if anything is.
func (c *commitCheck) read(call *history.Call) string {
	p := call.Invoke.Key
	outcomes, ok := call.Complete.Value.(map[string]any)
	if !ok && call.Complete.Value != nil {
		return fmt.Sprintf("a read (index %d) returned %s, want outcomes by transaction", call.Complete.Index, say(call.Complete.Value))
	}
	c.reads++
	for _, id := range slices.SortedFunc(maps.Keys(outcomes), compareNames) {
		word, ok := outcomes[id].(string)
		if !ok {
			return fmt.Sprintf("a read (index %d) has %s for transaction %s, want a word", call.Complete.Index, say(outcomes[id]), id)
		}
		t := c.txns[id]
		where := fmt.Sprintf("participant %s said %s of transaction %s %s (index %d)", p, say(word), id, span(call), call.Complete.Index)
		if t == nil {
			c.wrong("unexpected", []int{call.Complete.Index}, "%s, which nobody had begun", where)
			continue
		}
		o := t.says[p]
		if o == nil {
			o = &opinion{}
			t.says[p] = o
			switch {
			case !slices.Contains(t.participants, p):
				c.wrong("unexpected", []int{call.Complete.Index, t.call.Invoke.Index}, "%s, in which it has no part (index %d)", where, t.call.Invoke.Index)
			case t.call.Invoke.Time > call.Complete.Time:
				c.wrong("unexpected", []int{call.Complete.Index, t.call.Invoke.Index}, "%s, before %s began it at %s (index %d)", where, who(t.call), at(t.call.Invoke.Time), t.call.Invoke.Index)
			}
		}
		if call == c.final[p] {
			o.word = word
		}
		switch {
		case word == committed && o.committed == nil:
			o.committed = call
		case word == aborted && o.aborted == nil:
			o.aborted = call
		}
	}
	return ""
}

// judge compares what was said of a transaction.
func (c *commitCheck) judge(t *transaction) {
	var yes, no *history.Call
	var yesAt, noAt string
	for _, p := range slices.SortedFunc(maps.Keys(t.says), compareNames) {
		o := t.says[p]
		if o.committed != nil && o.aborted != nil {
			c.wrong("changed", []int{o.committed.Complete.Index, o.aborted.Complete.Index}, "participant %s said of transaction %s that it is committed (index %d), and that it is aborted (index %d)",
				p, t.id, o.committed.Complete.Index, o.aborted.Complete.Index)
			return
		}
		if o.committed != nil && yes == nil {
			yes, yesAt = o.committed, p
		}
		if o.aborted != nil && no == nil {
			no, noAt = o.aborted, p
		}
	}
	begun := fmt.Sprintf("transaction %s of %s (index %d)", t.id, who(t.call), t.call.Invoke.Index)
	typ := t.call.Complete.Type
	switch {
	case yes != nil && no != nil:
		c.wrong("mixed", []int{yes.Complete.Index, no.Complete.Index, t.call.Invoke.Index}, "%s is committed at %s (index %d) and aborted at %s (index %d)", begun, yesAt, yes.Complete.Index, noAt, no.Complete.Index)
		return
	case yes != nil && typ == history.Fail:
		c.wrong("unexpected", []int{yes.Complete.Index, t.call.Complete.Index}, "%s is committed at %s (index %d), though it was answered as failed (index %d)", begun, yesAt, yes.Complete.Index, t.call.Complete.Index)
		return
	case no != nil && typ == history.OK:
		c.wrong("lost", []int{no.Complete.Index, t.call.Complete.Index}, "%s was acknowledged as committed (index %d), and is aborted at %s (index %d)", begun, t.call.Complete.Index, noAt, no.Complete.Index)
		return
	}
	for _, p := range t.participants {
		end := c.final[p]
		if end == nil {
			continue
		}
		word := ""
		if o := t.says[p]; o != nil {
			word = o.word
		}
		is := "is not known"
		if word != "" {
			is = "is " + say(word)
		}
		switch {
		case word == committed || word == aborted:
		case typ == history.OK:
			c.wrong("lost", []int{end.Complete.Index, t.call.Complete.Index}, "%s was acknowledged as committed (index %d), and at the end it %s at %s (index %d)", begun, t.call.Complete.Index, is, p, end.Complete.Index)
			return
		case yes != nil:
			c.wrong("mixed", []int{yes.Complete.Index, end.Complete.Index, t.call.Invoke.Index}, "%s is committed at %s (index %d), and at the end it %s at %s (index %d)", begun, yesAt, yes.Complete.Index, is, p, end.Complete.Index)
			return
		case word != "":
			c.wrong("undecided", []int{end.Complete.Index, t.call.Invoke.Index}, "%s is %s at %s even at the end (index %d)", begun, say(word), p, end.Complete.Index)
			return
		}
	}
}
