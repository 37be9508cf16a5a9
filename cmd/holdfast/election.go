package main

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"holdfast.dev"
	"holdfast.dev/election"
	"holdfast.dev/internal/access"
	"holdfast.dev/internal/cli"
	"holdfast.dev/internal/runner"
)

type electionCmd struct {
	Run   electionRunCmd   `cmd:"" help:"Run a command while leading."`
	Ls    electionLsCmd    `cmd:"" help:"List elections with a leader or candidates."`
	Watch electionWatchCmd `cmd:"" help:"Tell who leads, and every change."`
}

type electionRunCmd struct {
	Name  string   `arg:"" help:"The election's name."`
	Cmd   []string `arg:"" passthrough:"" help:"The command and its arguments, after --."`
	Value string   `help:"What the others see of the leader: an address, say. Default: host and process."`
	Fence string   `placeholder:"COMMAND" help:"Run this in a shell before taking over from a leader that vanished; while it fails, nobody leads."`
	holdFlags
}

func (electionRunCmd) Examples() string {
	return `
holdfast election run scheduler --value 10.0.0.7:80 -- ./scheduler
holdfast election run db --fence 'ipmitool -H "$HOLDFAST_VANISHED_VALUE" power off' -- ./primary.sh`
}

// Help is the long text of the command.
func (electionRunCmd) Help() string {
	return `The command finds HOLDFAST_TOKEN (the fencing token), HOLDFAST_ELECTION and HOLDFAST_SESSION in its environment. It is stopped, and exit codes are, as with "lock run".

The command of --fence finds HOLDFAST_VANISHED_VALUE, HOLDFAST_VANISHED_TOKEN and HOLDFAST_VANISHED_SESSION.`
}

func (c *electionRunCmd) Run(a *app, ctx *runContext) error {
	value := c.Value
	if value == "" {
		value = a.where().Session.Name
	}
	var opts []election.Option
	if c.Fence != "" {
		opts = append(opts, election.Fence(c.fence(a)))
	}
	return a.hold(ctx, c.Cmd, c.holdFlags, "election "+c.Name, func(ctx context.Context, b access.Backend) (*grip, error) {
		lead, err := b.Campaign(ctx, c.Name, []byte(value), opts...)
		if err != nil {
			return nil, err
		}
		return &grip{
			lost: lead.Lost(), until: lead.ValidUntil, release: lead.Resign,
			environ: []string{"HOLDFAST_ELECTION=" + c.Name, "HOLDFAST_TOKEN=" + lead.Token().String()},
		}, nil
	})
}

// fence runs the command that makes sure a vanished leader cannot act.
func (c *electionRunCmd) fence(a *app) func(context.Context, election.Leader) error {
	return func(ctx context.Context, vanished election.Leader) error {
		a.note("holdfast: election %s: the leader before vanished; running --fence", c.Name)
		var out bytes.Buffer
		res, err := runner.Run(ctx, runner.Command{
			Args: []string{"sh", "-c", c.Fence}, Dir: a.env.Dir, Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out,
			Environ: append(append([]string{}, a.env.Environ...), "HOLDFAST_ELECTION="+c.Name, "HOLDFAST_VANISHED_VALUE="+string(vanished.Value),
				"HOLDFAST_VANISHED_TOKEN="+vanished.Token.String(), "HOLDFAST_VANISHED_SESSION="+vanished.Session.String()),
		}, runner.Hold{Grace: time.Second})
		if err == nil && (res.Code != 0 || res.Lost) {
			err = fmt.Errorf("--fence: exit code %d: %s", res.Code, strings.TrimSpace(out.String()))
		}
		return err
	}
}

// leaderJSON is a leader in JSON output; see docs/cli-json.md.
type leaderJSON struct {
	Session string         `json:"session"`
	Token   holdfast.Token `json:"token"`
	Text    string         `json:"text,omitempty"`
	Base64  string         `json:"base64,omitempty"`
	Since   *time.Time     `json:"since,omitempty"`
}

func toLeaderJSON(l *election.Leader) *leaderJSON {
	if l == nil {
		return nil
	}
	j := &leaderJSON{Session: l.Session.String(), Token: l.Token}
	j.Text, j.Base64 = textOrBase64(l.Value)
	if !l.Since.IsZero() {
		since := l.Since.UTC()
		j.Since = &since
	}
	return j
}

// electionJSON is an election in JSON output.
type electionJSON struct {
	Name       string      `json:"name"`
	Leader     *leaderJSON `json:"leader"`
	Candidates int         `json:"candidates"`
}

type electionLsCmd struct {
	Prefix string `arg:"" optional:"" help:"Only names that begin so."`
}

func (c *electionLsCmd) Run(a *app, ctx *runContext) error {
	return a.with(ctx, func(ctx context.Context, b access.Backend) error {
		var all []electionJSON
		after := ""
		for {
			page, err := b.Elections(ctx, c.Prefix, after, listPage)
			if err != nil {
				return err
			}
			for _, e := range page {
				all, after = append(all, electionJSON{e.Name, toLeaderJSON(e.Leader), e.Candidates}), e.Name
			}
			if len(page) < listPage {
				break
			}
		}
		now := time.Now()
		return cli.List(a.printer(), "elections", all, "NAME LEADER TOKEN LEADS CANDIDATES", func(e electionJSON) []any {
			if e.Leader == nil {
				return []any{e.Name, "-", "-", "-", e.Candidates}
			}
			return []any{e.Name, e.Leader.value(), e.Leader.Token, e.Leader.age(now), e.Candidates}
		})
	})
}

// value is what the leader says of itself, for people.
func (l *leaderJSON) value() string {
	switch {
	case l.Text != "":
		return shown([]byte(l.Text))
	case l.Base64 != "":
		return "(not text)"
	}
	return l.Session
}

func (l *leaderJSON) age(now time.Time) string {
	if l.Since == nil {
		return "-"
	}
	return cli.Age(*l.Since, now)
}

// viewJSON is who leads at some revision, in JSON output.
type viewJSON struct {
	Name     string      `json:"name"`
	Leader   *leaderJSON `json:"leader"`
	Revision int64       `json:"revision"`
}

type electionWatchCmd struct {
	Name  string `arg:"" help:"The election's name."`
	Count int    `placeholder:"N" help:"End after so many messages."`
}

func (c *electionWatchCmd) Run(a *app, ctx *runContext) error {
	return a.watching(ctx, func(ctx context.Context, b access.Backend) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		views, err := b.Observe(ctx, c.Name)
		if err != nil {
			return err
		}
		p, n := a.printer(), 0
		for v := range views {
			j := viewJSON{Name: c.Name, Leader: toLeaderJSON(v.Leader), Revision: v.Revision}
			text := fmt.Sprintf("%d  nobody leads", v.Revision)
			if j.Leader != nil {
				text = fmt.Sprintf("%d  %s leads, token %v", v.Revision, j.Leader.value(), j.Leader.Token)
			}
			if err := p.Event(j, "%s", text); err != nil {
				return err
			}
			if n++; n == c.Count {
				return errEnough
			}
		}
		if ctx.Err() == nil { // refused: ask why
			_, err = b.Leader(ctx, c.Name)
		}
		return err
	})
}
