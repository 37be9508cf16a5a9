package workload

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
)

// base runs of all workloads: many enough operations for each to show all that it does.
func sims() []sim {
	return []sim{
		{name: "register", ops: 2000},
		{name: "cas", ops: 3000, cfg: Config{Workers: 12}},
		{name: "kv", ops: 3000, cfg: Config{Workers: 12}},
		{name: "set", ops: 1500},
		{name: "queue", ops: 1000},
		{name: "bank", ops: 1000},
		{name: "append", ops: 1000},
		{name: "watch", ops: 600},
		{name: "lock", ops: 600, cfg: Config{Fencing: true}},
		{name: "election", ops: 600},
		{name: "unique-ids", ops: 300},
		{name: "counter", ops: 400},
		{name: "idempotent", ops: 500},
		{name: "commit", ops: 400},
	}
}

func simOf(name string) sim {
	all := sims()
	return all[slices.IndexFunc(all, func(s sim) bool { return s.name == name })]
}

// judge runs all checks of a workload.
func judge(t *testing.T, in Instance, h history.History) (verdict check.Verdict, results []check.Result) {
	t.Helper()
	for _, c := range in.Checks() {
		results = append(results, c.Func(t.Context(), h))
	}
	return check.Merge(results...), results
}

func explain(results []check.Result) string {
	var b strings.Builder
	for _, r := range results {
		fmt.Fprintf(&b, "\n%s: %s: %s\n\t%s", r.Checker, r.Verdict, r.Summary, strings.Join(r.Witness, "\n\t"))
	}
	return b.String()
}

// A system without faults is valid, whether or not its clients hear of it.
func TestPerfect(t *testing.T) {
	for _, name := range Names() {
		for _, crashes := range []float64{0, 0.05} {
			t.Run(fmt.Sprint(name, " crashes ", crashes), func(t *testing.T) {
				s := simOf(name)
				s.crashes, s.nodes = crashes, []string{"n1", "n2"}
				h, in := s.run(t, 1)
				verdict, results := judge(t, in, h)
				want := check.Valid
				if name == "queue" && crashes > 0 {
					want = check.Unknown // a dequeue without answer took its element along, or not
				}
				if verdict != want {
					t.Errorf("got %s, want %s%s", verdict, want, explain(results))
				}
			})
		}
	}
}

// The same seed asks the same, in the same order, as long as the answers are the same.
func TestRepeats(t *testing.T) {
	for _, name := range Names() {
		s := simOf(name)
		s.ops, s.crashes = 200, 0.05
		a, _ := s.run(t, 7)
		b, _ := s.run(t, 7)
		c, _ := s.run(t, 8)
		if !reflect.DeepEqual(a, b) {
			t.Errorf("%s: two runs of one seed differ", name)
		}
		if reflect.DeepEqual(a, c) {
			t.Errorf("%s: another seed changes nothing", name)
		}
	}
}

// Values are such as histories have, whole and of the types that the contract says.
func TestValuesAreNormal(t *testing.T) {
	for _, name := range Names() {
		h, _ := simOf(name).run(t, 2)
		for _, op := range h {
			if op.Type != history.Invoke {
				continue
			}
			v, err := history.Normalize(op.Value)
			if err != nil || !reflect.DeepEqual(v, op.Value) {
				t.Fatalf("%s: %s has the value %#v, which a history would have as %#v (%v)", name, op.F, op.Value, v, err)
			}
		}
	}
}

// Unique means unique: over workers, over transactions, whatever happened.
func TestValuesAreUnique(t *testing.T) {
	for _, tc := range []struct{ name, f string }{
		{"register", "write"}, {"cas", "write"}, {"set", "add"}, {"queue", "enqueue"}, {"lock", "add"}, {"watch", "put"},
	} {
		s := simOf(tc.name)
		s.crashes = 0.05
		h, _ := s.run(t, 3)
		seen := map[any]bool{}
		for _, op := range h {
			if op.Type != history.Invoke || op.F != tc.f {
				continue
			}
			if seen[op.Value] {
				t.Errorf("%s: %s %v twice", tc.name, tc.f, op.Value)
			}
			seen[op.Value] = true
		}
		if len(seen) < 50 {
			t.Errorf("%s: only %d %ss", tc.name, len(seen), tc.f)
		}
	}
	h, _ := simOf("append").run(t, 3)
	seen := map[any]bool{}
	for _, op := range h {
		if op.Type != history.Invoke {
			continue
		}
		for _, step := range op.Value.([]any) {
			if s := step.([]any); s[0] == "append" {
				if seen[s[2]] {
					t.Errorf("append %v twice", s[2])
				}
				seen[s[2]] = true
			}
		}
	}
}

