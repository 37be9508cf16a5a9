package nemesis

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestClocksAddUp(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		at := func(want time.Duration) {
			t.Helper()
			got, err := fakeClock{l.world.hosts["n1"]}.Offset()
			if err != nil || (got-want).Abs() > time.Millisecond {
				t.Errorf("the clock is at %v, not %v (%v)", got, want, err)
			}
		}
		wait(time.Minute)
		jump := l.inject(t, "clock jump n1 +1h")
		drift := l.inject(t, "clock drift n1 x1.5")
		wait(10 * time.Second)
		at(time.Hour + 5*time.Second)
		back := l.inject(t, "clock jump n1 -30m")
		wait(10 * time.Second)
		at(30*time.Minute + 10*time.Second)
		recovered(t, jump)
		at(-30*time.Minute + 10*time.Second)
		recovered(t, drift)
		at(-30 * time.Minute)
		reset := l.inject(t, "clock reset all")
		at(0)
		recovered(t, reset)
		recovered(t, back)
		at(0)
	})
}

func TestTwoPauses(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		running := func(want int) {
			t.Helper()
			if n := l.world.hosts["n1"].Running(); n != want {
				t.Errorf("%d processes run, not %d", n, want)
			}
		}
		all := l.inject(t, "proc pause n1")
		again := l.inject(t, "proc pause n1")
		one := l.inject(t, "proc pause n1 server")
		running(0)
		recovered(t, all)
		running(0)
		recovered(t, again)
		running(1) // the server is paused still
		two := l.inject(t, "proc pause n1 server")
		recovered(t, one)
		running(1)
		all = l.inject(t, "proc pause n1")
		side := l.inject(t, "proc pause n1 side")
		running(0)
		recovered(t, side) // under the pause of everything
		running(0)
		recovered(t, all)
		running(1)
		recovered(t, two)
		running(2)
	})
}

func TestKillAndPauseOfOneHost(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		kill := l.inject(t, "proc kill n1")
		pause := l.inject(t, "proc pause n1")
		power := l.inject(t, "host power n1")
		for i, a := range []*Active{kill, pause} {
			recovered(t, a)
			if n := l.world.hosts["n1"].Running(); n != 0 {
				t.Errorf("after %d of 3 faults ended %d processes run", i+1, n)
			}
		}
		recovered(t, power)
		equal(t, "calls", l.world.log(), []string{
			"0s n1 kill", "0s n1 pause", "0s n1 power off", "0s n1 resume", "0s n1 start",
		})
	})
}

func TestPauseAndRestart(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		pause := l.inject(t, "proc pause n1")
		restart := l.inject(t, "proc restart n1")
		<-restart.Done()
		if n := l.world.hosts["n1"].Running(); n != 0 {
			t.Errorf("%d processes run on a host that is paused", n)
		}
		recovered(t, pause)
		equal(t, "calls", l.world.log(), []string{"0s n1 pause", "0s n1 kill", "0s n1 resume", "0s n1 start"})
	})
}

func TestThrottles(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		a := l.inject(t, "proc throttle n1 50%")
		b := l.inject(t, "proc throttle n1 20%")
		c := l.inject(t, "proc throttle n1 30%")
		recovered(t, b)
		recovered(t, a)
		recovered(t, c)
		equal(t, "calls", l.world.log(), []string{
			"0s n1 throttle 0.5", "0s n1 throttle 0.2", "0s n1 throttle 0.2",
			"0s n1 throttle 0.3", "0s n1 throttle 0.3", "0s n1 throttle 0",
		})
	})
}

func TestNames(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		stale := l.inject(t, "dns stale db.lab 10.0.0.1")
		nx := l.inject(t, "dns nx db.lab")
		slow := l.inject(t, "dns slow 2s")
		now := func(name string) string { return fmt.Sprintf("%+v", l.world.dnsNow[name]) }
		if got := now("db.lab"); !strings.Contains(got, "NX:true") || strings.Contains(got, "10.0.0.1") {
			t.Error(got)
		}
		recovered(t, nx)
		if got := now("db.lab"); !strings.Contains(got, "10.0.0.1") || strings.Contains(got, "NX:true") {
			t.Error(got)
		}
		if got := now(""); !strings.Contains(got, "Delay:2s") {
			t.Error(got)
		}
		recovered(t, stale)
		recovered(t, slow)
	})
}

