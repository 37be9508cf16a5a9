package e2e

import (
	"errors"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/client"
	"holdfast.dev/engine"
	"holdfast.dev/internal/devcluster"
)

// TestRestore: a cluster is backed up, goes on for a while, and is set back.
// Every token issued afterwards is greater than every token issued before, and
// nobody who lived through it goes on as if nothing had happened.
func TestRestore(t *testing.T) {
	first := filepath.Join(t.TempDir(), "first")
	c, hf := nodes(t, devcluster.Config{Dir: first})
	var issued holdfast.Token
	acquire := func() {
		for _, lock := range []string{"a", "b", "a"} {
			issued = max(issued, hf.token(lock))
		}
	}
	acquire()
	hf.ok("kv", "put", "colour", "blue")

	// Their TTL is longer than the nodes are down: what ends them is the restore.
	holder := hf.start("lock", "run", "held", "--ttl", "15s", "--grace", "1s", "--", "sh", "-c", "echo held; exec sleep 600")
	holder.expect("held")
	leader := hf.start("election", "run", "boss", "--ttl", "15s", "--grace", "1s", "--", "sh", "-c", "echo leading; exec sleep 600")
	leader.expect("leading")
	cl, err := client.Dial(t.Context(), client.Config{Endpoints: c.Endpoints()})
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close() //nolint:errcheck // it always succeeds
	session, err := cl.OpenSession(t.Context(), engine.SessionConfig{TTL: 15 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	held, err := session.Acquire(t.Context(), "go")
	if err != nil {
		t.Fatal(err)
	}
	issued = max(issued, held.Token())

	backup := filepath.Join(t.TempDir(), "backup")
	hf.ok("backup", backup)
	acquire()
	hf.ok("kv", "put", "colour", "green")
	port := portOf(t, c)
	var peers []string
	for _, n := range c.Nodes() {
		peers = append(peers, n.Name+"="+n.Peer)
	}
	before := c.Endpoints()
	c.Close()

	second := filepath.Join(t.TempDir(), "second")
	for _, p := range peers {
		name, url, _ := strings.Cut(p, "=")
		hf.ok("restore", backup, "--data", filepath.Join(second, name), "--name", name, "--peer", url,
			"--peers", strings.Join(peers, ","), "--cluster-token", "again")
	}
	c, hf = nodes(t, devcluster.Config{Dir: second, Port: port, Args: []string{"--cluster-token", "again"}})
	if got := c.Endpoints(); got[0] != before[0] {
		t.Fatalf("the nodes are at %s, and were at %s", got, before)
	}

	if got := hf.ok("kv", "get", "colour"); got != "blue" {
		t.Errorf("colour is %q after the restore", got)
	}
	for _, lock := range []string{"a", "b", "held", "go", "new"} {
		if token := hf.token(lock); token <= issued {
			t.Errorf("%s: token %s after the restore, %s before", lock, token, issued)
		} else if lock == "new" {
			issued = max(issued, token)
		}
	}
	for _, p := range []*process{holder, leader} {
		if code := p.code(); code != 123 {
			t.Errorf("who lived through it ended with %d, want 123", code)
		}
		if !strings.Contains(p.stderr.String(), "lost; the command was stopped") {
			t.Errorf("it says %q", p.stderr.String())
		}
	}
	select {
	case <-held.Lost():
	case <-t.Context().Done():
	}
	if _, err := session.Acquire(t.Context(), "again"); !errors.Is(err, holdfast.ErrLost) {
		t.Errorf("an old session acquires: %v", err)
	}
	if _, err := session.KV().Put(t.Context(), "colour", []byte("red")); !errors.Is(err, holdfast.ErrLost) {
		t.Errorf("an old session writes: %v", err)
	}
	if got := hf.ok("kv", "get", "colour"); got != "blue" {
		t.Errorf("colour is %q after the old session wrote", got)
	}
	for _, n := range hf.status() {
		if n.Epoch != 2 {
			t.Errorf("node %s is in epoch %d, want 2", n.Name, n.Epoch)
		}
	}

	// The same backup once more: the epoch has to be said.
	c.Close()
	third := filepath.Join(t.TempDir(), "third")
	hf.ok("restore", backup, "--data", filepath.Join(third, "n1"), "--peer", c.Nodes()[0].Peer, "--min-epoch", "3")
	_, hf = nodes(t, devcluster.Config{Dir: third, Port: port, Nodes: 1})
	if token := hf.token("a"); token <= issued {
		t.Errorf("token %s after the second restore, %s before", token, issued)
	}
}

// portOf is where the ports of a cluster begin.
func portOf(t *testing.T, c *devcluster.Cluster) int {
	t.Helper()
	a, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(c.Endpoints()[0], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	return a.Port
}
