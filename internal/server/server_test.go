package server_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/types/known/durationpb"

	"holdfast.dev"
	"holdfast.dev/engine"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/gen/holdfast/v1/holdfastv1connect"
	"holdfast.dev/internal/server"
	"holdfast.dev/internal/wire"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// node is a server under test with its engine.
type node struct {
	*server.Server
	engine *engine.Memory
	http   *http.Client
}

// start starts a node on loopback; change may adjust its configuration.
func start(t *testing.T, change func(*server.Config)) *node {
	t.Helper()
	e := engine.NewMemory(engine.MemoryConfig{})
	t.Cleanup(func() { _ = e.Close() })
	return startOn(t, e, change)
}

func startOn(t *testing.T, e *engine.Memory, change func(*server.Config)) *node {
	t.Helper()
	cfg := server.Config{Engine: e, Listen: "127.0.0.1:0", Attempt: 100 * time.Millisecond}
	if change != nil {
		change(&cfg)
	}
	s, err := server.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	tr.Protocols = &p
	n := &node{Server: s, engine: e, http: &http.Client{Transport: tr}}
	t.Cleanup(func() {
		tr.CloseIdleConnections() // the server would leave them a second
		n.stop(t)
	})
	eventually(t, "ready", func() bool { return s.Ready(t.Context()) == nil })
	return n
}

func (n *node) stop(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
	defer cancel()
	if err := n.Shutdown(ctx); err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// eventually waits until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(20 * time.Second)
	defer deadline.Stop()
	for !f() {
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never: %s", what)
		}
	}
}

// caller is one client's stubs.
type caller struct {
	t       *testing.T
	session holdfastv1connect.SessionServiceClient
	lock    holdfastv1connect.LockServiceClient
	elect   holdfastv1connect.ElectionServiceClient
	member  holdfastv1connect.MembershipServiceClient
	kv      holdfastv1connect.KVServiceClient
	cluster holdfastv1connect.ClusterServiceClient
}

// bearer adds a token to every request.
type bearer struct {
	next  http.RoundTripper
	token string
}

func (b bearer) RoundTrip(r *http.Request) (*http.Response, error) {
	r.Header.Set("Authorization", "Bearer "+b.token)
	return b.next.RoundTrip(r)
}

func (n *node) caller(t *testing.T, token string, opts ...connect.ClientOption) *caller {
	t.Helper()
	c := n.http
	if token != "" {
		c = &http.Client{Transport: bearer{n.http.Transport, token}}
	}
	return &caller{
		t:       t,
		session: holdfastv1connect.NewSessionServiceClient(c, n.URL(), opts...),
		lock:    holdfastv1connect.NewLockServiceClient(c, n.URL(), opts...),
		elect:   holdfastv1connect.NewElectionServiceClient(c, n.URL(), opts...),
		member:  holdfastv1connect.NewMembershipServiceClient(c, n.URL(), opts...),
		kv:      holdfastv1connect.NewKVServiceClient(c, n.URL(), opts...),
		cluster: holdfastv1connect.NewClusterServiceClient(c, n.URL(), opts...),
	}
}

func (c *caller) open() string {
	c.t.Helper()
	resp, err := c.session.Open(c.t.Context(), &v1.OpenRequest{Ttl: durationpb.New(time.Minute), Name: "test"})
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.GetSession()
}

func (c *caller) acquire(session, name string) uint64 {
	c.t.Helper()
	resp, err := c.lock.Acquire(c.t.Context(), &v1.AcquireRequest{Session: session, Name: name})
	if err != nil {
		c.t.Fatal(err)
	}
	return resp.GetToken()
}

// wants checks what the client makes of an error.
func wants(t *testing.T, err error, code holdfast.Code, outcome holdfast.Outcome) {
	t.Helper()
	got := wire.FromConnect(err)
	if got == nil || holdfast.CodeOf(got) != code || holdfast.OutcomeOf(got) != outcome || !wire.IsWire(got) {
		t.Errorf("got %v (%v, %v), want %v, %v", got, holdfast.CodeOf(got), holdfast.OutcomeOf(got), code, outcome)
	}
}

// curl posts JSON as curl does and returns status and body.
func (n *node) curl(t *testing.T, method, body string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.URL()+"/holdfast.v1."+method, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
		if headers[i] == "Host" {
			req.Host = headers[i+1]
		}
	}
	return n.do(t, req)
}

func (n *node) do(t *testing.T, req *http.Request) (int, string) {
	t.Helper()
	tr := &http.Transport{} // HTTP/1.1
	defer tr.CloseIdleConnections()
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(bytes.ReplaceAll(b, []byte(`": `), []byte(`":`)))
}

