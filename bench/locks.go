package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/go-zookeeper/zk"

	"holdfast.dev/bench/peer"
	"holdfast.dev/engine"
)

func pairs3(ctx context.Context, b *bench) ([]row, error) {
	c, err := b.startCluster(ctx, 3)
	if err != nil {
		return nil, err
	}
	defer c.close()
	const workers = 64
	arms, err := c.ownNames(ctx, workers)
	if err != nil {
		return nil, err
	}
	s, err := b.measure(ctx, arms...)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("pairs, own names, 3 nodes, %d workers", workers)
	r := s[0].against(s[1], what, 2.5)
	r.Note = "the three nodes share this process and its cores with both clients; both clients use the leader"
	return []row{r, s[2].against(s[1], what+", both over gRPC", 0)}, nil
}

func pairs1(ctx context.Context, b *bench) ([]row, error) {
	c, err := b.startCluster(ctx, 1)
	if err != nil {
		return nil, err
	}
	defer c.close()
	const workers = 256
	arms, err := c.ownNames(ctx, workers)
	if err != nil {
		return nil, err
	}
	for _, r := range []struct {
		name string
		args []string
	}{
		{"redsync-aof-always", []string{"--appendonly", "yes", "--appendfsync", "always"}},
		{"redsync-defaults", nil},
	} {
		a, err := c.redsync(ctx, b, r.name, workers, r.args)
		if err != nil {
			return nil, err
		}
		arms = append(arms, a)
	}
	s, err := b.measure(ctx, arms...)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("pairs, own names, 1 node, %d workers", workers)
	always := s[0].against(s[3], what, 0)
	always.Note = "redsync-aof-always: one Redis that syncs every write (appendonly yes, appendfsync always); " +
		"redsync-defaults: one Redis as it comes, which loses locks in a crash; neither gives fencing tokens"
	return []row{
		s[0].against(s[1], what, 4),
		s[2].against(s[1], what+", both over gRPC", 0),
		always,
		s[0].against(s[4], what, 0),
	}, nil
}

// ownNames are the arms whose workers have a name each: ours in process, etcd's
// recipe, ours over gRPC.
func (c *cluster) ownNames(ctx context.Context, workers int) ([]arm, error) {
	local, err := c.local(ctx)
	if err != nil {
		return nil, err
	}
	remote, err := c.remote(ctx, "/bench-grpc/")
	if err != nil {
		return nil, err
	}
	client, err := c.etcdClient(ctx)
	if err != nil {
		return nil, err
	}
	session, err := c.etcdSession(client)
	if err != nil {
		return nil, err
	}
	theirs := arm{name: "etcd"}
	for w := range workers {
		theirs.workers = append(theirs.workers, etcdPair(session, fmt.Sprintf("bench/own/%d", w)))
	}
	arms := []arm{{name: "holdfast"}, theirs, {name: "holdfast-grpc"}}
	for i, e := range map[int]engine.Engine{0: local, 2: remote} {
		m, err := c.locks(ctx, e)
		if err != nil {
			return nil, err
		}
		for w := range workers {
			arms[i].workers = append(arms[i].workers, holdfastPair(m, fmt.Sprintf("%s/%d", arms[i].name, w)))
		}
	}
	return arms, nil
}

// redsync is the arm of one Redis, started with args.
func (c *cluster) redsync(ctx context.Context, b *bench, name string, workers int, args []string) (arm, error) {
	a := arm{name: name}
	r, err := peer.StartRedis(ctx, b.host, filepath.Join(b.dir, name), workers, args...)
	if errors.Is(err, peer.ErrMissing) {
		a.missing = err.Error()
		return a, nil
	}
	if err != nil {
		return a, err
	}
	c.onClose(r.Close)
	rs := redsync.New(goredis.NewPool(r.Client))
	for w := range workers {
		m := rs.NewMutex(fmt.Sprintf("bench/own/%d", w))
		a.workers = append(a.workers, func(ctx context.Context) error {
			if err := m.LockContext(ctx); err != nil {
				return err
			}
			_, err := m.UnlockContext(ctx)
			return err
		})
	}
	return a, nil
}

func hot1(ctx context.Context, b *bench) ([]row, error) { return hot(ctx, b, 1) }
func hot3(ctx context.Context, b *bench) ([]row, error) { return hot(ctx, b, 3) }

// hot is one lock that many want: how often it changes hands.
func hot(ctx context.Context, b *bench, nodes int) ([]row, error) {
	const waiters, processes = 32, 4
	c, err := b.startCluster(ctx, nodes)
	if err != nil {
		return nil, err
	}
	defer c.close()
	local, err := c.local(ctx)
	if err != nil {
		return nil, err
	}
	remote, err := c.remote(ctx, "/bench-grpc/")
	if err != nil {
		return nil, err
	}
	remotes, err := c.remote(ctx, "/bench-processes/")
	if err != nil {
		return nil, err
	}
	arms := []arm{{name: "holdfast"}, {name: "etcd"}, {name: "zookeeper"}, {name: "holdfast-grpc"}, {name: "holdfast-grpc-4-processes"}}
	for _, of := range []struct {
		arm, managers int
		engine        engine.Engine
	}{{0, 1, local}, {3, 1, remote}, {4, processes, remotes}} {
		for range of.managers {
			m, err := c.locks(ctx, of.engine)
			if err != nil {
				return nil, err
			}
			for range waiters / of.managers {
				arms[of.arm].workers = append(arms[of.arm].workers, holdfastPair(m, arms[of.arm].name))
			}
		}
	}
	client, err := c.etcdClient(ctx)
	if err != nil {
		return nil, err
	}
	for range waiters {
		// Two mutexes of one session would both hold the lock.
		s, err := c.etcdSession(client)
		if err != nil {
			return nil, err
		}
		arms[1].workers = append(arms[1].workers, etcdPair(s, "bench/hot"))
	}
	if err := c.zookeeper(ctx, b, &arms[2], nodes, waiters); err != nil {
		return nil, err
	}
	s, err := b.measure(ctx, arms...)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("one hot lock, %d waiters, %d node(s)", waiters, nodes)
	ours := s[0].against(s[1], what, 15)
	ours.Note = "ours: waiters of one process hand over among themselves; etcd's recipe needs a session per waiter, on one client; " +
		"ZooKeeper's waiters share one connection"
	return []row{
		ours,
		s[0].against(s[2], what, 0),
		s[3].against(s[1], what+", both over gRPC", 0),
		s[4].against(s[1], what+", over gRPC, ours in 4 processes' sessions", 0),
	}, nil
}

// zookeeper fills in the arm of the recipe of go-zookeeper.
func (c *cluster) zookeeper(ctx context.Context, b *bench, a *arm, nodes, waiters int) error {
	z, err := peer.StartZooKeeper(ctx, b.host, filepath.Join(b.dir, "zookeeper"), nodes)
	if errors.Is(err, peer.ErrMissing) {
		a.missing = err.Error()
		return nil
	}
	if err != nil {
		return err
	}
	c.onClose(z.Close)
	conn, err := z.Connect(ctx)
	if err != nil {
		return err
	}
	c.onClose(conn.Close)
	for range waiters {
		l := zk.NewLock(conn, "/bench/hot", zk.WorldACL(zk.PermAll))
		a.workers = append(a.workers, func(context.Context) error { // the recipe knows no context
			if err := l.Lock(); err != nil {
				return err
			}
			return l.Unlock()
		})
	}
	return nil
}
