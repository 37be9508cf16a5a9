package embed

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/engine/etcd"
)

// Member is a member of the cluster.
type Member struct {
	ID         uint64
	Name       string // empty until it has started for the first time
	PeerURLs   []string
	ClientURLs []string
	Learner    bool // follows without a vote
	Leader     bool // as this node sees it
	Self       bool
}

// root is ctx with the right to do everything, should etcd's users be on.
func (n *Node) root(ctx context.Context) context.Context {
	return n.srv.Server.AuthStore().WithRoot(ctx)
}

// failed makes an error of an operation on the cluster.
func failed(ctx context.Context, op, key string, err error) error {
	if err == nil {
		return nil
	}
	code, outcome := etcd.Judge(ctx, err)
	return &holdfast.Error{Op: op, Key: key, Code: code, Outcome: outcome, Err: err}
}

// idText is how errors name a member.
func idText(id uint64) string { return fmt.Sprintf("member %016x", id) }

// Members lists the cluster's members, the oldest id first. The answer is
// linearizable.
func (n *Node) Members(ctx context.Context) ([]Member, error) {
	resp, err := n.cluster.MemberList(n.root(ctx), &etcdserverpb.MemberListRequest{Linearizable: true})
	if err != nil {
		return nil, failed(ctx, "list", "members", err)
	}
	return n.members(resp.GetMembers()), nil
}

func (n *Node) members(in []*etcdserverpb.Member) []Member {
	self, leader := uint64(n.srv.Server.MemberID()), n.srv.Server.Lead()
	out := make([]Member, len(in))
	for i, m := range in {
		if slices.Equal(m.GetClientURLs(), m.GetPeerURLs()) {
			m.ClientURLs = nil // it serves no clients of etcd
		}
		out[i] = Member{
			ID: m.GetID(), Name: m.GetName(), PeerURLs: m.GetPeerURLs(), ClientURLs: m.GetClientURLs(),
			Learner: m.GetIsLearner(), Leader: m.GetID() == leader, Self: m.GetID() == self,
		}
	}
	slices.SortFunc(out, func(a, b Member) int { return cmpID(a.ID, b.ID) })
	return out
}

func cmpID(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// AddLearner adds a member that will be reached at peerURL. It follows without
// a vote, so that the majority stays what it is, until Promote. initialCluster
// is the Config.InitialCluster to start it with, under that name and with
// Existing set. One learner at a time. etcd wants all members to have been
// connected for five seconds; that is waited for, until ctx ends.
func (n *Node) AddLearner(ctx context.Context, name, peerURL string) (m Member, initialCluster string, err error) {
	var resp *etcdserverpb.MemberAddResponse
	err = n.change(ctx, func() (err error) {
		resp, err = n.cluster.MemberAdd(n.root(ctx), &etcdserverpb.MemberAddRequest{PeerURLs: []string{peerURL}, IsLearner: true})
		return failed(ctx, "add", "member "+name, err)
	})
	if err != nil {
		return Member{}, "", err
	}
	var parts []string
	for _, m := range n.members(resp.GetMembers()) {
		who := m.Name
		switch {
		case m.ID == resp.GetMember().GetID():
			who = name
		case who == "":
			who = fmt.Sprintf("%016x", m.ID)
		}
		for _, u := range m.PeerURLs {
			parts = append(parts, who+"="+u)
		}
	}
	return n.members([]*etcdserverpb.Member{resp.GetMember()})[0], strings.Join(parts, ","), nil
}

// Promote gives a learner its vote. It waits until the learner has caught up
// with the leader, or ctx is about to end: [holdfast.ErrConflict].
func (n *Node) Promote(ctx context.Context, id uint64) error {
	return n.change(ctx, func() error {
		_, err := n.cluster.MemberPromote(n.root(ctx), &etcdserverpb.MemberPromoteRequest{ID: id})
		return failed(ctx, "promote", idText(id), err)
	})
}

// Remove takes a member out of the cluster; its server stops. etcd wants enough
// of the others to have been connected for five seconds; that is waited for,
// until ctx ends.
func (n *Node) Remove(ctx context.Context, id uint64) error {
	return n.change(ctx, func() error {
		_, err := n.cluster.MemberRemove(n.root(ctx), &etcdserverpb.MemberRemoveRequest{ID: id})
		return failed(ctx, "remove", idText(id), err)
	})
}

// change repeats a change of members that was refused for what may pass: a
// learner that lags, a member that is not connected long enough. It stops
// somewhat before ctx ends, so that the refusal reaches whoever asked: he would
// have to take silence for an unknown outcome.
func (n *Node) change(ctx context.Context, f func() error) error {
	trying := ctx
	if end, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		trying, cancel = context.WithTimeout(ctx, time.Until(end)*3/4)
		defer cancel()
	}
	for {
		err := f()
		code := holdfast.CodeOf(err)
		if err == nil || holdfast.OutcomeOf(err) != holdfast.NotApplied || code != holdfast.CodeBusy && code != holdfast.CodeNoQuorum ||
			!pause(trying, 200*time.Millisecond) {
			if e, ok := errors.AsType[*holdfast.Error](err); ok && e.Code == holdfast.CodeBusy { // nobody holds anything
				refused := *e
				refused.Code = holdfast.CodeConflict
				return &refused
			}
			return err
		}
	}
}

