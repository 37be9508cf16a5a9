package server

import (
	"context"
	"errors"
	"time"
	"unicode/utf8"

	"connectrpc.com/connect"

	"holdfast.dev"
	"holdfast.dev/election"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/server/auth"
	"holdfast.dev/internal/wire"
	"holdfast.dev/lock"
)

// electionService is holdfast.v1.ElectionService.
type electionService struct{ *Server }

// errWaited is the cause of a campaign that was allowed no more time.
var errWaited = &holdfast.Error{Code: holdfast.CodeBusy, Outcome: holdfast.NotApplied}

func (s electionService) Campaign(ctx context.Context, req *v1.CampaignRequest) (*v1.CampaignResponse, error) {
	name := req.GetName()
	id, err := s.owner(ctx, name, req.GetSession(), req.GetRequestId())
	if err != nil {
		return nil, named("election", name, "campaign", err)
	}
	o := election.Owner{Session: id, Request: requestName(req.GetRequestId())}
	f := election.FenceRequest{Ask: req.GetFence(), Done: holdfast.Token(req.GetFenced())}
	key := waitKey{kind: "election", session: id, name: name, request: req.GetRequestId()}
	got, err := s.queue.attend(ctx, key, string(lock.ModeExclusive), func(ctx context.Context) (any, error) {
		p, err := s.own.parts()
		if err != nil {
			return nil, err
		}
		if wait := wire.Duration(req.GetWait()); wait != nil {
			if *wait <= 0 {
				if err := s.vacant(ctx, p, name, id); err != nil {
					return nil, err
				}
				*wait = s.cfg.Attempt
			}
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, *wait, errWaited)
			defer cancel()
		}
		g, err := p.elections.CampaignFor(ctx, o, name, wire.Bytes(req), f)
		return g, p.blame(err)
	})
	if v, ok := errors.AsType[*election.VanishedError](err); ok {
		return nil, fenceRequired(v)
	}
	if err != nil {
		return nil, named("election", name, "campaign", err)
	}
	g, _ := got.(election.Grant)
	return &v1.CampaignResponse{Name: g.Name, Token: uint64(g.Token), RequestId: req.GetRequestId()}, nil
}

// vacant is ErrBusy when another session leads.
func (s *Server) vacant(ctx context.Context, p *parts, name string, id engine.SessionID) error {
	l, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) (election.Leader, error) {
		return p.elections.Leader(ctx, name)
	})
	switch {
	case errors.Is(err, holdfast.ErrNotFound):
		return nil
	case err == nil && l.Session != id:
		return errWaited
	}
	return err
}

// fenceRequired is the error of a campaign that has to fence somebody off.
func fenceRequired(v *election.VanishedError) error {
	ce := connect.NewError(connect.CodeFailedPrecondition, errors.New(v.Error()))
	wire.AddDetail(ce, &v1.ErrorDetail{
		Code: v1.Code_CODE_BUSY, Outcome: v1.Outcome_OUTCOME_NOT_APPLIED, Token: uint64(v.Leader.Token),
	})
	wire.AddDetail(ce, &v1.FenceRequired{Vanished: leaderToProto(&v.Leader)})
	return ce
}

func (s electionService) Proclaim(ctx context.Context, req *v1.ProclaimRequest) (*v1.ProclaimResponse, error) {
	id, err := s.owner(ctx, req.GetName(), req.GetSession(), req.GetRequestId())
	var p *parts
	if err == nil {
		p, err = s.own.parts()
	}
	if err == nil {
		o := election.Owner{Session: id, Request: requestName(req.GetRequestId())}
		err = p.blame(p.elections.ProclaimFor(ctx, o, req.GetName(), wire.Bytes(req)))
	}
	if err != nil {
		return nil, named("election", req.GetName(), "proclaim", err)
	}
	return &v1.ProclaimResponse{}, nil
}

