//go:build linux

package lab

import (
	"context"
	"testing"
	"time"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
	"holdfast.dev/lab/nemesis"
	"holdfast.dev/lab/report"
)

// judged is a runner that has run, with what the test gives it.
func judged(faults ...report.Fault) *runner {
	r := &runner{
		plan: &Plan{}, begin: time.Now(), scripted: map[int]bool{}, progress: func(Progress) {},
		workers: &workers{byNode: map[string]int64{}},
	}
	r.data.Faults = faults
	return r
}

func TestVacuity(t *testing.T) {
	during := func(n int) history.History {
		var h history.History
		for i := range n {
			h = append(h, history.Op{Index: i, Time: 3 * time.Second, Type: history.OK})
		}
		return h
	}
	fault := report.Fault{From: 2 * time.Second, To: 4 * time.Second}
	for _, c := range []struct {
		name   string
		h      history.History
		faults []report.Fault
		doubts int
	}{
		{"work and faults met", during(50), []report.Fault{fault}, 0},
		{"they hardly met", during(3), []report.Fault{fault}, 1},
		{"the work was long over", during(50), []report.Fault{{From: time.Minute, To: 2 * time.Minute}}, 1},
		{"the work was before", during(50), []report.Fault{{From: 5 * time.Second, To: 6 * time.Second}}, 1},
		{"nothing was to be broken", during(3), nil, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := judged(c.faults...)
			r.vacuity(c.h)
			if len(r.data.Doubts) != c.doubts {
				t.Errorf("doubts %q, want %d", r.data.Doubts, c.doubts)
			}
		})
	}
}

func TestRunCheck_Panics(t *testing.T) {
	res := runCheck(t.Context(), "sick", func(context.Context, history.History) check.Result { panic("oh") }, nil)
	if res.Verdict != check.Unknown || res.Checker != "sick" {
		t.Errorf("%+v", res)
	}
}

func TestCrashes(t *testing.T) {
	r := judged()
	if res := r.crashes(); res.Verdict != check.Valid {
		t.Errorf("no crash: %+v", res)
	}
	r.data.Findings = []report.Finding{{Host: "n1", Text: "etcd ended by itself: exit code 2"}}
	if res := r.crashes(); res.Verdict != check.Invalid || len(res.Witness) != 1 {
		t.Errorf("a crash: %+v", res)
	}
}

// TestReplay: a plan that was written and read injects the same faults at the same
// steps.
func TestReplay(t *testing.T) {
	s := parse(t, minimal+`
hosts: 5
faults: {kinds: [net, packet, proc, host, clock], every: 4s}
phases: {faults: 40s}
`)
	p, err := NewPlan(*s, 11)
	if err != nil {
		t.Fatal(err)
	}
	file := t.TempDir() + "/plan.json"
	if err := p.Write(file); err != nil {
		t.Fatal(err)
	}
	again, err := ReadPlan(file)
	if err != nil {
		t.Fatal(err)
	}
	if len(again.Steps) != len(p.Steps) {
		t.Fatalf("%d steps, want %d", len(again.Steps), len(p.Steps))
	}
	for i, st := range again.Steps {
		if st.Text() != p.Steps[i].Text() {
			t.Errorf("step %d: %s, want %s", i, st.Text(), p.Steps[i].Text())
		}
		if st.Fault.Kind() == nemesis.Kind("") {
			t.Errorf("step %d: its fault was lost", i)
		}
	}
	// What chance decides in a run is the same too, in whichever order it is asked.
	a := random(again.Seed, "worker/3", 17).Uint64()
	_ = random(again.Seed, "worker/2", 5).Uint64()
	if b := random(p.Seed, "worker/3", 17).Uint64(); a != b {
		t.Error("one event, two choices")
	}
}
