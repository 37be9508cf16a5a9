package holdfast

import (
	"context"
	"errors"
	"time"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/election"
	"holdfast.dev/engine"
	"holdfast.dev/internal/call"
	"holdfast.dev/lab/history"
	"holdfast.dev/lock"
)

// farewell is how long Close waits.
const farewell = 500 * time.Millisecond

// connection invokes the operations of one workload at one node. It dials when
// it is first used, and opens a session when there is none.
type connection struct {
	settings
	urls    []string // its own node's first
	invoke  invoke
	client  *client.Client
	session *client.Session
	held    map[string]*lock.Held
	terms   map[string]*election.Leadership
}

// invoke makes one call.
type invoke func(ctx context.Context, c *connection, op history.Op) history.Op

func newConnection(s settings, urls []string, f invoke) *connection {
	return &connection{settings: s, urls: urls, invoke: f, held: map[string]*lock.Held{}, terms: map[string]*election.Leadership{}}
}

// Invoke implements driver.Client.
func (c *connection) Invoke(ctx context.Context, op history.Op) history.Op {
	return c.invoke(ctx, c, op)
}

// Close implements driver.Client. What the client still gives back to a node
// that does not answer, it gives up by itself soon afterwards.
func (c *connection) Close() error {
	if c.client == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), farewell)
	defer cancel()
	if c.session != nil {
		_ = c.session.Close(ctx) // it ends by its TTL as well
	}
	done := make(chan error, 1)
	go func() { done <- c.client.Close() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return nil
	}
}

// dial connects; an error says that nothing was asked of the node yet.
func (c *connection) dial(ctx context.Context) error {
	if c.client != nil {
		return nil
	}
	cl, err := client.Dial(ctx, client.Config{Endpoints: c.urls, Attempt: c.attempt})
	if err != nil {
		return err
	}
	c.client = cl
	return nil
}

// open opens a session if there is none that lives; an error says that nothing
// was asked of the node but that.
func (c *connection) open(ctx context.Context) error {
	if err := c.dial(ctx); err != nil {
		return err
	}
	if c.session != nil {
		if c.session.Err() == nil {
			return nil
		}
		_ = c.session.Close(ctx) // it is lost
		c.session = nil
	}
	s, err := c.client.OpenSession(ctx, engine.SessionConfig{TTL: c.ttl, Name: "lab", Attempt: c.attempt / 2})
	if err != nil {
		return err
	}
	c.session = s
	return nil
}

// store is where keys are written.
func (c *connection) store(ctx context.Context) (*client.KV, error) {
	if !c.sessions {
		if err := c.dial(ctx); err != nil {
			return nil, err
		}
		return c.client.KV(), nil
	}
	if err := c.open(ctx); err != nil {
		return nil, err
	}
	return c.session.KV(), nil
}

// read makes a call without effect.
func (c *connection) read(ctx context.Context, op history.Op, f func(context.Context, *client.KV) (any, error)) history.Op {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	if err := c.dial(ctx); err != nil {
		return call.Fail(op, err)
	}
	v, err := f(ctx, c.client.KV())
	return call.End(op, v, err, true)
}

// write makes a call that changes something; f returns the revision of the write.
func (c *connection) write(ctx context.Context, op history.Op, f func(context.Context, *client.KV) (rev int64, err error)) history.Op {
	_, op = c.writeAt(ctx, op, f)
	return op
}

// writeAt is write, and the revision of an OK.
func (c *connection) writeAt(ctx context.Context, op history.Op, f func(context.Context, *client.KV) (rev int64, err error)) (int64, history.Op) {
	wctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	store, err := c.store(wctx)
	if err != nil {
		return 0, call.Fail(op, err)
	}
	rev, err := f(wctx, store)
	if _, mine := errors.AsType[decidedError](err); mine {
		return 0, call.Fail(op, err)
	}
	outcome := holdfast.OutcomeOf(err)
	if c.resolve && outcome == holdfast.Unknown {
		rctx, cancel := context.WithTimeout(ctx, c.timeout)
		defer cancel()
		settled, at, rerr := store.Resolve(rctx, err)
		if settled == holdfast.Unknown {
			return 0, call.Info(op, errors.Join(err, rerr))
		}
		outcome, rev = settled, at
	}
	switch outcome {
	case holdfast.Applied:
		return rev, call.OK(op, op.Value)
	case holdfast.NotApplied:
		return 0, call.Fail(op, err)
	case holdfast.Unknown:
	}
	return 0, call.Info(op, err)
}

// decidedError is what a call that succeeded found, and why nothing was changed.
type decidedError struct{ error }

func (e decidedError) Unwrap() error { return e.error }

// errConflict says that a condition did not hold.
var errConflict = decidedError{errors.New("conflict: somebody else was first")}
