package etcd

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"

	"holdfast.dev/internal/call"
	"holdfast.dev/lab/history"
)

// member is the connection to one server. It goes round etcd's own client,
// which repeats reads and goes to other members: what is sent here is sent once.
type member struct {
	settings
	conn        *grpc.ClientConn
	kv          etcdserverpb.KVClient
	watcher     etcdserverpb.WatchClient
	maintenance etcdserverpb.MaintenanceClient
}

// dial makes a connection that is opened when it is first used, and again when
// it broke.
func dial(addr string, s settings) (*member, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStatsHandler(departures{}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
		grpc.WithIdleTimeout(0),
		grpc.WithNoProxy(),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: s.timeout,
		}))
	if err != nil {
		return nil, err
	}
	return &member{
		settings: s, conn: conn, kv: etcdserverpb.NewKVClient(conn),
		watcher: etcdserverpb.NewWatchClient(conn), maintenance: etcdserverpb.NewMaintenanceClient(conn),
	}, nil
}

// Close implements driver.Client.
func (m *member) Close() error { return m.conn.Close() }

// client invokes the operations of one workload at one member.
type client struct {
	*member
	invoke
}

// invoke makes one call.
type invoke func(ctx context.Context, m *member, op history.Op) history.Op

// Invoke implements driver.Client.
func (c *client) Invoke(ctx context.Context, op history.Op) history.Op {
	return c.invoke(ctx, c.member, op)
}

// departed is the context key of a flag that says whether a request left.
type departed struct{}

// departures sets the flag when gRPC has sent the header of a request, before it
// hands its message to the network. As long as it is not set, the request has
// certainly not been executed.
type departures struct{}

func (departures) TagRPC(ctx context.Context, _ *stats.RPCTagInfo) context.Context { return ctx }

func (departures) HandleRPC(ctx context.Context, s stats.RPCStats) {
	switch s.(type) {
	case *stats.OutHeader, *stats.OutPayload:
		if flag, ok := ctx.Value(departed{}).(*atomic.Bool); ok {
			flag.Store(true)
		}
	}
}

func (departures) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

func (departures) HandleConn(context.Context, stats.ConnStats) {}

// change sends one request that changes something; certain says of an error
// that nothing was changed and never will be.
func (m *member) change(ctx context.Context, send func(context.Context) error) (certain bool, err error) {
	var sent atomic.Bool
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	err = send(context.WithValue(ctx, departed{}, &sent))
	return !sent.Load() || refused(err), err
}

// bounded is ctx for one request.
func (m *member) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if m.requireLeader {
		ctx = metadata.AppendToOutgoingContext(ctx, rpctypes.MetadataRequireLeaderKey, rpctypes.MetadataHasLeader)
	}
	return context.WithTimeout(ctx, m.timeout)
}

// refusals are the errors, by the text that crosses the wire, that a member
// gives before it proposes a request, or in place of executing it. What is not
// here may have been executed: "request timed out" and "leader changed" of
// course, and "database space exceeded", which etcd also says after a write.
var refusals = map[string]bool{
	// The member's own consensus refused to take the proposal.
	"raft proposal dropped": true,
}

func init() {
	for _, err := range []error{
		rpctypes.ErrGRPCNoLeader, rpctypes.ErrGRPCNotLeader, rpctypes.ErrGRPCNotCapable, rpctypes.ErrGRPCNotSupportedForLearner,
		rpctypes.ErrGRPCRequestTooManyRequests, rpctypes.ErrGRPCRequestTooLarge, rpctypes.ErrGRPCTooManyOps,
		rpctypes.ErrGRPCEmptyKey, rpctypes.ErrGRPCDuplicateKey, rpctypes.ErrGRPCCompacted, rpctypes.ErrGRPCFutureRev,
		rpctypes.ErrGRPCLeaseNotFound, rpctypes.ErrGRPCLeaseExist, rpctypes.ErrGRPCLeaseTTLTooLarge,
		rpctypes.ErrGRPCUserEmpty, rpctypes.ErrGRPCAuthFailed, rpctypes.ErrGRPCPermissionDenied, rpctypes.ErrGRPCInvalidAuthToken,
	} {
		refusals[rpctypes.ErrorDesc(err)] = true
	}
}

