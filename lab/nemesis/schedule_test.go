package nemesis

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func TestScheduleIsPure(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cfg := ScheduleConfig{
			Seed:    rapid.Uint64().Draw(t, "seed"),
			Nodes:   nodesOf(rapid.SampledFrom([]int{3, 4, 5, 7}).Draw(t, "nodes")),
			Clients: []string{"c1"},
			Kinds:   rapid.SliceOfNDistinct(rapid.SampledFrom(Kinds()), 1, 7, rapid.ID[string]).Draw(t, "kinds"),
			Start:   time.Minute, Length: 5 * time.Minute,
			MaxAffected: rapid.IntRange(0, 2).Draw(t, "max"),
		}
		steps, err := Schedule(cfg)
		if err != nil {
			t.Fatal(err)
		}
		again, err := Schedule(cfg)
		if err != nil || len(again) != len(steps) {
			t.Fatalf("%d steps, and %d of the same seed", len(steps), len(again))
		}
		everyone := slices.Concat(cfg.Nodes, cfg.Clients, []string{Lab})
		var worn []string
		for i, s := range steps {
			if s.At != again[i].At || s.Fault.String() != again[i].Fault.String() {
				t.Fatalf("step %d is %v and %v", i, s, again[i])
			}
			end := s.At + s.Fault.For()
			if s.At < cfg.Start || end > cfg.Start+cfg.Length || i > 0 && s.At < steps[i-1].At {
				t.Fatalf("step %d at %v for %v", i, s.At, s.Fault.For())
			}
			if s.Fault.For() == 0 && !s.Fault.endsItself() {
				t.Fatalf("%s never ends", s.Fault)
			}
			if f, err := Expand(s.Fault, cfg.Nodes, cfg.Clients, 99); err != nil || f.String() != s.Fault.String() {
				t.Fatalf("%s is not expanded: %s, %v", s.Fault, f, err)
			}
			if cfg.MaxAffected == 0 {
				continue
			}
			// Everything that is on at the beginning of this step. Faults of no
			// duration are on for as long as their slot, which is not in the step.
			down := slices.Clone(worn)
			unknown := 0
			for _, other := range steps[:i+1] {
				if other.At == s.At && other.Fault.String() == s.Fault.String() || other.At <= s.At && s.At < other.At+other.Fault.For() {
					hosts, more := other.Fault.stricken(cfg.Nodes, everyone)
					down, unknown = append(down, hosts...), unknown+more
				}
			}
			hosts, more := s.Fault.stricken(cfg.Nodes, everyone)
			slices.Sort(down)
			if n := len(slices.Compact(down)) + unknown; n > cfg.MaxAffected && len(hosts)+more > 0 {
				t.Fatalf("%s affects %d nodes, with %v", s.Fault, n, steps[:i])
			}
			if s.Fault.lasting() {
				worn = append(worn, hosts...)
			}
		}
	})
}

