package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"time"

	"holdfast.dev/bench/peer"
)

// benchmark is one measurement; its name is for -run.
type benchmark struct {
	name  string
	about string
	run   func(context.Context, *bench) ([]row, error)
}

var benchmarks = []benchmark{
	{"pairs3", "acquire+release, 3 nodes, 64 workers with a lock each", pairs3},
	{"pairs1", "acquire+release, 1 node, 256 workers with a lock each", pairs1},
	{"hot1", "one lock, 32 waiters, 1 node", hot1},
	{"hot3", "one lock, 32 waiters, 3 nodes", hot3},
	{"latency", "one client, one lock that nobody else wants", latency},
	{"failover", "the leader is killed under clients at work", failover},
	{"switch", "the lab's network: frames, round trips and delays (needs root)", labSwitch},
	{"sessions", "many sessions with a lock each: steady, and expiring at once", sessions},
	{"labcheck", "a history of registers, judged: the zones of the lab and porcupine", labcheck},
	{"labfs", "files: the lab's fault filesystem, a FUSE loopback and the disk (needs root)", labfs},
}

// bench is what a benchmark has to work with.
type bench struct {
	options
	name string
	dir  string // its own, removed afterwards
	host *peer.Host
	log  io.Writer
}

func (b *bench) logf(format string, args ...any) {
	say(b.log, "  "+format, args...)
}

// say writes a line for people. A line that cannot be written is lost.
func say(w io.Writer, format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }

// pair is one acquisition and its release.
type pair func(context.Context) error

// arm is one contestant: a pair for each worker. It works when all are done.
type arm struct {
	name    string
	missing string // why it cannot run
	workers []pair
}

// sample is what an arm did in one round.
type sample struct {
	elapsed time.Duration
	pairs   []time.Duration // how long each took that ended in time
	cpu     time.Duration   // that this process used, nodes in it included
}

func (s sample) rate() float64 { return float64(len(s.pairs)) / s.elapsed.Seconds() }

// series is what an arm did in all rounds.
type series struct {
	arm     arm
	samples []sample
}

func (s *series) rates() []float64 {
	var out []float64
	for _, x := range s.samples {
		out = append(out, x.rate())
	}
	return out
}

// quantiles is a quantile of each round, in milliseconds.
func (s *series) quantiles(q float64) []float64 {
	var out []float64
	for _, x := range s.samples {
		out = append(out, milliseconds(quantile(x.pairs, q)))
	}
	return out
}

// all is the pairs of all rounds.
func (s *series) all() []time.Duration {
	var out []time.Duration
	for _, x := range s.samples {
		out = append(out, x.pairs...)
	}
	return out
}

// figure is the arm's throughput.
func (s *series) figure() figure {
	all := s.all()
	return figure{
		Who: s.arm.name, Value: median(s.rates()), Unit: "/s", Rounds: s.rates(),
		P50ms: milliseconds(quantile(all, 0.5)), P99ms: milliseconds(quantile(all, 0.99)), CPUus: s.cpu(),
	}
}

// cpu is what a pair costs this process, in microseconds.
func (s *series) cpu() float64 {
	var each []float64
	for _, x := range s.samples {
		if len(x.pairs) > 0 {
			each = append(each, float64(x.cpu.Microseconds())/float64(len(x.pairs)))
		}
	}
	if len(each) == 0 {
		return 0
	}
	return median(each)
}

// against is a row that compares throughput.
func (s *series) against(peer *series, what string, atLeast float64) row {
	r := row{What: what, Ours: s.figure()}
	if atLeast > 0 {
		r.Target = &bound{Of: "ratio", Value: atLeast}
	}
	if peer.arm.missing != "" {
		r.Missing = peer.arm.missing
		r.Peer.Who = peer.arm.name
		return r
	}
	r.Peer = peer.figure()
	ratio := spreadOf(ratios(s.rates(), peer.rates()))
	r.Ratio = &ratio
	return r
}

