//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/internal/cli"
	"holdfast.dev/lab"
	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
	"holdfast.dev/lab/host"
	"holdfast.dev/lab/report"
	"holdfast.dev/lab/workload"
)

type labReplayCmd struct {
	storeFlag

	Run_   string `arg:"" name:"run" help:"Directory of the run, or the shrunk.json that shrink wrote."`
	Repeat int    `default:"1" placeholder:"N" help:"Replay N times. The exit code is the worst."`
	Quiet  bool   `short:"q" help:"Say only the verdict."`
}

func (labReplayCmd) Examples() string {
	return `
holdfast lab replay lab-runs/redis-sentinel-partition/latest
holdfast lab replay lab-runs/redis-sentinel-mixed/20261030T101500/shrunk.json --repeat 5`
}

func (c *labReplayCmd) Run(a *app, ctx *runContext) error {
	dir := a.env.Path(c.Run_)
	plan, err := readPlan(dir)
	if err != nil {
		return err
	}
	if c.Repeat < 1 {
		return cli.Usage("--repeat %d: want at least 1", c.Repeat)
	}
	given := c.Run_
	if to, err := os.Readlink(dir); err == nil && !filepath.IsAbs(to) { // latest will be another one
		given = filepath.Join(filepath.Dir(filepath.Clean(given)), to)
	}
	sctx, stop := a.interruptible(ctx)
	defer stop()
	worst := check.Valid
	for range c.Repeat {
		if sctx.Err() != nil {
			break
		}
		d, err := a.labRun(sctx, plan, c.Store, a.command("lab", "replay", given), c.Quiet)
		if err != nil {
			return err
		}
		worst = worse(worst, d.Verdict)
	}
	a.interrupted.Store(false) // what was found counts
	return verdictError(worst)
}

func readPlan(dir string) (*lab.Plan, error) {
	file := dir // what shrink wrote
	if st, err := os.Stat(dir); err != nil || st.IsDir() {
		file = filepath.Join(dir, "plan.json")
	}
	plan, err := lab.ReadPlan(file)
	if err != nil {
		return nil, cli.WithHint(cli.WithCode(err, cli.ExitUsage), "give the directory of a run: holdfast lab ls --runs shows them")
	}
	return plan, nil
}

type labShrinkCmd struct {
	storeFlag

	Run_   string `arg:"" name:"run" help:"Directory of an invalid run."`
	Trials int    `default:"2" placeholder:"N" help:"How often a smaller plan may fail to fail before it is given up."`
}

func (labShrinkCmd) Examples() string {
	return `
holdfast lab shrink lab-runs/redis-sentinel-mixed/latest --trials 3`
}

// Help is the long text of the command.
func (labShrinkCmd) Help() string {
	return `Runs smaller and smaller plans until taking away any step makes the run valid. What is left is written to shrunk.json in the directory of the run, with how often it fails.`
}

// shrunkJSON is the outcome of shrinking.
type shrunkJSON struct {
	Plan       string   `json:"plan"`
	Steps      []string `json:"steps"`
	Before     int      `json:"before"`
	Runs       int      `json:"runs"`
	Trials     int      `json:"trials"`
	Reproduced int      `json:"reproduced"`
}

