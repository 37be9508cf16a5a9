package server_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"holdfast.dev"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/server"
	"holdfast.dev/internal/wire"
)

// outcome is the result of a call made in the background.
type outcome struct {
	token uint64
	err   error
}

func (c *caller) acquireLater(ctx context.Context, req *v1.AcquireRequest) <-chan outcome {
	ch := make(chan outcome, 1)
	go func() {
		resp, err := c.lock.Acquire(ctx, req)
		ch <- outcome{resp.GetToken(), err}
	}()
	return ch
}

// waiters is how many wait for a lock.
func (c *caller) waiters(name string) int {
	c.t.Helper()
	resp, err := c.lock.Get(c.t.Context(), &v1.LockServiceGetRequest{Name: name})
	if err != nil {
		c.t.Fatal(err)
	}
	return len(resp.GetLock().GetWaiters())
}

func (c *caller) release(session, name, request string) {
	c.t.Helper()
	if _, err := c.lock.Release(c.t.Context(), &v1.ReleaseRequest{Session: session, Name: name, RequestId: request}); err != nil {
		c.t.Error(err)
	}
}

func TestAcquire_WaitsForRelease(t *testing.T) {
	n := start(t, nil)
	c := n.caller(t, "")
	a, b := c.open(), c.open()
	first := c.acquire(a, "x")
	later := c.acquireLater(t.Context(), &v1.AcquireRequest{Session: b, Name: "x"})
	eventually(t, "one waits", func() bool { return c.waiters("x") == 1 })
	c.release(a, "x", "")
	if got := <-later; got.err != nil || got.token <= first {
		t.Errorf("got %v after %d", got, first)
	}
}

func TestAcquire_CallerGoesAway(t *testing.T) {
	n := start(t, nil)
	c := n.caller(t, "")
	a, b := c.open(), c.open()
	c.acquire(a, "x")
	ctx, cancel := context.WithCancel(t.Context())
	later := c.acquireLater(ctx, &v1.AcquireRequest{Session: b, Name: "x"})
	eventually(t, "one waits", func() bool { return c.waiters("x") == 1 })
	cancel()
	if got := <-later; connect.CodeOf(got.err) != connect.CodeCanceled {
		t.Errorf("got %v", got)
	}
	eventually(t, "nobody waits", func() bool { return c.waiters("x") == 0 })
}

