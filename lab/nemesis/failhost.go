package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast.dev/lab/faultfs"
)

// onEach is shared by failures of hosts: what they have to take back, and a
// count of what they touched. All hosts are acted on at once.
type onEach struct {
	plain

	ledger *ledger
	id     int
	hosts  []string

	mu    sync.Mutex
	left  map[string]bool // hosts to be recovered
	count int64
	lines []string // of the effect, by host
}

func (b builder) onEach(hosts []string) *onEach {
	return &onEach{ledger: b.ledger, id: b.id, hosts: hosts, left: make(map[string]bool)}
}

func (f *onEach) traits() traits { return traits{hosts: f.hosts} }

// eachOf does something on hosts at once; errors name the host.
func eachOf(hosts []string, do func(host string) error) error {
	return together(hosts, func(host string) error {
		if err := do(host); err != nil {
			return fmt.Errorf("%s: %w", host, err)
		}
		return nil
	})
}

// touch notes that a host has to be recovered, and then acts.
func (f *onEach) touch(host string, do func() (int64, error)) error {
	f.mu.Lock()
	f.left[host] = true
	f.mu.Unlock()
	n, err := do()
	f.mu.Lock()
	f.count += n
	f.mu.Unlock()
	return err
}

// undo acts on all hosts that are left, and forgets those where it went well.
func (f *onEach) undo(do func(host string) error) error {
	f.mu.Lock()
	var hosts []string
	for _, h := range f.hosts {
		if f.left[h] {
			hosts = append(hosts, h)
		}
	}
	f.mu.Unlock()
	return eachOf(hosts, func(host string) error {
		if err := do(host); err != nil {
			return err
		}
		f.mu.Lock()
		delete(f.left, host)
		f.mu.Unlock()
		return nil
	})
}

func (f *onEach) counted() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.count
}

// say adds a line to the effect.
func (f *onEach) say(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines = append(f.lines, fmt.Sprintf(format, args...))
}

func (f *onEach) said() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	slices.Sort(f.lines)
	return strings.Join(f.lines, "; ")
}

// lookAll notes what ran before.
func (f *onEach) lookAll(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error { return f.ledger.look(ctx, host) })
}

func (f *onEach) allWhole(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error { return f.ledger.whole(ctx, host) })
}

// killFailure kills, and starts again when it is recovered.
type killFailure struct {
	*onEach

	process string
}

func (b builder) kill(hosts []string, process string) failure {
	return &killFailure{b.onEach(hosts), process}
}

func (f *killFailure) traits() traits { return traits{hosts: f.hosts, starts: true} }

func (f *killFailure) setup(ctx context.Context) error { return f.lookAll(ctx) }

func (f *killFailure) inject(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error { return f.killOne(ctx, host) })
}

func (f *killFailure) killOne(ctx context.Context, host string) error {
	return f.touch(host, func() (int64, error) {
		n, err := f.ledger.kill(ctx, f.id, host, f.process)
		return int64(n), err
	})
}

func (f *killFailure) effect(context.Context) (Effect, error) {
	return countEffect(f.counted(), "processes", "killed"), nil
}

func (f *killFailure) recover(ctx context.Context, _ sayer) error {
	return f.undo(func(host string) error { return f.ledger.up(ctx, f.id, host) })
}

func (f *killFailure) verify(ctx context.Context) error { return f.allWhole(ctx) }

// restartFailure kills everything and starts it at once.
type restartFailure struct{ killFailure }

func (b builder) restart(hosts []string) failure {
	return &restartFailure{killFailure{b.onEach(hosts), ""}}
}

func (f *restartFailure) traits() traits { return traits{hosts: f.hosts, starts: true, ends: true} }

// run leaves the starting to recover, which follows at once.
func (f *restartFailure) run(context.Context, sayer) error { return nil }

// rollingFailure restarts one host after the other.
type rollingFailure struct {
	killFailure

	every time.Duration
}

func (b builder) rolling(hosts []string, every time.Duration) failure {
	return &rollingFailure{killFailure{b.onEach(hosts), ""}, every}
}

func (f *rollingFailure) traits() traits { return traits{hosts: f.hosts, starts: true, ends: true} }

func (f *rollingFailure) inject(context.Context) error { return nil }

// run restarts a host each time, and none before the one before is up.
func (f *rollingFailure) run(ctx context.Context, say sayer) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	for _, host := range f.hosts {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		tick.Reset(f.every)
		err := f.killOne(ctx, host)
		if err == nil {
			say.note("restarting %s", host)
			err = f.ledger.up(ctx, f.id, host)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", host, err)
		}
		f.mu.Lock()
		delete(f.left, host)
		f.mu.Unlock()
	}
	return nil
}

