package workload

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"holdfast.dev/lab/history"
)

// appends makes transactions that append unique elements to lists and read
// lists. A few lists are in use at a time; full ones are replaced.
type appends struct {
	base
	keys, perKey, txnOps int

	mu     sync.Mutex
	active []string
	count  []int // appends asked of active
	all    []string
}

func newAppends(cfg Config) generator {
	a := &appends{
		base:   base{cfg},
		keys:   cmp.Or(cfg.Keys, 4),
		perKey: cmp.Or(cfg.OpsPerKey, 48),
		txnOps: cmp.Or(cfg.TxnOps, 4),
	}
	for range a.keys {
		a.active, a.count = append(a.active, a.name()), append(a.count, 0)
	}
	return a
}

// name makes the name of a new list.
func (a *appends) name() string {
	key := fmt.Sprint("k", len(a.all))
	a.all = append(a.all, key)
	return key
}

func (a *appends) Next(w Worker, n int, rnd *rand.Rand) (history.Op, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var txn []any
	for j := range 1 + rnd.IntN(a.txnOps) {
		i := rnd.IntN(len(a.active))
		if rnd.Float64() < a.share(0.5) {
			txn = append(txn, []any{"r", a.active[i], nil})
			continue
		}
		txn = append(txn, []any{"append", a.active[i], a.unique(w, n)*int64(a.txnOps) + int64(j)})
		if a.count[i]++; a.count[i] >= a.perKey {
			a.active[i], a.count[i] = a.name(), 0
		}
	}
	return history.Op{F: "txn", Value: txn}, true
}

// Final reads the newest lists on every node: an element that was lost from the
// end of a list is seen only by who reads later.
func (a *appends) Final(nodes []string) []FinalOp {
	const most, each = 200, 10
	keys := a.all[max(0, len(a.all)-most):]
	var ops []FinalOp
	for _, node := range nodes {
		for from := 0; from < len(keys); from += each {
			var txn []any
			for _, k := range keys[from:min(from+each, len(keys))] {
				txn = append(txn, []any{"r", k, nil})
			}
			ops = append(ops, final(node, history.Op{F: "txn", Value: txn}, 30*time.Second))
		}
	}
	return ops
}

// bank moves money between accounts.
type bank struct {
	base
	accounts int
	total    int64
}

func newBank(cfg Config) generator {
	b := &bank{base: base{cfg}, accounts: cmp.Or(cfg.Accounts, 8)}
	b.total = cmp.Or(cfg.Total, 10*int64(b.accounts))
	return b
}

func (b *bank) Setup() []history.Op {
	return []history.Op{{F: "init", Value: map[string]any{"accounts": int64(b.accounts), "total": b.total}}}
}

func (b *bank) Next(_ Worker, _ int, rnd *rand.Rand) (history.Op, bool) {
	if rnd.Float64() < b.share(0.3) {
		return history.Op{F: "read"}, true
	}
	from := rnd.IntN(b.accounts)
	to := (from + 1 + rnd.IntN(b.accounts-1)) % b.accounts
	return history.Op{F: "transfer", Value: map[string]any{
		"from": strconv.Itoa(from), "to": strconv.Itoa(to), "amount": 1 + rnd.Int64N(5),
	}}, true
}

func (b *bank) Final(nodes []string) []FinalOp {
	var ops []FinalOp
	for _, node := range nodes {
		ops = append(ops, final(node, history.Op{F: "read"}, 60*time.Second))
	}
	return ops
}

// commits makes transactions that all of their participants commit, or none.
type commits struct {
	base
	participants int
}

func newCommits(cfg Config) generator {
	return &commits{base: base{cfg}, participants: cmp.Or(cfg.Keys, 3)}
}

func (c *commits) Next(w Worker, n int, rnd *rand.Rand) (history.Op, bool) {
	order := rnd.Perm(c.participants)
	some := min(c.participants, 2+rnd.IntN(c.participants))
	var names []any
	for _, p := range order[:some] {
		names = append(names, fmt.Sprint("p", p))
	}
	return history.Op{F: "commit", Value: map[string]any{"txn": c.unique(w, n), "participants": names}}, true
}

func (c *commits) Final([]string) []FinalOp {
	var ops []FinalOp
	for p := range c.participants {
		op := final("", history.Op{F: "read", Key: fmt.Sprint("p", p)}, 60*time.Second)
		op.Must = true
		ops = append(ops, op)
	}
	return ops
}
