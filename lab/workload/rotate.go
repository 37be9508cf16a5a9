package workload

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"holdfast.dev/lab/history"
)

// The search for a linearization grows exponentially with the calls that are
// open at once, those that crashed among them: at most so many workers share a
// key, and so many mutations of unknown outcome end its use.
const (
	workersPerKey = 10
	crashesPerKey = 5
)

// rotating works on compare-and-set objects of which a few are in use at a time:
// each group of workers has one, and takes a new one after so many operations.
type rotating struct {
	base
	deletes bool

	mu     sync.Mutex
	groups []group
}

type group struct {
	epoch   int // which of the group's keys is in use
	ops     int // asked of it
	crashed int // mutations of it with unknown outcome
	seen    any // what it held, as far as a worker of the group knows
}

func newCAS(cfg Config) generator { return newRotating(cfg, false) }

func newKV(cfg Config) generator { return newRotating(cfg, true) }

func newRotating(cfg Config, deletes bool) generator {
	least := (cfg.Workers + workersPerKey - 1) / workersPerKey
	groups := min(max(cmp.Or(cfg.Keys, (cfg.Workers+4)/5), least), cfg.Workers)
	return &rotating{base: base{cfg}, deletes: deletes, groups: make([]group, groups)}
}

func (r *rotating) key(g, epoch int) string { return fmt.Sprintf("c%d-%d", g, epoch) }

func (r *rotating) Next(w Worker, n int, rnd *rand.Rand) (history.Op, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	i := w.Index % len(r.groups)
	g := &r.groups[i]
	if w.Last != nil && w.Last.Key == r.key(i, g.epoch) {
		g.learn(*w.Last)
	}
	if g.ops >= cmp.Or(r.cfg.OpsPerKey, 150) || g.crashed >= crashesPerKey {
		*g = group{epoch: g.epoch + 1}
	}
	g.ops++

	op := history.Op{Key: r.key(i, g.epoch)}
	reads := r.share(0.4)
	dice := rnd.Float64()
	switch rest := (dice - reads) / (1 - reads); {
	case dice < reads:
		op.F = "read"
	case r.deletes && rest < 0.15:
		op.F = "delete"
	case rest < 0.55 || g.seen == nil:
		op.F, op.Value = "write", r.unique(w, n)
	default:
		op.F, op.Value = "cas", []any{g.seen, r.unique(w, n)}
	}
	return op, true
}

// learn takes in what a completion says of the group's key.
func (g *group) learn(op history.Op) {
	if op.Type == history.Info && op.F != "read" {
		g.crashed++
	}
	if op.Type != history.OK {
		return
	}
	switch v := op.Value.(type) {
	case []any:
		if op.F == "cas" && len(v) == 2 {
			g.seen = v[1]
		}
	default:
		if op.F == "delete" {
			v = nil
		}
		g.seen = v
	}
}

// Final reads the newest keys of each group: older ones were read often enough.
func (r *rotating) Final(nodes []string) []FinalOp {
	var ops []FinalOp
	for _, node := range nodes {
		for i, g := range r.groups {
			for epoch := max(0, g.epoch-1); epoch <= g.epoch; epoch++ {
				ops = append(ops, final(node, history.Op{F: "read", Key: r.key(i, epoch)}, 30*time.Second))
			}
		}
	}
	return ops
}
