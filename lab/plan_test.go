//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/scenarios"
)

const minimal = `
system: {driver: etcd}
workload: {name: register}
`

func parse(t *testing.T, src string) *Scenario {
	t.Helper()
	s, err := Parse("test.yaml", []byte(src))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestParse_Defaults(t *testing.T) {
	s := parse(t, minimal)
	if s.Name != "test" || s.Hosts != 3 || s.Workload.Workers != 6 || s.Workload.Rate != 100 || s.Workload.Timeout != time.Second {
		t.Errorf("%+v", s)
	}
}

func TestParse_Errors(t *testing.T) {
	for _, c := range []struct{ name, src, want string }{
		{"field", minimal + "hots: 3", "test.yaml:4: hots: unknown field: did you mean hosts?"},
		{"driver", "system: {driver: mongodb}\nworkload: {name: set}", `system.driver: "mongodb" is unknown: one of etcd, exec`},
		{"no driver", "workload: {name: set}", "system.driver is missing"},
		{"exec without commands", "system: {driver: exec}\nworkload: {name: set}", "system.exec is missing"},
		{"hosts", minimal + "hosts: 99", "hosts: 99: between 1 and 15"},
		{"fault", minimal + "steps: [{do: net cat n1}]", "steps[0].do: "},
		{"two things", minimal + "steps: [{do: net cut one, heal: all}]", "steps[0]: do and heal exclude one another"},
		{"nothing", minimal + "steps: [{at: 3s}]", "steps[0]: says nothing to do"},
		{"wait", minimal + "steps: [{wait: godot}]", `wait: "godot": leader, new leader`},
		{"size", minimal + "disk: {size: big}", `disk.size: "big" is not a size such as 512MB`},
		{"name", minimal + "names: {www: [n9]}", "names.www: there is no host n9"},
		{"verdict", minimal + "expect: good", `expect: "good": one of valid, invalid, unknown`},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("test.yaml", []byte(c.src))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got  %v\nwant %s", err, c.want)
			}
		})
	}
}

func TestSet(t *testing.T) {
	s := parse(t, minimal+"phases: {warmup: 9s}")
	for _, kv := range [][2]string{{"workload.rate", "50"}, {"phases.faults", "3s"}, {"system.options.fsync", "false"}, {"system.options.ttl", "1s"}} {
		if err := s.Set(kv[0], kv[1]); err != nil {
			t.Fatal(err)
		}
	}
	if s.Workload.Rate != 50 || s.Phases.Faults != 3*time.Second || s.Phases.Warmup != 9*time.Second {
		t.Errorf("%+v", s)
	}
	if d := cmp.Diff(map[string]string{"fsync": "false", "ttl": "1s"}, s.System.Options); d != "" {
		t.Error(d)
	}
	if err := s.Set("system.options.ttll", "1s"); err == nil || !strings.Contains(err.Error(), "etcd has no such option") {
		t.Errorf("an option that there is not: %v", err)
	}
	delete(s.System.Options, "ttll")
	if err := s.Set("workload.rat", "50"); err == nil || !strings.Contains(err.Error(), "did you mean rate?") {
		t.Errorf("a wrong field: %v", err)
	}
}

// TestNamed_Scenarios: every named scenario parses, has what a list shows, and
// is what the published schema allows.
func TestNamed_Scenarios(t *testing.T) {
	named, err := Named()
	if err != nil {
		t.Fatal(err)
	}
	if len(named) < 15 {
		t.Errorf("only %d named scenarios", len(named))
	}
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(string(Schema())))
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	if err := compiler.AddResource("scenario.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("scenario.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range named {
		t.Run(s.Name, func(t *testing.T) {
			if s.About == "" || s.Expect == "" {
				t.Error("has no about or no expect")
			}
			src, err := scenarios.Files.ReadFile(s.Name + ".yaml")
			if err != nil {
				t.Fatal(err)
			}
			var v any
			if err := yaml.Unmarshal(src, &v); err != nil {
				t.Fatal(err)
			}
			if err := schema.Validate(v); err != nil {
				t.Error(err)
			}
			p, err := NewPlan(*s, 1)
			if err != nil {
				t.Fatal(err)
			}
			roundTrip(t, p)
		})
	}
}

