package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy/adapter"

	"holdfast.dev"
	"holdfast.dev/engine/etcd"
)

// Node is a member of a cluster of one or more, and an engine.Engine over it.
// It is safe for concurrent use.
type Node struct {
	*etcd.Engine

	cfg     Config
	srv     *embed.Etcd
	cluster etcdserverpb.ClusterClient
	lock    *os.File // on the data directory

	restarted bool // there was data when it started
	ready     chan struct{}
	settled   chan struct{} // closed when settle has ended
	settleErr error         // read after settled
	cancel    context.CancelFunc
	closeOnce sync.Once
	closeErr  error
}

// ErrInUse says that another node runs on a data directory.
var ErrInUse = errors.New("another node runs on this directory")

// lockFile is locked in the data directory while a node runs on it.
const lockFile = "holdfast.lock"

// Start runs a node and returns when it has joined its cluster, which for a new
// cluster takes a majority, or when ctx ends. When Dir was written by [Restore],
// the restore is finished first: see [FinishRestore]. Close ends the node.
func Start(ctx context.Context, cfg Config) (*Node, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	fail := func(code holdfast.Code, err error) error {
		return &holdfast.Error{Op: "start", Key: "node " + cfg.Name, Code: code, Outcome: holdfast.NotApplied, Err: err}
	}
	ecfg, err := cfg.etcd()
	if err != nil {
		return nil, fail(holdfast.CodeInternal, err)
	}
	lock, err := lockDir(cfg.Dir)
	if errors.Is(err, ErrInUse) {
		return nil, fail(holdfast.CodeConflict, fmt.Errorf("%s: %w", cfg.Dir, err))
	}
	if err != nil {
		return nil, fail(holdfast.CodeUnknown, err)
	}
	_, err = os.Stat(filepath.Join(cfg.Dir, "member", "wal"))
	restarted := err == nil
	for _, dir := range memberDirs(cfg.Dir) {
		if err := makeDirs(dir); err != nil {
			return nil, fail(holdfast.CodeUnknown, errors.Join(err, lock.Close()))
		}
	}
	srv, err := embed.StartEtcd(ecfg)
	if err == nil {
		if err = errors.Join(syncDir(filepath.Join(cfg.Dir, "member", "wal")), syncDir(filepath.Join(cfg.Dir, "member", "snap"))); err != nil {
			srv.Close()
		}
	}
	if err != nil && strings.HasSuffix(err.Error(), "has already been bootstrapped") {
		err = fmt.Errorf("%s is empty, but the others know this member: without its data it has forgotten what it promised them: "+
			"remove it from the cluster, and let it join anew (%w)", cfg.Dir, err)
		return nil, fail(holdfast.CodeConflict, errors.Join(err, lock.Close()))
	}
	if err != nil {
		return nil, fail(holdfast.CodeUnknown, errors.Join(err, lock.Close()))
	}
	n := &Node{cfg: cfg, srv: srv, lock: lock, restarted: restarted, ready: make(chan struct{}), settled: make(chan struct{})}
	n.cluster = adapter.ClusterServerToClusterClient(v3rpc.NewClusterServer(srv.Server))
	n.Engine = etcd.New(inProcess{srv.Server, stubs(srv.Server)}, etcd.Options{Kind: "embed", Prefix: cfg.Prefix, Attempt: cfg.Attempt})
	// However the server comes to stop, calls must be out of it before it lets
	// go of its store.
	srv.Server.GoAttach(func() {
		<-srv.Server.StoppingNotify()
		n.Engine.Close() //nolint:errcheck // in-process: never fails
	})
	settling, cancel := context.WithCancel(context.WithoutCancel(ctx))
	n.cancel = cancel
	go func() {
		defer close(n.settled)
		if n.settleErr = n.settle(settling); n.settleErr == nil {
			close(n.ready)
		}
	}()
	if cfg.NoWait {
		return n, nil
	}
	if err = n.Wait(ctx); err == nil {
		return n, nil
	}
	return nil, errors.Join(err, n.Kill()) //nolint:contextcheck // stopping must not stop halfway
}

