package check

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"holdfast.dev/lab/history"
)

// Lock checks that a lock is granted to one holder after another. Calls are
// acquire, whose completion has the token of the grant or nil, and release; those
// of different keys are apart. Other calls, of holders at what the lock protects,
// are signs of life only. An acquire of unknown outcome may hold the lock or not,
// and is never held against anybody.
//
// What is required follows from what a lock service can know. A lock that
// survives its holders rests on leases, and a holder that is stopped, or cut off,
// does not notice in time that its lease has ended: it goes on when its
// successor has long begun, and no service can prevent that. What the service
// can do, and must, is to say who came first. So:
//
//   - Tokens order the grants. No two grants of a key have the same token, and
//     a grant asked for after another was answered has the greater one. If not,
//     the same lock was given away twice: Invalid.
//   - Holds overlap if one was answered before the other was given back. Where
//     both have tokens that is no violation: whoever looks at tokens can turn the
//     older one away. It is counted, and the summary tells it. What became of
//     it at the resource is the verdict of Effects.
//   - Where a holder has no token nothing orders it, and an overlap is Invalid.
//
// A hold lasts from the completion of acquire to the invocation of release,
// whatever release is answered. A holder that never gives its lock back holds it
// until its last call of known outcome, for certain: not longer, as the client may be
// gone.
//
// Unknown: no key was granted twice.
type Lock struct {
	// Shared says that locks may have several holders at once. Then nothing is
	// required of holds, and of tokens only that they do not go back: it shows
	// little.
	Shared bool

	// Strict makes overlaps violations that tokens do order: for runs in which
	// nothing stops a holder, cuts it off or moves its clock, so that no lease ends
	// without its holder's doing.
	Strict bool
}

// hold is a grant that was answered, of a lock or of a leadership.
type hold struct {
	call     *history.Call // acquire
	back     *history.Call // release, nil if there was none
	token    int64
	hasToken bool
	start    time.Duration
	end      time.Duration // still held before this
}

func (h *hold) words(verb string) string {
	token := ""
	if h.hasToken {
		token = fmt.Sprintf(" with token %d", h.token)
	}
	return fmt.Sprintf("%s %s%s at %s (index %d)", who(h.call), verb, token, at(h.start), h.call.Complete.Index)
}

// tenures are the grants of one key.
type tenures struct {
	key     string
	shared  bool
	strict  bool
	granted string // the verb: was granted it, was elected
	holds   []hold
	wrong   string

	same, back, alone int // violations: equal tokens, tokens that go back, overlaps without tokens
	overlaps          int // with tokens: noted
	longest           time.Duration
	worst             [2]*hold
}

// collect takes in the calls of one key, where take and give are what grants
// and gives back.
func (t *tenures) collect(calls []*history.Call, take, give string) {
	open := map[int]int{} // process → its hold
	for _, c := range calls {
		i, holds := open[c.Invoke.Process]
		switch f, ok := c.Invoke.F, c.Complete.Type == history.OK; {
		case f == give:
			if holds {
				t.holds[i].end, t.holds[i].back = c.Invoke.Time, c
				delete(open, c.Invoke.Process)
			}
		case f == take && ok:
			n := hold{call: c, start: c.Complete.Time, end: c.Complete.Time}
			if c.Complete.Value != nil {
				if n.token, n.hasToken = whole(c.Complete.Value); !n.hasToken {
					t.wrong = fmt.Sprintf("the token %s (index %d) is no whole number", say(c.Complete.Value), c.Complete.Index)
					return
				}
			}
			if holds {
				if old := &t.holds[i]; old.hasToken && n.hasToken && old.token == n.token {
					old.end = n.end // it holds it already
					continue
				}
				t.holds[i].end = max(t.holds[i].end, c.Invoke.Time)
			}
			open[c.Invoke.Process] = len(t.holds)
			t.holds = append(t.holds, n)
		case holds && c.Complete.Type == history.Info:
			t.holds[i].end = max(t.holds[i].end, c.Invoke.Time)
		case holds:
			t.holds[i].end = max(t.holds[i].end, c.Complete.Time)
		}
	}
}

// judge finds tokens that do not order the grants, and holds that overlap.
func (t *tenures) judge(found *findings) {
	t.tokens(found)
	if !t.shared {
		t.overlap(found)
	}
}

