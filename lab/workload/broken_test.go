package workload

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

// every makes a fault of each n-th operation f that comes by, from the first on.
func every(n int, f string, bad fault) func() fault {
	return func() fault {
		count := 0
		return func(m *model, w int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
			if op.F == f && w >= 0 {
				if count++; count%n == 0 {
					return bad(m, w, op, apply)
				}
			}
			return apply(op)
		}
	}
}

// lost says that it happened, and nothing did.
func lost(_ *model, _ int, op history.Op, _ func(history.Op) (history.Op, bool)) (history.Op, bool) {
	op.Type = history.OK
	return op, false
}

// lying says that it did not happen, and it did.
func lying(_ *model, _ int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
	done, wait := apply(op)
	done.Type, done.Value, done.Error = history.Fail, op.Value, "not me"
	return done, wait
}

// twice lets it happen twice.
func twice(_ *model, _ int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
	_, _ = apply(op)
	return apply(op)
}

// answers changes what is answered.
func answers(change func(m *model, op *history.Op)) fault {
	return func(m *model, _ int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
		done, wait := apply(op)
		if !wait && done.Type == history.OK {
			change(m, &done)
		}
		return done, wait
	}
}

// stale answers reads with what an earlier read was answered.
func stale(f string, age int) func() fault {
	return func() fault {
		past := map[string][]any{}
		return func(_ *model, w int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
			done, wait := apply(op)
			if wait || done.F != f || done.Type != history.OK {
				return done, wait
			}
			past[op.Key] = append(past[op.Key], done.Value)
			if n := len(past[op.Key]); w >= 0 && n%10 == 0 && n > age {
				done.Value = past[op.Key][n-1-age]
			}
			return done, wait
		}
	}
}

// staleReads answers transactions that only read, one list, with what an earlier
// one was answered.
func staleReads() fault {
	old := stale("txn", 4)()
	return func(m *model, w int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
		if steps := op.Value.([]any); w < 0 || len(steps) > 1 || steps[0].([]any)[0] != "r" {
			return apply(op)
		}
		return old(m, w, op, apply)
	}
}

// unreadable answers no read.
func unreadable() fault {
	return func(_ *model, _ int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
		if op.F == "read" {
			op.Type, op.Error = history.Info, "timeout"
			return op, false
		}
		return apply(op)
	}
}

