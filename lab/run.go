//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
	"holdfast.dev/lab/nemesis"
	"holdfast.dev/lab/report"
	"holdfast.dev/lab/workload"
)

// Progress is what a run looks like at one moment.
type Progress struct {
	Phase   string
	Elapsed time.Duration
	Length  time.Duration // of the phase; 0 where nobody knows
	Ops     report.Ops
	Rates   report.Ops // of the last second
	Hosts   []HostState
	Faults  []string // active ones
	Line    string   // a thing that just happened; "" for the regular update
}

// HostState is how one host is.
type HostState struct {
	Name    string
	State   string // up, down, off, paused
	Primary bool
}

// runner is one run, from the first namespace to the report.
type runner struct {
	plan     *Plan
	dir      string
	progress func(Progress)
	begin    time.Time

	world    *world
	workload workload.Instance
	history  *history.Writer
	workers  *workers
	nemesis  *nemesis.Nemesis
	// What the workload's locks protect; nil for other workloads.
	protected *workload.Resource

	// What is above is complete, and the system is set up: others may look.
	built atomic.Bool

	journalFile *os.File
	mu          sync.Mutex // guards what follows
	data        report.Data
	phase       string
	phaseFrom   time.Duration
	phaseLength time.Duration
	leaders     []string     // before the last fault
	scripted    map[int]bool // injections that are steps of the scenario
	ambient     map[int]bool // injections of what holds during the whole run
	failures    []string     // of the lab itself
	rest        int          // the injection that keeps the rest broken while the core works
}

// Execute runs a plan in the process' own namespaces, which Supervise made, and
// leaves everything about it in dir. When ctx ends it heals what is broken,
// checks what there is, and reports. progress is called from several goroutines,
// one at a time. An error means that the run could not be made; a verdict comes
// with the data.
func Execute(ctx context.Context, plan *Plan, dir string, command string, progress func(Progress)) (*report.Data, error) {
	r := &runner{plan: plan, dir: dir, begin: time.Now(), scripted: map[int]bool{}, ambient: map[int]bool{}}
	var one sync.Mutex
	r.progress = func(p Progress) {
		one.Lock()
		defer one.Unlock()
		progress(p)
	}
	r.data = report.Data{
		Version: 1, ID: filepath.Base(filepath.Dir(dir)) + "/" + filepath.Base(dir), Scenario: plan.Scenario.Name, About: plan.Scenario.About,
		Command: command, Seed: plan.Seed, Started: time.Now(), State: "running", Verdict: check.Unknown, Reason: "it is still running",
		Expect: plan.Scenario.Expect, System: plan.Scenario.System.Driver, Workload: plan.Scenario.Workload.Name,
	}
	// Each port of the switch has a thread that mostly sits in a system call; they
	// must not wait for one another.
	runtime.GOMAXPROCS(max(runtime.GOMAXPROCS(0), runtime.NumCPU()+plan.Scenario.Hosts+plan.Scenario.Clients+1))
	err := r.run(ctx)
	if err != nil {
		// A run that could not be made has a report too: its logs tell why.
		r.conclude(check.Unknown, err.Error())
	}
	return &r.data, errors.Join(err, r.write())
}

func (r *runner) now() time.Duration { return time.Since(r.begin) }

