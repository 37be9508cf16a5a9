package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/engine"
	"holdfast.dev/engine/etcd"
	"holdfast.dev/internal/devcluster"
)

// Of the failover benchmark.
const (
	failoverWorkers  = 4                // of each kind of client, with a lock each
	failoverBefore   = 2 * time.Second  // of work before the kill
	failoverPatience = 20 * time.Second // after it
)

// startNodes starts real node processes with default settings.
func (b *bench) startNodes(ctx context.Context, nodes int, args ...string) (*devcluster.Cluster, error) {
	bin, err := b.holdfast(ctx)
	if err != nil {
		return nil, err
	}
	return devcluster.Start(ctx, devcluster.Config{
		Binary: bin, Dir: filepath.Join(b.dir, "nodes"), Environ: os.Environ(), Nodes: nodes, Args: append([]string{"--log-level", "error"}, args...),
	})
}

// holdfast is the binary to measure.
func (b *bench) holdfast(ctx context.Context) (string, error) {
	if b.binary != "" {
		return filepath.Abs(b.binary)
	}
	root, err := exec.CommandContext(ctx, "go", "list", "-m", "-f", "{{.Dir}}", "holdfast.dev").Output()
	if err != nil {
		return "", fmt.Errorf("find the module holdfast.dev: %w (run in bench/, or name a binary with -holdfast)", err)
	}
	bin := filepath.Join(b.dir, "holdfast")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "./cmd/holdfast")
	build.Dir = strings.TrimSpace(string(root))
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build holdfast: %w (or name a binary with -holdfast)\n%s", err, out)
	}
	return bin, nil
}

// apis are the URLs of the nodes' etcd ports.
func apis(c *devcluster.Cluster) []string {
	var out []string
	for _, n := range c.Nodes() {
		out = append(out, "http://"+n.Etcd)
	}
	return out
}

// failover kills the leader's process while clients work, and looks for how
// long each of them gets nothing done.
func failover(ctx context.Context, b *bench) ([]row, error) {
	nodes, err := b.startNodes(ctx, 3)
	if err != nil {
		return nil, err
	}
	defer nodes.Close()
	c := &cluster{clients: apis(nodes)} // for what closes it
	defer c.close()
	arms, err := c.failoverArms(ctx, nodes)
	if err != nil {
		return nil, err
	}
	out := make([]outages, len(arms))
	for kill := range b.kills {
		if err := b.killLeader(ctx, nodes, c, arms, out); err != nil {
			return nil, fmt.Errorf("kill %d: %w", kill+1, err)
		}
	}
	for i, a := range arms {
		b.logf("%s: %s", a.name, &out[i])
	}
	theirs := len(arms) - 1
	var rows []row
	for i := range theirs {
		ratio := spreadOf(ratios(out[i].worst, out[theirs].worst))
		rows = append(rows, row{
			What: "leader killed: longest gap of a client at work, " + []string{"through the API", "library on the nodes' etcd port"}[i], Ours: out[i].figure(arms[i].name), Peer: out[theirs].figure(arms[theirs].name),
			Ratio: &ratio, Target: &bound{Of: "ours", AtMost: true, Value: 1.5},
			Note: fmt.Sprintf("%s: %s; %s: %s", arms[i].name, &out[i], arms[theirs].name, &out[theirs]),
		})
	}
	return rows, nil
}

// failoverArms are clients of all nodes: of Holdfast's API, the library on the
// nodes' etcd port, etcd's recipe there.
func (c *cluster) failoverArms(ctx context.Context, nodes *devcluster.Cluster) ([]arm, error) {
	arms := []arm{{name: "holdfast-api"}, {name: "holdfast-on-etcd"}, {name: "etcd"}}
	cl, err := client.Dial(ctx, client.Config{Endpoints: nodes.Endpoints()})
	if err != nil {
		return nil, err
	}
	c.onClose(func() { cl.Close() }) //nolint:errcheck // never fails
	s, err := c.apiSession(ctx, cl)
	if err != nil {
		return nil, err
	}
	e, err := etcd.Dial(ctx, etcd.Config{Endpoints: c.clients})
	if err != nil {
		return nil, err
	}
	c.onClose(func() { e.Close() }) //nolint:errcheck // nothing is lost that is still wanted
	m, err := c.locks(ctx, e)
	if err != nil {
		return nil, err
	}
	ec, err := c.dialEtcd(c.clients...)
	if err != nil {
		return nil, err
	}
	es, err := c.etcdSession(ec)
	if err != nil {
		return nil, err
	}
	for w := range failoverWorkers {
		arms[0].workers = append(arms[0].workers, apiPair(s, fmt.Sprintf("api/%d", w)))
		arms[1].workers = append(arms[1].workers, holdfastPair(m, fmt.Sprintf("on-etcd/%d", w)))
		arms[2].workers = append(arms[2].workers, etcdPair(es, fmt.Sprintf("bench/failover/%d", w)))
	}
	return arms, nil
}

