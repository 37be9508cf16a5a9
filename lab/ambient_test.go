//go:build linux

package lab

import (
	"context"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
	"holdfast.dev/lab/report"
	"holdfast.dev/lab/vclock"
)

// TestAmbient: what the scenario says of the network holds again after
// everything was healed in between, and what a fault is said to have touched is
// the system's own.
func TestAmbient(t *testing.T) {
	t.Parallel()
	labtest.Server(t, "redis-server", "redis-server")
	s := parse(t, `
hosts: 1
system: {driver: redis, options: {mode: single}}
workload: {name: register, workers: 2, rate: 50}
network: [net delay n1 20ms]
clock: true
steps:
  - {at: 100ms, do: proc throttle n1 50%}
  - {after: 100ms, do: host power n1 for 300ms}
  - {after: 600ms, heal: all}
  - {after: 500ms, do: proc pause n1 for 300ms}
phases: {warmup: 1s, settle: 500ms}
`)
	p, err := NewPlan(*s, 3)
	if err != nil {
		t.Fatal(err)
	}
	d := runPlan(t, p)
	var ambient, late int
	for _, f := range d.Faults {
		switch {
		case strings.HasPrefix(f.Text, "net delay"):
			ambient++
			if f.Touched > 0 && f.Phase == "heal" {
				late++
			}
		case strings.HasPrefix(f.Text, "proc pause"):
			if f.Touched != 1 {
				t.Errorf("%s: %s, want the server alone", f.Text, f.Effect)
			}
		}
		if f.Error != "" {
			t.Errorf("%s: %s", f.Text, f.Error)
		}
	}
	if ambient != 3 || late != 1 { // from the beginning, after the step, and in the end
		t.Errorf("the delay was there %d times, and %d in the end", ambient, late)
	}
}

func TestAlive_NobodyAsks(t *testing.T) {
	r := judged()
	r.plan.Scenario.Hosts, r.plan.Scenario.Workload.Workers = 3, 1
	r.plan.Scenario.Phases.Deadline = time.Millisecond
	r.alive(t.Context(), []string{"n2", "n3"}, "the core was healed")
	if len(r.data.Results) != 0 || len(r.data.Doubts) != 1 {
		t.Errorf("results %v, doubts %q", r.data.Results, r.data.Doubts)
	}
	r.alive(t.Context(), []string{"n1", "n3"}, "the core was healed")
	if len(r.data.Results) != 1 || r.data.Results[0].Verdict != check.Invalid {
		t.Errorf("a core that is asked and does not answer: %v", r.data.Results)
	}
}

// TestAlive_Everyone: of the core, those that have clients have to answer.
func TestAlive_Everyone(t *testing.T) {
	for _, c := range []struct {
		workers int
		want    check.Verdict
	}{{2, check.Valid}, {3, check.Invalid}} { // the third worker is n3's
		r := judged()
		r.plan.Scenario.Hosts, r.plan.Scenario.Workload.Workers = 3, c.workers
		r.plan.Scenario.Phases.Everyone, r.plan.Scenario.Phases.Deadline = true, 200*time.Millisecond
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 20 {
				r.workers.count(history.Op{Type: history.OK, Node: "n2"})
				if !sleep(t.Context(), 5*time.Millisecond) {
					return
				}
			}
		}()
		r.alive(t.Context(), []string{"n2", "n3"}, "the core was healed")
		<-done
		if got := r.data.Results; len(got) != 1 || got[0].Verdict != c.want {
			t.Errorf("%d workers: %+v, want %s", c.workers, got, c.want)
		}
	}
}

func TestVacuity_AmbientIsNoFault(t *testing.T) {
	r := judged(report.Fault{ID: 1}, report.Fault{ID: 2})
	r.ambient = map[int]bool{1: true, 2: true}
	r.vacuity(nil)
	if len(r.data.Doubts) != 0 {
		t.Errorf("doubts %q", r.data.Doubts)
	}
}

// TestMachine_DriftWithoutPower: the clock of a host that is switched off goes on
// as wrongly as it did.
func TestMachine_DriftWithoutPower(t *testing.T) {
	now := 10 * time.Second
	m := newMachine(&world{now: func() time.Duration { return now }}, "n1", "node", nodeAddr(0))
	if err := m.Clock().Set(vclock.Offset{Jump: time.Second, Drift: 0.5}); err != nil {
		t.Fatal(err)
	}
	now += 4 * time.Second
	if o := m.offsetNow(now); o != (vclock.Offset{Jump: 3 * time.Second, Drift: 0.5}) {
		t.Errorf("%+v", o)
	}
}

// TestMachine_LockWithoutTime: a machine that nobody has is taken down also where
// the time is up.
func TestMachine_LockWithoutTime(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	m := newMachine(&world{}, "n1", "node", nodeAddr(0))
	for range 100 {
		if err := m.lock(over); err != nil {
			t.Fatal(err)
		}
		m.unlock()
	}
	if err := m.lock(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.lock(over) == nil {
		t.Error("locked twice")
	}
}

// TestVerdict: doubts make a valid run unknown and leave an invalid one, which
// has its witness; a lab that broke itself has none.
func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		name     string
		result   check.Verdict
		doubts   []string
		failures []string
		want     check.Verdict
	}{
		{"all is well", check.Valid, nil, nil, check.Valid},
		{"a doubt", check.Valid, []string{"x"}, nil, check.Unknown},
		{"a contradiction in doubt", check.Invalid, []string{"x"}, nil, check.Invalid},
		{"a checker that does not know", check.Unknown, nil, nil, check.Unknown},
		{"a lab without disk", check.Invalid, nil, []string{"n1: x"}, check.Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := judged()
			r.data.Results, r.data.Doubts, r.failures = []check.Result{{Verdict: c.result}}, c.doubts, c.failures
			if v := r.verdict(); v != c.want {
				t.Errorf("%s, want %s", v, c.want)
			}
			if c.failures != nil && !strings.Contains(r.reason(check.Unknown), "n1: x") {
				t.Errorf("reason %q", r.reason(check.Unknown))
			}
		})
	}
	if v := judged().verdict(); v != check.Unknown {
		t.Errorf("nothing was checked: %s", v)
	}
}