func (c *labShrinkCmd) Run(a *app, ctx *runContext) error {
	if c.Trials < 1 {
		return cli.Usage("--trials %d: want at least 1", c.Trials)
	}
	dir := a.env.Path(c.Run_)
	if to, err := filepath.EvalSymlinks(dir); err == nil { // latest will be another one
		dir = to
	}
	plan, err := readPlan(dir)
	if err != nil {
		return err
	}
	sctx, stop := a.interruptible(ctx)
	defer stop()
	began := time.Now()
	say := func(line string) { a.note("%7.1fs  %s", time.Since(began).Seconds(), line) }
	shrunk, err := lab.Shrink(sctx, plan, c.Trials, func(ctx context.Context, p *lab.Plan) (check.Verdict, error) {
		_, d, err := a.labSupervise(ctx, p, c.Store, a.command("lab", "shrink", c.Run_), true)
		if err != nil {
			return check.Unknown, err
		}
		say(fmt.Sprintf("%d steps: %s: %s", len(p.Steps), d.Verdict, d.Reason))
		return d.Verdict, nil
	}, say)
	if errors.Is(err, lab.ErrNotReproduced) {
		return cli.WithHint(cli.WithCode(err, cli.ExitUnknown), "a rare failure needs more --trials")
	}
	if err != nil {
		return err
	}
	file := filepath.Join(dir, "shrunk.json")
	if err := shrunk.Plan.Write(file); err != nil {
		return err
	}
	out := shrunkJSON{Plan: file, Before: shrunk.Steps, Runs: shrunk.Runs, Trials: shrunk.Trials, Reproduced: shrunk.Reproduced}
	for _, st := range shrunk.Plan.Steps {
		out.Steps = append(out.Steps, st.Text())
	}
	return a.printer().Object(out, func(t *cli.Text) {
		t.Printf("%d of %d steps are left; the plan fails in %d of %d runs:\n", len(out.Steps), out.Before, out.Reproduced, out.Trials)
		for _, st := range out.Steps {
			t.Printf("  %s\n", st)
		}
		t.Printf("again: %s\n", a.command("lab", "replay", file))
	})
}

type labCheckCmd struct {
	History string   `arg:"" help:"A file of JSON lines or EDN, or - for standard input."`
	Checker []string `placeholder:"NAME" help:"Which checkers; default: those that fit the operations. Known: ${checkers}."`
	Tuples  bool     `help:"Values are [key value] pairs of independent objects, as Jepsen writes them."`
}

func (labCheckCmd) Examples() string {
	return `
holdfast lab check history.jsonl
holdfast lab check --checker register --tuples history.edn`
}

func (c *labCheckCmd) Run(a *app, ctx *runContext) error {
	in := a.env.Stdin
	if c.History != "-" {
		f, err := os.Open(a.env.Path(c.History))
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }() // only read
		in = f
	}
	h, err := history.Options{Tuples: c.Tuples, Note: func(text string) { a.note("%s: %s", c.History, text) }}.ReadAny(in)
	if err != nil {
		return cli.WithCode(fmt.Errorf("%s: %w", c.History, err), cli.ExitUsage)
	}
	clients := h[:0:0]
	for _, op := range h {
		if op.Process != history.Nemesis {
			clients = append(clients, op)
		}
	}
	names := c.Checker
	if len(names) == 0 {
		names = check.Guess(clients)
	}
	if len(names) == 0 {
		return cli.WithHint(cli.Usage("no checker fits the operations of %s", c.History), "name one: --checker %s", strings.Join(check.Names(), "|"))
	}
	cctx, stop := a.interruptible(ctx)
	defer stop()
	var results []check.Result
	for _, name := range names {
		f, ok := check.ByName(name)
		if !ok {
			return cli.Usage("there is no checker %s; there are %s", name, strings.Join(check.Names(), ", "))
		}
		results = append(results, f(cctx, clients))
	}
	if err := a.printer().Object(results, func(t *cli.Text) {
		for _, r := range results {
			t.Printf("%s: %s: %s\n", r.Checker, r.Verdict, r.Summary)
			for _, line := range r.Witness {
				t.Printf("  %s\n", line)
			}
		}
	}); err != nil {
		return err
	}
	return verdictError(check.Merge(results...))
}

type labLsCmd struct {
	storeFlag

	Runs bool `help:"List the runs in --store instead of the scenarios."`
}

func (labLsCmd) Examples() string {
	return `
holdfast lab ls
holdfast lab ls --runs`
}

// labScenarioJSON is a named scenario in JSON output.
type labScenarioJSON struct {
	Name     string        `json:"name"`
	About    string        `json:"about"`
	Expect   check.Verdict `json:"expect"`
	System   string        `json:"system"`
	Workload string        `json:"workload"`
	Hosts    int           `json:"hosts"`
	Missing  string        `json:"missing,omitempty"`
}

// labRunJSON is a run in a list.
type labRunJSON struct {
	ID       string        `json:"id"`
	Started  time.Time     `json:"started"`
	Verdict  check.Verdict `json:"verdict"`
	State    string        `json:"state"`
	Seed     uint64        `json:"seed"`
	Duration time.Duration `json:"duration"`
	Reason   string        `json:"reason"`
}

