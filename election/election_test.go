package election_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/election"
	"holdfast.dev/engine"
)

// node is one simulated process.
type node struct {
	*election.Manager
	session *engine.Session
	store   *engine.Memory
}

// vanish ends the node's session as if its process had died long ago.
func (n node) vanish(t *testing.T) {
	t.Helper()
	if err := n.store.Revoke(t.Context(), engine.LeaseID(n.session.ID())); err != nil {
		t.Fatal(err)
	}
}

func bubble(t *testing.T, f func(t *testing.T, open func() node)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewMemory(engine.MemoryConfig{})
		var nodes []node
		f(t, func() node {
			s, err := engine.OpenSession(t.Context(), e, engine.SessionConfig{})
			if err != nil {
				t.Fatal(err)
			}
			n := node{election.New(s, election.Config{}), s, e}
			nodes = append(nodes, n)
			return n
		})
		for _, n := range nodes {
			n.Close()
			if err := n.session.Close(t.Context()); err != nil {
				t.Error(err)
			}
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
}

// campaign campaigns in the background.
func campaign(t *testing.T, n node, value string, opts ...election.Option) <-chan *election.Leadership {
	t.Helper()
	c := make(chan *election.Leadership, 1)
	go func() {
		defer close(c)
		l, err := n.Campaign(context.WithoutCancel(t.Context()), "e", []byte(value), opts...)
		if err != nil {
			t.Errorf("campaign of %s: %v", value, err)
			return
		}
		c <- l
	}()
	synctest.Wait()
	return c
}

func TestCampaign_InOrderWithGrowingTokens(t *testing.T) {
	bubble(t, func(t *testing.T, open func() node) {
		a, b, c := open(), open(), open()
		if _, err := a.Leader(t.Context(), "e"); !errors.Is(err, holdfast.ErrNotFound) {
			t.Errorf("before anybody leads: %v", err)
		}
		la := <-campaign(t, a, "a")
		cb, cc := campaign(t, b, "b"), campaign(t, c, "c")
		for i, l := range []*election.Leadership{la, nil, nil} {
			if i > 0 {
				l = <-[]<-chan *election.Leadership{nil, cb, cc}[i]
			}
			lead, err := a.Leader(t.Context(), "e")
			if err != nil || string(lead.Value) != string("abc"[i]) || lead.Token != l.Token() {
				t.Fatalf("leader %d: %+v, %v; want token %v", i, lead, err, l.Token())
			}
			if err := l.Proclaim(t.Context(), []byte("new")); err != nil {
				t.Fatal(err)
			}
			lead, err = b.Leader(t.Context(), "e")
			if err != nil || string(lead.Value) != "new" || lead.Token != l.Token() || lead.Revision <= l.Token().Revision() {
				t.Fatalf("after proclaiming: %+v, %v", lead, err)
			}
			if err := l.Resign(t.Context()); err != nil {
				t.Fatal(err)
			}
			if err := l.Proclaim(t.Context(), nil); !errors.Is(err, holdfast.ErrClosed) {
				t.Errorf("proclaim after resigning: %v", err)
			}
			synctest.Wait()
		}
	})
}

func TestObserve_SaysNobodyToo(t *testing.T) {
	bubble(t, func(t *testing.T, open func() node) {
		a, b := open(), open()
		ctx, cancel := context.WithCancel(t.Context())
		views := b.Observe(ctx, "e")
		next := func(want string) {
			t.Helper()
			v := <-views
			got := "nobody"
			if v.Leader != nil {
				got = string(v.Leader.Value)
			}
			if got != want {
				t.Errorf("saw %s, want %s", got, want)
			}
		}
		next("nobody")
		l := <-campaign(t, a, "one")
		next("one")
		if err := l.Proclaim(t.Context(), []byte("two")); err != nil {
			t.Fatal(err)
		}
		next("two")
		if err := l.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		next("nobody")
		cancel()
		for range views { // until it is closed
		}
	})
}

func TestFence_BeforeTakingOver(t *testing.T) {
	bubble(t, func(t *testing.T, open func() node) {
		a, b, c := open(), open(), open()
		la := <-campaign(t, a, "a")
		fencing, proceed := make(chan election.Leader), make(chan error)
		hook := election.Fence(func(_ context.Context, vanished election.Leader) error {
			fencing <- vanished
			return <-proceed
		})
		failed := make(chan error)
		go func() {
			_, err := b.Campaign(context.WithoutCancel(t.Context()), "e", []byte("b"), hook)
			failed <- err
		}()
		synctest.Wait()
		cc := campaign(t, c, "c", hook)
		a.vanish(t)
		if v := <-fencing; v.Token != la.Token() || v.Session != a.session.ID() {
			t.Errorf("b was asked to fence %+v", v)
		}
		if _, err := c.Leader(t.Context(), "e"); !errors.Is(err, holdfast.ErrNotFound) {
			t.Errorf("somebody leads while the old leader is being fenced off: %v", err)
		}
		proceed <- errors.New("the power switch does not answer")
		if err := <-failed; err == nil {
			t.Error("a campaign whose hook failed succeeded")
		}
		if v := <-fencing; v.Token != la.Token() {
			t.Errorf("c was asked to fence %+v", v)
		}
		proceed <- nil
		lc := <-cc
		if lead, err := c.Leader(t.Context(), "e"); err != nil || lead.Token != lc.Token() {
			t.Errorf("%+v, %v", lead, err)
		}
		// A leader that resigns is not fenced: the hook would hang.
		if err := lc.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		if l := <-campaign(t, c, "c", hook); l == nil {
			t.Error("no leader after a resignation")
		}
	})
}

func TestCampaignFor_AsksForFencing(t *testing.T) {
	bubble(t, func(t *testing.T, open func() node) {
		a, b := open(), open()
		la := <-campaign(t, a, "a")
		a.vanish(t)
		o := election.Owner{Session: b.session.ID(), Request: "r"}
		_, err := b.CampaignFor(t.Context(), o, "e", []byte("b"), election.FenceRequest{Ask: true})
		v, ok := errors.AsType[*election.VanishedError](err)
		if !ok || v.Leader.Token != la.Token() {
			t.Fatalf("%v", err)
		}
		g, err := b.CampaignFor(t.Context(), o, "e", []byte("b"), election.FenceRequest{Ask: true, Done: v.Leader.Token})
		if err != nil || g.Token <= la.Token() {
			t.Fatalf("%+v, %v", g, err)
		}
		again, err := b.CampaignFor(t.Context(), o, "e", []byte("b"), election.FenceRequest{Ask: true})
		if err != nil || again != g {
			t.Errorf("asked again: %+v, %v", again, err)
		}
		if err := b.ResignFor(t.Context(), o, "e"); err != nil {
			t.Fatal(err)
		}
	})
}

func TestCampaign_EndsWithItsSession(t *testing.T) {
	bubble(t, func(t *testing.T, open func() node) {
		a, b := open(), open()
		l := <-campaign(t, a, "a")
		done := make(chan error)
		go func() {
			_, err := b.Campaign(context.WithoutCancel(t.Context()), "e", nil)
			done <- err
		}()
		synctest.Wait()
		b.vanish(t)
		if err := <-done; !errors.Is(err, holdfast.ErrLost) {
			t.Errorf("campaign under a lost session: %v", err)
		}
		if err := l.Resign(t.Context()); err != nil {
			t.Fatal(err)
		}
		infos, err := a.List(t.Context(), "", "", 10)
		if err != nil || len(infos) != 0 {
			t.Errorf("a phantom: %+v, %v", infos, err)
		}
	})
}

func TestLeadership_LostWithItsSession(t *testing.T) {
	bubble(t, func(t *testing.T, open func() node) {
		a, b := open(), open()
		la := <-campaign(t, a, "a")
		cb := campaign(t, b, "b")
		start := time.Now()
		a.vanish(t)
		lb := <-cb
		if d := time.Since(start); d > time.Second {
			t.Errorf("taken over %v after the session ended", d)
		}
		if lb.Token() <= la.Token() {
			t.Error("the token did not grow")
		}
		<-la.Lost()
		if err := la.Resign(t.Context()); !errors.Is(err, holdfast.ErrLost) {
			t.Errorf("resigning a lost leadership: %v", err)
		}
		if err := la.Proclaim(t.Context(), nil); !errors.Is(err, holdfast.ErrLost) {
			t.Errorf("proclaiming in a lost leadership: %v", err)
		}
	})
}

func TestCampaign_Invalid(t *testing.T) {
	bubble(t, func(t *testing.T, open func() node) {
		if _, err := open().Campaign(t.Context(), "", make([]byte, election.MaxValue+1)); !errors.Is(err, holdfast.ErrInvalid) {
			t.Error(err)
		}
	})
}