// pauseFailure stops processes and lets them go on.
type pauseFailure struct {
	*onEach

	process string
}

func (b builder) pause(hosts []string, process string) failure {
	return &pauseFailure{b.onEach(hosts), process}
}

func (f *pauseFailure) setup(ctx context.Context) error { return f.lookAll(ctx) }

func (f *pauseFailure) inject(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error {
		return f.touch(host, func() (int64, error) {
			n, err := f.ledger.pause(ctx, f.id, host, f.process)
			return int64(n), err
		})
	})
}

func (f *pauseFailure) effect(context.Context) (Effect, error) {
	return countEffect(f.counted(), "processes", "paused"), nil
}

func (f *pauseFailure) recover(ctx context.Context, _ sayer) error {
	return f.undo(func(host string) error { return f.ledger.resume(ctx, f.id, host, f.process) })
}

func (f *pauseFailure) verify(ctx context.Context) error { return f.allWhole(ctx) }

// throttleFailure slows hosts down.
type throttleFailure struct {
	*onEach

	share  float64
	before map[string]time.Duration
}

func (b builder) throttle(hosts []string, share float64) failure {
	return &throttleFailure{b.onEach(hosts), share, make(map[string]time.Duration)}
}

func (f *throttleFailure) setup(ctx context.Context) error {
	for _, host := range f.hosts {
		d, err := f.ledger.throttled(host)
		if err != nil {
			return fmt.Errorf("%s: %w", host, err)
		}
		f.before[host] = d
	}
	return nil
}

func (f *throttleFailure) inject(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error {
		return f.touch(host, func() (int64, error) { return 0, f.ledger.throttle(ctx, f.id, host, f.share) })
	})
}

func (f *throttleFailure) effect(ctx context.Context) (Effect, error) {
	var held time.Duration
	for _, host := range f.hosts {
		d, err := f.ledger.throttled(host)
		if err != nil {
			return Effect{}, fmt.Errorf("%s: %w", host, err)
		}
		held += d - f.before[host]
	}
	return countEffect(held.Milliseconds(), "milliseconds", "held back for"), nil
}

func (f *throttleFailure) recover(ctx context.Context, _ sayer) error {
	return f.undo(func(host string) error { return f.ledger.throttle(ctx, f.id, host, 0) })
}

// powerFailure cuts the power of hosts.
type powerFailure struct {
	*onEach

	crash faultfs.Crash
	seed  uint64
}

func (b builder) power(f powerSpec) failure {
	return &powerFailure{b.onEach(f.hosts), f.crash, b.seed}
}

func (f *powerFailure) traits() traits { return traits{hosts: f.hosts, starts: true} }

func (f *powerFailure) setup(ctx context.Context) error { return f.lookAll(ctx) }

func (f *powerFailure) inject(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error {
		return f.touch(host, func() (int64, error) {
			crash := f.crash
			crash.Seed = newDraw(f.seed, "crash", host).number()
			losses, err := f.ledger.powerOff(ctx, f.id, host, crash)
			if err != nil {
				return 0, err
			}
			f.say("%s: %s", host, lossText(losses))
			return 1, nil
		})
	})
}

func lossText(l faultfs.Losses) string {
	if l.Ops == 0 && l.Bytes == 0 && l.Entries == 0 {
		return "nothing unsynced was lost"
	}
	text := fmt.Sprintf("lost %d bytes of %d files and %d directory entries, %d operations undone", l.Bytes, l.Files, l.Entries, l.Ops)
	if len(l.Paths) > 0 {
		text += ": " + strings.Join(l.Paths[:min(3, len(l.Paths))], ", ")
		if len(l.Paths) > 3 {
			text += ", …"
		}
	}
	return text
}

func (f *powerFailure) effect(context.Context) (Effect, error) {
	e := countEffect(f.counted(), "hosts", "power off on")
	if e.Count > 0 {
		e.Text += "; " + f.said()
	}
	return e, nil
}

func (f *powerFailure) recover(ctx context.Context, _ sayer) error {
	return f.undo(func(host string) error { return f.ledger.up(ctx, f.id, host) })
}

func (f *powerFailure) verify(ctx context.Context) error { return f.allWhole(ctx) }

