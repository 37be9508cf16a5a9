package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/engine"
	"holdfast.dev/internal/devcluster"
	"holdfast.dev/lock"
)

type config struct {
	binary         string
	clients, locks int
	time, ttl      time.Duration
	seed           uint64
	environ        []string
	log            io.Writer
}

// result is what happened.
type result struct {
	Clients    int           `json:"clients"`
	Locks      int           `json:"locks"`
	Seconds    float64       `json:"seconds"`
	Grants     int           `json:"grants"`
	Refused    int           `json:"stale_effects_refused"`
	Lost       int           `json:"grants_lost"`
	Sessions   int           `json:"sessions_opened"`
	Kills      int           `json:"kills"`
	Pauses     int           `json:"pauses"`
	Wait50     time.Duration `json:"wait_p50_ns"`
	Wait99     time.Duration `json:"wait_p99_ns"`
	WaitMax    time.Duration `json:"wait_max_ns"`
	Bound      time.Duration `json:"wait_bound_ns"`
	Errors     int           `json:"errors"`
	Violations []string      `json:"violations"`
}

// String is the result for people.
func (r result) String() string {
	var b strings.Builder
	_, _ = fmt.Fprintf(&b, "%d clients on %d locks for %.0f s; nodes killed %d times, paused %d times\n", r.Clients, r.Locks, r.Seconds, r.Kills, r.Pauses)
	_, _ = fmt.Fprintf(&b, "  grants %d, lost %d, stale effects refused %d, sessions %d, errors %d\n", r.Grants, r.Lost, r.Refused, r.Sessions, r.Errors)
	_, _ = fmt.Fprintf(&b, "  wait p50 %v, p99 %v, longest %v (bound %v)\n", r.Wait50.Round(time.Millisecond), r.Wait99.Round(time.Millisecond), r.WaitMax.Round(time.Millisecond), r.Bound)
	if len(r.Violations) == 0 {
		b.WriteString("valid: no two holders with valid tokens out of order, nobody stuck\n")
	} else {
		_, _ = fmt.Fprintf(&b, "INVALID: %d violations\n  %s\n", len(r.Violations), strings.Join(r.Violations[:min(len(r.Violations), 10)], "\n  "))
	}
	return b.String()
}

// stampeding is one run.
type stampeding struct {
	cfg       config
	cluster   *devcluster.Cluster
	resources []resource

	kills, pauses, sessions, errs, lost atomic.Int64

	mu         sync.Mutex // guards the fields below
	waits      []time.Duration
	violations []string
}

// resource is what a lock protects. It remembers the highest token, refuses
// lower ones, and looks for holders who act although they are not the last.
type resource struct {
	mu      sync.Mutex // guards the fields below
	highest holdfast.Token
	active  *lock.Held // acts now
	refused int
}

// begin is the first effect of a holder, end its last.
func (r *resource) begin(h *lock.Held) (violation string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	valid := h.Err() == nil
	if h.Token() < r.highest {
		r.refused++
		if valid {
			return fmt.Sprintf("%s: token %v is still valid, but %v was seen", h.Name(), h.Token(), r.highest)
		}
		return ""
	}
	if valid && h.Token() == r.highest {
		return fmt.Sprintf("%s: token %v was granted twice", h.Name(), h.Token())
	}
	if valid && r.active != nil && r.active.Err() == nil {
		violation = fmt.Sprintf("%s: tokens %v and %v are valid at one time", h.Name(), r.active.Token(), h.Token())
	}
	r.highest, r.active = h.Token(), h
	return violation
}

func (r *resource) end(h *lock.Held) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case h.Token() < r.highest:
		r.refused++
	case r.active == h:
		r.active = nil
	}
}

