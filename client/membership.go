package client

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"strings"

	"connectrpc.com/connect"

	"holdfast.dev"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/membership"
)

// Registration is a member that the session has in a group. It lasts until
// Leave or the end of the session. Safe for concurrent use.
type Registration struct {
	s     *Session
	group string
	id    string
}

// Register enters a member into a group, under the session; see
// membership.Registry.Register.
func (s *Session) Register(ctx context.Context, group string, m membership.Member) (*Registration, error) {
	if m.ID == "" {
		m.ID = strings.ToLower(rand.Text())[:8]
	}
	req := &v1.RegisterRequest{Session: s.ID().String(), Group: group, Member: memberToProto(m)}
	_, err := call(ctx, s.c, "register", memberKey(group, m.ID), safe, func(ctx context.Context, e *endpoint) (*v1.RegisterResponse, error) {
		return e.membership.Register(ctx, req)
	})
	if err != nil {
		return nil, s.orLost("register", memberKey(group, m.ID), err)
	}
	return &Registration{s: s, group: group, id: m.ID}, nil
}

// Group is the group's name.
func (r *Registration) Group() string { return r.group }

// ID is the member's id.
func (r *Registration) ID() string { return r.id }

// Update replaces address and metadata; m.ID must be empty or the same.
func (r *Registration) Update(ctx context.Context, m membership.Member) error {
	if m.ID != "" && m.ID != r.id {
		return invalid("update", memberKey(r.group, r.id), "id %q: it is %q and stays so", m.ID, r.id)
	}
	m.ID = r.id
	req := &v1.UpdateRequest{Session: r.s.ID().String(), Group: r.group, Member: memberToProto(m)}
	_, err := call(ctx, r.s.c, "update", memberKey(r.group, r.id), safe, func(ctx context.Context, e *endpoint) (*v1.UpdateResponse, error) {
		return e.membership.Update(ctx, req)
	})
	return err
}

// Leave takes the member out of the group; watchers are told that it left.
func (r *Registration) Leave(ctx context.Context) error {
	req := &v1.LeaveRequest{Session: r.s.ID().String(), Group: r.group, Id: r.id}
	_, err := call(ctx, r.s.c, "leave", memberKey(r.group, r.id), safe, func(ctx context.Context, e *endpoint) (*v1.LeaveResponse, error) {
		return e.membership.Leave(ctx, req)
	})
	return err
}

// Roster reads who is in a group now.
func (c *Client) Roster(ctx context.Context, group string) (membership.Roster, error) {
	res, err := call(ctx, c, "roster", "group "+group, reading, func(ctx context.Context, e *endpoint) (*v1.RosterResponse, error) {
		return e.membership.Roster(ctx, &v1.RosterRequest{Group: group})
	})
	if err != nil {
		return membership.Roster{}, err
	}
	roster := membership.Roster{Revision: res.GetRevision()}
	for _, p := range res.GetMembers() {
		m, err := memberFromProto(p, 0)
		if err != nil {
			return membership.Roster{}, err
		}
		roster.Members = append(roster.Members, m)
	}
	return roster, nil
}

// Groups reads the names of the groups that begin with prefix and have members.
func (c *Client) Groups(ctx context.Context, prefix string) ([]string, error) {
	res, err := call(ctx, c, "groups", "members", reading, func(ctx context.Context, e *endpoint) (*v1.GroupsResponse, error) {
		return e.membership.Groups(ctx, &v1.GroupsRequest{Prefix: prefix})
	})
	return res.GetGroups(), err
}

// WatchMembers tells of those present, as Joined, then Synced, then of every
// change; see membership.Registry.Watch. It goes on at another node; what it
// can then only infer from who is there has Gap set, and who is missing then
// counts as Lost. The channel is closed after an event with Err set, or when
// ctx or the client ends.
func (c *Client) WatchMembers(ctx context.Context, group string) <-chan membership.Event {
	out := make(chan membership.Event, 1)
	if !c.spawn(&c.work, func() {
		defer close(out)
		w := memberWatch{c: c, out: out, group: group, known: map[string]membership.Member{}}
		w.run(ctx)
	}) {
		out <- membership.Event{Err: errClosed("watch")}
		close(out)
	}
	return out
}

// memberWatch is one watch of a group over several connections.
type memberWatch struct {
	c     *Client
	out   chan<- membership.Event
	group string
	known map[string]membership.Member
	// synced: the members were told once. From then on, those that a new
	// connection begins with are collected in fresh until it has named all.
	synced bool
	fresh  map[string]membership.Member
}

