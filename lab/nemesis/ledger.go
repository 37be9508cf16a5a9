package nemesis

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast.dev/lab/faultfs"
	"holdfast.dev/lab/vclock"
)

// ledger is which faults hold which host, so that faults that overlap end
// rightly:
//
//   - a process goes on when the last pause that covers it has ended;
//   - a host's processes are started when no kill, power failure or pause holds
//     the host any more;
//   - the lowest share of the processor counts;
//   - the offsets of clocks add up, and a fault takes its own part with it;
//   - the latest fault of a name in the DNS counts, and the one before it when
//     it ends.
//
// Everything is noted under the fault's ID, so that taking something back twice
// is the same as once.
type ledger struct {
	world World
	now   func() time.Duration

	mu    sync.Mutex
	hosts map[string]*hostState
	names dnsState
}

// turn lets one at a time act. Others wait as long as their context lasts.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for other faults of the host: %w", ctx.Err())
	}
}

func (t turn) give() { <-t }

// hostState is three things that are acted on apart, so that the clock of a
// host can be set right while its servers are starting.
type hostState struct {
	procs struct {
		turn

		full     int // processes that ran when nothing held the host; -1: not known
		downs    map[int]bool
		pauses   map[int]string // name of the process; "" is all
		start    bool           // something was killed, and not started since
		off      bool           // the power is off
		starting *starting      // a start is under way; the turn is free meanwhile
	}
	shares struct {
		turn

		of map[int]float64
	}
	clock struct {
		turn

		parts map[int]clockPart
	}
}

// starting is a start that takes its time. A new fault that holds the host ends
// it.
type starting struct {
	cancel context.CancelFunc
	done   chan struct{}
}

type clockPart struct {
	since time.Duration
	jump  time.Duration
	drift float64
}

func (p clockPart) at(now time.Duration) time.Duration {
	return p.jump + time.Duration(p.drift*float64(now-p.since))
}

type dnsState struct {
	turn   turn
	faults map[string][]dnsEntry
}

type dnsEntry struct {
	id    int
	fault DNSFault
}

func newLedger(world World, now func() time.Duration) *ledger {
	return &ledger{
		world: world, now: now,
		hosts: make(map[string]*hostState),
		names: dnsState{turn: newTurn(), faults: make(map[string][]dnsEntry)},
	}
}

// state is what is known of a host.
func (l *ledger) state(name string) *hostState {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.hosts[name]
	if st == nil {
		st = &hostState{}
		st.procs.turn, st.shares.turn, st.clock.turn = newTurn(), newTurn(), newTurn()
		st.procs.full = -1
		st.procs.downs, st.procs.pauses = make(map[int]bool), make(map[int]string)
		st.shares.of, st.clock.parts = make(map[int]float64), make(map[int]clockPart)
		l.hosts[name] = st
	}
	return st
}

// with runs do while nobody else has the turn.
func (l *ledger) with(ctx context.Context, t turn, name string, do func(Host) error) error {
	if err := t.take(ctx); err != nil {
		return err
	}
	defer t.give()
	host, err := l.world.Host(name) // anew each time: after a power failure it may be another one
	if err != nil {
		return err
	}
	return do(host)
}

// held: a fault keeps the processes from running.
func (st *hostState) held() bool { return len(st.procs.downs) > 0 || len(st.procs.pauses) > 0 }

// look notes how many processes run while nothing holds the host.
func (l *ledger) look(ctx context.Context, name string) error {
	st := l.state(name)
	return l.with(ctx, st.procs.turn, name, func(host Host) error {
		if !st.held() && !st.procs.start {
			st.procs.full = host.Running()
		}
		return nil
	})
}

// whole checks that the processes run again, unless another fault holds the host.
func (l *ledger) whole(ctx context.Context, name string) error {
	st := l.state(name)
	return l.with(ctx, st.procs.turn, name, func(host Host) error {
		if st.held() || st.procs.starting != nil || st.procs.full <= 0 {
			return nil
		}
		if n := host.Running(); n < st.procs.full {
			return fmt.Errorf("%d of %d processes run", n, st.procs.full)
		}
		return nil
	})
}

// isOff: the power of the host is off, and nothing on it can be measured.
func (l *ledger) isOff(ctx context.Context, name string) bool {
	st := l.state(name)
	if st.procs.take(ctx) != nil {
		return false
	}
	defer st.procs.give()
	return st.procs.off
}

