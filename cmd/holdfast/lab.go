//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/internal/cli"
	"holdfast.dev/lab"
	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
	"holdfast.dev/lab/host"
	"holdfast.dev/lab/report"
)

type labCmd struct {
	Run     labRunCmd     `cmd:"" help:"Run a scenario. Exit 0: valid, 1: invalid, 2: unknown."`
	Replay  labReplayCmd  `cmd:"" help:"Repeat a run: the same plan, the same faults."`
	Battery labBatteryCmd `cmd:"" help:"Run many scenarios and compare their verdicts with what they expect."`
	Shrink  labShrinkCmd  `cmd:"" help:"Find the few faults of an invalid run that matter."`
	Check   labCheckCmd   `cmd:"" help:"Check a history, from here or elsewhere. Exit as run."`
	Ls      labLsCmd      `cmd:"" help:"List the named scenarios, or the runs."`
	Report  labReportCmd  `cmd:"" help:"Write a run's report again, and say where it is."`
	Serve   labServeCmd   `cmd:"" help:"Show runs as pages, live while one runs."`
	Clean   labCleanCmd   `cmd:"" help:"End and remove what dead labs left behind."`
	Drivers labDriversCmd `cmd:"" help:"List the systems that the lab can start, their options, and the workloads."`
	Schema  labSchemaCmd  `cmd:"" help:"Write the JSON Schema of scenarios."`
}

// store is the flag of all commands that need the directory of runs.
type storeFlag struct {
	Store string `default:"lab-runs" from:"env" placeholder:"DIR" help:"Directory of the runs."`
}

type labRunCmd struct {
	storeFlag

	Scenario string   `arg:"" help:"A named scenario, or a YAML file."`
	Seed     *uint64  `help:"What chance is made of. Default: from the clock."`
	Set      []string `placeholder:"FIELD=VALUE" sep:"none" help:"Change a field of the scenario, such as workload.rate=50. May be given again."`
	Repeat   int      `default:"1" placeholder:"N" help:"Run N times, with rising seeds. The exit code is the worst."`
	Quiet    bool     `short:"q" help:"Say only the verdict."`
	DryRun   bool     `help:"Print the steps of the plan and run nothing."`
}

func (labRunCmd) Examples() string {
	return `
holdfast lab run redis-sentinel-partition
holdfast lab run etcd-register-mixed --seed 7 --set phases.faults=60s
holdfast lab run ./my-service.yaml --repeat 5`
}

// Help is the long text of the command.
func (labRunCmd) Help() string {
	return `Needs root, or read and write access to /dev/net/tun and /dev/fuse. Ctrl-C heals what is broken, checks what there is, and reports; a second Ctrl-C ends at once. A run leaves its plan, history, logs and report.html in a directory below --store.`
}

func (c *labRunCmd) Run(a *app, ctx *runContext) error {
	if c.Repeat < 1 {
		return cli.Usage("--repeat %d: want at least 1", c.Repeat)
	}
	s, err := lab.Load(scenarioPath(a, c.Scenario))
	if err != nil {
		err = cli.WithCode(err, cli.ExitUsage)
		if errors.Is(err, fs.ErrNotExist) || !isFile(c.Scenario) { // a file with faults needs no such hint
			err = cli.WithHint(err, "holdfast lab ls shows the named scenarios; a file needs its path, such as ./mine.yaml")
		}
		return err
	}
	for _, kv := range c.Set {
		field, value, ok := strings.Cut(kv, "=")
		if !ok {
			return cli.Usage("--set %s: want FIELD=VALUE", kv)
		}
		if err := s.Set(field, value); err != nil {
			return cli.WithCode(err, cli.ExitUsage)
		}
	}
	seed := uint64(time.Now().UnixNano()) % 1_000_000 // short enough to type
	if c.Seed != nil {
		seed = *c.Seed
	}
	sctx, stop := a.interruptible(ctx)
	defer stop()
	worst := check.Valid
	for i := range uint64(c.Repeat) {
		if sctx.Err() != nil {
			break // and not only the run that it came in
		}
		plan, err := lab.NewPlan(*s, seed+i)
		if err != nil {
			return cli.WithCode(err, cli.ExitUsage)
		}
		if plan.From, err = filepath.Abs(scenarioPath(a, c.Scenario)); err != nil {
			return err
		}
		if c.DryRun {
			if err := a.labSteps(plan); err != nil {
				return err
			}
			continue
		}
		args := []string{"lab", "run", c.Scenario, "--seed", strconv.FormatUint(plan.Seed, 10)}
		for _, kv := range c.Set {
			args = append(args, "--set", kv)
		}
		d, err := a.labRun(sctx, plan, c.Store, a.command(args...), c.Quiet)
		if err != nil {
			return err
		}
		worst = worse(worst, d.Verdict)
	}
	a.interrupted.Store(false) // what was found counts
	return verdictError(worst)
}

