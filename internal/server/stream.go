package server

import (
	"context"

	"holdfast.dev"
)

// stream begins one stream of events: it counts, and its context ends also when
// the node stops. The caller calls done once or more.
func (s *Server) stream(ctx context.Context) (_ context.Context, done func(), err error) {
	giveBack, err := s.streams.take(callerOf(ctx).client)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(s.stopping, cancel)
	context.AfterFunc(ctx, giveBack) // once, at the latest when done is called
	return ctx, func() {
		unhook()
		cancel()
	}, nil
}

// ended is what a stream says whose context ended: that the node stops, or that
// the caller went away.
func (s *Server) ended(ctx context.Context) error {
	if s.stopping.Err() != nil {
		return &holdfast.Error{Key: "node " + s.cfg.Name, Op: "stop", Code: holdfast.CodeClosed, Outcome: holdfast.NotApplied}
	}
	return &holdfast.Error{Code: holdfast.CodeOf(ctx.Err()), Outcome: holdfast.NotApplied, Err: ctx.Err()}
}

// drain ends a watch and waits until its channel is closed.
func drain[T any](events <-chan T, stop func()) {
	stop()
	for range events {
	}
}