func (t *tenures) tokens(found *findings) {
	var byToken, byStart, byEnd []*hold // of acquire
	for i := range t.holds {
		if t.holds[i].hasToken {
			byToken = append(byToken, &t.holds[i])
		}
	}
	byStart, byEnd = slices.Clone(byToken), slices.Clone(byToken)
	early := func(a, b *hold) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.call.Invoke.Index, b.call.Invoke.Index))
	}
	slices.SortFunc(byToken, func(a, b *hold) int { return cmp.Or(cmp.Compare(a.token, b.token), early(a, b)) })
	slices.SortFunc(byEnd, early)
	slices.SortFunc(byStart, func(a, b *hold) int {
		return cmp.Or(cmp.Compare(a.call.Invoke.Time, b.call.Invoke.Time), cmp.Compare(a.call.Invoke.Index, b.call.Invoke.Index))
	})
	type pair struct{ a, b *hold }
	var same, back []pair
	for i := 1; i < len(byToken) && !t.shared; i++ {
		if a, b := byToken[i-1], byToken[i]; a.token == b.token {
			same = append(same, pair{a, b})
		}
	}
	var most *hold
	ended := 0
	for _, b := range byStart {
		for ; ended < len(byEnd) && byEnd[ended].start < b.call.Invoke.Time; ended++ {
			if most == nil || byEnd[ended].token > most.token {
				most = byEnd[ended]
			}
		}
		if most != nil && b.token < most.token {
			back = append(back, pair{most, b})
		}
	}
	t.same, t.back = len(same), len(back)
	found.some(len(same), func(i int) {
		a, b := same[i].a, same[i].b
		found.add(ops(a, b), "%s%s, and %s: the same token twice", of(t.key), a.words(t.granted), b.words(t.granted))
	})
	found.some(len(back), func(i int) {
		a, b := back[i].a, back[i].b
		found.add(ops(a, b), "%s%s, but afterwards %s, having asked at %s: the token went back", of(t.key), a.words(t.granted), b.words(t.granted), at(b.call.Invoke.Time))
	})
}

func (t *tenures) overlap(found *findings) {
	byStart := make([]*hold, len(t.holds))
	for i := range t.holds {
		byStart[i] = &t.holds[i]
	}
	slices.SortFunc(byStart, func(a, b *hold) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.call.Invoke.Index, b.call.Invoke.Index))
	})
	// The holds seen so far that last longest: of all, and of those without token.
	var last, bare *hold
	for _, b := range byStart {
		a := last
		if b.hasToken && bare != nil && bare.end > b.start {
			a = bare
		}
		if a != nil && a.end > b.start {
			both := max(min(a.end, b.end)-b.start, 0)
			ordered := a.hasToken && b.hasToken
			if ordered {
				t.overlaps++
				if t.worst[0] == nil || both > t.longest {
					t.longest, t.worst = both, [2]*hold{a, b}
				}
			} else {
				t.alone++
			}
			if !ordered || t.strict {
				why := ", and no token tells who came first"
				if ordered {
					why = ""
				}
				found.add(ops(a, b), "%s%s and held it until %s, but %s: both at once for %s%s",
					of(t.key), a.words(t.granted), ending(a), b.words(t.granted), at(both), why)
			}
		}
		if last == nil || b.end > last.end {
			last = b
		}
		if !b.hasToken && (bare == nil || b.end > bare.end) {
			bare = b
		}
	}
}

func ending(h *hold) string {
	if h.back == nil {
		return at(h.end) + " at least"
	}
	return fmt.Sprintf("%s (index %d)", at(h.end), h.back.Invoke.Index)
}

func ops(holds ...*hold) []int {
	var all []int
	for _, h := range holds {
		all = append(all, h.call.Invoke.Index, h.call.Complete.Index)
		if h.back != nil {
			all = append(all, h.back.Invoke.Index)
		}
	}
	return all
}

// tenureCheck is what Lock and Election share.
type tenureCheck struct {
	found             findings
	strict            bool
	grants, most      int // of all keys, of one
	tokens            int // grants that have one
	attempts, keys    int
	same, back, alone int
	overlaps          int
	longest           time.Duration
	worst             [2]*hold
	worstKey          string
}

func (s *tenureCheck) add(t *tenures) {
	t.judge(&s.found)
	s.keys++
	s.grants += len(t.holds)
	s.most = max(s.most, len(t.holds))
	for i := range t.holds {
		if t.holds[i].hasToken {
			s.tokens++
		}
	}
	s.same, s.back, s.alone = s.same+t.same, s.back+t.back, s.alone+t.alone
	s.overlaps += t.overlaps
	if t.worst[0] != nil && (s.worst[0] == nil || t.longest > s.longest) {
		s.longest, s.worst, s.worstKey = t.longest, t.worst, t.key
	}
}

func (s *tenureCheck) stats() map[string]any {
	return map[string]any{
		"attempts": int64(s.attempts), "granted": int64(s.grants), "tokens": int64(s.tokens), "keys": int64(s.keys),
		"same_token": int64(s.same), "token_back": int64(s.back), "overlaps_without_tokens": int64(s.alone),
		"overlaps": int64(s.overlaps), "longest_overlap": s.longest.Seconds(),
	}
}

