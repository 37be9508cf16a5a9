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

// turn lets one at a time act on a host. Others wait as long as their context
// lasts.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (t turn) give() { <-t }

// hostState is guarded by its turn.
type hostState struct {
	turn  turn
	host  Host // as the world has it in this turn
	full  int  // processes that ran when nothing held the host; -1: not known
	downs map[int]bool
	start bool // it was killed, and not started since
	off   bool // the power is off

	pauses map[int]string // name of the process; "" is all
	shares map[int]float64
	clocks map[int]clockPart
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

// with runs do while nobody else acts on the host.
func (l *ledger) with(ctx context.Context, name string, do func(*hostState) error) error {
	l.mu.Lock()
	st := l.hosts[name]
	if st == nil {
		st = &hostState{
			turn: newTurn(), full: -1,
			downs: make(map[int]bool), pauses: make(map[int]string),
			shares: make(map[int]float64), clocks: make(map[int]clockPart),
		}
		l.hosts[name] = st
	}
	l.mu.Unlock()
	if err := st.turn.take(ctx); err != nil {
		return fmt.Errorf("wait for other faults of the host: %w", err)
	}
	defer st.turn.give()
	host, err := l.world.Host(name)
	if err != nil {
		return err
	}
	st.host = host
	return do(st)
}

// held: a fault keeps the processes from running.
func (st *hostState) held() bool { return len(st.downs) > 0 || len(st.pauses) > 0 }

// look notes how many processes run while nothing holds the host.
func (l *ledger) look(ctx context.Context, name string) error {
	return l.with(ctx, name, func(st *hostState) error {
		if !st.held() && !st.start {
			st.full = st.host.Running()
		}
		return nil
	})
}

// whole checks that the processes run again, unless another fault holds the host.
func (l *ledger) whole(ctx context.Context, name string) error {
	return l.with(ctx, name, func(st *hostState) error {
		if st.held() || st.full <= 0 {
			return nil
		}
		if n := st.host.Running(); n < st.full {
			return fmt.Errorf("%d of %d processes run", n, st.full)
		}
		return nil
	})
}

func (l *ledger) kill(ctx context.Context, id int, name, process string) (died int, err error) {
	err = l.with(ctx, name, func(st *hostState) error {
		st.downs[id], st.start = true, true
		var err error
		died, err = st.host.Kill(ctx, process)
		return err
	})
	return died, err
}

func (l *ledger) powerOff(ctx context.Context, id int, name string, crash faultfs.Crash) (losses faultfs.Losses, err error) {
	err = l.with(ctx, name, func(st *hostState) error {
		st.downs[id], st.start, st.off = true, true, true
		var err error
		losses, err = st.host.PowerOff(ctx, crash)
		return err
	})
	return losses, err
}

// up ends a kill or power failure.
func (l *ledger) up(ctx context.Context, id int, name string) error {
	return l.with(ctx, name, func(st *hostState) error {
		delete(st.downs, id)
		return st.settle(ctx)
	})
}

// settle starts what was killed when nothing holds the host any more.
func (st *hostState) settle(ctx context.Context) error {
	if !st.start || st.held() {
		return nil
	}
	if err := st.host.Start(ctx); err != nil {
		return fmt.Errorf("start again: %w", err)
	}
	st.start, st.off = false, false
	return nil
}

func (l *ledger) pause(ctx context.Context, id int, name, process string) (paused int, err error) {
	err = l.with(ctx, name, func(st *hostState) error {
		st.pauses[id] = process
		var err error
		paused, err = st.host.Pause(ctx, process)
		return err
	})
	return paused, err
}

func (l *ledger) resume(ctx context.Context, id int, name, process string) error {
	return l.with(ctx, name, func(st *hostState) error {
		delete(st.pauses, id)
		var all, same bool
		for _, other := range st.pauses {
			all = all || other == ""
			same = same || other == process
		}
		if st.off || all || same {
			return st.settle(ctx)
		}
		if err := st.host.Resume(ctx, process); err != nil {
			return fmt.Errorf("resume: %w", err)
		}
		if process == "" {
			for _, other := range sortedIDs(st.pauses) {
				if _, err := st.host.Pause(ctx, st.pauses[other]); err != nil {
					return fmt.Errorf("pause %s again: %w", st.pauses[other], err)
				}
			}
		}
		return st.settle(ctx)
	})
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
	return l.with(ctx, name, func(st *hostState) error {
		if share > 0 {
			st.shares[id] = share
		} else {
			delete(st.shares, id)
		}
		lowest := 0.0
		for _, other := range st.shares {
			if lowest == 0 || other < lowest {
				lowest = other
			}
		}
		return st.host.Throttle(ctx, lowest)
	})
}

func (l *ledger) throttled(ctx context.Context, name string) (d time.Duration, err error) {
	err = l.with(ctx, name, func(st *hostState) error {
		d = st.host.Throttled()
		return nil
	})
	return d, err
}

// clock sets the part of one fault; nil takes it away.
func (l *ledger) clock(ctx context.Context, id int, name string, part *clockPart) error {
	return l.with(ctx, name, func(st *hostState) error {
		if part == nil {
			delete(st.clocks, id)
		} else {
			p := *part
			p.since = l.now()
			st.clocks[id] = p
		}
		return st.setClock(l.now())
	})
}

// clockReset makes the parts of all faults nothing.
func (l *ledger) clockReset(ctx context.Context, name string) error {
	return l.with(ctx, name, func(st *hostState) error {
		for id := range st.clocks {
			st.clocks[id] = clockPart{}
		}
		return st.setClock(l.now())
	})
}

func (st *hostState) setClock(now time.Duration) error {
	var o vclock.Offset
	for _, id := range sortedIDs(st.clocks) {
		o.Jump += st.clocks[id].at(now)
		o.Drift += st.clocks[id].drift
	}
	return st.host.Clock().Set(o)
}

// reading is a clock as it was measured and as it should be.
type reading struct {
	measured time.Duration
	expected time.Duration // of all faults together
	own      time.Duration // the part of this fault
	drift    float64
}

// off is how far the clock is from where it should be, beyond what measuring
// itself takes.
func (r reading) off() bool {
	slack := 250*time.Millisecond + time.Duration(max(r.drift, -r.drift)*float64(100*time.Millisecond))
	if own := r.own.Abs(); own > 0 {
		slack = min(slack, max(own/2, time.Millisecond))
	}
	return (r.measured - r.expected).Abs() > slack
}

func (l *ledger) readClock(ctx context.Context, id int, name string) (r reading, err error) {
	err = l.with(ctx, name, func(st *hostState) error {
		before := l.now()
		var err error
		if r.measured, err = st.host.Clock().Offset(); err != nil {
			return fmt.Errorf("measure the clock: %w", err)
		}
		now := before + (l.now()-before)/2
		for _, p := range st.clocks {
			r.expected += p.at(now)
			r.drift += p.drift
		}
		r.own = st.clocks[id].at(now)
		return nil
	})
	return r, err
}

func (l *ledger) disk(ctx context.Context, name string, do func(Disk) error) error {
	return l.with(ctx, name, func(st *hostState) error { return do(st.host.Disk()) })
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