// roundTrip: a plan that is read again is the same plan.
func roundTrip(t *testing.T, p *Plan) {
	t.Helper()
	file := t.TempDir() + "/plan.json"
	if err := p.Write(file); err != nil {
		t.Fatal(err)
	}
	again, err := ReadPlan(file)
	if err != nil {
		t.Fatal(err)
	}
	a, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(again)
	if err != nil {
		t.Fatal(err)
	}
	if string(a) != string(b) {
		t.Errorf("the plan reads back as another one:\n%s\n%s", a, b)
	}
}

func TestNewPlan_SeedDecides(t *testing.T) {
	s := parse(t, minimal+`
hosts: 5
faults: {kinds: [net, proc], every: 3s}
phases: {faults: 60s, liveness: core}
`)
	text := func(seed uint64) string {
		p, err := NewPlan(*s, seed)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Steps) < 5 || len(p.Core) != 3 || p.Rest == nil {
			t.Errorf("seed %d: %d steps, core %v, rest %v", seed, len(p.Steps), p.Core, p.Rest)
		}
		var b strings.Builder
		for _, st := range p.Steps {
			fmt.Fprintln(&b, st.Text())
		}
		return b.String()
	}
	if a, b := text(1), text(1); a != b {
		t.Errorf("one seed, two plans:\n%s\n%s", a, b)
	}
	if text(1) == text(2) {
		t.Error("two seeds, one plan")
	}
}

func TestPlan_NeedsTheDisk(t *testing.T) {
	s := parse(t, minimal+"disk: {off: true}\nsteps: [{do: host power n1}]")
	if _, err := NewPlan(*s, 1); err == nil || !strings.Contains(err.Error(), "disk.off") {
		t.Errorf("got %v", err)
	}
}

// TestDdmin: what is left fails, and removing any one step makes it pass.
func TestDdmin(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 30).Draw(t, "steps")
		needed := rapid.SliceOfNDistinct(rapid.IntRange(1, n), 1, min(n, 4), rapid.ID).Draw(t, "needed")
		steps := make([]PlannedStep, n)
		for i := range steps {
			steps[i].ID = i + 1
		}
		runs := 0
		left, err := ddmin(steps, func(c []PlannedStep) (bool, error) {
			runs++
			for _, id := range needed {
				if !slices.ContainsFunc(c, func(st PlannedStep) bool { return st.ID == id }) {
					return false, nil
				}
			}
			return true, nil
		}, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		if len(left) != len(needed) {
			t.Fatalf("%d steps are left, %d are needed", len(left), len(needed))
		}
		if runs > 20*n {
			t.Fatalf("%d runs for %d steps", runs, n)
		}
	})
}

func TestShrink(t *testing.T) {
	s := parse(t, minimal+`
steps:
  - {at: 1s, do: "net cut n1|n2,n3 for 1s"}
  - {at: 2s, do: proc kill n1}
  - {at: 3s, do: proc pause n2 for 1s}
`)
	p, err := NewPlan(*s, 1)
	if err != nil {
		t.Fatal(err)
	}
	bad := func(_ context.Context, p *Plan) (check.Verdict, error) {
		for _, st := range p.Steps {
			if st.ID == 2 {
				return check.Invalid, nil
			}
		}
		return check.Valid, nil
	}
	got, err := Shrink(t.Context(), p, 1, bad, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Plan.Steps) != 1 || got.Plan.Steps[0].ID != 2 || got.Reproduced != got.Trials {
		t.Errorf("%+v", got)
	}
	_, err = Shrink(t.Context(), p, 2, func(context.Context, *Plan) (check.Verdict, error) { return check.Valid, nil }, func(string) {})
	if !errors.Is(err, ErrNotReproduced) {
		t.Errorf("a plan that holds: %v", err)
	}
}