// overlapped tells the overlaps that are violations.
func (s *tenureCheck) overlapped() string {
	if s.strict {
		return fmt.Sprintf("%d overlapped", s.alone+s.overlaps)
	}
	return fmt.Sprintf("%d overlapped without tokens to order them", s.alone)
}

// note tells the overlaps that tokens made harmless.
func (s *tenureCheck) note() string {
	if s.overlaps == 0 || s.strict {
		return ""
	}
	a, b := s.worst[0], s.worst[1]
	return fmt.Sprintf("; %d began while an older one had not noticed its end, for up to %s (%sprocess %d with token %d, index %d, and process %d with token %d, index %d): tokens order them",
		s.overlaps, at(s.longest), of(s.worstKey), a.call.Invoke.Process, a.token, a.call.Complete.Index, b.call.Invoke.Process, b.token, b.call.Complete.Index)
}

// Check judges the history.
func (l Lock) Check(ctx context.Context, h history.History) Result {
	const name = "lock"
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	sum := tenureCheck{strict: l.Strict}
	keys, groups := byKey(calls)
	for _, k := range keys {
		if ctx.Err() != nil {
			return interrupted(ctx, name)
		}
		for _, c := range groups[k] {
			if c.Invoke.F == "acquire" {
				sum.attempts++
			}
		}
		t := tenures{key: k, shared: l.Shared, strict: l.Strict, granted: "was granted it"}
		if t.collect(groups[k], "acquire", "release"); t.wrong != "" {
			return unknown(name, "%s%s", of(k), t.wrong)
		}
		sum.add(&t)
	}
	r := Result{Checker: name, Verdict: Valid, Stats: sum.stats()}
	sum.found.into(&r)
	switch {
	case sum.found.total > 0:
		r.Verdict = Invalid
		r.Summary = fmt.Sprintf("of %s %d had the token of another, %d an older one than was known, and %s%s",
			plural(sum.grants, "grant"), sum.same, sum.back, sum.overlapped(), sum.note())
	case sum.most < 2:
		r.Verdict = Unknown
		r.Summary = fmt.Sprintf("%s in %s, no lock twice: nothing is shown", plural(sum.grants, "grant"), plural(sum.attempts, "attempt"))
	case l.Shared:
		r.Summary = fmt.Sprintf("%s, shared: no token went back, more is not known", plural(sum.grants, "grant"))
	case sum.tokens == 0:
		r.Summary = fmt.Sprintf("%s, one after another", plural(sum.grants, "grant"))
	default:
		r.Summary = fmt.Sprintf("%s, each with a greater token than those before%s", plural(sum.grants, "grant"), sum.note())
	}
	return r
}

// Effects checks what locks protect: that every add a holder made is in what is
// read of the resource at the end. Calls are add, with the element, and read, whose
// completion has the list of all; acquire, release and others are ignored. It
// is the check of Set, key by key: an element that was acknowledged and is gone
// was overwritten by a holder who did not know of it, which is what the lock was
// there to prevent, or should have been turned away by its token.
//
// It does not ask who held the lock. A service that grants twice and is lucky
// passes here, and not at Lock.
type Effects struct{}

// Check judges the history.
func (Effects) Check(ctx context.Context, h history.History) Result {
	const name = "effects"
	if ctx.Err() != nil {
		return interrupted(ctx, name)
	}
	var own history.History
	for i := range h {
		if f := h[i].F; h[i].Process != history.Nemesis && (f == "add" || f == "read") {
			own = append(own, h[i])
		}
	}
	if _, bad := callsOf(ctx, name, h); bad != nil {
		return *bad
	}
	r := Set{}.Check(ctx, own)
	r.Checker = name
	return r
}

// Election checks that leaders follow one another. Calls are campaign, whose
// completion has the token of the term or nil, resign, and observe, whose
// completion has the token of who leads or nil; those of different keys are
// apart.
//
// Terms are what holds are to Lock, for the same reasons: no token has two
// leaders, and one who stood after another was known to be elected has the
// greater token. Terms may overlap in real time as far as tokens order them.
// Besides, what one process observes does not go back, neither behind what it
// observed nor behind its own election; and nobody observes a term that is older
// than its campaign, or that nobody can have won: unless an unsuccessful
// campaign may have led for a moment.
//
// Unknown: no election was won twice.
type Election struct {
	// Strict makes terms that overlap violations, as it does for Lock.
	Strict bool
}