// clockFailure moves clocks: a jump, a drift, or both.
type clockFailure struct {
	*onEach

	part clockPart
}

func (b builder) clock(f clockSpec) failure {
	return &clockFailure{b.onEach(f.hosts), clockPart{jump: f.jump, drift: float64(f.drift) / 1e9}}
}

func (f *clockFailure) inject(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error {
		return f.touch(host, func() (int64, error) { return 0, f.ledger.clock(ctx, f.id, host, &f.part) })
	})
}

// leastMove is what a probe can tell from nothing.
const leastMove = time.Millisecond

// effect is which clocks stand where they should.
func (f *clockFailure) effect(ctx context.Context) (Effect, error) {
	lines := make([]string, len(f.hosts))
	moved := make([]bool, len(f.hosts))
	var wrong []error
	for i, host := range f.hosts {
		r, err := f.ledger.readClock(ctx, f.id, host)
		if err != nil {
			return Effect{}, fmt.Errorf("%s: %w", host, err)
		}
		lines[i] = fmt.Sprintf("%s %s", host, formatSigned(r.measured.Round(10*time.Microsecond)))
		moved[i] = r.own.Abs() >= leastMove && !r.off()
		if r.own.Abs() >= leastMove && r.off() {
			wrong = append(wrong, fmt.Errorf("%s: the clock is %s from the right time, not %s",
				host, formatSigned(r.measured.Round(time.Millisecond)), formatSigned(r.expected.Round(time.Millisecond))))
		}
	}
	e := countEffect(countTrue(moved), "clocks", "moved")
	e.Text += ": " + strings.Join(lines, ", ")
	return e, errors.Join(wrong...)
}

func countTrue(flags []bool) int64 {
	var n int64
	for _, f := range flags {
		if f {
			n++
		}
	}
	return n
}

func (f *clockFailure) recover(ctx context.Context, _ sayer) error {
	return f.undo(func(host string) error { return f.ledger.clock(ctx, f.id, host, nil) })
}

// verify: the clocks stand where the other faults leave them. That of a host
// without power cannot be read; it starts with what is left.
func (f *clockFailure) verify(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error {
		if f.ledger.isOff(ctx, host) {
			return nil
		}
		r, err := f.ledger.readClock(ctx, f.id, host)
		if err != nil {
			return err
		}
		if r.off() {
			return fmt.Errorf("the clock is still %s from the right time, not %s", formatSigned(r.measured), formatSigned(r.expected))
		}
		return nil
	})
}

// strobeFailure moves clocks forward and back.
type strobeFailure struct {
	clockFailure

	every time.Duration
	seen  map[string]time.Duration // where clocks were seen forward
	goes  int                      // changes of every clock
}

func (b builder) strobe(f clockSpec) failure {
	return &strobeFailure{
		clockFailure: clockFailure{b.onEach(f.hosts), clockPart{jump: f.jump}},
		every:        f.every, seen: make(map[string]time.Duration),
	}
}

func (f *strobeFailure) inject(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error {
		return f.touch(host, func() (int64, error) { return 0, f.forward(ctx, host) })
	})
}

// forward moves a clock, and measures it there until it was once seen to be.
func (f *strobeFailure) forward(ctx context.Context, host string) error {
	if err := f.ledger.clock(ctx, f.id, host, &f.part); err != nil {
		return err
	}
	f.mu.Lock()
	f.goes++
	_, seen := f.seen[host]
	f.mu.Unlock()
	if seen {
		return nil
	}
	r, err := f.ledger.readClock(ctx, f.id, host)
	if err == nil && !r.off() {
		f.mu.Lock()
		f.seen[host] = r.measured
		f.mu.Unlock()
	}
	return nil // a probe that fails now is tried the next time
}

