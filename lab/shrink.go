//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast.dev/lab/check"
)

// Shrunk is what is left of a plan.
type Shrunk struct {
	Plan       *Plan
	Steps      int // before
	Tried      int // plans
	Runs       int // runs of plans
	Trials     int // of the final plan
	Reproduced int // of those
}

// ErrNotReproduced says that a plan did not fail when it was run again.
var ErrNotReproduced = errors.New("the plan does not fail any more")

// Shrink removes steps from a plan that is found invalid until none can be
// removed any more: delta debugging (Zeller's ddmin), where a plan counts as
// failing when one of so many trials does. run makes one run; say is told what
// goes on. A fault that shows in one run of two is likely kept with three
// trials; more trials keep rarer ones.
func Shrink(ctx context.Context, p *Plan, trials int, run func(context.Context, *Plan) (check.Verdict, error), say func(string)) (*Shrunk, error) {
	s := &Shrunk{Plan: p, Steps: len(p.Steps)}
	fails := func(steps []PlannedStep) (bool, error) {
		s.Tried++
		candidate := p.with(steps)
		for range trials {
			s.Runs++
			v, err := run(ctx, candidate)
			if err != nil {
				return false, err
			}
			if v == check.Invalid {
				return true, nil
			}
		}
		return false, ctx.Err()
	}
	say(fmt.Sprintf("the plan has %d steps; running it as it is", len(p.Steps)))
	ok, err := fails(p.Steps)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, fmt.Errorf("%w: %d runs of it were not invalid", ErrNotReproduced, trials)
	}
	steps, err := ddmin(p.Steps, fails, say)
	if err != nil {
		return nil, err
	}
	s.Plan = p.with(steps)
	s.Trials = max(trials, 3)
	say(fmt.Sprintf("%d of %d steps are left; how often do they fail?", len(steps), s.Steps))
	for range s.Trials {
		s.Runs++
		v, err := run(ctx, s.Plan)
		if err != nil {
			return nil, err
		}
		if v == check.Invalid {
			s.Reproduced++
		}
	}
	return s, nil
}

// with is the plan with other steps, and a phase of faults no longer than they
// need.
func (p *Plan) with(steps []PlannedStep) *Plan {
	c := *p
	c.Steps = steps
	if len(steps) < len(p.Steps) {
		c.Scenario.Phases.Faults = min(c.Scenario.Phases.Faults, c.last()+5*time.Second)
	}
	return &c
}

// ddmin is the smallest failing subset that removing single steps cannot make
// smaller. steps as a whole fail.
func ddmin(steps []PlannedStep, fails func([]PlannedStep) (bool, error), say func(string)) ([]PlannedStep, error) {
	parts := 2
	for len(steps) > 1 {
		reduced := false
		for _, candidate := range candidates(steps, parts) {
			failed, err := fails(candidate)
			if err != nil {
				return nil, err
			}
			if failed {
				say(fmt.Sprintf("%d steps still fail", len(candidate)))
				if len(candidate) <= (len(steps)+parts-1)/parts {
					parts = 2 // a part alone
				} else {
					parts = max(parts-1, 2)
				}
				steps, reduced = candidate, true
				break
			}
		}
		if !reduced {
			if parts >= len(steps) {
				break
			}
			parts = min(2*parts, len(steps))
		}
	}
	return steps, nil
}

// candidates are each of n parts of steps, then what is left without each.
func candidates(steps []PlannedStep, n int) [][]PlannedStep {
	var parts, rests [][]PlannedStep
	for i := range n {
		from, to := i*len(steps)/n, (i+1)*len(steps)/n
		if from == to {
			continue
		}
		parts = append(parts, steps[from:to])
		if n > 2 {
			rests = append(rests, append(append([]PlannedStep{}, steps[:from]...), steps[to:]...))
		}
	}
	return append(parts, rests...)
}
