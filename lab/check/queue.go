package check

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"holdfast.dev/lab/history"
)

// Queue checks that what was put into a queue comes out once and, for each
// producer, in order. Calls are enqueue, with the element; dequeue, whose
// completion has the element, or nil if the queue was empty; and drain, whose
// completion has the list of all that was left, in order. Queues of different
// keys are apart. Elements should be unique; those that were enqueued twice may
// come out twice, and are left out of order.
//
// Invalid are: an element lost (acknowledged, never delivered, though the queue
// was empty in the end), duplicated (delivered more often than enqueued),
// unexpected (never enqueued, its enqueue failed, or delivered before it began),
// reordered (one process had it acknowledged before it enqueued another, which
// came out first). The queue was empty in the end if, after all enqueues had
// ended, a drain succeeded or a dequeue found nothing.
//
// A dequeue of unknown outcome may have taken one element with it, a drain any
// number: missing elements that these may have are no loss, and make the verdict
// Unknown, as does a queue that was never seen empty and still owes some.
type Queue struct {
	// Redelivers allows duplicates, as queues that deliver at least once do.
	Redelivers bool
	// Unordered allows any order.
	Unordered bool
}

type message struct {
	value     any
	enqueue   *history.Call // the first that was acknowledged, failing that may have happened, failing that failed
	attempts  int32         // enqueues that may have happened
	acks      int32
	start     int64 // of the first attempt
	delivered int32
	first     delivery // that which began first
	early     delivery // that which ended first
	late      delivery // that which began last
}

type delivery struct {
	call     *history.Call
	position int // in a drain
}

type queueCheck struct {
	key      string
	messages []message
	ids      map[any]int32

	lastEnqueue int64
	empties     []int64 // when calls began that found or left the queue empty
	limbo       int     // dequeues of unknown outcome
	drains      int     // drains of unknown outcome
	dequeues    int

	lost, doubled, phantom []int32
	pairs                  [][2]int32 // reordered: the second came out before the first
	acked, recovered       int
	missing                int // lost, or with calls of unknown outcome
	delays                 []time.Duration
}

// Check judges the history.
func (c Queue) Check(ctx context.Context, h history.History) Result {
	const name = "queue"
	calls, bad := callsOf(ctx, name, h)
	if bad != nil {
		return *bad
	}
	keys, groups := byKey(calls)
	r := Result{Checker: name, Verdict: Valid}
	var found, open findings
	var sum queueCheck
	var attempts, dequeues, lost, doubled, phantom, reordered int
	for _, k := range keys {
		if ctx.Err() != nil {
			return interrupted(ctx, name)
		}
		q := queueCheck{key: k, ids: map[any]int32{}, lastEnqueue: math.MinInt64}
		if wrong := q.collect(groups[k]); wrong != "" {
			return unknown(name, "%s%s", of(k), wrong)
		}
		q.judge()
		if !c.Unordered {
			q.order()
		}
		empty := q.emptied()
		excused := q.drains > 0 || len(q.lost) <= q.limbo
		switch {
		case len(q.lost) == 0:
		case !empty:
			open.add(nil, "%s%s not delivered, but the queue was never seen empty after the last enqueue", of(k), plural(len(q.lost), "acknowledged element"))
			q.lost = nil
		case excused:
			open.add(nil, "%s%s not delivered, which %s of unknown outcome may have", of(k), plural(len(q.lost), "acknowledged element"), plural(q.limbo+q.drains, "call"))
			q.lost = nil
		}
		if c.Redelivers {
			sum.doubled = append(sum.doubled, q.doubled...)
			q.doubled = nil
		}
		q.explain(&found)
		lost += len(q.lost)
		doubled += len(q.doubled)
		phantom += len(q.phantom)
		reordered += len(q.pairs)
		dequeues += q.dequeues
		attempts += len(q.messages)
		sum.acked += q.acked
		sum.recovered += q.recovered
		sum.missing += q.missing
		sum.delays = append(sum.delays, q.delays...)
	}
	r.Stats = map[string]any{
		"attempts": int64(attempts), "acknowledged": int64(sum.acked), "recovered": int64(sum.recovered), "delivered": int64(dequeues),
		"undelivered": int64(sum.missing), "lost": int64(lost), "duplicated": int64(doubled + len(sum.doubled)),
		"unexpected": int64(phantom), "reordered": int64(reordered),
	}
	if q := quantiles(sum.delays); q != nil {
		r.Stats["delay"] = q
	}
	r.Summary = fmt.Sprintf("%s acknowledged, %s", plural(sum.acked, "element"), plural(dequeues, "delivery"))
	var parts []string
	for _, p := range []struct {
		n    int
		what string
	}{{lost, "lost"}, {doubled + len(sum.doubled), "duplicated"}, {phantom, "unexpected"}, {reordered, "reordered"}} {
		if p.n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.what))
		}
	}
	if len(parts) > 0 {
		r.Summary += ": " + strings.Join(parts, ", ")
	}
	switch {
	case found.total > 0:
		r.Verdict = Invalid
		found.into(&r)
	case open.total > 0:
		r.Verdict = Unknown
		r.Summary += fmt.Sprintf("; %d missing, perhaps not lost", sum.missing)
		open.into(&r)
	case sum.acked == 0:
		r.Verdict, r.Summary = Unknown, "nothing was enqueued, so nothing is shown"
	case dequeues == 0:
		r.Verdict, r.Summary = Unknown, "nothing was dequeued, so nothing is shown"
	}
	return r
}

