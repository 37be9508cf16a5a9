package nemesis

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestInjectionThatFailsIsTakenBack(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		l.world.failing("n2 kill", errors.New("no such host"))
		a, err := l.Inject(t.Context(), MustParse("proc kill n1,n2"))
		if a != nil || err == nil || err.Error() != "proc kill n1,n2: inject: n2: no such host" {
			t.Fatalf("%v, %v", a, err)
		}
		r := l.Records()[0]
		if !r.Recovered || r.Effect.Count != 2 || r.Err != "inject: n2: no such host" {
			t.Errorf("record %+v", r)
		}
		l.world.failing("n2 kill", nil)
		if n := l.world.hosts["n1"].Running(); n != 2 {
			t.Errorf("%d processes run on n1", n)
		}
		equal(t, "journal", l.journal(), []string{
			"0s #1 inject", "0s #1 error inject: n2: no such host", "0s #1 verified killed 2 processes", "0s #1 recover",
			"0s #1 recovered killed 2 processes",
		})
	})
}

func TestResolvingThatFailsBreaksNothing(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		l.world.primaries = nil
		if _, err := l.Inject(t.Context(), MustParse("proc kill primary")); err == nil {
			t.Error("killed")
		}
		if _, err := l.Inject(t.Context(), MustParse("net delay n1-n1 5ms")); !errors.Is(err, errNoLinks) {
			t.Errorf("error %v", err)
		}
		if _, err := l.Inject(t.Context(), Fault{}); err == nil {
			t.Error("an empty fault was injected")
		}
		if calls := l.world.log(); len(calls) > 0 {
			t.Errorf("calls %v", calls)
		}
		for _, r := range l.Records() {
			if !r.Recovered || r.Err == "" {
				t.Errorf("record %+v", r)
			}
		}
	})
}

// TestCancelledInjection: what was begun is taken back although the context is
// done.
func TestCancelledInjection(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		l.world.blocking("n2 pause", true)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := l.Inject(ctx, MustParse("proc pause n1,n2")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		l.world.blocking("n2 pause", false)
		if r := l.Records()[0]; !r.Recovered || r.To != time.Second {
			t.Errorf("record %+v", r)
		}
		l.world.whole(t)
	})
}

// TestCancelledContextHeals: neither the end of the injection's context nor that
// of the recovery's leaves anything broken.
func TestCancelledContextHeals(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		ctx, cancel := context.WithCancel(t.Context())
		a, err := l.Inject(ctx, MustParse("proc pause n1"))
		if err != nil {
			t.Fatal(err)
		}
		cancel()
		wait(time.Minute)
		if a.Record().Recovered || l.world.hosts["n1"].Running() != 0 {
			t.Error("the fault ended with the context of its injection")
		}
		if err := a.Recover(ctx); err != nil {
			t.Error(err)
		}
		l.world.whole(t)
	})
}

// TestRecoverHasADeadline: healing that hangs ends.
func TestRecoverHasADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(1, 0)
		a := l.inject(t, "proc kill n1")
		l.world.blocking("n1 start", true)
		began := time.Now()
		if err := a.Recover(context.Background()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if d := time.Since(began); d != time.Minute {
			t.Errorf("it took %v", d)
		}
		l.world.blocking("n1 start", false)
		recoveredAgain(t, a)
	})
}

func TestHealAllInReverseAndStartsLast(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		l.inject(t, "proc kill n1")
		l.inject(t, "net cut n1|n2,n3")
		l.inject(t, "disk slow n2 5ms")
		l.inject(t, "proc kill n3")
		l.inject(t, "dns fail")
		l.world.log()
		if err := l.HealAll(t.Context()); err != nil {
			t.Error(err)
		}
		calls := l.world.log()
		var order []string
		for _, c := range calls {
			order = append(order, strings.Fields(c)[1]+" "+strings.Fields(c)[2])
		}
		if len(order) != 5 || order[0] != `dns ""` || order[1] != "n2 disk" || !strings.HasPrefix(order[2], "remove n1>n2") {
			t.Errorf("order %v", order)
		}
		starts := order[3:]
		slices.Sort(starts)
		equal(t, "started last", starts, []string{"n1 start", "n3 start"})
	})
}

