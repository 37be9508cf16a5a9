package server

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"holdfast.dev"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/server/auth"
)

// Cluster changes the quorum's own members. Ids are the consensus' own. All
// methods are safe for concurrent use.
type Cluster interface {
	// Members lists them.
	Members(ctx context.Context) ([]Member, error)
	// AddLearner announces a member without a vote.
	AddLearner(ctx context.Context, peerURL string) (Member, error)
	// Promote gives a learner its vote as soon as it has caught up.
	Promote(ctx context.Context, id uint64) error
	// Remove takes a member out.
	Remove(ctx context.Context, id uint64) error
	// MoveLeader hands leadership over; 0 is any other voter.
	MoveLeader(ctx context.Context, id uint64) error
	// Snapshot writes a consistent copy of the store and returns a revision that
	// is in it.
	Snapshot(ctx context.Context, w io.Writer) (revision int64, err error)
	// Defragment gives free space back to the disk.
	Defragment(ctx context.Context) error
	// Alarms is what the members complain of.
	Alarms(ctx context.Context) ([]Alarm, error)
	// Disarm ends an alarm.
	Disarm(ctx context.Context, a Alarm) error
	// Token tells this cluster from others.
	Token() string
}

// Member is one member of the quorum.
type Member struct {
	ID       uint64
	Name     string // empty: it has not been started yet
	PeerURLs []string
	Learner  bool
	Leader   bool
}

// Alarm is what a member complains of.
type Alarm struct {
	Member uint64
	Kind   string // "nospace" or "corrupt"
}

// clusterService is holdfast.v1.ClusterService.
type clusterService struct{ *Server }

// change is the cluster, for those who may change it.
func (s clusterService) change(ctx context.Context, op string) (Cluster, error) {
	if err := callerOf(ctx).May(auth.Admin); err != nil {
		return nil, named("cluster", s.cfg.Name, op, err)
	}
	return s.cluster(op)
}

func (s clusterService) cluster(op string) (Cluster, error) {
	if s.cfg.Cluster == nil {
		return nil, named("cluster", s.cfg.Name, op, invalid(errors.New("this node's store is not managed by Holdfast; use its own tools")))
	}
	return s.cfg.Cluster, nil
}

func (s clusterService) Probe(ctx context.Context, _ *v1.ProbeRequest) (*v1.ProbeResponse, error) {
	rev, err := s.probe.ask(ctx)
	if err != nil {
		return nil, named("node", s.cfg.Name, "probe", err)
	}
	return &v1.ProbeResponse{Revision: rev, Node: s.cfg.Name}, nil
}

func (s clusterService) Status(ctx context.Context, _ *v1.StatusRequest) (*v1.StatusResponse, error) {
	if err := callerOf(ctx).May(auth.Read); err != nil {
		return nil, named("node", s.cfg.Name, "status", err)
	}
	st, err := s.cfg.Engine.Status(ctx)
	if err != nil {
		return nil, named("node", s.cfg.Name, "status", err)
	}
	resp := &v1.StatusResponse{
		Node: s.cfg.Name, Version: s.cfg.Version, Clock: timestamppb.Now(), Uptime: durationpb.New(time.Since(s.started)),
		Store:    storeToProto(st),
		Sessions: uint32(s.register.open()), Waiters: uint32(s.waiters.used()), Streams: uint32(s.streams.used()),
	}
	if err := s.ready(ctx); err != nil {
		resp.NotReady = err.Error()
	} else {
		resp.Ready = true
	}
	if p, err := s.own.parts(); err == nil {
		resp.Epoch = uint32(p.session.Epoch())
	}
	return resp, nil
}

func storeToProto(st engine.Status) *v1.StoreStatus {
	return &v1.StoreStatus{
		Kind: st.Kind, Version: st.Version, ClusterId: hex(st.ClusterID), MemberId: hex(st.MemberID), LeaderId: hex(st.Leader),
		Term: st.Term, Revision: st.Revision, Size: st.DBSize, InUse: st.DBInUse, Quota: st.Quota, Learner: st.Learner, Alarms: st.Alarms,
	}
}

