package nemesis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// lab is a nemesis in a fake world, with its journal.
type lab struct {
	*Nemesis

	world *fakeWorld

	mu     sync.Mutex
	events []Event
}

func newLab(nodes, clients int) *lab {
	l := &lab{world: newWorld(nodes, clients)}
	l.Nemesis = New(l.world, Config{Seed: 7, Journal: func(e Event) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.events = append(l.events, e)
	}})
	return l
}

func (l *lab) journal() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	lines := make([]string, len(l.events))
	for i, e := range l.events {
		lines[i] = strings.TrimSpace(fmt.Sprintf("%v #%d %s %s", e.At, e.ID, e.Phase, e.Detail))
	}
	return lines
}

func (l *lab) inject(t *testing.T, text string) *Active {
	t.Helper()
	a, err := l.Inject(t.Context(), MustParse(text))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func recovered(t *testing.T, a *Active) {
	t.Helper()
	if err := a.Recover(t.Context()); err != nil {
		t.Errorf("%s: %v", a.Fault(), err)
	}
	if r := a.Record(); !r.Recovered || r.Err != "" {
		t.Errorf("%s: %+v", a.Fault(), r)
	}
}

// bubble runs a test with its own time, and a nemesis that has to leave nothing
// broken behind.
func bubble(t *testing.T, nodes, clients int, test func(t *testing.T, l *lab)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := newLab(nodes, clients)
		test(t, l)
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		if left := l.Active(); len(left) > 0 {
			t.Errorf("%d faults are still active", len(left))
		}
		l.world.whole(t)
	})
}

func wait(d time.Duration) {
	timer := time.NewTimer(d)
	<-timer.C
	synctest.Wait()
}

func equal(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n  %s\nwant:\n  %s", what, strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

func TestLifeOfAFault(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		a := l.inject(t, "net cut n1|n2,n3 for 5s")
		if len(l.Active()) != 1 || len(l.world.cut()) != 4 {
			t.Errorf("active %d, links cut %v", len(l.Active()), l.world.cut())
		}
		<-a.Done()
		equal(t, "journal", l.journal(), []string{
			"0s #1 inject",
			"200ms #1 verified touched 10 frames",
			"5s #1 recover",
			"5s #1 recovered touched 10 frames",
		})
		r := a.Record()
		if r.From != 0 || r.To != 5*time.Second || !r.Recovered || r.Err != "" || r.Effect.Count != 10 || !slices.Equal(r.Hosts, []string{"n1"}) {
			t.Errorf("record %+v", r)
		}
		if len(l.Active()) != 0 || len(l.Records()) != 1 {
			t.Errorf("active %v, records %v", l.Active(), l.Records())
		}
		calls := len(l.world.log())
		recovered(t, a)
		recovered(t, a)
		if again := l.world.log(); len(again) > 0 || calls != 2 {
			t.Errorf("%d calls, and %v for recovering again", calls, again)
		}
	})
}

// TestEveryFault injects each example of the documentation, and looks at what
// is left of it afterwards.
func TestEveryFault(t *testing.T) {
	for _, line := range examples(t) {
		t.Run(line, func(t *testing.T) {
			bubble(t, 4, 2, func(t *testing.T, l *lab) {
				before := time.Now()
				a := l.inject(t, strings.NewReplacer("redis-sentinel", "server", "etcd", "server").Replace(line))
				wait(3 * time.Second)
				recovered(t, a)
				if a.Fault().For() == 0 && time.Since(before) > 10*time.Second {
					t.Errorf("it took %v", time.Since(before))
				}
				r := a.Record()
				if strings.HasPrefix(line, "clock reset") {
					return // there was nothing to set right
				}
				if r.Effect.Nothing() || r.Effect.Text == "" || r.Resolved == "" {
					t.Errorf("record %+v", r)
				}
				if f := MustParse(r.Resolved); f.Dynamic() || f.For() != a.Fault().For() {
					t.Errorf("it was resolved to %s", f)
				}
				phases := []Phase{}
				for _, e := range l.events {
					phases = append(phases, e.Phase)
				}
				if phases[0] != PhaseInject || phases[len(phases)-1] != PhaseRecovered || !slices.Contains(phases, PhaseVerified) {
					t.Errorf("phases %v", phases)
				}
			})
		})
	}
}

func TestAFaultThatTouchesNothingSaysSo(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		l.world.traffic, l.world.resets = 0, 0
		l.world.hosts["n1"].touched = 0
		for _, h := range l.world.hosts {
			h.stuck = true
		}
		for _, line := range []string{
			"net cut n1|n2,n3", "net reset n1|n2", "net swizzle n1,n2 over 1s", "disk eio n1", "proc kill n2 nothing",
			"proc pause n2 nothing", "clock strobe n2 5s every 1s",
		} {
			a := l.inject(t, line)
			wait(3 * time.Second)
			recovered(t, a)
			if r := a.Record(); !r.Effect.Nothing() || !strings.HasPrefix(r.Effect.Text, "touched nothing") {
				t.Errorf("%s: %+v", line, r.Effect)
			}
		}
		var verified int
		for _, e := range l.events {
			if e.Phase == PhaseVerified {
				verified++
			}
		}
		if verified != 7 {
			t.Errorf("%d verdicts", verified)
		}
		for _, h := range l.world.hosts {
			h.stuck = false
		}
	})
}