func stampede(ctx context.Context, cfg config) (result, error) {
	dir, err := os.MkdirTemp("", "stampede-")
	if err != nil {
		return result{}, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	cluster, err := devcluster.Start(ctx, devcluster.Config{Binary: cfg.binary, Dir: dir, Environ: cfg.environ})
	if err != nil {
		return result{}, err
	}
	defer cluster.Close()
	_, _ = fmt.Fprintf(cfg.log, "three nodes at %s; %d clients on %d locks for %v\n", strings.Join(cluster.Endpoints(), " "), cfg.clients, cfg.locks, cfg.time)

	r := &stampeding{cfg: cfg, cluster: cluster, resources: make([]resource, cfg.locks)}
	start := time.Now()
	running, cancel := context.WithTimeout(ctx, cfg.time)
	defer cancel()
	var wg sync.WaitGroup
	for i := range cfg.clients {
		wg.Go(func() { r.client(ctx, running, i) })
	}
	wg.Go(func() { r.nemesis(ctx, running) })
	wg.Go(func() { r.report(running) })
	wg.Wait()
	if ctx.Err() != nil {
		return result{}, errors.New("interrupted")
	}
	return r.result(time.Since(start)), nil
}

func (r *stampeding) result(d time.Duration) result {
	slices.Sort(r.waits)
	res := result{
		Clients: r.cfg.clients, Locks: r.cfg.locks, Seconds: d.Seconds(), Grants: len(r.waits), Lost: int(r.lost.Load()),
		Sessions: int(r.sessions.Load()), Kills: int(r.kills.Load()), Pauses: int(r.pauses.Load()), Errors: int(r.errs.Load()),
		Bound: r.cfg.ttl + 3*time.Second, Violations: r.violations,
	}
	if n := len(r.waits); n > 0 {
		res.Wait50, res.Wait99, res.WaitMax = r.waits[n/2], r.waits[n*99/100], r.waits[n-1]
	}
	for i := range r.resources {
		res.Refused += r.resources[i].refused
	}
	return res
}

func (r *stampeding) violate(v string) {
	if v == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.violations = append(r.violations, v)
}

// report tells how it goes, every few seconds.
func (r *stampeding) report(ctx context.Context) {
	for doze(ctx, 10*time.Second) {
		r.mu.Lock()
		grants, violations := len(r.waits), len(r.violations)
		r.mu.Unlock()
		_, _ = fmt.Fprintf(r.cfg.log, "  %d grants, %d kills, %d pauses, %d violations\n", grants, r.kills.Load(), r.pauses.Load(), violations)
	}
}

// nemesis kills and pauses one node at a time, so that a majority goes on.
func (r *stampeding) nemesis(ctx, running context.Context) {
	rng := rand.New(rand.NewPCG(r.cfg.seed, 1))
	between := func(lo, hi time.Duration) time.Duration { return lo + time.Duration(rng.Int64N(int64(hi-lo))) }
	for doze(running, between(time.Second, 3*time.Second)) {
		node := r.cluster.Nodes()[rng.IntN(3)].Name
		var err error
		if rng.IntN(2) == 0 {
			r.kills.Add(1)
			err = r.cluster.Kill(node)
			doze(running, between(time.Second, 4*time.Second))
			err = errors.Join(err, r.cluster.Restart(ctx, node))
		} else {
			r.pauses.Add(1)
			err = r.cluster.Pause(node)
			doze(running, between(time.Second, r.cfg.ttl+5*time.Second))
			err = errors.Join(err, r.cluster.Resume(node))
		}
		if err != nil && ctx.Err() == nil {
			r.violate(fmt.Sprintf("node %s: %v", node, err))
			return
		}
	}
}

// client opens a session and works under it; when it is lost, the next one.
func (r *stampeding) client(ctx, running context.Context, i int) {
	rng := rand.New(rand.NewPCG(r.cfg.seed, uint64(1000+i)))
	endpoints := r.cluster.Endpoints()
	rng.Shuffle(len(endpoints), func(a, b int) { endpoints[a], endpoints[b] = endpoints[b], endpoints[a] })
	c, err := client.Dial(running, client.Config{Endpoints: endpoints})
	if err != nil {
		r.failed(running, err)
		return
	}
	defer func() {
		if err := c.Close(); err != nil {
			r.failed(ctx, err)
		}
	}()
	for running.Err() == nil {
		s, err := c.OpenSession(running, engine.SessionConfig{TTL: r.cfg.ttl, Name: fmt.Sprintf("client %d", i)})
		if err != nil {
			r.failed(running, err)
			return
		}
		r.sessions.Add(1)
		for running.Err() == nil && s.Err() == nil {
			r.turn(running, s, rng)
		}
		bye, cancel := context.WithTimeout(ctx, 5*time.Second)
		if err := s.Close(bye); err != nil {
			r.failed(running, err)
		}
		cancel()
	}
}

// failed counts an error that the end of the run does not explain.
func (r *stampeding) failed(running context.Context, err error) {
	if running.Err() == nil {
		r.errs.Add(1)
		_, _ = fmt.Fprintf(r.cfg.log, "  %v\n", err)
	}
}

// turn waits for one lock, acts under it, and gives it back.
func (r *stampeding) turn(ctx context.Context, s *client.Session, rng *rand.Rand) {
	i := rng.IntN(r.cfg.locks)
	asked := engine.Now()
	h, err := s.Acquire(ctx, fmt.Sprintf("stampede/%d", i))
	wait := engine.Now().Sub(asked)
	bound := r.cfg.ttl + 3*time.Second
	if wait > bound {
		r.violate(fmt.Sprintf("stampede/%d: a client was stuck for %v, more than %v", i, wait, bound))
	}
	if err != nil {
		if !errors.Is(err, holdfast.ErrLost) {
			r.failed(ctx, err)
		}
		return
	}
	r.mu.Lock()
	r.waits = append(r.waits, wait)
	r.mu.Unlock()
	res := &r.resources[i]
	r.violate(res.begin(h))
	doze(h.Context(), time.Duration(rng.Int64N(int64(20*time.Millisecond)))) //nolint:contextcheck // it ends with the lock
	res.end(h)
	bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.ttl)
	defer cancel()
	switch err := h.Release(bye); {
	case errors.Is(err, holdfast.ErrLost):
		r.lost.Add(1)
	case err != nil:
		r.failed(ctx, err)
	}
}

// doze waits, and says whether ctx still goes on.
func doze(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
