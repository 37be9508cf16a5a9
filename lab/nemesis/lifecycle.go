package nemesis

import (
	"context"
	"fmt"
	"slices"
	"time"
)

// failure is how one fault is done. Its methods are called one at a time, in
// the order that lifecycle keeps.
type failure interface {
	// traits is what the runner of faults has to know; it does not change.
	traits() traits
	// setup looks at the world before anything is broken.
	setup(ctx context.Context) error
	// inject breaks it. After an error recover is called all the same.
	inject(ctx context.Context) error
	// effect is what was touched so far. It may be called during and after.
	effect(ctx context.Context) (Effect, error)
	// recover takes back what inject did, as far as it did it. After an error it
	// may be called again and goes on with what is left.
	recover(ctx context.Context, say sayer) error
	// verify measures that it is taken back.
	verify(ctx context.Context) error
	// cleanup lets go of what was kept for measuring.
	cleanup(ctx context.Context) error
}

// runner is a failure with steps in time, made between inject and recover.
type runner interface {
	// run returns when its steps are done or ctx is.
	run(ctx context.Context, say sayer) error
}

// sayer is how a failure tells of its steps, and whether it shall hurry.
type sayer struct {
	note  func(format string, args ...any)
	hurry <-chan struct{} // closed: recover at once, without steps
}

// traits of a failure.
type traits struct {
	instant bool          // it is over when it is injected
	ends    bool          // it is over when run returns
	starts  bool          // its recovery starts servers, which may wait for what other faults hold
	takes   time.Duration // its recovery takes this long because it shall
	links   []Link
	hosts   []string // whose processes, clocks and disks it touches
}

// lifecycle keeps the order: setup, inject, effect any number of times, recover
// until it succeeds, verify, cleanup (the idea is roachtest's Failer). A step
// out of order is a defect of the caller and is refused without touching the
// failure. Not for concurrent use.
type lifecycle struct {
	failure failure
	stage   stage
}

type stage int

const (
	isNew     stage = iota
	isReady         // set up
	isBroken        // injected, or the injection began and failed
	isHealed        // recovered
	isProven        // the recovery was verified, or could not be
	isCleared       // cleaned up
)

var stageNames = [...]string{"new", "set up", "injected", "recovered", "verified", "cleaned up"}

func (s stage) String() string { return stageNames[s] }

func (l *lifecycle) in(step string, allowed ...stage) error {
	if slices.Contains(allowed, l.stage) {
		return nil
	}
	return fmt.Errorf("%s: the fault is %s", step, l.stage)
}

func (l *lifecycle) setup(ctx context.Context) error {
	if err := l.in("setup", isNew); err != nil {
		return err
	}
	if err := l.failure.setup(ctx); err != nil {
		return err
	}
	l.stage = isReady
	return nil
}

func (l *lifecycle) inject(ctx context.Context) error {
	if err := l.in("inject", isReady); err != nil {
		return err
	}
	l.stage = isBroken
	return l.failure.inject(ctx)
}

func (l *lifecycle) effect(ctx context.Context) (Effect, error) {
	if err := l.in("verify effect", isBroken, isHealed); err != nil {
		return Effect{}, err
	}
	return l.failure.effect(ctx)
}

// recover does nothing where nothing was injected, and where it has succeeded.
func (l *lifecycle) recover(ctx context.Context, say sayer) error {
	if l.stage != isBroken {
		return nil
	}
	if err := l.failure.recover(ctx, say); err != nil {
		return err
	}
	l.stage = isHealed
	return nil
}

func (l *lifecycle) verify(ctx context.Context) error {
	if err := l.in("verify recovery", isHealed); err != nil {
		return err
	}
	err := l.failure.verify(ctx)
	l.stage = isProven
	return err
}

// cleanup does nothing the second time. What is still broken is not cleaned up.
func (l *lifecycle) cleanup(ctx context.Context) error {
	if l.stage == isCleared {
		return nil
	}
	if err := l.in("cleanup", isNew, isReady, isHealed, isProven); err != nil {
		return err
	}
	l.stage = isCleared
	return l.failure.cleanup(ctx)
}