// settle waits until the member has joined, and does what is to be done before
// anything is served.
func (n *Node) settle(ctx context.Context) error {
	select {
	case <-n.srv.Server.ReadyNotify():
	case <-n.srv.Server.StopNotify():
		return errors.New("the server stopped before it joined the cluster")
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := n.announce(ctx); err != nil {
		return err
	}
	if n.restarted {
		if err := n.srv.Server.CorruptionChecker().InitialCheck(); err != nil {
			return &holdfast.Error{Op: "compare with the others", Key: "data of " + n.cfg.Name, Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err}
		}
	}
	mark, err := readMark(n.cfg.Dir)
	if err != nil || mark == nil {
		return err
	}
	return n.retry(ctx, func() error { return finishRestore(ctx, n, *mark) })
}

// passing are the codes of errors that time may mend.
var passing = []holdfast.Code{holdfast.CodeNoQuorum, holdfast.CodeBusy, holdfast.CodeDeadline, holdfast.CodeConflict}

// retry calls f until it succeeds, fails for good, or ctx ends.
func (n *Node) retry(ctx context.Context, f func() error) error {
	for {
		err := f()
		if err == nil || !slices.Contains(passing, holdfast.CodeOf(err)) || !pause(ctx, 100*time.Millisecond) {
			return err
		}
	}
}

// pause waits for d; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Wait waits until the node is ready, for a node started with NoWait. It fails
// when ctx ends, and when the node cannot become ready: its data differs from
// that of the others, or it was closed. Close it then.
func (n *Node) Wait(ctx context.Context) error {
	var code holdfast.Code
	var err error
	select {
	case <-n.settled:
		if n.settleErr == nil {
			return nil
		}
		code, err = holdfast.CodeOf(n.settleErr), n.settleErr
	case <-ctx.Done():
		code, err = holdfast.CodeNoQuorum, context.Cause(ctx)
	}
	return &holdfast.Error{Op: "start", Key: "node " + n.cfg.Name, Code: code, Outcome: holdfast.NotApplied, Err: err}
}

// Ready is closed when the node has joined its cluster and may be served from.
func (n *Node) Ready() <-chan struct{} { return n.ready }

// Done is closed when the server has stopped: after Close, when the member was
// removed from the cluster, or when its disk failed.
func (n *Node) Done() <-chan struct{} { return n.srv.Server.StopNotify() }

// Close hands leadership over, when there is somebody to take it, and stops the
// server. Requests in flight end with [holdfast.ErrClosed].
func (n *Node) Close() error { return n.shut(true) }

// Kill stops the server without handing leadership over; to the other members
// it looks like a crash. What is on disk stays.
func (n *Node) Kill() error { return n.shut(false) }

func (n *Node) shut(handOver bool) error {
	n.closeOnce.Do(func() {
		n.cancel()
		<-n.settled
		if handOver {
			ctx, cancel := context.WithTimeout(context.Background(), 2*n.cfg.Election)
			if err := n.HandOver(ctx); err != nil {
				n.cfg.Logger.Warn("leadership not handed over; the others will elect a leader", slog.Any("error", err))
			}
			cancel()
		}
		n.closeErr = n.Engine.Close()
		if !handOver {
			n.srv.Server.HardStop()
		}
		n.srv.Close()
		n.closeErr = errors.Join(n.closeErr, n.lock.Close())
	})
	return n.closeErr
}

// Gatherer has the metrics of all etcd servers in this process, which register
// themselves in the default registry.
func Gatherer() prometheus.Gatherer { return prometheus.DefaultGatherer }

// inProcess is the etcd.Backend of a server in this process. There are no gRPC
// interceptors on this way: nothing ends the watches of a member that lost its
// leader, so its progress is not told then, and they fall silent.
type inProcess struct {
	s     *etcdserver.EtcdServer
	stubs etcd.Stubs
}

func stubs(s *etcdserver.EtcdServer) etcd.Stubs {
	return etcd.Stubs{
		KV:          adapter.KvServerToKvClient(v3rpc.NewQuotaKVServer(s)),
		Lease:       adapter.LeaseServerToLeaseClient(v3rpc.NewQuotaLeaseServer(s)),
		Watch:       adapter.WatchServerToWatchClient(v3rpc.NewWatchServer(s)),
		Maintenance: adapter.MaintenanceServerToMaintenanceClient(v3rpc.NewMaintenanceServer(s, nil)),
		Progress:    true,
	}
}

func (p inProcess) Stubs() (etcd.Stubs, <-chan struct{}) { return p.stubs, nil }

// Prepare lets calls pass when somebody has switched etcd's users on. What is
// handed to the server may have been proposed as soon as it is called.
func (p inProcess) Prepare(ctx context.Context) (context.Context, func() bool) {
	return p.s.AuthStore().WithRoot(ctx), func() bool { return true }
}

func (p inProcess) Refresh(context.Context) bool { return false }

func (p inProcess) Suspect() {}

func (p inProcess) Leader() bool { return p.s.Leader() != 0 }

func (p inProcess) Close() error { return nil }
