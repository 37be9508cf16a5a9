package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/engine"
	"holdfast.dev/engine/embed"
	"holdfast.dev/engine/etcd"
	"holdfast.dev/internal/cert"
	"holdfast.dev/internal/config"
	"holdfast.dev/internal/server"
)

// Config is what a node is made from.
type Config struct {
	config.Serve
	Version string       // of Holdfast
	Logger  *slog.Logger // default none

	// JoinToken and JoinTLS are shown to the node that is joined.
	JoinToken string
	JoinTLS   cert.Files
}

// Node is a node that serves. Its methods are safe for concurrent use.
type Node struct {
	cfg    Config
	store  *embed.Node   // nil with an etcd cluster
	base   engine.Engine // the store or the etcd cluster
	engine *engine.Coalescer
	server *server.Server
	traces *traces

	unmaintain context.CancelFunc // ends what maintains the store
	maintained sync.WaitGroup
}

// Start starts a node and waits until it serves or ctx ends.
func Start(ctx context.Context, cfg Config) (n *Node, err error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	n = &Node{cfg: cfg}
	defer func() {
		if err != nil {
			cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			err = errors.Join(err, n.Close(cctx))
			n = nil
		}
	}()
	var join *joining
	switch {
	case cfg.Engine != "":
		err = n.dial(ctx)
	case cfg.Join != "" && !started(cfg.Data):
		join, err = n.join(ctx)
	default:
		err = n.embed(ctx, embed.Config{InitialCluster: initialCluster(cfg.PeerList())})
	}
	if err != nil {
		return n, err
	}
	if n.traces, err = newTraces(ctx, cfg.Traces, cfg.Name); err != nil {
		return n, err
	}
	if n.server, err = server.Start(ctx, n.serverConfig()); err != nil {
		return n, err
	}
	if join != nil {
		if err := join.promote(ctx); err != nil {
			return n, err
		}
	}
	return n, n.serving(ctx)
}

// started says whether a data directory belongs to a node that ran before: the
// log's directory appears at once, when all else is there. What a start left that
// failed before that is no node; taken for one it would begin a cluster of its own.
func started(dir string) bool {
	entries, err := os.ReadDir(filepath.Join(dir, "member", "wal"))
	return err == nil && len(entries) > 0
}

func initialCluster(peers []config.Peer) string {
	words := make([]string, len(peers))
	for i, p := range peers {
		words[i] = p.Name + "=" + p.URL
	}
	return strings.Join(words, ",")
}

// dial uses an etcd cluster that is there already.
func (n *Node) dial(ctx context.Context) error {
	at, err := etcd.ParseURL(n.cfg.Engine)
	if err != nil {
		return err
	}
	e, err := etcd.Dial(ctx, at)
	if err != nil {
		return err
	}
	n.base, n.engine = e, engine.Coalesce(e, engine.CoalesceConfig{})
	return nil
}

// embed starts the embedded store; e has what depends on how it is started.
func (n *Node) embed(ctx context.Context, e embed.Config) error {
	c := n.cfg
	scheme := "http://"
	if c.PeerTLSCert != "" {
		scheme = "https://"
	}
	e.Dir, e.Name = c.Data, c.Name
	e.ListenPeer, e.AdvertisePeer = scheme+c.PeerListen, c.AdvertisedPeer()
	if c.EtcdListen != "" {
		e.ListenClient = "http://" + c.EtcdListen
	}
	if e.ClusterToken == "" {
		e.ClusterToken = c.ClusterToken
	}
	e.Heartbeat, e.Election, e.Quota = c.Heartbeat.Value, c.ElectionTimeout.Value, int64(c.Quota.Value)
	e.CompactAfter, e.SnapshotCount = c.History.Value, uint64(c.LogEntries.Value)
	e.PeerTLS = embed.TLS{Cert: c.PeerTLSCert, Key: c.PeerTLSKey, CA: c.PeerTLSCA}
	e.Logger = c.Logger
	store, err := embed.Start(ctx, e)
	if err != nil {
		return err
	}
	n.store, n.base, n.engine = store, store, engine.Coalesce(store, engine.CoalesceConfig{})
	ctx, n.unmaintain = context.WithCancel(context.WithoutCancel(ctx))
	n.maintained.Go(func() {
		if err := store.Maintain(ctx, embed.MaintainConfig{}); err != nil {
			c.Logger.ErrorContext(ctx, "the store is not maintained", slog.String("error", err.Error()))
		}
	})
	return nil
}