// Check judges the history.
func (e Election) Check(ctx context.Context, h history.History) Result {
	const name = "election"
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	sum := tenureCheck{strict: e.Strict}
	var observed, behind, strange int
	keys, groups := byKey(calls)
	for _, k := range keys {
		if ctx.Err() != nil {
			return interrupted(ctx, name)
		}
		t := tenures{key: k, strict: e.Strict, granted: "was elected"}
		for _, c := range groups[k] {
			switch c.Invoke.F {
			case "campaign":
				sum.attempts++
			case "resign", "observe":
			default:
				return unknown(name, "%s (index %d) is no call of an election: want campaign, resign and observe", c.Invoke.F, c.Invoke.Index)
			}
		}
		if t.collect(groups[k], "campaign", "resign"); t.wrong != "" {
			return unknown(name, "%s%s", of(k), t.wrong)
		}
		sum.add(&t)
		o := observations{key: k}
		if wrong := o.judge(groups[k], &sum.found); wrong != "" {
			return unknown(name, "%s%s", of(k), wrong)
		}
		observed, behind, strange = observed+o.observed, behind+o.behind, strange+o.strange
	}
	r := Result{Checker: name, Verdict: Valid, Stats: sum.stats()}
	r.Stats["observed"], r.Stats["observed_back"], r.Stats["observed_strange"] = int64(observed), int64(behind), int64(strange)
	sum.found.into(&r)
	switch {
	case sum.found.total > 0:
		r.Verdict = Invalid
		r.Summary = fmt.Sprintf("of %s %d had the token of another, %d an older one than was known, and %s; of %s %d went back and %d saw a term that cannot have been%s",
			plural(sum.grants, "term"), sum.same, sum.back, sum.overlapped(), plural(observed, "observation"), behind, strange, sum.note())
	case sum.most < 2:
		r.Verdict = Unknown
		r.Summary = fmt.Sprintf("%s in %s, no election twice: nothing is shown", plural(sum.grants, "term"), plural(sum.attempts, "campaign"))
	case sum.tokens == 0:
		r.Summary = fmt.Sprintf("%s, one after another", plural(sum.grants, "term"))
	default:
		r.Summary = fmt.Sprintf("%s, each with a greater token than those before, and %s, none of which went back%s",
			plural(sum.grants, "term"), plural(observed, "observation"), sum.note())
	}
	return r
}

// observations are what processes saw of the leaders of one key.
type observations struct {
	key                       string
	observed, behind, strange int
}

func (o *observations) judge(calls []*history.Call, found *findings) string {
	won := map[int64]*history.Call{} // token → campaign
	may := false                     // a campaign without success may have led
	for _, c := range calls {
		if c.Invoke.F != "campaign" {
			continue
		}
		if c.Complete.Type != history.OK {
			may = true
		} else if token, ok := whole(c.Complete.Value); ok && (won[token] == nil || c.Invoke.Time < won[token].Invoke.Time) {
			won[token] = c
		}
	}
	type sight struct {
		token int64
		call  *history.Call
	}
	var back [][2]sight
	var strange []sight
	newest := map[int]sight{} // process → the newest it knows of
	for _, c := range calls {
		if c.Complete.Type != history.OK || c.Invoke.F == "resign" || c.Complete.Value == nil {
			continue
		}
		token, ok := whole(c.Complete.Value)
		if !ok {
			return fmt.Sprintf("the token %s (index %d) is no whole number", say(c.Complete.Value), c.Complete.Index)
		}
		s, p := sight{token, c}, c.Invoke.Process
		if c.Invoke.F == "observe" {
			o.observed++
			if old, ok := newest[p]; ok && old.token > token {
				back = append(back, [2]sight{old, s})
			}
			if w := won[token]; w == nil && !may || w != nil && w.Invoke.Time > c.Complete.Time {
				strange = append(strange, s)
			}
		}
		if old, ok := newest[p]; !ok || token > old.token {
			newest[p] = s
		}
	}
	o.behind, o.strange = len(back), len(strange)
	found.some(len(back), func(i int) {
		a, b := back[i][0], back[i][1]
		verb := "observed"
		if a.call.Invoke.F == "campaign" {
			verb = "was elected with"
		}
		found.add([]int{a.call.Complete.Index, b.call.Invoke.Index, b.call.Complete.Index}, "%s%s %s token %d until %s (index %d), and observed the older %d %s (index %d)",
			of(o.key), who(a.call), verb, a.token, at(a.call.Complete.Time), a.call.Complete.Index, b.token, span(b.call), b.call.Complete.Index)
	})
	found.some(len(strange), func(i int) {
		s := strange[i]
		why, all := "which nobody can have won", []int{s.call.Complete.Index}
		if w := won[s.token]; w != nil {
			why = fmt.Sprintf("before %s stood for it at %s (index %d)", who(w), at(w.Invoke.Time), w.Invoke.Index)
			all = append(all, w.Invoke.Index)
		}
		found.add(all, "%s%s observed token %d %s (index %d), %s", of(o.key), who(s.call), s.token, span(s.call), s.call.Complete.Index, why)
	})
	return ""
}
