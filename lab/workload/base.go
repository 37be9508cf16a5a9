package workload

import (
	"time"

	"holdfast.dev/lab/history"
)

// base is what workloads have in common.
type base struct{ cfg Config }

// Setup is nothing, for most.
func (base) Setup() []history.Op { return nil }

// unique is a number that no other operation of the run has, from 1.
func (b base) unique(w Worker, n int) int64 {
	return int64(n)*int64(b.cfg.Workers) + int64(w.Index) + 1
}

// share is the share of reads.
func (b base) share(byDefault float64) float64 {
	if b.cfg.Reads > 0 {
		return b.cfg.Reads
	}
	return byDefault
}

// final is a read at the end.
func final(node string, op history.Op, within time.Duration) FinalOp {
	return FinalOp{Op: op, Node: node, Within: within, Pause: 200 * time.Millisecond}
}
