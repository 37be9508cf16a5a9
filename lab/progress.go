//go:build linux

package lab

import (
	"context"
	"slices"
	"time"

	"holdfast.dev/lab/report"
)

// report calls progress every half second, and samples the clocks of the hosts,
// until ctx ends.
func (r *runner) report(ctx context.Context) {
	const every = 500 * time.Millisecond
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	var last report.Ops
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if r.built.Load() {
			r.sampleClocks(ctx)
		}
		p := r.snapshot()
		p.Rates = report.Ops{
			OK: perSecond(p.Ops.OK-last.OK, every), Fail: perSecond(p.Ops.Fail-last.Fail, every), Unknown: perSecond(p.Ops.Unknown-last.Unknown, every),
		}
		last = p.Ops
		if n%2 == 0 && r.built.Load() { // drivers are not asked while they set up
			r.leadersOf(ctx, &p)
		}
		r.progress(p)
		if n%4 == 3 {
			r.writeRunning(p.Ops)
		}
	}
}

func perSecond(n int64, d time.Duration) int64 { return int64(float64(n) / d.Seconds()) }

// writeRunning leaves what is known so far for those who watch from outside.
func (r *runner) writeRunning(ops report.Ops) {
	r.mu.Lock()
	d := r.data
	d.Ops, d.Duration = ops, r.now()
	d.Phases = append(slices.Clone(d.Phases), report.Phase{Name: r.phase, From: r.phaseFrom, To: r.now()})
	r.mu.Unlock()
	_ = writeJSON(r.dir+"/run.json", &d) // the final one is written with its error
}

// snapshot is the state of the run now.
func (r *runner) snapshot() Progress {
	r.mu.Lock()
	p := Progress{Phase: r.phase, Elapsed: r.now() - r.phaseFrom, Length: r.phaseLength}
	r.mu.Unlock()
	if !r.built.Load() {
		return p
	}
	p.Ops, p.Faults = r.workers.tally(), activeTexts(r.nemesis)
	for _, m := range r.world.machines {
		p.Hosts = append(p.Hosts, HostState{Name: m.name, State: m.state()})
	}
	return p
}

// leadersOf marks who leads, where the system can tell.
func (r *runner) leadersOf(ctx context.Context, p *Progress) {
	ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
	defer cancel()
	leaders, err := r.world.Primaries(ctx)
	if err != nil {
		return
	}
	for i := range p.Hosts {
		p.Hosts[i].Primary = slices.Contains(leaders, p.Hosts[i].Name)
	}
}

func (r *runner) sampleClocks(ctx context.Context) {
	if !r.plan.clocks() || r.world == nil {
		return
	}
	for _, m := range r.world.machines {
		m.mu.Lock()
		p, paused := m.probe, m.paused[""]
		m.mu.Unlock()
		if p == nil || paused {
			continue
		}
		offset, err := offsetNow(ctx, p)
		if err != nil {
			continue // it is being switched off
		}
		r.mu.Lock()
		i := slices.IndexFunc(r.data.Clocks, func(c report.Clock) bool { return c.Host == m.name })
		if i < 0 {
			i = len(r.data.Clocks)
			r.data.Clocks = append(r.data.Clocks, report.Clock{Host: m.name})
		}
		c := &r.data.Clocks[i]
		c.At, c.Offset = append(c.At, r.now()), append(c.Offset, offset)
		r.mu.Unlock()
	}
}

// state is the machine in one word.
func (m *machine) state() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.host == nil:
		return "off"
	case len(m.paused) > 0:
		return "paused"
	}
	for _, s := range m.services {
		if s.proc == nil {
			return "down"
		}
	}
	return "up"
}

// tally is how operations ended so far.
func (ws *workers) tally() report.Ops {
	return report.Ops{OK: ws.ok.Load(), Fail: ws.fail.Load(), Unknown: ws.unknown.Load()}
}
