package etcd

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/lab/history"
)

func TestRefused(t *testing.T) {
	for _, c := range []struct {
		err  error
		want bool
	}{
		{rpctypes.ErrGRPCNoLeader, true},
		{rpctypes.ErrNoLeader, true}, // as etcd's own client has it
		{rpctypes.ErrGRPCRequestTooManyRequests, true},
		{rpctypes.ErrGRPCRequestTooLarge, true},
		{rpctypes.ErrLeaseNotFound, true},
		{status.Error(codes.Unknown, "raft proposal dropped"), true},

		{rpctypes.ErrGRPCTimeout, false},
		{rpctypes.ErrGRPCLeaderChanged, false},
		{rpctypes.ErrGRPCTimeoutDueToLeaderFail, false},
		{rpctypes.ErrGRPCTimeoutDueToConnectionLost, false},
		{rpctypes.ErrGRPCStopped, false},
		{rpctypes.ErrGRPCNoSpace, false}, // also after a write
		{rpctypes.ErrTimeout, false},
		{status.Error(codes.Unavailable, "transport is closing"), false},
		{status.Error(codes.DeadlineExceeded, "context deadline exceeded"), false},
		{context.DeadlineExceeded, false},
		{errors.New("anything else"), false},
	} {
		if got := refused(c.err); got != c.want {
			t.Errorf("%v: refused %v, want %v", c.err, got, c.want)
		}
	}
}

// TestChange_OfAServerThatIsNotThere: what never left is certain, also when the
// error says no more than that time is over.
func TestChange_OfAServerThatIsNotThere(t *testing.T) {
	m, err := dial("127.0.0.1:1", settings{timeout: 1e9})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close() //nolint:errcheck // nothing is open
	certain, _, err := m.put(t.Context(), "k", "v")
	if err == nil || !certain {
		t.Errorf("certain %v, %v", certain, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if certain, _, err = m.put(ctx, "k", "v"); err == nil || !certain {
		t.Errorf("cancelled before: certain %v, %v", certain, err)
	}
}

// answering is a member that answers every put with an error, or not at all.
type answering struct {
	etcdserverpb.UnimplementedKVServer
	err error
}

func (a answering) Put(ctx context.Context, _ *etcdserverpb.PutRequest) (*etcdserverpb.PutResponse, error) {
	if a.err == nil {
		<-ctx.Done()
	}
	return nil, a.err
}

// TestOutcomes: what comes over the wire, and what does not.
func TestOutcomes(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want history.Type
	}{
		{"no leader", rpctypes.ErrGRPCNoLeader, history.Fail},
		{"leader changed", rpctypes.ErrGRPCLeaderChanged, history.Info},
		{"timed out", rpctypes.ErrGRPCTimeout, history.Info},
		{"unavailable", status.Error(codes.Unavailable, "going away"), history.Info},
		{"silence", nil, history.Info},
	} {
		t.Run(c.name, func(t *testing.T) {
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			server := grpc.NewServer()
			etcdserverpb.RegisterKVServer(server, answering{err: c.err})
			served := make(chan error, 1)
			go func() { served <- server.Serve(l) }()
			defer func() {
				server.Stop()
				if err := <-served; err != nil {
					t.Error(err)
				}
			}()
			m, err := dial(l.Addr().String(), settings{timeout: 300 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close() //nolint:errcheck // the server goes as well
			op := register(t.Context(), m, history.Op{F: "write", Key: "x", Value: int64(1)})
			if op.Type != c.want {
				t.Errorf("%s: %s, want %s", op.Type, op.Error, c.want)
			}
		})
	}
}