// announce tells the cluster when this member's peer URL is not what it was.
func (n *Node) announce(ctx context.Context) error {
	self := uint64(n.srv.Server.MemberID())
	for _, m := range n.srv.Server.Cluster().Members() {
		if uint64(m.ID) != self || n.cfg.AdvertisePeer == nowhere || slices.Equal(m.PeerURLs, []string{n.cfg.AdvertisePeer}) {
			continue
		}
		return n.retry(ctx, func() error {
			_, err := n.cluster.MemberUpdate(n.root(ctx), &etcdserverpb.MemberUpdateRequest{ID: self, PeerURLs: []string{n.cfg.AdvertisePeer}})
			return failed(ctx, "announce", n.cfg.AdvertisePeer, err)
		})
	}
	return nil
}

// MoveLeader makes another voting member the leader. Only the leader can.
func (n *Node) MoveLeader(ctx context.Context, to uint64) error {
	s := n.srv.Server
	if s.Lead() != uint64(s.MemberID()) {
		return &holdfast.Error{Op: "move leader", Key: idText(to), Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: errors.New("this member does not lead")}
	}
	if err := s.MoveLeader(ctx, s.Lead(), to); err != nil {
		return &holdfast.Error{Op: "move leader", Key: idText(to), Code: holdfast.CodeNoQuorum, Outcome: holdfast.Unknown, Err: err}
	}
	return nil
}

// HandOver passes leadership to some other voting member, if this one leads and
// there are others.
func (n *Node) HandOver(ctx context.Context) error {
	s := n.srv.Server
	var others []uint64
	for _, m := range s.Cluster().Members() {
		if m.ID != s.MemberID() && !m.IsLearner {
			others = append(others, uint64(m.ID))
		}
	}
	slices.Sort(others)
	var err error
	for _, id := range others {
		if s.Lead() != uint64(s.MemberID()) {
			return nil
		}
		// One that is down must not take the time of the next.
		one, cancel := context.WithTimeout(ctx, n.cfg.Election)
		err = n.MoveLeader(one, id)
		cancel()
		if err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// Defragment gives the free pages of this member's store back to the disk. The
// member answers nothing meanwhile, for some seconds per GiB; defragment one at
// a time. It does not heed ctx once it has begun.
func (n *Node) Defragment(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return failed(ctx, "defragment", "store", err)
	}
	return failed(ctx, "defragment", "store", n.srv.Server.Defragment())
}

// Alarm is a condition that a member raised in the whole cluster.
type Alarm struct {
	Member uint64
	Name   string // "NOSPACE": only deletions are taken; "CORRUPT": nothing is
}

// Alarms lists the alarms that are on, as this node knows them.
func (n *Node) Alarms() []Alarm {
	var out []Alarm
	for _, a := range n.srv.Server.Alarms() {
		if a.GetAlarm() != etcdserverpb.AlarmType_NONE {
			out = append(out, Alarm{Member: a.GetMemberID(), Name: a.GetAlarm().String()})
		}
	}
	return out
}

// Disarm switches an alarm off. It comes back when its cause is still there.
func (n *Node) Disarm(ctx context.Context, a Alarm) error {
	kind, ok := etcdserverpb.AlarmType_value[a.Name]
	if !ok {
		return &holdfast.Error{Op: "disarm", Key: "alarm " + a.Name, Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied}
	}
	_, err := n.srv.Server.Alarm(n.root(ctx), &etcdserverpb.AlarmRequest{
		Action: etcdserverpb.AlarmRequest_DEACTIVATE, MemberID: a.Member, Alarm: etcdserverpb.AlarmType(kind),
	})
	return failed(ctx, "disarm", "alarm "+a.Name, err)
}

// Backup says what a snapshot holds.
type Backup struct {
	Revision int64 // everything acknowledged before Snapshot was called is in it, at least up to here
	Bytes    int64
}

// Snapshot writes the whole store to w, with a SHA-256 sum at the end that
// [Restore] checks.
func (n *Node) Snapshot(ctx context.Context, w io.Writer) (Backup, error) {
	// A member that lags behind must catch up first.
	now, err := n.Range(ctx, engine.RangeRequest{Key: "epoch", Count: true})
	if err != nil {
		return Backup{}, err
	}
	snap := n.srv.Server.Backend().Snapshot()
	sum := sha256.New()
	bytes, err := snap.WriteTo(io.MultiWriter(contextWriter{ctx, w}, sum))
	if err == nil {
		_, err = w.Write(sum.Sum(nil))
	}
	if err := errors.Join(err, snap.Close()); err != nil {
		return Backup{}, failed(ctx, "snapshot", "store", err)
	}
	return Backup{Revision: now.Revision, Bytes: bytes + sha256.Size}, nil
}

// contextWriter fails when its context has ended.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (c contextWriter) Write(b []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, err
	}
	return c.w.Write(b)
}

// newLease draws a lease id. Secrecy is not needed, only that no two collide.
func newLease() engine.LeaseID {
	return engine.LeaseID(rand.Int64N(1<<62) + 1)
}

// leaseTTL bounds how long a member that died in maintenance holds it up.
const leaseTTL = time.Minute
