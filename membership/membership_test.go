package membership_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/membership"
)

// bubble runs f in a synctest bubble with two sessions on one quorum.
func bubble(t *testing.T, f func(t *testing.T, e *engine.Memory, one, two *engine.Session)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		e := engine.NewMemory(engine.MemoryConfig{})
		var s [2]*engine.Session
		for i := range s {
			var err error
			if s[i], err = engine.OpenSession(t.Context(), e, engine.SessionConfig{}); err != nil {
				t.Fatal(err)
			}
		}
		f(t, e, s[0], s[1])
		for _, s := range s {
			if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		}
		_ = e.Close()
	})
}

// want fails the test unless err is as expected.
func want(t *testing.T, what string, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("%s: got %v, want %v", what, err, target)
	}
}

func register(t *testing.T, s *engine.Session, group, id string) *membership.Registration {
	t.Helper()
	g, err := membership.New(s).Register(t.Context(), group, membership.Member{ID: id, Address: "host:1"})
	if err != nil {
		t.Fatal(err)
	}
	return g
}

func roster(t *testing.T, e engine.Engine) []string {
	t.Helper()
	r, err := membership.NewFor(e, 0).Roster(t.Context(), "g")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, m := range r.Members {
		out = append(out, m.ID+" "+m.Address)
	}
	return out
}

func TestRegistration_Life(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, one, two *engine.Session) {
		ctx := t.Context()
		a := register(t, one, "g", "a")
		_, err := membership.New(two).Register(ctx, "g", membership.Member{ID: "a", Address: "host:2"})
		want(t, "register another's id", err, holdfast.ErrBusy)
		register(t, two, "other", "a") // another group is another name
		if err := a.Update(ctx, membership.Member{Address: "host:3", Metadata: map[string]string{"zone": "2"}}); err != nil {
			t.Fatal(err)
		}
		if got := roster(t, e); !slices.Equal(got, []string{"a host:3"}) {
			t.Errorf("roster: %v", got)
		}

		again := register(t, one, "g", "a")
		want(t, "update of a registration taken over", a.Update(ctx, membership.Member{Address: "x"}), holdfast.ErrLost)
		want(t, "leave of a registration taken over", a.Leave(ctx), holdfast.ErrLost)
		for range 2 { // leaving twice is no error
			if err := again.Leave(ctx); err != nil {
				t.Fatal(err)
			}
		}
		want(t, "update after leave", again.Update(ctx, membership.Member{Address: "x"}), holdfast.ErrLost)
		if got := roster(t, e); len(got) != 0 {
			t.Errorf("roster after leave: %v", got)
		}
		theirs := register(t, two, "g", "a") // free again
		if err := two.Close(ctx); err != nil {
			t.Fatal(err)
		}
		want(t, "leave without a session", theirs.Leave(ctx), holdfast.ErrLost)
		if got := roster(t, e); len(got) != 0 {
			t.Errorf("roster after the session: %v", got)
		}
	})
}

func TestRegistry_RegisterRefusesEverythingAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T, _ *engine.Memory, one, _ *engine.Session) {
		_, err := membership.New(one).Register(t.Context(), "a/b", membership.Member{
			ID: strings.Repeat("x", membership.MaxName+1), Metadata: map[string]string{"k": strings.Repeat("v", membership.MaxMetadata)},
		})
		want(t, "register", err, holdfast.ErrInvalid)
		if n := strings.Count(err.Error(), "\n"); n != 3 {
			t.Errorf("want four faults at once, got %q", err)
		}
		g, err := membership.New(one).Register(t.Context(), "g", membership.Member{Address: "host:1"})
		if err != nil || len(g.ID()) != 8 {
			t.Errorf("a drawn id: %q, %v", g.ID(), err)
		}
		want(t, "update with another id", g.Update(t.Context(), membership.Member{ID: "x", Address: "y"}), holdfast.ErrInvalid)
		ev := <-membership.New(one).Watch(t.Context(), "")
		want(t, "watch", ev.Err, holdfast.ErrInvalid)
	})
}

func TestRegistry_Groups(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, one, _ *engine.Session) {
		for _, g := range []string{"b", "a", "a2", "ab", "a!"} {
			for i := range 3 {
				register(t, one, g, fmt.Sprint(i))
			}
		}
		r := membership.NewFor(e, 0)
		all, err := r.Groups(t.Context(), "")
		if err != nil || !slices.Equal(all, []string{"a", "a!", "a2", "ab", "b"}) {
			t.Errorf("groups: %v, %v", all, err)
		}
		some, err := r.Groups(t.Context(), "a2")
		if err != nil || !slices.Equal(some, []string{"a2"}) {
			t.Errorf("groups: %v, %v", some, err)
		}
	})
}

func TestRegistry_RosterReadsPages(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, one, _ *engine.Session) {
		const n = 1201
		for i := range n {
			register(t, one, "g", fmt.Sprintf("%04d", i))
		}
		register(t, one, "h", "x")
		if got := roster(t, e); len(got) != n || got[n-1] != "1200 host:1" {
			t.Errorf("%d members", len(got))
		}
	})
}