func (q *queueCheck) find(v any) int32 {
	v = ident(v)
	id, ok := q.ids[v]
	if !ok {
		id = int32(len(q.messages))
		q.ids[v] = id
		q.messages = append(q.messages, message{value: v, start: math.MaxInt64})
	}
	return id
}

func (q *queueCheck) collect(calls []*history.Call) string {
	for _, c := range calls {
		ok := c.Complete.Type == history.OK
		switch c.Invoke.F {
		case "enqueue":
			q.enqueue(c)
		case "dequeue":
			switch {
			case ok && c.Complete.Value == nil:
				q.empties = append(q.empties, int64(c.Invoke.Time))
			case ok:
				q.deliver(c.Complete.Value, delivery{c, 0})
			case c.Complete.Type == history.Info:
				q.limbo++
			}
		case "drain":
			list, isList := listOf(c.Complete.Value)
			switch {
			case ok && !isList:
				return fmt.Sprintf("a drain (index %d) returned %s, want a list", c.Complete.Index, say(c.Complete.Value))
			case ok:
				q.empties = append(q.empties, int64(c.Invoke.Time))
				for i, v := range list {
					q.deliver(v, delivery{c, i})
				}
			case c.Complete.Type == history.Info:
				q.drains++
			}
		default:
			return fmt.Sprintf("%s (index %d) is no call on a queue: want enqueue, dequeue and drain", c.Invoke.F, c.Invoke.Index)
		}
	}
	return ""
}

func (q *queueCheck) enqueue(c *history.Call) {
	m := &q.messages[q.find(c.Invoke.Value)]
	if c.Complete.Type == history.Fail {
		if m.enqueue == nil {
			m.enqueue = c
		}
		return
	}
	q.lastEnqueue = max(q.lastEnqueue, int64(c.Invoke.Time))
	if c.Complete.Index >= 0 {
		q.lastEnqueue = max(q.lastEnqueue, int64(c.Complete.Time))
	}
	m.start = min(m.start, int64(c.Invoke.Time))
	if m.attempts == 0 || m.acks == 0 && c.Complete.Type == history.OK {
		m.enqueue = c
	}
	m.attempts++
	if c.Complete.Type == history.OK {
		m.acks++
	}
}

func (q *queueCheck) deliver(v any, d delivery) {
	q.dequeues++
	m := &q.messages[q.find(v)]
	m.delivered++
	if m.delivered == 1 {
		m.first, m.early, m.late = d, d, d
		return
	}
	if d.call.Invoke.Time >= m.late.call.Invoke.Time {
		m.late = d
	}
	if d.call.Invoke.Time < m.first.call.Invoke.Time {
		m.first = d
	}
	if d.call.Complete.Time < m.early.call.Complete.Time {
		m.early = d
	}
}

// emptied reports whether the queue was seen empty after the last enqueue.
func (q *queueCheck) emptied() bool {
	return slices.ContainsFunc(q.empties, func(t int64) bool { return t > q.lastEnqueue })
}

func (q *queueCheck) judge() {
	for i := range q.messages {
		m := &q.messages[i]
		id := int32(i)
		q.acked += int(m.acks)
		switch {
		case m.delivered > 0 && (m.attempts == 0 || int64(m.early.call.Complete.Time) < m.start):
			q.phantom = append(q.phantom, id)
			continue
		case m.delivered > m.attempts:
			q.doubled = append(q.doubled, id)
		case m.delivered < m.acks:
			q.lost = append(q.lost, id)
			q.missing += int(m.acks - m.delivered)
		}
		if m.delivered > 0 && m.acks == 0 {
			q.recovered++
		}
		if m.delivered > 0 && m.attempts == 1 {
			q.delays = append(q.delays, max(0, m.early.call.Complete.Time-m.enqueue.Invoke.Time))
		}
	}
	when := func(a, b int32) int {
		return cmp.Or(cmp.Compare(q.messages[a].start, q.messages[b].start), cmp.Compare(a, b))
	}
	slices.SortFunc(q.lost, when)
	slices.SortFunc(q.doubled, when)
	slices.SortFunc(q.phantom, func(a, b int32) int {
		x, y := q.messages[a].early, q.messages[b].early
		return cmp.Or(cmp.Compare(x.call.Complete.Time, y.call.Complete.Time), cmp.Compare(x.position, y.position))
	})
}