// Each of these systems breaks its promise, and the workload shows it.
func TestBroken(t *testing.T) {
	for _, tc := range []struct {
		workload, name string
		fault          func() fault
		want           check.Verdict // default: invalid
		change         func(*sim)
	}{
		{workload: "register", name: "loses writes", fault: every(50, "write", lost)},
		{workload: "register", name: "says that writes failed", fault: every(50, "write", lying)},
		{workload: "register", name: "reads what was", fault: stale("read", 3)},
		{workload: "register", name: "cannot be read", fault: unreadable, want: check.Unknown},

		{workload: "cas", name: "loses writes", fault: every(20, "write", lost)},
		{workload: "cas", name: "reads what was", fault: stale("read", 5)},
		{workload: "cas", name: "swaps whatever there is", fault: every(1, "cas", func(m *model, _ int, op history.Op, _ func(history.Op) (history.Op, bool)) (history.Op, bool) {
			op.Type = history.OK
			m.values[op.Key] = op.Value.([]any)[1]
			return op, false
		})},
		{workload: "kv", name: "loses deletes", fault: every(5, "delete", lost)},
		{workload: "kv", name: "loses swaps", fault: every(10, "cas", lost)},

		{workload: "set", name: "loses elements", fault: every(100, "add", lost)},
		{workload: "set", name: "loses an element between two reads", fault: every(500, "add", func(m *model, _ int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
			m.list = m.list[:len(m.list)-1]
			return apply(op)
		})},
		{workload: "set", name: "cannot be read", fault: unreadable, want: check.Unknown},

		{workload: "queue", name: "loses what was enqueued", fault: every(50, "enqueue", lost)},
		{workload: "queue", name: "delivers twice", fault: every(50, "dequeue", func(m *model, _ int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
			all := slices.Clone(m.list)
			done, wait := apply(op)
			m.list = all
			return done, wait
		})},
		{workload: "queue", name: "delivers what nobody sent", fault: every(50, "dequeue", answers(func(_ *model, op *history.Op) { op.Value = int64(-1) }))},

		{workload: "counter", name: "counts twice", fault: every(10, "add", twice)},
		{workload: "counter", name: "forgets", fault: every(10, "add", lost)},

		{workload: "unique-ids", name: "gives the same again", fault: every(50, "generate", answers(func(m *model, op *history.Op) { op.Value = m.next - 1 }))},

		{workload: "bank", name: "takes without giving", fault: every(20, "transfer", func(m *model, _ int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
			done, wait := apply(op)
			if done.Type == history.OK {
				v := op.Value.(map[string]any)
				m.accounts[v["to"].(string)] -= v["amount"].(int64)
			}
			return done, wait
		})},
		{workload: "bank", name: "reads halves of transfers", fault: every(10, "read", answers(func(_ *model, op *history.Op) {
			all := op.Value.(map[string]any)
			all["0"] = all["0"].(int64) + 2
		}))},
		{workload: "bank", name: "lends money", fault: every(1, "transfer", func(m *model, _ int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
			v := op.Value.(map[string]any)
			m.accounts[v["from"].(string)] -= v["amount"].(int64)
			m.accounts[v["to"].(string)] += v["amount"].(int64)
			op.Type = history.OK
			return op, false
		})},

		{workload: "append", name: "loses transactions", fault: every(30, "txn", lost)},
		{workload: "append", name: "says that they failed", fault: every(30, "txn", lying)},
		{workload: "append", name: "reads what was", fault: staleReads, change: func(s *sim) { s.cfg.TxnOps, s.cfg.Reads, s.cfg.Keys, s.cfg.OpsPerKey = 1, 0.9, 1, 10_000 }},

		{workload: "watch", name: "skips events", fault: every(3, "watch", answers(func(_ *model, op *history.Op) {
			if all := op.Value.([]any); len(all) > 2 {
				op.Value = slices.Delete(all, 1, 2)
			}
		}))},
		{workload: "watch", name: "tells events twice", fault: every(3, "watch", answers(func(_ *model, op *history.Op) {
			if all := op.Value.([]any); len(all) > 0 {
				op.Value = append(all, all[len(all)-1])
			}
		}))},
		{workload: "watch", name: "tells them in another order", fault: every(3, "watch", answers(func(_ *model, op *history.Op) {
			if all := op.Value.([]any); len(all) > 1 {
				all[0], all[1] = all[1], all[0]
			}
		}))},

		{workload: "lock", name: "grants twice", fault: every(10, "acquire", func(m *model, _ int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
			delete(m.held, op.Key)
			return apply(op)
		})},
		{workload: "lock", name: "loses what was written under it", fault: every(30, "add", lost)},

		{workload: "election", name: "elects two for one term", fault: every(10, "campaign", func(m *model, w int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
			if holder, held := m.held[op.Key]; held && holder != w {
				delete(m.held, op.Key)
				m.next-- // the term of who leads
			}
			return apply(op)
		})},
		{workload: "election", name: "observes who led before", fault: stale("observe", 8)},

		{workload: "idempotent", name: "does what it did", fault: every(1, "apply", func(m *model, _ int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
			delete(m.applied, op.Value.(int64))
			return apply(op)
		})},
		{workload: "idempotent", name: "forgets requests", fault: every(30, "apply", lost)},

		{workload: "commit", name: "commits halves", fault: every(20, "commit", func(m *model, _ int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool) {
			done, wait := apply(op)
			v := op.Value.(map[string]any)
			m.txns[v["participants"].([]any)[0].(string)][fmt.Sprint(v["txn"])] = "aborted"
			return done, wait
		})},
		{workload: "commit", name: "forgets commits", fault: every(20, "commit", lost)},
	} {
		for _, crashes := range []float64{0, 0.02} {
			t.Run(fmt.Sprintf("%s %s, crashes %v", tc.workload, tc.name, crashes), func(t *testing.T) {
				s := simOf(tc.workload)
				s.crashes, s.fault, s.nodes = crashes, tc.fault(), []string{"n1"}
				if tc.change != nil {
					tc.change(&s)
				}
				h, in := s.run(t, 5)
				verdict, results := judge(t, in, h)
				want := tc.want
				if want == "" {
					want = check.Invalid
				}
				if verdict != want {
					t.Errorf("got %s, want %s%s", verdict, want, explain(results))
				}
				for _, r := range results {
					if r.Verdict == check.Invalid && (len(r.Witness) == 0 || strings.TrimSpace(r.Summary) == "") {
						t.Errorf("%s does not say why", r.Checker)
					}
				}
			})
		}
	}
}