// TestServersThatWaitForEachOther: the start of one hangs until the other is
// started, as that of a quorum does.
func TestServersThatWaitForEachOther(t *testing.T) {
	bubble(t, 2, 0, func(t *testing.T, l *lab) {
		l.inject(t, "proc kill n1")
		l.inject(t, "proc kill n2")
		l.world.blocking("n2 start", true)
		done := make(chan error)
		go func() { done <- l.HealAll(context.Background()) }()
		wait(time.Second)
		if n := l.world.hosts["n1"].Running(); n != 2 {
			t.Errorf("n1 waits for n2: %d processes run", n)
		}
		l.world.blocking("n2 start", false)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestHealAllGoesOnAfterAFailure(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		l.inject(t, "net cut n1|n2,n3")
		l.inject(t, "disk readonly n2")
		l.inject(t, "proc pause n3")
		broken := errors.New("the daemon is gone")
		l.world.failing("n2 disk remove fault-2", broken)
		err := l.HealAll(t.Context())
		if !errors.Is(err, broken) || !strings.Contains(err.Error(), "disk readonly n2: recover: n2: the daemon is gone") {
			t.Errorf("error %v", err)
		}
		if len(l.world.cut()) > 0 || l.world.hosts["n3"].Running() != 2 {
			t.Error("the others were not healed")
		}
		if left := l.Active(); len(left) != 1 || left[0].ID() != 2 {
			t.Errorf("left %v", left)
		}
		l.world.failing("n2 disk remove fault-2", nil)
	})
}

func TestServersThatDoNotComeUp(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		l.world.hosts["n1"].noStart = true
		a := l.inject(t, "proc kill n1")
		if err := a.Recover(t.Context()); err != nil {
			t.Error(err)
		}
		if r := a.Record(); r.Err != "verify recovery: n1: 0 of 2 processes run" {
			t.Errorf("record %+v", r)
		}
		l.world.hosts["n1"].noStart = false
		recovered(t, l.inject(t, "proc restart n1"))
	})
}

func TestHealAmong(t *testing.T) {
	bubble(t, 3, 1, func(t *testing.T, l *lab) {
		inside := l.inject(t, "net cut n1|n2")
		outside := l.inject(t, "net cut n3|n1,n2,lab")
		client := l.inject(t, "net delay c1-n1 5ms")
		far := l.inject(t, "net delay c1-n3 5ms")
		dead := l.inject(t, "proc kill n3")
		slow := l.inject(t, "disk slow n1 5ms")
		names := l.inject(t, "dns fail")
		if err := l.HealAmong(t.Context(), []string{"n1", "n2"}); err != nil {
			t.Error(err)
		}
		for _, a := range []*Active{inside, client, slow, names} {
			if !a.Record().Recovered {
				t.Errorf("%s is left", a.Fault())
			}
		}
		for _, a := range []*Active{outside, far, dead} {
			if a.Record().Recovered {
				t.Errorf("%s was recovered", a.Fault())
			}
		}
	})
}

func TestClosed(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		l.inject(t, "proc pause n1")
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := l.Inject(t.Context(), MustParse("proc pause n1")); !errors.Is(err, ErrClosed) {
			t.Errorf("error %v", err)
		}
	})
}

// TestHealAllEndsAnInjectionUnderWay: it does not wait for an action that hangs.
func TestHealAllEndsAnInjectionUnderWay(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		l.world.blocking("act promote n2", true)
		done := make(chan error)
		go func() {
			_, err := l.Inject(context.Background(), MustParse("act promote n2"))
			done <- err
		}()
		synctest.Wait()
		if err := l.HealAll(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-done; err == nil || !strings.Contains(err.Error(), "it was recovered while it was injected") {
			t.Errorf("error %v", err)
		}
	})
}

// TestRecoveringAgainDoesWhatIsLeft and nothing else.
func TestRecoveringAgainDoesWhatIsLeft(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		a := l.inject(t, "disk readonly n1,n2,n3")
		l.world.failing("n2 disk remove fault-1", errors.New("the daemon is gone"))
		if err := a.Recover(t.Context()); err == nil {
			t.Error("recovered")
		}
		l.world.failing("n2 disk remove fault-1", nil)
		l.world.log()
		recoveredAgain(t, a)
		equal(t, "calls", l.world.log(), []string{"0s n2 disk remove fault-1"})
	})
}