func (r *runner) run(ctx context.Context) (err error) {
	if r.workload, err = workload.New(r.plan.Scenario.Workload.Name, r.workloadConfig()); err != nil {
		return err
	}
	system, err := systems[r.plan.Scenario.System.Driver](&r.plan.Scenario)
	if err != nil {
		return err
	}
	historyFile, err := os.Create(filepath.Join(r.dir, "history.jsonl"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, historyFile.Close()) }()
	r.history = history.NewWriter(historyFile)
	if r.journalFile, err = os.Create(filepath.Join(r.dir, "journal.jsonl")); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.journalFile.Close()) }()
	debug, err := os.Create(filepath.Join(r.dir, "lab.log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, debug.Close()) }()

	// The world outlives ctx: whoever interrupts a run gets it healed, checked and
	// taken down in order.
	worldCtx, endWorld := context.WithCancel(context.WithoutCancel(ctx))
	defer endWorld()
	r.world = &world{
		ctx: worldCtx, plan: r.plan, dir: r.dir, system: system, debug: &lockedWriter{w: debug}, now: r.now,
		finding: r.finding, failure: r.failed, logf: func(format string, args ...any) { r.say(fmt.Sprintf(format, args...)) },
	}
	// All of it is there before anybody looks at it.
	askOurNames()
	r.world.populate()
	r.nemesis = nemesis.New(r.world, nemesis.Config{Seed: number(r.plan.Seed, "nemesis", 0), Now: r.now, Journal: r.journal})
	r.workers = &workers{
		plan: r.plan, workload: r.workload, history: r.history, now: r.now,
		connect: r.connect, nodeOf: r.nodeOf(worldCtx), byNode: map[string]int64{},
	}
	watching, stopWatching := context.WithCancel(worldCtx)
	var watchers sync.WaitGroup
	watchers.Go(func() { r.report(watching) })

	err = r.experiment(ctx)

	stopWatching()
	watchers.Wait()
	r.enter("teardown", 0)
	r.collect(worldCtx)
	var downErr error
	if r.nemesis != nil {
		healing, healed := context.WithTimeout(worldCtx, time.Minute)
		downErr = r.nemesis.Close(healing)
		healed()
	}
	// In a time of its own: what does not heal must not keep hosts running.
	down, cancel := context.WithTimeout(worldCtx, time.Minute)
	defer cancel()
	downErr = errors.Join(downErr, r.world.close(down, endWorld))
	r.collectLogs()
	if downErr != nil {
		r.doubt("taking the lab down: " + downErr.Error())
	}
	if err != nil {
		return errors.Join(err, r.history.Flush())
	}
	if err := r.history.Flush(); err != nil {
		return err
	}
	return r.judge(ctx)
}

func (r *runner) workloadConfig() workload.Config {
	cfg := r.plan.Scenario.Workload.Options
	cfg.Workers, cfg.Nodes = r.plan.Scenario.Workload.Workers, r.plan.Scenario.Nodes()
	return cfg
}

// experiment is the run from setup to the final reads.
func (r *runner) experiment(ctx context.Context) error {
	s := &r.plan.Scenario
	r.enter("setup", 0)
	if err := r.setup(ctx); err != nil {
		return fmt.Errorf("setup: %w", err)
	}
	r.built.Store(true)

	working, stop := context.WithCancel(ctx)
	defer stop()
	var work sync.WaitGroup
	work.Go(func() { r.workers.work(working) })
	defer work.Wait()
	defer stop()

	r.enter("warm-up", s.Phases.Warmup)
	if !r.works(ctx) {
		r.doubt(fmt.Sprintf("no operation succeeded in %s, before anything was broken", firstWithin))
		return nil
	}
	before := r.workers.succeeded(nil)
	sleep(ctx, s.Phases.Warmup)
	if rate := float64(r.workers.succeeded(nil)-before) / s.Phases.Warmup.Seconds(); rate < s.Phases.Floor && ctx.Err() == nil {
		r.doubt(fmt.Sprintf("in the warm-up %.1f operations per second succeeded, and %.1f were wanted: the system did not work before anything was broken", rate, s.Phases.Floor))
	}

	if len(r.plan.Steps) > 0 || s.Phases.Faults > 0 {
		r.enter("faults", max(s.Phases.Faults, r.plan.last()))
		r.steps(ctx)
	}
	if s.Phases.Liveness == "core" && r.plan.Rest != nil && ctx.Err() == nil {
		r.enter("core", s.Phases.Deadline)
		r.core(ctx)
	}
	r.enter("heal", 0)
	r.heal(ctx)
	if s.Phases.Liveness != "none" && ctx.Err() == nil {
		r.enter("liveness", s.Phases.Deadline)
		r.alive(ctx, nil, "everything was healed")
	}
	r.enter("settle", s.Phases.Settle)
	sleep(ctx, s.Phases.Settle)
	stop()
	work.Wait()

	r.enter("final reads", s.Phases.Final)
	nodes, err := finalNodes(ctx, r.world)
	if err != nil || len(nodes) == 0 {
		nodes = r.world.Nodes()
	}
	for _, d := range r.workers.final(ctx, nodes, s.Phases.Final) {
		r.doubt(d)
	}
	if ctx.Err() != nil { // also during the final reads
		r.doubt("the run was interrupted")
	}
	r.enter("", 0)
	return nil
}

// firstWithin is how long the first success may take: clients are programs that
// have to start too.
const firstWithin = 20 * time.Second

// works waits until an operation succeeded, or nobody needs to know any more.
func (r *runner) works(ctx context.Context) bool {
	limit, cancel := context.WithTimeout(ctx, firstWithin)
	defer cancel()
	for r.workers.succeeded(nil) == 0 {
		if !sleep(limit, 20*time.Millisecond) {
			return ctx.Err() != nil // interrupted: that is told elsewhere
		}
	}
	return true
}

// setup builds the world, starts the system and connects the clients.
func (r *runner) setup(ctx context.Context) error {
	if err := r.world.build(ctx); err != nil {
		return err
	}
	if err := r.resource(ctx); err != nil {
		return err
	}
	if err := r.impair(ctx); err != nil {
		return err
	}
	if err := r.world.system.Setup(ctx, r.world); err != nil {
		return err
	}
	return r.first(ctx)
}

// impair injects what holds during the whole run, as far as it is not there:
// when all is healed it goes too.
func (r *runner) impair(ctx context.Context) error {
	there := map[string]bool{}
	for _, a := range r.nemesis.Active() {
		if r.ambient[a.ID()] {
			there[a.Fault().String()] = true
		}
	}
	for _, text := range r.plan.Scenario.Network {
		f, err := nemesis.Parse(text)
		if err != nil {
			return err
		}
		if there[f.String()] {
			continue
		}
		a, err := r.nemesis.Inject(ctx, f)
		if err != nil {
			return fmt.Errorf("network: %s: %w", text, err)
		}
		r.ambient[a.ID()] = true
	}
	return nil
}

// first makes the operations that come before all others.
func (r *runner) first(ctx context.Context) error {
	ops := r.workload.Setup()
	if len(ops) == 0 {
		return nil
	}
	node := r.world.Nodes()[0]
	if p, err := r.world.Primaries(ctx); err == nil && len(p) > 0 {
		node = p[0]
	}
	client, err := r.connect(ctx, -1, node)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }() // it made what it had to
	for _, op := range ops {
		op.Process, op.Node, op.Type = r.plan.Scenario.Workload.Workers+1_000_000, node, history.Invoke
		op = r.workers.record(op)
		calling, cancel := context.WithTimeout(ctx, 30*time.Second)
		done := client.Invoke(calling, op)
		cancel()
		done.Process, done.Node, done.F, done.Key = op.Process, op.Node, op.F, op.Key
		r.workers.record(done)
		if done.Type != history.OK {
			return fmt.Errorf("the first %s ended %s: %s", op.F, done.Type, done.Error)
		}
	}
	return nil
}

