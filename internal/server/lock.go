package server

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/types/known/durationpb"

	"holdfast.dev"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/server/auth"
	"holdfast.dev/internal/wire"
	"holdfast.dev/lock"
)

// Bounds of what requests say.
const (
	maxRequestID = 64 // bytes
	defaultPage  = 100
	maxPage      = 1000
)

// lockService is holdfast.v1.LockService.
type lockService struct{ *Server }

func (s lockService) Acquire(ctx context.Context, req *v1.AcquireRequest) (*v1.AcquireResponse, error) {
	id, err := s.owner(ctx, req.GetName(), req.GetSession(), req.GetRequestId())
	if err != nil {
		return nil, named("lock", req.GetName(), "acquire", err)
	}
	r, err := lockRequest(req)
	if err != nil {
		return nil, named("lock", req.GetName(), "acquire", err)
	}
	key := waitKey{kind: "lock", session: id, name: req.GetName(), request: req.GetRequestId()}
	got, err := s.queue.attend(ctx, key, string(r.Mode), func(ctx context.Context) (any, error) {
		p, err := s.own.parts()
		if err != nil {
			return nil, err
		}
		g, err := p.locks.AcquireFor(ctx, lock.Owner{Session: id, Request: requestName(key.request)}, key.name, r)
		return g, p.blame(err)
	})
	if err != nil {
		return nil, named("lock", req.GetName(), "acquire", err)
	}
	g, _ := got.(lock.Grant)
	resp := &v1.AcquireResponse{Name: g.Name, Token: uint64(g.Token), Mode: string(g.Mode), RequestId: req.GetRequestId()}
	if g.Mode == lock.ModePermits {
		resp.Permits = uint32(g.Permits)
	}
	return resp, nil
}

// lockRequest is what the message asks for; its bounds are checked by lock.
func lockRequest(req *v1.AcquireRequest) (lock.Request, error) {
	var opts []lock.Option
	if req.GetShared() {
		opts = append(opts, lock.Shared())
	}
	if req.GetPermits() > 0 || req.GetOf() > 0 {
		if req.GetShared() {
			return lock.Request{}, invalid(errors.New("shared and permits exclude each other"))
		}
		opts = append(opts, lock.Permits(int(max(req.GetPermits(), 1)), int(req.GetOf())))
	}
	opts = append(opts, waitOption(req.GetWait())...)
	if d := req.GetDelay(); d != nil {
		opts = append(opts, lock.Delay(d.AsDuration()))
	}
	return lock.NewRequest(append(opts, lock.Note(req.GetNote()))...), nil
}

func waitOption(d *durationpb.Duration) []lock.Option {
	if d == nil {
		return nil
	}
	return []lock.Option{lock.WaitAtMost(d.AsDuration())}
}

// owner checks who asks on whose behalf, and the request id.
func (s *Server) owner(ctx context.Context, name, session, request string) (engine.SessionID, error) {
	if err := callerOf(ctx).May(auth.Write, name); err != nil {
		return 0, err
	}
	if len(request) > maxRequestID {
		return 0, invalid(fmt.Errorf("request id of %d bytes: want at most %d", len(request), maxRequestID))
	}
	return s.session(ctx, session)
}

// requestName is the id of a request as the quorum knows it. Leaving it out
// names one of its own, which no client's id can collide with: they get a
// letter in front.
func requestName(id string) string {
	if id == "" {
		return "-"
	}
	return "r" + id
}

// requestID is the id that the client knows; those of nodes stay as they are.
func requestID(name string) string {
	switch {
	case name == "-":
		return ""
	case len(name) > 0 && name[0] == 'r':
		return name[1:]
	}
	return name
}

func (s lockService) Release(ctx context.Context, req *v1.ReleaseRequest) (*v1.ReleaseResponse, error) {
	id, err := s.owner(ctx, req.GetName(), req.GetSession(), req.GetRequestId())
	if errors.Is(err, holdfast.ErrLost) { // with the session went the grant
		return &v1.ReleaseResponse{}, nil
	}
	var p *parts
	if err == nil {
		p, err = s.own.parts()
	}
	if err == nil {
		err = p.blame(p.locks.ReleaseFor(ctx, lock.Owner{Session: id, Request: requestName(req.GetRequestId())}, req.GetName()))
	}
	if err != nil {
		return nil, named("lock", req.GetName(), "release", err)
	}
	return &v1.ReleaseResponse{}, nil
}

