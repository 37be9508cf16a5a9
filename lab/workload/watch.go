package workload

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"holdfast.dev/lab/history"
)

// watches changes a few keys, and has some workers watch all of them. A watcher
// goes on where its last watch ended.
type watches struct {
	base
	keys int
	last time.Duration // of a watch

	mu   sync.Mutex
	next map[int]int64 // worker → revision to go on from
}

func newWatches(cfg Config) generator {
	return &watches{
		base: base{cfg},
		keys: cmp.Or(cfg.Keys, 4),
		last: cmp.Or(cfg.WatchFor, 500*time.Millisecond),
		next: map[int]int64{},
	}
}

// watcher says whether a worker watches: every third does, and one alone does both.
func (s *watches) watcher(w Worker, n int) bool {
	if s.cfg.Workers == 1 {
		return n%2 == 1
	}
	return w.Index%3 == 1
}

func (s *watches) Next(w Worker, n int, rnd *rand.Rand) (history.Op, bool) {
	if s.watcher(w, n) {
		return history.Op{F: "watch", Value: map[string]any{"from": s.resume(w), "for_ms": s.last.Milliseconds()}}, true
	}
	key := fmt.Sprint("w", rnd.IntN(s.keys))
	if rnd.IntN(5) == 0 {
		return history.Op{F: "delete", Key: key}, true
	}
	return history.Op{F: "put", Key: key, Value: s.unique(w, n)}, true
}

// resume is the revision after the last that the worker has seen. Before it saw
// any, one half of the watchers begins with the first there is, the other with
// whatever comes next.
func (s *watches) resume(w Worker) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.Last != nil && w.Last.F == "watch" && w.Last.Type == history.OK {
		events, _ := w.Last.Value.([]any)
		for _, e := range events {
			if m, ok := e.(map[string]any); ok {
				if rev, ok := m["rev"].(int64); ok {
					s.next[w.Index] = max(s.next[w.Index], rev+1)
				}
			}
		}
	}
	if s.next[w.Index] == 0 && w.Index/3%2 == 0 {
		return 1
	}
	return s.next[w.Index]
}

// Final watches everything from the beginning, on every node.
func (s *watches) Final(nodes []string) []FinalOp {
	var ops []FinalOp
	for _, node := range nodes {
		ops = append(ops, final(node, history.Op{F: "watch", Value: map[string]any{"from": int64(1), "for_ms": int64(3000)}}, 30*time.Second))
	}
	return ops
}