// nodeOf is which server a worker talks to.
func (r *runner) nodeOf(ctx context.Context) func(int) string {
	nodes := r.world.Nodes()
	if r.plan.Scenario.Workload.Spread == "primary" {
		return func(i int) string {
			if p, err := r.world.Primaries(ctx); err == nil && len(p) > 0 {
				return p[0]
			}
			return nodes[max(i, 0)%len(nodes)]
		}
	}
	return func(i int) string { return nodes[max(i, 0)%len(nodes)] }
}

// heal ends everything that is broken and starts everything that is down.
func (r *runner) heal(ctx context.Context) {
	// Also after an interruption, and even if it takes a while.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	if err := r.nemesis.HealAll(ctx); err != nil {
		r.doubt("healing: " + err.Error())
	}
	if err := r.impair(ctx); err != nil {
		r.doubt(err.Error())
	}
	r.startAll(ctx, nil)
}

// startAll starts what does not run on the hosts; on all when none is named.
func (r *runner) startAll(ctx context.Context, hosts []string) {
	var all sync.WaitGroup
	for _, m := range r.world.machines {
		if hosts != nil && !slices.Contains(hosts, m.name) {
			continue
		}
		all.Go(func() {
			if err := m.Start(ctx); err != nil && ctx.Err() == nil {
				r.finding(m.name, "does not start again: "+err.Error())
			}
		})
	}
	all.Wait()
}

// core heals a majority only and demands that it works without the rest
// (TigerBeetle's liveness mode).
func (r *runner) core(ctx context.Context) {
	if err := r.nemesis.HealAmong(ctx, r.plan.Core); err != nil {
		r.doubt("healing: " + err.Error())
	}
	if err := r.impair(ctx); err != nil {
		r.doubt(err.Error())
	}
	r.startAll(ctx, r.plan.Core)
	rest, err := r.nemesis.Inject(ctx, *r.plan.Rest)
	if err != nil {
		r.doubt(fmt.Sprintf("liveness: %s: %v", r.plan.Rest, err))
		return
	}
	r.rest = rest.ID()
	// Long enough for the core to notice that it is alone.
	sleep(ctx, 3*time.Second)
	r.alive(ctx, r.plan.Core, fmt.Sprintf("only %s was healed", strings.Join(r.plan.Core, ",")))
	if err := rest.Recover(ctx); err != nil {
		r.doubt(fmt.Sprintf("liveness: %s: %v", r.plan.Rest, err))
	}
}