func (s lockService) Get(ctx context.Context, req *v1.LockServiceGetRequest) (*v1.LockServiceGetResponse, error) {
	err := callerOf(ctx).May(auth.Read, req.GetName())
	if err == nil {
		if fault := lock.CheckName(req.GetName()); fault != nil {
			err = invalid(fault)
		}
	}
	var p *parts
	if err == nil {
		p, err = s.own.parts()
	}
	if err != nil {
		return nil, named("lock", req.GetName(), "get", err)
	}
	info, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) (lock.Info, error) {
		return p.locks.Inspect(ctx, req.GetName())
	})
	if err != nil {
		return nil, named("lock", req.GetName(), "get", err)
	}
	m := lockToProto(info, s.queue.waiting("lock")[info.Name])
	for _, h := range m.GetHolders() {
		id, err := engine.ParseSessionID(h.GetSession())
		if err != nil {
			continue
		}
		if rec, err := engine.LookupSession(ctx, s.cfg.Engine, id); err == nil {
			h.SessionName = rec.Name
		}
	}
	return &v1.LockServiceGetResponse{Lock: m}, nil
}

func (s lockService) List(ctx context.Context, req *v1.LockServiceListRequest) (*v1.LockServiceListResponse, error) {
	err := callerOf(ctx).May(auth.Read, req.GetPrefix())
	var p *parts
	if err == nil {
		p, err = s.own.parts()
	}
	if err != nil {
		return nil, named("lock", req.GetPrefix(), "list", err)
	}
	limit := page(req.GetLimit())
	infos, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) ([]lock.Info, error) {
		return p.locks.List(ctx, req.GetPrefix(), req.GetAfter(), limit)
	})
	if err != nil {
		return nil, named("lock", req.GetPrefix(), "list", err)
	}
	resp := &v1.LockServiceListResponse{}
	local := s.queue.waiting("lock")
	for _, info := range infos {
		resp.Locks = append(resp.Locks, lockToProto(info, local[info.Name]))
	}
	if len(infos) == limit {
		resp.Next = infos[limit-1].Name
	}
	return resp, nil
}

// page is how many entries a page has.
func page(limit uint32) int {
	if limit == 0 {
		return defaultPage
	}
	return int(min(limit, maxPage))
}

// lockToProto is a lock as the quorum knows it, with those who wait for it at
// this node behind the others.
func lockToProto(info lock.Info, local []waiter) *v1.Lock {
	m := &v1.Lock{Name: info.Name, Permits: uint32(info.Capacity), Delayed: info.Delayed}
	for _, c := range info.Holders {
		m.Mode = string(c.Mode)
		m.Holders = append(m.Holders, &v1.LockHolder{
			Session: c.Session.String(), Token: uint64(c.Token), Since: wire.Timestamp(c.Since),
			RequestId: requestID(c.Request), Note: c.Note, Permits: uint32(c.Permits),
		})
	}
	known := map[lock.Owner]bool{}
	for _, c := range info.Holders {
		known[lock.Owner{Session: c.Session, Request: c.Request}] = true
	}
	for _, c := range info.Waiters {
		known[lock.Owner{Session: c.Session, Request: c.Request}] = true
		m.Waiters = append(m.Waiters, &v1.LockWaiter{
			Session: c.Session.String(), RequestId: requestID(c.Request), Mode: string(c.Mode), Since: wire.Timestamp(c.Since),
		})
	}
	for _, w := range local {
		if !known[lock.Owner{Session: w.session, Request: requestName(w.request)}] {
			m.Waiters = append(m.Waiters, &v1.LockWaiter{
				Session: w.session.String(), RequestId: w.request, Mode: w.mode, Since: wire.Timestamp(w.since),
			})
		}
	}
	return m
}

// named puts the subject in front of an error that does not have one.
func named(kind, name, op string, err error) error {
	e, ok := errors.AsType[*holdfast.Error](err)
	if ok && e.Key == kind+" "+name {
		return err
	}
	n := &holdfast.Error{Key: kind + " " + name, Op: op, Code: holdfast.CodeOf(err), Outcome: holdfast.OutcomeOf(err), Err: err}
	if ok && error(e) == err && e.Key == "" && e.Op == "" { //nolint:errorlint // only when it is the outermost
		n.Request, n.Err = e.Request, e.Err
	}
	return n
}

func invalid(why error) error {
	return &holdfast.Error{Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: why}
}
