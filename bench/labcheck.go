package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

// A labLoad is a made-up history of registers and how it is made.
type labLoad struct {
	what    string
	calls   int
	clients int // each with a call open nearly always
	keys    int
	crashed int // writes of unknown outcome
	stale   bool
	atLeast float64 // calls per second
}

// labcheck compares the lab's checker of registers with porcupine, on the same
// histories. Porcupine gets twenty times the time of an arm; where that is not
// enough its figure is 0.
func labcheck(ctx context.Context, b *bench) ([]row, error) {
	loads := []labLoad{
		{what: "1,000 calls", calls: 1_000, clients: 10, keys: 1},
		{what: "5,000 calls", calls: 5_000, clients: 10, keys: 1},
		{what: "1,000 calls, 20 clients", calls: 1_000, clients: 20, keys: 1},
		{what: "1,000 calls, 10 crashed, one read stale", calls: 1_000, clients: 10, keys: 1, crashed: 10, stale: true},
		{what: "1,000,000 calls, 100 clients, 10,000 crashed", calls: 1_000_000, clients: 100, keys: 20, crashed: 10_000, atLeast: 1_000_000},
	}
	var rows []row
	for _, l := range loads {
		if b.time < time.Second/2 && l.calls > 100_000 { // only to see that it works
			l.calls, l.crashed, l.atLeast = l.calls/10, l.crashed/10, 0
			l.what = "100,000 calls, 100 clients, 1,000 crashed"
		}
		r, err := b.labcheck(ctx, l)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", l.what, err)
		}
		rows = append(rows, r)
	}
	txns := 1_000_000
	if b.time < time.Second/2 {
		txns /= 20
	}
	r, err := b.labappend(ctx, txns)
	if err != nil {
		return rows, fmt.Errorf("%d transactions: %w", txns, err)
	}
	return append(rows, r), nil
}

// labappend judges transactions over lists. Elle, which does the same, is no
// library of Go; what it says of itself is the target.
func (b *bench) labappend(ctx context.Context, txns int) (row, error) {
	r := row{
		What: fmt.Sprintf("check %d transactions over lists, strictly serializable", txns),
		Ours: figure{Who: "append", Unit: "txns/s"},
		Peer: figure{Who: "Elle", Unit: "txns/s"},
		Note: "not run here: Elle needs a JVM; it says 100,000 to 160,000 transactions/s of itself",
	}
	if txns >= 1_000_000 {
		r.Target = &bound{Of: "ours", Value: 160_000}
	}
	h := transactions(txns, 10)
	for range b.rounds {
		n, begin := 0, time.Now()
		for n == 0 || time.Since(begin) < b.time {
			if res := (check.Append{}).Check(ctx, h); res.Verdict != check.Valid {
				return r, fmt.Errorf("the verdict is %s: %s", res.Verdict, res.Summary)
			}
			n++
		}
		r.Ours.Rounds = append(r.Ours.Rounds, float64(n*txns)/time.Since(begin).Seconds())
	}
	r.Ours.Value = median(r.Ours.Rounds)
	b.logf("%s: %s", r.What, r.Ours)
	return r, ctx.Err()
}

// transactions is a history of up to four operations each on four lists, which are
// given up with 48 elements. They take effect one after another, when they end;
// those of the clients overlap.
func transactions(n, clients int) history.History {
	rnd := rand.New(rand.NewPCG(2, uint64(n)))
	var lists [4][]any
	var names [4]string
	made, next := 0, int64(0)
	fresh := func(k int) {
		lists[k], names[k] = nil, fmt.Sprint("k", made)
		made++
	}
	for k := range lists {
		fresh(k)
	}
	h := make(history.History, 0, 2*n)
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
			if lists[k] = append(lists[k], next); len(lists[k]) == 48 {
				fresh(k)
			}
		}
		op := history.Op{Process: i % clients, Type: history.Invoke, F: "txn", Value: in, Time: time.Duration(max(0, 10*(i-clients)+1))}
		h = append(h, op)
		op.Type, op.Value, op.Time = history.OK, out, time.Duration(10*i+1)
		h = append(h, op)
	}
	slices.SortStableFunc(h, func(a, b history.Op) int { return int(a.Time - b.Time) })
	for i := range h {
		h[i].Index = i
	}
	return h
}