// TestAStartThatNeedsTheEndOfAnotherFault: while it waits, the other is healed.
func TestAStartThatNeedsTheEndOfAnotherFault(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		for _, line := range []string{"disk stall n1 fsync", "clock jump n1 +1h", "proc throttle n1 5%"} {
			l.inject(t, line)
		}
		kill := l.inject(t, "proc kill n1 for 1s")
		l.world.blocking("n1 start", true)
		wait(2 * time.Second)
		done := make(chan error)
		go func() { done <- l.HealAll(context.Background()) }()
		synctest.Wait()
		if left := l.Active(); len(left) != 1 || left[0] != kill {
			t.Errorf("%d faults are left", len(left))
		}
		l.world.blocking("n1 start", false)
		if err := <-done; err != nil {
			t.Error(err)
		}
		if r := kill.Record(); r.To != 2*time.Second || r.Err != "" {
			t.Errorf("record %+v", r)
		}
	})
}

// TestAFaultEndsAStartUnderWay, and the host is started when that ends.
func TestAFaultEndsAStartUnderWay(t *testing.T) {
	for _, second := range []string{"proc kill n1", "proc pause n1", "host power n1"} {
		t.Run(second, func(t *testing.T) {
			bubble(t, 1, 0, func(t *testing.T, l *lab) {
				first := l.inject(t, "proc kill n1 for 1s")
				l.world.blocking("n1 start", true)
				wait(2 * time.Second)
				a := l.inject(t, second)
				if at := time.Since(l.world.start); at != 2*time.Second {
					t.Errorf("injected after %v", at)
				}
				<-first.Done()
				recovered(t, first)
				l.world.blocking("n1 start", false)
				if n := l.world.hosts["n1"].Running(); n != 0 {
					t.Errorf("%d processes run", n)
				}
				recovered(t, a)
				l.world.whole(t)
			})
		})
	}
}

// TestManyAtOnce: everybody injects and heals everything at once; in the end
// nothing is broken.
func TestManyAtOnce(t *testing.T) {
	bubble(t, 3, 1, func(t *testing.T, l *lab) {
		lines := slices.DeleteFunc(examples(t), func(line string) bool {
			_, err := Expand(MustParse(line), l.world.nodes, l.world.clients, 1)
			return err != nil
		})
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				for j := range 12 {
					d := newDraw(uint64(i), "at once", fmt.Sprint(j))
					a, err := l.Inject(context.Background(), MustParse(lines[d.below(len(lines))]))
					if err != nil {
						t.Error(err)
						continue
					}
					wait(time.Duration(d.below(int(3 * time.Second))))
					switch d.below(4) {
					case 0:
						if err := l.HealAll(context.Background()); err != nil {
							t.Error(err)
						}
					case 1:
						if err := a.Recover(context.Background()); err != nil {
							t.Error(err)
						}
					}
				}
			})
		}
		wg.Wait()
		if err := l.Close(t.Context()); err != nil {
			t.Error(err)
		}
		for _, r := range l.Records() {
			if !r.Recovered {
				t.Errorf("%s is left: %s", r.Fault, r.Err)
			}
		}
		begun := make(map[int]Phase)
		for _, e := range l.events {
			last := begun[e.ID]
			if (last == "") != (e.Phase == PhaseInject) || last == PhaseRecovered {
				t.Errorf("#%d: %s after %q", e.ID, e.Phase, last)
			}
			begun[e.ID] = e.Phase
		}
	})
}

// TestAStartThatCannotBeEnded: the fault waits for it, and what it started is
// started again afterwards.
func TestAStartThatCannotBeEnded(t *testing.T) {
	bubble(t, 1, 0, func(t *testing.T, l *lab) {
		l.inject(t, "proc kill n1 for 1s")
		l.world.deaf = true
		l.world.blocking("n1 start", true)
		wait(2 * time.Second)
		killed := make(chan *Active)
		go func() {
			a, err := l.Inject(context.Background(), MustParse("proc kill n1"))
			if err != nil {
				t.Error(err)
			}
			killed <- a
		}()
		wait(time.Second)
		l.world.blocking("n1 start", false)
		a := <-killed
		if n := l.world.hosts["n1"].Running(); n != 0 {
			t.Errorf("%d processes run", n)
		}
		recovered(t, a)
		l.world.whole(t)
	})
}