// hex is an id of the consensus as etcd's tools show it, "" for none.
func hex(id uint64) string {
	if id == 0 {
		return ""
	}
	return fmt.Sprintf("%016x", id)
}

func unhex(s string) (uint64, error) {
	id, err := strconv.ParseUint(s, 16, 64)
	if err != nil {
		return 0, invalid(fmt.Errorf("member id %q: want hexadecimal digits", s))
	}
	return id, nil
}

func (s clusterService) Members(ctx context.Context, _ *v1.MembersRequest) (*v1.MembersResponse, error) {
	if err := callerOf(ctx).May(auth.Read); err != nil {
		return nil, named("cluster", s.cfg.Name, "members", err)
	}
	nodes, err := s.nodes(ctx)
	if err != nil {
		return nil, named("cluster", s.cfg.Name, "members", err)
	}
	resp := &v1.MembersResponse{}
	if s.cfg.Cluster == nil { // the nodes are what there is
		for _, n := range nodes {
			resp.Members = append(resp.Members, &v1.ClusterMember{Name: n.Name, ApiUrls: n.URLs})
		}
		return resp, nil
	}
	members, err := s.cfg.Cluster.Members(ctx)
	if err == nil {
		err = s.fillNames(ctx, members)
	}
	if err != nil {
		return nil, named("cluster", s.cfg.Name, "members", err)
	}
	for _, m := range members {
		pm := memberInfo(m)
		for _, n := range nodes {
			if n.Member == m.ID {
				pm.ApiUrls = n.URLs
			}
		}
		resp.Members = append(resp.Members, pm)
	}
	return resp, nil
}

func memberInfo(m Member) *v1.ClusterMember {
	return &v1.ClusterMember{Id: hex(m.ID), Name: m.Name, PeerUrls: m.PeerURLs, Learner: m.Learner, Leader: m.Leader}
}

// nodes is what the nodes say of themselves, by name.
func (s *Server) nodes(ctx context.Context) ([]nodeRecord, error) {
	res, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) (engine.RangeResult, error) {
		return s.cfg.Engine.Range(ctx, engine.RangeRequest{Key: nodePrefix, End: engine.PrefixEnd(nodePrefix)})
	})
	if err != nil {
		return nil, err
	}
	var nodes []nodeRecord
	for _, kv := range res.KVs {
		var n nodeRecord
		if json.Unmarshal(kv.Value, &n) == nil {
			nodes = append(nodes, n)
		}
	}
	slices.SortFunc(nodes, func(a, b nodeRecord) int { return strings.Compare(a.Name, b.Name) })
	return nodes, nil
}

func (s clusterService) AddMember(ctx context.Context, req *v1.AddMemberRequest) (*v1.AddMemberResponse, error) {
	m, initial, token, err := s.admit(ctx, "add member", req.GetName(), req.GetPeerUrls())
	if err != nil {
		return nil, err
	}
	return &v1.AddMemberResponse{Member: m, InitialCluster: initial, ClusterToken: token}, nil
}

func (s clusterService) Join(ctx context.Context, req *v1.JoinRequest) (*v1.JoinResponse, error) {
	m, initial, token, err := s.admit(ctx, "join", req.GetName(), req.GetPeerUrls())
	if err != nil {
		return nil, err
	}
	m.ApiUrls = req.GetApiUrls()
	return &v1.JoinResponse{Member: m, InitialCluster: initial, ClusterToken: token}, nil
}

// namePrefix is where the names of members that were added are kept, by id: the
// quorum itself learns them when the members start.
const namePrefix = "cluster/name/"

// keepName keeps the name a member was added under.
func (s *Server) keepName(ctx context.Context, id uint64, name string) error {
	_, err := engine.Submit(ctx, s.cfg.Engine, s.cfg.Attempt, engine.Txn{Then: []engine.Op{engine.Put(namePrefix+hex(id), []byte(name))}})
	return err
}

// forgetName forgets the name of a member that was removed.
func (s *Server) forgetName(ctx context.Context, id uint64) error {
	_, err := engine.Submit(ctx, s.cfg.Engine, s.cfg.Attempt, engine.Txn{Then: []engine.Op{engine.Delete(namePrefix + hex(id))}})
	return err
}