// What keeps the search for a linearization short.
func TestRotation(t *testing.T) {
	s := simOf("kv")
	s.cfg.OpsPerKey, s.cfg.Workers, s.cfg.Keys, s.crashes = 40, 25, 1, 0.5
	h, _ := s.run(t, 4)
	type use struct {
		ops, crashed int
		workers      map[int]bool
	}
	uses := map[string]*use{}
	for _, op := range h {
		if op.Process >= 100_000 {
			continue
		}
		u := uses[op.Key]
		if u == nil {
			u = &use{workers: map[int]bool{}}
			uses[op.Key] = u
		}
		switch {
		case op.Type == history.Invoke:
			u.ops++
			u.workers[op.Process%25] = true
		case op.Type == history.Info && op.F != "read":
			u.crashed++
		}
	}
	crashed := 0
	for key, u := range uses {
		crashed = max(crashed, u.crashed)
		if u.ops > 40 || len(u.workers) > workersPerKey {
			t.Errorf("%s: %d operations of %d workers", key, u.ops, len(u.workers))
		}
		// Those that were under way when the fifth was heard of may come on top.
		if u.crashed > crashesPerKey+len(u.workers) {
			t.Errorf("%s: %d crashed mutations", key, u.crashed)
		}
	}
	if len(uses) < 20 || crashed < crashesPerKey {
		t.Errorf("%d keys, at most %d crashes: the test shows nothing", len(uses), crashed)
	}
}

// Lists are given up before they grow long.
func TestListsAreReplaced(t *testing.T) {
	s := simOf("append")
	s.cfg = Config{OpsPerKey: 12, Keys: 3}
	h, in := s.run(t, 4)
	appends := map[string]int{}
	for _, op := range h {
		if op.Type != history.Invoke {
			continue
		}
		for _, step := range op.Value.([]any) {
			if s := step.([]any); s[0] == "append" {
				appends[s[1].(string)]++
			}
		}
	}
	for key, n := range appends {
		if n > 12 {
			t.Errorf("%s has %d elements", key, n)
		}
	}
	read := 0
	for _, f := range in.Final([]string{"n1", "n2"}) {
		read += len(f.Op.Value.([]any))
	}
	if want := 2 * min(len(appends), 200); len(appends) < 20 || read < want || read > want+6 {
		t.Errorf("%d lists, of which the final reads read %d on two nodes", len(appends), read)
	}
}

// A holder adds, then releases, and forgets both where its client is a new one.
func TestLockSequence(t *testing.T) {
	in, err := New("lock", Config{Keys: 3})
	if err != nil {
		t.Fatal(err)
	}
	at := func(f string, typ history.Type) *history.Op {
		return &history.Op{F: f, Key: "l2", Type: typ, Process: 4}
	}
	for _, tc := range []struct {
		last    *history.Op
		process int
		want    string
	}{
		{nil, 4, "acquire"},
		{at("acquire", history.OK), 4, "add l2"},
		{at("acquire", history.Fail), 4, "acquire"},
		{at("acquire", history.Info), 9, "acquire"},
		{at("add", history.OK), 4, "release l2"},
		{at("add", history.Fail), 4, "release l2"},
		{at("add", history.Info), 9, "acquire"},
		{at("release", history.OK), 4, "acquire"},
		{at("release", history.Fail), 4, "acquire"},
	} {
		op, ok := in.Next(Worker{Index: 1, Process: tc.process, Last: tc.last}, 5, rand.New(rand.NewPCG(1, 2)))
		got := op.F
		if op.F != "acquire" {
			got += " " + op.Key
		}
		if !ok || got != tc.want {
			t.Errorf("after %+v: %s, want %s", tc.last, got, tc.want)
		}
		if op.F == "add" && op.Value != int64(5*5+1+1) {
			t.Errorf("it adds %v", op.Value)
		}
	}
}

// Who was elected stays a while, looks around, and resigns; who has a new client
// was not elected.
func TestElectionSequence(t *testing.T) {
	in, err := New("election", Config{})
	if err != nil {
		t.Fatal(err)
	}
	stays, resigns := 0, 0
	for round := range 200 {
		last := &history.Op{F: "campaign", Type: history.OK, Process: 4}
		for n := 0; ; n++ {
			op, _ := in.Next(Worker{Index: 1, Process: 4, Last: last}, n, rand.New(rand.NewPCG(uint64(round), uint64(n))))
			last = &history.Op{F: op.F, Type: history.OK, Process: 4}
			if op.F == "campaign" {
				t.Fatal("a leader campaigns")
			}
			if op.F == "resign" {
				resigns++
				break
			}
			stays++
		}
	}
	if stays < resigns/2 || resigns != 200 {
		t.Errorf("%d leaders looked around %d times", resigns, stays)
	}
	for n := range 50 {
		last := &history.Op{F: "campaign", Type: history.OK, Process: 4}
		if op, _ := in.Next(Worker{Index: 1, Process: 9, Last: last}, n, rand.New(rand.NewPCG(1, uint64(n)))); op.F == "resign" {
			t.Error("it resigns for its predecessor")
		}
	}
}

