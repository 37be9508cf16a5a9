package embed

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/engine/enginetest"
)

// quick is a configuration for tests: fast, and not safe across a power cut.
func quick(tb testing.TB) Config {
	tb.Helper()
	return Config{
		Dir: tb.TempDir(), Heartbeat: 10 * time.Millisecond, Election: 100 * time.Millisecond,
		UnsafeNoFsync: true, Logger: slog.New(slog.DiscardHandler), CompactAfter: -1,
	}
}

// start starts a node and closes it with the test.
func start(tb testing.TB, cfg Config) *Node {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	n, err := Start(ctx, cfg)
	if err != nil {
		tb.Fatalf("start: %v", err)
	}
	tb.Cleanup(func() {
		if err := n.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return n
}

// freeURL is a URL on loopback that nobody listens on.
func freeURL(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // nothing to wait for on loopback
	if err != nil {
		tb.Fatal(err)
	}
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
	return "http://" + l.Addr().String()
}

// trio is a cluster of three in this process.
type trio struct {
	cfgs  []Config
	nodes []*Node
}

func startTrio(t *testing.T) *trio {
	t.Helper()
	return startTrioWith(t, func(*Config) {})
}

func startTrioWith(t *testing.T, with func(*Config)) *trio {
	t.Helper()
	c := &trio{nodes: make([]*Node, 3)}
	var names []string
	for i := range 3 {
		cfg := quick(t)
		cfg.Name, cfg.ListenPeer = fmt.Sprint("n", i), freeURL(t)
		with(&cfg)
		c.cfgs = append(c.cfgs, cfg)
		names = append(names, cfg.Name+"="+cfg.ListenPeer)
	}
	for i := range c.cfgs {
		c.cfgs[i].InitialCluster = strings.Join(names, ",")
	}
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, n := range c.nodes {
			if n != nil {
				wg.Go(func() {
					if err := n.Kill(); err != nil {
						t.Errorf("kill: %v", err)
					}
				})
			}
		}
		wg.Wait()
	})
	c.start(t, 0, 1, 2)
	return c
}

// start starts some of the nodes at once.
func (c *trio) start(t *testing.T, which ...int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for _, i := range which {
		wg.Go(func() { c.nodes[i], errs[i] = Start(ctx, c.cfgs[i]) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("start: %v", err)
	}
}

// leader is the index of the node that leads.
func (c *trio) leader(t *testing.T) int {
	t.Helper()
	for pause(t.Context(), 10*time.Millisecond) {
		for i, n := range c.nodes {
			if s := n.srv.Server; s.Lead() == uint64(s.MemberID()) {
				return i
			}
		}
	}
	t.Fatal("nobody leads")
	return 0
}

func TestEngineSingle(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Harness {
		cfg := quick(t)
		n := start(t, cfg)
		return enginetest.Harness{
			Engine: n, MinTTL: 2 * time.Second,
			Restart: func(t *testing.T) engine.Engine {
				if err := n.Close(); err != nil {
					t.Fatal(err)
				}
				return start(t, cfg)
			},
		}
	})
}

func TestEngineCluster(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Harness {
		c := startTrio(t)
		return enginetest.Harness{
			Engine: c.nodes[0], MinTTL: 2 * time.Second,
			LoseLeader: func(t *testing.T) {
				for c.leader(t) == 0 { // the engine that is tested must live
					if err := c.nodes[0].HandOver(t.Context()); err != nil {
						t.Logf("hand over: %v", err)
					}
				}
				i := c.leader(t)
				if err := c.nodes[i].Kill(); err != nil {
					t.Fatal(err)
				}
				c.start(t, i)
			},
		}
	})
}

func TestClosedNodeAnswers(t *testing.T) {
	n := start(t, quick(t))
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-n.Done():
	default:
		t.Fatal("not done")
	}
	if _, err := n.Range(t.Context(), engine.RangeRequest{Key: "a"}); !errors.Is(err, holdfast.ErrClosed) {
		t.Fatalf("got %v", err)
	}
}

// TestStart_DirectoryInUse: a second node on a directory says so at once, and
// the first one is none the worse.
func TestStart_DirectoryInUse(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	n := start(t, cfg)
	if second, err := Start(t.Context(), cfg); !errors.Is(err, ErrInUse) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
		t.Errorf("a second node starts: %v, %v", second, err)
	}
	put(t, n, "a")
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	if got := get(t, start(t, cfg), "a"); got != "a" {
		t.Errorf("a is %q at the next start", got)
	}
}
