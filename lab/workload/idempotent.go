package workload

import (
	"math/rand/v2"
	"sync"
	"time"

	"holdfast.dev/lab/history"
)

// requests sends requests again when nobody knows whether they had their effect,
// and now and then when everybody does.
type requests struct {
	base

	mu    sync.Mutex
	tries map[int]int // worker → how often its last request was sent
}

// mostTries is how often one request is sent at most.
const mostTries = 5

func newRequests(cfg Config) generator {
	return &requests{base: base{cfg}, tries: map[int]int{}}
}

func (r *requests) Next(w Worker, n int, rnd *rand.Rand) (history.Op, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	tries := r.tries[w.Index]
	again := rnd.Float64() < 0.2
	if w.Last != nil && w.Last.F == "apply" && tries > 0 && tries < mostTries && (again || w.Last.Type != history.OK) {
		if id, ok := w.Last.Value.(int64); ok {
			r.tries[w.Index]++
			return history.Op{F: "apply", Value: id}, true
		}
	}
	r.tries[w.Index] = 1
	return history.Op{F: "apply", Value: r.unique(w, n)}, true
}

func (r *requests) Final([]string) []FinalOp {
	op := final("", history.Op{F: "effects"}, 60*time.Second)
	op.Must = true
	return []FinalOp{op}
}
