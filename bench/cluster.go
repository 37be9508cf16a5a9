package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"holdfast.dev/bench/peer"
	"holdfast.dev/engine"
	"holdfast.dev/engine/embed"
	"holdfast.dev/engine/etcd"
	"holdfast.dev/lock"
)

// cluster is nodes in this process, which talk to one another over loopback.
// Both sides use the same one, by way of its leader: ours in process, unless
// the arm says otherwise, etcd's client over gRPC.
type cluster struct {
	nodes   []*embed.Node
	clients []string // URLs of etcd's API
	closers []func()
}

// startCluster starts n nodes with default settings, data synced to disk.
func (b *bench) startCluster(ctx context.Context, n int) (*cluster, error) {
	ports, err := peer.FreePorts(ctx, 2*n)
	if err != nil {
		return nil, err
	}
	url := func(i int) string { return fmt.Sprintf("http://127.0.0.1:%d", ports[i]) }
	var members []string
	for i := range n {
		members = append(members, fmt.Sprintf("n%d=%s", i+1, url(2*i)))
	}
	c := &cluster{nodes: make([]*embed.Node, n), clients: make([]string, n)}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		c.clients[i] = url(2*i + 1)
		wg.Go(func() {
			c.nodes[i], errs[i] = embed.Start(ctx, embed.Config{
				Dir: filepath.Join(b.dir, fmt.Sprintf("n%d", i+1)), Name: fmt.Sprintf("n%d", i+1),
				ListenPeer: url(2 * i), ListenClient: c.clients[i], InitialCluster: strings.Join(members, ","),
				Logger: slog.New(slog.DiscardHandler),
			})
		})
	}
	wg.Wait()
	for _, node := range c.nodes {
		if node != nil {
			c.onClose(func() { node.Kill() }) //nolint:errcheck // its data is thrown away
		}
	}
	if err := errors.Join(errs...); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *cluster) onClose(f func()) { c.closers = append(c.closers, f) }

// close ends everything in the reverse order.
func (c *cluster) close() {
	for _, f := range slices.Backward(c.closers) {
		f()
	}
}

// leader is the index of the node that leads.
func (c *cluster) leader(ctx context.Context) (int, error) {
	for i, n := range c.nodes {
		s, err := n.Status(ctx)
		if err != nil {
			return 0, err
		}
		if s.Leader == s.MemberID {
			return i, nil
		}
	}
	return 0, errors.New("no node leads")
}

// closeWithin bounds what is to be tidied up when the run is over.
const closeWithin = 5 * time.Second

// locks is a process's way to locks over an engine: one session, group commit.
func (c *cluster) locks(ctx context.Context, e engine.Engine) (*lock.Manager, error) {
	co := engine.Coalesce(e, engine.CoalesceConfig{})
	s, err := engine.OpenSession(ctx, co, engine.SessionConfig{})
	if err != nil {
		return nil, errors.Join(err, co.Close())
	}
	m := lock.New(s, lock.Config{})
	c.onClose(func() {
		m.Close()
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
		defer cancel()
		_ = s.Close(ctx) // else it expires
		_ = co.Close()   // never fails
	})
	return m, nil
}

// local is an engine in the leader's process.
func (c *cluster) local(ctx context.Context) (engine.Engine, error) {
	i, err := c.leader(ctx)
	if err != nil {
		return nil, err
	}
	return c.nodes[i], nil
}

// remote is an engine over gRPC to the leader, with keys of its own: an arm
// must not wake the watches of another.
func (c *cluster) remote(ctx context.Context, prefix string) (engine.Engine, error) {
	i, err := c.leader(ctx)
	if err != nil {
		return nil, err
	}
	e, err := etcd.Dial(ctx, etcd.Config{Endpoints: []string{c.clients[i]}, Prefix: prefix})
	if err == nil {
		c.onClose(func() { e.Close() }) //nolint:errcheck // nothing is lost that is still wanted
	}
	return e, err
}

// etcdClient is etcd's own client of the leader.
func (c *cluster) etcdClient(ctx context.Context) (*clientv3.Client, error) {
	i, err := c.leader(ctx)
	if err != nil {
		return nil, err
	}
	return c.dialEtcd(c.clients[i])
}

func (c *cluster) dialEtcd(endpoints ...string) (*clientv3.Client, error) {
	cl, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(), DialTimeout: closeWithin})
	if err == nil {
		c.onClose(func() { cl.Close() }) //nolint:errcheck // nothing is lost that is still wanted
	}
	return cl, err
}

// etcdSession is a session of etcd's recipes with its default TTL of 60 s.
func (c *cluster) etcdSession(cl *clientv3.Client) (*concurrency.Session, error) {
	s, err := concurrency.NewSession(cl)
	if err == nil {
		c.onClose(func() { s.Close() }) //nolint:errcheck // else it expires
	}
	return s, err
}

// holdfastPair acquires and releases one name.
func holdfastPair(m *lock.Manager, name string) pair {
	return func(ctx context.Context) error {
		h, err := m.Acquire(ctx, name)
		if err != nil {
			return err
		}
		return h.Release(ctx)
	}
}

// etcdPair does the same with etcd's recipe.
func etcdPair(s *concurrency.Session, name string) pair {
	m := concurrency.NewMutex(s, name)
	return func(ctx context.Context) error {
		if err := m.Lock(ctx); err != nil {
			return err
		}
		return m.Unlock(ctx)
	}
}
