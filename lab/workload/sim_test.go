package workload

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	"holdfast.dev/lab/history"
)

// model is a perfect system: each operation happens at one moment.
type model struct {
	values   map[string]any // registers
	list     []int64        // set, queue
	sum      int64
	accounts map[string]int64
	lists    map[string][]any
	rev      int64
	events   []map[string]any
	held     map[string]int   // lock → worker
	token    map[string]any   // lock → newest token
	next     int64            // token
	stored   map[string][]any // what locks protect
	effects  []any
	applied  map[int64]bool
	txns     map[string]map[string]any // participant → txn → outcome
	workers  map[int]*session
}

// session is what a client remembers.
type session struct {
	read []any // what it read of the resource, while it works
}

func newModel() *model {
	return &model{
		values: map[string]any{}, lists: map[string][]any{}, held: map[string]int{}, token: map[string]any{},
		stored: map[string][]any{}, applied: map[int64]bool{}, txns: map[string]map[string]any{}, workers: map[int]*session{},
	}
}

// begin is the part of an operation that happens before the rest: a holder reads
// what it will write back.
func (m *model) begin(w int, op history.Op) {
	if m.workers[w] == nil {
		m.workers[w] = &session{}
	}
	if op.F == "add" && op.Key != "" {
		m.workers[w].read = slices.Clone(m.stored[op.Key])
	}
}

// apply makes an operation happen. It is not done yet where wait is true.
func (m *model) apply(workload string, w int, op history.Op) (done history.Op, wait bool) {
	op.Type = history.OK
	fail := func(why string) (history.Op, bool) {
		op.Type, op.Error = history.Fail, why
		return op, false
	}
	switch workload {
	case "register", "cas", "kv":
		switch op.F {
		case "read":
			op.Value = m.values[op.Key]
		case "write":
			m.values[op.Key] = op.Value
		case "delete":
			delete(m.values, op.Key)
		case "cas":
			pair := op.Value.([]any)
			if m.values[op.Key] != pair[0] {
				return fail("another value")
			}
			m.values[op.Key] = pair[1]
		}
	case "set", "queue":
		switch op.F {
		case "add", "enqueue":
			m.list = append(m.list, op.Value.(int64))
		case "read":
			op.Value = anys(m.list)
		case "dequeue":
			if op.Value = nil; len(m.list) > 0 {
				op.Value, m.list = m.list[0], m.list[1:]
			}
		case "drain":
			op.Value, m.list = anys(m.list), nil
		}
	case "counter":
		if op.F == "read" {
			op.Value = m.sum
		} else {
			m.sum += op.Value.(int64)
		}
	case "unique-ids":
		m.next++
		op.Value = m.next
	case "bank":
		return m.bank(op, fail)
	case "append":
		var out []any
		for _, step := range op.Value.([]any) {
			s := slices.Clone(step.([]any))
			key := s[1].(string)
			if s[0] == "append" {
				m.lists[key] = append(m.lists[key], s[2])
			} else {
				s[2] = slices.Clone(m.lists[key])
			}
			out = append(out, s)
		}
		op.Value = out
	case "watch":
		m.watch(&op)
	case "lock", "election":
		return m.lock(w, op, fail)
	case "idempotent":
		if op.F == "effects" {
			op.Value = slices.Clone(m.effects)
		} else if id := op.Value.(int64); !m.applied[id] {
			m.applied[id] = true
			m.effects = append(m.effects, id)
		}
	case "commit":
		m.commit(&op)
	default:
		panic(workload)
	}
	return op, false
}

func (m *model) bank(op history.Op, fail func(string) (history.Op, bool)) (history.Op, bool) {
	v, _ := op.Value.(map[string]any)
	switch op.F {
	case "init":
		n := v["accounts"].(int64)
		m.accounts = map[string]int64{}
		for i := range n {
			m.accounts[strconv.FormatInt(i, 10)] = v["total"].(int64) / n
		}
	case "transfer":
		from, to, amount := v["from"].(string), v["to"].(string), v["amount"].(int64)
		if m.accounts[from] < amount {
			return fail("too little money")
		}
		m.accounts[from] -= amount
		m.accounts[to] += amount
	case "read":
		all := map[string]any{}
		for k, n := range m.accounts {
			all[k] = n
		}
		op.Value = all
	}
	return op, false
}

func (m *model) watch(op *history.Op) {
	switch op.F {
	case "put", "delete":
		m.rev++
		m.events = append(m.events, map[string]any{"rev": m.rev, "key": op.Key, "type": op.F, "value": op.Value})
		op.Value = map[string]any{"rev": m.rev}
	case "watch":
		from := op.Value.(map[string]any)["from"].(int64)
		seen := []any{}
		for _, e := range m.events {
			if from > 0 && e["rev"].(int64) >= from {
				seen = append(seen, maps.Clone(e))
			}
		}
		// From now means: nothing yet, the model's watches take no time. The
		// first watch of a worker starts at the first revision instead.
		if from == 0 {
			for _, e := range m.events {
				seen = append(seen, maps.Clone(e))
			}
		}
		op.Value = seen
	}
}