func (s electionService) Resign(ctx context.Context, req *v1.ResignRequest) (*v1.ResignResponse, error) {
	id, err := s.owner(ctx, req.GetName(), req.GetSession(), req.GetRequestId())
	if errors.Is(err, holdfast.ErrLost) { // with the session went the leadership
		return &v1.ResignResponse{}, nil
	}
	var p *parts
	if err == nil {
		p, err = s.own.parts()
	}
	if err == nil {
		o := election.Owner{Session: id, Request: requestName(req.GetRequestId())}
		err = p.blame(p.elections.ResignFor(ctx, o, req.GetName()))
	}
	if err != nil {
		return nil, named("election", req.GetName(), "resign", err)
	}
	return &v1.ResignResponse{}, nil
}

func (s electionService) Leader(ctx context.Context, req *v1.LeaderRequest) (*v1.LeaderResponse, error) {
	err := callerOf(ctx).May(auth.Read, req.GetName())
	var p *parts
	if err == nil {
		p, err = s.own.parts()
	}
	if err != nil {
		return nil, named("election", req.GetName(), "leader", err)
	}
	l, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) (election.Leader, error) {
		return p.elections.Leader(ctx, req.GetName())
	})
	if err != nil {
		return nil, named("election", req.GetName(), "leader", err)
	}
	return &v1.LeaderResponse{Leader: leaderToProto(&l)}, nil
}

func (s electionService) Observe(ctx context.Context, req *v1.ObserveRequest, stream *connect.ServerStream[v1.ObserveResponse]) error {
	err := callerOf(ctx).May(auth.Read, req.GetName())
	var p *parts
	if err == nil {
		p, err = s.own.parts()
	}
	if err != nil {
		return named("election", req.GetName(), "observe", err)
	}
	ctx, done, err := s.stream(ctx)
	if err != nil {
		return named("election", req.GetName(), "observe", err)
	}
	defer done()
	views := p.elections.Observe(ctx, req.GetName())
	defer drain(views, done)
	beat := time.NewTicker(s.cfg.Heartbeat)
	defer beat.Stop()
	m := &v1.ObserveResponse{}
	for {
		select {
		case <-beat.C:
			if m.GetRevision() == 0 {
				continue // not begun yet
			}
			m.Heartbeat = true
		case v, ok := <-views:
			if !ok && ctx.Err() == nil { // the node lost its session; the client begins anew
				return p.blame(&holdfast.Error{
					Key: "election " + req.GetName(), Op: "observe", Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied,
				})
			}
			if !ok {
				return s.ended(ctx)
			}
			m = &v1.ObserveResponse{Leader: leaderToProto(v.Leader), Revision: v.Revision}
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

func (s electionService) List(ctx context.Context, req *v1.ElectionServiceListRequest) (*v1.ElectionServiceListResponse, error) {
	err := callerOf(ctx).May(auth.Read, req.GetPrefix())
	var p *parts
	if err == nil {
		p, err = s.own.parts()
	}
	if err != nil {
		return nil, named("election", req.GetPrefix(), "list", err)
	}
	limit := page(req.GetLimit())
	infos, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) ([]election.Info, error) {
		return p.elections.List(ctx, req.GetPrefix(), req.GetAfter(), limit)
	})
	if err != nil {
		return nil, named("election", req.GetPrefix(), "list", err)
	}
	resp := &v1.ElectionServiceListResponse{}
	local := s.queue.waiting("election")
	for _, info := range infos {
		info.Candidates = max(info.Candidates, len(local[info.Name]))
		resp.Elections = append(resp.Elections, &v1.Election{
			Name: info.Name, Leader: leaderToProto(info.Leader), Candidates: uint32(info.Candidates), Vanished: leaderToProto(info.Vanished),
		})
	}
	if len(infos) == limit {
		resp.Next = infos[limit-1].Name
	}
	return resp, nil
}

func leaderToProto(l *election.Leader) *v1.ElectionLeader {
	if l == nil {
		return nil
	}
	m := &v1.ElectionLeader{Session: l.Session.String(), Token: uint64(l.Token), Since: wire.Timestamp(l.Since), Revision: l.Revision}
	switch {
	case len(l.Value) == 0:
	case utf8.Valid(l.Value):
		m.Content = &v1.ElectionLeader_Text{Text: string(l.Value)}
	default:
		m.Content = &v1.ElectionLeader_Value{Value: l.Value}
	}
	return m
}