func (n *node) get(t *testing.T, path string, headers ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return n.do(t, req)
}

// The same calls over each of the three protocols.
func TestProtocols(t *testing.T) {
	n := start(t, nil)
	for name, opts := range map[string][]connect.ClientOption{
		"connect": nil, "json": {connect.WithProtoJSON()}, "grpc": {connect.WithGRPC()}, "grpc-web": {connect.WithGRPCWeb()},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			c := n.caller(t, "", opts...)
			s := c.open()
			first := c.acquire(s, name)
			if again := c.acquire(s, name); again != first {
				t.Errorf("asked again: token %d, before %d", again, first)
			}
			_, err := c.lock.Acquire(ctx, &v1.AcquireRequest{Session: c.open(), Name: name, Wait: durationpb.New(0)})
			wants(t, err, holdfast.CodeBusy, holdfast.NotApplied)
			if _, err := c.lock.Release(ctx, &v1.ReleaseRequest{Session: s, Name: name}); err != nil {
				t.Error(err)
			}
			if next := c.acquire(c.open(), name); next <= first {
				t.Errorf("token %d after %d", next, first)
			}
			stream, err := c.kv.Watch(ctx, &v1.KVServiceWatchRequest{Prefix: name})
			if err != nil {
				t.Fatal(err)
			}
			if !stream.Receive() || len(stream.Msg().GetEvents()) != 0 {
				t.Errorf("a watch begins with %v, %v", stream.Msg(), stream.Err())
			}
			if _, err := c.kv.Put(ctx, &v1.PutRequest{Key: name, Content: &v1.PutRequest_Text{Text: "v"}}); err != nil {
				t.Fatal(err)
			}
			if !stream.Receive() || len(stream.Msg().GetEvents()) != 1 || stream.Msg().GetEvents()[0].GetEntry().GetText() != "v" {
				t.Errorf("watched %v, %v", stream.Msg(), stream.Err())
			}
			if err := stream.Close(); err != nil && !errors.Is(err, context.Canceled) && connect.CodeOf(err) != connect.CodeCanceled {
				t.Error(err)
			}
			_, err = c.kv.Get(ctx, &v1.KVServiceGetRequest{Key: name + "/none"})
			wants(t, err, holdfast.CodeNotFound, holdfast.NotApplied)
		})
	}
}

