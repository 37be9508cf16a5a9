package access

import (
	"context"
	"errors"
	"sync"

	"holdfast.dev/client"
	"holdfast.dev/election"
	"holdfast.dev/engine"
	"holdfast.dev/lock"
	"holdfast.dev/membership"
)

// remote is the primitives behind the API.
type remote struct {
	c   *client.Client
	cfg Config

	mu sync.Mutex // guards s
	s  *client.Session
}

func (r *remote) session(ctx context.Context) (*client.Session, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.s != nil {
		return r.s, nil
	}
	s, err := r.c.OpenSession(ctx, r.cfg.Session)
	if err != nil {
		return nil, unopened(err)
	}
	r.s = s
	return s, nil
}

func (r *remote) Life(ctx context.Context) (*engine.Lifeline, error) {
	s, err := r.session(ctx)
	if err != nil {
		return nil, err
	}
	return s.Lifeline, nil
}

func (r *remote) Acquire(ctx context.Context, name string, opts ...lock.Option) (*lock.Held, error) {
	s, err := r.session(ctx)
	if err != nil {
		return nil, err
	}
	return s.Acquire(ctx, name, opts...)
}

func (r *remote) Inspect(ctx context.Context, name string) (client.LockInfo, error) {
	return r.c.Inspect(ctx, name)
}

func (r *remote) Locks(ctx context.Context, prefix, after string, limit int) ([]client.LockInfo, error) {
	return r.c.Locks(ctx, prefix, after, limit)
}

func (r *remote) Campaign(ctx context.Context, name string, value []byte, opts ...election.Option) (*election.Leadership, error) {
	s, err := r.session(ctx)
	if err != nil {
		return nil, err
	}
	return s.Campaign(ctx, name, value, opts...)
}

func (r *remote) Elections(ctx context.Context, prefix, after string, limit int) ([]client.ElectionInfo, error) {
	return r.c.Elections(ctx, prefix, after, limit)
}

func (r *remote) Leader(ctx context.Context, name string) (election.Leader, error) {
	return r.c.Leader(ctx, name)
}

func (r *remote) Observe(ctx context.Context, name string) (<-chan election.View, error) {
	return r.c.Observe(ctx, name), nil
}

func (r *remote) Register(ctx context.Context, group string, m membership.Member) (Registration, error) {
	s, err := r.session(ctx)
	if err != nil {
		return nil, err
	}
	return s.Register(ctx, group, m)
}

func (r *remote) Roster(ctx context.Context, group string) (membership.Roster, error) {
	return r.c.Roster(ctx, group)
}

func (r *remote) Groups(ctx context.Context, prefix string) ([]string, error) {
	return r.c.Groups(ctx, prefix)
}

func (r *remote) WatchMembers(ctx context.Context, group string) <-chan membership.Event {
	return r.c.WatchMembers(ctx, group)
}

func (r *remote) Reader() Reader { return r.c.KV() }

func (r *remote) Writer(ctx context.Context) (Writer, error) {
	s, err := r.session(ctx)
	if err != nil {
		return nil, err
	}
	return s.KV(), nil
}

func (r *remote) Close(ctx context.Context) error {
	r.mu.Lock()
	s := r.s
	r.mu.Unlock()
	var err error
	if s != nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
		defer cancel()
		err = s.Close(ctx)
	}
	return errors.Join(err, r.c.Close())
}
