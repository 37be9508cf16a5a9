package membership

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/internal/simtest"
)

// The size of a simulation.
const (
	simClients  = 4
	simWatchers = 3
	simLives    = 4 // sessions of each client, one after the other
	simIDs      = 5 // fewer than there are registrations: clients compete
	simTTL      = 3 * time.Second
)

// TestSimulation_Membership runs clients that register, update and leave under
// a few ids, over engines which lose, delay and repeat what they send, and that
// pause, crash and lose their sessions, while history is compacted and the
// quorum goes away. What watchers are told must fit what the clients did and
// what the engine says of their sessions.
func TestSimulation_Membership(t *testing.T) {
	simtest.Run(t, 60, func(t *testing.T, seed uint64) {
		if err := simulate(t, seed, mutant{}); err != nil {
			t.Error(err)
		}
	})
}

// mutant is a defect planted under the registries of a simulation.
type mutant struct {
	name   string
	engine func(engine.Engine) engine.Engine
}

// wrap plants the defect.
func (m mutant) wrap(e engine.Engine) engine.Engine {
	if m.engine == nil {
		return e
	}
	return m.engine(e)
}

// sim is one run.
type sim struct {
	seed   uint64
	mutant mutant
	mem    *engine.Memory

	mu     sync.Mutex // guards the fields below
	faults []error
	stays  map[int]*stay // by number
	ends   map[engine.SessionID]int64
	final  []string // the roster at the end
}

// stay is one registration as the client knows it. Its number is in the
// member's address.
type stay struct {
	number   int
	id       string
	session  engine.SessionID
	sure     bool // Register succeeded
	leaving  bool // Leave was called
	left     bool // Leave succeeded
	replaced bool // the same session may have registered the id anew
}

// fail notes that something is wrong.
func (s *sim) fail(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, fmt.Errorf(format, args...))
}

