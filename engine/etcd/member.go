package etcd

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/stats"
)

// member is the connection to one endpoint. It bypasses etcd's own client, and
// with it all resending: what is sent here is sent once.
type member struct {
	conn     *grpc.ClientConn
	stubs    Stubs
	progress atomic.Bool // see Stubs.Progress
	tokens   tokens
	probed   string // key of the probe
}

// newMember makes a connection, which is dialled when it is first used.
func newMember(cfg Config, endpoint string) (*member, error) {
	addr, scheme, err := splitEndpoint(endpoint)
	if err != nil {
		return nil, err
	}
	creds := insecure.NewCredentials()
	if scheme == "https" || scheme == "" && cfg.TLS.used() {
		t, err := cfg.TLS.Config()
		if err != nil {
			return nil, err
		}
		creds = credentials.NewTLS(t)
	}
	m := &member{probed: cfg.Prefix, tokens: tokens{name: cfg.Username, password: cfg.Password, turn: make(chan struct{}, 1)}}
	// "passthrough" leaves the name to the dialler, which looks it up at every
	// connection, so that a changed address is noticed.
	m.conn, err = grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(creds),
		grpc.WithPerRPCCredentials(&m.tokens),
		grpc.WithStatsHandler(departures{}),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: cfg.DialKeepAlive, Timeout: cfg.DialKeepAliveTimeout}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: cfg.DialKeepAliveTimeout,
		}))
	if err != nil {
		return nil, err
	}
	m.stubs = Stubs{
		KV: etcdserverpb.NewKVClient(m.conn), Lease: etcdserverpb.NewLeaseClient(m.conn),
		Watch: etcdserverpb.NewWatchClient(m.conn), Maintenance: etcdserverpb.NewMaintenanceClient(m.conn),
	}
	m.tokens.auth = etcdserverpb.NewAuthClient(m.conn)
	return m, nil
}

// health is what a probe found.
type health struct {
	err    error
	leader bool // the member leads
}

// probe asks a member for a linearizable read, which it can give only with a
// majority, and for its version and role.
func (m *member) probe(ctx context.Context) health {
	if !m.tokens.have() {
		if err := m.tokens.refresh(ctx, ""); err != nil {
			return health{err: err}
		}
	}
	read := func() error {
		_, err := m.stubs.KV.Range(requireLeader(ctx), &etcdserverpb.RangeRequest{Key: []byte(m.probed), CountOnly: true}, grpc.WaitForReady(true))
		return err
	}
	old := m.tokens.current()
	err := read()
	if staleToken(err) && m.tokens.name != "" {
		if err = m.tokens.refresh(ctx, old); err == nil {
			err = read()
		}
	}
	if err != nil {
		return health{err: err}
	}
	st, err := m.stubs.Maintenance.Status(ctx, &etcdserverpb.StatusRequest{})
	if err != nil {
		return health{err: err}
	}
	if st.GetIsLearner() {
		return health{err: rpctypes.ErrGRPCNotSupportedForLearner}
	}
	m.progress.Store(orderedProgress(st.GetVersion()))
	return health{leader: st.GetLeader() == st.GetHeader().GetMemberId()}
}

// orderedProgress reports whether a version of etcd keeps answers to progress
// requests in their place among the events (etcd issue 15220).
func orderedProgress(version string) bool {
	parts := strings.SplitN(version, ".", 3)
	if len(parts) != 3 {
		return false
	}
	var n [3]int
	for i, p := range parts {
		p, _, _ = strings.Cut(p, "-")
		v, err := strconv.Atoi(p)
		if err != nil {
			return false
		}
		n[i] = v
	}
	switch {
	case n[0] != 3:
		return n[0] > 3
	case n[1] == 4:
		return n[2] >= 25
	case n[1] == 5:
		return n[2] >= 8
	}
	return n[1] > 5
}

// tokens holds the token of a user with a password and adds it to requests.
type tokens struct {
	name, password string
	auth           etcdserverpb.AuthClient
	turn           chan struct{} // held by the one that gets a new token

	mu    sync.Mutex
	token string
	got   bool
}

// have reports whether no token is needed, or one is there.
func (t *tokens) have() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.name == "" || t.got
}

func (t *tokens) current() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.token
}

var errNoPassword = errors.New("the cluster asks for a user, and none is set")

// refresh gets a new token unless somebody did since old was current.
func (t *tokens) refresh(ctx context.Context, old string) error {
	if t.name == "" {
		return errNoPassword
	}
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-t.turn }()
	t.mu.Lock()
	fresh := t.got && t.token != old
	t.mu.Unlock()
	if fresh {
		return nil
	}
	resp, err := t.auth.Authenticate(ctx, &etcdserverpb.AuthenticateRequest{Name: t.name, Password: t.password}, grpc.WaitForReady(true))
	if err != nil && rpctypes.ErrorDesc(err) != rpctypes.ErrorDesc(rpctypes.ErrGRPCAuthNotEnabled) {
		return err
	}
	t.mu.Lock()
	t.token, t.got = resp.GetToken(), true
	t.mu.Unlock()
	return nil
}

// GetRequestMetadata implements credentials.PerRPCCredentials.
func (t *tokens) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if token := t.current(); token != "" {
		return map[string]string{rpctypes.TokenFieldNameGRPC: token}, nil
	}
	return nil, nil
}

// RequireTransportSecurity implements credentials.PerRPCCredentials: whether to
// use TLS is the configuration's decision.
func (t *tokens) RequireTransportSecurity() bool { return false }

// departed is the context key of a flag that says whether a request left.
type departed struct{}

// departures sets the flag as soon as gRPC writes anything of the request. As
// long as it is not set, the request has certainly not been executed.
type departures struct{}

// TagRPC implements stats.Handler.
func (departures) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

// HandleRPC implements stats.Handler.
func (departures) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.OutHeader, *stats.OutPayload:
		if flag, ok := ctx.Value(departed{}).(*atomic.Bool); ok {
			flag.Store(true)
		}
	}
}

// TagConn implements stats.Handler.
func (departures) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (departures) HandleConn(context.Context, stats.ConnStats) {}
