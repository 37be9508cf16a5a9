package nemesis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast.dev/lab/netem"
)

// builder makes failures.
type builder struct {
	world    World
	ledger   *ledger
	everyone []string // on the network
	seed     uint64   // of this injection
	id       int
}

// around is all links of these hosts.
func (b builder) around(hosts []string) []Link {
	return linksOf([]term{{from: hosts}}, b.everyone)
}

// plain is for failures that need nothing before and after.
type plain struct{}

func (plain) setup(context.Context) error   { return nil }
func (plain) verify(context.Context) error  { return nil }
func (plain) cleanup(context.Context) error { return nil }

// countEffect is the usual effect: so many of them, or nothing.
func countEffect(n int64, unit, verb string) Effect {
	if n == 0 {
		return Effect{Unit: unit, Text: "touched nothing"}
	}
	if n == 1 {
		unit = singular(unit)
	}
	return Effect{Count: n, Unit: unit, Text: fmt.Sprintf("%s %d %s", verb, n, unit)}
}

func singular(unit string) string {
	if unit == "processes" {
		return "process"
	}
	return unit[:len(unit)-1]
}

// ruleFailure impairs links.
type ruleFailure struct {
	plain

	net     Net
	links   []Link
	match   Match
	im      netem.Impairment
	applied Applied
	removed bool
}

func (b builder) rule(links []Link, match Match, im netem.Impairment) failure {
	return &ruleFailure{net: b.world.Net(), links: links, match: match, im: im}
}

func (f *ruleFailure) traits() traits { return traits{links: f.links} }

func (f *ruleFailure) setup(context.Context) error {
	if len(f.links) == 0 {
		return errNoLinks
	}
	return nil
}

func (f *ruleFailure) inject(context.Context) error {
	var err error
	f.applied, err = f.net.Apply(f.links, f.match, f.im)
	return err
}

func (f *ruleFailure) effect(context.Context) (Effect, error) {
	if f.applied == nil {
		return countEffect(0, "frames", ""), nil
	}
	return countEffect(f.applied.Touched(), "frames", "touched"), nil
}

func (f *ruleFailure) recover(context.Context, sayer) error {
	if f.applied != nil && !f.removed {
		f.applied.Remove()
		f.removed = true
	}
	return nil
}

// resetFailure ends connections.
type resetFailure struct {
	plain

	net   Net
	links []Link
	count int
}

func (b builder) reset(links []Link) failure { return &resetFailure{net: b.world.Net(), links: links} }

func (f *resetFailure) traits() traits { return traits{instant: true, links: f.links} }

func (f *resetFailure) inject(context.Context) error {
	var err error
	f.count, err = f.net.Reset(f.links)
	return err
}

func (f *resetFailure) effect(context.Context) (Effect, error) {
	return countEffect(int64(f.count), "connections", "reset"), nil
}
func (f *resetFailure) recover(context.Context, sayer) error { return nil }

// burstFailure sends noise again and again.
type burstFailure struct {
	plain

	net   Net
	links []Link
	bytes int
	every time.Duration
	sent  atomic.Int64
}

func (b builder) burst(f burstSpec) failure {
	return &burstFailure{net: b.world.Net(), links: linksOf(f.links, b.everyone), bytes: int(f.bytes), every: f.every}
}

func (f *burstFailure) traits() traits { return traits{links: f.links} }

func (f *burstFailure) setup(context.Context) error {
	if len(f.links) == 0 {
		return errNoLinks
	}
	return nil
}
func (f *burstFailure) inject(context.Context) error         { return nil }
func (f *burstFailure) recover(context.Context, sayer) error { return nil }