// TestKindsDoNotDisturbEachOther: more kinds add steps and change none, and a
// kind's own faults do not overlap.
func TestKindsDoNotDisturbEachOther(t *testing.T) {
	cfg := ScheduleConfig{Seed: 5, Nodes: nodesOf(5), Kinds: []string{"net"}, Length: 10 * time.Minute}
	alone, err := Schedule(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Kinds = []string{"proc", "net", "clock"}
	all, err := Schedule(cfg)
	if err != nil {
		t.Fatal(err)
	}
	last := map[Kind]time.Duration{}
	var net []Step
	for _, s := range all {
		if s.At < last[s.Fault.Kind()] {
			t.Errorf("%s at %v begins before the last of its kind ended", s.Fault, s.At)
		}
		last[s.Fault.Kind()] = s.At + s.Fault.For()
		if s.Fault.Kind() == KindNet {
			net = append(net, s)
		}
	}
	if len(alone) != len(net) || len(all) < 2*len(net) {
		t.Fatalf("%d steps alone, %d of %d with others", len(alone), len(net), len(all))
	}
	for i := range net {
		if net[i].At != alone[i].At || net[i].Fault.String() != alone[i].Fault.String() {
			t.Errorf("step %d: %s and %s", i, alone[i].Fault, net[i].Fault)
		}
	}
}

// TestRhythm: an interval of ten seconds, half of it on, on average.
func TestRhythm(t *testing.T) {
	var faults, on int
	const length = 1000 * time.Minute
	steps, err := Schedule(ScheduleConfig{Seed: 1, Nodes: nodesOf(3), Templates: []Template{{Text: "proc pause one"}}, Length: length})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range steps {
		faults++
		on += int(s.Fault.For())
	}
	if n := float64(length/(10*time.Second)) / float64(faults); math.Abs(n-1) > 0.03 {
		t.Errorf("%d faults in %v", faults, length)
	}
	if mean := time.Duration(on / faults); (mean - 5*time.Second).Abs() > 100*time.Millisecond {
		t.Errorf("they last %v on average", mean)
	}
}

func TestDefaultTemplates(t *testing.T) {
	for _, kind := range Kinds() {
		templates := DefaultTemplates(kind)
		if len(templates) < 3 {
			t.Errorf("%s has %d templates", kind, len(templates))
		}
		for _, template := range templates {
			for i := range uint64(200) {
				f, err := template.fill(newDraw(i, template.Text))
				if err != nil {
					t.Fatal(err)
				}
				if _, err := Expand(f, nodesOf(5), []string{"c1"}, i); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	if DefaultTemplates("nothing") != nil {
		t.Error("templates of no kind")
	}
}

func TestAllTemplatesAreUsed(t *testing.T) {
	for _, kind := range Kinds() {
		steps, err := Schedule(ScheduleConfig{Seed: 3, Nodes: nodesOf(5), Kinds: []string{kind}, Length: 2 * time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		seen := make(map[string]int)
		for _, s := range steps {
			w := strings.Fields(s.Fault.String())
			seen[w[0]+" "+w[1]]++
		}
		for _, template := range DefaultTemplates(kind) {
			w := strings.Fields(template.Text)
			if seen[w[0]+" "+w[1]] == 0 {
				t.Errorf("%s never comes: %v", template.Text, seen)
			}
		}
	}
}

func TestBlanks(t *testing.T) {
	var low, high, below int
	const draws = 2000
	for i := range uint64(draws) {
		f, err := Template{Text: "clock jump {n1,n2} {+,-}{10ms..1000ms}"}.fill(newDraw(i, "blanks"))
		if err != nil {
			t.Fatal(err)
		}
		jump := f.spec.(clockSpec).jump.Abs()
		if jump < 10*time.Millisecond || jump > time.Second {
			t.Fatalf("%s", f)
		}
		if jump < 100*time.Millisecond {
			below++
		}
		if f.spec.(clockSpec).jump > 0 {
			high++
		} else {
			low++
		}
	}
	if math.Abs(float64(below)/draws-0.5) > 0.05 || math.Abs(float64(low)/draws-0.5) > 0.05 {
		t.Errorf("%d of %d are below the middle in logarithms, %d negative", below, draws, low)
	}
	for _, text := range []string{
		"net loss n1 {1%..30%}", "net rate n1 {64kbit..8mbit}", "disk full n1 {64KB..16MB}", "disk flip n1 x {1..50}", "proc kill n1",
	} {
		for i := range uint64(100) {
			if _, err := (Template{Text: text}).fill(newDraw(i, text)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func TestSchedulesThatCannotBe(t *testing.T) {
	base := func() ScheduleConfig { return ScheduleConfig{Nodes: nodesOf(3), Length: time.Minute} }
	for want, change := range map[string]func(*ScheduleConfig){
		"For has to be below":         func(c *ScheduleConfig) { c.For = 10 * time.Second },
		`kind "nett"`:                 func(c *ScheduleConfig) { c.Kinds = []string{"nett"} },
		`kind "net": there are`:       func(c *ScheduleConfig) { c.Kinds = []string{"net", "net"} },
		"column 6":                    func(c *ScheduleConfig) { c.Templates = []Template{{Text: "proc kil n1"}} },
		"a { without its }":           func(c *ScheduleConfig) { c.Templates = []Template{{Text: "proc kill {n1"}} },
		"not two durations in order":  func(c *ScheduleConfig) { c.Templates = []Template{{Text: "net delay n1 {5ms..1ms}"}} },
		"a range is between":          func(c *ScheduleConfig) { c.Templates = []Template{{Text: "net delay n1 {a..b}"}} },
		"not two values in order":     func(c *ScheduleConfig) { c.Templates = []Template{{Text: "net loss n1 {5%..1%}"}} },
		"weight -1":                   func(c *ScheduleConfig) { c.Templates = []Template{{Text: "proc kill n1", Weight: -1}} },
		`no host "n9"`:                func(c *ScheduleConfig) { c.Templates = []Template{{Text: "proc kill one"}, {Text: "proc kill n9"}} },
		"clients have no hosts of th": func(c *ScheduleConfig) { c.Templates = []Template{{Text: "proc kill clients"}} },
	} {
		cfg := base()
		change(&cfg)
		if steps, err := Schedule(cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, %v", want, steps, err)
		}
	}
}

// TestTooFewHostsForSomeTemplates: the set's other faults are drawn.
func TestTooFewHostsForSomeTemplates(t *testing.T) {
	steps, err := Schedule(ScheduleConfig{Nodes: nodesOf(1), Kinds: []string{"proc"}, Length: 5 * time.Minute})
	if err != nil || len(steps) < 20 {
		t.Errorf("%d steps, %v", len(steps), err)
	}
}
