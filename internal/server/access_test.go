package server_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/durationpb"

	"holdfast.dev"
	"holdfast.dev/internal/cert"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/server"
)

// tokens writes a file of tokens: "NAME ROLE PREFIX…"; the secret is the name.
func tokens(t *testing.T, lines ...string) string {
	t.Helper()
	var b strings.Builder
	b.WriteString("tokens:\n")
	for _, line := range lines {
		f := strings.Fields(line)
		sum := sha256.Sum256([]byte(f[0]))
		fmt.Fprintf(&b, "  - {name: %s, sha256: %s, role: %s, prefixes: [%s]}\n", f[0], hex.EncodeToString(sum[:]), f[1], strings.Join(f[2:], ", "))
	}
	path := filepath.Join(t.TempDir(), "tokens.yaml")
	if err := os.WriteFile(path, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every method against every kind of caller: who gets past the check of rights.
func TestRights(t *testing.T) {
	path := tokens(t, "reader read", "writer write", "narrow write a/", "boss admin")
	n := start(t, func(cfg *server.Config) { cfg.Tokens, cfg.Cluster = path, &fakeCluster{} })
	callers := map[string]*caller{}
	sessions := map[string]string{"reader": "0000000000000001"} // it cannot open one
	for _, name := range []string{"reader", "writer", "narrow", "boss"} {
		callers[name] = n.caller(t, name)
		if name != "reader" {
			sessions[name] = callers[name].open()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	const name = "b/x" // outside narrow's prefix
	nowait := durationpb.New(0)
	first := func(receive bool, err error) error {
		if receive {
			return nil
		}
		return err
	}
	for _, m := range []struct {
		method  string
		allowed string
		call    func(*caller, string) error
	}{
		{"session open", "writer narrow boss", func(c *caller, _ string) error {
			_, err := c.session.Open(ctx, &v1.OpenRequest{})
			return err
		}},
		{"lock acquire", "writer boss", func(c *caller, s string) error {
			_, err := c.lock.Acquire(ctx, &v1.AcquireRequest{Session: s, Name: name + s, Wait: nowait})
			return err
		}},
		{"lock release", "writer boss", func(c *caller, s string) error {
			_, err := c.lock.Release(ctx, &v1.ReleaseRequest{Session: s, Name: name})
			return err
		}},
		{"lock get", "reader writer boss", func(c *caller, _ string) error {
			_, err := c.lock.Get(ctx, &v1.LockServiceGetRequest{Name: name})
			return err
		}},
		{"lock list", "reader writer boss", func(c *caller, _ string) error {
			_, err := c.lock.List(ctx, &v1.LockServiceListRequest{})
			return err
		}},
		{"lock list within", "reader writer narrow boss", func(c *caller, _ string) error {
			_, err := c.lock.List(ctx, &v1.LockServiceListRequest{Prefix: "a/b"})
			return err
		}},
		{"election campaign", "writer boss", func(c *caller, s string) error {
			_, err := c.elect.Campaign(ctx, &v1.CampaignRequest{Session: s, Name: name + s, Wait: nowait})
			return err
		}},
		{"election resign", "writer boss", func(c *caller, s string) error {
			_, err := c.elect.Resign(ctx, &v1.ResignRequest{Session: s, Name: name})
			return err
		}},
		{"election list", "reader writer boss", func(c *caller, _ string) error {
			_, err := c.elect.List(ctx, &v1.ElectionServiceListRequest{})
			return err
		}},
		{"election observe", "reader writer boss", func(c *caller, _ string) error {
			s, err := c.elect.Observe(ctx, &v1.ObserveRequest{Name: name})
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			return first(s.Receive(), s.Err())
		}},
		{"member register", "writer boss", func(c *caller, s string) error {
			_, err := c.member.Register(ctx, &v1.RegisterRequest{Session: s, Group: "b", Member: &v1.Member{Address: "x"}})
			return err
		}},
		{"member roster", "reader writer boss", func(c *caller, _ string) error {
			_, err := c.member.Roster(ctx, &v1.RosterRequest{Group: "b"})
			return err
		}},
		{"member groups", "reader writer boss", func(c *caller, _ string) error {
			_, err := c.member.Groups(ctx, &v1.GroupsRequest{})
			return err
		}},
		{"member watch", "reader writer boss", func(c *caller, _ string) error {
			s, err := c.member.Watch(ctx, &v1.MembershipServiceWatchRequest{Group: "b"})
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			return first(s.Receive(), s.Err())
		}},
		{"kv put", "writer boss", func(c *caller, _ string) error {
			_, err := c.kv.Put(ctx, &v1.PutRequest{Key: name})
			return err
		}},
		{"kv put within", "writer narrow boss", func(c *caller, _ string) error {
			_, err := c.kv.Put(ctx, &v1.PutRequest{Key: "a/x"})
			return err
		}},
		{"kv fenced outside", "writer boss", func(c *caller, _ string) error {
			_, err := c.kv.Put(ctx, &v1.PutRequest{Key: "a/x", Fence: &v1.Fence{Resource: name, Token: 1}})
			return err
		}},
		{"kv get", "reader writer boss", func(c *caller, _ string) error {
			_, err := c.kv.Get(ctx, &v1.KVServiceGetRequest{Key: name})
			return err
		}},
		{"kv cas", "writer boss", func(c *caller, s string) error {
			_, err := c.kv.CompareAndSet(ctx, &v1.CompareAndSetRequest{Key: name + s})
			return err
		}},
		{"kv txn that looks outside", "writer boss", func(c *caller, _ string) error {
			_, err := c.kv.Txn(ctx, &v1.TxnRequest{
				If:   []*v1.Condition{{Key: name, Is: &v1.Condition_Exists{Exists: true}}},
				Then: []*v1.Operation{{Do: &v1.Operation_Get{Get: "a/x"}}},
			})
			return err
		}},
		{"kv list", "reader writer boss", func(c *caller, _ string) error {
			_, err := c.kv.List(ctx, &v1.KVServiceListRequest{})
			return err
		}},
		{"kv watch", "reader writer boss", func(c *caller, _ string) error {
			s, err := c.kv.Watch(ctx, &v1.KVServiceWatchRequest{Prefix: "b"})
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			return first(s.Receive(), s.Err())
		}},
		{"kv delete", "writer boss", func(c *caller, _ string) error {
			_, err := c.kv.Delete(ctx, &v1.DeleteRequest{Key: name + "none"})
			return err
		}},
		{"cluster probe", "reader writer narrow boss", func(c *caller, _ string) error {
			_, err := c.cluster.Probe(ctx, &v1.ProbeRequest{})
			return err
		}},
		{"cluster status", "reader writer narrow boss", func(c *caller, _ string) error {
			_, err := c.cluster.Status(ctx, &v1.StatusRequest{})
			return err
		}},
		{"cluster members", "reader writer narrow boss", func(c *caller, _ string) error {
			_, err := c.cluster.Members(ctx, &v1.MembersRequest{})
			return err
		}},
		{"cluster add", "boss", func(c *caller, _ string) error {
			_, err := c.cluster.AddMember(ctx, &v1.AddMemberRequest{Name: "n9", PeerUrls: []string{"http://n9:7451"}})
			return err
		}},
		{"cluster join", "boss", func(c *caller, _ string) error {
			_, err := c.cluster.Join(ctx, &v1.JoinRequest{Name: "n9", PeerUrls: []string{"http://n9:7451"}})
			return err
		}},
		{"cluster promote", "boss", func(c *caller, _ string) error {
			_, err := c.cluster.Promote(ctx, &v1.PromoteRequest{Id: "9"})
			return err
		}},
		{"cluster remove", "boss", func(c *caller, _ string) error {
			_, err := c.cluster.Remove(ctx, &v1.RemoveRequest{Id: "9"})
			return err
		}},
		{"cluster move leader", "boss", func(c *caller, _ string) error {
			_, err := c.cluster.MoveLeader(ctx, &v1.MoveLeaderRequest{})
			return err
		}},
		{"cluster backup", "boss", func(c *caller, _ string) error {
			s, err := c.cluster.Backup(ctx, &v1.BackupRequest{})
			if err != nil {
				return err
			}
			defer func() { _ = s.Close() }()
			return first(s.Receive(), s.Err())
		}},
		{"cluster defragment", "boss", func(c *caller, _ string) error {
			_, err := c.cluster.Defragment(ctx, &v1.DefragmentRequest{})
			return err
		}},
		{"cluster compact", "boss", func(c *caller, _ string) error {
			_, err := c.cluster.Compact(ctx, &v1.CompactRequest{})
			return err
		}},
		{"cluster alarms", "reader writer narrow boss", func(c *caller, _ string) error {
			_, err := c.cluster.Alarms(ctx, &v1.AlarmsRequest{})
			return err
		}},
		{"cluster disarm", "boss", func(c *caller, _ string) error {
			_, err := c.cluster.Disarm(ctx, &v1.DisarmRequest{})
			return err
		}},
	} {
		for who, c := range callers {
			err := m.call(c, sessions[who])
			allowed := slices.Contains(strings.Fields(m.allowed), who)
			if allowed && err != nil {
				t.Errorf("%s as %s: %v", m.method, who, err)
			}
			if !allowed && connect.CodeOf(err) != connect.CodePermissionDenied {
				t.Errorf("%s as %s: %v, want it denied", m.method, who, err)
			}
		}
		if err := m.call(n.caller(t, "stranger"), ""); connect.CodeOf(err) != connect.CodeUnauthenticated {
			t.Errorf("%s as a stranger: %v", m.method, err)
		}
	}
}

func TestSession_ServesOnlyWhoOpenedIt(t *testing.T) {
	ctx := t.Context()
	path := tokens(t, "alice write", "mallory write", "boss admin")
	n := start(t, func(cfg *server.Config) { cfg.Tokens = path })
	alice, mallory, boss := n.caller(t, "alice"), n.caller(t, "mallory"), n.caller(t, "boss")
	s := alice.open()
	token := alice.acquire(s, "x")
	request := s + ".0.1"
	for what, call := range map[string]func(*caller) error{
		"open again": func(c *caller) error {
			_, err := c.session.Open(ctx, &v1.OpenRequest{Session: s})
			return err
		},
		"keep alive": func(c *caller) error {
			_, err := c.session.KeepAlive(ctx, &v1.KeepAliveRequest{Session: s})
			return err
		},
		"acquire": func(c *caller) error {
			_, err := c.lock.Acquire(ctx, &v1.AcquireRequest{Session: s, Name: "x"})
			return err
		},
		"release": func(c *caller) error {
			_, err := c.lock.Release(ctx, &v1.ReleaseRequest{Session: s, Name: "x"})
			return err
		},
		"campaign": func(c *caller) error {
			_, err := c.elect.Campaign(ctx, &v1.CampaignRequest{Session: s, Name: "e"})
			return err
		},
		"register": func(c *caller) error {
			_, err := c.member.Register(ctx, &v1.RegisterRequest{Session: s, Group: "g", Member: &v1.Member{Address: "a"}})
			return err
		},
		"leased put": func(c *caller) error {
			_, err := c.kv.Put(ctx, &v1.PutRequest{Key: "k", Session: s})
			return err
		},
		"request id": func(c *caller) error {
			_, err := c.kv.Put(ctx, &v1.PutRequest{Key: "k", RequestId: request})
			return err
		},
		"resolve": func(c *caller) error {
			_, err := c.kv.Resolve(ctx, &v1.ResolveRequest{RequestId: request})
			return err
		},
	} {
		wants(t, call(mallory), holdfast.CodeDenied, holdfast.NotApplied)
		wants(t, call(boss), holdfast.CodeDenied, holdfast.NotApplied)
		if t.Failed() {
			t.Fatal(what)
		}
	}
	_, err := mallory.session.Close(ctx, &v1.CloseRequest{Session: s})
	wants(t, err, holdfast.CodeDenied, holdfast.NotApplied)
	_, err = mallory.session.Get(ctx, &v1.SessionServiceGetRequest{Session: s})
	wants(t, err, holdfast.CodeDenied, holdfast.NotApplied)
	list, err := mallory.session.List(ctx, &v1.SessionServiceListRequest{})
	if err != nil || len(list.GetSessions()) != 0 {
		t.Errorf("mallory sees %v, %v", list, err)
	}
	if again := alice.acquire(s, "x"); again != token {
		t.Errorf("alice holds %d, before %d", again, token)
	}
	_, err = alice.session.Open(ctx, &v1.OpenRequest{Metadata: map[string]string{"holdfast.principal": "boss"}})
	wants(t, err, holdfast.CodeInvalid, holdfast.NotApplied)

	list, err = boss.session.List(ctx, &v1.SessionServiceListRequest{})
	if err != nil || len(list.GetSessions()) != 2 { // alice's and the node's own
		t.Errorf("boss sees %v, %v", list, err)
	}
	if _, err := boss.session.Close(ctx, &v1.CloseRequest{Session: s}); err != nil {
		t.Errorf("boss closes: %v", err)
	}
	_, err = alice.session.KeepAlive(ctx, &v1.KeepAliveRequest{Session: s})
	wants(t, err, holdfast.CodeLost, holdfast.NotApplied)
}

func TestLimits(t *testing.T) {
	t.Run("sessions of one", func(t *testing.T) {
		path := tokens(t, "a write", "b write")
		n := start(t, func(cfg *server.Config) { cfg.Tokens, cfg.Limits.SessionsEach = path, 2 })
		a := n.caller(t, "a")
		first := a.open()
		a.open()
		_, err := a.session.Open(t.Context(), &v1.OpenRequest{})
		wants(t, err, holdfast.CodeExhausted, holdfast.NotApplied)
		if _, err := a.session.Open(t.Context(), &v1.OpenRequest{Session: first}); err != nil {
			t.Errorf("opening an open one again: %v", err)
		}
		n.caller(t, "b").open()
		if _, err := a.session.Close(t.Context(), &v1.CloseRequest{Session: first}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "room again", func() bool {
			_, err := a.session.Open(t.Context(), &v1.OpenRequest{})
			return err == nil
		})
	})
	t.Run("sessions of all", func(t *testing.T) {
		n := start(t, func(cfg *server.Config) { cfg.Limits.Sessions = 2 }) // one is the node's own
		c := n.caller(t, "")
		c.open()
		eventually(t, "full", func() bool {
			_, err := c.session.Open(t.Context(), &v1.OpenRequest{})
			return connect.CodeOf(err) == connect.CodeResourceExhausted
		})
	})
	t.Run("ttl", func(t *testing.T) {
		c := start(t, func(cfg *server.Config) { cfg.Limits.TTL = time.Minute }).caller(t, "")
		for _, ttl := range []time.Duration{time.Millisecond, time.Minute + 1} {
			_, err := c.session.Open(t.Context(), &v1.OpenRequest{Ttl: durationpb.New(ttl)})
			wants(t, err, holdfast.CodeInvalid, holdfast.NotApplied)
		}
	})
	t.Run("waiters", func(t *testing.T) {
		n := start(t, func(cfg *server.Config) { cfg.Limits.WaitersSession, cfg.Limits.Waiters = 1, 2 })
		c := n.caller(t, "")
		holder, a, b := c.open(), c.open(), c.open()
		for i := range 3 {
			c.acquire(holder, fmt.Sprint("x", i))
		}
		wctx, cancel := context.WithCancel(t.Context())
		one := c.acquireLater(wctx, &v1.AcquireRequest{Session: a, Name: "x0"})
		eventually(t, "one waits", func() bool { return c.waiters("x0") == 1 })
		_, err := c.lock.Acquire(t.Context(), &v1.AcquireRequest{Session: a, Name: "x1"})
		wants(t, err, holdfast.CodeExhausted, holdfast.NotApplied)
		two := c.acquireLater(wctx, &v1.AcquireRequest{Session: b, Name: "x1"})
		eventually(t, "two wait", func() bool { return c.waiters("x1") == 1 })
		_, err = c.lock.Acquire(t.Context(), &v1.AcquireRequest{Session: holder, Name: "x2", RequestId: "2"})
		wants(t, err, holdfast.CodeExhausted, holdfast.NotApplied)
		cancel()
		<-one
		<-two
	})
	t.Run("streams", func(t *testing.T) {
		n := start(t, func(cfg *server.Config) { cfg.Limits.StreamsEach = 1 })
		c := n.caller(t, "")
		open := func() (*connect.ServerStreamForClient[v1.KVServiceWatchResponse], error) {
			s, err := c.kv.Watch(t.Context(), &v1.KVServiceWatchRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if s.Receive() {
				return s, nil
			}
			return s, s.Err()
		}
		s, err := open()
		if err != nil {
			t.Fatal(err)
		}
		s2, err := open()
		wants(t, err, holdfast.CodeExhausted, holdfast.NotApplied)
		_ = s2.Close()
		_ = s.Close()
		eventually(t, "room again", func() bool {
			s, err := open()
			_ = s.Close()
			return err == nil
		})
	})
	t.Run("rate", func(t *testing.T) {
		n := start(t, func(cfg *server.Config) { cfg.Limits.Rate = 1 })
		c := n.caller(t, "")
		eventually(t, "too many", func() bool {
			_, err := c.cluster.Probe(t.Context(), &v1.ProbeRequest{})
			if err != nil {
				wants(t, err, holdfast.CodeExhausted, holdfast.NotApplied)
			}
			return err != nil
		})
		if status, _ := n.get(t, "/readyz"); status != http.StatusOK {
			t.Errorf("readyz is bounded too: %d", status)
		}
	})
	t.Run("request", func(t *testing.T) {
		c := start(t, func(cfg *server.Config) { cfg.Limits.Request = 1000 }).caller(t, "")
		_, err := c.kv.Put(t.Context(), &v1.PutRequest{Key: "k", Content: &v1.PutRequest_Value{Value: make([]byte, 1001)}})
		if connect.CodeOf(err) != connect.CodeResourceExhausted {
			t.Errorf("got %v", err)
		}
	})
}

// A page in a browser that points its own name at the loopback address.
func TestHost(t *testing.T) {
	n := start(t, func(cfg *server.Config) { cfg.Advertise = []string{"http://Node.example:7450"} })
	for host, want := range map[string]int{
		"127.0.0.1:7450": 200, "localhost:7450": 200, "localhost": 200, "[::1]:7450": 200, "10.1.2.3": 200, "node.example:7450": 200,
		"evil.example": 403, "evil.example:7450": 403, "": 403,
	} {
		if host == "" {
			continue // HTTP/1.1 clients cannot send none
		}
		if status, body := n.curl(t, "ClusterService/Probe", `{}`, "Host", host); status != want {
			t.Errorf("host %q: %d %s", host, status, body)
		}
	}
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	ca, err := cert.NewCA(cert.CAConfig{})
	if err != nil {
		t.Fatal(err)
	}
	if err := ca.Write(dir); err != nil {
		t.Fatal(err)
	}
	issue := func(r cert.Request) cert.Files {
		pair, err := ca.Issue(r)
		if err != nil {
			t.Fatal(err)
		}
		f := cert.Files{Cert: filepath.Join(dir, r.Name+".crt"), Key: filepath.Join(dir, r.Name+".key"), CA: filepath.Join(dir, "ca.crt")}
		if err := pair.Write(f.Cert, f.Key); err != nil {
			t.Fatal(err)
		}
		return f
	}
	node := issue(cert.Request{Name: "n1", Usage: cert.Node, Hosts: []string{"127.0.0.1"}})
	alice := issue(cert.Request{Name: "alice", Usage: cert.Client, Role: "read"})
	n := start(t, func(cfg *server.Config) { cfg.TLS = node })
	with := func(f cert.Files) *caller {
		tc, err := f.Client()
		if err != nil {
			t.Fatal(err)
		}
		tr := &http.Transport{TLSClientConfig: tc, ForceAttemptHTTP2: true}
		t.Cleanup(tr.CloseIdleConnections)
		of := *n
		of.http = &http.Client{Transport: tr}
		return of.caller(t, "", connect.WithGRPC())
	}
	if _, err := with(alice).cluster.Status(t.Context(), &v1.StatusRequest{}); err != nil {
		t.Errorf("alice reads: %v", err)
	}
	_, err = with(alice).session.Open(t.Context(), &v1.OpenRequest{})
	wants(t, err, holdfast.CodeDenied, holdfast.NotApplied)
	bob := issue(cert.Request{Name: "bob", Usage: cert.Client})
	if resp, err := with(bob).session.Open(t.Context(), &v1.OpenRequest{}); err != nil {
		t.Errorf("a certificate without a role writes: %v, %v", resp, err)
	}
	_, err = with(bob).cluster.Compact(t.Context(), &v1.CompactRequest{})
	wants(t, err, holdfast.CodeDenied, holdfast.NotApplied)
	if resp, err := with(node).cluster.Compact(t.Context(), &v1.CompactRequest{}); err != nil {
		t.Errorf("a node's certificate is an admin's: %v, %v", resp, err)
	}
	_, err = with(cert.Files{CA: node.CA}).cluster.Probe(t.Context(), &v1.ProbeRequest{})
	if connect.CodeOf(err) != connect.CodeUnauthenticated {
		t.Errorf("without certificate: %v", err)
	}
}

func TestConfig_AllFaultsAtOnce(t *testing.T) {
	err := server.Config{
		Listen: "0.0.0.0:7450", TLS: cert.Files{Key: "x", CA: "y"}, SessionTTL: time.Millisecond, Heartbeat: -1,
		Limits: server.Limits{Rate: -1},
	}.Validate()
	if err == nil {
		t.Fatal("no fault found")
	}
	for _, want := range []string{"engine", "not loopback", "go together", "need a server certificate", "session ttl", "heartbeat", "limit of rate"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in %v", want, err)
		}
	}
	for listen, want := range map[string]bool{
		"127.0.0.1:0": true, "localhost:1": true, "[::1]:1": true, "0.0.0.0:1": false, ":1": false, "10.0.0.1:1": false, "example.org:1": false,
	} {
		err := server.Config{Listen: listen}.Validate()
		if got := !strings.Contains(err.Error(), "loopback"); got != want {
			t.Errorf("%s: %v", listen, err)
		}
		if err := (server.Config{Listen: listen, Insecure: true}).Validate(); strings.Contains(err.Error(), "loopback") {
			t.Errorf("%s, insecure: %v", listen, err)
		}
	}
}
