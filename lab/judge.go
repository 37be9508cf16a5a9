//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/lab/check"
	"holdfast.dev/lab/history"
	"holdfast.dev/lab/nemesis"
	"holdfast.dev/lab/report"
	"holdfast.dev/lab/workload"
)

const (
	checkLimit = 2 * time.Minute // for one checker
	lateShare  = 0.01            // of frames that the lab may be late for before the run is in doubt
	tailBytes  = 8 << 10         // of each log in the report
)

// collect takes down the counters of the world while it still stands.
func (r *runner) collect(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	w := r.world
	d := &r.data
	if w.net != nil {
		links := w.net.links()
		health := w.net.sw.Health()
		var frames, dropped int64
		for _, l := range links {
			frames += l.Rx
		}
		for _, n := range health.TxDropped {
			dropped += n
		}
		r.mu.Lock()
		d.Links = links
		r.mu.Unlock()
		if bad := health.Overruns + dropped; frames > 0 && float64(bad) > lateShare*float64(frames) {
			r.doubt(fmt.Sprintf("the lab itself was late for %d of %d frames, or lost them: the machine is too busy for this scenario", bad, frames))
		}
	}
	for _, m := range w.machines {
		m.mu.Lock()
		h := report.Host{Name: m.name, Addr: m.addr.String(), Role: m.role, Starts: m.starts}
		for _, s := range m.services {
			h.Processes = append(h.Processes, strings.Join(s.spec.Argv, " "))
		}
		fs, crashes := m.fs, m.crashes
		m.mu.Unlock()
		r.mu.Lock()
		d.Hosts = append(d.Hosts, h)
		r.mu.Unlock()
		if fs == nil {
			continue
		}
		disk := report.Disk{Host: m.name, Crashes: crashes}
		if c, err := fs.Counters(ctx); err == nil {
			disk.Writes, disk.Fsyncs, disk.Bytes = c.Ops["write"], c.Fsyncs, c.BytesWritten
		}
		r.mu.Lock()
		d.Disks = append(d.Disks, disk)
		r.mu.Unlock()
	}
}

// collectFaults takes down what became of the faults. A step that did nothing
// makes the run doubtful. Random faults get in one another's way (what is off
// cannot be paused), so of them a whole kind has to have done nothing.
func (r *runner) collectFaults() {
	if r.nemesis == nil {
		return
	}
	random, worked := map[string]int{}, map[string]bool{}
	for _, rec := range r.nemesis.Records() {
		f := report.Fault{
			ID: rec.ID, Kind: string(rec.Kind), Text: rec.Fault, Resolved: rec.Resolved, Hosts: rec.Hosts, From: rec.From, To: rec.To,
			Touched: rec.Effect.Count, Effect: rec.Effect.Text, Error: rec.Err, Recovered: rec.Recovered, Phase: r.phaseAt(rec.From),
		}
		if f.Resolved == "" {
			f.Resolved = f.Text
		}
		r.data.Faults = append(r.data.Faults, f)
		switch {
		case r.ambient[rec.ID]:
			if rec.ID <= len(r.plan.Scenario.Network) && rec.Effect.Nothing() { // the first time
				r.doubt(fmt.Sprintf("network: %s: it touched nothing", f.Resolved))
			}
		case rec.ID == r.rest: // what is down already cannot be killed
		case !r.scripted[rec.ID]:
			random[f.Kind]++
			worked[f.Kind] = worked[f.Kind] || f.Touched > 0
		case rec.Err != "":
			r.doubt(fmt.Sprintf("%s: %s", f.Resolved, rec.Err))
		case rec.Effect.Nothing():
			r.doubt(fmt.Sprintf("%s: it touched nothing", f.Resolved))
		}
	}
	for _, kind := range slices.Sorted(maps.Keys(random)) {
		if !worked[kind] {
			r.doubt(fmt.Sprintf("none of %d random faults of the kind %s touched anything", random[kind], kind))
		}
	}
}

func (r *runner) phaseAt(at time.Duration) string {
	for _, p := range r.data.Phases {
		if at >= p.From && at < p.To {
			return p.Name
		}
	}
	return ""
}

// collectLogs keeps the end of every log.
func (r *runner) collectLogs() {
	files, _ := filepath.Glob(filepath.Join(r.dir, "hosts", "*", "log", "*.log")) // its only error is a bad pattern
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || len(b) == 0 {
			continue
		}
		rel, err := filepath.Rel(r.dir, f)
		if err != nil {
			continue
		}
		if len(b) > tailBytes {
			b = b[len(b)-tailBytes:]
		}
		host := filepath.Base(filepath.Dir(filepath.Dir(f)))
		r.data.Logs = append(r.data.Logs, report.Log{
			Host: host, Name: strings.TrimSuffix(filepath.Base(f), ".log"), Path: rel, Tail: strings.ToValidUTF8(string(b), "�"),
		})
	}
}