// A watcher goes on after what it saw, also when a watch ended in nothing.
func TestWatchResumes(t *testing.T) {
	in, err := New("watch", Config{})
	if err != nil {
		t.Fatal(err)
	}
	event := func(rev int64) any { return map[string]any{"rev": rev, "key": "w0", "type": "put", "value": int64(1)} }
	for i, tc := range []struct {
		last *history.Op
		want int64
	}{
		{nil, 1},
		{&history.Op{F: "watch", Type: history.OK, Value: []any{event(5), event(9), event(7)}}, 10},
		{&history.Op{F: "watch", Type: history.OK, Value: []any{}}, 10},
		{&history.Op{F: "watch", Type: history.Info, Value: map[string]any{"from": int64(10), "for_ms": int64(500)}}, 10},
		{&history.Op{F: "watch", Type: history.OK, Value: []any{event(10)}}, 11},
	} {
		op, _ := in.Next(Worker{Index: 1, Last: tc.last}, i, rand.New(rand.NewPCG(1, 2)))
		if op.F != "watch" || op.Value.(map[string]any)["from"] != tc.want || op.Value.(map[string]any)["for_ms"] != int64(500) {
			t.Errorf("%d: %s %v, want to go on from %d", i, op.F, op.Value, tc.want)
		}
	}
	if op, _ := in.Next(Worker{Index: 4}, 0, rand.New(rand.NewPCG(1, 2))); op.Value.(map[string]any)["from"] != int64(0) {
		t.Errorf("another one begins at %v", op.Value)
	}
}

// A request goes again with the same id while nobody knows, and not for ever.
func TestRequestsRepeat(t *testing.T) {
	in, err := New("idempotent", Config{})
	if err != nil {
		t.Fatal(err)
	}
	var last *history.Op
	sent := map[any]int{}
	for n := range 100 {
		op, _ := in.Next(Worker{Index: 2, Process: n, Last: last}, n, rand.New(rand.NewPCG(1, uint64(n))))
		sent[op.Value]++
		op.Type, op.Process = history.Info, n
		last = &op
	}
	for id, n := range sent {
		if n != mostTries {
			t.Errorf("request %v was sent %d times, want %d", id, n, mostTries)
		}
	}
	h, _ := simOf("idempotent").run(t, 1)
	sent = map[any]int{}
	again := 0
	for _, op := range h {
		if op.Type == history.Invoke && op.F == "apply" {
			if sent[op.Value]++; sent[op.Value] == 2 {
				again++
			}
		}
	}
	if again < 20 {
		t.Errorf("of %d requests that were answered %d were sent again", len(sent), again)
	}
}

func TestConfig(t *testing.T) {
	for _, tc := range []struct {
		name string
		cfg  Config
		want string
	}{
		{"nonsense", Config{}, `workload "nonsense": there is none; there are append, bank,`},
		{"set", Config{Keys: 3}, "workload set: keys: this workload has no use for it"},
		{"queue", Config{Reads: 0.5}, "reads: this workload has no use"},
		{"register", Config{Reads: 1}, "reads must be above 0 and below 1"},
		{"register", Config{Fencing: true}, "fencing: this workload has no use"},
		{"cas", Config{OpsPerKey: 1}, "ops_per_key must be at least 2"},
		{"bank", Config{Accounts: 1, Total: -1}, "accounts must be between 2 and 1000\ntotal must be above 0"},
		{"register", Config{Workers: -1}, "workers must be at least 1"},
		{"watch", Config{WatchFor: 1}, "watch_for must be at least 1ms"},
		{"lock", Config{Hold: -1}, "hold must be above 0"},
		{"append", Config{TxnOps: 100}, "txn_ops must be between"},
	} {
		_, err := New(tc.name, tc.cfg)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %+v: %v, want %q", tc.name, tc.cfg, err, tc.want)
		}
	}
	for _, name := range Names() {
		if Doc(name) == "" || strings.Contains(Doc(name), "\n") {
			t.Errorf("%s has no line that describes it", name)
		}
	}
	if Doc("nonsense") != "" {
		t.Error("nonsense is described")
	}
}