// note changes what is known of a stay.
func (s *sim) note(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// simulate runs one seed and says what is wrong.
func simulate(t *testing.T, seed uint64, m mutant) error {
	t.Helper()
	s := &sim{seed: seed, mutant: m, stays: map[int]*stay{}, ends: map[engine.SessionID]int64{}}
	synctest.Test(t, s.run)
	return errors.Join(s.faults...)
}

// run is the world: clients, watchers, and what happens to all of them.
func (s *sim) run(t *testing.T) {
	s.mem = engine.NewMemory(engine.MemoryConfig{})
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var clients, others sync.WaitGroup
	others.Go(func() { s.record(ctx) })
	told := make([][]Event, simWatchers)
	storm, calm := context.WithCancel(ctx)
	for i := range told {
		others.Go(func() { told[i] = s.watch(ctx, storm, uint64(i)) })
	}
	others.Go(func() { s.weather(storm) })
	for i := range simClients {
		clients.Go(func() { s.client(ctx, i) })
	}
	clients.Wait()
	calm()
	wait(ctx, 4*watchSilence) // for sessions to end and watchers to catch up
	roster, err := NewFor(s.mem, 0).Roster(ctx, "g")
	if err != nil {
		s.fail("roster: %w", err)
	}
	for _, m := range roster.Members {
		s.final = append(s.final, m.ID+" "+m.Address)
	}
	cancel()
	others.Wait()
	for i, events := range told {
		s.check(fmt.Sprint("watcher ", i), events)
	}
	s.agree(told)
	_ = s.mem.Close()
}

// wait lets time pass, and says whether ctx still goes on.
func wait(ctx context.Context, d time.Duration) bool { return simtest.Doze(ctx, d) }

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

// compacts: history is compacted under this seed. Where it is not, all watchers
// are told everything.
func (s *sim) compacts() bool { return s.seed%3 != 0 }

// weather takes the quorum away and compacts history from time to time.
func (s *sim) weather(ctx context.Context) {
	rng := rand.New(rand.NewPCG(s.seed, 2))
	for wait(ctx, time.Duration(500+rng.IntN(6000))*time.Millisecond) {
		switch rng.IntN(3) {
		case 0:
			s.mem.Outage(true)
			wait(ctx, time.Duration(rng.IntN(3000))*time.Millisecond)
			s.mem.Outage(false)
		case 1:
			if !s.compacts() {
				continue
			}
			synctest.Wait() // the recorder has read all there is
			if st, err := s.mem.Status(ctx); err == nil {
				_ = s.mem.Compact(ctx, st.Revision-int64(rng.IntN(4)))
			}
		}
	}
}

// record notes when sessions end, from the engine itself. It watches more than
// it needs, so as never to be behind when history is compacted.
func (s *sim) record(ctx context.Context) {
	prefix, _ := engine.SessionRange()
	for b := range s.mem.Watch(ctx, engine.WatchRequest{Key: "\x00", End: engine.PrefixEnd(""), Revision: 1}) {
		if b.Err != nil {
			s.fail("the recorder's watch: %w", b.Err)
		}
		for _, ev := range b.Events {
			if id, err := engine.ParseSessionID(strings.TrimPrefix(ev.KV.Key, prefix)); err == nil && ev.Deleted {
				s.note(func() { s.ends[id] = ev.KV.ModRevision })
			}
		}
	}
}

// watch is what one watcher over a bad network is told. While the storm lasts
// it is slow, so that history is compacted under it.
func (s *sim) watch(ctx, storm context.Context, id uint64) (events []Event) {
	rng := rand.New(rand.NewPCG(s.seed, 500+id))
	net := network(s.mem, s.seed<<16|0xff00|id)
	defer func() { _ = net.Close() }()
	for ev := range NewFor(s.mutant.wrap(net), 0).Watch(ctx, "g") {
		events = append(events, ev)
		if ev.Err != nil {
			s.fail("watch: %w", ev.Err)
		}
		if rng.IntN(3) == 0 {
			wait(storm, time.Duration(rng.IntN(8000))*time.Millisecond)
		}
	}
	return events
}

// client lives a few times.
func (s *sim) client(ctx context.Context, id int) {
	rng := rand.New(rand.NewPCG(s.seed, 100+uint64(id)))
	for life := range simLives {
		s.life(ctx, rng, id*simLives+life)
		wait(ctx, time.Duration(rng.IntN(2000))*time.Millisecond)
	}
}

// life is one session of a client: it registers, updates and leaves until it
// crashes, closes the session, or loses it.
func (s *sim) life(ctx context.Context, rng *rand.Rand, number int) {
	net := network(s.mem, s.seed<<16|uint64(number))
	defer func() { _ = net.Close() }()
	session, err := engine.OpenSession(ctx, s.mutant.wrap(net), engine.SessionConfig{
		TTL: simTTL, ID: engine.SessionID(rng.Int64N(1<<62) + 1),
	})
	if err != nil {
		return // its lease ran out before it was open
	}
	lifetime, die := context.WithCancel(ctx)
	stop := context.AfterFunc(session.Context(), die) //nolint:contextcheck // it joins the two
	defer stop()
	var nemesis sync.WaitGroup
	nemesis.Go(func() { trouble(lifetime, net, rand.New(rand.NewPCG(s.seed, 1000+uint64(number)))) })
	c := &simClient{sim: s, rng: rng, registry: New(session), number: number * 100, session: session.ID()}
	for range 8 {
		c.act(lifetime)
		if !wait(lifetime, time.Duration(rng.IntN(2000))*time.Millisecond) {
			break
		}
	}
	die()
	nemesis.Wait()
	if rng.IntN(2) == 0 { // a crash: nothing it sends arrives any more
		net.Cut(true)
	}
	bye, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	_ = session.Close(bye)
}

// simClient is a client in one of its lives.
type simClient struct {
	sim      *sim
	rng      *rand.Rand
	registry *Registry
	session  engine.SessionID
	number   int
	current  []*Registration
	stays    []*stay
}

// act does one thing at random.
func (c *simClient) act(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(300+c.rng.IntN(3000))*time.Millisecond)
	defer cancel()
	n := len(c.current)
	if n == 0 || c.rng.IntN(3) == 0 {
		c.register(ctx)
		return
	}
	i := c.rng.IntN(n)
	g, st := c.current[i], c.stays[i]
	if c.rng.IntN(2) == 0 {
		err := g.Update(ctx, Member{Address: fmt.Sprintf("%d/%d", st.number, c.rng.IntN(100))})
		if errors.Is(err, holdfast.ErrLost) && holdfast.OutcomeOf(err) == holdfast.NotApplied {
			c.drop(i)
		}
		return
	}
	c.sim.note(func() { st.leaving = true })
	if err := g.Leave(ctx); err == nil {
		c.sim.note(func() { st.left = true })
	}
	c.drop(i)
}

// drop forgets a registration.
func (c *simClient) drop(i int) {
	c.current = append(c.current[:i:i], c.current[i+1:]...)
	c.stays = append(c.stays[:i:i], c.stays[i+1:]...)
}

// register begins a stay.
func (c *simClient) register(ctx context.Context) {
	c.number++
	st := &stay{number: c.number, id: fmt.Sprint("m", c.rng.IntN(simIDs)), session: c.session}
	c.sim.note(func() {
		c.sim.stays[st.number] = st
		for _, old := range c.sim.stays {
			if old != st && old.id == st.id && old.session == st.session {
				old.replaced = true
			}
		}
	})
	g, err := c.registry.Register(ctx, "g", Member{ID: st.id, Address: fmt.Sprintf("%d/", st.number)})
	if err == nil {
		c.sim.note(func() { st.sure = true })
		c.current, c.stays = append(c.current, g), append(c.stays, st)
		return
	}
	if holdfast.OutcomeOf(err) == holdfast.Unknown { // settle it, or leave it to fate
		if id, perr := engine.ParseRequestID(requestOf(err)); perr == nil && c.rng.IntN(2) == 0 {
			_, _, _ = c.registry.session.Resolve(ctx, id)
		}
	}
}