// What stands in the README: plain curl.
func TestJSON(t *testing.T) {
	n := start(t, nil)
	status, body := n.curl(t, "SessionService/Open", `{"ttl": "10s"}`)
	session, ok := field(body, "session")
	if status != 200 || !ok || len(session) != 16 {
		t.Fatalf("open: %d %s", status, body)
	}
	with := func(s string) string { return strings.ReplaceAll(s, "SESSION", session) }
	for _, c := range []struct {
		method, body string
		status       int
		want         []string
	}{
		{"LockService/Acquire", `{"session": "SESSION", "name": "jobs/nightly", "note": "by hand"}`, 200, []string{`"token":"281474976710`, `"mode":"exclusive"`}},
		{"LockService/Get", `{"name": "jobs/nightly"}`, 200, []string{`"session":"SESSION"`, `"note":"by hand"`, `"token":"2814`}},
		{"LockService/Acquire", `{"session": "SESSION", "name": "jobs/nightly", "request_id": "2", "wait": "0s"}`, 409, []string{
			`"code":"already_exists"`, "lock jobs/nightly: acquire: held by another", `"type":"holdfast.v1.ErrorDetail"`, "CODE_BUSY", "OUTCOME_NOT_APPLIED",
		}},
		{"LockService/Acquire", `{"session": "SESSION", "name": "jobs/nightly", "wiat": "0s"}`, 400, []string{"wiat"}},
		{"LockService/Acquire", `{"session": "SESSION", "name": ""}`, 400, []string{"name: must not be empty"}},
		{"LockService/Acquire", `{"session": "xyz", "name": "a"}`, 400, []string{"16 hexadecimal digits"}},
		{"LockService/Acquire", `{"session": "00000000deadbeef", "name": "a"}`, 400, []string{"CODE_LOST", "failed_precondition"}},
		{"LockService/Release", `{"session": "SESSION", "name": "jobs/nightly"}`, 200, nil},
		{"LockService/Release", `{"session": "SESSION", "name": "jobs/nightly"}`, 200, nil},
		{"LockService/Get", `{"name": "jobs/nightly"}`, 200, []string{`{"lock":{"name":"jobs/nightly"}}`}},
		{"LockService/Acquire", `{"session": "SESSION", "name": "pool", "of": 3, "permits": 2}`, 200, []string{`"mode":"permits"`, `"permits":2`}},
		{"LockService/Acquire", `{"session": "SESSION", "name": "pool", "of": 3, "shared": true}`, 400, []string{"exclude"}},
		{"LockService/List", `{}`, 200, []string{`"name":"pool"`}},
		{"KVService/Put", `{"key": "greeting", "text": "hello"}`, 200, []string{`"revision":"`}},
		{"KVService/Get", `{"key": "greeting"}`, 200, []string{`"text":"hello"`, `"create_revision":"`}},
		{"KVService/Put", `{"key": "binary", "value": "/wA="}`, 200, nil},
		{"KVService/Get", `{"key": "binary"}`, 200, []string{`"value":"/wA="`}},
		{"KVService/CompareAndSet", `{"key": "greeting", "expect": "0", "text": "x"}`, 409, []string{"CODE_CONFLICT", `"code":"aborted"`}},
		{"KVService/Txn", `{"if": [{"key": "greeting", "text": "hello"}], "then": [{"put": {"key": "a", "text": "1"}}, {"get": "greeting"}], "else": [{"delete": "a"}]}`, 200, []string{
			`"succeeded":true`, `"text":"hello"`,
		}},
		{"KVService/Txn", `{"if": [{"key": "a"}], "then": [{}, {"put": {"key": "a", "leased": true}}]}`, 400, []string{"if 1", "then 1", "then 2"}},
		{"KVService/List", `{"prefix": "gr"}`, 200, []string{`"key":"greeting"`}},
		{"KVService/Delete", `{"key": "a"}`, 200, []string{`"existed":true`}},
		{"ElectionService/Campaign", `{"session": "SESSION", "name": "boss", "text": "10.0.0.1:80"}`, 200, []string{`"token":"2814`}},
		{"ElectionService/Leader", `{"name": "boss"}`, 200, []string{`"text":"10.0.0.1:80"`}},
		{"ElectionService/Leader", `{"name": "nobody"}`, 404, []string{"nobody leads"}},
		{"MembershipService/Register", `{"session": "SESSION", "group": "web", "member": {"id": "w1", "address": "10.0.0.1:80"}}`, 200, []string{`"id":"w1"`}},
		{"MembershipService/Roster", `{"group": "web"}`, 200, []string{`"address":"10.0.0.1:80"`}},
		{"SessionService/Get", `{"session": "SESSION"}`, 200, []string{`"ttl":"10s"`, `"principal":"anonymous"`}},
		{"ClusterService/Status", `{}`, 200, []string{`"ready":true`, `"kind":"memory"`}},
		{"ClusterService/Probe", ``, 200, []string{`"node":"n1"`}},
		{"SessionService/Close", `{"session": "SESSION"}`, 200, nil},
		{"SessionService/KeepAlive", `{"session": "SESSION"}`, 400, []string{"CODE_LOST"}},
		{"SessionService/Close", `{"session": "SESSION"}`, 200, nil},
	} {
		status, body := n.curl(t, c.method, with(c.body))
		if status != c.status {
			t.Errorf("%s %s: status %d, want %d: %s", c.method, c.body, status, c.status, body)
		}
		for _, want := range c.want {
			if !strings.Contains(body, with(want)) {
				t.Errorf("%s %s: %q is not in %s", c.method, c.body, want, body)
			}
		}
	}
	if status, _ := n.curl(t, "KVService/Get", `{"key": "greeting"}`, "Content-Type", "application/x-www-form-urlencoded"); status != http.StatusUnsupportedMediaType {
		t.Errorf("a form, as any web page can send it: status %d", status)
	}
	if status, body := n.get(t, "/holdfast.v1.KVService/Get?encoding=json&message=%7B%22key%22%3A%22greeting%22%7D"); status != 200 || !strings.Contains(body, "hello") {
		t.Errorf("GET of a read: %d %s", status, body)
	}
	if status, _ := n.get(t, "/holdfast.v1.KVService/Put?encoding=json&message=%7B%22key%22%3A%22greeting%22%7D"); status == 200 {
		t.Error("GET of a write was taken")
	}
}

// field is the value of a string field in flat JSON.
func field(body, name string) (string, bool) {
	_, rest, ok := strings.Cut(strings.ReplaceAll(body, `": "`, `":"`), fmt.Sprintf(`"%s":"`, name))
	v, _, ok2 := strings.Cut(rest, `"`)
	return v, ok && ok2
}