func (b *bench) labcheck(ctx context.Context, l labLoad) (row, error) {
	h, ops := l.history()
	r := row{
		What: "check registers: " + l.what,
		Ours: figure{Who: "zones", Unit: "calls/s"},
		Peer: figure{Who: "porcupine", Unit: "calls/s"},
	}
	if l.atLeast > 0 {
		r.Target = &bound{Of: "ours", Value: l.atLeast}
	}
	want := check.Valid
	if l.stale {
		want = check.Invalid
	}
	for range b.rounds {
		n, begin := 0, time.Now()
		for n == 0 || time.Since(begin) < b.time {
			if res := (check.Register{}).Check(ctx, h); res.Verdict != want {
				return r, fmt.Errorf("the verdict is %s, want %s: %s", res.Verdict, want, res.Summary)
			}
			n++
		}
		r.Ours.Rounds = append(r.Ours.Rounds, float64(n*l.calls)/time.Since(begin).Seconds())

		if r.Note != "" || l.calls > 10_000 {
			continue // it does not get there
		}
		n, begin = 0, time.Now()
		for n == 0 || time.Since(begin) < b.time {
			switch got := porcupine.CheckOperationsTimeout(labModel, ops, 20*b.time); {
			case got == porcupine.Unknown, got == porcupine.Illegal && time.Since(begin) >= 20*b.time:
				r.Note = fmt.Sprintf("porcupine did not finish in %s", 20*b.time)
			case (got == porcupine.Ok) != (want == check.Valid):
				return r, fmt.Errorf("porcupine says %s, zones %s", got, want)
			}
			n++
		}
		if r.Note == "" {
			r.Peer.Rounds = append(r.Peer.Rounds, float64(n*l.calls)/time.Since(begin).Seconds())
		}
	}
	r.Ours.Value = median(r.Ours.Rounds)
	switch {
	case l.calls > 10_000:
		r.Note = "not tried with porcupine, which does not finish a thousand calls of 20 clients"
	case r.Note == "":
		r.Peer.Value = median(r.Peer.Rounds)
		ratio := spreadOf(ratios(r.Ours.Rounds, r.Peer.Rounds))
		r.Ratio = &ratio
	default:
		r.Peer.Rounds = nil
	}
	b.logf("%s: %s, %s", l.what, r.Ours, r.Peer)
	return r, ctx.Err()
}

// A labOp is a call as porcupine gets it. Values are unique; 0 is the initial one.
type labOp struct {
	write bool
	value int64
}

var labModel = porcupine.Model{
	Init: func() any { return int64(0) },
	Step: func(state, input, _ any) (bool, any) {
		in := input.(labOp)
		return in.write || in.value == state, in.value
	},
	Hash: func(state any) uint64 { return uint64(state.(int64)) },
}

// history makes the history, for both. Calls take effect in the order in which
// they are made, one every 10 ns, somewhere between beginning and end.
func (l labLoad) history() (history.History, []porcupine.Operation) {
	rnd := rand.New(rand.NewPCG(1, uint64(l.calls)))
	state := make([]int64, l.keys)
	names := make([]string, l.keys)
	for k := range names {
		names[k] = fmt.Sprint("r", k)
	}
	open := make([]history.Op, l.clients) // the completions to come
	h := make(history.History, 0, 2*l.calls)
	ops := make([]porcupine.Operation, 0, l.calls)
	old := int64(0)
	for i := range l.calls {
		p := i % l.clients
		at := int64(i) * 10
		start := int64(0)
		if i >= l.clients {
			h = append(h, open[p])
			start = int64(open[p].Time) + 1
		}
		end := at + 1 + rnd.Int64N(int64(9*l.clients))
		key := rnd.IntN(l.keys)
		op := history.Op{Process: p, Type: history.Invoke, F: "read", Key: names[key], Time: time.Duration(start)}
		in := labOp{value: state[key]}
		done := history.OK
		if rnd.IntN(2) == 0 {
			in = labOp{write: true, value: int64(i + 1)}
			op.F, op.Value = "write", in.value
			state[key] = in.value
			if old == 0 {
				old = in.value
			}
			if l.crashed > 0 && rnd.IntN(l.calls) < 2*l.crashed {
				done = history.Info
			}
		}
		if l.stale && i >= l.calls*3/4 && !in.write {
			in.value, l.stale = old, false
		}
		h = append(h, op)
		op.Type, op.Time = done, time.Duration(end)
		if !in.write {
			if op.Value = in.value; in.value == 0 {
				op.Value = nil
			}
		}
		open[p] = op
		call := porcupine.Operation{ClientId: p, Input: in, Call: start, Return: end}
		if done == history.Info {
			call.Return = math.MaxInt64
		}
		ops = append(ops, call)
	}
	h = append(h, open[:min(l.clients, l.calls)]...)
	for i := range h {
		h[i].Index = i
	}
	return h, ops
}
