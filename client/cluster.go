package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"holdfast.dev"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/wire"
)

// NodeStatus is how a node sees itself and its cluster.
type NodeStatus struct {
	Node     string // its name
	Version  string // of Holdfast
	Clock    time.Time
	Uptime   time.Duration
	Epoch    uint16 // 0: not known
	Ready    bool   // a linearizable probe was answered just now
	NotReady string // why not
	Sessions int    // open in the cluster, as the node saw it last
	Waiters  int    // calls that wait at the node
	Streams  int    // watches open at the node

	Store StoreStatus
}

// StoreStatus is how a node sees the store under it.
type StoreStatus struct {
	Kind, Version                 string
	ClusterID, MemberID, LeaderID string
	Term                          uint64
	Revision                      int64
	Size, InUse, Quota            int64 // bytes
	Learner                       bool
	Alarms                        []string
}

// Member is a node of the cluster.
type Member struct {
	ID       string
	Name     string // empty: not started yet
	PeerURLs []string
	APIURLs  []string
	Learner  bool
	Leader   bool
}

// Admission is what a new node starts with.
type Admission struct {
	Member         Member
	InitialCluster string // "n1=http://…,n2=…"
	ClusterToken   string
}

// Backup is what a copy of the store holds.
type Backup struct {
	Size     int64
	SHA256   []byte
	Version  string // of the store's software
	Epoch    uint16
	Revision int64 // not older than this
}

// Status asks one of the client's endpoints, which must be among
// [Client.Endpoints], how it sees itself; it needs no quorum.
func (c *Client) Status(ctx context.Context, url string) (NodeStatus, error) {
	for _, e := range c.endpoints {
		if e.url != url {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, 2*c.cfg.Attempt)
		defer cancel()
		res, err := e.cluster.Status(ctx, &v1.StatusRequest{})
		if err != nil {
			return NodeStatus{}, c.failed("status", "node "+hostOf(url), false, unanswered(err))
		}
		return nodeStatus(res), nil
	}
	return NodeStatus{}, invalid("status", "node "+url, "not an endpoint of this client")
}

// unanswered is the error of a request to one certain node that changes nothing.
func unanswered(err error) error {
	e, ok := errors.AsType[*holdfast.Error](wire.FromConnect(err))
	if !ok {
		return err
	}
	out := *e
	out.Outcome = holdfast.NotApplied
	return &out
}

func nodeStatus(m *v1.StatusResponse) NodeStatus {
	s := m.GetStore()
	return NodeStatus{
		Node: m.GetNode(), Version: m.GetVersion(), Clock: m.GetClock().AsTime(), Uptime: m.GetUptime().AsDuration(),
		Epoch: uint16(m.GetEpoch()), Ready: m.GetReady(), NotReady: m.GetNotReady(),
		Sessions: int(m.GetSessions()), Waiters: int(m.GetWaiters()), Streams: int(m.GetStreams()),
		Store: StoreStatus{
			Kind: s.GetKind(), Version: s.GetVersion(), ClusterID: s.GetClusterId(), MemberID: s.GetMemberId(), LeaderID: s.GetLeaderId(),
			Term: s.GetTerm(), Revision: s.GetRevision(), Size: s.GetSize(), InUse: s.GetInUse(), Quota: s.GetQuota(),
			Learner: s.GetLearner(), Alarms: s.GetAlarms(),
		},
	}
}

// Members lists the nodes of the cluster.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	res, err := call(ctx, c, "members", "cluster", reading, func(ctx context.Context, e *endpoint) (*v1.MembersResponse, error) {
		return e.cluster.Members(ctx, &v1.MembersRequest{})
	})
	if err != nil {
		return nil, err
	}
	out := make([]Member, len(res.GetMembers()))
	for i, m := range res.GetMembers() {
		out[i] = memberOf(m)
	}
	return out, nil
}

func memberOf(m *v1.ClusterMember) Member {
	return Member{
		ID: m.GetId(), Name: m.GetName(), PeerURLs: m.GetPeerUrls(), APIURLs: m.GetApiUrls(), Learner: m.GetLearner(), Leader: m.GetLeader(),
	}
}