func (w *memberWatch) run(ctx context.Context) {
	open := func(ctx context.Context, e *endpoint) (*connect.ServerStreamForClient[v1.MembershipServiceWatchResponse], error) {
		w.fresh = nil
		if w.synced {
			w.fresh = map[string]membership.Member{}
		}
		return e.membership.Watch(ctx, &v1.MembershipServiceWatchRequest{Group: w.group})
	}
	var broken error
	err := follow(ctx, w.c, open, func(m *v1.MembershipServiceWatchResponse) bool {
		events, err := w.take(m)
		broken = err
		for _, ev := range events {
			if !deliver(ctx, w.c, w.out, ev) {
				return false
			}
		}
		return err == nil
	})
	if err == nil {
		err = broken
	}
	if err != nil {
		deliver(ctx, w.c, w.out, membership.Event{Err: &holdfast.Error{
			Op: "watch", Key: "group " + w.group, Code: holdfast.CodeOf(err), Outcome: holdfast.NotApplied, Err: bare(err),
		}})
	}
}

// take turns a message into events.
func (w *memberWatch) take(p *v1.MembershipServiceWatchResponse) ([]membership.Event, error) {
	rev := p.GetRevision()
	if p.GetMember() == nil {
		if p.GetChange() != v1.MemberChange_MEMBER_CHANGE_SYNCED {
			return nil, nil // a heartbeat
		}
		events := w.compare(rev)
		if !w.synced {
			w.synced = true
			events = append(events, membership.Event{Kind: membership.Synced, Revision: rev})
		}
		return events, nil
	}
	m, err := memberFromProto(p.GetMember(), rev)
	if err != nil {
		return nil, err
	}
	if w.fresh != nil && p.GetChange() == v1.MemberChange_MEMBER_CHANGE_JOINED {
		w.fresh[m.ID] = m
		return nil, nil
	}
	ev := membership.Event{Member: m, Revision: rev}
	switch p.GetChange() {
	case v1.MemberChange_MEMBER_CHANGE_JOINED:
		ev.Kind = membership.Joined
		w.known[m.ID] = m
	case v1.MemberChange_MEMBER_CHANGE_UPDATED:
		ev.Kind = membership.Updated
		w.known[m.ID] = m
	case v1.MemberChange_MEMBER_CHANGE_LEFT:
		ev.Kind = membership.Left
		delete(w.known, m.ID)
	case v1.MemberChange_MEMBER_CHANGE_LOST:
		ev.Kind = membership.Lost
		delete(w.known, m.ID)
	case v1.MemberChange_MEMBER_CHANGE_UNSPECIFIED, v1.MemberChange_MEMBER_CHANGE_SYNCED:
		return nil, nil // they name nobody
	}
	return []membership.Event{ev}, nil
}

// compare tells the difference between what was known and what a new
// connection named.
func (w *memberWatch) compare(rev int64) (events []membership.Event) {
	if w.fresh == nil {
		return nil
	}
	add := func(k membership.Kind, m membership.Member) {
		events = append(events, membership.Event{Kind: k, Member: m, Revision: rev, Gap: true})
	}
	for _, id := range slices.Sorted(maps.Keys(w.known)) {
		old := w.known[id]
		if now, still := w.fresh[id]; !still || now.Session != old.Session {
			add(membership.Lost, old)
			delete(w.known, id)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(w.fresh)) {
		now := w.fresh[id]
		old, known := w.known[id]
		switch {
		case !known:
			add(membership.Joined, now)
		case old.Address != now.Address || !maps.Equal(old.Metadata, now.Metadata):
			add(membership.Updated, now)
		}
	}
	w.known, w.fresh = w.fresh, nil
	return events
}

func memberToProto(m membership.Member) *v1.Member {
	return &v1.Member{Id: m.ID, Address: m.Address, Metadata: m.Metadata}
}

func memberFromProto(p *v1.Member, rev int64) (membership.Member, error) {
	m := membership.Member{ID: p.GetId(), Address: p.GetAddress(), Metadata: p.GetMetadata(), Revision: rev}
	if p.GetSession() == "" {
		return m, nil
	}
	id, err := engine.ParseSessionID(p.GetSession())
	m.Session = id
	return m, err
}

func memberKey(group, id string) string { return fmt.Sprintf("member %s/%s", group, id) }
