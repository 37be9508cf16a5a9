package etcd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"

	"holdfast.dev/internal/call"
	"holdfast.dev/lab/driver"
)

const (
	clientPort = 2379
	peerPort   = 2380
	gather     = time.Second // how long the members may take to find a leader's name, each
)

// System is etcd. It implements driver.System and driver.Primaries.
type System struct{}

// New is an etcd cluster of all nodes, each a member.
func New() *System { return &System{} }

var (
	_ driver.System    = (*System)(nil)
	_ driver.Primaries = (*System)(nil)
)

// settings are the options of doc.go.
type settings struct {
	binary        string
	snapshotCount int
	heartbeat     time.Duration
	election      time.Duration
	preVote       bool
	fsync         bool
	extra         []string
	timeout       time.Duration
	wait          time.Duration
	ttl           time.Duration
	requireLeader bool
	serializable  bool
	keys          bool
}

func settingsOf(env driver.Env) (settings, error) {
	o := call.NewOptions(env)
	s := settings{
		binary:        o.Text("binary", "etcd"),
		snapshotCount: o.Int("snapshot-count", 100, 1),
		heartbeat:     o.Duration("heartbeat", 100*time.Millisecond),
		election:      o.Duration("election", time.Second),
		preVote:       o.Bool("pre-vote", false),
		fsync:         o.Bool("fsync", true),
		extra:         strings.Fields(o.Text("flags", "")),
		timeout:       o.Duration("timeout", time.Second),
		wait:          o.Duration("wait", 5*time.Second),
		ttl:           o.Duration("ttl", 2*time.Second),
		requireLeader: o.Bool("require-leader", true),
		serializable:  o.Choice("reads", "linearizable", "serializable") == "serializable",
		keys:          o.Bool("keys", true),
	}
	if s.ttl < time.Second {
		return s, errors.Join(o.Err(), fmt.Errorf("option ttl: %v: etcd's leases last at least 1s", s.ttl))
	}
	return s, o.Err()
}

// Options are the names of the settings that there are, sorted.
func (*System) Options() []string {
	return call.Names(func(env driver.Env) { _, _ = settingsOf(env) })
}

// Name implements driver.System.
func (*System) Name() string { return "etcd" }

func address(env driver.Env, node string, port uint16) string {
	return netip.AddrPortFrom(env.Addr(node), port).String()
}

// Setup implements driver.System.
func (*System) Setup(ctx context.Context, env driver.Env) error {
	s, err := settingsOf(env)
	if err != nil {
		return fmt.Errorf("etcd: %w", err)
	}
	var members []string
	for _, n := range env.Nodes() {
		members = append(members, n+"=http://"+address(env, n, peerPort))
	}
	for _, n := range env.Nodes() {
		if err := env.Start(ctx, n, s.process(env, n, members)); err != nil {
			return err
		}
	}
	for _, n := range env.Nodes() {
		if err := serves(ctx, env, s, n); err != nil {
			return fmt.Errorf("etcd on %s does not serve: %w", n, err)
		}
	}
	return nil
}

// process is the server of one node. Its port accepts connections before there
// is a majority, so that the members can be started one after the other.
func (s settings) process(env driver.Env, node string, members []string) driver.Process {
	client, peer := "http://"+address(env, node, clientPort), "http://"+address(env, node, peerPort)
	argv := []string{
		s.binary,
		"--name", node,
		"--data-dir", filepath.Join(env.DataDir(node), "etcd"),
		"--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
		"--initial-cluster", strings.Join(members, ","),
		"--initial-cluster-state", "new", "--initial-cluster-token", "lab",
		"--heartbeat-interval", strconv.FormatInt(s.heartbeat.Milliseconds(), 10),
		"--election-timeout", strconv.FormatInt(s.election.Milliseconds(), 10),
		"--snapshot-count", strconv.Itoa(s.snapshotCount),
		"--max-txn-ops", "2048",
		"--logger", "zap", "--log-outputs", "stderr",
	}
	if s.preVote {
		argv = append(argv, "--pre-vote")
	}
	if !s.fsync {
		argv = append(argv, "--unsafe-no-fsync")
	}
	return driver.Process{
		Name: "etcd", Argv: append(argv, s.extra...),
		Ready: driver.Ready{TCP: clientPort, Timeout: 20 * time.Second},
	}
}

// serves waits until a member answers a linearizable read.
func serves(ctx context.Context, env driver.Env, s settings, node string) error {
	m, err := dial(address(env, node, clientPort), s)
	if err != nil {
		return err
	}
	defer m.Close() //nolint:errcheck // it was only asked
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		actx, done := context.WithTimeout(ctx, time.Second)
		_, err := m.kv.Range(actx, &etcdserverpb.RangeRequest{Key: []byte("probe")})
		done()
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// Primaries implements driver.Primaries: every member that answers and takes
// itself for the leader, in the order of the nodes.
func (*System) Primaries(ctx context.Context, env driver.Env) ([]string, error) {
	s, err := settingsOf(env)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, gather)
	defer cancel()
	nodes := env.Nodes()
	leads, errs := make([]bool, len(nodes)), make([]error, len(nodes))
	var asks sync.WaitGroup
	for i, n := range nodes {
		asks.Go(func() {
			m, err := dial(address(env, n, clientPort), s)
			if err != nil {
				errs[i] = err
				return
			}
			defer m.Close() //nolint:errcheck // it was only asked
			st, err := m.maintenance.Status(ctx, &etcdserverpb.StatusRequest{})
			leads[i], errs[i] = err == nil && st.GetLeader() != 0 && st.GetLeader() == st.GetHeader().GetMemberId(), err
		})
	}
	asks.Wait()
	var out []string
	answered := false
	for i, n := range nodes {
		answered = answered || errs[i] == nil
		if leads[i] {
			out = append(out, n)
		}
	}
	if !answered {
		return nil, fmt.Errorf("etcd: no member answers: %w", errors.Join(errs...))
	}
	return out, nil
}

// Client implements driver.System.
func (*System) Client(_ context.Context, env driver.Env, node, workload string) (driver.Client, error) {
	s, err := settingsOf(env)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	addr := address(env, node, clientPort)
	switch workload {
	case "lock":
		return newHolder(addr, s, lockCalls), nil
	case "election":
		return newHolder(addr, s, electionCalls), nil
	}
	f := map[string]invoke{
		"register": register, "cas": register, "kv": register, "set": set, "counter": counter,
		"unique-ids": uniqueIDs, "queue": queue, "append": transaction, "idempotent": idempotent, "bank": bank, "watch": watch,
	}[workload]
	if f == nil {
		return nil, fmt.Errorf("etcd: %s: %w", workload, driver.ErrUnsupported)
	}
	m, err := dial(addr, s)
	if err != nil {
		return nil, fmt.Errorf("etcd: %w", err)
	}
	return &client{member: m, invoke: f}, nil
}
