//go:build linux

package lab

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/lab/nemesis"
)

// Plan is a scenario with every choice made: what a run is, and what a replay
// repeats. It is the file plan.json of a run.
type Plan struct {
	Version  int      `json:"version"` // 1
	Scenario Scenario `json:"scenario"`
	Seed     uint64   `json:"seed"`
	// Steps are the scenario's, and those of its random faults, with everything
	// in them that was left to chance replaced by names. What only the running
	// system knows ("primary") stays.
	Steps []PlannedStep `json:"steps"`
	// Core is the majority that is healed first where liveness is "core", and
	// Rest says how the others stay broken meanwhile.
	Core []string       `json:"core,omitempty"`
	Rest *nemesis.Fault `json:"rest,omitempty"`
	// From is the file that the scenario came from; programs beside it are found
	// by it. For a named scenario it is of no use.
	From string `json:"from"`
}

// PlannedStep is a step with its number, which the journal carries.
type PlannedStep struct {
	ID int `json:"id"`
	Step
	Fault *nemesis.Fault `json:"fault,omitempty"` // Do, expanded
	// Apart steps come from random faults: each happens at its time, whatever
	// became of the one before.
	Apart bool `json:"apart,omitempty"`
}

const planVersion = 1

// NewPlan makes every choice of a scenario from the seed.
func NewPlan(s Scenario, seed uint64) (*Plan, error) {
	p := &Plan{Version: planVersion, Scenario: s, Seed: seed}
	add := func(st PlannedStep) {
		st.ID = len(p.Steps) + 1
		p.Steps = append(p.Steps, st)
	}
	nodes, clients := s.Nodes(), s.ClientHosts()
	for i, st := range s.Steps {
		planned := PlannedStep{Step: st}
		if st.Do != "" {
			f, err := nemesis.Parse(st.Do)
			if err == nil {
				f, err = nemesis.Expand(f, nodes, clients, number(seed, "step", i))
			}
			if err != nil {
				return nil, fmt.Errorf("steps[%d].do: %w", i, err)
			}
			planned.Fault = &f
		}
		add(planned)
	}
	if f := s.Faults; f != nil {
		cfg := nemesis.ScheduleConfig{
			Seed: number(seed, "schedule", 0), Nodes: nodes, Clients: clients,
			Kinds: f.Kinds, Length: s.Phases.Faults, Interval: f.Every, For: f.For,
		}
		if f.Affected == "minority" {
			cfg.MaxAffected = max(1, (len(nodes)-1)/2)
		}
		for _, text := range f.Do {
			cfg.Templates = append(cfg.Templates, nemesis.Template{Text: text})
		}
		steps, err := nemesis.Schedule(cfg)
		if err != nil {
			return nil, fmt.Errorf("faults: %w", err)
		}
		for _, st := range steps {
			fault, err := nemesis.Expand(st.Fault, nodes, clients, number(seed, "random", len(p.Steps)))
			if err != nil {
				return nil, fmt.Errorf("faults: %s: %w", st.Fault, err)
			}
			add(PlannedStep{Step: Step{At: st.At, Do: st.Fault.String()}, Fault: &fault, Apart: true})
		}
	}
	if s.Phases.Liveness == "core" && len(nodes) > 2 {
		r := random(seed, "core", 0)
		shuffled := slices.Clone(nodes)
		r.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
		core := shuffled[:len(nodes)/2+1]
		rest := shuffled[len(core):]
		slices.Sort(core)
		p.Core = core
		text := fmt.Sprintf("net cut %s|%s", strings.Join(core, ","), strings.Join(rest, ","))
		if r.IntN(2) == 0 {
			text = "proc kill " + strings.Join(rest, ",")
		}
		f, err := nemesis.Parse(text)
		if err != nil {
			return nil, fmt.Errorf("liveness: %w", err)
		}
		p.Rest = &f
	}
	return p, p.check()
}