// AddMember announces a new node, as a learner, before it is started.
func (c *Client) AddMember(ctx context.Context, name string, peerURLs []string) (Admission, error) {
	res, err := call(ctx, c, "add", "node "+name, single, func(ctx context.Context, e *endpoint) (*v1.AddMemberResponse, error) {
		return e.cluster.AddMember(ctx, &v1.AddMemberRequest{Name: name, PeerUrls: peerURLs})
	})
	return Admission{memberOf(res.GetMember()), res.GetInitialCluster(), res.GetClusterToken()}, err
}

// Join announces the caller as a new node, as a learner. It may be repeated.
func (c *Client) Join(ctx context.Context, name string, peerURLs, apiURLs []string) (Admission, error) {
	res, err := call(ctx, c, "join", "node "+name, safe, func(ctx context.Context, e *endpoint) (*v1.JoinResponse, error) {
		return e.cluster.Join(ctx, &v1.JoinRequest{Name: name, PeerUrls: peerURLs, ApiUrls: apiURLs})
	})
	return Admission{memberOf(res.GetMember()), res.GetInitialCluster(), res.GetClusterToken()}, err
}

// Promote gives a learner its vote; holdfast.ErrConflict while it has not
// caught up.
func (c *Client) Promote(ctx context.Context, id string) error {
	_, err := call(ctx, c, "promote", "node "+id, single, func(ctx context.Context, e *endpoint) (*v1.PromoteResponse, error) {
		return e.cluster.Promote(ctx, &v1.PromoteRequest{Id: id})
	})
	return err
}

// Remove takes a node out for good.
func (c *Client) Remove(ctx context.Context, id string) error {
	_, err := call(ctx, c, "remove", "node "+id, single, func(ctx context.Context, e *endpoint) (*v1.RemoveResponse, error) {
		return e.cluster.Remove(ctx, &v1.RemoveRequest{Id: id})
	})
	return err
}

// MoveLeader hands the cluster's leadership to a node, any other voter when id
// is empty, and says who leads now.
func (c *Client) MoveLeader(ctx context.Context, id string) (string, error) {
	res, err := call(ctx, c, "move leader", "cluster", single, func(ctx context.Context, e *endpoint) (*v1.MoveLeaderResponse, error) {
		return e.cluster.MoveLeader(ctx, &v1.MoveLeaderRequest{Id: id})
	})
	return res.GetId(), err
}

// Backup writes a consistent copy of the store to w, from the node in use, and
// checks that it is whole. What was written is worthless after an error.
func (c *Client) Backup(ctx context.Context, w io.Writer) (Backup, error) {
	fail := func(err error) (Backup, error) {
		return Backup{}, c.failed("backup", "cluster", false, err)
	}
	e := c.at()
	ctx, cancel := e.during(ctx)
	defer cancel()
	stream, err := e.cluster.Backup(ctx, &v1.BackupRequest{})
	if err != nil {
		return fail(unanswered(err))
	}
	defer stream.Close() //nolint:errcheck // what counts is the summary
	sum, size := sha256.New(), int64(0)
	for stream.Receive() {
		m := stream.Msg()
		if s := m.GetSummary(); s != nil {
			if s.GetSize() != size || !bytes.Equal(s.GetSha256(), sum.Sum(nil)) {
				return fail(damaged("the copy was damaged on its way"))
			}
			return Backup{Size: size, SHA256: s.GetSha256(), Version: s.GetVersion(), Epoch: uint16(s.GetEpoch()), Revision: s.GetRevision()}, nil
		}
		n, err := io.MultiWriter(w, sum).Write(m.GetChunk())
		if err != nil {
			return Backup{}, err
		}
		size += int64(n)
	}
	if err := stream.Err(); err != nil {
		return fail(unanswered(err))
	}
	return fail(damaged(fmt.Sprintf("the copy ended after %d bytes without its summary", size)))
}

func damaged(text string) error {
	return &holdfast.Error{Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied, Err: errors.New(text)}
}
