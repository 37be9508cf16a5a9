package election_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/election"
	"holdfast.dev/engine"
	"holdfast.dev/internal/simtest"
)

// TestSimulation runs candidates over faulty networks to one engine, under
// random crashes, pauses and cuts, and holds what they and some observers saw
// against each other and against what the engine says.
func TestSimulation(t *testing.T) {
	simtest.Run(t, 140, func(t *testing.T, seed uint64) {
		w := &simtest.World{Seed: seed, Length: 45 * time.Second, LateTxns: float64(seed%3) / 10}
		if faults := simulate(t, 5, w, nil); len(faults) > 0 {
			t.Fatal(strings.Join(faults, "\n"))
		}
	})
}

// simulation is one run.
type simulation struct {
	*simtest.World
	atLeast int                               // terms, or nothing was tested
	fences  bool                              // all campaigns come with a hook
	blind   func(engine.Engine) engine.Engine // a defect between the observers and the engine; may be nil
	storm   context.Context                   // ends when the clients are done
	calm    context.CancelFunc

	mu    sync.Mutex // guards the fields below
	terms []*term
	hooks []hook
	words map[string]*word // by value
	truth map[string][]state
	ends  map[engine.SessionID]int64 // revisions at which sessions ended
	seen  []sight
}

// term is one leadership as the leader saw it.
type term struct {
	name        string
	session     engine.SessionID
	token       holdfast.Token
	asked, from time.Duration // Campaign called, and returned
	until       time.Duration // the leader stopped believing
	resigning   bool          // Resign was called, when it was not lost
	resigned    time.Duration // Resign returned without error; 0: it did not
}

// hook is one successful call of a Fence hook.
type hook struct {
	name     string
	session  engine.SessionID // of the candidate
	vanished holdfast.Token
	from, at time.Duration
}

// word is one value that somebody meant to tell.
type word struct {
	session engine.SessionID
	acked   bool // and was told it is known
}

// simulate lets one world go by and returns what was wrong.
func simulate(t *testing.T, atLeast int, w *simtest.World, blind func(engine.Engine) engine.Engine) []string {
	s := &simulation{
		World: w, atLeast: atLeast, fences: w.Seed%5 > 0, blind: blind,
		words: map[string]*word{}, truth: map[string][]state{}, ends: map[engine.SessionID]int64{},
	}
	w.Clients, w.Live, w.Watch, w.Afterwards = 4, s.live, s.watch, s.afterwards
	return append(s.Run(t), s.check()...)
}

// live is two candidates under one session.
func (s *simulation) live(ctx context.Context, l *simtest.Life) (end func()) {
	m := election.New(l.Session, election.Config{})
	var wg sync.WaitGroup
	for w := range 2 {
		c := &candidate{sim: s, m: m, session: l.Session.ID(), name: fmt.Sprint(w, "/"), rng: rand.New(rand.NewPCG(l.Rng.Uint64(), uint64(w)))}
		wg.Go(func() {
			for ctx.Err() == nil {
				c.campaign(ctx)
			}
		})
	}
	wg.Wait()
	return m.Close
}

// candidate campaigns, leads and resigns.
type candidate struct {
	sim     *simulation
	m       *election.Manager
	session engine.SessionID
	rng     *rand.Rand
	name    string // in front of its values
	said    int
}

// say is a value that was never used.
func (c *candidate) say() (string, *word) {
	c.said++
	value, w := fmt.Sprintf("%v/%s%d", c.session, c.name, c.said), &word{session: c.session}
	c.sim.mu.Lock()
	defer c.sim.mu.Unlock()
	c.sim.words[value] = w
	return value, w
}