// TestAClockThatDoesNotMove: the probe does not believe the one who moved it.
func TestAClockThatDoesNotMove(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		l.world.hosts["n2"].stuck = true
		a := l.inject(t, "clock jump n1,n2 +1h")
		wait(time.Second)
		if err := a.Recover(t.Context()); err != nil {
			t.Fatal(err)
		}
		r := a.Record()
		if r.Effect.Count != 1 || r.Err != "verify effect: n2: the clock is +0s from the right time, not +1h" {
			t.Errorf("record %+v", r)
		}
		b := l.inject(t, "clock jump n2 +1h")
		wait(time.Second)
		if err := b.Recover(t.Context()); err != nil || !b.Record().Effect.Nothing() {
			t.Errorf("record %+v, %v", b.Record(), err)
		}
	})
}

func TestClockThatStaysWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(1, 0)
		a := l.inject(t, "clock jump n1 -30s")
		l.world.failing("n1 clock 0s 0", errors.New("no such process"))
		if err := a.Recover(t.Context()); err == nil || !strings.Contains(err.Error(), "n1: no such process") {
			t.Errorf("error %v", err)
		}
		if len(l.Active()) != 1 || a.Record().Recovered {
			t.Errorf("it counts as recovered: %+v", a.Record())
		}
		l.world.failing("n1 clock 0s 0", nil)
		recoveredAgain(t, a)
		l.world.whole(t)
	})
}

// recoveredAgain: the second try succeeds, and the first one's error stays known.
func recoveredAgain(t *testing.T, a *Active) {
	t.Helper()
	if err := a.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if r := a.Record(); !r.Recovered || r.Err == "" {
		t.Errorf("record %+v", r)
	}
}

func TestDrift(t *testing.T) {
	bubble(t, 2, 0, func(t *testing.T, l *lab) {
		a := l.inject(t, "clock drift n1 +500ppm for 10s")
		<-a.Done()
		if r := a.Record(); r.Effect.Count != 1 || !strings.Contains(r.Effect.Text, "n1 +5ms") || r.Err != "" {
			t.Errorf("record %+v", r)
		}
		equal(t, "journal", l.journal()[1:2], []string{"3s #1 verified moved 1 clock: n1 +1.5ms"}) // seen when it is more than a millisecond
	})
}

func TestStrobe(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		a := l.inject(t, "clock strobe n1 2s every 1s for 3500ms")
		<-a.Done()
		equal(t, "calls", l.world.log(), []string{
			"0s n1 clock 2s 0", "1s n1 clock 0s 0", "2s n1 clock 2s 0", "3s n1 clock 0s 0", "3.5s n1 clock 0s 0",
		})
		if r := a.Record(); r.Effect.Text != "strobed 1 clock; n1 was seen at +2s; moved forward 2 times" {
			t.Errorf("effect %+v", r.Effect)
		}
	})
}

func TestSwizzle(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		a := l.inject(t, "net swizzle n1,n2,n3 over 4s for 10s")
		<-a.Done()
		var on, off []string
		for _, line := range l.journal() {
			if w := strings.Fields(line); w[2] == "note" {
				if w[3] == "clogged" {
					on = append(on, w[0]+" "+w[4])
				} else {
					off = append(off, w[0]+" "+w[4])
				}
			}
		}
		times := func(lines []string) (times, hosts []string) {
			for _, l := range lines {
				at, host, _ := strings.Cut(l, " ")
				times, hosts = append(times, at), append(hosts, host)
			}
			return times, hosts
		}
		onAt, clogged := times(on)
		offAt, unclogged := times(off)
		equal(t, "clogged at", onAt, []string{"0s", "2s", "4s"})
		equal(t, "unclogged at", offAt, []string{"10s", "12s", "14s"})
		slices.Sort(clogged)
		slices.Sort(unclogged)
		equal(t, "clogged", clogged, []string{"n1", "n2", "n3"})
		equal(t, "unclogged", unclogged, clogged)
		if r := a.Record(); r.Effect.Count != 30 {
			t.Errorf("effect %+v", r.Effect)
		}
	})
}

// TestSwizzleTurnsTheOrder: clogged in one order, unclogged in another.
func TestSwizzleTurnsTheOrder(t *testing.T) {
	b := builder{world: newWorld(8, 0), everyone: nodesOf(8), seed: 1}
	f := b.swizzle(swizzleSpec{hosts: nodesOf(8), over: time.Second}).(*swizzleFailure)
	if slices.Equal(f.hosts, f.back) || slices.Equal(f.hosts, nodesOf(8)) || slices.Equal(f.back, nodesOf(8)) {
		t.Errorf("clogged %v, unclogged %v", f.hosts, f.back)
	}
}

