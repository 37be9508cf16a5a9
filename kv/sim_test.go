package kv

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/internal/simtest"
)

// The size of a simulation. The checker's cost grows steeply with clients.
const (
	simClients   = 4
	simCalls     = 20
	checkTimeout = time.Minute
)

// TestSimulation_KV runs clients that write and read a few keys over engines
// which lose, delay and repeat what they send, and that pause, die and lose
// their sessions, while history is compacted and the quorum goes away. What
// they saw must be what a store that does one thing at a time could have shown;
// what watchers and readers of the past saw must be what happened.
func TestSimulation_KV(t *testing.T) {
	simtest.Run(t, 150, func(t *testing.T, seed uint64) {
		if err := simulate(t, seed, mutant{}); err != nil {
			t.Error(err)
		}
	})
}

// mutant is a defect planted under or into the stores of a simulation.
type mutant struct {
	name   string
	engine func(engine.Engine) engine.Engine // wraps each client's engine
	store  func(*engine.Session, *Store)     // changes each client's store
}

// sim is one run.
type sim struct {
	seed    uint64
	mutant  mutant
	mem     *engine.Memory
	history history

	mu      sync.Mutex // guards the fields below
	faults  []error
	rng     *rand.Rand // for what is shared: tokens, values
	values  int
	token   uint64
	snapped []snapshot
}

// snapshot is what was read of a past or stale state.
type snapshot struct {
	what  string
	at    int64
	key   string
	entry Entry
	found bool
}

// fail notes that something is wrong.
func (s *sim) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fmt.Errorf(format, args...))
}

// value is one that no other write has.
func (s *sim) value() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.values++
	return fmt.Sprintf("v%d", s.values)
}

// fence is a token: mostly the newest, sometimes an older or a newer one.
func (s *sim) fence(rng *rand.Rand) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch rng.IntN(6) {
	case 0:
		s.token++
	case 1:
		return max(s.token, 2) - 1
	}
	return max(s.token, 1)
}

// simulate runs one seed and says what is wrong.
func simulate(t *testing.T, seed uint64, m mutant) error {
	t.Helper()
	s := &sim{seed: seed, mutant: m, rng: rand.New(rand.NewPCG(seed, 1))}
	synctest.Test(t, s.run)
	if err := errors.Join(s.faults...); err != nil {
		return err
	}
	return s.history.check()
}

