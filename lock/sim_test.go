package lock_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/internal/simtest"
	"holdfast.dev/lock"
)

// TestSimulation runs clients over a faulty network to one engine, under
// random crashes, pauses and cuts, and checks what they saw.
func TestSimulation(t *testing.T) {
	simtest.Run(t, 150, func(t *testing.T, seed uint64) {
		if faults := simulate(t, seed, nil); len(faults) > 0 {
			t.Fatal(strings.Join(faults, "\n"))
		}
	})
}

// TestSimulation_CatchesMutants shows that the simulation can fail: each mutant
// breaks one rule, and some seed has to notice.
func TestSimulation_CatchesMutants(t *testing.T) {
	mutants := []struct {
		name string
		wrap func(engine.Engine) engine.Engine
	}{
		{"release without a guard", func(e engine.Engine) engine.Engine { return &mutant{Engine: e, unguardedRelease: true} }},
		{"token not increasing", func(e engine.Engine) engine.Engine { return &mutant{Engine: e, coarseTokens: true} }},
		{"deadline counted from receipt", func(e engine.Engine) engine.Engine { return &mutant{Engine: e, fromReceipt: true} }},
		{"takeover without a death", func(e engine.Engine) engine.Engine { return &mutant{Engine: e, takeover: true} }},
		{"late requests not retired", func(e engine.Engine) engine.Engine { return &mutant{Engine: e, unretired: true} }},
	}
	for _, m := range mutants {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			for seed := uint64(1); seed <= 600; seed++ {
				if faults := simulate(t, seed, m.wrap); len(faults) > 0 {
					t.Logf("seed %d: %s", seed, faults[0])
					return
				}
			}
			t.Error("600 seeds and nobody noticed")
		})
	}
}

// mutant is an engine that makes the code above it break one of its rules.
type mutant struct {
	engine.Engine
	unguardedRelease, coarseTokens, fromReceipt, takeover, unretired bool
}

func (m *mutant) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	lockTxn := len(t.If) > 0 && strings.HasPrefix(t.If[0].Key, "lock/r/")
	switch {
	case !lockTxn:
	case m.unguardedRelease && t.Then[0].Kind == engine.OpDelete:
		t.If = nil
	case m.takeover:
		t.If = t.If[1:2]
	case m.unretired:
		t.If = append([]engine.Compare{t.If[0], engine.Exists(t.If[1].Key)}, t.If[2:]...)
	}
	res, err := m.Engine.Txn(ctx, t)
	if m.coarseTokens && lockTxn && res.Succeeded {
		res.Revision -= res.Revision % 16
	}
	return res, err
}

func (m *mutant) Renew(ctx context.Context, id engine.LeaseID) (time.Duration, error) {
	sent := time.Now()
	ttl, err := m.Engine.Renew(ctx, id)
	if m.fromReceipt {
		ttl += time.Since(sent)
	}
	return ttl, err
}

const (
	simTTL     = 2 * time.Second
	simClients = 4
	simTime    = 90 * time.Second
)

// hold is one grant as its holder saw it.
type hold struct {
	name        string
	client      int
	token       holdfast.Token
	exclusive   bool
	asked, from time.Duration // Acquire called, and returned
	until       time.Duration // the holder stopped believing in it
	released    time.Duration // Release returned without error; 0: it did not
}

type simulation struct {
	seed  uint64
	start time.Time
	store *engine.Memory
	wrap  func(engine.Engine) engine.Engine
	// duplicates: the network repeats requests that were answered. That harms
	// nobody's exclusion, but it may leave a lock with a session that does not
	// know; it comes free with the session. Without, it has to be free before.
	duplicates bool
	finished   sync.WaitGroup // clients that are done but for closing
	judged     chan struct{}

	mu       sync.Mutex // guards the fields below
	holds    []hold
	highest  map[string]holdfast.Token // what the resources have seen
	refused  int                       // effects that fencing refused
	failures []string
}

func (s *simulation) now() time.Duration { return time.Since(s.start) }

func (s *simulation) failf(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failures = append(s.failures, fmt.Sprintf(format, args...))
}

// simulate runs one seed and returns what was wrong.
func simulate(t *testing.T, seed uint64, wrap func(engine.Engine) engine.Engine) []string {
	var s *simulation
	synctest.Test(t, func(t *testing.T) {
		s = &simulation{
			seed: seed, start: time.Now(), store: engine.NewMemory(engine.MemoryConfig{}),
			wrap: wrap, highest: map[string]holdfast.Token{}, duplicates: seed%2 == 0, judged: make(chan struct{}),
		}
		s.finished.Add(simClients)
		ctx, cancel := context.WithTimeout(t.Context(), simTime)
		defer cancel()
		var wg sync.WaitGroup
		for i := range simClients {
			wg.Go(func() { s.client(t.Context(), ctx, i) })
		}
		wg.Go(func() { s.leaderless(ctx) })
		if !s.duplicates {
			s.finished.Wait()
			s.afterwards(t.Context())
		}
		close(s.judged)
		wg.Wait()
		if s.duplicates {
			s.afterwards(t.Context())
		}
		if err := s.store.Close(); err != nil {
			t.Error(err)
		}
	})
	return append(s.failures, s.check()...)
}

