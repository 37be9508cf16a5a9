package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.uber.org/zap"

	"holdfast.dev/client"
	"holdfast.dev/engine"
	"holdfast.dev/engine/etcd"
	"holdfast.dev/lock"
)

// crowdCommand makes this program a process that holds many sessions with a
// lock each, until it is killed: then all of them expire together.
const crowdCommand = "crowd"

// openers is how many sessions are opened at the same time.
const openers = 64

// runCrowd is that process. It says one line when everything is held.
func runCrowd(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet(crowdCommand, flag.ContinueOnError)
	f.SetOutput(stderr)
	kind := f.String("kind", "", "holdfast-api, holdfast-on-etcd or etcd")
	endpoints := f.String("endpoints", "", "URLs, with commas between")
	n := f.Int("n", 1, "how many sessions")
	ttl := f.Duration("ttl", 10*time.Second, "of each")
	if err := f.Parse(args); err != nil {
		return err
	}
	open, err := crowdOf(ctx, *kind, strings.Split(*endpoints, ","), *ttl)
	if err != nil {
		return err
	}
	if err := inParallel(ctx, *n, openers, open); err != nil {
		return err
	}
	say(stdout, "ready")
	<-ctx.Done()
	return nil
}

// crowdOf connects, and gives what opens the i-th session and takes its lock.
func crowdOf(ctx context.Context, kind string, endpoints []string, ttl time.Duration) (func(context.Context, int) error, error) {
	cfg := engine.SessionConfig{TTL: ttl}
	name := func(i int) string { return fmt.Sprintf("crowd/%d", i) }
	switch kind {
	case "holdfast-api":
		c, err := client.Dial(ctx, client.Config{Endpoints: endpoints})
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, i int) error {
			s, err := c.OpenSession(ctx, cfg)
			if err != nil {
				return err
			}
			_, err = s.Acquire(ctx, name(i))
			return err
		}, nil
	case "holdfast-on-etcd":
		e, err := etcd.Dial(ctx, etcd.Config{Endpoints: endpoints})
		if err != nil {
			return nil, err
		}
		all := engine.Coalesce(e, engine.CoalesceConfig{})
		return func(ctx context.Context, i int) error {
			s, err := engine.OpenSession(ctx, all, cfg)
			if err != nil {
				return err
			}
			_, err = lock.New(s, lock.Config{}).Acquire(ctx, name(i))
			return err
		}, nil
	case "etcd":
		c, err := clientv3.New(clientv3.Config{Endpoints: endpoints, Logger: zap.NewNop(), DialTimeout: closeWithin})
		if err != nil {
			return nil, err
		}
		return func(ctx context.Context, i int) error {
			s, err := concurrency.NewSession(c, concurrency.WithTTL(int(ttl.Seconds())))
			if err != nil {
				return err
			}
			return concurrency.NewMutex(s, "bench/crowd/"+name(i)).Lock(ctx)
		}, nil
	}
	return nil, fmt.Errorf("unknown kind %q", kind)
}

// inParallel calls f for 0 to n-1, so many at a time, until one fails.
func inParallel(ctx context.Context, n, at int, f func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var wg sync.WaitGroup
	for range min(at, n) {
		wg.Go(func() {
			for i := range next {
				if err := f(ctx, i); err != nil {
					cancel(fmt.Errorf("session %d: %w", i+1, err))
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		select {
		case next <- i:
		case <-ctx.Done():
		}
	}
	close(next)
	wg.Wait()
	return context.Cause(ctx)
}
