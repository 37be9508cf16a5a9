//go:build linux

package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"holdfast.dev/internal/cli"
	"holdfast.dev/lab"
	"holdfast.dev/lab/check"
)

type labBatteryCmd struct {
	storeFlag

	Scenarios []string      `arg:"" optional:"" help:"Named scenarios or files. Default: all named ones whose programs are here."`
	Seed      uint64        `default:"1" help:"Of the first round; each round has the next one."`
	Rounds    int           `default:"1" placeholder:"N" help:"How often to run each."`
	For       time.Duration `placeholder:"TIME" help:"Go on with rising seeds until the time is over."`
}

func (labBatteryCmd) Examples() string {
	return `
holdfast lab battery
holdfast lab battery redis-power-always redis-power-no --rounds 5
holdfast lab battery --for 8h`
}

// Help is the long text of the command.
func (labBatteryCmd) Help() string {
	return `Runs scenarios and compares each verdict with the one that the scenario expects. Exit 0 when all agree, 1 when one does not, 2 when all that differ are unknown.`
}

// labBatteryJSON is one run of the battery.
type labBatteryJSON struct {
	Scenario string        `json:"scenario"`
	Seed     uint64        `json:"seed"`
	Expect   check.Verdict `json:"expect"`
	Verdict  check.Verdict `json:"verdict"`
	Took     time.Duration `json:"took"`
	Reason   string        `json:"reason"`
	Run      string        `json:"run"`
}

func (c *labBatteryCmd) Run(a *app, ctx *runContext) error {
	if c.Rounds < 1 {
		return cli.Usage("--rounds %d: want at least 1", c.Rounds)
	}
	all, err := c.load(a)
	if err != nil {
		return err
	}
	bctx, stop := a.interruptible(ctx)
	defer stop()
	began := time.Now()
	var rows []labBatteryJSON
	for round := 0; bctx.Err() == nil && (round < c.Rounds || time.Since(began) < c.For); round++ {
		for _, s := range all {
			if bctx.Err() != nil || round >= c.Rounds && time.Since(began) >= c.For {
				break
			}
			row, err := c.one(bctx, a, s, c.Seed+uint64(round))
			if err != nil {
				return err
			}
			rows = append(rows, row)
		}
	}
	if err := cli.List(a.printer(), "runs", rows, "SCENARIO\tSEED\tEXPECT\tVERDICT\tTOOK\tWHY", func(r labBatteryJSON) []any {
		return []any{r.Scenario, r.Seed, r.Expect, r.Verdict, r.Took.Round(time.Second), r.Reason}
	}); err != nil {
		return err
	}
	worst := check.Valid
	for _, r := range rows {
		switch r.Verdict {
		case r.Expect:
		case check.Unknown:
			worst = worse(worst, check.Unknown)
		case check.Valid, check.Invalid:
			worst = check.Invalid
		}
	}
	return verdictError(worst)
}

// load finds the scenarios; named ones whose programs are missing are passed
// over aloud, unless they were asked for.
func (c *labBatteryCmd) load(a *app) ([]labBatteryScenario, error) {
	var all []labBatteryScenario
	for _, name := range c.Scenarios {
		s, err := lab.Load(scenarioPath(a, name))
		if err != nil {
			return nil, cli.WithCode(err, cli.ExitUsage)
		}
		if s.Expect == "" {
			return nil, cli.Usage("%s: has no expect: the battery cannot judge it", name)
		}
		file, err := filepath.Abs(scenarioPath(a, name))
		if err != nil {
			return nil, err
		}
		all = append(all, labBatteryScenario{s, name, file})
	}
	if len(all) > 0 {
		return all, nil
	}
	named, err := lab.Named()
	if err != nil {
		return nil, err
	}
	for _, s := range named {
		if err := labNeeds(s.Needs); err != nil {
			a.note("%s is left out: %v", s.Name, err)
			continue
		}
		all = append(all, labBatteryScenario{s, s.Name, s.Name})
	}
	return all, nil
}

// labBatteryScenario is a scenario, how it was asked for, and where it came from.
type labBatteryScenario struct {
	*lab.Scenario

	asked, from string
}

// one makes one run of the battery.
func (c *labBatteryCmd) one(ctx context.Context, a *app, s labBatteryScenario, seed uint64) (labBatteryJSON, error) {
	plan, err := lab.NewPlan(*s.Scenario, seed)
	if err != nil {
		return labBatteryJSON{}, cli.WithCode(err, cli.ExitUsage)
	}
	plan.From = s.from
	began := time.Now()
	row := labBatteryJSON{Scenario: s.Name, Seed: seed, Expect: s.Expect, Verdict: check.Unknown}
	dir, d, err := a.labSupervise(ctx, plan, c.Store, a.command("lab", "run", s.asked, "--seed", fmt.Sprint(seed)), true)
	row.Took, row.Run = time.Since(began), dir
	if err != nil {
		if dir == "" {
			return row, err
		}
		row.Reason = err.Error()
	} else {
		row.Verdict, row.Reason = d.Verdict, d.Reason
	}
	mark := "as expected"
	if row.Verdict != row.Expect {
		mark = fmt.Sprintf("EXPECTED %s; see %s", row.Expect, dir)
	}
	a.note("%-32s seed %-4d %-8s %4.0fs  %s: %s", s.Name, seed, row.Verdict, row.Took.Seconds(), mark, row.Reason)
	return row, nil
}