// leaderless lets the quorum lose its leader now and then.
func (s *simulation) leaderless(ctx context.Context) {
	rng := rand.New(rand.NewPCG(s.seed, 99))
	for doze(ctx, time.Duration(rng.Int64N(int64(30*time.Second)))) {
		s.store.Outage(true)
		doze(context.WithoutCancel(ctx), time.Duration(rng.Int64N(int64(3*time.Second))))
		s.store.Outage(false)
	}
}

// doze waits, and says whether ctx still goes on.
func doze(ctx context.Context, d time.Duration) bool {
	select {
	case <-time.NewTimer(d).C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// client is one process: it opens sessions, works under each until it is lost
// or the process crashes, and begins again.
func (s *simulation) client(outer, ctx context.Context, i int) {
	done := sync.OnceFunc(s.finished.Done)
	defer done()
	for life := uint64(0); ctx.Err() == nil; life++ {
		rng := rand.New(rand.NewPCG(s.seed, uint64(i)<<32|life))
		faults := engine.FaultConfig{Seed: rng.Uint64(), LoseRequest: 0.02, LoseResponse: 0.03, DelayP: 0.2, Delay: 700 * time.Millisecond}
		if rng.IntN(2) == 0 {
			faults.DelayP, faults.Delay = 0.15, 5*time.Second
		}
		if s.duplicates {
			faults.Duplicate = 0.03
		}
		net := engine.Faulty(s.store, faults)
		var e engine.Engine = net
		if s.wrap != nil {
			e = s.wrap(net)
		}
		s.life(outer, ctx, i, rng, net, e, done)
		if err := net.Close(); err != nil {
			s.failf("client %d: close network: %v", i, err)
		}
	}
}

func (s *simulation) life(outer, ctx context.Context, i int, rng *rand.Rand, net *engine.FaultyEngine, e engine.Engine, done func()) {
	session, err := engine.OpenSession(ctx, e, engine.SessionConfig{TTL: simTTL, ID: engine.SessionID(rng.Int64N(1<<62) + 1)})
	if err != nil {
		return // the run is over
	}
	locks := lock.New(session, lock.Config{})
	life, crash := context.WithTimeout(ctx, time.Duration(rng.Int64N(int64(40*time.Second))))
	defer crash()
	stop := context.AfterFunc(session.Context(), crash)
	defer stop()
	var wg sync.WaitGroup
	for w := range 2 {
		seed := rng.Uint64()
		wg.Go(func() { s.worker(life, i, locks, rand.New(rand.NewPCG(seed, uint64(w)))) })
	}
	for life.Err() == nil { // what befalls the process
		if !doze(life, time.Duration(rng.Int64N(int64(8*time.Second)))) {
			break
		}
		switch rng.IntN(4) {
		case 0:
			net.Cut(true)
			doze(life, time.Duration(rng.Int64N(int64(4*time.Second))))
			net.Cut(false)
		case 1:
			net.Pause()
			doze(life, time.Duration(rng.Int64N(int64(4*time.Second))))
			net.Resume()
		}
	}
	wg.Wait()
	if ctx.Err() != nil && !s.duplicates {
		done()
		<-s.judged
	}
	crashed := rng.IntN(2) == 0 && ctx.Err() == nil
	if crashed {
		net.Cut(true) // it dies without a word; the quorum has to notice
	}
	locks.Close()
	bye, cancel := context.WithTimeout(outer, simTTL)
	defer cancel()
	if err := session.Close(bye); err != nil && !crashed && ctx.Err() == nil && holdfast.OutcomeOf(err) != holdfast.Unknown {
		s.failf("client %d: close session: %v", i, err)
	}
}

// worker acquires, acts and releases.
func (s *simulation) worker(ctx context.Context, client int, locks *lock.Manager, rng *rand.Rand) {
	for ctx.Err() == nil {
		name := []string{"a", "b"}[rng.IntN(2)]
		opts := []lock.Option{lock.WaitAtMost(time.Duration(rng.Int64N(int64(10 * time.Second))))}
		exclusive := rng.IntN(4) > 0
		if !exclusive {
			opts = append(opts, lock.Shared())
		}
		asked := s.now()
		h, err := locks.Acquire(ctx, name, opts...)
		if err != nil {
			if holdfast.OutcomeOf(err) != holdfast.NotApplied {
				s.failf("client %d: acquire %s: outcome %v of %v", client, name, holdfast.OutcomeOf(err), err)
			}
			doze(ctx, time.Duration(rng.Int64N(int64(time.Second))))
			continue
		}
		rec := hold{name: name, client: client, token: h.Token(), exclusive: exclusive, asked: asked, from: s.now()}
		s.act(h, rng)
		rec.until = s.now() // unless its context ended before
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		if err := h.Release(bye); err == nil {
			rec.released = s.now()
		}
		cancel()
		s.mu.Lock()
		s.holds = append(s.holds, rec)
		s.mu.Unlock()
		doze(ctx, time.Duration(rng.Int64N(int64(500*time.Millisecond))))
	}
}

// act has effects under the lock, and returns when it is done or the lock is
// lost. Like a process that does not look, it sends one last effect a while
// after it lost the lock: that one fencing has to deal with.
func (s *simulation) act(h *lock.Held, rng *rand.Rand) {
	for range 1 + rng.IntN(4) {
		s.effect(h)
		if !doze(h.Context(), time.Duration(rng.Int64N(int64(time.Second)))) {
			return
		}
	}
	if h.Err() == nil {
		s.effect(h)
	}
}

// effect is what the resource does with a token.
func (s *simulation) effect(h *lock.Held) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if h.Token() < s.highest[h.Name()] {
		s.refused++
		return
	}
	s.highest[h.Name()] = h.Token()
}

// afterwards everything is well again: every lock has to become free, whatever
// befell those who wanted it.
func (s *simulation) afterwards(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	session, err := engine.OpenSession(ctx, s.store, engine.SessionConfig{TTL: simTTL})
	if err != nil {
		s.failf("afterwards: %v", err)
		return
	}
	locks := lock.New(session, lock.Config{})
	for _, name := range []string{"a", "b"} {
		h, err := locks.Acquire(ctx, name, lock.WaitAtMost(10*time.Second))
		if err != nil {
			info, _ := locks.Inspect(ctx, name)
			s.failf("afterwards: %v: %+v", err, info)
			continue
		}
		s.mu.Lock()
		if h.Token() <= s.highest[name] {
			s.failures = append(s.failures, fmt.Sprintf("afterwards: %s: token %v after %v", name, h.Token(), s.highest[name]))
		}
		s.mu.Unlock()
		if err := h.Release(ctx); err != nil {
			s.failf("afterwards: %v", err)
		}
	}
	locks.Close()
	if err := session.Close(ctx); err != nil {
		s.failf("afterwards: %v", err)
	}
}

// check judges the history: nobody believed in a lock at the same time as
// somebody else who could not share it, and the grants can be put in an order
// in which tokens grow and each waits for those before it to end.
func (s *simulation) check() []string {
	var faults []string
	if len(s.holds) < 10 {
		faults = append(faults, fmt.Sprintf("only %d grants: nothing was tested", len(s.holds)))
	}
	for i, a := range s.holds {
		for _, b := range s.holds[i+1:] {
			if a.name == b.name && (a.exclusive || b.exclusive) && a.from < b.until && b.from < a.until {
				faults = append(faults, fmt.Sprintf("%s: held by client %d (token %d) %v–%v and by client %d (token %d) %v–%v",
					a.name, a.client, a.token, a.from, a.until, b.client, b.token, b.from, b.until))
			}
		}
	}
	if res := porcupine.CheckOperations(lockModel, s.history()); !res {
		faults = append(faults, "the history is not that of a lock with growing tokens")
	}
	return faults
}

// lockState is the model's state: who holds, and the highest token so far.
type lockState struct {
	holders   string // tokens of the holders, each between spaces
	exclusive bool
	last      holdfast.Token
}

type lockInput struct {
	name      string
	acquire   bool
	exclusive bool
	token     holdfast.Token
}

// lockModel is a lock that is acquired when nobody holds it who does not share,
// with a token above all before, and released by its own token.
var lockModel = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		byName := map[string][]porcupine.Operation{}
		for _, op := range history {
			name := op.Input.(lockInput).name
			byName[name] = append(byName[name], op)
		}
		var parts [][]porcupine.Operation
		for _, name := range []string{"a", "b"} {
			parts = append(parts, byName[name])
		}
		return parts
	},
	Init: func() any { return lockState{} },
	Step: func(state, input, _ any) (bool, any) {
		st, in := state.(lockState), input.(lockInput)
		mine := fmt.Sprintf(" %d ", in.token)
		if !in.acquire {
			st.holders = strings.Replace(st.holders, mine, "", 1)
			return true, st
		}
		free := st.holders == "" || !st.exclusive && !in.exclusive
		if !free || in.token < st.last || in.exclusive && in.token == st.last {
			return false, st
		}
		return true, lockState{holders: st.holders + mine, exclusive: in.exclusive, last: in.token}
	},
}

// history is the holds as operations. A grant whose release was not confirmed
// ends at some time after its holder stopped believing in it.
func (s *simulation) history() []porcupine.Operation {
	var ops []porcupine.Operation
	for i, h := range s.holds {
		in := lockInput{name: h.name, acquire: true, exclusive: h.exclusive, token: h.token}
		ops = append(ops, porcupine.Operation{ClientId: 2 * i, Input: in, Call: int64(h.asked), Return: int64(h.from)})
		in.acquire = false
		end := int64(h.released)
		if end == 0 {
			end = int64(24 * time.Hour)
		}
		ops = append(ops, porcupine.Operation{ClientId: 2*i + 1, Input: in, Call: int64(h.until), Return: end})
	}
	return ops
}
