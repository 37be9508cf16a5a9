package lock_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
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
		if faults := simulate(t, 10, &simtest.World{Seed: seed, Length: time.Minute, LateTxns: float64(seed%3) / 10}); len(faults) > 0 {
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
		simtest.Caught(t, m.name, 3000, func(t *testing.T, seed uint64) []string {
			return simulate(t, 0, &simtest.World{Seed: seed, Length: 20 * time.Second, LateTxns: 0.3, Wrap: m.wrap})
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
	if m.fromReceipt && simtest.Doze(ctx, 400*time.Millisecond) {
		ttl += time.Since(sent)
	}
	return ttl, err
}

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
	*simtest.World
	atLeast int // grants, or nothing was tested

	mu      sync.Mutex // guards the fields below
	holds   []hold
	highest map[string]holdfast.Token // what the resources have seen
	refused int                       // effects that fencing refused
}

// simulate lets one world go by and returns what was wrong.
func simulate(t *testing.T, atLeast int, w *simtest.World) []string {
	s := &simulation{World: w, atLeast: atLeast, highest: map[string]holdfast.Token{}}
	w.Clients = 4
	w.Live, w.Afterwards = s.live, s.afterwards
	return append(s.Run(t), s.check()...)
}

// live is two workers under one session.
func (s *simulation) live(ctx context.Context, l *simtest.Life) (end func()) {
	locks := lock.New(l.Session, lock.Config{})
	var wg sync.WaitGroup
	for w := range 2 {
		rng := rand.New(rand.NewPCG(l.Rng.Uint64(), uint64(w)))
		wg.Go(func() { s.worker(ctx, l.Client, locks, rng) })
	}
	wg.Wait()
	return locks.Close
}

// worker acquires, acts and releases.
func (s *simulation) worker(ctx context.Context, client int, locks *lock.Manager, rng *rand.Rand) {
	for ctx.Err() == nil {
		name := []string{"a", "b"}[rng.IntN(2)]
		opts := []lock.Option{lock.WaitAtMost(simtest.UpTo(rng, 10*time.Second))}
		exclusive := rng.IntN(4) > 0
		if !exclusive {
			opts = append(opts, lock.Shared())
		}
		asked := s.Now()
		h, err := locks.Acquire(ctx, name, opts...)
		if err != nil {
			if holdfast.OutcomeOf(err) != holdfast.NotApplied {
				s.Failf("client %d: acquire %s: outcome %v of %v", client, name, holdfast.OutcomeOf(err), err)
			}
			simtest.Doze(ctx, simtest.UpTo(rng, time.Second))
			continue
		}
		rec := hold{name: name, client: client, token: h.Token(), exclusive: exclusive, asked: asked, from: s.Now()}
		s.act(h, rng)       //nolint:contextcheck // it ends with the grant
		rec.until = s.Now() // unless its context ended before
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		if err := h.Release(bye); err == nil {
			rec.released = s.Now()
		}
		cancel()
		s.mu.Lock()
		s.holds = append(s.holds, rec)
		s.mu.Unlock()
		simtest.Doze(ctx, simtest.UpTo(rng, 500*time.Millisecond))
	}
}

// act has effects under the lock, and returns when it is done or the lock is
// lost. Like a process that does not look, it sends one last effect a while
// after it lost the lock: that one fencing has to deal with.
func (s *simulation) act(h *lock.Held, rng *rand.Rand) {
	for range 1 + rng.IntN(4) {
		s.effect(h)
		if !simtest.Doze(h.Context(), simtest.UpTo(rng, time.Second)) {
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
func (s *simulation) afterwards(ctx context.Context, session *engine.Session) {
	locks := lock.New(session, lock.Config{})
	for _, name := range []string{"a", "b"} {
		h, err := locks.Acquire(ctx, name, lock.WaitAtMost(30*time.Second))
		if err != nil {
			info, _ := locks.Inspect(ctx, name)
			s.Failf("afterwards: %v: %+v", err, info)
			continue
		}
		s.mu.Lock()
		highest := s.highest[name]
		s.mu.Unlock()
		if h.Token() <= highest {
			s.Failf("afterwards: %s: token %v after %v", name, h.Token(), highest)
		}
		if err := h.Release(ctx); err != nil {
			s.Failf("afterwards: %v", err)
		}
	}
	locks.Close()
}

// check judges the history: nobody believed in a lock at the same time as
// somebody else who could not share it, and the grants can be put in an order
// in which tokens grow and each waits for those before it to end.
func (s *simulation) check() []string {
	var faults []string
	if len(s.holds) < s.atLeast {
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
