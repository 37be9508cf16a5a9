package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Active is a fault that was injected. Its methods may be called concurrently.
type Active struct {
	nemesis *Nemesis
	fault   Fault
	id      int

	injected  chan struct{} // closed when it is broken or cannot be
	injectErr error         // then
	ask       func()        // ends the context under which the fault stays
	hurry     chan struct{} // closed: recover at once
	hurryOnce sync.Once
	done      chan struct{} // closed after the first recovery; again lets later ones in
	again     turn

	// The goroutine of live has these until done is closed, then whoever has
	// the turn of again.
	life     lifecycle
	traits   traits
	verified bool

	mu     sync.Mutex
	record Record
	err    error // of the last recovery; nil once it succeeded
}

// ID is the number of the injection, from 1; the events carry it.
func (a *Active) ID() int { return a.id }

// Fault is what was asked for.
func (a *Active) Fault() Fault { return a.fault }

// Record is what became of the fault so far.
func (a *Active) Record() Record {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.record
	r.Hosts = slices.Clone(r.Hosts)
	return r
}

// Done is closed when the fault is recovered, or its recovery has failed.
func (a *Active) Done() <-chan struct{} { return a.done }

// Recover takes the fault back and returns when it is gone. It may be called
// any number of times, also when the fault ended by itself; after a failed
// recovery it tries again. It finishes although ctx is done, within
// Config.HealTimeout: what is broken must not stay so because somebody lost
// patience.
func (a *Active) Recover(ctx context.Context) error { return a.recover(ctx, false) }

func (a *Active) recover(ctx context.Context, hurry bool) error {
	if hurry {
		a.hurryOnce.Do(func() { close(a.hurry) })
	}
	select {
	case <-a.done:
	default:
		a.ask()
		<-a.done
		return a.lastErr()
	}
	ctx = context.WithoutCancel(ctx)
	if err := a.again.take(ctx); err != nil {
		return err
	}
	defer a.again.give()
	if a.lastErr() != nil {
		a.takeBack(ctx)
	}
	return a.lastErr()
}

func (a *Active) lastErr() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.err
}

// broken: something of it may be left.
func (a *Active) broken() bool {
	select {
	case <-a.done:
		return a.lastErr() != nil
	default:
		return true
	}
}

// abandon ends an injection that is under way; it does nothing to a fault that
// is injected.
func (a *Active) abandon() {
	select {
	case <-a.injected:
	default:
		a.ask()
		<-a.injected
	}
}

// startsServers may be asked when injected is closed.
func (a *Active) startsServers() bool { return a.traits.starts }

// concerns: it keeps hosts of the core from working, or a link between one of
// them and one of the ends.
func (a *Active) concerns(core, ends []string) bool {
	<-a.injected
	if len(a.traits.hosts) == 0 && len(a.traits.links) == 0 {
		return true // the name server, which all share
	}
	if slices.ContainsFunc(a.traits.hosts, func(h string) bool { return slices.Contains(core, h) }) {
		return true
	}
	return slices.ContainsFunc(a.traits.links, func(l Link) bool {
		return slices.Contains(core, l.From) && slices.Contains(ends, l.To) ||
			slices.Contains(core, l.To) && slices.Contains(ends, l.From)
	})
}

// live is the one goroutine that injects, watches and recovers the fault.
// ctx is that of the injection; wanted ends when the recovery is asked for.
func (a *Active) live(ctx, wanted context.Context, seed uint64) {
	defer close(a.done)
	begun := a.inject(ctx, wanted, seed)
	close(a.injected)
	if !begun {
		a.ask()
		return
	}
	if a.injectErr == nil {
		a.watch(wanted)
	}
	a.finish(context.WithoutCancel(wanted))
	a.ask() // lets go of wanted
}

// inject resolves, sets up and injects. begun is false where nothing was
// touched.
func (a *Active) inject(ctx, wanted context.Context, seed uint64) (begun bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(wanted, cancel)()

	fail := func(step string, err error) {
		if cause := context.Cause(ctx); cause != nil && wanted.Err() != nil {
			err = errors.New("it was recovered while it was injected")
		}
		a.injectErr = fmt.Errorf("%s: %w", step, err)
		now := a.nemesis.cfg.Now()
		a.mu.Lock()
		if a.life.stage < isBroken {
			a.record.From, a.record.To, a.record.Recovered = now, now, true
		}
		a.mu.Unlock()
		a.failed(a.injectErr)
	}
	resolved, err := resolve(ctx, a.fault, a.nemesis.world, seed)
	if err != nil {
		fail("resolve", err)
		return false
	}
	world := a.nemesis.world
	b := builder{
		world: world, ledger: a.nemesis.ledger, seed: seed, id: a.id,
		everyone: slices.Concat(world.Nodes(), world.Clients(), []string{Lab}),
	}
	a.life = lifecycle{failure: resolved.spec.failure(b)}
	a.traits = a.life.failure.traits()
	a.mu.Lock()
	a.record.Resolved = resolved.String()
	a.record.Hosts = affected(resolved, world.Nodes(), b.everyone)
	a.mu.Unlock()
	if err := a.life.setup(ctx); err != nil {
		fail("setup", err)
		_ = a.life.cleanup(ctx)
		return false
	}
	now := a.nemesis.cfg.Now()
	a.mu.Lock()
	a.record.From = now
	a.mu.Unlock()
	a.tellAt(now, PhaseInject, nil, "")
	if err := a.life.inject(ctx); err != nil {
		fail("inject", err)
	}
	return true
}