func (m *model) lock(w int, op history.Op, fail func(string) (history.Op, bool)) (history.Op, bool) {
	switch op.F {
	case "acquire", "campaign":
		if holder, held := m.held[op.Key]; held && holder != w {
			return op, true
		}
		m.held[op.Key] = w
		m.next++
		m.token[op.Key], op.Value = m.next, m.next
	case "release", "resign":
		if holder, held := m.held[op.Key]; !held || holder != w {
			return fail("not held")
		}
		delete(m.held, op.Key)
	case "observe":
		if op.Value = nil; m.heldBy(op.Key) >= 0 {
			op.Value = m.token[op.Key]
		}
	case "add":
		m.stored[op.Key] = append(m.workers[w].read, op.Value)
	case "read":
		op.Value = slices.Clone(m.stored[op.Key])
	}
	return op, false
}

func (m *model) heldBy(key string) int {
	if w, held := m.held[key]; held {
		return w
	}
	return -1
}

func (m *model) commit(op *history.Op) {
	if op.F == "read" {
		all := map[string]any{}
		maps.Copy(all, m.txns[op.Key])
		op.Value = all
		return
	}
	v := op.Value.(map[string]any)
	for _, p := range v["participants"].([]any) {
		name := p.(string)
		if m.txns[name] == nil {
			m.txns[name] = map[string]any{}
		}
		m.txns[name][fmt.Sprint(v["txn"])] = "committed"
	}
}

func anys(list []int64) []any {
	out := []any{}
	for _, v := range list {
		out = append(out, v)
	}
	return out
}

// fault changes what the model does, or what it answers. It is called instead of
// the model's own apply, which it may call.
type fault func(m *model, w int, op history.Op, apply func(history.Op) (history.Op, bool)) (history.Op, bool)

// sim runs a workload against the model: operations of several workers overlap,
// some end with unknown outcome.
type sim struct {
	name    string
	cfg     Config
	ops     int     // of all workers together
	crashes float64 // share of operations whose outcome nobody hears
	fault   fault
	nodes   []string
}

func (s sim) run(t *testing.T, seed uint64) (history.History, Instance) {
	t.Helper()
	in, err := New(s.name, s.cfg)
	if err != nil {
		t.Fatal(err)
	}
	workers := s.cfg.Workers
	if workers == 0 {
		workers = 5
	}
	var (
		m    = newModel()
		h    history.History
		now  time.Duration
		dice = rand.New(rand.NewPCG(seed, 0))
	)
	record := func(op history.Op) history.Op {
		now += time.Duration(1+dice.IntN(1000)) * time.Microsecond
		op.Index, op.Time = len(h), now
		h = append(h, op)
		return op
	}
	apply := func(w int, op history.Op) (history.Op, bool) {
		whole := func(op history.Op) (history.Op, bool) { return m.apply(s.name, w, op) }
		if s.fault != nil {
			return s.fault(m, w, op, whole)
		}
		return whole(op)
	}
	for i, op := range in.Setup() {
		op.Type, op.Process = history.Invoke, 100_000+i
		record(op)
		done, _ := apply(-1, op)
		record(done)
	}

	type state struct {
		Worker

		n    int
		busy *history.Op // invoked
		done *history.Op // happened, not answered
	}
	states := make([]*state, workers)
	for i := range states {
		states[i] = &state{Worker: Worker{Index: i, Process: i, Node: "n1"}}
	}
	end := func(w *state, op history.Op) {
		op = record(op)
		if w.Last = &op; op.Type == history.Info {
			w.Process += workers
			for k, holder := range m.held { // its session ends with it
				if holder == w.Index {
					delete(m.held, k)
				}
			}
		}
		w.busy, w.done = nil, nil
	}
	issued := 0
	for spin := 0; issued < s.ops || slices.ContainsFunc(states, func(w *state) bool { return w.busy != nil }); spin++ {
		if spin > 200*s.ops {
			t.Fatal("the run does not end")
		}
		w := states[dice.IntN(workers)]
		switch {
		case w.busy == nil && issued >= s.ops:
		case w.busy == nil:
			op, ok := in.Next(w.Worker, w.n, rand.New(rand.NewPCG(seed, uint64(w.Index)<<32|uint64(w.n)+1)))
			if !ok {
				continue
			}
			w.n++
			issued++
			op.Type, op.Process, op.Node = history.Invoke, w.Process, w.Node
			op = record(op)
			w.busy = &op
			m.begin(w.Index, op)
		case w.done == nil:
			if dice.Float64() < s.crashes/2 { // before it happened
				lost := *w.busy
				lost.Type, lost.Error = history.Info, "timeout"
				end(w, lost)
				continue
			}
			done, wait := apply(w.Index, *w.busy)
			if wait {
				if issued >= s.ops || dice.IntN(50) == 0 {
					lost := *w.busy
					lost.Type, lost.Error = history.Info, "gave up waiting"
					end(w, lost)
				}
				continue
			}
			w.done = &done
		case dice.Float64() < s.crashes/2: // after it happened
			lost := *w.busy
			lost.Type, lost.Error = history.Info, "timeout"
			end(w, lost)
		default:
			end(w, *w.done)
		}
	}
	for i, f := range in.Final(s.nodes) {
		op := f.Op
		op.Type, op.Process, op.Node = history.Invoke, 200_000+i, f.Node
		if f.Within <= 0 || f.Pause <= 0 {
			t.Errorf("final read %d has no rule: %+v", i, f)
		}
		record(op)
		done, _ := apply(-1, op)
		record(done)
	}
	return h, in
}
