package client

import (
	"context"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
)

// Session is a session kept over the network: what a process holds hangs on
// it. It belongs to no node: whichever answers renews it. Safe for concurrent
// use.
type Session struct {
	*engine.Lifeline
	c        *Client
	slots    *slots
	requests atomic.Uint64 // numbers given to grants
}

// OpenSession opens a session and begins to renew it. It tries until ctx ends,
// which does not matter afterwards.
func (c *Client) OpenSession(ctx context.Context, cfg engine.SessionConfig) (*Session, error) {
	life, err := engine.StartLifeline(ctx, leaser{c}, cfg)
	if err != nil {
		return nil, err
	}
	return &Session{Lifeline: life, c: c, slots: newSlots()}, nil
}

// Client is the client that the session was opened with.
func (s *Session) Client() *Client { return s.c }

// leaser keeps sessions through the API.
type leaser struct{ c *Client }

func (l leaser) OpenSession(ctx context.Context, rec engine.SessionRecord) (engine.SessionInfo, error) {
	req := &v1.OpenRequest{Session: rec.ID.String(), Ttl: durationpb.New(rec.TTL), Name: rec.Name, Metadata: rec.Metadata}
	res, err := call(ctx, l.c, "", "", safe, func(ctx context.Context, e *endpoint) (*v1.OpenResponse, error) {
		return e.session.Open(ctx, req)
	})
	return engine.SessionInfo{TTL: res.GetTtl().AsDuration(), Epoch: uint16(res.GetEpoch())}, err
}

func (l leaser) RenewSession(ctx context.Context, id engine.SessionID) (time.Duration, error) {
	res, err := call(ctx, l.c, "", "session "+id.String(), safe, func(ctx context.Context, e *endpoint) (*v1.KeepAliveResponse, error) {
		return e.session.KeepAlive(ctx, &v1.KeepAliveRequest{Session: id.String()})
	})
	return res.GetTtl().AsDuration(), err
}

func (l leaser) CloseSession(ctx context.Context, id engine.SessionID) error {
	_, err := call(ctx, l.c, "", "session "+id.String(), safe, func(ctx context.Context, e *endpoint) (*v1.CloseResponse, error) {
		return e.session.Close(ctx, &v1.CloseRequest{Session: id.String()})
	})
	return err
}