// hold notes a fault that keeps processes from running, ends a start that is
// under way, and then does what the fault does.
func (l *ledger) hold(ctx context.Context, name string, note func(*hostState), do func(*hostState, Host) error) error {
	st := l.state(name)
	var under *starting
	err := l.with(ctx, st.procs.turn, name, func(Host) error {
		note(st)
		under = st.procs.starting
		return nil
	})
	if err != nil {
		return err
	}
	if under != nil {
		under.cancel()
		select {
		case <-under.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for a start to end: %w", ctx.Err())
		}
	}
	return l.with(ctx, st.procs.turn, name, func(host Host) error { return do(st, host) })
}

func (l *ledger) kill(ctx context.Context, id int, name, process string) (died int, err error) {
	err = l.hold(ctx, name, func(st *hostState) {
		st.procs.downs[id], st.procs.start = true, true
	}, func(_ *hostState, host Host) error {
		var err error
		died, err = host.Kill(ctx, process)
		return err
	})
	return died, err
}

func (l *ledger) powerOff(ctx context.Context, id int, name string, crash faultfs.Crash) (losses faultfs.Losses, err error) {
	err = l.hold(ctx, name, func(st *hostState) {
		st.procs.downs[id], st.procs.start = true, true
	}, func(st *hostState, host Host) error {
		st.procs.off = true
		var err error
		losses, err = host.PowerOff(ctx, crash)
		return err
	})
	return losses, err
}

func (l *ledger) pause(ctx context.Context, id int, name, process string) (paused int, err error) {
	err = l.hold(ctx, name, func(st *hostState) {
		st.procs.pauses[id] = process
	}, func(_ *hostState, host Host) error {
		var err error
		paused, err = host.Pause(ctx, process)
		return err
	})
	return paused, err
}

// up ends a kill or power failure.
func (l *ledger) up(ctx context.Context, id int, name string) error {
	st := l.state(name)
	err := l.with(ctx, st.procs.turn, name, func(Host) error {
		delete(st.procs.downs, id)
		return nil
	})
	if err != nil {
		return err
	}
	return l.settle(ctx, name)
}

