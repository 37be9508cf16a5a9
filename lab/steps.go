//go:build linux

package lab

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// steps is the phase of faults: the scenario's steps one after the other, the
// random ones each at its time.
func (r *runner) steps(ctx context.Context) {
	from := time.Now()
	var all sync.WaitGroup
	var script []PlannedStep
	for _, st := range r.plan.Steps {
		if !st.Apart {
			script = append(script, st)
			continue
		}
		all.Go(func() {
			if sleep(ctx, st.At-time.Since(from)) {
				r.do(ctx, st)
			}
		})
	}
	for _, st := range script {
		if st.At > 0 && !sleep(ctx, st.At-time.Since(from)) || st.After > 0 && !sleep(ctx, st.After) {
			break
		}
		if st.Wait != "" {
			r.await(ctx, st)
		}
		r.do(ctx, st)
	}
	all.Wait()
	// Faults with an end of their own have it; the others stay until heal.
	for _, a := range r.nemesis.Active() {
		if a.Fault().For() > 0 {
			select {
			case <-a.Done():
			case <-ctx.Done():
				return
			}
		}
	}
	sleep(ctx, r.plan.Scenario.Phases.Faults-time.Since(from))
}

// do makes one step. What cannot be done is a doubt: the run shows something
// else than it was meant to.
func (r *runner) do(ctx context.Context, st PlannedStep) {
	switch {
	case st.Fault != nil:
		if leaders, err := r.world.Primaries(ctx); err == nil && len(leaders) > 0 {
			r.mu.Lock()
			r.leaders = leaders
			r.mu.Unlock()
		}
		active, err := r.nemesis.Inject(ctx, *st.Fault)
		switch {
		case st.Apart: // random faults meet: what is off cannot be paused
		case err == nil:
			r.mu.Lock()
			r.scripted[active.ID()] = true
			r.mu.Unlock()
		case ctx.Err() == nil:
			r.doubt(fmt.Sprintf("step %d: %v", st.ID, err))
		}
	case st.Heal == "all":
		r.heal(ctx)
	case st.Heal != "":
		r.recoverOne(ctx, st)
	}
}

// recoverOne heals the fault with the text of a step.
func (r *runner) recoverOne(ctx context.Context, st PlannedStep) {
	for _, a := range r.nemesis.Active() {
		if sameFault(a.Fault().String(), st.Heal) || sameFault(a.Record().Resolved, st.Heal) {
			if err := a.Recover(ctx); err != nil {
				r.doubt(fmt.Sprintf("step %d: heal %s: %v", st.ID, st.Heal, err))
			}
			return
		}
	}
	r.doubt(fmt.Sprintf("step %d: heal %s: no such fault is active", st.ID, st.Heal))
}

func sameFault(a, b string) bool {
	return strings.Join(strings.Fields(a), " ") == strings.Join(strings.Fields(b), " ")
}

// await waits for a step's condition. The run goes on when it does not come
// true, and is in doubt.
func (r *runner) await(ctx context.Context, st PlannedStep) {
	w, err := parseWait(st.Wait)
	if err != nil {
		r.doubt(fmt.Sprintf("step %d: %v", st.ID, err))
		return
	}
	goal := r.workers.succeeded(nil) + int64(w.n)
	r.mu.Lock()
	before := r.leaders
	r.mu.Unlock()
	r.say("waiting: " + st.Wait)
	limit, cancel := context.WithTimeout(ctx, st.Within)
	defer cancel()
	for !r.holds(limit, w, goal, before) {
		if !sleep(limit, 50*time.Millisecond) {
			if ctx.Err() == nil {
				r.doubt(fmt.Sprintf("step %d: waited %s in vain: %s", st.ID, st.Within, st.Wait))
			}
			return
		}
	}
}

func (r *runner) holds(ctx context.Context, w wait, goal int64, before []string) bool {
	switch w.what {
	case "ok":
		return r.workers.succeeded(nil) >= goal
	case "ready":
		return !slices.ContainsFunc(r.world.machines, func(m *machine) bool { return m.role == "node" && m.Running() == 0 })
	}
	leaders, err := r.world.Primaries(ctx)
	if err != nil {
		return false
	}
	switch w.what {
	case "leader":
		return len(leaders) == 1
	case "no leader":
		return len(leaders) == 0
	default: // new leader
		return slices.ContainsFunc(leaders, func(l string) bool { return !slices.Contains(before, l) })
	}
}
