package simtest

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
)

// SessionTTL is the TTL of the sessions in a World.
const SessionTTL = 2 * time.Second

// World is one engine and clients that reach it through bad networks, crash,
// and begin again. Its time is that of a testing/synctest bubble.
type World struct {
	Seed    uint64
	Clients int
	Length  time.Duration // how long the clients go on
	// LateTxns is the probability that a transaction is late by up to 4 s, on top
	// of what befalls all requests.
	LateTxns float64
	// Wrap plants a defect between the clients and the engine; may be nil.
	Wrap func(engine.Engine) engine.Engine
	// Live is what a client does under one session. It returns soon after ctx
	// has ended; end is called before the session is closed.
	Live func(ctx context.Context, l *Life) (end func())
	// Watch runs beside the clients, until ctx ends; may be nil.
	Watch func(ctx context.Context)
	// Afterwards looks at what is left, over a good network. The sessions that
	// the end of the run met still live.
	Afterwards func(ctx context.Context, s *engine.Session)

	// Store is the engine itself.
	Store *engine.Memory

	start    time.Time
	finished sync.WaitGroup // clients that are done but for closing
	judged   chan struct{}

	mu     sync.Mutex // guards the field below
	faults []string
}

// Life is one session of a client.
type Life struct {
	Client  int
	Session *engine.Session
	Rng     *rand.Rand
}

// Run lets the world go by and returns what was found to be wrong.
func (w *World) Run(t *testing.T) []string {
	t.Helper()
	synctest.Test(t, w.run)
	return w.faults
}

// Now is the time since the world began.
func (w *World) Now() time.Duration { return time.Since(w.start) }

// Failf notes that something is wrong.
func (w *World) Failf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.faults = append(w.faults, fmt.Sprintf(format, args...))
}

// duplicates: the network repeats requests that were answered. That breaks no
// exclusion, but it may leave a grant with a session that does not know; it
// comes free with the session. Without, it has to be free before.
func (w *World) duplicates() bool { return w.Seed%2 == 0 }

func (w *World) run(t *testing.T) {
	w.start, w.Store, w.judged = time.Now(), engine.NewMemory(engine.MemoryConfig{}), make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), w.Length)
	defer cancel()
	all, stop := context.WithCancel(t.Context())
	defer stop()
	var clients, others sync.WaitGroup
	w.finished.Add(w.Clients)
	for i := range w.Clients {
		clients.Go(func() { w.client(all, ctx, i) })
	}
	clients.Go(func() { w.leaderless(ctx) })
	if w.Watch != nil {
		others.Go(func() { w.Watch(all) })
	}
	if w.duplicates() {
		close(w.judged)
		clients.Wait()
		w.judge(all)
	} else {
		w.finished.Wait()
		w.judge(all)
		close(w.judged)
		clients.Wait()
	}
	stop()
	others.Wait()
	if err := w.Store.Close(); err != nil {
		t.Error(err)
	}
}

// judge calls Afterwards.
func (w *World) judge(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, err := engine.OpenSession(ctx, w.Store, engine.SessionConfig{TTL: SessionTTL})
	if err == nil {
		w.Afterwards(ctx, s)
		err = s.Close(ctx)
	}
	if err != nil {
		w.Failf("afterwards: %v", err)
	}
}

// leaderless lets the quorum lose its leader now and then.
func (w *World) leaderless(ctx context.Context) {
	rng := rand.New(rand.NewPCG(w.Seed, 99))
	for Doze(ctx, UpTo(rng, 30*time.Second)) {
		w.Store.Outage(true)
		Doze(context.WithoutCancel(ctx), UpTo(rng, 3*time.Second))
		w.Store.Outage(false)
	}
}

// client is one process: it opens sessions, works under each until it is lost
// or the process crashes, and begins again.
func (w *World) client(outer, ctx context.Context, i int) {
	done := sync.OnceFunc(w.finished.Done)
	defer done()
	for life := uint64(0); ctx.Err() == nil; life++ {
		rng := rand.New(rand.NewPCG(w.Seed, uint64(i)<<32|life))
		faults := engine.FaultConfig{Seed: rng.Uint64(), LoseRequest: 0.02, LoseResponse: 0.03, DelayP: 0.2, Delay: 700 * time.Millisecond}
		if rng.IntN(2) == 0 {
			faults.DelayP, faults.Delay = 0.15, 5*time.Second
		}
		if w.duplicates() {
			faults.Duplicate = 0.03
		}
		net := engine.Faulty(w.Store, faults)
		late := engine.Faulty(net, engine.FaultConfig{Seed: rng.Uint64(), DelayP: w.LateTxns, Delay: 4 * time.Second})
		var e engine.Engine = lateTxns{net, late}
		if w.Wrap != nil {
			e = w.Wrap(e)
		}
		w.life(outer, ctx, i, rng, net, e, done)
		if err := errors.Join(late.Close(), net.Close()); err != nil {
			w.Failf("client %d: close network: %v", i, err)
		}
	}
}

// lateTxns is an engine whose transactions take another way.
type lateTxns struct {
	engine.Engine
	way engine.Engine
}

func (l lateTxns) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	return l.way.Txn(ctx, t)
}

func (w *World) life(outer, ctx context.Context, i int, rng *rand.Rand, net *engine.FaultyEngine, e engine.Engine, done func()) {
	session, err := engine.OpenSession(ctx, e, engine.SessionConfig{TTL: SessionTTL, ID: engine.SessionID(rng.Int64N(1<<62) + 1)})
	if err != nil {
		return // the run is over
	}
	life, crash := context.WithTimeout(ctx, UpTo(rng, 40*time.Second))
	defer crash()
	stop := context.AfterFunc(session.Context(), crash) //nolint:contextcheck // it joins the two
	defer stop()
	nemesis := rand.New(rand.NewPCG(rng.Uint64(), 1))
	var wg sync.WaitGroup
	wg.Go(func() { befall(life, net, nemesis) })
	end := w.Live(life, &Life{Client: i, Session: session, Rng: rng})
	wg.Wait()
	if ctx.Err() != nil {
		done()
		<-w.judged
	}
	crashed := rng.IntN(2) == 0 && ctx.Err() == nil
	if crashed {
		net.Cut(true) // it dies without a word; the quorum has to notice
	}
	end()
	bye, cancel := context.WithTimeout(outer, SessionTTL)
	defer cancel()
	if err := session.Close(bye); err != nil && !crashed && ctx.Err() == nil && holdfast.OutcomeOf(err) != holdfast.Unknown {
		w.Failf("client %d: close session: %v", i, err)
	}
}

// befall is what happens to a process in its life.
func befall(ctx context.Context, net *engine.FaultyEngine, rng *rand.Rand) {
	for Doze(ctx, UpTo(rng, 8*time.Second)) {
		switch rng.IntN(4) {
		case 0:
			net.Cut(true)
			Doze(ctx, UpTo(rng, 4*time.Second))
			net.Cut(false)
		case 1:
			net.Pause()
			Doze(ctx, UpTo(rng, 4*time.Second))
			net.Resume()
		}
	}
}

// Doze waits, and says whether ctx still goes on.
func Doze(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// UpTo is a time between nothing and d.
func UpTo(rng *rand.Rand, d time.Duration) time.Duration { return time.Duration(rng.Int64N(int64(d))) }
