package workload

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"time"

	"holdfast.dev/lab/history"
)

// registers reads and writes a few registers for the whole run. Written values
// are unique, so that the check stays cheap whatever the concurrency.
type registers struct {
	base
	keys int
}

func newRegisters(cfg Config) generator {
	return &registers{base: base{cfg}, keys: cmp.Or(cfg.Keys, 3)}
}

func (r *registers) Next(w Worker, n int, rnd *rand.Rand) (history.Op, bool) {
	key := fmt.Sprint("r", rnd.IntN(r.keys))
	if rnd.Float64() < r.share(0.5) {
		return history.Op{F: "read", Key: key}, true
	}
	return history.Op{F: "write", Key: key, Value: r.unique(w, n)}, true
}

func (r *registers) Final(nodes []string) []FinalOp {
	var ops []FinalOp
	for _, node := range nodes {
		for k := range r.keys {
			ops = append(ops, final(node, history.Op{F: "read", Key: fmt.Sprint("r", k)}, 30*time.Second))
		}
	}
	return ops
}