// run sends a burst on every link at once, then waits for the next time.
func (f *burstFailure) run(ctx context.Context, _ sayer) error {
	tick := time.NewTicker(f.every)
	defer tick.Stop()
	for {
		err := together(f.links, func(l Link) error {
			if err := f.net.Burst(ctx, l, f.bytes); err != nil {
				return fmt.Errorf("%s>%s: %w", l.From, l.To, err)
			}
			f.sent.Add(int64(f.bytes))
			return nil
		})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("burst: %w", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (f *burstFailure) effect(context.Context) (Effect, error) {
	return countEffect(f.sent.Load(), "bytes", "sent"), nil
}

// swizzleFailure clogs hosts one after the other.
type swizzleFailure struct {
	plain

	net   Net
	hosts []string // in the order of clogging
	back  []string // in the order of unclogging
	links map[string][]Link
	all   []Link
	im    netem.Impairment
	over  time.Duration

	mu      sync.Mutex
	applied map[string]Applied
	gone    int64 // frames touched by rules that are removed
}

func (b builder) swizzle(f swizzleSpec) failure {
	s := &swizzleFailure{
		net: b.world.Net(), im: netem.Impairment{Cut: f.mode}, over: f.over, all: b.around(f.hosts),
		hosts: shuffled(f.hosts, newDraw(b.seed, "swizzle")), back: shuffled(f.hosts, newDraw(b.seed, "unswizzle")),
		links: make(map[string][]Link), applied: make(map[string]Applied),
	}
	for _, h := range f.hosts {
		s.links[h] = b.around([]string{h})
	}
	return s
}

func (f *swizzleFailure) traits() traits { return traits{links: f.all, takes: f.over} }

func (f *swizzleFailure) inject(context.Context) error { return nil }

// steps does something with each host, evenly over the time, until ctx ends;
// a nil hurry never comes.
func (f *swizzleFailure) steps(ctx context.Context, hosts []string, hurry <-chan struct{}, do func(host string) error) error {
	tick := time.NewTimer(0)
	defer tick.Stop()
	pause := f.over / time.Duration(max(1, len(hosts)-1))
	for _, h := range hosts {
		select {
		case <-tick.C:
		case <-hurry:
		case <-ctx.Done():
			return nil
		}
		if err := do(h); err != nil {
			return err
		}
		tick.Reset(pause)
	}
	return nil
}

// run clogs them all; they stay so.
func (f *swizzleFailure) run(ctx context.Context, say sayer) error {
	return f.steps(ctx, f.hosts, nil, func(host string) error {
		a, err := f.net.Apply(f.links[host], Match{}, f.im)
		if err != nil {
			return fmt.Errorf("clog %s: %w", host, err)
		}
		f.mu.Lock()
		f.applied[host] = a
		f.mu.Unlock()
		say.note("clogged %s", host)
		return nil
	})
}

func (f *swizzleFailure) effect(context.Context) (Effect, error) {
	f.mu.Lock()
	n := f.gone
	rules := slices.Collect(maps.Values(f.applied))
	f.mu.Unlock()
	for _, a := range rules {
		n += a.Touched()
	}
	return countEffect(n, "frames", "held back"), nil
}

// recover unclogs what is clogged, in its own time or at once.
func (f *swizzleFailure) recover(ctx context.Context, say sayer) error {
	var left []string
	f.mu.Lock()
	for _, h := range f.back {
		if f.applied[h] != nil {
			left = append(left, h)
		}
	}
	f.mu.Unlock()
	err := f.steps(ctx, left, say.hurry, func(host string) error {
		f.unclog(host)
		say.note("unclogged %s", host)
		return nil
	})
	for _, h := range left { // where the time was up before
		f.unclog(h)
	}
	return err
}

func (f *swizzleFailure) unclog(host string) {
	f.mu.Lock()
	a := f.applied[host]
	delete(f.applied, host)
	f.mu.Unlock()
	if a == nil {
		return
	}
	a.Remove()
	n := a.Touched()
	f.mu.Lock()
	f.gone += n
	f.mu.Unlock()
}

// dnsFailure makes the name server lie.
type dnsFailure struct {
	plain

	ledger *ledger
	server DNS
	id     int
	name   string
	fault  DNSFault
	before int64
}

func (b builder) dns(f dnsSpec) failure {
	return &dnsFailure{ledger: b.ledger, server: b.world.DNS(), id: b.id, name: f.name, fault: f.fault()}
}

func (f *dnsFailure) traits() traits { return traits{} }

func (f *dnsFailure) setup(context.Context) error {
	f.before = f.server.Touched()
	return nil
}

func (f *dnsFailure) inject(ctx context.Context) error {
	return f.ledger.dns(ctx, f.id, f.name, &f.fault)
}

func (f *dnsFailure) effect(context.Context) (Effect, error) {
	return countEffect(f.server.Touched()-f.before, "answers", "changed"), nil
}

func (f *dnsFailure) recover(ctx context.Context, _ sayer) error {
	return f.ledger.dns(ctx, f.id, f.name, nil)
}

// together does something for each of them at once, and joins the errors.
func together[T any](items []T, do func(T) error) error {
	errs := make([]error, len(items))
	var wg sync.WaitGroup
	for i, item := range items {
		wg.Go(func() { errs[i] = do(item) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
