package client

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"holdfast.dev"
	"holdfast.dev/election"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/wire"
)

// Campaign waits until this session leads, with the meaning, options and
// promises of election.Manager.Campaign. When it returns an error this session
// does not lead: what may have been won meanwhile is resigned in the
// background, and [Client.Close] waits for that.
func (s *Session) Campaign(ctx context.Context, name string, value []byte, opts ...election.Option) (*election.Leadership, error) {
	key := "election " + name
	fence := election.NewOptions(opts...).Fence
	req := &v1.CampaignRequest{
		Session: s.ID().String(), Name: name, Content: &v1.CampaignRequest_Value{Value: value}, RequestId: s.request(), Fence: fence != nil,
	}
	resign := func(ctx context.Context) error {
		_, err := call(ctx, s.c, "resign", key, safe, func(ctx context.Context, e *endpoint) (*v1.ResignResponse, error) {
			return e.election.Resign(ctx, &v1.ResignRequest{Session: req.GetSession(), Name: name, RequestId: req.GetRequestId()})
		})
		return err
	}
	wctx, stop := s.waitUnder(ctx)
	defer stop()
	tries := 0
	for {
		res, err := call(wctx, s.c, "campaign", key, waiting, func(ctx context.Context, e *endpoint) (*v1.CampaignResponse, error) {
			tries++
			return e.election.Campaign(ctx, req)
		})
		if err == nil {
			return election.NewLeadership(s.Lifeline, election.Grant{Name: name, Token: holdfast.Token(res.GetToken())}, election.Remote{
				Proclaim: func(ctx context.Context, value []byte) error { return s.proclaim(ctx, req, value) },
				Resign:   s.untilDone("resign", key, resign),
			}), nil
		}
		if m, ok := wire.Detail[*v1.FenceRequired](err); ok && fence != nil {
			vanished, perr := leaderFromProto(m.GetVanished())
			if perr == nil {
				perr = fence(wctx, vanished)
			}
			if perr == nil {
				req.Fenced = uint64(vanished.Token)
				continue
			}
			err = &holdfast.Error{Key: key, Op: "fence the vanished leader off", Code: holdfast.CodeOf(perr), Err: perr}
		}
		s.abandon(ctx, err, tries, resign)
		return nil, s.orLost("campaign", key, err)
	}
}

func (s *Session) proclaim(ctx context.Context, won *v1.CampaignRequest, value []byte) error {
	req := &v1.ProclaimRequest{
		Session: won.GetSession(), Name: won.GetName(), RequestId: won.GetRequestId(), Content: &v1.ProclaimRequest_Value{Value: value},
	}
	_, err := call(ctx, s.c, "proclaim", "election "+won.GetName(), safe, func(ctx context.Context, e *endpoint) (*v1.ProclaimResponse, error) {
		return e.election.Proclaim(ctx, req)
	})
	return err
}

// Leader reads who leads; ErrNotFound says that nobody does.
func (c *Client) Leader(ctx context.Context, name string) (election.Leader, error) {
	res, err := call(ctx, c, "leader", "election "+name, reading, func(ctx context.Context, e *endpoint) (*v1.LeaderResponse, error) {
		return e.election.Leader(ctx, &v1.LeaderRequest{Name: name})
	})
	if err != nil {
		return election.Leader{}, err
	}
	return leaderFromProto(res.GetLeader())
}

// Observe tells who leads, first as it is and then with every change that the
// client sees; that nobody leads is told as well. It goes on at another node,
// and is closed when ctx or the client ends, or when the node refuses it.
func (c *Client) Observe(ctx context.Context, name string) <-chan election.View {
	out := make(chan election.View)
	if !c.spawn(&c.work, func() {
		defer close(out)
		c.observe(ctx, name, out)
	}) {
		close(out)
	}
	return out
}

func (c *Client) observe(ctx context.Context, name string, out chan<- election.View) {
	open := func(ctx context.Context, e *endpoint) (*connect.ServerStreamForClient[v1.ObserveResponse], error) {
		return e.election.Observe(ctx, &v1.ObserveRequest{Name: name})
	}
	var last election.View // a node behind the one before does not take us back
	told := false
	// A refusal ends it; Leader says why.
	_ = follow(ctx, c, open, func(m *v1.ObserveResponse) bool {
		v := election.View{Revision: m.GetRevision()}
		if m.GetLeader() != nil {
			l, err := leaderFromProto(m.GetLeader())
			if err != nil {
				return false
			}
			v.Leader = &l
		}
		if told && (v.Revision < last.Revision || same(last.Leader, v.Leader)) {
			return true
		}
		last, told = v, true
		return deliver(ctx, c, out, v)
	})
}

// same says whether two views of a leader tell the same.
func same(a, b *election.Leader) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Token == b.Token && string(a.Value) == string(b.Value)
}

// ElectionInfo is an election with its candidates.
type ElectionInfo struct {
	Name       string
	Leader     *election.Leader // nil: nobody leads
	Candidates int              // that wait
}

// Elections lists up to limit elections that have a leader or candidates, by
// name, whose names begin with prefix and come after the name after.
func (c *Client) Elections(ctx context.Context, prefix, after string, limit int) ([]ElectionInfo, error) {
	req := &v1.ElectionServiceListRequest{Prefix: prefix, After: after, Limit: uint32(max(limit, 0))}
	res, err := call(ctx, c, "list", "elections", reading, func(ctx context.Context, e *endpoint) (*v1.ElectionServiceListResponse, error) {
		return e.election.List(ctx, req)
	})
	if err != nil {
		return nil, err
	}
	out := make([]ElectionInfo, len(res.GetElections()))
	for i, p := range res.GetElections() {
		out[i] = ElectionInfo{Name: p.GetName(), Candidates: int(p.GetCandidates())}
		if p.GetLeader() == nil {
			continue
		}
		l, err := leaderFromProto(p.GetLeader())
		if err != nil {
			return nil, err
		}
		out[i].Leader = &l
	}
	return out, nil
}

func leaderFromProto(p *v1.ElectionLeader) (election.Leader, error) {
	id, err := engine.ParseSessionID(p.GetSession())
	var since time.Time
	if p.GetSince() != nil {
		since = p.GetSince().AsTime()
	}
	return election.Leader{Session: id, Token: holdfast.Token(p.GetToken()), Value: wire.Bytes(p), Since: since, Revision: p.GetRevision()}, err
}
