package server_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"holdfast.dev"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/server"
)

// fakeCluster is a quorum whose members are a list.
type fakeCluster struct {
	mu      sync.Mutex
	members []server.Member
	alarms  []server.Alarm
}

func (f *fakeCluster) Members(context.Context) ([]server.Member, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]server.Member(nil), f.members...), nil
}

func (f *fakeCluster) AddLearner(_ context.Context, peer string) (server.Member, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	m := server.Member{ID: uint64(len(f.members) + 1), PeerURLs: []string{peer}, Learner: true}
	f.members = append(f.members, m)
	return m, nil
}

func (f *fakeCluster) Promote(_ context.Context, id uint64) error {
	if id == 13 {
		return &holdfast.Error{Code: holdfast.CodeConflict, Outcome: holdfast.NotApplied, Err: errors.New("it has not caught up")}
	}
	return nil
}

const snapshot = "a copy of the store"

func (f *fakeCluster) Snapshot(_ context.Context, w io.Writer) (int64, error) {
	for range 100_000 {
		if _, err := io.WriteString(w, snapshot); err != nil {
			return 0, err
		}
	}
	return 7, nil
}

func (f *fakeCluster) Alarms(context.Context) ([]server.Alarm, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.alarms, nil
}

func (f *fakeCluster) Disarm(_ context.Context, a server.Alarm) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var left []server.Alarm
	for _, b := range f.alarms {
		if a != b {
			left = append(left, b)
		}
	}
	f.alarms = left
	return nil
}

func (f *fakeCluster) Remove(context.Context, uint64) error     { return nil }
func (f *fakeCluster) MoveLeader(context.Context, uint64) error { return nil }
func (f *fakeCluster) Defragment(context.Context) error         { return nil }
func (f *fakeCluster) Token() string                            { return "t" }

func TestJoin_MayBeRepeated(t *testing.T) {
	f := &fakeCluster{members: []server.Member{{ID: 1, Name: "n1", PeerURLs: []string{"http://n1:7451"}, Leader: true}}}
	c := start(t, func(cfg *server.Config) { cfg.Cluster, cfg.Advertise = f, []string{"http://127.0.0.1:1"} }).caller(t, "")
	join := func(name, peer string) (*v1.JoinResponse, error) {
		return c.cluster.Join(t.Context(), &v1.JoinRequest{Name: name, PeerUrls: []string{peer}, ApiUrls: []string{"http://a"}})
	}
	for range 2 {
		resp, err := join("n2", "http://n2:7451")
		if err != nil {
			t.Fatal(err)
		}
		if resp.GetInitialCluster() != "n1=http://n1:7451,n2=http://n2:7451" || resp.GetClusterToken() != "t" || !resp.GetMember().GetLearner() || resp.GetMember().GetId() != "0000000000000002" {
			t.Errorf("got %v", resp)
		}
	}
	// It has its name before it starts.
	resp, err := c.cluster.Members(t.Context(), &v1.MembersRequest{})
	if err != nil || len(resp.GetMembers()) != 2 || resp.GetMembers()[1].GetName() != "n2" {
		t.Errorf("members: %v, %v", resp, err)
	}
	_, err = join("n1", "http://n3:7451")
	wants(t, err, holdfast.CodeConflict, holdfast.NotApplied)
	_, err = join("n3", "http://n1:7451")
	wants(t, err, holdfast.CodeConflict, holdfast.NotApplied)
	_, err = join("a=b", "http://n4:7451")
	wants(t, err, holdfast.CodeInvalid, holdfast.NotApplied)
	_, err = c.cluster.Promote(t.Context(), &v1.PromoteRequest{Id: "d"})
	wants(t, err, holdfast.CodeConflict, holdfast.NotApplied)
	_, err = c.cluster.Remove(t.Context(), &v1.RemoveRequest{Id: "n2"})
	wants(t, err, holdfast.CodeInvalid, holdfast.NotApplied)
	members, err := c.cluster.Members(t.Context(), &v1.MembersRequest{})
	if err != nil || len(members.GetMembers()) != 2 || !members.GetMembers()[0].GetLeader() {
		t.Errorf("got %v, %v", members, err)
	}
}