// The node that granted is gone, its client's connections with it: the grant
// stays, and another node answers with the same token.
func TestAcquire_GrantSurvivesTheNode(t *testing.T) {
	n := start(t, nil)
	c := n.caller(t, "")
	a := c.open()
	req := &v1.AcquireRequest{Session: a, Name: "x", RequestId: "r1"}
	resp, err := c.lock.Acquire(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	n.stop(t)

	c = startOn(t, n.engine, func(cfg *server.Config) { cfg.Name = "n2" }).caller(t, "")
	again, err := c.lock.Acquire(t.Context(), req)
	if err != nil || again.GetToken() != resp.GetToken() {
		t.Errorf("at the other node: %v, %v; before %v", again, err, resp)
	}
	if _, err := c.session.KeepAlive(t.Context(), &v1.KeepAliveRequest{Session: a}); err != nil {
		t.Errorf("the session did not survive: %v", err)
	}
	_, err = c.lock.Acquire(t.Context(), &v1.AcquireRequest{Session: c.open(), Name: "x", Wait: durationpb.New(0)})
	wants(t, err, holdfast.CodeBusy, holdfast.NotApplied)
}

func TestAcquire_WaitRunsOut(t *testing.T) {
	c := start(t, nil).caller(t, "")
	a, b := c.open(), c.open()
	c.acquire(a, "x")
	_, err := c.lock.Acquire(t.Context(), &v1.AcquireRequest{Session: b, Name: "x", Wait: durationpb.New(20 * time.Millisecond)})
	wants(t, err, holdfast.CodeBusy, holdfast.NotApplied)
	if n := c.waiters("x"); n != 0 {
		t.Errorf("%d wait on", n)
	}
}

// One call ends before the wait does; the next one with the same request id
// finds the same place in the queue.
func TestAcquire_AgainKeepsThePlace(t *testing.T) {
	n := start(t, func(cfg *server.Config) { cfg.WaitSlice, cfg.WaitGrace = 30*time.Millisecond, time.Hour })
	c := n.caller(t, "")
	a, b, d := c.open(), c.open(), c.open()
	c.acquire(a, "x")
	req := &v1.AcquireRequest{Session: b, Name: "x", RequestId: "mine"}
	_, err := c.lock.Acquire(t.Context(), req)
	if !errors.Is(wire.FromConnect(err), wire.ErrAgain) || connect.CodeOf(err) != connect.CodeUnavailable {
		t.Fatalf("after the slice: %v", err)
	}
	wants(t, err, holdfast.CodeBusy, holdfast.Unknown)
	_, err = c.lock.Acquire(t.Context(), &v1.AcquireRequest{Session: d, Name: "x"})
	if !errors.Is(wire.FromConnect(err), wire.ErrAgain) {
		t.Fatalf("the one behind: %v", err)
	}
	c.release(a, "x", "")
	resp, err := c.lock.Acquire(t.Context(), req)
	if err != nil {
		t.Fatalf("called again: %v", err)
	}
	info, err := c.lock.Get(t.Context(), &v1.LockServiceGetRequest{Name: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if h := info.GetLock().GetHolders(); len(h) != 1 || h[0].GetSession() != b || h[0].GetToken() != resp.GetToken() || h[0].GetRequestId() != "mine" {
		t.Errorf("held by %v", h)
	}
}

func TestAcquire_UnattendedWaitIsWithdrawn(t *testing.T) {
	n := start(t, func(cfg *server.Config) { cfg.WaitSlice, cfg.WaitGrace = 20*time.Millisecond, 20*time.Millisecond })
	c := n.caller(t, "")
	a, b := c.open(), c.open()
	c.acquire(a, "x")
	_, err := c.lock.Acquire(t.Context(), &v1.AcquireRequest{Session: b, Name: "x"})
	if !errors.Is(wire.FromConnect(err), wire.ErrAgain) {
		t.Fatalf("after the slice: %v", err)
	}
	eventually(t, "nobody waits", func() bool { return c.waiters("x") == 0 })
}

func TestAcquire_SessionDiesWhileWaiting(t *testing.T) {
	c := start(t, nil).caller(t, "")
	a, b := c.open(), c.open()
	c.acquire(a, "x")
	later := c.acquireLater(t.Context(), &v1.AcquireRequest{Session: b, Name: "x"})
	eventually(t, "one waits", func() bool { return c.waiters("x") == 1 })
	if _, err := c.session.Close(t.Context(), &v1.CloseRequest{Session: b}); err != nil {
		t.Fatal(err)
	}
	got := <-later
	wants(t, got.err, holdfast.CodeLost, holdfast.NotApplied)
}

func TestAcquire_SessionExpires(t *testing.T) {
	c := start(t, nil).caller(t, "")
	resp, err := c.session.Open(t.Context(), &v1.OpenRequest{Ttl: durationpb.New(time.Second)})
	if err != nil {
		t.Fatal(err)
	}
	first := c.acquire(resp.GetSession(), "x")
	if next := c.acquire(c.open(), "x"); next <= first {
		t.Errorf("token %d after %d", next, first)
	}
	_, err = c.session.KeepAlive(t.Context(), &v1.KeepAliveRequest{Session: resp.GetSession()})
	wants(t, err, holdfast.CodeLost, holdfast.NotApplied)
}

// The node loses its own session: its clients' sessions and grants do not.
func TestNode_LosesItsOwnSession(t *testing.T) {
	n := start(t, func(cfg *server.Config) { cfg.SessionTTL = 2 * time.Second })
	c := n.caller(t, "")
	a, b := c.open(), c.open()
	token := c.acquire(a, "x")
	later := c.acquireLater(t.Context(), &v1.AcquireRequest{Session: b, Name: "x"})
	eventually(t, "one waits", func() bool { return c.waiters("x") == 1 })

	recs, err := engine.Sessions(t.Context(), n.engine)
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range recs {
		if rec.Metadata[wire.PrincipalKey] == "" {
			if err := n.engine.Revoke(t.Context(), engine.LeaseID(rec.ID)); err != nil {
				t.Fatal(err)
			}
		}
	}
	got := <-later
	wants(t, got.err, holdfast.CodeNoQuorum, holdfast.Unknown)
	eventually(t, "ready again", func() bool { return n.Ready(t.Context()) == nil })
	eventually(t, "the lock is held as before", func() bool {
		resp, err := c.lock.Acquire(t.Context(), &v1.AcquireRequest{Session: a, Name: "x"})
		if err != nil {
			wants(t, err, holdfast.CodeNoQuorum, holdfast.Unknown)
		}
		return err == nil && resp.GetToken() == token
	})
}

func TestShutdown_EndsWaitsAndStreams(t *testing.T) {
	n := start(t, nil)
	c := n.caller(t, "")
	a, b := c.open(), c.open()
	c.acquire(a, "x")
	later := c.acquireLater(t.Context(), &v1.AcquireRequest{Session: b, Name: "x", RequestId: "r"})
	stream, err := c.kv.Watch(t.Context(), &v1.KVServiceWatchRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	if !stream.Receive() {
		t.Fatal(stream.Err())
	}
	eventually(t, "one waits", func() bool { return c.waiters("x") == 1 })
	n.stop(t)
	if got := <-later; !errors.Is(wire.FromConnect(got.err), wire.ErrAgain) {
		t.Errorf("the wait ended with %v", got.err)
	}
	if stream.Receive() {
		t.Errorf("the stream goes on: %v", stream.Msg())
	}
	wants(t, stream.Err(), holdfast.CodeNoQuorum, holdfast.NotApplied)
}

func TestCampaign(t *testing.T) {
	ctx := t.Context()
	n := start(t, func(cfg *server.Config) { cfg.Heartbeat = 20 * time.Millisecond })
	c := n.caller(t, "")
	observed, err := c.elect.Observe(ctx, &v1.ObserveRequest{Name: "boss"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = observed.Close() }()
	see := func(want string) {
		t.Helper()
		for observed.Receive() {
			m := observed.Msg()
			got := m.GetLeader().GetText()
			if m.GetLeader() == nil {
				got = "nobody"
			}
			if got == want {
				return
			}
		}
		t.Fatalf("waiting to see %q: %v", want, observed.Err())
	}
	see("nobody")
	a, b := c.open(), c.open()
	campaign := func(session, value string, change func(*v1.CampaignRequest)) (uint64, error) {
		req := &v1.CampaignRequest{Session: session, Name: "boss", Content: &v1.CampaignRequest_Text{Text: value}}
		if change != nil {
			change(req)
		}
		resp, err := c.elect.Campaign(ctx, req)
		return resp.GetToken(), err
	}
	first, err := campaign(a, "a", nil)
	if err != nil {
		t.Fatal(err)
	}
	see("a")
	if !observed.Receive() || !observed.Msg().GetHeartbeat() || observed.Msg().GetLeader().GetText() != "a" {
		t.Errorf("no heartbeat: %v", observed.Msg())
	}
	_, err = campaign(b, "b", func(r *v1.CampaignRequest) { r.Wait = durationpb.New(0) })
	wants(t, err, holdfast.CodeBusy, holdfast.NotApplied)
	if _, err := c.elect.Proclaim(ctx, &v1.ProclaimRequest{Session: a, Name: "boss", Content: &v1.ProclaimRequest_Text{Text: "a2"}}); err != nil {
		t.Fatal(err)
	}
	see("a2")
	_, err = c.elect.Proclaim(ctx, &v1.ProclaimRequest{Session: b, Name: "boss", Content: &v1.ProclaimRequest_Text{Text: "b"}})
	wants(t, err, holdfast.CodeLost, holdfast.NotApplied)

	// The leader vanishes: the next one has to fence it off.
	if _, err := c.session.Close(ctx, &v1.CloseRequest{Session: a}); err != nil {
		t.Fatal(err)
	}
	fence := func(r *v1.CampaignRequest) { r.Fence = true }
	_, err = campaign(b, "b", fence)
	required, ok := wire.Detail[*v1.FenceRequired](err)
	if !ok || required.GetVanished().GetToken() != first || required.GetVanished().GetText() != "a2" || connect.CodeOf(err) != connect.CodeFailedPrecondition {
		t.Fatalf("after a leader that vanished: %v, %v", required, err)
	}
	list, err := c.elect.List(ctx, &v1.ElectionServiceListRequest{})
	if err != nil || len(list.GetElections()) != 1 || list.GetElections()[0].GetLeader() != nil || list.GetElections()[0].GetVanished().GetToken() != first {
		t.Errorf("list: %v, %v", list, err)
	}
	second, err := campaign(b, "b", func(r *v1.CampaignRequest) { r.Fence, r.Fenced = true, first })
	if err != nil || second <= first {
		t.Fatalf("fenced off: %d, %v", second, err)
	}
	see("b")
	if _, err := c.elect.Resign(ctx, &v1.ResignRequest{Session: b, Name: "boss"}); err != nil {
		t.Fatal(err)
	}
	see("nobody")
}
