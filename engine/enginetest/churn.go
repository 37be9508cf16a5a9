package enginetest

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"holdfast.dev/engine"
)

// event is a change as a writer knows it.
type event struct {
	key, value string
	deleted    bool
}

// journal is what acknowledged transactions did, by revision.
type journal struct {
	mu    sync.Mutex
	byRev map[int64][]event
	first int64 // everything is after it
	last  int64
}

// add notes an acknowledged transaction.
func (j *journal) add(rev int64, evs []event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.byRev[rev] = append(j.byRev[rev], evs...)
	j.last = max(j.last, rev)
}

// churn lets writers put and delete some keys at the same time and returns
// what they did. Before it returns it puts the key "end".
func (w *world) churn(writers, each int) *journal {
	w.Helper()
	j := &journal{byRev: map[int64][]event{}, first: w.read(w.all()).Revision}
	errs := make([]error, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 1))
			for n := 0; n < each && errs[i] == nil; n++ {
				errs[i] = w.churnOnce(j, rng, fmt.Sprintf("%d.%d", i, n))
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			w.Fatalf("writer: %v", err)
		}
	}
	j.add(w.put("end", ""), []event{{key: w.key("end")}})
	return j
}

// churnOnce runs one transaction that writes one to three of eight keys.
func (w *world) churnOnce(j *journal, rng *rand.Rand, value string) error {
	var t engine.Txn
	keys := rng.Perm(8)[:1+rng.IntN(3)]
	for _, k := range keys {
		key := w.key(fmt.Sprint("k", k))
		if rng.IntN(3) == 0 {
			t.Then = append(t.Then, engine.Delete(key))
		} else {
			t.Then = append(t.Then, engine.Put(key, []byte(value)))
		}
	}
	res, err := w.Engine.Txn(w.ctx, t)
	if err != nil {
		return err
	}
	var evs []event
	for i, op := range t.Then {
		switch {
		case op.Kind == engine.OpPut:
			evs = append(evs, event{op.Key, value, false})
		case res.Results[i].Deleted > 0:
			evs = append(evs, event{op.Range.Key, "", true})
		}
	}
	if len(evs) > 0 {
		j.add(res.Revision, evs)
	}
	return nil
}

// lines are the journal from revision rev on, one line per event that the
// filter wants, those of a revision by key.
func (j *journal) lines(rev int64, want func(key string) bool) []string {
	var out []string
	for r, evs := range j.byRev {
		for _, ev := range evs {
			if r >= rev && want(ev.key) {
				out = append(out, line(r, ev))
			}
		}
	}
	slices.Sort(out)
	return out
}

func line(rev int64, ev event) string {
	if ev.deleted {
		return fmt.Sprintf("%012d %s deleted", rev, ev.key)
	}
	return fmt.Sprintf("%012d %s=%s", rev, ev.key, ev.value)
}

// batchLines are the events of batches in the same form and order.
func batchLines(batches []engine.WatchBatch) []string {
	var out []string
	for _, b := range batches {
		for _, ev := range b.Events {
			out = append(out, line(ev.KV.ModRevision, event{ev.KV.Key, string(ev.KV.Value), ev.Deleted}))
		}
	}
	slices.Sort(out)
	return out
}

// wantLines fails unless the batches hold the events that the journal has.
func (w *world) wantLines(batches []engine.WatchBatch, want []string) {
	w.Helper()
	got := batchLines(batches)
	if slices.Equal(got, want) {
		return
	}
	i := 0
	for i < min(len(got), len(want)) && got[i] == want[i] {
		i++
	}
	from := max(i-2, 0)
	w.Fatalf("%d events, want %d; they part at number %d:\n got\n  %s\n want\n  %s", len(got), len(want), i,
		strings.Join(got[from:min(i+3, len(got))], "\n  "), strings.Join(want[from:min(i+3, len(want))], "\n  "))
}

func every(string) bool { return true }