func TestBackup(t *testing.T) {
	c := start(t, func(cfg *server.Config) { cfg.Cluster = &fakeCluster{} }).caller(t, "")
	stream, err := c.cluster.Backup(t.Context(), &v1.BackupRequest{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	sum := sha256.New()
	var (
		size    int64
		summary *v1.BackupSummary
	)
	for stream.Receive() {
		if summary != nil {
			t.Error("something after the summary")
		}
		sum.Write(stream.Msg().GetChunk())
		size += int64(len(stream.Msg().GetChunk()))
		summary = stream.Msg().GetSummary()
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if size != 100_000*int64(len(snapshot)) || summary.GetSize() != size || string(summary.GetSha256()) != string(sum.Sum(nil)) || summary.GetEpoch() != 1 || summary.GetRevision() != 7 {
		t.Errorf("%d bytes, summary %v", size, summary)
	}
}

func TestAlarms(t *testing.T) {
	f := &fakeCluster{alarms: []server.Alarm{{Member: 1, Kind: "nospace"}, {Member: 2, Kind: "nospace"}, {Member: 2, Kind: "corrupt"}}}
	c := start(t, func(cfg *server.Config) { cfg.Cluster = f }).caller(t, "")
	resp, err := c.cluster.Disarm(t.Context(), &v1.DisarmRequest{MemberId: "2", Kind: "nospace"})
	if err != nil || len(resp.GetDisarmed()) != 1 {
		t.Errorf("disarmed %v, %v", resp, err)
	}
	left, err := c.cluster.Alarms(t.Context(), &v1.AlarmsRequest{})
	if err != nil || len(left.GetAlarms()) != 2 || left.GetAlarms()[1].GetKind() != "corrupt" {
		t.Errorf("left %v, %v", left, err)
	}
}

// A store that somebody else manages: what changes it is refused in words.
func TestCluster_NotManaged(t *testing.T) {
	n := start(t, func(cfg *server.Config) { cfg.Advertise = []string{"http://127.0.0.1:1"} })
	c := n.caller(t, "")
	_, err := c.cluster.AddMember(t.Context(), &v1.AddMemberRequest{Name: "n2", PeerUrls: []string{"http://n2:7451"}})
	wants(t, err, holdfast.CodeInvalid, holdfast.NotApplied)
	members, err := c.cluster.Members(t.Context(), &v1.MembersRequest{})
	if err != nil || len(members.GetMembers()) != 1 || members.GetMembers()[0].GetName() != "n1" || members.GetMembers()[0].GetApiUrls()[0] != "http://127.0.0.1:1" {
		t.Errorf("got %v, %v", members, err)
	}
}

func TestCompact(t *testing.T) {
	c := start(t, nil).caller(t, "")
	put := func() int64 {
		resp, err := c.kv.Put(t.Context(), &v1.PutRequest{Key: "k"})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetRevision()
	}
	first := put()
	put()
	last := put()
	if _, err := c.cluster.Compact(t.Context(), &v1.CompactRequest{Keep: 1}); err != nil {
		t.Fatal(err)
	}
	_, err := c.kv.Get(t.Context(), &v1.KVServiceGetRequest{Key: "k", Revision: first})
	wants(t, err, holdfast.CodeCompacted, holdfast.NotApplied)
	stream, err := c.kv.Watch(t.Context(), &v1.KVServiceWatchRequest{Key: "k", From: first})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	for stream.Receive() {
		if len(stream.Msg().GetEvents()) > 0 {
			t.Errorf("told %v", stream.Msg())
		}
	}
	wants(t, stream.Err(), holdfast.CodeCompacted, holdfast.NotApplied)
	if _, err := c.kv.Get(t.Context(), &v1.KVServiceGetRequest{Key: "k", Revision: last}); err != nil {
		t.Error(err)
	}
}

// Without a quorum calls end with "no quorum" and the outcome that is known.
func TestOutage(t *testing.T) {
	n := start(t, func(cfg *server.Config) { cfg.CallTimeout, cfg.SessionTTL = 150*time.Millisecond, time.Minute })
	c := n.caller(t, "")
	ctx := t.Context()
	s := c.open()
	request := s + ".3.1"
	n.engine.Outage(true)
	_, err := c.cluster.Probe(ctx, &v1.ProbeRequest{})
	wants(t, err, holdfast.CodeNoQuorum, holdfast.NotApplied)
	_, err = c.session.KeepAlive(ctx, &v1.KeepAliveRequest{Session: s})
	if connect.CodeOf(err) != connect.CodeUnavailable {
		t.Errorf("keep alive: %v", err)
	}
	_, err = c.kv.Put(ctx, &v1.PutRequest{Key: "k", Content: &v1.PutRequest_Text{Text: "1"}, RequestId: request})
	if code := connect.CodeOf(err); code != connect.CodeUnavailable && code != connect.CodeDeadlineExceeded {
		t.Errorf("put: %v", err)
	}
	if status, body := n.get(t, "/readyz"); status != 503 || !strings.Contains(body, "no quorum") {
		t.Errorf("readyz: %d %s", status, body)
	}
	if status, _ := n.get(t, "/healthz"); status != 200 {
		t.Errorf("healthz: %d", status)
	}
	st, err := c.cluster.Status(ctx, &v1.StatusRequest{})
	if err != nil || st.GetReady() || st.GetNotReady() == "" {
		t.Errorf("status: %v, %v", st, err)
	}
	n.engine.Outage(false)
	resolved, err := c.kv.Resolve(ctx, &v1.ResolveRequest{RequestId: request})
	if err != nil || resolved.GetOutcome() != v1.Outcome_OUTCOME_NOT_APPLIED {
		t.Errorf("resolve: %v, %v", resolved, err)
	}
	_, err = c.kv.Put(ctx, &v1.PutRequest{Key: "k", RequestId: request})
	wants(t, err, holdfast.CodeCanceled, holdfast.NotApplied)
	put := &v1.PutRequest{Key: "k", IfMissing: true, RequestId: s + ".3.2"}
	first, err := c.kv.Put(ctx, put)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := c.kv.Put(ctx, put); err != nil || again.GetRevision() != first.GetRevision() {
		t.Errorf("the same request again: %v, %v; first %v", again, err, first)
	}
}

func TestMetrics(t *testing.T) {
	n := start(t, nil)
	c := n.caller(t, "")
	c.acquire(c.open(), "x")
	eventually(t, "the session is seen", func() bool {
		status, body := n.get(t, "/metrics")
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		for _, want := range []string{
			`holdfast_requests_total{code="ok",method="LockService/Acquire"} 1`, "holdfast_ready 1", "holdfast_store_revision ",
			`holdfast_request_seconds_count{method="SessionService/Open"} 1`,
		} {
			if !strings.Contains(body, want) {
				t.Fatalf("%q is not in %s", want, body)
			}
		}
		return strings.Contains(body, "holdfast_sessions 2")
	})
	path := tokens(t, "reader read")
	n = start(t, func(cfg *server.Config) { cfg.Tokens = path })
	if status, _ := n.get(t, "/metrics"); status != 401 {
		t.Errorf("metrics for strangers: %d", status)
	}
	if status, _ := n.get(t, "/metrics", "Authorization", "Bearer reader"); status != 200 {
		t.Errorf("metrics for a reader: %d", status)
	}
}

func TestMembershipWatch(t *testing.T) {
	ctx := t.Context()
	c := start(t, nil).caller(t, "")
	a, b := c.open(), c.open()
	register := func(session, id string) {
		t.Helper()
		if _, err := c.member.Register(ctx, &v1.RegisterRequest{Session: session, Group: "g", Member: &v1.Member{Id: id, Address: "addr"}}); err != nil {
			t.Fatal(err)
		}
	}
	register(a, "m1")
	stream, err := c.member.Watch(ctx, &v1.MembershipServiceWatchRequest{Group: "g"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	expect := func(want v1.MemberChange, id string) {
		t.Helper()
		if !stream.Receive() {
			t.Fatal(stream.Err())
		}
		if m := stream.Msg(); m.GetChange() != want || m.GetMember().GetId() != id {
			t.Errorf("got %v, want %v of %s", m, want, id)
		}
	}
	expect(v1.MemberChange_MEMBER_CHANGE_JOINED, "m1")
	expect(v1.MemberChange_MEMBER_CHANGE_SYNCED, "")
	register(b, "m2")
	expect(v1.MemberChange_MEMBER_CHANGE_JOINED, "m2")
	_, err = c.member.Register(ctx, &v1.RegisterRequest{Session: b, Group: "g", Member: &v1.Member{Id: "m1", Address: "addr"}})
	wants(t, err, holdfast.CodeBusy, holdfast.NotApplied)
	if _, err := c.member.Update(ctx, &v1.UpdateRequest{Session: a, Group: "g", Member: &v1.Member{Id: "m1", Address: "new"}}); err != nil {
		t.Fatal(err)
	}
	expect(v1.MemberChange_MEMBER_CHANGE_UPDATED, "m1")
	if _, err := c.member.Leave(ctx, &v1.LeaveRequest{Session: a, Group: "g", Id: "m1"}); err != nil {
		t.Fatal(err)
	}
	expect(v1.MemberChange_MEMBER_CHANGE_LEFT, "m1")
	if _, err := c.session.Close(ctx, &v1.CloseRequest{Session: b}); err != nil {
		t.Fatal(err)
	}
	expect(v1.MemberChange_MEMBER_CHANGE_LOST, "m2")
}

func TestKV_FencedAndLeased(t *testing.T) {
	ctx := t.Context()
	n := start(t, nil)
	c := n.caller(t, "")
	s := c.open()
	fenced := func(token uint64) error {
		_, err := c.kv.Put(ctx, &v1.PutRequest{Key: "k", Fence: &v1.Fence{Resource: "r", Token: token}})
		return err
	}
	if err := fenced(5); err != nil {
		t.Fatal(err)
	}
	wants(t, fenced(4), holdfast.CodeFenced, holdfast.NotApplied)
	if err := fenced(5); err != nil {
		t.Errorf("the same token again: %v", err)
	}
	if _, err := c.kv.Put(ctx, &v1.PutRequest{Key: "leased", Session: s}); err != nil {
		t.Fatal(err)
	}
	got, err := c.kv.Get(ctx, &v1.KVServiceGetRequest{Key: "leased"})
	if err != nil || got.GetEntry().GetSession() != s {
		t.Errorf("got %v, %v", got, err)
	}
	id, err := engine.ParseSessionID(s)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.engine.Revoke(ctx, engine.LeaseID(id)); err != nil {
		t.Fatal(err)
	}
	_, err = c.kv.Get(ctx, &v1.KVServiceGetRequest{Key: "leased"})
	wants(t, err, holdfast.CodeNotFound, holdfast.NotApplied)
	_, err = c.kv.Put(ctx, &v1.PutRequest{Key: "leased", Session: s})
	wants(t, err, holdfast.CodeLost, holdfast.NotApplied)
}

func TestTraces(t *testing.T) {
	spans := tracetest.NewInMemoryExporter()
	p := trace.NewTracerProvider(trace.WithSyncer(spans))
	c := start(t, func(cfg *server.Config) { cfg.Tracer = p }).caller(t, "")
	c.acquire(c.open(), "x")
	var names []string
	for _, s := range spans.GetSpans() {
		names = append(names, s.Name)
	}
	if got := strings.Join(names, " "); got != "holdfast.v1.SessionService/Open holdfast.v1.LockService/Acquire" {
		t.Errorf("spans %s", got)
	}
}

// A write without a request id hangs on the node's own session. When that is
// gone, the caller is not told that his is.
func TestPut_NodeLosesItsOwnSession(t *testing.T) {
	n := start(t, nil)
	c := n.caller(t, "")
	recs, err := engine.Sessions(t.Context(), n.engine)
	if err != nil {
		t.Fatal(err)
	}
	for _, rec := range recs {
		if err := n.engine.Revoke(t.Context(), engine.LeaseID(rec.ID)); err != nil {
			t.Fatal(err)
		}
	}
	_, err = c.kv.Put(t.Context(), &v1.PutRequest{Key: "k"})
	wants(t, err, holdfast.CodeNoQuorum, holdfast.NotApplied)
}