// apiSession opens a session through the API.
func (c *cluster) apiSession(ctx context.Context, cl *client.Client) (*client.Session, error) {
	s, err := cl.OpenSession(ctx, engine.SessionConfig{})
	if err != nil {
		return nil, err
	}
	c.onClose(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
		defer cancel()
		_ = s.Close(ctx) // else it expires
	})
	return s, nil
}

// apiPair acquires and releases one name through the API.
func apiPair(s *client.Session, name string) pair {
	return func(ctx context.Context) error {
		h, err := s.Acquire(ctx, name)
		if err != nil {
			return err
		}
		return h.Release(ctx)
	}
}

// outages is what a kind of client went through, over all kills.
type outages struct {
	worst   []float64 // of each kill, the longest gap of any worker, in seconds
	gaps    []time.Duration
	errors  int // that callers saw
	unknown int // of them with an unknown outcome
}

func (o *outages) String() string {
	return fmt.Sprintf("%d gaps, median %s s, worst %s s; callers saw %d errors, %d with an unknown outcome",
		len(o.gaps), number(quantile(o.gaps, 0.5).Seconds()), number(slices.Max(o.worst)), o.errors, o.unknown)
}

// figure is the worst gap: the target is for every client.
func (o *outages) figure(who string) figure {
	return figure{
		Who: who, Value: slices.Max(o.worst), Unit: "s", Rounds: o.worst,
		P50ms: milliseconds(quantile(o.gaps, 0.5)), P99ms: milliseconds(quantile(o.gaps, 0.99)), Maxms: milliseconds(slices.Max(o.gaps)),
	}
}

// career is what one worker did in one kill.
type career struct {
	successes       []time.Duration // since the origin
	errors, unknown int
}

// killLeader is one kill: work, SIGKILL, work until every worker has succeeded
// again, restart.
func (b *bench) killLeader(ctx context.Context, nodes *devcluster.Cluster, c *cluster, arms []arm, out []outages) error {
	leader, err := c.leadingNode(ctx, nodes)
	if err != nil {
		return err
	}
	work, stop := context.WithCancel(ctx)
	defer stop()
	origin := time.Now()
	var wg sync.WaitGroup
	careers := make([][]career, len(arms))
	back := make(chan struct{}, len(arms)*failoverWorkers)
	killed := make(chan struct{})
	for i, a := range arms {
		careers[i] = make([]career, len(a.workers))
		for w, p := range a.workers {
			wg.Go(func() { careers[i][w].pursue(work, p, origin, killed, back) })
		}
	}
	err = pause(ctx, failoverBefore)
	at := time.Since(origin)
	if err == nil {
		err = nodes.Kill(leader)
		close(killed)
	}
	patience := time.NewTimer(failoverPatience)
	defer patience.Stop()
	for i := 0; err == nil && i < cap(back); i++ {
		select {
		case <-back:
		case <-patience.C:
			err = fmt.Errorf("%d of %d clients do not work again after %v", cap(back)-i, cap(back), failoverPatience)
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	err = errors.Join(err, pause(ctx, time.Second))
	stop()
	wg.Wait()
	if err != nil {
		return err
	}
	for i := range arms {
		var worst time.Duration
		for _, k := range careers[i] {
			gap, _ := longestGap(k.successes, at)
			out[i].gaps = append(out[i].gaps, gap)
			worst = max(worst, gap)
			out[i].errors += k.errors
			out[i].unknown += k.unknown
		}
		out[i].worst = append(out[i].worst, worst.Seconds())
	}
	return nodes.Restart(ctx, leader)
}

// pursue works until ctx ends, and says once when it has begun and ended a pair
// after the kill. A pair that was begun is finished.
func (k *career) pursue(ctx context.Context, p pair, origin time.Time, killed, back chan struct{}) {
	told := false
	for ctx.Err() == nil {
		after := false
		select {
		case <-killed:
			after = true
		default:
		}
		if err := p(context.WithoutCancel(ctx)); err != nil {
			k.errors++
			if _, ours := errors.AsType[*holdfast.Error](err); !ours || holdfast.OutcomeOf(err) == holdfast.Unknown {
				k.unknown++ // etcd's client does not tell, so its caller cannot know
			}
			_ = pause(ctx, 10*time.Millisecond) // or the end, which the loop sees
			continue
		}
		k.successes = append(k.successes, time.Since(origin))
		if after && !told {
			told = true
			back <- struct{}{}
		}
	}
}

// leadingNode is the name of the node that leads.
func (c *cluster) leadingNode(ctx context.Context, nodes *devcluster.Cluster) (string, error) {
	for _, n := range nodes.Nodes() {
		lead, err := leads(ctx, "http://"+n.Etcd)
		if err != nil {
			return "", err
		}
		if lead {
			return n.Name, nil
		}
	}
	return "", errors.New("no node leads")
}

func leads(ctx context.Context, endpoint string) (bool, error) {
	cl, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: closeWithin})
	if err != nil {
		return false, err
	}
	defer cl.Close() //nolint:errcheck // nothing is lost that is still wanted
	s, err := cl.Status(ctx, endpoint)
	return err == nil && s.Leader == s.Header.MemberId, err
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
