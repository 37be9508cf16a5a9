//go:build linux

package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/internal/stage"
	"holdfast.dev/lab/check"
	"holdfast.dev/lab/host"
	"holdfast.dev/lab/report"
)

var controlSeed = flag.Uint64("control-seed", 1, "seed of the controls")

func init() {
	stage.Register("lab-run-test", func(args []string) int {
		log := os.NewFile(2, "stderr")
		plan, err := ReadPlan(filepath.Join(args[0], "plan.json"))
		if err == nil {
			_, err = Execute(context.Background(), plan, args[0], "go test ./lab", func(p Progress) {
				if p.Line != "" {
					_, _ = fmt.Fprintf(log, "%s\n", p.Line)
				}
			})
		}
		if err != nil {
			_, _ = fmt.Fprintln(log, err)
			return 1
		}
		return 0
	})
}

// run makes one run of a named scenario in namespaces of its own.
func run(t *testing.T, scenario string, set ...string) *report.Data {
	t.Helper()
	labtest.Devices(t)
	s, err := Load(scenario)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range s.Needs {
		if matches, _ := filepath.Glob(n.Program); len(matches) == 0 {
			labtest.Server(t, n.Program, n.Package)
		}
	}
	for _, kv := range set {
		field, value, _ := strings.Cut(kv, "=")
		if err := s.Set(field, value); err != nil {
			t.Fatal(err)
		}
	}
	plan, err := NewPlan(*s, *controlSeed)
	if err != nil {
		t.Fatal(err)
	}
	return runPlan(t, plan)
}

func runPlan(t *testing.T, plan *Plan) *report.Data {
	t.Helper()
	store := t.TempDir()
	for _, d := range []string{store, filepath.Dir(store)} { // Postgres passes through as another user
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir, err := NewRunDir(store, plan.Scenario.Name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if err := plan.Write(filepath.Join(dir, "plan.json")); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	code, err := host.Supervise(t.Context(), host.Supervision{Stage: "lab-run-test", Args: []string{dir}, Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		t.Fatalf("exit code %d, %v\n%s", code, err, out.String())
	}
	d, err := ReadRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"history.jsonl", "journal.jsonl", "report.html"} {
		if st, err := os.Stat(filepath.Join(dir, file)); err != nil || st.Size() == 0 {
			t.Errorf("the run has no %s: %v", file, err)
		}
	}
	t.Logf("%s: %s; %d ok, %d failed, %d unknown in %s", d.Verdict, d.Reason, d.Ops.OK, d.Ops.Fail, d.Ops.Unknown, d.Duration.Round(time.Millisecond))
	if t.Failed() || testing.Verbose() {
		t.Log(out.String())
	}
	return d
}

func want(t *testing.T, d *report.Data, v check.Verdict) {
	t.Helper()
	if d.Verdict == v {
		return
	}
	short := *d
	short.Logs, short.Links, short.Clocks = nil, nil, nil
	text, err := json.MarshalIndent(short, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	t.Fatalf("%s, want %s: %s\n%s", d.Verdict, v, d.Reason, text)
}

// The positive controls: systems that are known to lose, and must be caught.
// The negative ones: systems that are known to hold, and must not be blamed.

func TestControl_RedisSentinelLosesWrites(t *testing.T) {
	t.Parallel()
	want(t, run(t, "redis-sentinel-partition"), check.Invalid)
}

func TestControl_RedisSentinelWithMinReplicasLosesWrites(t *testing.T) {
	t.Parallel()
	want(t, run(t, "redis-sentinel-min-replicas"), check.Invalid)
}

func TestControl_RedisPower(t *testing.T) {
	t.Parallel()
	want(t, run(t, "redis-power-always"), check.Valid)
	want(t, run(t, "redis-power-everysec"), check.Invalid)
	want(t, run(t, "redis-power-no"), check.Invalid)
}

func TestControl_RedisKillLosesNothing(t *testing.T) {
	t.Parallel()
	want(t, run(t, "redis-kill"), check.Valid)
}

func TestControl_EtcdLock(t *testing.T) {
	t.Parallel()
	want(t, run(t, "etcd-lock-unfenced"), check.Invalid)
	want(t, run(t, "etcd-lock-fenced"), check.Valid)
}

func TestControl_EtcdHolds(t *testing.T) {
	t.Parallel()
	want(t, run(t, "etcd-register-mixed"), check.Valid)
	want(t, run(t, "etcd-append-mixed"), check.Valid)
}

func TestControl_PostgresPromotionLosesCommits(t *testing.T) {
	t.Parallel()
	want(t, run(t, "postgres-promote"), check.Invalid)
}

func TestHoldfast_Holds(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "holdfast")
	build := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "holdfast.dev/cmd/holdfast")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	want(t, run(t, "holdfast-kv-mixed-3", "system.options.binary="+binary), check.Valid)
}
