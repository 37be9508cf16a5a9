package workload

import (
	"math/rand/v2"
	"time"

	"holdfast.dev/lab/history"
)

// sets adds unique elements to one set.
type sets struct{ base }

func newSets(cfg Config) generator { return sets{base{cfg}} }

func (s sets) Next(w Worker, n int, rnd *rand.Rand) (history.Op, bool) {
	// Each read returns all there is: few suffice, or they are all that happens.
	if rnd.Float64() < s.share(0.02) {
		return history.Op{F: "read"}, true
	}
	return history.Op{F: "add", Value: s.unique(w, n)}, true
}

func (sets) Final(nodes []string) []FinalOp {
	var ops []FinalOp
	for _, node := range nodes {
		op := final(node, history.Op{F: "read"}, 60*time.Second)
		op.Must = true
		ops = append(ops, op)
	}
	return ops
}

// queues moves unique elements through one queue.
type queues struct{ base }

func newQueues(cfg Config) generator { return queues{base{cfg}} }

func (q queues) Next(w Worker, n int, rnd *rand.Rand) (history.Op, bool) {
	if rnd.IntN(2) == 0 {
		return history.Op{F: "dequeue"}, true
	}
	return history.Op{F: "enqueue", Value: q.unique(w, n)}, true
}

func (queues) Final([]string) []FinalOp {
	op := final("", history.Op{F: "drain"}, 60*time.Second)
	op.Must = true
	return []FinalOp{op}
}

// counters adds to one counter.
type counters struct{ base }

func newCounters(cfg Config) generator { return counters{base{cfg}} }

func (c counters) Next(_ Worker, _ int, rnd *rand.Rand) (history.Op, bool) {
	if rnd.Float64() < c.share(0.3) {
		return history.Op{F: "read"}, true
	}
	return history.Op{F: "add", Value: 1 + rnd.Int64N(5)}, true
}

func (counters) Final(nodes []string) []FinalOp {
	var ops []FinalOp
	for _, node := range nodes {
		ops = append(ops, final(node, history.Op{F: "read"}, 60*time.Second))
	}
	return ops
}

// ids asks for identifiers that nobody else gets.
type ids struct{ base }

func newIDs(cfg Config) generator { return ids{base{cfg}} }

func (ids) Next(Worker, int, *rand.Rand) (history.Op, bool) {
	return history.Op{F: "generate"}, true
}

func (ids) Final([]string) []FinalOp { return nil }
