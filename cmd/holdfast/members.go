package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast.dev/internal/access"
	"holdfast.dev/internal/cli"
	"holdfast.dev/membership"
)

type membersCmd struct {
	Ls       membersLsCmd       `cmd:"" help:"List who is in a group, or the groups."`
	Watch    membersWatchCmd    `cmd:"" help:"Tell who is there, who joins, leaves and is lost."`
	Register membersRegisterCmd `cmd:"" help:"Be a member while a command runs, or until Ctrl-C."`
}

// memberJSON is a member in JSON output; see docs/cli-json.md.
type memberJSON struct {
	Group    string            `json:"group"`
	ID       string            `json:"id"`
	Address  string            `json:"address"`
	Metadata map[string]string `json:"metadata,omitempty"`
	Session  string            `json:"session,omitempty"`
}

func toMemberJSON(group string, m membership.Member) memberJSON {
	j := memberJSON{Group: group, ID: m.ID, Address: m.Address, Metadata: m.Metadata}
	if m.Session != 0 {
		j.Session = m.Session.String()
	}
	return j
}

// metadata is "a=1 b=2", in order.
func (m memberJSON) metadata() string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(m.Metadata)) {
		words = append(words, k+"="+m.Metadata[k])
	}
	return cli.Dash(strings.Join(words, " "))
}

// groupJSON is a group in JSON output.
type groupJSON struct {
	Group string `json:"group"`
}

type membersLsCmd struct {
	Group string `arg:"" optional:"" help:"The group. Default: list the groups."`
}

func (c *membersLsCmd) Run(a *app, ctx *runContext) error {
	return a.with(ctx, func(ctx context.Context, b access.Backend) error {
		if c.Group == "" {
			names, err := b.Groups(ctx, "")
			if err != nil {
				return err
			}
			var groups []groupJSON
			for _, n := range names {
				groups = append(groups, groupJSON{n})
			}
			return cli.List(a.printer(), "groups", groups, "GROUP", func(g groupJSON) []any { return []any{g.Group} })
		}
		roster, err := b.Roster(ctx, c.Group)
		if err != nil {
			return err
		}
		var members []memberJSON
		for _, m := range roster.Members {
			members = append(members, toMemberJSON(c.Group, m))
		}
		return cli.List(a.printer(), "members", members, "ID ADDRESS SESSION METADATA", func(m memberJSON) []any {
			return []any{m.ID, cli.Dash(m.Address), cli.Dash(m.Session), m.metadata()}
		})
	})
}

// memberEventJSON is a change of a group in JSON output.
type memberEventJSON struct {
	Event    string `json:"event"` // joined, updated, left, lost or synced
	Revision int64  `json:"revision"`
	*memberJSON
	Gap bool `json:"gap,omitempty"`
}

type membersWatchCmd struct {
	Group string `arg:"" help:"The group."`
	Count int    `placeholder:"N" help:"End after so many messages."`
}

func (c *membersWatchCmd) Run(a *app, ctx *runContext) error {
	return a.watching(ctx, func(ctx context.Context, b access.Backend) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		p, n := a.printer(), 0
		for ev := range b.WatchMembers(ctx, c.Group) {
			if ev.Err != nil {
				return ev.Err
			}
			j := memberEventJSON{Event: ev.Kind.String(), Revision: ev.Revision, Gap: ev.Gap}
			text := fmt.Sprintf("%d  synced   all present have been named", ev.Revision)
			if ev.Kind != membership.Synced {
				m := toMemberJSON(c.Group, ev.Member)
				j.memberJSON = &m
				text = fmt.Sprintf("%d  %-7s  %s  %s  %s", ev.Revision, j.Event, m.ID, cli.Dash(m.Address), m.metadata())
			}
			if err := p.Event(j, "%s", text); err != nil {
				return err
			}
			if n++; n == c.Count {
				return errEnough
			}
		}
		return nil
	})
}

type membersRegisterCmd struct {
	Group   string            `arg:"" help:"The group."`
	Cmd     []string          `arg:"" optional:"" passthrough:"" help:"The command and its arguments, after --."`
	ID      string            `name:"id" help:"The member's id. Default: a random one."`
	Address string            `required:"" help:"Where to reach the member."`
	Meta    map[string]string `placeholder:"KEY=VALUE;…" help:"What others see of it."`
	holdFlags
}

func (membersRegisterCmd) Examples() string {
	return `
holdfast members register web --address 10.0.0.7:80 -- ./server
holdfast members register web --address 10.0.0.7:80 --meta zone=a`
}

// Help is the long text of the command.
func (membersRegisterCmd) Help() string {
	return `When the command ends, or with Ctrl-C, the member leaves; when this process dies, it is lost after the TTL. When the session is lost the command is stopped. Exit codes are as with "lock run".`
}

func (c *membersRegisterCmd) Run(a *app, ctx *runContext) error {
	m := membership.Member{ID: c.ID, Address: c.Address, Metadata: c.Meta}
	if len(c.Cmd) == 0 {
		return c.stay(ctx, a, m)
	}
	return a.hold(ctx, c.Cmd, c.holdFlags, "group "+c.Group, func(ctx context.Context, b access.Backend) (*grip, error) {
		life, err := b.Life(ctx)
		if err != nil {
			return nil, err
		}
		r, err := b.Register(ctx, c.Group, m)
		if err != nil {
			return nil, err
		}
		return &grip{
			lost: life.Done(), until: life.ValidUntil, release: r.Leave,
			environ: []string{"HOLDFAST_GROUP=" + c.Group, "HOLDFAST_MEMBER=" + r.ID()},
		}, nil
	})
}

// stay is a member until Ctrl-C.
func (c *membersRegisterCmd) stay(ctx context.Context, a *app, m membership.Member) error {
	ctx, stop := a.interruptible(ctx)
	defer stop()
	octx, cancel := context.WithTimeout(ctx, a.globals.Timeout)
	defer cancel()
	where := a.where()
	where.Session.TTL = c.TTL
	return a.open(octx, ctx, where, func(ctx context.Context, b access.Backend) error {
		life, err := b.Life(octx)
		if err != nil {
			return err
		}
		r, err := b.Register(octx, c.Group, m)
		if err != nil {
			return err
		}
		if !c.Quiet {
			a.note("member %s/%s; Ctrl-C leaves", c.Group, r.ID())
		}
		select {
		case <-life.Done():
			return cli.WithCode(life.Err(), cli.ExitLost)
		case <-ctx.Done():
		}
		lctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasing)
		defer cancel()
		if err := r.Leave(lctx); err != nil {
			return err
		}
		return context.Cause(ctx)
	})
}