func TestSwizzleIsCutShort(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		a := l.inject(t, "net swizzle n1,n2,n3 over 4s")
		wait(3 * time.Second)
		done := make(chan error)
		go func() { done <- a.Recover(context.Background()) }()
		wait(time.Second)
		if err := l.HealAll(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		if r := a.Record(); r.To != 4*time.Second {
			t.Errorf("healed at %v", r.To)
		}
	})
}

func TestRolling(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		a := l.inject(t, "proc rolling all every 2s")
		<-a.Done()
		equal(t, "calls", l.world.log(), []string{
			"0s n1 kill", "0s n1 start", "2s n2 kill", "2s n2 start", "4s n3 kill", "4s n3 start",
		})
		if r := a.Record(); r.Effect.Count != 6 || r.To != 4*time.Second || r.Err != "" {
			t.Errorf("record %+v", r)
		}
	})
}

func TestRollingStopsWhereAHostDoesNotStart(t *testing.T) {
	bubble(t, 3, 0, func(t *testing.T, l *lab) {
		l.world.failing("n2 start", errors.New("not ready after 30s"))
		a := l.inject(t, "proc rolling all every 2s")
		<-a.Done()
		if r := a.Record(); r.Recovered || !strings.Contains(r.Err, "n2: start again: not ready") {
			t.Errorf("record %+v", r)
		}
		for _, call := range l.world.log() {
			if strings.Contains(call, "n3") {
				t.Errorf("%s after n2 did not start", call)
			}
		}
		l.world.failing("n2 start", nil)
		recoveredAgain(t, a)
	})
}

func TestMicroburst(t *testing.T) {
	bubble(t, 2, 0, func(t *testing.T, l *lab) {
		a := l.inject(t, "net microburst n1>n2 10KB every 1s for 2500ms")
		<-a.Done()
		equal(t, "calls", l.world.log(), []string{"0s burst n1>n2 10000", "1s burst n1>n2 10000", "2s burst n1>n2 10000"})
		if r := a.Record(); r.Effect.Text != "sent 30000 bytes" {
			t.Errorf("effect %+v", r.Effect)
		}
	})
}

// TestABurstThatHangs: recovering does not wait for it.
func TestABurstThatHangs(t *testing.T) {
	bubble(t, 2, 0, func(t *testing.T, l *lab) {
		l.world.blocking("burst n1>n2 10000", true)
		a := l.inject(t, "net microburst n1>n2 10KB every 1s")
		wait(5 * time.Second)
		recovered(t, a)
		if !a.Record().Effect.Nothing() {
			t.Errorf("effect %+v", a.Record().Effect)
		}
	})
}

func TestAClockOfAHostWithoutPower(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		a := l.inject(t, "clock jump n1 +1h")
		wait(time.Second)
		power := l.inject(t, "host power n1")
		l.world.hosts["n1"].probing(errors.New("the host is off"))
		recovered(t, a)
		l.world.hosts["n1"].probing(nil)
		recovered(t, power)
	})
}

// TestAClockThatCannotBeMeasured: what was seen before counts.
func TestAClockThatCannotBeMeasured(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		a := l.inject(t, "clock jump n1 +1h")
		wait(time.Second)
		l.world.hosts["n1"].probing(errors.New("the host is off"))
		go func() { _ = a.Recover(context.Background()) }()
		<-a.Done()
		if r := a.Record(); r.Effect.Count != 1 || r.Err != "verify recovery: n1: measure the clock: the host is off" {
			t.Errorf("record %+v", r)
		}
		b := l.inject(t, "clock jump n1 +1h")
		if err := b.Recover(t.Context()); err != nil {
			t.Error(err)
		}
		if r := b.Record(); !r.Effect.Nothing() || !strings.HasPrefix(r.Err, "verify effect: n1: measure the clock: the host is off\n") {
			t.Errorf("record %+v", r)
		}
	})
}

// TestDrawsDoNotDependOnOtherFaults: what a fault leaves to chance is the same
// whatever else is injected, and differs from time to time.
func TestDrawsDoNotDependOnOtherFaults(t *testing.T) {
	draws := func(others bool) []string {
		l := newLab(5, 0)
		var out []string
		for range 8 {
			if others {
				recovered(t, l.inject(t, "net cut one"))
			}
			a := l.inject(t, "proc pause one")
			recovered(t, a)
			out = append(out, a.Record().Resolved)
		}
		return out
	}
	alone := draws(false)
	equal(t, "with others", draws(true), alone)
	slices.Sort(alone)
	if len(slices.Compact(alone)) < 3 {
		t.Errorf("always the same: %v", alone)
	}
}