// alive demands that operations succeed again on the nodes within the deadline;
// on each of them, where the scenario wants it.
func (r *runner) alive(ctx context.Context, nodes []string, after string) {
	const enough = 5
	if nodes != nil && !r.plan.asked(nodes) {
		r.doubt(fmt.Sprintf("liveness: no client talks to %s: more workers are needed", strings.Join(nodes, ",")))
		return
	}
	from := r.now()
	deadline := r.plan.Scenario.Phases.Deadline
	type group struct {
		nodes []string
		where string
		goal  int64
	}
	groups := []group{{nodes, "", r.workers.succeeded(nodes) + enough}}
	if r.plan.Scenario.Phases.Everyone {
		if nodes == nil {
			nodes = r.world.Nodes()
		}
		for _, n := range nodes {
			if one := []string{n}; r.plan.asked(one) {
				groups = append(groups, group{one, " on " + n, r.workers.succeeded(one) + 1})
			}
		}
	}
	for _, g := range groups {
		for r.workers.succeeded(g.nodes) < g.goal {
			if r.now()-from > deadline {
				r.result(check.Result{
					Checker: "liveness", Verdict: check.Invalid,
					Summary: fmt.Sprintf("%s after %s too few operations had succeeded%s", deadline, after, g.where),
				})
				return
			}
			if !sleep(ctx, 20*time.Millisecond) {
				return
			}
		}
	}
	took := (r.now() - from).Round(time.Millisecond)
	r.result(check.Result{
		Checker: "liveness", Verdict: check.Valid,
		Summary: fmt.Sprintf("operations succeeded %s after %s", took, after), Stats: map[string]any{"after_ms": took.Milliseconds()},
	})
}

// enter begins a phase and ends the one before.
func (r *runner) enter(phase string, length time.Duration) {
	now := r.now()
	r.mu.Lock()
	if r.phase != "" {
		r.data.Phases = append(r.data.Phases, report.Phase{Name: r.phase, From: r.phaseFrom, To: now})
	}
	r.phase, r.phaseFrom, r.phaseLength = phase, now, length
	r.mu.Unlock()
	if phase != "" {
		r.say(phase)
	}
}

func (r *runner) doubt(text string) {
	r.mu.Lock()
	r.data.Doubts = append(r.data.Doubts, text)
	r.mu.Unlock()
	r.say("doubt: " + text)
}

func (r *runner) result(res check.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.data.Results = append(r.data.Results, res)
}

func (r *runner) finding(host, text string) {
	r.mu.Lock()
	r.data.Findings = append(r.data.Findings, report.Finding{At: r.now(), Host: host, Text: text})
	r.mu.Unlock()
	r.say(host + ": " + text)
	r.journalLine(map[string]any{"at": r.now(), "finding": text, "host": host})
}

// failed notes that a part of the lab itself broke: what was seen from then on is
// not the system's fault.
func (r *runner) failed(host, text string) {
	r.mu.Lock()
	r.failures = append(r.failures, host+": "+text)
	r.mu.Unlock()
	r.doubt(fmt.Sprintf("the lab itself failed: %s: %s", host, text))
	r.journalLine(map[string]any{"at": r.now(), "failure": text, "host": host})
}

// say tells people at once what happened.
func (r *runner) say(line string) {
	p := r.snapshot()
	p.Line = line
	r.progress(p)
}

// journal writes what the nemesis does, to the journal and as operations of the
// process "nemesis" into the history.
func (r *runner) journal(e nemesis.Event) {
	r.journalLine(e)
	text := e.Resolved
	if text == "" {
		text = e.Fault
	}
	r.workers.record(history.Op{
		Process: history.Nemesis, Type: history.Info, F: string(e.Phase),
		Value: map[string]any{"fault": text, "id": int64(e.ID), "detail": e.Detail},
	})
	switch e.Phase {
	case nemesis.PhaseInject, nemesis.PhaseRecovered, nemesis.PhaseError:
		line := fmt.Sprintf("%s: %s", e.Phase, text)
		if e.Detail != "" {
			line += ": " + e.Detail
		}
		r.say(line)
	case nemesis.PhaseVerified, nemesis.PhaseNote, nemesis.PhaseRecover:
	}
}

func (r *runner) journalLine(v any) {
	b, err := json.Marshal(v)
	if err != nil {
		b = []byte(fmt.Sprintf("%q", err.Error()))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, _ = r.journalFile.Write(append(b, '\n')) // a full disk shows in the history, which is flushed with an error
}

// lockedWriter lets several goroutines write to one file.
type lockedWriter struct {
	mu sync.Mutex
	w  *os.File
}

func (l *lockedWriter) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}
