package e2e

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/client"
	"holdfast.dev/engine"
	"holdfast.dev/internal/devcluster"
)

// joining starts a node that joins a cluster.
func joining(t *testing.T, name, join string) (p *process, api, peer string) {
	t.Helper()
	a := addresses(t, 2)
	p = at(t).start("serve", "--name", name, "--data", filepath.Join(t.TempDir(), name), "--join", join,
		"--listen", a[0], "--peer-listen", a[1], "--log-level", "warn")
	return p, "http://" + a[0], "http://" + a[1]
}

// TestCluster_JoinRemoveReplace: a fourth node comes and goes, a dead one is
// replaced, and its replacement counts.
func TestCluster_JoinRemoveReplace(t *testing.T) {
	c, hf := nodes(t, devcluster.Config{})
	hf.ok("kv", "put", "colour", "blue")

	// A fourth node joins as a learner and has its vote when it is ready.
	fourth, api, _ := joining(t, "n4", c.Endpoints()[0])
	fourth.expect("is ready")
	if got, want := hf.roles(), "n1=voter n2=voter n3=voter n4=voter"; got != want {
		t.Errorf("members %s, want %s", got, want)
	}
	if got := at(t, api).ok("kv", "get", "colour"); got != "blue" {
		t.Errorf("colour is %q at the fourth node", got)
	}
	hf.fails(1, "not found", "cluster", "remove", "n9")
	hf.ok("cluster", "remove", "n4")
	if code := fourth.code(); code == 0 || !strings.Contains(fourth.stderr.String(), "removed from the cluster") {
		t.Errorf("the removed node ended with %d and says %s", code, fourth.stderr.String())
	}
	if got, want := hf.roles(), "n1=voter n2=voter n3=voter"; got != want {
		t.Errorf("members %s, want %s", got, want)
	}

	// A node is dead for good. The new one, of the same name, is announced
	// first: it has no vote before it runs.
	if err := c.Kill("n3"); err != nil {
		t.Fatal(err)
	}
	hf.ok("cluster", "remove", "n3")
	a := addresses(t, 2)
	hf.ok("cluster", "add", "n3", "http://"+a[1])
	if got, want := hf.roles(), "n1=voter n2=voter n3=learner"; got != want {
		t.Errorf("members %s, want %s", got, want)
	}
	for _, m := range hf.members() {
		if m.Role == "learner" {
			hf.fails(1, "conflict", "cluster", "promote", m.ID, "--timeout", "3s")
		}
	}
	third := at(t).start("serve", "--name", "n3", "--data", filepath.Join(t.TempDir(), "n3"), "--join", c.Endpoints()[0],
		"--listen", a[0], "--peer-listen", a[1], "--log-level", "warn")
	third.expect("is ready")
	if got, want := hf.roles(), "n1=voter n2=voter n3=voter"; got != want {
		t.Errorf("members %s, want %s", got, want)
	}

	// Another one dies: the new one makes the majority.
	if err := c.Kill("n2"); err != nil {
		t.Fatal(err)
	}
	hf = at(t, c.Endpoints()[0], "http://"+a[0])
	hf.ok("kv", "put", "colour", "green")
	if got := at(t, "http://"+a[0]).ok("kv", "get", "colour"); got != "green" {
		t.Errorf("colour is %q at the new node", got)
	}
}

// TestCluster_GracefulStopOfTheLeader: who is told to stop hands leadership
// over first; clients at work see no failure, and no gap worth the name.
func TestCluster_GracefulStopOfTheLeader(t *testing.T) {
	c, hf := nodes(t, devcluster.Config{})
	was := hf.leader()
	endpoints := c.Endpoints()
	for i, n := range c.Nodes() {
		if n.Name == was { // the clients talk to the one that stops
			endpoints[0], endpoints[i] = endpoints[i], endpoints[0]
		}
	}
	cl, err := client.Dial(t.Context(), client.Config{Endpoints: endpoints})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close() //nolint:errcheck // it always succeeds
	session, err := cl.OpenSession(t.Context(), engine.SessionConfig{TTL: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}

	// One process holds a lock and another waits for it, through that node.
	through := at(t, endpoints...)
	holder := through.start("lock", "run", "long", "--", "sh", "-c", "echo held; exec sleep 600")
	holder.expect("held")
	waiter := through.start("lock", "run", "long", "--", "echo", "my turn")
	eventually(t, "the waiter waits", func() bool { return strings.Contains(hf.ok("lock", "show", "long"), "WAITER") })

	// One client writes, another takes a lock and gives it back, all the time.
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stop()
	longest := make([]time.Duration, 2)
	var rounds sync.WaitGroup // of the first rounds
	for i, f := range []func() error{
		func() error { _, err := session.KV().Put(t.Context(), "colour", []byte("blue")); return err },
		func() error {
			held, err := session.Acquire(t.Context(), "job")
			if err != nil {
				return err
			}
			return held.Release(t.Context())
		},
	} {
		rounds.Add(1)
		wg.Go(func() {
			first := sync.OnceFunc(rounds.Done)
			defer first()
			for ctx.Err() == nil {
				sent := time.Now()
				if err := f(); err != nil {
					t.Errorf("a client was failed: %v", err)
					return
				}
				longest[i] = max(longest[i], time.Since(sent))
				first()
			}
		})
	}
	rounds.Wait()

	for _, n := range c.Nodes() {
		if n.Name == was {
			if err := syscall.Kill(n.PID, syscall.SIGTERM); err != nil {
				t.Fatal(err)
			}
		}
	}
	eventually(t, "the node has ended", func() bool {
		for _, n := range c.Nodes() {
			if n.Name == was {
				return n.State == devcluster.Dead
			}
		}
		return false
	})
	if e := <-c.Events(); e.How != "exit status 0" {
		t.Errorf("after SIGTERM %s ended with %s", e.Node, e.How)
	}
	hf.ok("kv", "put", "after", "x")
	if now := hf.leader(); now == "" || now == was {
		t.Errorf("%q leads, and %q did", now, was)
	}
	holder.signal(syscall.SIGTERM) // for its command; then it releases
	waiter.expect("my turn")
	if code := holder.code(); code != 128+int(syscall.SIGTERM) {
		t.Errorf("the holder ended with %d: it did not live through the stop", code)
	}
	if code := waiter.code(); code != 0 {
		t.Errorf("the waiter ended with %d", code)
	}
	stop()
	wg.Wait()
	t.Logf("longest call: write %v, lock %v", longest[0], longest[1])
	// An election by timeout would not be seen by this bound alone on a busy
	// machine; a client that hangs on the stopped node would.
	for _, d := range longest {
		if d > 3*time.Second {
			t.Errorf("a call took %v", d)
		}
	}
}