// refused reports an error that says that the request was not executed.
func refused(err error) bool {
	if own, ok := errors.AsType[rpctypes.EtcdError](err); ok { // what etcd's own client makes of them
		return refusals[own.Error()]
	}
	st, _ := status.FromError(err)
	return refusals[st.Message()]
}

// span is the keys that begin with a prefix, as etcd wants them.
func span(prefix string) (key, end []byte) {
	end = []byte(prefix)
	end[len(end)-1]++ // prefixes end with "/"
	return []byte(prefix), end
}

// get reads one key; nil when it is missing.
func (m *member) get(ctx context.Context, key string) (*etcdserverpb.RangeResponse, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	return m.kv.Range(ctx, &etcdserverpb.RangeRequest{Key: []byte(key), Serializable: m.serializable})
}

// list reads the keys that begin with a prefix.
func (m *member) list(ctx context.Context, prefix string) (*etcdserverpb.RangeResponse, error) {
	ctx, cancel := m.bounded(ctx)
	defer cancel()
	req := &etcdserverpb.RangeRequest{
		Serializable: m.serializable, SortTarget: etcdserverpb.RangeRequest_CREATE, SortOrder: etcdserverpb.RangeRequest_ASCEND,
	}
	req.Key, req.RangeEnd = span(prefix)
	return m.kv.Range(ctx, req)
}

// errConflict says that somebody else changed what a transaction had read.
var errConflict = errors.New("conflict: somebody else was first")

// txn runs a transaction; that its comparisons did not hold is certain.
func (m *member) txn(ctx context.Context, cmp []*etcdserverpb.Compare, ops []*etcdserverpb.RequestOp) (certain bool, err error) {
	certain, err = m.change(ctx, func(ctx context.Context) error {
		r, err := m.kv.Txn(ctx, &etcdserverpb.TxnRequest{Compare: cmp, Success: ops})
		if err == nil && !r.GetSucceeded() {
			err = errConflict
		}
		return err
	})
	return certain || errors.Is(err, errConflict), err
}

// unchanged compares the revision at which a key was last written; 0: it is missing.
func unchanged(key string, rev int64) *etcdserverpb.Compare {
	return &etcdserverpb.Compare{
		Key: []byte(key), Result: etcdserverpb.Compare_EQUAL, Target: etcdserverpb.Compare_MOD,
		TargetUnion: &etcdserverpb.Compare_ModRevision{ModRevision: rev},
	}
}

// has compares the value of a key, which must exist.
func has(key, value string) *etcdserverpb.Compare {
	return &etcdserverpb.Compare{
		Key: []byte(key), Result: etcdserverpb.Compare_EQUAL, Target: etcdserverpb.Compare_VALUE,
		TargetUnion: &etcdserverpb.Compare_Value{Value: []byte(value)},
	}
}

func put(key, value string) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestPut{
		RequestPut: &etcdserverpb.PutRequest{Key: []byte(key), Value: []byte(value)},
	}}
}

func remove(key string) *etcdserverpb.RequestOp {
	return &etcdserverpb.RequestOp{Request: &etcdserverpb.RequestOp_RequestDeleteRange{
		RequestDeleteRange: &etcdserverpb.DeleteRangeRequest{Key: []byte(key)},
	}}
}

// first is the value of the only key of an answer, decoded; nil when it is missing.
func first(r *etcdserverpb.RangeResponse) (any, error) {
	if len(r.GetKvs()) == 0 {
		return nil, nil
	}
	return call.Decode(string(r.GetKvs()[0].GetValue()))
}