// judge runs the checkers and concludes.
func (r *runner) judge(ctx context.Context) error {
	r.enter("checking", 0)
	r.collectFaults()
	h, err := readHistory(filepath.Join(r.dir, "history.jsonl"))
	if err != nil {
		return err
	}
	clients := make(history.History, 0, len(h))
	for _, op := range h {
		if op.Process != history.Nemesis {
			clients = append(clients, op)
		}
	}
	r.vacuity(clients)
	checks := r.workload.Checks()
	if r.protected != nil {
		checks = append(checks, workload.Check{Name: "resource", Func: r.protected.Check})
	}
	for _, c := range checks {
		r.say("checking: " + c.Name)
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkLimit)
		res := runCheck(limit, c.Name, c.Func, clients)
		cancel()
		r.result(res)
	}
	if r.plan.Scenario.Crashes == CrashIsInvalid {
		r.result(r.crashes())
	}
	r.enter("", 0)
	verdict := r.verdict()
	r.conclude(verdict, r.reason(verdict))
	return nil
}

// verdict is that of the checkers, unless something speaks against it. A
// contradiction stays one whatever is in doubt, but for a lab that was broken
// itself.
func (r *runner) verdict() check.Verdict {
	v := check.Merge(r.data.Results...)
	if len(r.failures) > 0 || v == check.Valid && len(r.data.Doubts) > 0 {
		return check.Unknown
	}
	return v
}

// runCheck runs one checker. Checkers have bugs too: one that panics knows
// nothing.
func runCheck(ctx context.Context, name string, f check.Func, h history.History) (res check.Result) {
	defer func() {
		if p := recover(); p != nil {
			res = check.Result{Verdict: check.Unknown, Summary: fmt.Sprintf("the checker failed: %v", p)}
		}
		if res.Checker == "" {
			res.Checker = name
		}
	}()
	return f(ctx, h)
}

func (r *runner) crashes() check.Result {
	res := check.Result{Checker: "crashes", Verdict: check.Valid, Summary: "no server ended by itself"}
	for _, f := range r.data.Findings {
		if strings.Contains(f.Text, "ended by itself") {
			res.Verdict, res.Summary = check.Invalid, "a server ended by itself"
			if len(res.Witness) < 10 {
				res.Witness = append(res.Witness, f.Host+": "+f.Text)
			}
		}
	}
	return res
}

// vacuity doubts runs in which faults and work did not meet.
func (r *runner) vacuity(h history.History) {
	faults := slices.DeleteFunc(slices.Clone(r.data.Faults), func(f report.Fault) bool { return r.ambient[f.ID] })
	if len(faults) == 0 {
		return
	}
	during := 0
	for _, op := range h {
		if op.Type != history.OK && op.Type != history.Info && op.Type != history.Fail {
			continue
		}
		for _, f := range faults {
			// What a fault leaves behind shows after it: a failover, a restart.
			if op.Time >= f.From && op.Time <= f.To+5*time.Second {
				during++
				break
			}
		}
	}
	if during < 10 {
		r.doubt(fmt.Sprintf("only %d operations ended while something was broken or just after", during))
	}
}

// reason is the verdict in one sentence.
func (r *runner) reason(v check.Verdict) string {
	if len(r.failures) > 0 {
		return "the lab itself failed: " + r.failures[0]
	}
	for _, res := range r.data.Results {
		if res.Verdict == v && v != check.Valid {
			return res.Checker + ": " + res.Summary
		}
	}
	if v == check.Unknown && len(r.data.Doubts) > 0 {
		return r.data.Doubts[0]
	}
	n := 0
	for _, f := range r.data.Faults {
		if f.Touched > 0 {
			n++
		}
	}
	return fmt.Sprintf("every promise held over %d operations and %d faults", r.workers.ok.Load(), n)
}

// conclude sets the verdict and everything that is known only at the end.
func (r *runner) conclude(v check.Verdict, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := &r.data
	d.Verdict, d.Reason, d.State, d.Duration = v, reason, "done", r.now()
	if r.workers != nil {
		d.Ops = r.workers.tally()
	}
	d.Environment = environment()
}

// environment is what a reader has to know of the machine.
func environment() map[string]string {
	env := map[string]string{
		"cores": fmt.Sprint(runtime.NumCPU()), "go": runtime.Version(), "architecture": runtime.GOARCH,
	}
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		env["kernel"] = unix.ByteSliceToString(u.Release[:])
	}
	if b, err := os.ReadFile("/proc/pressure/cpu"); err == nil {
		env["cpu pressure"] = strings.TrimSpace(strings.SplitN(string(b), "\n", 2)[0])
	}
	if b, err := os.ReadFile("/proc/loadavg"); err == nil {
		env["load"] = strings.TrimSpace(string(b))
	}
	return env
}

func readHistory(file string) (history.History, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	h, err := history.Read(f)
	return h, errors.Join(err, f.Close())
}

// write leaves run.json and the report.
func (r *runner) write() error {
	r.mu.Lock()
	d := r.data
	r.mu.Unlock()
	if err := writeJSON(filepath.Join(r.dir, "run.json"), &d); err != nil {
		return err
	}
	return report.WriteFile(r.dir)
}

// activeTexts are the faults that are active, for people who look.
func activeTexts(n *nemesis.Nemesis) []string {
	if n == nil {
		return nil
	}
	var out []string
	for _, a := range n.Active() {
		text := a.Record().Resolved
		if text == "" {
			text = a.Fault().String()
		}
		out = append(out, text)
	}
	return out
}
