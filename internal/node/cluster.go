package node

import (
	"context"
	"io"
	"strings"

	"holdfast.dev/engine/embed"
	"holdfast.dev/internal/server"
)

// cluster is the embedded store as the server changes it.
type cluster struct {
	node  *embed.Node
	token string
}

func (c cluster) Members(ctx context.Context) ([]server.Member, error) {
	in, err := c.node.Members(ctx)
	out := make([]server.Member, len(in))
	for i, m := range in {
		out[i] = memberOf(m)
	}
	return out, err
}

func memberOf(m embed.Member) server.Member {
	return server.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, Learner: m.Learner, Leader: m.Leader}
}

func (c cluster) AddLearner(ctx context.Context, peerURL string) (server.Member, error) {
	m, _, err := c.node.AddLearner(ctx, "", peerURL)
	return memberOf(m), err
}

func (c cluster) Promote(ctx context.Context, id uint64) error { return c.node.Promote(ctx, id) }

func (c cluster) Remove(ctx context.Context, id uint64) error { return c.node.Remove(ctx, id) }

func (c cluster) MoveLeader(ctx context.Context, id uint64) error {
	if id == 0 {
		return c.node.HandOver(ctx)
	}
	return c.node.MoveLeader(ctx, id)
}

func (c cluster) Snapshot(ctx context.Context, w io.Writer) (int64, error) {
	b, err := c.node.Snapshot(ctx, w)
	return b.Revision, err
}

func (c cluster) Defragment(ctx context.Context) error { return c.node.Defragment(ctx) }

func (c cluster) Alarms(context.Context) ([]server.Alarm, error) {
	var out []server.Alarm
	for _, a := range c.node.Alarms() {
		out = append(out, server.Alarm{Member: a.Member, Kind: strings.ToLower(a.Name)})
	}
	return out, nil
}

func (c cluster) Disarm(ctx context.Context, a server.Alarm) error {
	return c.node.Disarm(ctx, embed.Alarm{Member: a.Member, Name: strings.ToUpper(a.Kind)})
}

func (c cluster) Token() string { return c.token }
