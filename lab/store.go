//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast.dev/lab/report"
	"holdfast.dev/lab/scenarios"
)

// Load finds a scenario: a file where name looks like a path, else one of the
// named scenarios that come with the binary.
func Load(name string) (*Scenario, error) {
	if strings.ContainsAny(name, `/\`) || strings.HasSuffix(name, ".yaml") || strings.HasSuffix(name, ".yml") {
		src, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		return Parse(name, src)
	}
	src, err := scenarios.Files.ReadFile(name + ".yaml")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("scenario %s: there is none of that name, and no such file", name)
	}
	if err != nil {
		return nil, err
	}
	return Parse(name+".yaml", src)
}

// Named are the scenarios that come with the binary, by name.
func Named() ([]*Scenario, error) {
	files, err := fs.Glob(scenarios.Files, "*.yaml")
	if err != nil {
		return nil, err
	}
	var all []*Scenario
	for _, f := range files {
		s, err := Load(strings.TrimSuffix(f, ".yaml"))
		if err != nil {
			return nil, err
		}
		all = append(all, s)
	}
	return all, nil
}

// NewRunDir makes the directory of a run below store, and points "latest" of the
// scenario at it. The result is absolute.
func NewRunDir(store, scenario string, now time.Time) (string, error) {
	parent, err := filepath.Abs(filepath.Join(store, scenario))
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return "", err
	}
	base := now.Format("20060102T150405")
	for n := 0; ; n++ {
		name := base
		if n > 0 {
			name = fmt.Sprintf("%s-%d", base, n)
		}
		dir := filepath.Join(parent, name)
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", err
		}
		latest := filepath.Join(parent, "latest")
		_ = os.Remove(latest)        // of the run before
		_ = os.Symlink(name, latest) // a convenience; where links cannot be made there is none
		return dir, nil
	}
}

// Runs are the runs in a store, newest first. Directories that are no runs are
// passed over.
func Runs(store string) ([]*report.Data, error) {
	files, err := filepath.Glob(filepath.Join(store, "*", "*", "run.json"))
	if err != nil {
		return nil, err
	}
	var runs []*report.Data
	for _, f := range files {
		dir := filepath.Dir(f)
		if filepath.Base(dir) == "latest" {
			continue
		}
		if d, err := ReadRun(dir); err == nil {
			runs = append(runs, d)
		}
	}
	slices.SortFunc(runs, func(a, b *report.Data) int { return b.Started.Compare(a.Started) })
	return runs, nil
}

// ReadRun reads what a run left in its directory.
func ReadRun(dir string) (*report.Data, error) {
	b, err := os.ReadFile(filepath.Join(dir, "run.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: is not the directory of a run: it has no run.json", dir)
	}
	if err != nil {
		return nil, err
	}
	var d report.Data
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("%s: run.json: %w", dir, err)
	}
	// A run writes down every two seconds that it goes on.
	if st, err := os.Stat(filepath.Join(dir, "run.json")); err == nil && d.State == "running" && time.Since(st.ModTime()) > killedAfter {
		d.State, d.Reason = "killed", "the lab was ended before it could judge"
	}
	return &d, nil
}

// killedAfter is how long nothing is heard of a run that was killed.
const killedAfter = 30 * time.Second
