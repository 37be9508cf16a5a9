package devcluster

import (
	"context"
	"fmt"
	"net"
)

// ports are the addresses of one node.
type ports struct{ api, peer, etcd string }

// BasePort is the first node's API port; the peer's and etcd's follow it, and
// the next node's are ten higher.
const BasePort = 7450

// choosePorts gives each of n nodes three loopback addresses: the documented
// ones when all of them are free, others otherwise.
func choosePorts(ctx context.Context, n, base int) ([]ports, error) {
	if base == 0 {
		base = BasePort
	}
	var want []string
	for i := range n {
		for j := range 3 {
			want = append(want, fmt.Sprintf("127.0.0.1:%d", base+10*i+j))
		}
	}
	got, err := claim(ctx, want)
	if err != nil {
		for i := range want {
			want[i] = "127.0.0.1:0"
		}
		if got, err = claim(ctx, want); err != nil {
			return nil, err
		}
	}
	out := make([]ports, n)
	for i := range out {
		out[i] = ports{api: got[3*i], peer: got[3*i+1], etcd: got[3*i+2]}
	}
	return out, nil
}

// claim listens on all addresses at once, so that they are free and different,
// and lets go of them again.
func claim(ctx context.Context, addresses []string) (got []string, err error) {
	var lc net.ListenConfig
	for _, a := range addresses {
		l, err := lc.Listen(ctx, "tcp", a)
		if err != nil {
			return nil, err
		}
		defer l.Close() //nolint:errcheck // of a listener that served nobody; all are held until the end
		got = append(got, l.Addr().String())
	}
	return got, nil
}
