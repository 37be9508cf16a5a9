package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"holdfast.dev/client"
	"holdfast.dev/engine/etcd"
	"holdfast.dev/internal/devcluster"
)

// Of the sessions benchmark.
const (
	pace     = 20 * time.Millisecond // between the pairs of the client that looks on
	settling = 30 * time.Second      // how long after the TTL everything must be gone
)

// crowdKinds are what is compared; the last is the peer.
var crowdKinds = []string{"holdfast-api", "holdfast-on-etcd", "etcd"}

// crowdResult is what one kind of sessions costs.
type crowdResult struct {
	opened      time.Duration // until all were open and held their locks
	memory      float64       // MiB that the node grew
	cpu         float64       // of one core, in steady state
	holders     float64       // the same of the process with the sessions
	steady      []time.Duration
	expiry      []time.Duration
	alive       int64         // sessions just before the kill; fewer than opened: the others were lost
	allGone     time.Duration // after the kill
	locksBehind int64         // keys that were still there at the end
}

// sessions lets one node carry many sessions, each with a lock: what that
// costs while they live, and what others feel when all expire at once.
func sessions(ctx context.Context, b *bench) ([]row, error) {
	results := make([]crowdResult, len(crowdKinds))
	for i, kind := range crowdKinds {
		var err error
		if results[i], err = b.crowd(ctx, kind); err != nil {
			return nil, fmt.Errorf("%s: %w", kind, err)
		}
		r := results[i]
		b.logf("%s: open after %.1f s; node +%.0f MiB, %.0f %% of a core; holders %.0f %%; others p99 %s, while expiring %s, max %s ms; %d alive at the kill, gone after %.1f s, %d keys behind",
			kind, r.opened.Seconds(), r.memory, 100*r.cpu, 100*r.holders, number(milliseconds(quantile(r.steady, 0.99))),
			number(milliseconds(quantile(r.expiry, 0.99))), number(milliseconds(quantile(r.expiry, 1))), r.alive, r.allGone.Seconds(), r.locksBehind)
	}
	peer := len(crowdKinds) - 1
	var rows []row
	for i := range peer {
		rows = append(rows, b.crowdRows(i, results[i], results[peer])...)
	}
	return rows, nil
}

func (b *bench) crowdRows(i int, ours, peer crowdResult) []row {
	what := fmt.Sprintf("%d sessions with a lock each: ", b.sessions)
	one := func(what, unit string, of func(crowdResult) float64) row {
		r := row{What: what, Ours: figure{Who: crowdKinds[i], Value: of(ours), Unit: unit}, Peer: figure{Who: "etcd", Value: of(peer), Unit: unit}}
		if x := ratios([]float64{of(ours)}, []float64{of(peer)}); len(x) > 0 {
			s := spreadOf(x)
			r.Ratio = &s
		}
		return r
	}
	waits := func(what string, of func(crowdResult) []time.Duration) row {
		fig := func(who string, r crowdResult) figure {
			p := of(r)
			return figure{
				Who: who, Value: milliseconds(quantile(p, 0.99)), Unit: "ms",
				P50ms: milliseconds(quantile(p, 0.5)), P99ms: milliseconds(quantile(p, 0.99)), Maxms: milliseconds(quantile(p, 1)),
			}
		}
		return row{What: what, Ours: fig(crowdKinds[i], ours), Peer: fig("etcd", peer)}
	}
	behind := one("… all gone after", "s", func(r crowdResult) float64 { return r.allGone.Seconds() })
	behind.Note = fmt.Sprintf("TTL %v, counted from the kill of the process that held them; keys still there then: ours %d, etcd %d; sessions alive before the kill: ours %d, etcd %d",
		b.ttl, ours.locksBehind, peer.locksBehind, ours.alive, peer.alive)
	return []row{
		one(what+"the node's memory grows by", "MiB", func(r crowdResult) float64 { return r.memory }),
		one("… the node's CPU in steady state", "cores", func(r crowdResult) float64 { return r.cpu }),
		one("… CPU of the process that holds them", "cores", func(r crowdResult) float64 { return r.holders }),
		one("… until all are open", "s", func(r crowdResult) float64 { return r.opened.Seconds() }),
		waits("… a pair of another client, steady", func(r crowdResult) []time.Duration { return r.steady }),
		waits("… a pair of another client, all expiring at once", func(r crowdResult) []time.Duration { return r.expiry }),
		behind,
	}
}

// crowd measures one kind on a fresh node.
func (b *bench) crowd(ctx context.Context, kind string) (crowdResult, error) {
	var r crowdResult
	sub := *b
	sub.dir = filepath.Join(b.dir, kind)
	if err := os.MkdirAll(sub.dir, 0o700); err != nil {
		return r, err
	}
	most := strconv.Itoa(2*b.sessions + 1000)
	nodes, err := sub.startNodes(ctx, 1, "--max-sessions-each", most, "--max-watches-each", most, "--rate-each", "1000000")
	if err != nil {
		return r, err
	}
	defer nodes.Close()
	c := &cluster{clients: apis(nodes)}
	defer c.close()
	onlooker, endpoints, err := c.onlooker(ctx, kind, nodes)
	if err != nil {
		return r, err
	}
	pid := nodes.Nodes()[0].PID
	if _, err := paced(ctx, onlooker, time.Second, nil); err != nil { // warm
		return r, err
	}
	before, err := usageOf(pid)
	if err != nil {
		return r, err
	}
	self, err := os.Executable()
	if err != nil {
		return r, err
	}
	start := time.Now()
	p, err := b.host.Start(filepath.Join(sub.dir, "crowd.log"), self, crowdCommand,
		"-kind", kind, "-endpoints", endpoints, "-n", strconv.Itoa(b.sessions), "-ttl", b.ttl.String())
	if err != nil {
		return r, err
	}
	defer p.Kill()
	patience, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	if _, err := p.Line(patience); err != nil {
		return r, err
	}
	r.opened = time.Since(start)
	if err := pause(ctx, b.ttl/2); err != nil { // until the renewals are spread
		return r, err
	}
	if err := r.steadily(ctx, onlooker, pid, p.PID(), before, b.ttl); err != nil {
		return r, err
	}
	if r.alive, err = c.count(ctx, "bench/crowd/", "/holdfast/session/"); err != nil {
		return r, err
	}
	p.Kill()
	return r, r.expire(ctx, c, onlooker, b.ttl)
}

