package nemesis

import (
	"context"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// stepFailure records its steps; it fails as often as it is told.
type stepFailure struct {
	steps        []string
	failRecovery int
}

func (f *stepFailure) step(name string) error {
	f.steps = append(f.steps, name)
	return nil
}
func (f *stepFailure) traits() traits                         { return traits{} }
func (f *stepFailure) setup(context.Context) error            { return f.step("setup") }
func (f *stepFailure) inject(context.Context) error           { return f.step("inject") }
func (f *stepFailure) verify(context.Context) error           { return f.step("verify") }
func (f *stepFailure) cleanup(context.Context) error          { return f.step("cleanup") }
func (f *stepFailure) effect(context.Context) (Effect, error) { return Effect{}, f.step("effect") }
func (f *stepFailure) recover(_ context.Context, _ sayer) error {
	_ = f.step("recover")
	if f.failRecovery > 0 {
		f.failRecovery--
		return errors.New("not yet")
	}
	return nil
}

func TestLifecycle(t *testing.T) {
	ctx := t.Context()
	f := &stepFailure{failRecovery: 1}
	l := lifecycle{failure: f}
	for i, do := range []func() error{
		func() error { return l.setup(ctx) },
		func() error { return l.inject(ctx) },
		func() error { _, err := l.effect(ctx); return err },
		func() error {
			if l.recover(ctx, sayer{}) == nil {
				return errors.New("recovery succeeded")
			}
			return nil
		},
		func() error { return l.recover(ctx, sayer{}) },
		func() error { return l.recover(ctx, sayer{}) },
		func() error { _, err := l.effect(ctx); return err },
		func() error { return l.verify(ctx) },
		func() error { return l.cleanup(ctx) },
		func() error { return l.cleanup(ctx) },
		func() error { return l.recover(ctx, sayer{}) },
	} {
		if err := do(); err != nil {
			t.Errorf("step %d: %v", i, err)
		}
	}
	equal(t, "steps", f.steps, []string{"setup", "inject", "effect", "recover", "recover", "effect", "verify", "cleanup"})
}

// TestLifecycleOrder: whatever is called in whatever order, the failure sees
// the order that it was promised.
func TestLifecycleOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ctx := t.Context()
		f := &stepFailure{failRecovery: rapid.IntRange(0, 2).Draw(t, "failures")}
		l := lifecycle{failure: f}
		for _, call := range rapid.SliceOfN(rapid.IntRange(0, 5), 0, 20).Draw(t, "calls") {
			switch call {
			case 0:
				_ = l.setup(ctx)
			case 1:
				_ = l.inject(ctx)
			case 2:
				_, _ = l.effect(ctx)
			case 3:
				_ = l.recover(ctx, sayer{})
			case 4:
				_ = l.verify(ctx)
			case 5:
				_ = l.cleanup(ctx)
			}
		}
		after := map[string][]string{ // which step may come before
			"setup":   {""},
			"inject":  {"setup"},
			"effect":  {"inject", "effect", "recover"},
			"recover": {"inject", "effect", "recover"},
			"verify":  {"recover", "effect"},
			"cleanup": {"", "setup", "recover", "effect", "verify"},
		}
		last, times := "", map[string]int{}
		for _, step := range f.steps {
			ok := false
			for _, before := range after[step] {
				ok = ok || before == last
			}
			times[step]++
			if !ok || times[step] > 1 && step != "effect" && step != "recover" {
				t.Fatalf("%s after %q in %v", step, last, f.steps)
			}
			last = step
		}
		if times["verify"] > 0 && times["recover"] == 0 || times["inject"] > 0 && times["cleanup"] > 0 && times["recover"] == 0 {
			t.Fatalf("steps %v", f.steps)
		}
	})
}
