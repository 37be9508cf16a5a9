package server

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/server/auth"
	"holdfast.dev/membership"
)

// membershipService is holdfast.v1.MembershipService.
type membershipService struct{ *Server }

// member checks who asks on whose behalf.
func (s *Server) member(ctx context.Context, group, session, request string) (o membership.Owner, err error) {
	if err := callerOf(ctx).May(auth.Write, group); err != nil {
		return o, err
	}
	if o.Session, err = s.session(ctx, session); err != nil {
		return o, err
	}
	if request != "" {
		id, err := engine.ParseRequestID(request)
		if err != nil {
			return o, err
		}
		o.Request = &id
	}
	return o, nil
}

func memberOf(m *v1.Member) membership.Member {
	return membership.Member{ID: m.GetId(), Address: m.GetAddress(), Metadata: m.GetMetadata()}
}

func (s membershipService) Register(ctx context.Context, req *v1.RegisterRequest) (*v1.RegisterResponse, error) {
	o, err := s.member(ctx, req.GetGroup(), req.GetSession(), req.GetRequestId())
	if err != nil {
		return nil, named("group", req.GetGroup(), "register", err)
	}
	id, rev, err := s.own.members.RegisterFor(ctx, o, req.GetGroup(), memberOf(req.GetMember()))
	if err != nil {
		return nil, err
	}
	return &v1.RegisterResponse{Id: id, Revision: rev}, nil
}

func (s membershipService) Update(ctx context.Context, req *v1.UpdateRequest) (*v1.UpdateResponse, error) {
	o, err := s.member(ctx, req.GetGroup(), req.GetSession(), req.GetRequestId())
	if err != nil {
		return nil, named("group", req.GetGroup(), "update", err)
	}
	if err := s.own.members.UpdateFor(ctx, o, req.GetGroup(), memberOf(req.GetMember())); err != nil {
		return nil, err
	}
	return &v1.UpdateResponse{}, nil
}

func (s membershipService) Leave(ctx context.Context, req *v1.LeaveRequest) (*v1.LeaveResponse, error) {
	o, err := s.member(ctx, req.GetGroup(), req.GetSession(), req.GetRequestId())
	if err != nil {
		return nil, named("group", req.GetGroup(), "leave", err)
	}
	if err := s.own.members.LeaveFor(ctx, o, req.GetGroup(), req.GetId()); err != nil {
		return nil, err
	}
	return &v1.LeaveResponse{}, nil
}

func (s membershipService) Roster(ctx context.Context, req *v1.RosterRequest) (*v1.RosterResponse, error) {
	if err := callerOf(ctx).May(auth.Read, req.GetGroup()); err != nil {
		return nil, named("group", req.GetGroup(), "roster", err)
	}
	roster, err := s.own.members.Roster(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	resp := &v1.RosterResponse{Revision: roster.Revision}
	for _, m := range roster.Members {
		resp.Members = append(resp.Members, memberToProto(m))
	}
	return resp, nil
}

func memberToProto(m membership.Member) *v1.Member {
	return &v1.Member{Id: m.ID, Address: m.Address, Metadata: m.Metadata, Session: m.Session.String(), Revision: m.Revision}
}

func (s membershipService) Groups(ctx context.Context, req *v1.GroupsRequest) (*v1.GroupsResponse, error) {
	if err := callerOf(ctx).May(auth.Read, req.GetPrefix()); err != nil {
		return nil, named("group", req.GetPrefix(), "list", err)
	}
	groups, err := s.own.members.Groups(ctx, req.GetPrefix())
	if err != nil {
		return nil, err
	}
	return &v1.GroupsResponse{Groups: groups}, nil
}

func (s membershipService) Watch(ctx context.Context, req *v1.MembershipServiceWatchRequest, stream *connect.ServerStream[v1.MembershipServiceWatchResponse]) error {
	if err := callerOf(ctx).May(auth.Read, req.GetGroup()); err != nil {
		return named("group", req.GetGroup(), "watch", err)
	}
	ctx, done, err := s.stream(ctx)
	if err != nil {
		return named("group", req.GetGroup(), "watch", err)
	}
	defer done()
	events := s.own.members.Watch(ctx, req.GetGroup())
	defer drain(events, done)
	beat := time.NewTicker(s.cfg.Heartbeat)
	defer beat.Stop()
	var rev int64
	for {
		m := &v1.MembershipServiceWatchResponse{}
		select {
		case <-beat.C:
			m.Revision = rev
		case ev, ok := <-events:
			if !ok {
				return s.ended(ctx)
			}
			if ev.Err != nil {
				return ev.Err
			}
			rev = ev.Revision
			m.Revision, m.Gap, m.Change = rev, ev.Gap, changeToProto(ev.Kind)
			if ev.Kind != membership.Synced {
				m.Member = memberToProto(ev.Member)
			}
		}
		if err := stream.Send(m); err != nil {
			return err
		}
	}
}

func changeToProto(k membership.Kind) v1.MemberChange {
	switch k {
	case membership.Joined:
		return v1.MemberChange_MEMBER_CHANGE_JOINED
	case membership.Updated:
		return v1.MemberChange_MEMBER_CHANGE_UPDATED
	case membership.Left:
		return v1.MemberChange_MEMBER_CHANGE_LEFT
	case membership.Lost:
		return v1.MemberChange_MEMBER_CHANGE_LOST
	case membership.Synced:
		return v1.MemberChange_MEMBER_CHANGE_SYNCED
	}
	return v1.MemberChange_MEMBER_CHANGE_UNSPECIFIED
}
