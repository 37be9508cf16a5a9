package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestMain lets the test binary be the process that holds many sessions, and the
// stages of the lab.
func TestMain(m *testing.M) {
	if strings.HasPrefix(os.Args[0], "holdfast-lab:") || len(os.Args) > 1 && os.Args[1] == crowdCommand { //nolint:forbidigo // the process's own door
		main()
		return
	}
	os.Exit(m.Run()) //nolint:forbidigo // the process's own door
}

// TestCommand_Smoke runs every benchmark for a moment, real servers and all. A
// peer that is not installed must stand in the table as missing.
func TestCommand_Smoke(t *testing.T) {
	if testing.Short() {
		t.Log("all benchmarks, shortly: not with -short")
		return
	}
	dir := t.TempDir()
	var out, log bytes.Buffer
	code := command(t.Context(), []string{
		"-json", "-dir", dir, "-profile", dir + "/profiles", "-time", "50ms", "-rounds", "2", "-kills", "1", "-sessions", "20", "-ttl", "2s",
	}, &out, &log)
	if code != 0 {
		t.Fatalf("exit code %d\n%s\n%s", code, &log, &out)
	}
	var rep report
	if err := json.Unmarshal(out.Bytes(), &rep); err != nil {
		t.Fatal(err)
	}
	if rep.Machine.Cores == 0 || rep.Machine.Go == "" || rep.Machine.Date.IsZero() || rep.Machine.Sync == 0 {
		t.Errorf("machine: %+v", rep.Machine)
	}
	seen := map[string]bool{}
	for _, r := range rep.Rows {
		seen[r.Benchmark] = true
		if r.Missing == "" && r.Peer.Who == "" {
			t.Errorf("%s: neither a peer nor a reason: %+v", r.What, r)
		}
		if r.Missing != "" && !strings.Contains(r.Missing, "apt-get install") {
			t.Errorf("%s: %q does not say what to install", r.What, r.Missing)
		}
	}
	for _, b := range benchmarks {
		if !seen[b.name] {
			t.Errorf("no figures of %s", b.name)
		}
	}
	var table bytes.Buffer
	if err := rep.writeTable(&table); err != nil || !strings.Contains(table.String(), "≥ 2.5×") {
		t.Errorf("%v\n%s", err, &table)
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestCommand_Usage(t *testing.T) {
	for _, args := range [][]string{{"-rounds", "0"}, {"-run", "("}, {"extra"}, {"-unknown"}, {"-ttl", "1ms"}} {
		var out, log bytes.Buffer
		if code := command(t.Context(), args, &out, &log); code != 64 || log.Len() == 0 || out.Len() > 0 {
			t.Errorf("%v: exit code %d\n%s%s", args, code, &out, &log)
		}
	}
	var out, log bytes.Buffer
	if code := command(t.Context(), []string{"-list"}, &out, &log); code != 0 || !strings.Contains(out.String(), "failover") {
		t.Errorf("-list: exit code %d\n%s", code, &out)
	}
}