// check says what cannot work before anything is started.
func (p *Plan) check() error {
	var errs []error
	for _, st := range p.Steps {
		if st.Fault == nil {
			continue
		}
		if k := st.Fault.Kind(); p.Scenario.Disk.Off && (k == nemesis.KindDisk || k == nemesis.KindHost) {
			errs = append(errs, fmt.Errorf("step %d: %s: needs the fault filesystem, and disk.off is set", st.ID, st.Fault))
		}
	}
	return errors.Join(errs...)
}

// clocks says whether a fault of the plan moves clocks.
func (p *Plan) clocks() bool {
	return p.Scenario.Clock || slices.ContainsFunc(p.Steps, func(st PlannedStep) bool {
		return st.Fault != nil && st.Fault.Kind() == nemesis.KindClock
	})
}

// asked says whether a worker talks to one of the nodes.
func (p *Plan) asked(nodes []string) bool {
	all := p.Scenario.Nodes()
	if p.Scenario.Workload.Spread == "primary" {
		return true
	}
	for i := range min(p.Scenario.Workload.Workers, len(all)) {
		if slices.Contains(nodes, all[i]) {
			return true
		}
	}
	return false
}

// last is the time at which the last step with a fixed time is over.
func (p *Plan) last() time.Duration {
	var last time.Duration
	for _, st := range p.Steps {
		if st.Fault != nil {
			last = max(last, st.At+st.Fault.For())
		}
	}
	return last
}

// ReadPlan reads plan.json.
func ReadPlan(file string) (*Plan, error) {
	src, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var p Plan
	d := json.NewDecoder(bytes.NewReader(src))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if p.Version != planVersion {
		return nil, fmt.Errorf("%s: version %d; this binary reads version %d", file, p.Version, planVersion)
	}
	return &p, p.Scenario.validate()
}

// Write writes plan.json.
func (p *Plan) Write(file string) error { return writeJSON(file, p) }

func writeJSON(file string, v any) error {
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	// Readers of a run that goes on never see half a file.
	temp := file + ".new"
	if err := os.WriteFile(temp, append(out, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temp, file)
}

// number is the choice of event n of a stream: the same whatever else happens in
// the run, and in whichever order (the idea is Namazu's).
func number(seed uint64, stream string, n int) uint64 {
	return binary.LittleEndian.Uint64(digest(seed, stream, n))
}

// random is a source for several choices of one event.
func random(seed uint64, stream string, n int) *rand.Rand {
	d := digest(seed, stream, n)
	return rand.New(rand.NewPCG(binary.LittleEndian.Uint64(d), binary.LittleEndian.Uint64(d[8:])))
}

func digest(seed uint64, stream string, n int) []byte {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], seed)
	binary.LittleEndian.PutUint64(b[8:], uint64(n))
	sum := sha256.Sum256(append(b[:], stream...))
	return sum[:16]
}

// wait is a condition that a step waits for.
type wait struct {
	what string // leader, new leader, no leader, ready, ok
	n    int
}

func parseWait(text string) (wait, error) {
	switch text {
	case "leader", "new leader", "no leader", "ready":
		return wait{what: text}, nil
	}
	if count, ok := strings.CutSuffix(text, " ok"); ok {
		if n, err := strconv.Atoi(count); err == nil && n > 0 {
			return wait{what: "ok", n: n}, nil
		}
	}
	return wait{}, fmt.Errorf("wait: %q: leader, new leader, no leader, ready, or a number of operations such as 100 ok", text)
}

// validateFaults parses what the scenario does, so that mistakes are told before
// anything starts.
func (s *Scenario) validateFaults() error {
	var errs []error
	parse := func(where, text string) {
		if _, err := nemesis.Parse(text); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", where, err))
		}
	}
	for i, st := range s.Steps {
		if st.Do != "" {
			parse(fmt.Sprintf("steps[%d].do", i), st.Do)
		}
		if st.Heal != "" && st.Heal != "all" {
			parse(fmt.Sprintf("steps[%d].heal", i), st.Heal)
		}
	}
	for i, text := range s.Network {
		parse(fmt.Sprintf("network[%d]", i), text)
	}
	return errors.Join(errs...)
}