// measure lets the arms take turns, each warmed up before it counts, in an
// order that moves on with every round.
func (b *bench) measure(ctx context.Context, arms ...arm) ([]*series, error) {
	out := make([]*series, len(arms))
	for i, a := range arms {
		out[i] = &series{arm: a}
		if a.missing != "" {
			b.logf("%s: %s", a.name, a.missing)
		}
	}
	for round := range b.rounds {
		for i := range arms {
			s := out[(i+round)%len(arms)]
			if s.arm.missing != "" {
				continue
			}
			x, err := b.turn(ctx, s.arm, round == b.rounds-1)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.arm.name, err)
			}
			s.samples = append(s.samples, x)
		}
	}
	for _, s := range out {
		if s.arm.missing == "" {
			b.logf("%s", s.figure())
		}
	}
	return out, nil
}

// turn is one arm's part of a round.
func (b *bench) turn(ctx context.Context, a arm, last bool) (sample, error) {
	if _, err := loop(ctx, a.workers, b.time/5); err != nil {
		return sample{}, err
	}
	runtime.GC() // what others left behind
	if !last || b.profile == "" {
		return loop(ctx, a.workers, b.time)
	}
	if err := os.MkdirAll(b.profile, 0o755); err != nil {
		return sample{}, err
	}
	f, err := os.Create(filepath.Join(b.profile, fmt.Sprintf("%s-%s.pprof", b.name, a.name)))
	if err != nil {
		return sample{}, err
	}
	if err := pprof.StartCPUProfile(f); err != nil {
		return sample{}, errors.Join(err, f.Close())
	}
	s, err := loop(ctx, a.workers, b.time)
	pprof.StopCPUProfile()
	return s, errors.Join(err, f.Close())
}

// loop lets each worker make pairs for d. Pairs under way at the end are
// finished, so that no lock stays held, and do not count. The first error ends
// all of them.
func loop(ctx context.Context, workers []pair, d time.Duration) (sample, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		out   = sample{elapsed: d}
		used  = cpuTime()
		begin = time.Now()
		end   = begin.Add(d)
	)
	for _, work := range workers {
		wg.Go(func() {
			var took []time.Duration
			for start := time.Now(); start.Before(end); {
				if err := work(ctx); err != nil {
					cancel(err)
					return
				}
				now := time.Now()
				if now.Before(end) {
					took = append(took, now.Sub(start))
				}
				start = now
			}
			mu.Lock()
			out.pairs = append(out.pairs, took...)
			mu.Unlock()
		})
	}
	wg.Wait()
	out.cpu = cpuTime() - used
	return out, context.Cause(ctx)
}

// median is the middle of the values, between the two in the middle of an even
// number; NaN of none.
func median(values []float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	v := slices.Sorted(slices.Values(values))
	n := len(v)
	return (v[(n-1)/2] + v[n/2]) / 2
}

// quantile is the least duration that at least the fraction q of all does not
// exceed (the nearest rank); 0 of none.
func quantile(ds []time.Duration, q float64) time.Duration {
	if len(ds) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(ds))
	rank := int(math.Ceil(q * float64(len(s))))
	return s[min(max(rank, 1), len(s))-1]
}

// spread is a figure that was measured several times.
type spread struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

func spreadOf(values []float64) spread {
	if len(values) == 0 {
		return spread{}
	}
	return spread{Median: median(values), Least: slices.Min(values), Most: slices.Max(values)}
}

// ratios divides round by round: what disturbs a whole round disturbs both.
func ratios(ours, peer []float64) []float64 {
	var out []float64
	for i := range min(len(ours), len(peer)) {
		if peer[i] > 0 {
			out = append(out, ours[i]/peer[i])
		}
	}
	return out
}

// longestGap is the longest time between two successes of which the later is
// after at; successes ascend, and times are since one origin. The second result
// is false when there is no success after at.
func longestGap(successes []time.Duration, at time.Duration) (time.Duration, bool) {
	var longest, before time.Duration
	after := false
	for _, s := range successes {
		if s > at {
			after = true
			longest = max(longest, s-before)
		}
		before = s
	}
	return longest, after
}
