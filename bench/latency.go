package main

import (
	"context"
	"errors"
	"fmt"

	clientv3 "go.etcd.io/etcd/client/v3"

	"holdfast.dev/engine"
)

// latency compares a pair that nobody contends with the least that a lock in
// etcd can cost: two transactions, one that creates a key if it is missing and
// one that deletes it if it was not changed.
func latency(ctx context.Context, b *bench) ([]row, error) {
	var rows []row
	for _, nodes := range []int{1, 3} {
		r, err := b.latency(ctx, nodes)
		if err != nil {
			return rows, err
		}
		rows = append(rows, r...)
	}
	return rows, nil
}

func (b *bench) latency(ctx context.Context, nodes int) ([]row, error) {
	sub := *b
	sub.dir = fmt.Sprintf("%s/%d", b.dir, nodes)
	sub.name = fmt.Sprintf("%s%d", b.name, nodes)
	c, err := sub.startCluster(ctx, nodes)
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
	client, err := c.etcdClient(ctx)
	if err != nil {
		return nil, err
	}
	mLocal, err := c.locks(ctx, local)
	if err != nil {
		return nil, err
	}
	mRemote, err := c.locks(ctx, remote)
	if err != nil {
		return nil, err
	}
	// As large as a lock's record is.
	value := fmt.Appendf(nil, "%0120d", 0)
	s, err := sub.measure(
		ctx,
		arm{name: "holdfast", workers: []pair{holdfastPair(mLocal, "latency/in-process")}},
		arm{name: "2-transactions", workers: []pair{enginePair(local, "bench/raw", value)}},
		arm{name: "holdfast-grpc", workers: []pair{holdfastPair(mRemote, "latency/grpc")}},
		arm{name: "2-transactions-grpc", workers: []pair{clientPair(client, "bench/raw-grpc", value)}},
	)
	if err != nil {
		return nil, err
	}
	what := fmt.Sprintf("one client, uncontended pair, %d node(s)", nodes)
	return []row{
		s[0].slower(s[1], what+", in process", 1.15),
		s[2].slower(s[3], what+", over gRPC", 1.15),
	}, nil
}

// slower is a row that compares median latencies.
func (s *series) slower(peer *series, what string, atMost float64) row {
	fig := func(s *series) figure {
		p50, all := s.quantiles(0.5), s.all()
		return figure{
			Who: s.arm.name, Value: median(p50), Unit: "ms", Rounds: p50,
			P50ms: milliseconds(quantile(all, 0.5)), P99ms: milliseconds(quantile(all, 0.99)),
		}
	}
	ratio := spreadOf(ratios(s.quantiles(0.5), peer.quantiles(0.5)))
	return row{What: what, Ours: fig(s), Peer: fig(peer), Ratio: &ratio, Target: &bound{Of: "ratio", AtMost: true, Value: atMost}}
}

var errTaken = errors.New("somebody else has the key")

// enginePair is two transactions in process.
func enginePair(e engine.Engine, key string, value []byte) pair {
	return func(ctx context.Context) error {
		got, err := e.Txn(ctx, engine.Txn{
			If:   []engine.Compare{engine.Missing(key)},
			Then: []engine.Op{engine.Put(key, value)},
			Else: []engine.Op{engine.Get(key)},
		})
		if err != nil {
			return err
		}
		gone, err := e.Txn(ctx, engine.Txn{
			If:   []engine.Compare{engine.ModIs(key, got.Revision)},
			Then: []engine.Op{engine.Delete(key)},
			Else: []engine.Op{engine.Get(key)},
		})
		if err == nil && (!got.Succeeded || !gone.Succeeded) {
			err = errTaken
		}
		return err
	}
}

// clientPair is the same with etcd's client.
func clientPair(c *clientv3.Client, key string, value []byte) pair {
	return func(ctx context.Context) error {
		got, err := c.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision(key), "=", 0)).
			Then(clientv3.OpPut(key, string(value))).
			Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return err
		}
		gone, err := c.Txn(ctx).
			If(clientv3.Compare(clientv3.ModRevision(key), "=", got.Header.Revision)).
			Then(clientv3.OpDelete(key)).
			Else(clientv3.OpGet(key)).Commit()
		if err == nil && (!got.Succeeded || !gone.Succeeded) {
			err = errTaken
		}
		return err
	}
}