// watch waits for the end of the fault: its time is up, its steps are done, or
// somebody asks for it. Meanwhile it looks for an effect.
func (a *Active) watch(wanted context.Context) {
	if a.traits.instant {
		return
	}
	ctx, cancel := context.WithCancel(wanted)
	defer cancel()
	steps := a.start(ctx)
	defer func() { // the steps are over before anything is taken back
		cancel()
		for step := range steps {
			a.tell(step)
		}
	}()
	var up <-chan time.Time
	if a.fault.dur > 0 {
		timer := time.NewTimer(a.fault.dur)
		defer timer.Stop()
		up = timer.C
	}
	every := a.nemesis.cfg.VerifyEvery
	look := time.NewTimer(every)
	defer look.Stop()
	pause := every
	going := steps
	for {
		select {
		case <-wanted.Done():
			return
		case <-up:
			return
		case step, ok := <-going:
			if ok {
				a.tell(step)
				continue
			}
			if a.traits.ends {
				return
			}
			going = nil
		case <-look.C:
			if _ = a.measure(ctx); !a.verified {
				pause = min(2*pause, 10*every)
				look.Reset(pause)
			}
		}
	}
}

// step is something to tell from the goroutine of run.
type step struct {
	phase  Phase
	detail string
}

func (a *Active) tell(s step) {
	if s.phase == PhaseError {
		a.failed(errors.New(s.detail))
		return
	}
	a.tellAt(a.nemesis.cfg.Now(), s.phase, nil, s.detail)
}

// start runs the steps of a failure that has some. The channel is closed when
// they are done; nil where there are none.
func (a *Active) start(ctx context.Context) <-chan step {
	r, ok := a.life.failure.(runner)
	if !ok {
		none := make(chan step)
		close(none)
		return none
	}
	steps := make(chan step, 16)
	go func() {
		defer close(steps)
		say := sayer{note: func(format string, args ...any) { steps <- step{PhaseNote, fmt.Sprintf(format, args...)} }}
		if err := r.run(ctx, say); err != nil {
			steps <- step{PhaseError, err.Error()}
		}
	}()
	return steps
}

// measure asks what the fault touched, and tells of it the first time that it
// touched something. It never takes back what was seen before; that it cannot
// be seen any more, on a host that is off now, is no error then.
func (a *Active) measure(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	e, err := a.life.effect(ctx)
	if e.Unit != "" {
		a.mu.Lock()
		if was := a.record.Effect; e.Count > was.Count || e.Count == was.Count && a.life.stage == isBroken {
			a.record.Effect = e
		}
		a.mu.Unlock()
	}
	if !e.Nothing() {
		a.verifyOnce()
	}
	if e.Unit == "" && a.verified {
		return nil
	}
	return err
}

func (a *Active) verifyOnce() {
	if a.verified {
		return
	}
	a.verified = true
	e := a.Record().Effect
	a.tellAt(a.nemesis.cfg.Now(), PhaseVerified, &e, e.Text)
}

// finish takes the last measure before the fault goes, and recovers it.
func (a *Active) finish(base context.Context) {
	err := a.measure(base)
	a.verifyOnce()
	if err != nil && a.injectErr == nil {
		a.failed(fmt.Errorf("verify effect: %w", err))
	}
	a.takeBack(base)
}

// takeBack recovers, verifies and cleans up, within a time of its own.
func (a *Active) takeBack(base context.Context) {
	n := a.nemesis
	ctx, cancel := context.WithTimeout(base, n.cfg.HealTimeout+a.traits.takes)
	defer cancel()
	if !a.traits.instant {
		a.tellAt(n.cfg.Now(), PhaseRecover, nil, "")
	}
	say := sayer{hurry: a.hurry, note: func(format string, args ...any) {
		a.tellAt(n.cfg.Now(), PhaseNote, nil, fmt.Sprintf(format, args...))
	}}
	if err := a.life.recover(ctx, say); err != nil {
		a.ended(fmt.Errorf("recover: %w", err))
		return
	}
	_ = a.measure(ctx) // the last frames; what was seen before counts where it cannot tell
	if err := a.life.verify(ctx); err != nil {
		a.failed(fmt.Errorf("verify recovery: %w", err))
	}
	if err := a.life.cleanup(ctx); err != nil {
		a.failed(fmt.Errorf("cleanup: %w", err))
	}
	a.ended(nil)
}

// ended notes how the recovery went.
func (a *Active) ended(err error) {
	if err != nil {
		a.mu.Lock()
		a.err = err
		a.mu.Unlock()
		a.failed(err)
		return
	}
	now := a.nemesis.cfg.Now()
	a.mu.Lock()
	a.err = nil
	a.record.To, a.record.Recovered = now, true
	e := a.record.Effect
	a.mu.Unlock()
	a.tellAt(now, PhaseRecovered, &e, e.Text)
}

// failed notes and tells an error.
func (a *Active) failed(err error) {
	text := strings.ReplaceAll(err.Error(), "\n", "; ")
	a.mu.Lock()
	if a.record.Err != "" {
		a.record.Err += "\n"
	}
	a.record.Err += text
	a.mu.Unlock()
	a.tellAt(a.nemesis.cfg.Now(), PhaseError, nil, text)
}

func (a *Active) tellAt(at time.Duration, phase Phase, e *Effect, detail string) {
	r := a.Record()
	a.nemesis.cfg.Journal(Event{
		At: at, ID: a.id, Phase: phase, Kind: r.Kind, Fault: r.Fault, Resolved: r.Resolved, Hosts: r.Hosts,
		Effect: e, Detail: detail,
	})
}