// onlooker is the pair of a client that has nothing to do with the crowd, and
// where the crowd connects to.
func (c *cluster) onlooker(ctx context.Context, kind string, nodes *devcluster.Cluster) (pair, string, error) {
	switch kind {
	case "holdfast-api":
		cl, err := client.Dial(ctx, client.Config{Endpoints: nodes.Endpoints()})
		if err != nil {
			return nil, "", err
		}
		c.onClose(func() { cl.Close() }) //nolint:errcheck // never fails
		s, err := c.apiSession(ctx, cl)
		return apiPair(s, "onlooker"), nodes.Endpoints()[0], err
	case "holdfast-on-etcd":
		e, err := etcd.Dial(ctx, etcd.Config{Endpoints: c.clients})
		if err != nil {
			return nil, "", err
		}
		c.onClose(func() { e.Close() }) //nolint:errcheck // nothing is lost that is still wanted
		m, err := c.locks(ctx, e)
		return holdfastPair(m, "onlooker"), c.clients[0], err
	}
	cl, err := c.dialEtcd(c.clients...)
	if err != nil {
		return nil, "", err
	}
	s, err := c.etcdSession(cl)
	if err != nil {
		return nil, "", err
	}
	return etcdPair(s, "bench/onlooker"), c.clients[0], nil
}

// steadily measures for one TTL.
func (r *crowdResult) steadily(ctx context.Context, onlooker pair, node, holder int, before usage, d time.Duration) error {
	n0, err := usageOf(node)
	if err != nil {
		return err
	}
	h0, err := usageOf(holder)
	if err != nil {
		return err
	}
	start := time.Now()
	if r.steady, err = paced(ctx, onlooker, d, nil); err != nil {
		return err
	}
	took := time.Since(start)
	n1, err := usageOf(node)
	if err != nil {
		return err
	}
	h1, err := usageOf(holder)
	if err != nil {
		return err
	}
	r.cpu = (n1.cpu - n0.cpu).Seconds() / took.Seconds()
	r.holders = (h1.cpu - h0.cpu).Seconds() / took.Seconds()
	r.memory = float64(n1.resident-before.resident) / (1 << 20)
	return nil
}

// expire measures from the death of the crowd until all its sessions and locks
// are gone.
func (r *crowdResult) expire(ctx context.Context, c *cluster, onlooker pair, ttl time.Duration) error {
	start := time.Now()
	gone := func(ctx context.Context) (done bool, err error) {
		if r.locksBehind, err = c.count(ctx, "bench/crowd/", "/holdfast/session/", "/holdfast/lock/r/crowd/"); err != nil {
			return false, err
		}
		r.allGone = time.Since(start)
		const own = 2 // the node's own session, the onlooker's
		if r.locksBehind <= own {
			r.locksBehind = 0
		}
		return r.locksBehind == 0, nil
	}
	var err error
	r.expiry, err = paced(ctx, onlooker, ttl+settling, gone)
	return err
}

// count counts the keys below some prefixes.
func (c *cluster) count(ctx context.Context, prefixes ...string) (n int64, err error) {
	cl, err := clientv3.New(clientv3.Config{Endpoints: c.clients, Logger: zap.NewNop(), DialTimeout: closeWithin})
	if err != nil {
		return 0, err
	}
	defer cl.Close() //nolint:errcheck // nothing is lost that is still wanted
	for _, prefix := range prefixes {
		res, err := cl.Get(ctx, prefix, clientv3.WithPrefix(), clientv3.WithCountOnly(), clientv3.WithSerializable())
		if err != nil {
			return 0, err
		}
		n += res.Count
	}
	return n, nil
}

// paced makes pairs at fixed times for d, or until done says so, which is asked
// again and again meanwhile. Each pair is measured from the time at which it was
// to begin, so that a stall counts for everything it held up.
func paced(ctx context.Context, p pair, d time.Duration, done func(context.Context) (bool, error)) ([]time.Duration, error) {
	ctx, cancel := context.WithCancel(ctx)
	var (
		asking sync.WaitGroup
		ended  = make(chan error, 1)
	)
	defer asking.Wait()
	defer cancel()
	if done != nil {
		asking.Go(func() {
			for {
				if err := pause(ctx, 500*time.Millisecond); err != nil {
					return
				}
				if end, err := done(ctx); end || err != nil {
					ended <- err
					return
				}
			}
		})
	}
	var took []time.Duration
	start := time.Now()
	for due := start; due.Sub(start) < d; due = due.Add(pace) {
		if err := pause(ctx, time.Until(due)); err != nil {
			return nil, err
		}
		if err := p(ctx); err != nil {
			return nil, err
		}
		took = append(took, time.Since(due))
		select {
		case err := <-ended:
			return took, err
		default:
		}
	}
	return took, nil
}