// fillNames names members that have not started yet.
func (s *Server) fillNames(ctx context.Context, members []Member) error {
	for i, m := range members {
		if m.Name != "" {
			continue
		}
		res, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) (engine.RangeResult, error) {
			return s.cfg.Engine.Range(ctx, engine.RangeRequest{Key: namePrefix + hex(m.ID)})
		})
		if err != nil {
			return err
		}
		if len(res.KVs) > 0 {
			members[i].Name = string(res.KVs[0].Value)
		}
	}
	return nil
}

// admissible says why a node of that name and those peer URLs cannot be taken.
func admissible(name string, peers []string) error {
	if name == "" || name[0] == '-' || strings.ContainsFunc(name, func(r rune) bool { return r == '=' || r == ',' || r == ' ' || !unicode.IsPrint(r) }) {
		return fmt.Errorf("name %q: want printable characters without space, = and comma, and no - at the start", name)
	}
	if len(peers) != 1 {
		return fmt.Errorf("%d peer URLs: want one", len(peers))
	}
	u, err := url.Parse(peers[0])
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.Path != "" {
		return fmt.Errorf("peer URL %q: want http://HOST:PORT or https://HOST:PORT", peers[0])
	}
	return nil
}

// admit announces a learner, unless that has been done already.
func (s clusterService) admit(ctx context.Context, op, name string, peers []string) (*v1.ClusterMember, string, string, error) {
	fail := func(err error) (*v1.ClusterMember, string, string, error) {
		return nil, "", "", named("member", name, op, err)
	}
	c, err := s.change(ctx, op)
	if err != nil {
		return nil, "", "", err
	}
	if err := admissible(name, peers); err != nil {
		return fail(invalid(err))
	}
	members, err := c.Members(ctx)
	if err != nil {
		return fail(err)
	}
	i := slices.IndexFunc(members, func(m Member) bool { return slices.Equal(m.PeerURLs, peers) })
	switch {
	case slices.ContainsFunc(members, func(m Member) bool { return m.Name == name && !slices.Equal(m.PeerURLs, peers) }):
		return fail(&holdfast.Error{Code: holdfast.CodeConflict, Outcome: holdfast.NotApplied, Err: errors.New("a member of that name is there already")})
	case i >= 0 && members[i].Name != "" && members[i].Name != name:
		return fail(&holdfast.Error{
			Code: holdfast.CodeConflict, Outcome: holdfast.NotApplied, Err: fmt.Errorf("%s is the peer URL of member %s", peers[0], members[i].Name),
		})
	case i < 0:
		m, err := c.AddLearner(ctx, peers[0])
		if err != nil {
			return fail(err)
		}
		members = append(members, m)
		i = len(members) - 1
	}
	if members[i].Name == "" {
		if err := s.keepName(ctx, members[i].ID, name); err != nil {
			return fail(err)
		}
	}
	members[i].Name = name
	if err := s.fillNames(ctx, members); err != nil {
		return fail(err)
	}
	var initial []string
	for _, m := range members {
		for _, u := range m.PeerURLs {
			who := m.Name
			if who == "" {
				who = hex(m.ID)
			}
			initial = append(initial, who+"="+u)
		}
	}
	return memberInfo(members[i]), strings.Join(initial, ","), c.Token(), nil
}

// withMember calls f for the member that a request names.
func (s clusterService) withMember(ctx context.Context, op, text string, f func(Cluster, uint64) error) error {
	c, err := s.change(ctx, op)
	if err != nil {
		return err
	}
	id, err := unhex(text)
	if err == nil {
		err = f(c, id)
	}
	if err != nil {
		return named("member", text, op, err)
	}
	return nil
}

func (s clusterService) Promote(ctx context.Context, req *v1.PromoteRequest) (*v1.PromoteResponse, error) {
	err := s.withMember(ctx, "promote", req.GetId(), func(c Cluster, id uint64) error { return c.Promote(ctx, id) })
	if err != nil {
		return nil, err
	}
	return &v1.PromoteResponse{}, nil
}