func (c *labLsCmd) Run(a *app) error {
	if c.Runs {
		return c.runs(a)
	}
	named, err := lab.Named()
	if err != nil {
		return err
	}
	var rows []labScenarioJSON
	for _, s := range named {
		row := labScenarioJSON{Name: s.Name, About: s.About, Expect: s.Expect, System: s.System.Driver, Workload: s.Workload.Name, Hosts: s.Hosts}
		if err := labNeeds(s.Needs); err != nil {
			row.Missing = err.Error()
		}
		rows = append(rows, row)
	}
	return cli.List(a.printer(), "scenarios", rows, "NAME\tEXPECT\tWHAT", func(r labScenarioJSON) []any {
		return []any{r.Name, r.Expect, r.About}
	})
}

func (c *labLsCmd) runs(a *app) error {
	runs, err := lab.Runs(a.env.Path(c.Store))
	if err != nil {
		return err
	}
	var rows []labRunJSON
	for _, d := range runs {
		rows = append(rows, labRunJSON{ID: d.ID, Started: d.Started, Verdict: d.Verdict, State: d.State, Seed: d.Seed, Duration: d.Duration, Reason: d.Reason})
	}
	return cli.List(a.printer(), "runs", rows, "RUN\tVERDICT\tSEED\tTOOK\tWHY", func(r labRunJSON) []any {
		return []any{r.ID, r.Verdict, r.Seed, r.Duration.Round(100 * time.Millisecond), r.Reason}
	})
}

type labReportCmd struct {
	Run_ string `arg:"" name:"run" help:"Directory of the run."`
}

func (labReportCmd) Examples() string {
	return `
holdfast lab report lab-runs/redis-sentinel-partition/latest`
}

func (c *labReportCmd) Run(a *app) error {
	dir := a.env.Path(c.Run_)
	d, err := lab.ReadRun(dir)
	if err != nil {
		return cli.WithCode(err, cli.ExitUsage)
	}
	if err := report.WriteFile(dir); err != nil {
		return err
	}
	return a.labVerdict(dir, d)
}

type labDriversCmd struct{}

// labDriversJSON is what lab drivers prints in JSON.
type labDriversJSON struct {
	Drivers   map[string][]string `json:"drivers"` // options by driver
	Workloads map[string]string   `json:"workloads"`
}

func (labDriversCmd) Run(a *app) error {
	out := labDriversJSON{Drivers: map[string][]string{}, Workloads: map[string]string{}}
	for _, name := range lab.Drivers() {
		options, _ := lab.Options(name)
		out.Drivers[name] = options
	}
	for _, name := range workload.Names() {
		out.Workloads[name] = workload.Doc(name)
	}
	return a.printer().Object(out, func(t *cli.Text) {
		for _, name := range lab.Drivers() {
			options := "described in the scenario"
			if out.Drivers[name] != nil {
				options = "options: " + strings.Join(out.Drivers[name], ", ")
			}
			t.Printf("%-10s %s\n", name, options)
		}
		t.Printf("\nworkloads:\n")
		for _, name := range workload.Names() {
			t.Printf("%-12s %s\n", name, out.Workloads[name])
		}
	})
}

type labCleanCmd struct{}

// Help is the long text of the command.
func (labCleanCmd) Help() string {
	return `Everything of a lab lives in namespaces that end with it, however it ends. What can remain is a control group, on kernels where they outlive their processes. Labs that run are left alone.`
}

func (c *labCleanCmd) Run(a *app, ctx *runContext) error {
	cctx, stop := a.timed(ctx)
	defer stop()
	removed, err := host.Clean(cctx)
	if err != nil {
		return err
	}
	return a.printer().Object(struct {
		Removed []string `json:"removed"`
	}{append([]string{}, removed...)}, func(t *cli.Text) {
		if len(removed) == 0 {
			t.Printf("nothing was left behind\n")
		}
		for _, r := range removed {
			t.Printf("removed %s\n", r)
		}
	})
}

type labSchemaCmd struct{}

func (labSchemaCmd) Examples() string {
	return `
holdfast lab schema > scenario.schema.json`
}

func (labSchemaCmd) Run(a *app) error {
	_, err := a.env.Stdout.Write(lab.Schema())
	return err
}
