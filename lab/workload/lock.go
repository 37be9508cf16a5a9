package workload

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"holdfast.dev/lab/history"
)

// locks has each worker acquire a lock, add an element to what the lock
// protects, and release it.
type locks struct {
	base
	keys int
}

func newLocks(cfg Config) generator {
	return &locks{base: base{cfg}, keys: cmp.Or(cfg.Keys, 1)}
}

func (l *locks) Next(w Worker, n int, rnd *rand.Rand) (history.Op, bool) {
	if w.held() {
		switch last := *w.Last; {
		case last.F == "acquire" && last.Type == history.OK:
			return history.Op{F: "add", Key: last.Key, Value: l.unique(w, n)}, true
		case last.F == "add": // also when it failed: the lock is held all the same
			return history.Op{F: "release", Key: last.Key}, true
		}
	}
	return history.Op{F: "acquire", Key: fmt.Sprint("l", rnd.IntN(l.keys))}, true
}

// Final reads what the locks protect.
func (l *locks) Final([]string) []FinalOp {
	var ops []FinalOp
	for k := range l.keys {
		op := final("", history.Op{F: "read", Key: fmt.Sprint("l", k)}, 30*time.Second)
		op.Must = true
		ops = append(ops, op)
	}
	return ops
}

// elections has each worker stand for leader, look who leads, and resign after
// a while: a leader that resigned at once would hardly ever meet another.
type elections struct {
	base
	keys int

	mu    sync.Mutex
	leads map[int]int // worker → the process that was elected
}

func newElections(cfg Config) generator {
	return &elections{base: base{cfg}, keys: cmp.Or(cfg.Keys, 1), leads: map[int]int{}}
}

func (e *elections) Next(w Worker, _ int, rnd *rand.Rand) (history.Op, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if w.held() && w.Last.F == "campaign" && w.Last.Type == history.OK {
		e.leads[w.Index] = w.Process
	}
	process, leads := e.leads[w.Index]
	key := fmt.Sprint("e", w.Index%e.keys)
	switch observe := rnd.Float64() < e.share(0.5); {
	case observe:
		return history.Op{F: "observe", Key: key}, true
	case leads && process == w.Process:
		delete(e.leads, w.Index)
		return history.Op{F: "resign", Key: key}, true
	default:
		return history.Op{F: "campaign", Key: key}, true
	}
}

func (e *elections) Final(nodes []string) []FinalOp {
	var ops []FinalOp
	for _, node := range nodes {
		for k := range e.keys {
			ops = append(ops, final(node, history.Op{F: "observe", Key: fmt.Sprint("e", k)}, 30*time.Second))
		}
	}
	return ops
}
