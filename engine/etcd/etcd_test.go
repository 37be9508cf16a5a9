package etcd_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/engine/embed"
	"holdfast.dev/engine/enginetest"
	"holdfast.dev/engine/etcd"
)

// etcd's server leaves connections to die of themselves.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		goleak.IgnoreAnyFunction("net/http.(*conn).serve"),
		goleak.IgnoreAnyFunction("net/http.(*connReader).backgroundRead"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
	)
}

// freeAddr is an address on loopback that nobody listens on.
func freeAddr(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // nothing to wait for on loopback
	if err != nil {
		tb.Fatal(err)
	}
	if err := l.Close(); err != nil {
		tb.Fatal(err)
	}
	return l.Addr().String()
}

// quick is a node for tests that serves etcd's API on loopback.
func quick(tb testing.TB) embed.Config {
	tb.Helper()
	return embed.Config{
		Dir: tb.TempDir(), Heartbeat: 10 * time.Millisecond, Election: 100 * time.Millisecond,
		UnsafeNoFsync: true, Logger: slog.New(slog.DiscardHandler), CompactAfter: -1,
		ListenClient: "http://" + freeAddr(tb),
	}
}

// startNode starts a node and kills it with the test.
func startNode(tb testing.TB, cfg embed.Config) *embed.Node {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 30*time.Second)
	defer cancel()
	n, err := embed.Start(ctx, cfg)
	if err != nil {
		tb.Fatalf("start: %v", err)
	}
	tb.Cleanup(func() {
		if err := n.Kill(); err != nil {
			tb.Errorf("kill: %v", err)
		}
	})
	return n
}

// dial opens an engine and closes it with the test.
func dial(tb testing.TB, cfg etcd.Config) *etcd.Engine {
	tb.Helper()
	e, err := etcd.Dial(tb.Context(), cfg)
	if err != nil {
		tb.Fatalf("dial: %v", err)
	}
	tb.Cleanup(func() {
		if err := e.Close(); err != nil {
			tb.Errorf("close: %v", err)
		}
	})
	return e
}

func TestEngineOnEmbeddedNode(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Harness {
		cfg := quick(t)
		startNode(t, cfg)
		return enginetest.Harness{Engine: dial(t, etcd.Config{Endpoints: []string{cfg.ListenClient}}), MinTTL: 2 * time.Second}
	})
}

// startEtcd runs the system's etcd binary until the test ends.
func startEtcd(tb testing.TB, args ...string) (endpoint string) {
	tb.Helper()
	bin, err := exec.LookPath("etcd")
	if err != nil {
		tb.Skip("needs etcd: install the Debian package etcd-server")
	}
	client, peer := "http://"+freeAddr(tb), "http://"+freeAddr(tb)
	ctx, cancel := context.WithCancel(context.WithoutCancel(tb.Context()))
	cmd := exec.CommandContext(ctx, bin, append([]string{
		"--name", "n", "--data-dir", tb.TempDir(), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "n=" + peer,
		"--heartbeat-interval", "30", "--election-timeout", "300",
	}, args...)...)
	var log bytes.Buffer
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		cancel()
		if err := cmd.Wait(); err == nil || cmd.ProcessState.Success() {
			tb.Error("etcd ended before it was killed")
		}
		if tb.Failed() {
			for lines := bufio.NewScanner(&log); lines.Scan(); {
				tb.Log(lines.Text())
			}
		}
	})
	return client
}

func TestEngineOnDebiansEtcd(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Harness {
		return enginetest.Harness{Engine: dial(t, etcd.Config{Endpoints: []string{startEtcd(t)}}), MinTTL: 2 * time.Second}
	})
}

