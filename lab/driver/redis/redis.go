package redis

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

	"github.com/redis/go-redis/v9"

	"holdfast.dev/internal/call"
	"holdfast.dev/lab/driver"
)

const (
	serverPort   = 6379
	sentinelPort = 26379
	master       = "lab" // the name that the Sentinels know it by
)

// The modes.
const (
	single     = "single"
	replicated = "replicated"
	sentinel   = "sentinel"
)

// System is Redis. It implements driver.System, driver.Primaries and
// driver.Finals.
type System struct{}

// New is Redis; the option mode says in what arrangement.
func New() *System { return &System{} }

var (
	_ driver.System    = (*System)(nil)
	_ driver.Primaries = (*System)(nil)
	_ driver.Finals    = (*System)(nil)
)

// settings are the options of doc.go.
type settings struct {
	mode, binary, appendfsync string
	minReplicas, maxLag       int
	downAfter, failover       time.Duration
	config                    string
	timeout, wait, ttl        time.Duration
	keys                      bool
}

func settingsOf(env driver.Env) (settings, error) {
	o := call.NewOptions(env)
	byDefault, others := sentinel, []string{replicated, single}
	if len(env.Nodes()) == 1 {
		byDefault, others = single, []string{replicated, sentinel}
	}
	s := settings{
		mode:        o.Choice("mode", byDefault, others...),
		binary:      o.Text("binary", "redis-server"),
		appendfsync: o.Choice("appendfsync", "off", "always", "everysec", "no"),
		minReplicas: o.Int("min-replicas", 0, 0),
		maxLag:      o.Int("max-lag", 2, 1),
		downAfter:   o.Duration("down-after", 2*time.Second),
		failover:    o.Duration("failover-timeout", 5*time.Second),
		config:      o.Text("config", ""),
		timeout:     o.Duration("timeout", time.Second),
		wait:        o.Duration("wait", 5*time.Second),
		ttl:         o.Duration("ttl", 2*time.Second),
		keys:        o.Bool("keys", true),
	}
	if err := o.Err(); err != nil {
		return s, fmt.Errorf("redis: %w", err)
	}
	return s, nil
}

// Options are the names of the settings that there are, sorted.
func (*System) Options() []string {
	return call.Names(func(env driver.Env) { _, _ = settingsOf(env) })
}

// Name implements driver.System.
func (*System) Name() string { return "redis" }

func address(env driver.Env, node string, port uint16) string {
	return netip.AddrPortFrom(env.Addr(node), port).String()
}

// servers are the nodes that have one.
func (s settings) servers(env driver.Env) []string {
	if s.mode == single {
		return env.Nodes()[:1]
	}
	return env.Nodes()
}

