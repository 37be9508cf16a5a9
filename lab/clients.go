//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"holdfast.dev/internal/stage"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/host"
	"holdfast.dev/lab/vclock"
	"holdfast.dev/lab/workload"
)

// connect gives a worker a client of the server on node: in the lab itself, or
// on the worker's host where the scenario has hosts for clients. Worker -1 is
// the lab, which makes the first and the last operations.
func (r *runner) connect(ctx context.Context, worker int, node string) (driver.Client, error) {
	s := &r.plan.Scenario
	if worker < 0 || s.Clients == 0 { // the lab's own
		c, err := r.world.system.Client(ctx, &spawnEnv{world: r.world}, node, s.Workload.Name)
		if err != nil {
			return nil, err
		}
		if rc := r.resourceConfig(); rc != nil {
			c = driver.WithResource(c, *rc)
		}
		return c, nil
	}
	m := r.world.machine(s.ClientHosts()[worker%s.Clients])
	env := &spawnEnv{world: r.world, on: m}
	spec := driver.ClientSpec{
		System: s.System.Driver, Workload: s.Workload.Name, Node: node, Nodes: s.Nodes(), Addrs: r.world.addrs(), Lab: labAddr,
		Options: r.world.options(), Resource: r.resourceConfig(), Exec: s.System.Exec,
	}
	spawn := func(ctx context.Context) (*driver.Program, error) {
		return env.Spawn(ctx, driver.Process{Name: "client", Argv: stage.Argv("client", spec.Arg())})
	}
	hello := driver.Hello{Workload: s.Workload.Name, Node: node, Addr: r.world.Addr(node).String()}
	return driver.NewLines(spawn, hello, driver.LinesConfig{Timeout: s.Workload.Timeout}), nil
}

// lockWorkload is the one whose locks protect something.
const lockWorkload = "lock"

// resourceConfig is where the resource is that the workload's locks protect; nil
// for workloads without.
func (r *runner) resourceConfig() *driver.ResourceConfig {
	if r.plan.Scenario.Workload.Name != lockWorkload {
		return nil
	}
	o := r.plan.Scenario.Workload.Options
	return &driver.ResourceConfig{URL: resourceURL(), Fencing: o.Fencing, Hold: o.Hold}
}

// resource starts what the workload's locks protect.
func (r *runner) resource(ctx context.Context) error {
	if r.plan.Scenario.Workload.Name != lockWorkload {
		return nil
	}
	r.protected = workload.NewResource(r.plan.Scenario.Workload.Options.Fencing, r.now)
	return r.world.serveResource(ctx, r.protected)
}

func init() {
	stage.Register("client", driver.ClientStage(func(ctx context.Context, env driver.Env, spec driver.ClientSpec) (driver.Client, error) {
		system, err := systems[spec.System](&Scenario{System: System{Exec: spec.Exec}})
		if err != nil {
			return nil, err
		}
		return system.Client(ctx, env, spec.Node, spec.Workload)
	}))
}

// spawnEnv is the world as clients of one worker see it: their programs run on
// one of the hosts, or beside the lab.
type spawnEnv struct {
	*world
	on *machine // nil: in the lab itself
}

var programs atomic.Int64 // so that every program on a host has a name of its own

// Spawn implements driver.Spawner.
func (e *spawnEnv) Spawn(ctx context.Context, p driver.Process) (*driver.Program, error) {
	if e.on == nil {
		return driver.Spawn(p, e.debug)
	}
	h, err := e.on.running()
	if err != nil {
		return nil, err
	}
	inR, inW := io.Pipe()
	outR, outW := io.Pipe()
	hp := e.on.process(p, "")
	hp.Name = "client-" + strconv.FormatInt(programs.Add(1), 10)
	hp.Dir = e.on.dir("tmp")
	hp.Stdin, hp.Stdout, hp.Stderr = inR, outW, e.debug
	proc, err := h.Run(ctx, hp)
	if err != nil {
		return nil, fmt.Errorf("%s: client: %w", e.on.name, err)
	}
	done := make(chan struct{})
	e.tasks.Go(func() {
		select {
		case <-proc.Done():
		case <-e.ctx.Done():
		}
		_, _ = inR.Close(), outW.Close() // whoever waits for the program sees its end
		close(done)
	})
	return &driver.Program{
		Stdin: inW, Stdout: outR, Done: done,
		Kill: func() { e.tasks.Go(func() { _, _ = h.Kill(e.ctx, hp.Name) }) }, // it may be gone already
	}, nil
}

// startProbe starts the process that measures the clock of a host.
func startProbe(ctx context.Context, h *host.Host) (*vclock.Probe, error) {
	p := vclock.NewProbe()
	_, err := h.Run(ctx, host.Process{Name: vclock.ProbeStage, Argv: stage.Argv(vclock.ProbeStage), Stdin: p, Stdout: p})
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

// offsetNow asks a probe; one that is paused does not answer.
func offsetNow(ctx context.Context, p *vclock.Probe) (time.Duration, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Second, errors.New("the clock's probe does not answer"))
	defer cancel()
	sample, err := p.Sample(ctx)
	return sample.Offset, err
}