// order finds, for each producer, elements that came out after one that it
// enqueued later. Calls of a producer do not overlap, so that an acknowledged
// element is before all that it enqueues later. Going back from the last,
// the delivery that ended first is the one to compare with; within one drain, the
// first in its list.
func (q *queueCheck) order() {
	by := map[int][]int32{}
	var producers []int
	for i := range q.messages {
		m := &q.messages[i]
		if m.attempts != 1 || m.delivered == 0 {
			continue
		}
		p := m.enqueue.Invoke.Process
		if by[p] == nil {
			producers = append(producers, p)
		}
		by[p] = append(by[p], int32(i))
	}
	slices.Sort(producers)
	for _, p := range producers {
		ids := by[p]
		slices.SortFunc(ids, func(a, b int32) int { return cmp.Compare(q.messages[a].start, q.messages[b].start) })
		earliest := int32(-1)
		inDrain := map[*history.Call]int32{}
		var pairs [][2]int32
		for _, id := range slices.Backward(ids) {
			m := &q.messages[id]
			drain := m.first.call == m.early.call && m.first.call.Invoke.F == "drain"
			if m.acks > 0 {
				if earliest >= 0 && q.messages[earliest].early.call.Complete.Time < m.first.call.Invoke.Time {
					pairs = append(pairs, [2]int32{id, earliest})
				} else if other, ok := inDrain[m.first.call]; ok && drain && q.messages[other].early.position < m.first.position {
					pairs = append(pairs, [2]int32{id, other})
				}
			}
			if earliest < 0 || m.early.call.Complete.Time < q.messages[earliest].early.call.Complete.Time {
				earliest = id
			}
			if other, ok := inDrain[m.early.call]; drain && (!ok || m.early.position < q.messages[other].early.position) {
				inDrain[m.early.call] = id
			}
		}
		slices.Reverse(pairs)
		q.pairs = append(q.pairs, pairs...)
	}
}

func (q *queueCheck) explain(found *findings) {
	put := func(m *message) string {
		return fmt.Sprintf("%s was enqueued by %s %s (index %d)", say(m.value), who(m.enqueue), span(m.enqueue), m.enqueue.Invoke.Index)
	}
	got := func(c *history.Call) string {
		return fmt.Sprintf("%s %s (index %d)", who(c), span(c), c.Complete.Index)
	}
	found.some(len(q.lost), func(i int) {
		m := &q.messages[q.lost[i]]
		found.add([]int{m.enqueue.Invoke.Index, m.enqueue.Complete.Index}, "%slost: %s and acknowledged, and never came out", of(q.key), put(m))
	})
	found.some(len(q.doubled), func(i int) {
		m := &q.messages[q.doubled[i]]
		found.add([]int{m.enqueue.Invoke.Index, m.early.call.Complete.Index, m.late.call.Complete.Index}, "%sduplicated: %s and came out %d times, to %s and to %s",
			of(q.key), put(m), m.delivered, got(m.early.call), got(m.late.call))
	})
	found.some(len(q.phantom), func(i int) {
		m := &q.messages[q.phantom[i]]
		d := m.early.call
		line := fmt.Sprintf("%sunexpected: %s came out to %s", of(q.key), say(m.value), got(d))
		switch {
		case m.enqueue == nil:
			found.add([]int{d.Complete.Index}, "%s, but was never enqueued", line)
		case m.attempts == 0:
			found.add([]int{d.Complete.Index, m.enqueue.Complete.Index}, "%s, but its enqueue by %s was answered as failed (index %d)", line, who(m.enqueue), m.enqueue.Complete.Index)
		default:
			found.add([]int{d.Complete.Index, m.enqueue.Invoke.Index}, "%s, before %s began to enqueue it at %s (index %d)", line, who(m.enqueue), at(m.enqueue.Invoke.Time), m.enqueue.Invoke.Index)
		}
	})
	found.some(len(q.pairs), func(i int) {
		a, b := &q.messages[q.pairs[i][0]], &q.messages[q.pairs[i][1]]
		found.add([]int{a.enqueue.Invoke.Index, b.enqueue.Invoke.Index, a.first.call.Complete.Index, b.early.call.Complete.Index},
			"%sreordered: %s, before %s (index %d), but came out after it: to %s, the other to %s",
			of(q.key), put(a), say(b.value), b.enqueue.Invoke.Index, got(a.first.call), got(b.early.call))
	})
}
