package etcd

import (
	"context"
	"errors"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
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