func (c *candidate) campaign(ctx context.Context) {
	s, name := c.sim, []string{"a", "b"}[c.rng.IntN(2)]
	wait, cancel := context.WithTimeout(ctx, simtest.UpTo(c.rng, 12*time.Second))
	defer cancel()
	value, _ := c.say()
	var opts []election.Option
	if s.fences {
		opts = append(opts, election.Fence(func(ctx context.Context, vanished election.Leader) error { return c.fence(ctx, name, vanished) }))
	}
	asked := s.Now()
	l, err := c.m.Campaign(wait, name, []byte(value), opts...)
	if err != nil {
		if o := holdfast.OutcomeOf(err); o != holdfast.NotApplied {
			s.Failf("session %v: campaign for %s: outcome %v of %v", c.session, name, o, err)
		}
		simtest.Doze(ctx, simtest.UpTo(c.rng, time.Second))
		return
	}
	t := &term{name: name, session: c.session, token: l.Token(), asked: asked, from: s.Now()}
	s.mu.Lock()
	s.terms = append(s.terms, t)
	s.mu.Unlock()
	c.lead(l) //nolint:contextcheck // it ends with the grant
	s.mu.Lock()
	t.until, t.resigning = s.Now(), l.Err() == nil
	s.mu.Unlock()
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := l.Resign(bye); err == nil {
		s.mu.Lock()
		t.resigned = s.Now()
		s.mu.Unlock()
	}
	simtest.Doze(ctx, simtest.UpTo(c.rng, 500*time.Millisecond))
}

// lead tells things for a while, or until the leadership is lost.
func (c *candidate) lead(l *election.Leadership) {
	for range 1 + c.rng.IntN(4) {
		if c.rng.IntN(2) == 0 {
			value, w := c.say()
			ctx, cancel := context.WithTimeout(l.Context(), simtest.UpTo(c.rng, 3*time.Second))
			err := l.Proclaim(ctx, []byte(value))
			cancel()
			if err == nil {
				c.sim.mu.Lock()
				w.acked = true
				c.sim.mu.Unlock()
			}
		}
		if !simtest.Doze(l.Context(), simtest.UpTo(c.rng, time.Second)) {
			return
		}
	}
}

// errFence is a power switch that does not answer.
var errFence = errors.New("the power switch does not answer")

// fence takes its time, and fails now and then.
func (c *candidate) fence(ctx context.Context, name string, vanished election.Leader) error {
	from := c.sim.Now()
	if !simtest.Doze(ctx, simtest.UpTo(c.rng, time.Second)) {
		return context.Cause(ctx)
	}
	if c.rng.IntN(3) == 0 {
		return errFence
	}
	c.sim.mu.Lock()
	defer c.sim.mu.Unlock()
	c.sim.hooks = append(c.sim.hooks, hook{name, c.session, vanished.Token, from, c.sim.Now()})
	return nil
}

// afterwards everything is well again: every election has to be won, whatever
// befell those who stood before. It resigns, so that the end is that nobody
// leads.
func (s *simulation) afterwards(ctx context.Context, session *engine.Session) {
	m := election.New(session, election.Config{})
	for _, name := range []string{"a", "b"} {
		wait, cancel := context.WithTimeout(ctx, 30*time.Second)
		c := &candidate{sim: s, session: session.ID(), name: name + "/"}
		value, _ := c.say()
		asked := s.Now()
		l, err := m.Campaign(wait, name, []byte(value), election.Fence(func(_ context.Context, v election.Leader) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.hooks = append(s.hooks, hook{name, session.ID(), v.Token, s.Now(), s.Now()})
			return nil
		}))
		cancel()
		if err != nil {
			infos, _ := m.List(ctx, name, "", 1)
			s.Failf("afterwards: %v: %+v", err, infos)
			continue
		}
		t := &term{name: name, session: session.ID(), token: l.Token(), asked: asked, from: s.Now(), until: s.Now(), resigning: true}
		if err := l.Resign(ctx); err != nil {
			s.Failf("afterwards: %v", err)
		}
		t.resigned = s.Now()
		s.mu.Lock()
		s.terms = append(s.terms, t)
		s.mu.Unlock()
	}
	m.Close()
	s.calm()
	simtest.Doze(ctx, 15*time.Second) // for observers to catch up
}
