package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"holdfast.dev/client"
	"holdfast.dev/internal/access"
	"holdfast.dev/internal/cert"
	"holdfast.dev/internal/cli"
	"holdfast.dev/internal/doctor"
)

type doctorCmd struct {
	Prefix string `placeholder:"PREFIX" help:"Names of the test begin so. Default: holdfast-doctor/."`
}

func (doctorCmd) Examples() string {
	return `
holdfast doctor
holdfast doctor --endpoints http://10.0.0.1:7450,http://10.0.0.2:7450 -o json`
}

// Help is the long text of the command.
func (doctorCmd) Help() string {
	return `It asks every node, opens a session, takes and releases a lock, writes, watches and deletes a key, and judges what it saw. Exit code: 0 nothing is wrong (warnings may be shown), 1 something is, 69 no node serves.`
}

func (c *doctorCmd) Run(a *app, ctx *runContext) error {
	if a.globals.Engine != "" {
		return cli.Usage("doctor: it examines nodes, and with --engine there is none")
	}
	ctx2, stop := a.interruptible(ctx)
	defer stop()
	cfg := doctor.Config{Endpoints: a.everyEndpoint(ctx2), Token: a.globals.AuthToken, Prefix: c.Prefix, Timeout: a.globals.Timeout / 2}
	if tls := a.where().TLS; tls != (cert.Files{}) {
		t, err := tls.Client()
		if err != nil {
			return cli.WithCode(err, cli.ExitUsage)
		}
		cfg.TLS = t
	}
	report := doctor.Run(ctx2, cfg)
	if err := context.Cause(ctx2); err != nil {
		return err
	}
	if err := a.printer().Object(report, func(t *cli.Text) { writeReport(t, report) }); err != nil {
		return err
	}
	return reportVerdict(report)
}

// everyEndpoint is the given endpoints and those of the nodes that they name.
func (a *app) everyEndpoint(ctx context.Context) []string {
	scheme := "http://"
	if a.globals.CA != "" {
		scheme = "https://"
	}
	var given []string
	for _, e := range a.globals.Endpoints {
		if !strings.Contains(e, "://") {
			e = scheme + e
		}
		given = append(given, strings.TrimRight(e, "/"))
	}
	if len(given) == 0 {
		given = []string{client.DefaultEndpoint}
	}
	ctx, cancel := context.WithTimeout(ctx, memberPatience)
	defer cancel()
	c, err := access.Dial(ctx, a.where())
	if err != nil {
		return given // what is wrong with them is the doctor's to say
	}
	defer c.Close() //nolint:errcheck // it always succeeds
	return withMembers(ctx, c, given)
}

func reportVerdict(r doctor.Report) error {
	ready := false
	for _, n := range r.Nodes {
		ready = ready || n.Ready
	}
	switch {
	case !ready:
		return cli.Silent(cli.ExitNoQuorum)
	case r.Worst() == doctor.Problem:
		return cli.Silent(cli.ExitNo)
	}
	return nil
}

func writeReport(t *cli.Text, r doctor.Report) {
	cli.Table(t, "NODE URL READY LEADER ANSWERS PROBE SKEW REVISION", r.Nodes, func(n doctor.Node) []any {
		return []any{
			cli.Dash(n.Name), n.URL, yes(n.Ready), yes(n.Leader), millis(n.Seconds), millis(n.Probe), millis(n.Skew), n.Revision,
		}
	})
	if len(r.Steps) > 0 {
		t.Printf("\n")
		cli.Table(t, "STEP TOOK RESULT", r.Steps, func(s doctor.Step) []any {
			result := "ok"
			if s.Error != "" {
				result = s.Error
			}
			return []any{strings.ReplaceAll(s.Name, " ", "_"), millis(s.Seconds), result}
		})
	}
	t.Printf("\n")
	if len(r.Findings) == 0 {
		t.Printf("nothing is wrong\n")
	}
	for _, f := range r.Findings {
		where := ""
		if f.Node != "" {
			where = f.Node + ": "
		}
		t.Printf("%s: %s%s\n    why: %s\n", f.Severity, where, f.What, f.Why)
		if f.Hint != "" {
			t.Printf("    do:  %s\n", f.Hint)
		}
	}
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// millis is seconds as people read them.
func millis(s float64) string {
	if s == 0 {
		return "-"
	}
	return fmt.Sprint(time.Duration(s * float64(time.Second)).Round(10 * time.Microsecond))
}