func TestRegistry_ForOthers(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, one, two *engine.Session) {
		ctx := t.Context()
		node := membership.NewFor(e, 0)
		mine, theirs := membership.Owner{Session: one.ID()}, membership.Owner{Session: two.ID()}
		m := membership.Member{ID: "a", Address: "host:1"}
		for range 2 { // to repeat it is harmless
			if _, _, err := node.RegisterFor(ctx, mine, "g", m); err != nil {
				t.Fatal(err)
			}
		}
		_, _, err := node.RegisterFor(ctx, theirs, "g", m)
		want(t, "register another's id", err, holdfast.ErrBusy)
		want(t, "update another's", node.UpdateFor(ctx, theirs, "g", m), holdfast.ErrNotFound)
		want(t, "leave another's", node.LeaveFor(ctx, theirs, "g", "a"), holdfast.ErrNotFound)
		m.Address = "host:2"
		if err := node.UpdateFor(ctx, mine, "g", m); err != nil {
			t.Fatal(err)
		}
		if got := roster(t, e); !slices.Equal(got, []string{"a host:2"}) {
			t.Errorf("roster: %v", got)
		}
		for range 2 {
			if err := node.LeaveFor(ctx, mine, "g", "a"); err != nil {
				t.Fatal(err)
			}
		}

		// With a request id a call happens once: late copies change nothing.
		id := engine.RequestID{Session: one.ID(), Slot: 99, Seq: 1}
		once := membership.Owner{Session: one.ID(), Request: &id}
		_, rev, err := node.RegisterFor(ctx, once, "g", m)
		if err != nil {
			t.Fatal(err)
		}
		if err := node.LeaveFor(ctx, mine, "g", "a"); err != nil {
			t.Fatal(err)
		}
		_, again, err := node.RegisterFor(ctx, once, "g", m)
		if err != nil || again != rev {
			t.Errorf("a late copy: revision %d, %v; want %d", again, err, rev)
		}
		if got := roster(t, e); len(got) != 0 {
			t.Errorf("a late copy registered: %v", got)
		}
		_, _, err = node.RegisterFor(ctx, theirs, "g", m)
		if err != nil {
			t.Fatal(err)
		}
		id.Seq = 2
		for range 2 { // a refusal is as final
			_, _, err = node.RegisterFor(ctx, once, "g", m)
			want(t, "register", err, holdfast.ErrBusy)
		}
		once.Session = two.ID()
		_, _, err = node.RegisterFor(ctx, once, "g", m)
		want(t, "another's request", err, holdfast.ErrInvalid)

		if err := two.Close(ctx); err != nil {
			t.Fatal(err)
		}
		_, _, err = node.RegisterFor(ctx, theirs, "g", m)
		want(t, "register without a session", err, holdfast.ErrLost)
	})
}

// next reads the next event of a watch.
func next(t *testing.T, w <-chan membership.Event) string {
	t.Helper()
	select {
	case ev, open := <-w:
		if !open {
			return "closed"
		}
		gap := ""
		if ev.Gap {
			gap = " gap"
		}
		return strings.TrimSpace(fmt.Sprint(ev.Kind, " ", ev.Member.ID)) + gap
	case <-time.NewTimer(time.Minute).C:
		return "nothing"
	}
}

func TestRegistry_WatchSurvivesCompaction(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, one, two *engine.Session) {
		ctx, cancel := context.WithCancel(t.Context())
		stays, leaves := register(t, one, "g", "stays"), register(t, one, "g", "leaves")
		register(t, two, "g", "dies")
		w := membership.NewFor(e, 0).Watch(ctx, "g")
		for _, want := range []string{"joined dies", "joined leaves", "joined stays", "synced"} {
			if got := next(t, w); got != want {
				t.Fatalf("got %s, want %s", got, want)
			}
		}
		// The watcher does not read: what the engine's watch has buffered and
		// what it is about to deliver are these updates; the rest is compacted.
		for i := range 10 {
			if err := stays.Update(ctx, membership.Member{Address: fmt.Sprint("host:", i)}); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if err := leaves.Leave(ctx); err != nil {
			t.Fatal(err)
		}
		if err := two.Close(ctx); err != nil {
			t.Fatal(err)
		}
		register(t, one, "g", "late")
		st, err := e.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := e.Compact(ctx, st.Revision); err != nil {
			t.Fatal(err)
		}
		var got []string
		for {
			ev := next(t, w)
			if ev == "nothing" {
				break
			}
			if ev != "updated stays" { // some before the gap, perhaps
				got = append(got, ev)
			}
		}
		if want := []string{"lost dies gap", "left leaves gap", "joined late gap", "updated stays gap"}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		cancel()
		if got := next(t, w); got != "closed" {
			t.Errorf("after the end: %s", got)
		}
	})
}

func TestRegistry_WatchIsSilentWithoutQuorum(t *testing.T) {
	bubble(t, func(t *testing.T, e *engine.Memory, one, _ *engine.Session) {
		ctx, cancel := context.WithCancel(t.Context())
		w := membership.NewFor(e, 0).Watch(ctx, "g")
		if got := next(t, w); got != "synced" {
			t.Fatalf("got %s", got)
		}
		e.Outage(true)
		if got := next(t, w); got != "nothing" {
			t.Errorf("during the outage: %s", got)
		}
		e.Outage(false)
		if err := one.Err(); !errors.Is(err, holdfast.ErrLost) {
			t.Errorf("the session after a minute without renewal: %v", err)
		}
		s, err := engine.OpenSession(ctx, e, engine.SessionConfig{})
		if err != nil {
			t.Fatal(err)
		}
		register(t, s, "g", "a")
		if got := next(t, w); got != "joined a" {
			t.Errorf("after the outage: %s", got)
		}
		if err := s.Close(ctx); err != nil {
			t.Fatal(err)
		}
		if got := next(t, w); got != "lost a" {
			t.Errorf("after the session: %s", got)
		}
		cancel()
		if got := next(t, w); got != "closed" {
			t.Errorf("after the end: %s", got)
		}
	})
}
