package client

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

	"holdfast.dev"
	"holdfast.dev/internal/wire"
)

// silence is how long a stream may say nothing before it is thought dead. Nodes
// send heartbeats some seconds apart.
const silence = 25 * time.Second

// follow keeps a stream open: at the node in use, and at another one when that
// stops serving. Open is called for each connection, each for every message; it
// says false to end. The error is nil when it did or ctx ended.
func follow[Msg any](ctx context.Context, c *Client, open func(context.Context, *endpoint) (*connect.ServerStreamForClient[Msg], error), each func(*Msg) bool) error {
	pause := firstPause
	for ctx.Err() == nil && c.life.Err() == nil {
		i := c.current.Load()
		e := c.endpoints[i]
		got, done, err := receive(ctx, c, e, open, each)
		if done || ctx.Err() != nil || c.life.Err() != nil {
			return nil //nolint:nilerr // the end was asked for
		}
		if err != nil && !failover(err) && !errors.Is(err, wire.ErrAgain) {
			return err
		}
		if c.current.Load() == i && err != nil {
			c.suspect(i)
		}
		if got {
			pause = firstPause
			continue
		}
		if !sleep(ctx, c.life, pause) {
			return nil
		}
		pause = min(2*pause, lastPause)
	}
	return nil
}

// receive reads one connection of a stream until it ends.
func receive[Msg any](ctx context.Context, c *Client, e *endpoint, open func(context.Context, *endpoint) (*connect.ServerStreamForClient[Msg], error), each func(*Msg) bool) (got, done bool, err error) {
	ctx, end := c.ending(ctx)
	defer end()
	ctx, cancel := e.during(ctx)
	defer cancel()
	e.long.Add(1)
	defer e.long.Add(-1)
	quiet := time.AfterFunc(silence, cancel)
	defer quiet.Stop()
	st, err := open(ctx, e)
	if err != nil {
		return false, false, wire.FromConnect(err)
	}
	defer st.Close() //nolint:errcheck // its messages are what counts
	for st.Receive() {
		quiet.Stop() // the receiver may take its time
		got = true
		if !each(st.Msg()) {
			return got, true, nil
		}
		quiet.Reset(silence)
	}
	return got, false, wire.FromConnect(st.Err())
}

// deliver sends v unless ctx or the client ends first.
func deliver[T any](ctx context.Context, c *Client, out chan<- T, v T) bool {
	select {
	case out <- v:
		return true
	case <-ctx.Done():
	case <-c.life.Done():
	}
	return false
}

// errClosed is the error of what is asked of a closed client.
func errClosed(op string) error {
	return &holdfast.Error{Op: op, Key: "client", Code: holdfast.CodeClosed, Outcome: holdfast.NotApplied}
}