func (s clusterService) Remove(ctx context.Context, req *v1.RemoveRequest) (*v1.RemoveResponse, error) {
	err := s.withMember(ctx, "remove", req.GetId(), func(c Cluster, id uint64) error {
		if err := c.Remove(ctx, id); err != nil {
			return err
		}
		if err := s.forgetName(ctx, id); err != nil { // nothing depends on it
			s.cfg.Logger.WarnContext(ctx, "the name of a removed member is kept", slog.String("error", err.Error()))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &v1.RemoveResponse{}, nil
}

func (s clusterService) MoveLeader(ctx context.Context, req *v1.MoveLeaderRequest) (*v1.MoveLeaderResponse, error) {
	text := req.GetId()
	if text == "" {
		text = "0"
	}
	err := s.withMember(ctx, "move leader", text, func(c Cluster, id uint64) error {
		if err := s.leads(ctx, c); err != nil {
			return err
		}
		return c.MoveLeader(ctx, id)
	})
	if err != nil {
		return nil, err
	}
	st, err := s.cfg.Engine.Status(ctx)
	if err != nil {
		return nil, named("cluster", s.cfg.Name, "move leader", err)
	}
	return &v1.MoveLeaderResponse{Id: hex(st.Leader)}, nil
}

// leads is nil when this node leads, and otherwise names the one to ask.
func (s *Server) leads(ctx context.Context, c Cluster) error {
	st, err := s.cfg.Engine.Status(ctx)
	if err != nil || st.Leader == st.MemberID {
		return err
	}
	leader := hex(st.Leader)
	if members, err := c.Members(ctx); err == nil {
		if i := slices.IndexFunc(members, func(m Member) bool { return m.ID == st.Leader }); i >= 0 {
			leader = members[i].Name
		}
	}
	return &holdfast.Error{
		Code: holdfast.CodeConflict, Outcome: holdfast.NotApplied, Err: fmt.Errorf("%s leads, not this node: ask it", leader),
	}
}

// chunkSize is how much of a backup goes into one message.
const chunkSize = 256 << 10

func (s clusterService) Backup(ctx context.Context, _ *v1.BackupRequest, stream *connect.ServerStream[v1.BackupResponse]) error {
	c, err := s.change(ctx, "backup")
	if err != nil {
		return err
	}
	ctx, done, err := s.stream(ctx)
	if err != nil {
		return named("cluster", s.cfg.Name, "backup", err)
	}
	defer done()
	epoch, err := retry(ctx, s.cfg.Attempt, func(ctx context.Context) (uint16, error) { return engine.Epoch(ctx, s.cfg.Engine) })
	if err != nil {
		return named("cluster", s.cfg.Name, "backup", err)
	}
	st, err := s.cfg.Engine.Status(ctx)
	if err != nil {
		return named("cluster", s.cfg.Name, "backup", err)
	}
	w := &chunks{ctx: ctx, stream: stream, sum: sha256.New(), buf: make([]byte, 0, chunkSize)}
	rev, err := c.Snapshot(ctx, w)
	if err == nil {
		err = w.flush()
	}
	if err != nil {
		if ctx.Err() != nil {
			return s.ended(ctx)
		}
		return named("cluster", s.cfg.Name, "backup", err)
	}
	return stream.Send(&v1.BackupResponse{Part: &v1.BackupResponse_Summary{Summary: &v1.BackupSummary{
		Size: w.size, Sha256: w.sum.Sum(nil), Version: st.Version, Epoch: uint32(epoch), Revision: rev,
	}}})
}

// chunks sends what is written to it.
type chunks struct {
	ctx    context.Context
	stream *connect.ServerStream[v1.BackupResponse]
	sum    hash.Hash
	size   int64
	buf    []byte
}

func (c *chunks) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), chunkSize-len(c.buf))
		c.buf = append(c.buf, p[:k]...)
		p = p[k:]
		if len(c.buf) == chunkSize {
			if err := c.flush(); err != nil {
				return n - len(p), err
			}
		}
	}
	return n, nil
}

