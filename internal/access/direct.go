package access

import (
	"context"
	"errors"
	"sync"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/election"
	"holdfast.dev/engine"
	"holdfast.dev/engine/etcd"
	"holdfast.dev/kv"
	"holdfast.dev/lock"
	"holdfast.dev/membership"
)

// direct is the primitives in this process, on an etcd cluster.
type direct struct {
	engine engine.Engine
	cfg    Config

	mu        sync.Mutex // guards the fields below
	s         *engine.Session
	locks     *lock.Manager
	elections *election.Manager
}

func openDirect(ctx context.Context, cfg Config) (Backend, error) {
	at, err := etcd.ParseURL(cfg.Engine)
	if err != nil {
		return nil, err
	}
	e, err := etcd.Dial(ctx, at)
	if err != nil {
		return nil, err
	}
	return &direct{engine: e, cfg: cfg}, nil
}

// open opens the session and what works under it.
func (d *direct) open(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.s != nil {
		return nil
	}
	s, err := engine.OpenSession(ctx, d.engine, d.cfg.Session)
	if err != nil {
		return unopened(err)
	}
	d.s, d.locks, d.elections = s, lock.New(s, lock.Config{}), election.New(s, election.Config{})
	return nil
}

func (d *direct) Life(ctx context.Context) (*engine.Lifeline, error) {
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	return d.s.Lifeline, nil
}

func (d *direct) Acquire(ctx context.Context, name string, opts ...lock.Option) (*lock.Held, error) {
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	return d.locks.Acquire(ctx, name, opts...)
}

func (d *direct) Inspect(ctx context.Context, name string) (client.LockInfo, error) {
	if err := d.open(ctx); err != nil {
		return client.LockInfo{}, err
	}
	info, err := d.locks.Inspect(ctx, name)
	if err != nil {
		return client.LockInfo{}, err
	}
	return d.named(ctx, info)
}

// named adds the names of the holders' sessions.
func (d *direct) named(ctx context.Context, info lock.Info) (client.LockInfo, error) {
	out := client.LockInfo{Info: info, SessionNames: map[engine.SessionID]string{}}
	for _, h := range info.Holders {
		rec, err := engine.LookupSession(ctx, d.engine, h.Session)
		switch {
		case err == nil && rec.Name != "":
			out.SessionNames[h.Session] = rec.Name
		case err != nil && !errors.Is(err, holdfast.ErrNotFound):
			return out, err
		}
	}
	return out, nil
}

func (d *direct) Locks(ctx context.Context, prefix, after string, limit int) ([]client.LockInfo, error) {
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	infos, err := d.locks.List(ctx, prefix, after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]client.LockInfo, len(infos))
	for i, info := range infos {
		if out[i], err = d.named(ctx, info); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (d *direct) Campaign(ctx context.Context, name string, value []byte, opts ...election.Option) (*election.Leadership, error) {
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	return d.elections.Campaign(ctx, name, value, opts...)
}

func (d *direct) Elections(ctx context.Context, prefix, after string, limit int) ([]client.ElectionInfo, error) {
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	infos, err := d.elections.List(ctx, prefix, after, limit)
	out := make([]client.ElectionInfo, len(infos))
	for i, info := range infos {
		out[i] = client.ElectionInfo{Name: info.Name, Leader: info.Leader, Candidates: info.Candidates}
	}
	return out, err
}

func (d *direct) Leader(ctx context.Context, name string) (election.Leader, error) {
	if err := d.open(ctx); err != nil {
		return election.Leader{}, err
	}
	return d.elections.Leader(ctx, name)
}

func (d *direct) Observe(ctx context.Context, name string) (<-chan election.View, error) {
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	return d.elections.Observe(ctx, name), nil
}

func (d *direct) Register(ctx context.Context, group string, m membership.Member) (Registration, error) {
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	return membership.New(d.s).Register(ctx, group, m)
}

func (d *direct) Roster(ctx context.Context, group string) (membership.Roster, error) {
	return membership.NewFor(d.engine, 0).Roster(ctx, group)
}

func (d *direct) Groups(ctx context.Context, prefix string) ([]string, error) {
	return membership.NewFor(d.engine, 0).Groups(ctx, prefix)
}

func (d *direct) WatchMembers(ctx context.Context, group string) <-chan membership.Event {
	return membership.NewFor(d.engine, 0).Watch(ctx, group)
}

func (d *direct) Reader() Reader { return kv.NewFor(d.engine, 0) }

func (d *direct) Writer(ctx context.Context) (Writer, error) {
	if err := d.open(ctx); err != nil {
		return nil, err
	}
	return kv.New(d.s), nil
}

func (d *direct) Close(ctx context.Context) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	var err error
	if d.s != nil {
		d.locks.Close()
		d.elections.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
		defer cancel()
		err = d.s.Close(ctx)
	}
	return errors.Join(err, d.engine.Close())
}
