package devcluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
)

// ports are the addresses of one node.
type ports struct {
	API  string `json:"api"`
	Peer string `json:"peer"`
	Etcd string `json:"etcd"`
}

// portsFile remembers the addresses of a cluster whose directory is kept: its
// nodes know each other by them.
const portsFile = "ports.json"

// recall reads the addresses of the cluster that was in dir; nil: none was.
func recall(dir string) ([]ports, error) {
	data, err := os.ReadFile(filepath.Join(dir, portsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // nil is "none"
	}
	var out []ports
	if err == nil {
		err = json.Unmarshal(data, &out)
	}
	return out, err
}

// remember writes them.
func remember(dir string, all []ports) error {
	data, err := json.Marshal(all)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, portsFile), data, 0o600)
}

// settlePorts gives the nodes the addresses they had before, or new ones.
func settlePorts(ctx context.Context, cfg Config) ([]ports, error) {
	before, err := recall(cfg.Dir)
	switch {
	case err != nil:
		return nil, err
	case before == nil:
		all, err := choosePorts(ctx, cfg.Nodes, cfg.Port)
		if err != nil {
			return nil, err
		}
		return all, remember(cfg.Dir, all)
	case len(before) != cfg.Nodes:
		return nil, fmt.Errorf("%s holds a cluster of %d nodes, not %d", cfg.Dir, len(before), cfg.Nodes)
	}
	var addresses []string
	for _, p := range before {
		addresses = append(addresses, p.API, p.Peer, p.Etcd)
	}
	if _, err := claim(ctx, addresses); err != nil {
		return nil, fmt.Errorf("the nodes in %s know each other by addresses that are taken now: %w", cfg.Dir, err)
	}
	return before, nil
}

// BasePort is the first node's API port; the peer's and etcd's follow it, and
// the next node's are ten higher.
const BasePort = 7450

// AnyPort is a first port that stands for whatever ports are free.
const AnyPort = -1

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
	var got []string
	var err error
	if base != AnyPort {
		got, err = claim(ctx, want)
	}
	if base == AnyPort || err != nil {
		for i := range want {
			want[i] = "127.0.0.1:0"
		}
		if got, err = claim(ctx, want); err != nil {
			return nil, err
		}
	}
	out := make([]ports, n)
	for i := range out {
		out[i] = ports{API: got[3*i], Peer: got[3*i+1], Etcd: got[3*i+2]}
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