// run goes on until it is stopped.
func (f *strobeFailure) run(ctx context.Context, _ sayer) error {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for forward := false; ; forward = !forward {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		err := eachOf(f.hosts, func(host string) error {
			if forward {
				return f.forward(ctx, host)
			}
			return f.ledger.clock(ctx, f.id, host, &clockPart{})
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (f *strobeFailure) effect(context.Context) (Effect, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := countEffect(int64(len(f.seen)), "clocks", "strobed")
	for _, host := range f.hosts {
		if at, ok := f.seen[host]; ok {
			e.Text += fmt.Sprintf("; %s was seen at %s", host, formatSigned(at.Round(10*time.Microsecond)))
		}
	}
	e.Text += fmt.Sprintf("; moved forward %d times", f.goes)
	return e, nil
}

// clockResetFailure sets clocks right at once.
type clockResetFailure struct{ *onEach }

func (b builder) clockReset(hosts []string) failure { return &clockResetFailure{b.onEach(hosts)} }

func (f *clockResetFailure) traits() traits { return traits{hosts: f.hosts, instant: true} }

func (f *clockResetFailure) inject(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error {
		return f.touch(host, func() (int64, error) {
			if err := f.ledger.clockReset(ctx, host); err != nil {
				return 0, err
			}
			return 1, nil
		})
	})
}

func (f *clockResetFailure) effect(context.Context) (Effect, error) {
	return countEffect(f.counted(), "clocks", "set right"), nil
}
func (f *clockResetFailure) recover(context.Context, sayer) error { return nil }

func (f *clockResetFailure) verify(ctx context.Context) error {
	return (&clockFailure{onEach: f.onEach}).verify(ctx)
}

// diskFailure is a rule of the filesystem.
type diskFailure struct {
	*onEach

	rule   faultfs.Rule
	counts map[string]int64
}

func (b builder) disk(f diskSpec) failure {
	return &diskFailure{b.onEach(f.hosts), f.rule(fmt.Sprintf("fault-%d", b.id)), make(map[string]int64)}
}

func (f *diskFailure) inject(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error {
		return f.touch(host, func() (int64, error) {
			return 0, f.ledger.disk(host, func(d Disk) error { return d.Inject(ctx, f.rule) })
		})
	})
}

// effect remembers what it saw: rules that are removed cannot be asked.
func (f *diskFailure) effect(ctx context.Context) (Effect, error) {
	f.mu.Lock()
	hosts := slices.DeleteFunc(slices.Clone(f.hosts), func(h string) bool { return !f.left[h] })
	f.mu.Unlock()
	err := eachOf(hosts, func(host string) error {
		return f.ledger.disk(host, func(d Disk) error {
			n, err := d.Touched(ctx, f.rule.ID)
			if err != nil {
				return err
			}
			f.mu.Lock()
			f.counts[host] = max(n, f.counts[host])
			f.mu.Unlock()
			return nil
		})
	})
	f.mu.Lock()
	var n int64
	for _, c := range f.counts {
		n += c
	}
	f.mu.Unlock()
	return countEffect(n, "operations", "met by"), err
}

func (f *diskFailure) recover(ctx context.Context, _ sayer) error {
	return f.undo(func(host string) error {
		return f.ledger.disk(host, func(d Disk) error { return d.Remove(ctx, f.rule.ID) })
	})
}

// flipFailure flips bits at rest. They stay flipped.
type flipFailure struct {
	*onEach

	glob string
	n    int
	seed uint64
}

func (b builder) flip(f diskSpec) failure {
	return &flipFailure{b.onEach(f.hosts), f.path, f.flips, b.seed}
}

func (f *flipFailure) traits() traits { return traits{hosts: f.hosts, instant: true} }

func (f *flipFailure) inject(ctx context.Context) error {
	return eachOf(f.hosts, func(host string) error {
		return f.touch(host, func() (n int64, err error) {
			err = f.ledger.disk(host, func(d Disk) error {
				places, err := d.Flip(ctx, f.glob, f.n, newDraw(f.seed, "flip", host).number())
				n = int64(len(places))
				if n > 0 {
					f.say("%s: %s", host, strings.Join(places, ", "))
				}
				return err
			})
			return n, err
		})
	})
}

func (f *flipFailure) effect(context.Context) (Effect, error) {
	e := countEffect(f.counted(), "bits", "flipped")
	if e.Count > 0 {
		e.Text += "; " + f.said()
	}
	return e, nil
}
func (f *flipFailure) recover(context.Context, sayer) error { return nil }

// actFailure is an action of the driver.
type actFailure struct {
	plain

	world  World
	action string
	args   []string
	done   bool
}

func (b builder) act(f actSpec) failure {
	return &actFailure{world: b.world, action: f.action, args: f.args}
}

func (f *actFailure) traits() traits { return traits{instant: true} }

func (f *actFailure) inject(ctx context.Context) error {
	if err := f.world.Act(ctx, f.action, f.args); err != nil {
		return err
	}
	f.done = true
	return nil
}

func (f *actFailure) effect(context.Context) (Effect, error) {
	if !f.done {
		return countEffect(0, "actions", ""), nil
	}
	return countEffect(1, "actions", "did"), nil
}
func (f *actFailure) recover(context.Context, sayer) error { return nil }