func (n *Node) serverConfig() server.Config {
	c := n.cfg
	s := server.Config{
		Engine: n.engine, Name: c.Name, Version: c.Version, Advertise: []string{c.AdvertisedAPI()}, Listen: c.Listen,
		TLS: cert.Files{Cert: c.TLSCert, Key: c.TLSKey, CA: c.TLSCA}, RequireClientCert: c.TLSCA != "" && c.Tokens == "",
		Insecure: c.Insecure, Tokens: c.Tokens, SessionTTL: c.SessionTTL.Value, Logger: c.Logger,
		Limits: server.Limits{
			Sessions: int(c.MaxSessions.Value), SessionsEach: int(c.MaxSessionsEach.Value),
			StreamsEach: int(c.MaxWatchesEach.Value), WaitersSession: int(c.MaxWatchesEach.Value), Rate: int(c.RateEach.Value),
		},
	}
	if n.store != nil {
		s.Cluster = cluster{node: n.store, token: c.ClusterToken}
	}
	if n.traces != nil {
		s.Tracer = n.traces.provider
	}
	return s
}

// serving waits until the server is ready.
func (n *Node) serving(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := n.server.Ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &holdfast.Error{Op: "start", Key: "node " + n.cfg.Name, Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied, Err: err}
		case <-n.Done():
			return &holdfast.Error{
				Op: "start", Key: "node " + n.cfg.Name, Code: holdfast.CodeClosed, Outcome: holdfast.NotApplied,
				Err: errors.New("the embedded store stopped by itself"),
			}
		}
	}
}

// URL is where the API is served.
func (n *Node) URL() string { return n.server.URL() }

// Done is closed when the embedded store has stopped by itself; it never is
// with an engine of its own.
func (n *Node) Done() <-chan struct{} {
	if n.store == nil {
		return nil
	}
	return n.store.Done()
}

// Reload reads the tokens again. Certificates are taken up by themselves.
func (n *Node) Reload() error { return n.server.Reload() }

// Close stops the node: it takes no more calls, lets those under way finish
// until ctx ends, hands leadership over, and closes the store.
func (n *Node) Close(ctx context.Context) error {
	var errs []error
	if n.server != nil {
		errs = append(errs, n.server.Shutdown(ctx))
	}
	if n.unmaintain != nil {
		n.unmaintain()
		n.maintained.Wait()
	}
	if n.engine != nil {
		errs = append(errs, n.engine.Close(), n.base.Close())
	}
	if n.traces != nil {
		n.traces.close(ctx, n.cfg.Logger)
	}
	return errors.Join(errs...)
}

// joining is a node on its way into a cluster.
type joining struct {
	client *client.Client
	id     string
}

// join announces the node to the cluster and starts it as a learner.
func (n *Node) join(ctx context.Context) (*joining, error) {
	cc := client.Config{Endpoints: []string{n.cfg.Join}, Token: n.cfg.JoinToken}
	if n.cfg.JoinTLS != (cert.Files{}) {
		t, err := n.cfg.JoinTLS.Client()
		if err != nil {
			return nil, err
		}
		cc.TLS = t
	}
	c, err := client.Dial(ctx, cc)
	if err != nil {
		return nil, fmt.Errorf("join %s: %w", n.cfg.Join, err)
	}
	in, err := c.Join(ctx, n.cfg.Name, []string{n.cfg.AdvertisedPeer()}, []string{n.cfg.AdvertisedAPI()})
	if err == nil {
		err = n.embed(ctx, embed.Config{Existing: true, InitialCluster: in.InitialCluster, ClusterToken: in.ClusterToken})
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return &joining{client: c, id: in.Member.ID}, nil
}

// promote waits until the learner has caught up and got its vote.
func (j *joining) promote(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, j.client.Close()) }()
	for {
		err := j.client.Promote(ctx, j.id)
		if err == nil || !errors.Is(err, holdfast.ErrConflict) && !errors.Is(err, holdfast.ErrNoQuorum) {
			return err
		}
		timer := time.NewTimer(200 * time.Millisecond)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return err
		}
	}
}