func (l *ledger) resume(ctx context.Context, id int, name, process string) error {
	st := l.state(name)
	err := l.with(ctx, st.procs.turn, name, func(host Host) error {
		delete(st.procs.pauses, id)
		var all, same bool
		for _, other := range st.procs.pauses {
			all = all || other == ""
			same = same || other == process
		}
		if all || same {
			return nil
		}
		if err := host.Resume(ctx, process); err != nil && !st.procs.off {
			return fmt.Errorf("resume: %w", err)
		}
		if process != "" || st.procs.off {
			return nil
		}
		for _, other := range sortedIDs(st.procs.pauses) {
			if _, err := host.Pause(ctx, st.procs.pauses[other]); err != nil {
				return fmt.Errorf("pause %s again: %w", st.procs.pauses[other], err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return l.settle(ctx, name)
}

// settle starts what was killed when nothing holds the host any more. Starting
// takes long, and may need what other faults hold: meanwhile the turn is free.
func (l *ledger) settle(ctx context.Context, name string) error {
	st := l.state(name)
	for {
		startCtx, cancel := context.WithCancel(ctx)
		mine := &starting{cancel: cancel, done: make(chan struct{})}
		var other *starting
		var startable Host // where it is for us to start
		err := l.with(ctx, st.procs.turn, name, func(host Host) error {
			other = st.procs.starting
			if other == nil && st.procs.start && !st.held() {
				st.procs.starting, startable = mine, host
			}
			return nil
		})
		if startable != nil {
			err = startable.Start(startCtx)
			if held := l.started(ctx, st, mine, err == nil); held {
				err = nil
			}
		}
		cancel()
		if err != nil && startable != nil {
			return fmt.Errorf("start again: %w", err)
		}
		if err != nil || other == nil {
			return err
		}
		select {
		case <-other.done:
		case <-ctx.Done():
			return fmt.Errorf("wait for a start to end: %w", ctx.Err())
		}
	}
}

// started notes the end of a start, however little time there is left, and
// whether a fault came meanwhile: then the host is started when that ends.
func (l *ledger) started(ctx context.Context, st *hostState, s *starting, ok bool) (held bool) {
	_ = st.procs.take(context.WithoutCancel(ctx)) // holders of the turn are bounded by their own contexts
	defer st.procs.give()
	st.procs.starting = nil
	close(s.done)
	held = st.held()
	if ok {
		st.procs.off = false
		st.procs.start = held
	}
	return held
}

func sortedIDs[V any](m map[int]V) []int {
	ids := make([]int, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// throttle sets the share of one fault; 0 ends it.
func (l *ledger) throttle(ctx context.Context, id int, name string, share float64) error {
	st := l.state(name)
	return l.with(ctx, st.shares.turn, name, func(host Host) error {
		if share > 0 {
			st.shares.of[id] = share
		} else {
			delete(st.shares.of, id)
		}
		lowest := 0.0
		for _, other := range st.shares.of {
			if lowest == 0 || other < lowest {
				lowest = other
			}
		}
		return host.Throttle(ctx, lowest)
	})
}

func (l *ledger) throttled(name string) (time.Duration, error) {
	host, err := l.world.Host(name)
	if err != nil {
		return 0, err
	}
	return host.Throttled(), nil
}

// clock sets the part of one fault; nil takes it away.
func (l *ledger) clock(ctx context.Context, id int, name string, part *clockPart) error {
	st := l.state(name)
	return l.with(ctx, st.clock.turn, name, func(host Host) error {
		if part == nil {
			delete(st.clock.parts, id)
		} else {
			p := *part
			p.since = l.now()
			st.clock.parts[id] = p
		}
		return st.setClock(host, l.now())
	})
}

// clockReset makes the parts of all faults nothing.
func (l *ledger) clockReset(ctx context.Context, name string) error {
	st := l.state(name)
	return l.with(ctx, st.clock.turn, name, func(host Host) error {
		for id := range st.clock.parts {
			st.clock.parts[id] = clockPart{}
		}
		return st.setClock(host, l.now())
	})
}

func (st *hostState) setClock(host Host, now time.Duration) error {
	var o vclock.Offset
	for _, id := range sortedIDs(st.clock.parts) {
		o.Jump += st.clock.parts[id].at(now)
		o.Drift += st.clock.parts[id].drift
	}
	return host.Clock().Set(o)
}

// reading is a clock as it was measured and as it should be.
type reading struct {
	measured time.Duration
	expected time.Duration // of all faults together
	own      time.Duration // the part of this fault
	drift    float64
}

// off is whether the clock is further from where it should be than measuring
// it can explain.
func (r reading) off() bool {
	slack := 250*time.Millisecond + time.Duration(max(r.drift, -r.drift)*float64(100*time.Millisecond))
	if own := r.own.Abs(); own > 0 {
		slack = min(slack, max(own/2, time.Millisecond))
	}
	return (r.measured - r.expected).Abs() > slack
}

func (l *ledger) readClock(ctx context.Context, id int, name string) (r reading, err error) {
	st := l.state(name)
	err = l.with(ctx, st.clock.turn, name, func(host Host) error {
		before := l.now()
		var err error
		if r.measured, err = host.Clock().Offset(); err != nil {
			return fmt.Errorf("measure the clock: %w", err)
		}
		now := before + (l.now()-before)/2
		for _, p := range st.clock.parts {
			r.expected += p.at(now)
			r.drift += p.drift
		}
		r.own = st.clock.parts[id].at(now)
		return nil
	})
	return r, err
}

// disk needs no turn: rules have names of their own.
func (l *ledger) disk(name string, do func(Disk) error) error {
	host, err := l.world.Host(name)
	if err != nil {
		return err
	}
	return do(host.Disk())
}

// dns sets what the name server does wrong about a name on behalf of one fault;
// nil takes it away.
func (l *ledger) dns(ctx context.Context, id int, name string, f *DNSFault) error {
	if err := l.names.turn.take(ctx); err != nil {
		return err
	}
	defer l.names.turn.give()
	stack := slices.DeleteFunc(l.names.faults[name], func(e dnsEntry) bool { return e.id == id })
	if f != nil {
		stack = append(stack, dnsEntry{id: id, fault: *f})
	}
	l.names.faults[name] = stack
	var now DNSFault
	if len(stack) > 0 {
		now = stack[len(stack)-1].fault
	}
	l.world.DNS().Set(name, now)
	return nil
}
