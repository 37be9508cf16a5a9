package embed

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"holdfast.dev"
	"holdfast.dev/engine"
)

func TestGrowAndShrink(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.Name, cfg.ListenPeer = "n0", freeURL(t)
	first := start(t, cfg)
	put(t, first, "kv/a")

	cfg2 := quick(t)
	cfg2.Name, cfg2.ListenPeer, cfg2.Existing = "n1", freeURL(t), true
	m, initial, err := first.AddLearner(t.Context(), cfg2.Name, cfg2.ListenPeer)
	if err != nil {
		t.Fatal(err)
	}
	if !m.Learner || m.Self || !strings.Contains(initial, "n0="+cfg.ListenPeer) || !strings.Contains(initial, "n1="+cfg2.ListenPeer) {
		t.Fatalf("added %+v, %s", m, initial)
	}
	put(t, first, "kv/b") // one learner that is not there yet costs nothing
	cfg2.InitialCluster = initial
	second := start(t, cfg2)
	if err := first.Promote(t.Context(), m.ID); err != nil {
		t.Fatalf("promote: %v", err)
	}
	members, err := second.Members(t.Context())
	if err != nil || len(members) != 2 {
		t.Fatalf("members %+v, %v", members, err)
	}
	for _, m := range members {
		if m.Learner || m.Leader != (m.Name == "n0") || m.Self != (m.Name == "n1") {
			t.Errorf("member %+v", m)
		}
	}
	if got := get(t, second, "kv/b"); got != "kv/b" {
		t.Errorf("kv/b is %q", got)
	}

	if err := second.MoveLeader(t.Context(), m.ID); !errors.Is(err, holdfast.ErrInvalid) {
		t.Errorf("a follower moves the leader: %v", err)
	}
	if err := first.MoveLeader(t.Context(), m.ID); err != nil {
		t.Fatalf("move: %v", err)
	}
	if err := second.HandOver(t.Context()); err != nil {
		t.Fatalf("hand over: %v", err)
	}
	if err := first.Remove(t.Context(), m.ID); err != nil {
		t.Fatalf("remove: %v", err)
	}
	select {
	case <-second.Done():
	case <-t.Context().Done():
		t.Fatal("the removed member goes on")
	}
	if err := first.Remove(t.Context(), m.ID); !errors.Is(err, holdfast.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	put(t, first, "kv/c")
}

// TestPromoteWaits promotes a learner that never comes.
func TestPromoteWaits(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.ListenPeer = freeURL(t)
	n := start(t, cfg)
	m, _, err := n.AddLearner(t.Context(), "late", freeURL(t))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if err := n.Promote(ctx, m.ID); !errors.Is(err, holdfast.ErrConflict) {
		t.Fatalf("got %v", err)
	}
}

// TestNewAddress restarts a member that is reached elsewhere.
func TestNewAddress(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	n := start(t, cfg)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.ListenPeer = freeURL(t)
	members, err := start(t, cfg).Members(t.Context())
	if err != nil || len(members) != 1 || members[0].PeerURLs[0] != cfg.ListenPeer {
		t.Fatalf("members %+v, %v", members, err)
	}
}

// TestCutOff takes the majority away: calls end, watches fall silent.
func TestCutOff(t *testing.T) {
	t.Parallel()
	c := startTrio(t)
	watch := c.nodes[0].Watch(t.Context(), engine.WatchRequest{Key: "kv/a", Progress: true})
	if b := <-watch; b.Err != nil || b.Revision == 0 {
		t.Fatalf("first %+v", b)
	}
	for _, n := range c.nodes[1:] {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the lonely member sees no leader", func() bool { return c.nodes[0].srv.Server.Leader() == 0 })
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := c.nodes[0].Txn(ctx, engine.Txn{Then: []engine.Op{engine.Put("kv/a", nil)}})
	if code := holdfast.CodeOf(err); code != holdfast.CodeNoQuorum && code != holdfast.CodeDeadline {
		t.Errorf("txn: %v", err)
	}
	if _, err := c.nodes[0].Range(t.Context(), engine.RangeRequest{Key: "kv/a", Stale: true}); err != nil {
		t.Errorf("stale read: %v", err)
	}
	if st, err := c.nodes[0].Status(t.Context()); err != nil || st.Leader != 0 {
		t.Errorf("status %+v, %v", st, err)
	}
	c.start(t, 1, 2)
	write(t, c.nodes[1], "kv/a", "back")
	events := 0
	for b := range watch {
		if b.Err != nil {
			t.Fatal(b.Err)
		}
		if events += len(b.Events); events > 0 {
			break
		}
	}
}

// TestCorruptMemberIsRefused changes a value behind a member's back.
func TestCorruptMemberIsRefused(t *testing.T) {
	t.Parallel()
	c := startTrio(t)
	put(t, c.nodes[0], "kv/a")
	const bad = 2
	eventually(t, "the key arrives", func() bool {
		res, err := c.nodes[bad].Range(t.Context(), engine.RangeRequest{Key: "kv/a", Stale: true})
		return err == nil && res.Count == 1
	})
	if err := c.nodes[bad].Kill(); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(filepath.Join(c.cfgs[bad].Dir, "member", "snap", "db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("key"))
		k, v := b.Cursor().Last()
		v = append([]byte(nil), v...)
		v[len(v)-1] ^= 1
		return b.Put(append([]byte(nil), k...), v)
	})
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	n, err := Start(t.Context(), c.cfgs[bad])
	if !errors.Is(err, holdfast.ErrInvalid) || n != nil {
		t.Fatalf("a member with other data starts: %v", err)
	}
	write(t, c.nodes[0], "kv/b", "goes on")
}

func TestEtcdctlReads(t *testing.T) {
	t.Parallel()
	bin, err := exec.LookPath("etcdctl")
	if err != nil {
		t.Skip("needs etcdctl: install the Debian package etcd-client")
	}
	cfg := quick(t)
	cfg.ListenClient = freeURL(t)
	put(t, start(t, cfg), "kv/a")
	cmd := exec.CommandContext(t.Context(), bin, "--endpoints", cfg.ListenClient, "get", "--prefix", "/holdfast/")
	cmd.Env = []string{"ETCDCTL_API=3"}
	out, err := cmd.CombinedOutput()
	if err != nil || string(out) != "/holdfast/kv/a\nkv/a\n" {
		t.Fatalf("%s, %v", out, err)
	}
}

// TestChange_RefusalInTime: a change that cannot be made ends with the reason
// and a certain outcome, not with the deadline of who asked.
func TestChange_RefusalInTime(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.ListenPeer = freeURL(t)
	n := start(t, cfg)
	learner, _, err := n.AddLearner(t.Context(), "never", freeURL(t))
	if err != nil {
		t.Fatal(err)
	}
	members, err := n.Members(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for what, f := range map[string]func(context.Context) error{
		"promote who never ran": func(ctx context.Context) error { return n.Promote(ctx, learner.ID) },
		"remove the last voter": func(ctx context.Context) error {
			for _, m := range members {
				if m.Self {
					return n.Remove(ctx, m.ID)
				}
			}
			return nil
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		err := f(ctx)
		if !errors.Is(err, holdfast.ErrConflict) || holdfast.OutcomeOf(err) != holdfast.NotApplied || ctx.Err() != nil {
			t.Errorf("%s: %v, and the context: %v", what, err, ctx.Err())
		}
		cancel()
	}
}

// TestStart_DiskLost: a member that comes back without its data has forgotten
// whom it voted for and what it acknowledged. It is not let in.
func TestStart_DiskLost(t *testing.T) {
	t.Parallel()
	c := startTrio(t)
	put(t, c.nodes[0], "kv/a")
	lost := c.nodes[2]
	c.nodes[2] = nil
	if err := lost.Kill(); err != nil {
		t.Fatal(err)
	}
	c.cfgs[2].Dir = t.TempDir()
	n, err := Start(t.Context(), c.cfgs[2])
	if err == nil {
		_ = n.Kill()
	}
	if !errors.Is(err, holdfast.ErrConflict) || !strings.Contains(err.Error(), "remove it from the cluster") {
		t.Fatalf("a member without its data started: %v", err)
	}
}