// Setup implements driver.System.
func (*System) Setup(ctx context.Context, env driver.Env) error {
	s, err := settingsOf(env)
	if err != nil {
		return err
	}
	nodes := s.servers(env)
	for i, n := range nodes {
		if err := s.startServer(ctx, env, n, i > 0); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := await(ctx, func() error { return s.replicas(ctx, env, len(nodes)-1) }); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	if s.mode != sentinel {
		return nil
	}
	for _, n := range nodes {
		if err := s.startSentinel(ctx, env, n); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := await(ctx, func() error { return s.acquainted(ctx, env, n) }); err != nil {
			return fmt.Errorf("redis: the sentinel on %s: %w", n, err)
		}
	}
	return nil
}

// startServer has its settings in a file, so that the Sentinels can change them.
func (s settings) startServer(ctx context.Context, env driver.Env, node string, replica bool) error {
	addr, dir := env.Addr(node).String(), env.DataDir(node)
	lines := []string{
		"port 6379", "bind " + addr, "bind-source-addr " + addr, "replica-announce-ip " + addr, "protected-mode no",
		"dir " + strconv.Quote(dir), `save ""`, "daemonize no",
		"repl-diskless-sync yes", "repl-diskless-sync-delay 0",
		fmt.Sprintf("min-replicas-to-write %d", s.minReplicas), fmt.Sprintf("min-replicas-max-lag %d", s.maxLag),
	}
	if s.appendfsync == "off" {
		lines = append(lines, "appendonly no")
	} else {
		lines = append(lines, "appendonly yes", "appendfsync "+s.appendfsync)
	}
	if replica {
		lines = append(lines, fmt.Sprintf("replicaof %s %d", env.Addr(env.Nodes()[0]), serverPort))
	}
	for line := range strings.SplitSeq(s.config, ";") {
		lines = append(lines, strings.TrimSpace(line))
	}
	file := filepath.Join(dir, "redis.conf")
	if err := call.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	return env.Start(ctx, node, driver.Process{
		Name: "redis", Argv: []string{s.binary, file}, Ready: driver.Ready{TCP: serverPort, Timeout: 20 * time.Second},
	})
}

func (s settings) startSentinel(ctx context.Context, env driver.Env, node string) error {
	addr, dir := env.Addr(node).String(), env.DataDir(node)
	lines := []string{
		fmt.Sprintf("port %d", sentinelPort), "bind " + addr, "protected-mode no", "dir " + strconv.Quote(dir), "daemonize no",
		"sentinel announce-ip " + addr,
		fmt.Sprintf("sentinel monitor %s %s %d %d", master, env.Addr(env.Nodes()[0]), serverPort, len(env.Nodes())/2+1),
		fmt.Sprintf("sentinel down-after-milliseconds %s %d", master, s.downAfter.Milliseconds()),
		fmt.Sprintf("sentinel failover-timeout %s %d", master, s.failover.Milliseconds()),
		fmt.Sprintf("sentinel parallel-syncs %s 1", master),
	}
	file := filepath.Join(dir, "sentinel.conf")
	if err := call.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	return env.Start(ctx, node, driver.Process{
		Name: "sentinel", Argv: []string{s.binary, file, "--sentinel"}, Ready: driver.Ready{TCP: sentinelPort, Timeout: 20 * time.Second},
	})
}

// await tries f until it succeeds or ctx ends.
func await(ctx context.Context, f func() error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := f()
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

// replicas checks that so many follow the first node.
func (s settings) replicas(ctx context.Context, env driver.Env, want int) error {
	role, err := s.role(ctx, address(env, env.Nodes()[0], serverPort))
	if err != nil {
		return err
	}
	if len(role) < 3 || role[0] != "master" {
		return fmt.Errorf("%s is no master: %v", env.Nodes()[0], role)
	}
	if known, _ := role[2].([]any); len(known) != want {
		return fmt.Errorf("%s has %d replicas of %d", env.Nodes()[0], len(known), want)
	}
	return nil
}

// role is a server's answer to ROLE.
func (s settings) role(ctx context.Context, addr string) ([]any, error) {
	c, _ := open(addr, s.timeout)
	defer c.Close() //nolint:errcheck // it was only asked
	return c.Do(ctx, "ROLE").Slice()
}

// acquainted checks that a Sentinel knows all others and all replicas.
func (s settings) acquainted(ctx context.Context, env driver.Env, node string) error {
	c := redis.NewSentinelClient(options(address(env, node, sentinelPort), s.timeout, new(departures)))
	defer c.Close() //nolint:errcheck // it was only asked
	others := len(env.Nodes()) - 1
	sentinels, err := c.Sentinels(ctx, master).Result()
	if err != nil {
		return err
	}
	replicas, err := c.Replicas(ctx, master).Result()
	if err != nil {
		return err
	}
	if len(sentinels) != others || len(replicas) != others {
		return fmt.Errorf("knows %d sentinels and %d replicas, not %d", len(sentinels), len(replicas), others)
	}
	return nil
}

// Primaries implements driver.Primaries: every server that answers and says that
// it is a master, in the order of the nodes.
func (*System) Primaries(ctx context.Context, env driver.Env) ([]string, error) {
	s, err := settingsOf(env)
	if err != nil {
		return nil, err
	}
	nodes := s.servers(env)
	roles, errs := make([][]any, len(nodes)), make([]error, len(nodes))
	var asks sync.WaitGroup
	for i, n := range nodes {
		asks.Go(func() { roles[i], errs[i] = s.role(ctx, address(env, n, serverPort)) })
	}
	asks.Wait()
	var out []string
	answered := false
	for i, n := range nodes {
		answered = answered || errs[i] == nil
		if len(roles[i]) > 0 && roles[i][0] == "master" {
			out = append(out, n)
		}
	}
	if !answered {
		return nil, fmt.Errorf("redis: no server answers: %w", errors.Join(errs...))
	}
	return out, nil
}

// FinalNodes implements driver.Finals: the server that a majority of the
// Sentinels names; without Sentinels, what Primaries says.
func (sys *System) FinalNodes(ctx context.Context, env driver.Env) ([]string, error) {
	s, err := settingsOf(env)
	if err != nil {
		return nil, err
	}
	if s.mode != sentinel {
		return sys.Primaries(ctx, env)
	}
	nodes := env.Nodes()
	named, errs := make([]string, len(nodes)), make([]error, len(nodes))
	var asks sync.WaitGroup
	for i, n := range nodes {
		asks.Go(func() {
			c := redis.NewSentinelClient(options(address(env, n, sentinelPort), s.timeout, new(departures)))
			defer c.Close() //nolint:errcheck // it was only asked
			at, err := c.GetMasterAddrByName(ctx, master).Result()
			if errs[i] = err; len(at) > 0 {
				named[i] = at[0]
			}
		})
	}
	asks.Wait()
	for _, n := range nodes {
		votes := 0
		for _, at := range named {
			if at == env.Addr(n).String() {
				votes++
			}
		}
		if votes > len(nodes)/2 {
			return []string{n}, nil
		}
	}
	return nil, fmt.Errorf("redis: no majority of the sentinels names one master: %q: %w", named, errors.Join(errs...))
}

// Client implements driver.System.
func (*System) Client(_ context.Context, env driver.Env, node, workload string) (driver.Client, error) {
	s, err := settingsOf(env)
	if err != nil {
		return nil, err
	}
	f := map[string]invoke{
		"register": register, "cas": register, "kv": register, "set": set, "counter": counter, "queue": queue,
		"unique-ids": uniqueIDs, "append": transaction, "bank": bank, "idempotent": idempotent, "lock": lock,
	}[workload]
	if f == nil {
		return nil, fmt.Errorf("redis: %s: %w", workload, driver.ErrUnsupported)
	}
	return newClient(address(env, node, serverPort), s, f), nil
}