// startTrio starts a cluster of three and gives its configurations and nodes.
func startTrio(t *testing.T) ([]embed.Config, []*embed.Node) {
	t.Helper()
	cfgs, nodes, names := make([]embed.Config, 3), make([]*embed.Node, 3), make([]string, 3)
	for i := range cfgs {
		cfgs[i] = quick(t)
		cfgs[i].Name, cfgs[i].ListenPeer = fmt.Sprint("n", i), "http://"+freeAddr(t)
		names[i] = cfgs[i].Name + "=" + cfgs[i].ListenPeer
	}
	var wg sync.WaitGroup
	errs := make([]error, 3)
	for i := range cfgs {
		cfgs[i].InitialCluster = strings.Join(names, ",")
		wg.Go(func() { nodes[i], errs[i] = embed.Start(t.Context(), cfgs[i]) })
	}
	wg.Wait()
	t.Cleanup(func() {
		var wg sync.WaitGroup
		for _, n := range nodes {
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
	if err := errors.Join(errs...); err != nil {
		t.Fatalf("start: %v", err)
	}
	return cfgs, nodes
}

// leader is the index of the node that leads.
func leader(t *testing.T, nodes []*embed.Node) int {
	t.Helper()
	for {
		for i, n := range nodes {
			if st, err := n.Status(t.Context()); err == nil && st.Leader == st.MemberID {
				return i
			}
		}
		if err := t.Context().Err(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestEngineOnCluster loses the leader, which is also the member that the
// engine prefers, so that it has to move.
func TestEngineOnCluster(t *testing.T) {
	enginetest.Run(t, func(t *testing.T) enginetest.Harness {
		cfgs, nodes := startTrio(t)
		var ends []string
		for _, c := range cfgs {
			ends = append(ends, c.ListenClient)
		}
		return enginetest.Harness{
			Engine: dial(t, etcd.Config{Endpoints: ends, ProbeTimeout: 500 * time.Millisecond}),
			MinTTL: 2 * time.Second,
			LoseLeader: func(t *testing.T) {
				i := leader(t, nodes)
				if err := nodes[i].Kill(); err != nil {
					t.Fatal(err)
				}
				n, err := embed.Start(t.Context(), cfgs[i])
				if err != nil {
					t.Fatal(err)
				}
				nodes[i] = n
			},
		}
	})
}

func TestPrefixesAreApart(t *testing.T) {
	cfg := quick(t)
	startNode(t, cfg)
	a := dial(t, etcd.Config{Endpoints: []string{cfg.ListenClient}, Prefix: "/a/"})
	b := dial(t, etcd.Config{Endpoints: []string{cfg.ListenClient}, Prefix: "/b/"})
	res, err := a.Txn(t.Context(), engine.Txn{Then: []engine.Op{engine.Put("k", []byte("v"))}})
	if err != nil {
		t.Fatal(err)
	}
	all := engine.RangeRequest{Key: "\x00", End: engine.PrefixEnd("")}
	if got, err := b.Range(t.Context(), all); err != nil || got.Count != 0 {
		t.Fatalf("b sees %+v, %v", got, err)
	}
	if got, err := a.Range(t.Context(), all); err != nil || got.Count != 1 || got.KVs[0].Key != "k" {
		t.Fatalf("a sees %+v, %v", got, err)
	}
	watch := b.Watch(t.Context(), engine.WatchRequest{Key: "\x00", End: engine.PrefixEnd(""), Revision: res.Revision, Progress: true})
	for batch := range watch {
		if batch.Err != nil || len(batch.Events) > 0 {
			t.Fatalf("b is told %+v", batch)
		}
		if batch.Revision >= res.Revision {
			return
		}
	}
	t.Fatal("the watch ended")
}

func TestNobodyAnswers(t *testing.T) {
	_, err := etcd.Dial(t.Context(), etcd.Config{Endpoints: []string{freeAddr(t)}, DialTimeout: 300 * time.Millisecond})
	if !errors.Is(err, holdfast.ErrNoQuorum) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
		t.Fatalf("got %v, %v", err, holdfast.OutcomeOf(err))
	}
}

// TestUnsentIsNotApplied shows that a request which found no connection is
// known not to have been applied, and one cut off in flight is not.
func TestUnsentIsNotApplied(t *testing.T) {
	cfg := quick(t)
	n := startNode(t, cfg)
	e := dial(t, etcd.Config{Endpoints: []string{cfg.ListenClient}})
	if err := n.Kill(); err != nil {
		t.Fatal(err)
	}
	put := engine.Txn{Then: []engine.Op{engine.Put("k", nil)}}
	for { // the connection takes a moment to break
		_, err := e.Txn(t.Context(), put)
		if !errors.Is(err, holdfast.ErrNoQuorum) {
			t.Fatalf("got %v", err)
		}
		if holdfast.OutcomeOf(err) == holdfast.NotApplied {
			return
		}
	}
}
