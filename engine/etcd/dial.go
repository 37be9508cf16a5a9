package etcd

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"

	"holdfast.dev"
)

const (
	leaderGrace = 100 * time.Millisecond // how long a probe round waits for the leader after another member answered
	roundPause  = 250 * time.Millisecond // between rounds while no member answers
)

// Dial connects to a cluster and returns when one of its members has answered a
// linearizable read. Close the engine to release it.
func Dial(ctx context.Context, cfg Config) (*Engine, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	n := &network{cfg: cfg, kick: make(chan struct{}, 1), moved: make(chan struct{})}
	for _, ep := range cfg.Endpoints {
		m, err := newMember(cfg, ep)
		if err != nil {
			return nil, errors.Join(
				&holdfast.Error{Op: "dial", Key: "etcd " + ep, Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err},
				n.closeConns())
		}
		n.members = append(n.members, m)
	}
	n.active = n.members[0]
	if err := n.first(ctx); err != nil {
		return nil, errors.Join(err, n.closeConns())
	}
	n.stop, n.cancel = context.WithCancel(context.Background())
	n.watchdog.Go(n.watch)
	return New(n, Options{Prefix: cfg.Prefix, Attempt: cfg.Attempt, Quiet: cfg.Quiet}), nil
}

// network is the Backend of a cluster on the network. One member is used at a
// time; a watchdog makes it prove again and again that it has a majority, and
// moves to another one when it cannot.
type network struct {
	cfg      Config
	members  []*member
	kick     chan struct{}
	stop     context.Context
	cancel   context.CancelFunc
	watchdog sync.WaitGroup

	mu     sync.Mutex
	active *member
	moved  chan struct{} // closed when active changes
}

// first finds a member to begin with.
func (n *network) first(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, n.cfg.DialTimeout)
	defer cancel()
	for {
		err := n.round(ctx, n.cfg.DialTimeout)
		if err == nil {
			return nil
		}
		v, _ := classify(err, false)
		if v.code != holdfast.CodeDenied && wait(ctx, roundPause, nil) {
			continue
		}
		if ctx.Err() != nil {
			v.code = holdfast.CodeNoQuorum
		}
		return &holdfast.Error{Op: "dial", Key: "etcd", Code: v.code, Outcome: holdfast.NotApplied, Err: err}
	}
}

// watch is the watchdog.
func (n *network) watch() {
	for wait(n.stop, n.cfg.Probe, n.kick) {
		ctx, cancel := context.WithTimeout(n.stop, n.cfg.ProbeTimeout)
		h := n.current().probe(ctx)
		cancel()
		if h.err == nil {
			continue
		}
		for n.round(n.stop, n.cfg.ProbeTimeout) != nil && wait(n.stop, roundPause, nil) {
		}
	}
}

// round probes all members at once and moves to the best: the leader, because
// the others pass everything on to it, else the first to answer.
func (n *network) round(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type answer struct {
		m *member
		h health
	}
	answers := make(chan answer, len(n.members))
	var probes sync.WaitGroup
	defer probes.Wait()
	defer cancel()
	for _, m := range n.members {
		probes.Go(func() { answers <- answer{m, m.probe(ctx)} })
	}
	var best *member
	var errs []error
	var grace <-chan time.Time
	for range n.members {
		select {
		case a := <-answers:
			if a.h.err != nil {
				errs = append(errs, a.h.err)
				continue
			}
			if a.h.leader {
				n.use(a.m)
				return nil
			}
			if best == nil {
				best = a.m
				t := time.NewTimer(leaderGrace)
				defer t.Stop()
				grace = t.C
			}
		case <-grace:
			n.use(best)
			return nil
		}
	}
	if best == nil {
		return worst(errs)
	}
	n.use(best)
	return nil
}

// worst picks the error to show: a refusal tells more than a silence.
func worst(errs []error) error {
	for _, err := range errs {
		if v, _ := classify(err, false); v.code == holdfast.CodeDenied {
			return err
		}
	}
	return errs[0]
}

func (n *network) current() *member {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.active
}

// use makes m the member in use. Streams move; requests in flight stay.
func (n *network) use(m *member) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.active == m {
		return
	}
	n.active = m
	close(n.moved)
	n.moved = make(chan struct{})
}

// Stubs implements Backend.
func (n *network) Stubs() (Stubs, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := n.active.stubs
	s.Progress = n.active.progress.Load()
	return s, n.moved
}

// Prepare implements Backend.
func (n *network) Prepare(ctx context.Context) (context.Context, func() bool) {
	flag := new(atomic.Bool)
	return context.WithValue(requireLeader(ctx), departed{}, flag), flag.Load
}

// requireLeader asks a member to refuse rather than wait while it knows of no
// leader, and to end streams.
func requireLeader(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
}

// Refresh implements Backend.
func (n *network) Refresh(ctx context.Context) bool {
	m := n.current()
	return m.tokens.refresh(ctx, m.tokens.current()) == nil
}

// Suspect implements Backend.
func (n *network) Suspect() {
	select {
	case n.kick <- struct{}{}:
	default: // the watchdog has been told
	}
}

// Leader implements Backend: a member without a leader ends the streams itself.
func (n *network) Leader() bool { return true }

// Close implements Backend.
func (n *network) Close() error {
	n.cancel()
	n.watchdog.Wait()
	return n.closeConns()
}

func (n *network) closeConns() error {
	var errs []error
	for _, m := range n.members {
		errs = append(errs, m.conn.Close())
	}
	return errors.Join(errs...)
}

// wait pauses for d, or until early says something; false when ctx ended.
func wait(ctx context.Context, d time.Duration, early <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-early:
	case <-ctx.Done():
		return false
	}
	return ctx.Err() == nil
}
