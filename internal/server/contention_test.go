package server_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/server"
)

// Clients of three nodes contend for a few names. Nobody holds one together
// with another, tokens of a name only grow, and everybody gets his turns.
func TestContention(t *testing.T) {
	const clients, names, rounds = 24, 3, 5
	first := start(t, nil)
	nodes := []*node{first}
	for i := range 2 {
		nodes = append(nodes, startOn(t, first.engine, func(cfg *server.Config) { cfg.Name = fmt.Sprint("n", i+2) }))
	}
	var (
		inside [names]atomic.Int32
		last   [names]uint64 // written by the holder only
	)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var all sync.WaitGroup
	for i := range clients {
		c := nodes[i%len(nodes)].caller(t, "")
		all.Go(func() {
			opened, err := c.session.Open(ctx, &v1.OpenRequest{})
			if err != nil {
				t.Errorf("client %d: %v", i, err)
				return
			}
			for round := range rounds {
				n := (i + round) % names
				name, request := fmt.Sprint("x", n), fmt.Sprint(round)
				got, err := c.lock.Acquire(ctx, &v1.AcquireRequest{Session: opened.GetSession(), Name: name, RequestId: request})
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				if inside[n].Add(1) != 1 {
					t.Errorf("%s is held twice", name)
				}
				if got.GetToken() <= last[n] {
					t.Errorf("%s: token %d after %d", name, got.GetToken(), last[n])
				}
				last[n] = got.GetToken()
				inside[n].Add(-1)
				if _, err := c.lock.Release(ctx, &v1.ReleaseRequest{Session: opened.GetSession(), Name: name, RequestId: request}); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
			}
		})
	}
	all.Wait()
}