// labSteps prints what a plan would do.
func (a *app) labSteps(p *lab.Plan) error {
	return a.printer().Object(p, func(t *cli.Text) {
		t.Printf("%s, seed %d: %s on %d hosts, workload %s\n", p.Scenario.Name, p.Seed, p.Scenario.System.Driver, p.Scenario.Hosts, p.Scenario.Workload.Name)
		for _, st := range p.Steps {
			t.Printf("  %s\n", st.Text())
		}
		if p.Rest != nil {
			t.Printf("  liveness: %s healed, the rest: %s\n", strings.Join(p.Core, ","), p.Rest)
		}
	})
}

// scenarioPath is the file relative to the directory of the command; names of
// scenarios stay.
func scenarioPath(a *app, name string) string {
	if isFile(name) {
		return a.env.Path(name)
	}
	return name
}

// isFile tells files from the names of scenarios.
func isFile(name string) bool {
	return strings.ContainsRune(name, '/') || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml")
}

// command is how a user types it.
func (a *app) command(args ...string) string {
	for i, arg := range args {
		if strings.ContainsAny(arg, " '\"$&|<>*") {
			args[i] = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
	}
	return "holdfast " + strings.Join(args, " ")
}

func worse(a, b check.Verdict) check.Verdict {
	rank := map[check.Verdict]int{check.Valid: 0, check.Unknown: 1, check.Invalid: 2}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

func verdictError(v check.Verdict) error {
	switch v {
	case check.Valid:
		return nil
	case check.Invalid:
		return cli.Silent(cli.ExitNo)
	case check.Unknown:
	}
	return cli.Silent(cli.ExitUnknown)
}

// labRun makes one run in namespaces of its own and prints what came of it.
func (a *app) labRun(ctx context.Context, plan *lab.Plan, store, command string, quiet bool) (*report.Data, error) {
	dir, d, err := a.labSupervise(ctx, plan, store, command, quiet)
	if err != nil {
		return nil, err
	}
	return d, a.labVerdict(dir, d)
}

// labStage is what the process in the namespaces is told.
type labStage struct {
	Dir     string `json:"dir"`
	Command string `json:"command"`
	Pinned  bool   `json:"pinned"` // a terminal is there
	Quiet   bool   `json:"quiet"`
}

// labSupervise makes one run: plan, directory, namespaces.
func (a *app) labSupervise(ctx context.Context, plan *lab.Plan, store, command string, quiet bool) (string, *report.Data, error) {
	if err := host.Able(); err != nil {
		return "", nil, cli.WithCode(err, cli.ExitInternal)
	}
	if err := labNeeds(plan.Scenario.Needs); err != nil {
		return "", nil, cli.WithCode(err, cli.ExitUsage)
	}
	dir, err := lab.NewRunDir(a.env.Path(store), plan.Scenario.Name, time.Now())
	if err != nil {
		return "", nil, err
	}
	if err := plan.Write(filepath.Join(dir, "plan.json")); err != nil {
		return "", nil, err
	}
	if !quiet {
		about := ""
		if plan.Scenario.About != "" {
			about = ": " + plan.Scenario.About
		}
		a.note("%s, seed %d%s\n%s", plan.Scenario.Name, plan.Seed, about, dir)
	}
	told, err := json.Marshal(labStage{Dir: dir, Command: command, Pinned: a.env.Terminal(a.env.Stderr), Quiet: quiet})
	if err != nil {
		return "", nil, err
	}
	code, err := host.Supervise(ctx, host.Supervision{
		Stage: "lab-run", Args: []string{string(told)}, Env: a.env.Environ, Stdout: a.env.Stdout, Stderr: a.env.Stderr,
		Grace: 15 * time.Minute, // to heal, check and report; who is impatient interrupts twice
	})
	if err != nil {
		return dir, nil, cli.WithCode(err, cli.ExitInternal)
	}
	d, err := lab.ReadRun(dir)
	switch {
	case err != nil:
		return dir, nil, cli.WithCode(fmt.Errorf("the lab ended with exit code %d: %w", code, err), cli.ExitInternal)
	case code == cli.ExitInterrupted && d.State == "done":
		return dir, nil, cli.WithCode(errors.New(d.Reason), cli.ExitInterrupted)
	case code == cli.ExitInternal && d.State != "done": // it said why
		return dir, nil, cli.WithCode(errors.New("the lab could not write down what came of the run"), cli.ExitInternal)
	case code == cli.ExitInternal:
		return dir, nil, cli.WithHint(cli.WithCode(errors.New(d.Reason), cli.ExitUnknown), "what there is of the run, with all logs: %s", dir)
	case d.State != "done":
		return dir, nil, cli.WithCode(fmt.Errorf("the lab was ended (exit code %d) before it could report", code), cli.ExitUnknown)
	}
	return dir, d, nil
}

// labNeeds says which programs are missing, and where to get them.
func labNeeds(needs []lab.Need) error {
	var missing []string
	for _, n := range needs {
		if _, err := exec.LookPath(n.Program); err == nil {
			continue
		}
		if found, _ := filepath.Glob(n.Program); len(found) > 0 {
			continue
		}
		text := n.Program + " is missing"
		if n.Package != "" {
			text += " (Debian: apt-get install " + n.Package + ")"
		}
		missing = append(missing, text)
	}
	if len(missing) > 0 {
		return errors.New(strings.Join(missing, "\n"))
	}
	return nil
}

// labInside is the stage "lab-run": the run itself, in its namespaces.
func labInside(env cli.Env) func(args []string) int {
	return func(args []string) int {
		var told labStage
		if len(args) != 1 || json.Unmarshal([]byte(args[0]), &told) != nil {
			return cli.Report(env.Stderr, cli.Usage("lab-run is not for people: use holdfast lab run"))
		}
		plan, err := lab.ReadPlan(filepath.Join(told.Dir, "plan.json"))
		if err != nil {
			return cli.Report(env.Stderr, err)
		}
		a := &app{env: env, globals: &globals{}}
		ctx, stop := a.interruptible(context.Background())
		defer stop()
		impatient, stopImpatient := a.env.Signals(os.Interrupt)
		defer stopImpatient()
		go func() { // ends with the process
			for range 2 {
				<-impatient
			}
			env.Exit(cli.ExitInterrupted) // the namespaces end with it
		}()
		show := newLabDisplay(env.Stderr, told.Pinned, told.Quiet)
		_, err = lab.Execute(ctx, plan, told.Dir, told.Command, show.update)
		show.end()
		switch {
		case err != nil && ctx.Err() != nil: // before there was anything to judge
			return cli.ExitInterrupted
		case err != nil:
			if d, unread := lab.ReadRun(told.Dir); unread != nil || d.State != "done" { // else the reason is in run.json
				cli.Report(env.Stderr, err)
			}
			return cli.ExitInternal
		}
		return cli.ExitOK
	}
}

// labNever says why functions never succeeded, by their most frequent error:
// most often the scenario or the client is wrong, not the system.
func labNever(file string) []string {
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }() // only read
	h, err := history.Options{}.ReadAny(f)
	if err != nil {
		return nil
	}
	ok, errs := map[string]bool{}, map[string]map[string]int{}
	for _, op := range h {
		switch {
		case op.Process == history.Nemesis || op.Type == history.Invoke:
		case op.Type == history.OK:
			ok[op.F] = true
		default:
			if errs[op.F] == nil {
				errs[op.F] = map[string]int{}
			}
			errs[op.F][op.Error]++
		}
	}
	var lines []string
	for _, fn := range slices.Sorted(maps.Keys(errs)) {
		if ok[fn] {
			continue
		}
		var most string
		for text, n := range errs[fn] {
			if best := errs[fn][most]; n > best || n == best && text < most {
				most = text
			}
		}
		text := strings.Join(strings.Fields(most), " ")
		lines = append(lines, fmt.Sprintf("%s never succeeded: %s (%d times)", fn, short(text, 200), errs[fn][most]))
	}
	return lines
}

// labVerdict prints what came of a run.
func (a *app) labVerdict(dir string, d *report.Data) error {
	return a.printer().Object(d, func(t *cli.Text) {
		t.Printf("%s: %s\n", d.Verdict, d.Reason)
		for _, r := range d.Results {
			if r.Verdict == check.Valid && d.Verdict == check.Valid {
				continue
			}
			t.Printf("  %s: %s: %s\n", r.Checker, r.Verdict, r.Summary)
			for _, line := range r.Witness {
				t.Printf("    %s\n", line)
			}
		}
		for _, doubt := range d.Doubts {
			t.Printf("  doubt: %s\n", doubt)
		}
		for _, line := range labNever(filepath.Join(dir, "history.jsonl")) {
			t.Printf("  %s\n", line)
		}
		for _, f := range d.Findings {
			t.Printf("  finding: %s: %s\n", f.Host, f.Text)
		}
		if d.Expect != "" && d.Expect != d.Verdict {
			t.Printf("  the scenario expects %s\n", d.Expect)
		}
		t.Printf("  %d operations succeeded, %d failed, %d unknown; %d faults in %s\n", d.Ops.OK, d.Ops.Fail, d.Ops.Unknown, len(d.Faults), d.Duration.Round(100*time.Millisecond))
		t.Printf("  again: %s\n  report: %s\n", d.Command, filepath.Join(dir, "report.html"))
	})
}