func (c *chunks) flush() error {
	if err := c.ctx.Err(); err != nil || len(c.buf) == 0 {
		return err
	}
	c.sum.Write(c.buf)
	c.size += int64(len(c.buf))
	err := c.stream.Send(&v1.BackupResponse{Part: &v1.BackupResponse_Chunk{Chunk: c.buf}})
	c.buf = c.buf[:0]
	return err
}

func (s clusterService) Defragment(ctx context.Context, _ *v1.DefragmentRequest) (*v1.DefragmentResponse, error) {
	c, err := s.change(ctx, "defragment")
	if err != nil {
		return nil, err
	}
	before, err := s.cfg.Engine.Status(ctx)
	if err == nil {
		err = c.Defragment(ctx)
	}
	var after engine.Status
	if err == nil {
		after, err = s.cfg.Engine.Status(ctx)
	}
	if err != nil {
		return nil, named("node", s.cfg.Name, "defragment", err)
	}
	return &v1.DefragmentResponse{SizeBefore: before.DBSize, SizeAfter: after.DBSize}, nil
}

// defaultKeep is how many revisions Compact leaves when nothing else is said.
const defaultKeep = 1000

func (s clusterService) Compact(ctx context.Context, req *v1.CompactRequest) (*v1.CompactResponse, error) {
	if err := callerOf(ctx).May(auth.Admin); err != nil {
		return nil, named("cluster", s.cfg.Name, "compact", err)
	}
	rev := req.GetRevision()
	if rev == 0 {
		now, err := s.probe.ask(ctx)
		if err != nil {
			return nil, named("cluster", s.cfg.Name, "compact", err)
		}
		keep := req.GetKeep()
		if keep == 0 {
			keep = defaultKeep
		}
		if rev = now - keep; rev < 1 {
			return &v1.CompactResponse{Revision: 1}, nil
		}
	}
	err := s.cfg.Engine.Compact(ctx, rev)
	if err != nil && !errors.Is(err, holdfast.ErrCompacted) { // done already
		return nil, named("cluster", s.cfg.Name, "compact", err)
	}
	return &v1.CompactResponse{Revision: rev}, nil
}

func (s clusterService) Alarms(ctx context.Context, _ *v1.AlarmsRequest) (*v1.AlarmsResponse, error) {
	if err := callerOf(ctx).May(auth.Read); err != nil {
		return nil, named("cluster", s.cfg.Name, "alarms", err)
	}
	c, err := s.cluster("alarms")
	if err != nil {
		return nil, err
	}
	alarms, err := c.Alarms(ctx)
	if err != nil {
		return nil, named("cluster", s.cfg.Name, "alarms", err)
	}
	return &v1.AlarmsResponse{Alarms: alarmsToProto(alarms)}, nil
}

func alarmsToProto(alarms []Alarm) []*v1.Alarm {
	var out []*v1.Alarm
	for _, a := range alarms {
		out = append(out, &v1.Alarm{MemberId: hex(a.Member), Kind: a.Kind})
	}
	return out
}

func (s clusterService) Disarm(ctx context.Context, req *v1.DisarmRequest) (*v1.DisarmResponse, error) {
	c, err := s.change(ctx, "disarm")
	if err != nil {
		return nil, err
	}
	var member uint64
	if req.GetMemberId() != "" {
		if member, err = unhex(req.GetMemberId()); err != nil {
			return nil, named("cluster", s.cfg.Name, "disarm", err)
		}
	}
	alarms, err := c.Alarms(ctx)
	if err != nil {
		return nil, named("cluster", s.cfg.Name, "disarm", err)
	}
	var disarmed []Alarm
	for _, a := range alarms {
		if member != 0 && a.Member != member || req.GetKind() != "" && a.Kind != req.GetKind() {
			continue
		}
		if err := c.Disarm(ctx, a); err != nil {
			return nil, named("cluster", s.cfg.Name, "disarm", err)
		}
		disarmed = append(disarmed, a)
	}
	return &v1.DisarmResponse{Disarmed: alarmsToProto(disarmed)}, nil
}