// run is the world: clients, watchers, and what happens to all of them.
func (s *sim) run(t *testing.T) {
	s.mem = engine.NewMemory(engine.MemoryConfig{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var clients, others sync.WaitGroup
	for i := range simClients {
		clients.Go(func() { s.client(ctx, i) })
	}
	var truth []Event
	others.Go(func() { truth = s.record(ctx) })
	watched := make([]seen, 2)
	for i := range watched {
		others.Go(func() { watched[i] = s.watcher(ctx, uint64(i)) })
	}
	others.Go(func() { s.weather(ctx) })
	clients.Wait()
	s.audit(ctx)
	wait(ctx, 2*watchSilence) // for what is still under way, and for the watchers
	cancel()
	others.Wait()
	s.compare(truth, watched)
	_ = s.mem.Close()
}

// wait lets time pass, and says whether ctx still goes on.
func wait(ctx context.Context, d time.Duration) bool { return simtest.Doze(ctx, d) }

// weather takes the quorum away and compacts history from time to time.
func (s *sim) weather(ctx context.Context) {
	rng := rand.New(rand.NewPCG(s.seed, 2))
	for wait(ctx, time.Duration(500+rng.IntN(9500))*time.Millisecond) {
		switch rng.IntN(3) {
		case 0:
			s.mem.Outage(true)
			wait(ctx, time.Duration(rng.IntN(4000))*time.Millisecond)
			s.mem.Outage(false)
		case 1:
			synctest.Wait() // the recorder has read all there is
			if st, err := s.mem.Status(ctx); err == nil {
				_ = s.mem.Compact(ctx, st.Revision-int64(rng.IntN(10)))
			}
		}
	}
}

// network is what a client has between itself and the quorum.
func network(e engine.Engine, seed uint64) *engine.FaultyEngine {
	return engine.Faulty(e, engine.FaultConfig{
		Seed: seed, LoseRequest: 0.03, LoseResponse: 0.06, DelayP: 0.2, Delay: 1500 * time.Millisecond, Duplicate: 0.06,
	})
}

// trouble pauses the process and cuts its connections until ctx ends.
func trouble(ctx context.Context, net *engine.FaultyEngine, rng *rand.Rand) {
	for wait(ctx, time.Duration(rng.IntN(12000))*time.Millisecond) {
		if rng.IntN(2) == 0 {
			net.Pause()
			wait(ctx, time.Duration(rng.IntN(7000))*time.Millisecond)
			net.Resume()
		} else {
			net.Cut(true)
			wait(ctx, time.Duration(rng.IntN(5000))*time.Millisecond)
			net.Cut(false)
		}
	}
}

// client makes calls, in as many lives as it takes.
func (s *sim) client(ctx context.Context, id int) {
	rng := rand.New(rand.NewPCG(s.seed, 100+uint64(id)))
	for life, calls := uint64(0), 0; calls < simCalls; life++ {
		calls += s.life(ctx, id, rng, life, simCalls-calls)
	}
}

// life is one session of a client: until it has made its calls, until it
// crashes, or until it loses the session. It returns the number of calls.
func (s *sim) life(ctx context.Context, id int, rng *rand.Rand, life uint64, calls int) int {
	net := network(s.mem, s.seed<<16|uint64(id)<<8|life)
	defer func() { _ = net.Close() }()
	var e engine.Engine = net
	if s.mutant.engine != nil {
		e = s.mutant.engine(e)
	}
	session, err := engine.OpenSession(ctx, e, engine.SessionConfig{
		TTL: time.Duration(2+rng.IntN(4)) * time.Second, ID: engine.SessionID(rng.Int64N(1<<62) + 1),
	})
	if err != nil {
		return 0 // its lease ran out before it was open: another life
	}
	store := New(session)
	if s.mutant.store != nil {
		s.mutant.store(session, store)
	}
	lifetime, die := context.WithCancel(ctx)
	var nemesis sync.WaitGroup
	nemesis.Go(func() { trouble(lifetime, net, rand.New(rand.NewPCG(s.seed, 1000+uint64(id)<<8+life))) })
	c := &simClient{sim: s, id: id, rng: rng, session: session, store: store}
	if s.mutant.store == nil && s.seed%2 == 0 {
		c.remote, c.request = NewFor(e, 0), engine.RequestID{Session: session.ID(), Slot: 9}
	}
	made := 0
	for made < calls && session.Err() == nil {
		c.call(lifetime)
		made++
		wait(ctx, time.Duration(rng.IntN(400))*time.Millisecond)
		if rng.IntN(20) == 0 { // crash: nothing it sends arrives any more
			break
		}
	}
	die()
	nemesis.Wait()
	net.Cut(true)
	gone, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = session.Close(gone)
	return made
}

// simClient is a client in one of its lives.
type simClient struct {
	sim     *sim
	id      int
	rng     *rand.Rand
	session *engine.Session
	store   *Store
	remote  *Store             // the store of a node that writes for it, or nil
	request engine.RequestID   // of its last write there
	seen    [len(simKeys)]cell // as it last read or wrote them
}

// call makes one call at random and notes it.
func (c *simClient) call(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(300+c.rng.IntN(4000))*time.Millisecond)
	defer cancel()
	in := simInput{key: c.rng.IntN(len(simKeys))}
	var opts []WriteOption
	if c.rng.IntN(4) == 0 {
		in.token = c.sim.fence(c.rng)
		opts = append(opts, Fenced("resource", holdfast.Token(in.token)))
	}
	switch n := c.rng.IntN(20); {
	case n < 6:
		in.code, in.token = doGet, 0
	case n < 10:
		in.code, in.value = doPut, c.sim.value()
	case n < 15:
		in.code, in.value, in.expect = doSet, c.sim.value(), c.seen[in.key].value
	case n < 17:
		in.code, in.value, in.expect = doSwap, c.sim.value(), c.seen[in.key].value
	case n < 18:
		in.code = doDelete
	default:
		c.look(ctx, simKeys[in.key])
		return
	}
	if c.remote != nil { // a write of its own request id, sent by some node
		c.request.Seq++
		c.store = c.remote.For(Caller{Request: &c.request})
	}
	start := c.sim.history.now()
	out, err := c.send(ctx, in, opts)
	if c.remote != nil && err != nil && holdfast.OutcomeOf(err) == holdfast.Unknown && c.rng.IntN(2) == 0 {
		again, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
		defer cancel()
		out, err = c.send(again, in, opts)
	}
	switch {
	case err == nil && in.code == doDelete:
		c.seen[in.key] = cell{}
	case err == nil && (in.code == doPut || in.code == doSet):
		c.seen[in.key] = cell{in.value, out.rev}
	case errors.Is(err, holdfast.ErrConflict):
		out = simOutput{conflict: true}
	case errors.Is(err, holdfast.ErrFenced):
		out = simOutput{fenced: true}
	case err == nil:
	case in.code == doGet:
		return // it read nothing
	default:
		var drop bool
		if out, drop = c.settle(context.WithoutCancel(ctx), err); drop && in.token == 0 {
			return
		}
		if drop { // it changed nothing, but the fence may have seen its token
			in, out = simInput{code: doRaise, token: in.token}, simOutput{unknown: true}
		}
	}
	c.sim.history.add(c.id, in, start, out)
}

// send makes the call at the store.
func (c *simClient) send(ctx context.Context, in simInput, opts []WriteOption) (out simOutput, err error) {
	key, value := simKeys[in.key], []byte(in.value)
	switch in.code {
	case doGet:
		var e Entry
		e, err = c.store.Get(ctx, key)
		if errors.Is(err, holdfast.ErrNotFound) {
			err = nil
		}
		out.cells[in.key] = cell{string(e.Value), e.Revision}
		if err == nil {
			c.seen[in.key] = out.cells[in.key]
		}
	case doPut:
		out.rev, err = c.store.Put(ctx, key, value, opts...)
	case doSet:
		out.rev, err = c.store.CompareAndSet(ctx, key, c.seen[in.key].rev, value, opts...)
	case doDelete:
		var d Deleted
		d, err = c.store.Delete(ctx, key, opts...)
		out.rev, out.existed = d.Revision, d.Existed
	case doSwap:
		t := Txn{If: []Cond{RevisionIs(key, c.seen[in.key].rev)}}
		for _, k := range simKeys {
			t.Then = append(t.Then, Put(k, []byte(in.value+k)))
			t.Else = append(t.Else, Get(k))
		}
		var res TxnResult
		res, err = c.store.Txn(ctx, t, opts...)
		out.rev, out.conflict = res.Revision, !res.Succeeded
		for i := range simKeys {
			switch {
			case err != nil:
			case res.Succeeded:
				c.seen[i] = cell{in.value + simKeys[i], res.Revision}
			default:
				out.cells[i] = cell{string(res.Results[i].Entry.Value), res.Results[i].Entry.Revision}
				c.seen[i] = out.cells[i]
			}
		}
	case doRaise:
	}
	return out, err
}

// settle finds out what became of a write that failed; drop says that it never
// happened.
func (c *simClient) settle(ctx context.Context, err error) (out simOutput, drop bool) {
	outcome, rev := holdfast.OutcomeOf(err), int64(-1)
	if outcome == holdfast.Unknown && c.rng.IntN(4) > 0 {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		var rerr error
		if c.remote != nil {
			outcome, rev, rerr = c.remote.ResolveRequest(ctx, c.request)
		} else {
			outcome, rev, rerr = c.store.Resolve(ctx, err)
		}
		if rerr != nil {
			outcome = holdfast.Unknown
		}
	}
	switch outcome {
	case holdfast.Applied:
		return simOutput{blind: true, rev: rev}, false
	case holdfast.NotApplied:
		return simOutput{}, true
	case holdfast.Unknown:
	}
	return simOutput{unknown: true}, false
}

// look reads a past or a stale state, to be compared with the truth later.
func (c *simClient) look(ctx context.Context, key string) {
	opt, what := ReadOption(Stale()), "stale"
	if seen := c.seen[c.rng.IntN(len(simKeys))]; seen.rev > 0 && c.rng.IntN(2) == 0 {
		opt, what = At(seen.rev), "past"
	}
	e, err := c.store.Get(ctx, key, opt)
	found := err == nil
	if !found && !errors.Is(err, holdfast.ErrNotFound) {
		return
	}
	c.sim.mu.Lock()
	defer c.sim.mu.Unlock()
	c.sim.snapped = append(c.sim.snapped, snapshot{what, e.ReadRevision, key, e, found})
}

// audit reads all keys when the clients are done.
func (s *sim) audit(ctx context.Context) {
	store := NewFor(s.mem, 0)
	for i, key := range simKeys {
		start := s.history.now()
		e, err := store.Get(ctx, key)
		if err != nil && !errors.Is(err, holdfast.ErrNotFound) {
			s.fail("audit: %w", err)
			return
		}
		out := simOutput{}
		out.cells[i] = cell{string(e.Value), e.Revision}
		s.history.add(simClients, simInput{code: doGet, key: i}, start, out)
	}
}
