package holdfast

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast.dev/internal/call"
	"holdfast.dev/internal/cert"
	"holdfast.dev/lab/driver"
)

const (
	apiPort  = 7450
	peerPort = 7451
	token    = "lab" // of the cluster
)

// System is Holdfast. It implements driver.System, driver.Primaries and
// driver.Actions.
type System struct {
	backup   string // file of the last one
	restores int    // of it
}

// New is a Holdfast cluster of all nodes.
func New() *System { return &System{} }

var (
	_ driver.System    = (*System)(nil)
	_ driver.Primaries = (*System)(nil)
	_ driver.Actions   = (*System)(nil)
)

// settings are the options of doc.go.
type settings struct {
	binary              string
	heartbeat, election time.Duration
	extra               []string
	timeout, attempt    time.Duration
	sessions, resolve   bool
	ttl, wait           time.Duration
	shared              bool
	keys                bool
	peerTLS             bool
	everyNode           bool
	obey                bool
}

func settingsOf(env driver.Env) (settings, error) {
	o := call.NewOptions(env)
	s := settings{
		binary:    o.Text("binary", ""),
		heartbeat: o.Duration("heartbeat", 100*time.Millisecond),
		election:  o.Duration("election", 500*time.Millisecond),
		extra:     strings.Fields(o.Text("flags", "")),
		timeout:   o.Duration("timeout", 2*time.Second),
		attempt:   o.Duration("attempt", 1500*time.Millisecond),
		sessions:  o.Choice("writes", "session", "once") == "session",
		resolve:   o.Bool("resolve", false),
		ttl:       o.Duration("ttl", 2*time.Second),
		wait:      o.Duration("wait", 5*time.Second),
		shared:    o.Choice("mode", "exclusive", "shared") == "shared",
		keys:      o.Bool("keys", true),
		peerTLS:   o.Bool("peer-tls", false),
		everyNode: o.Choice("endpoints", "own", "all") == "all",
		obey:      o.Bool("obey", false),
	}
	err := o.Err()
	if s.resolve && !s.sessions {
		err = errors.Join(err, errors.New("option resolve: needs writes=session"))
	}
	if s.binary == "" {
		self, e := os.Executable()
		s.binary, err = self, errors.Join(err, e)
	}
	if err != nil {
		return s, fmt.Errorf("holdfast: %w", err)
	}
	return s, nil
}

// program is what a node runs.
func (s settings) program(env driver.Env, node string) string {
	if other := env.Option("binary." + node); other != "" {
		return other
	}
	return s.binary
}

// Options are the names of the settings that there are, sorted; what ends in "*"
// stands for all that begin so.
func (*System) Options() []string {
	names := append(call.Names(func(env driver.Env) { _, _ = settingsOf(env) }), "binary.*")
	slices.Sort(names)
	return names
}

// Name implements driver.System.
func (*System) Name() string { return "holdfast" }

func address(env driver.Env, node string, port uint16) string {
	return netip.AddrPortFrom(env.Addr(node), port).String()
}

func url(env driver.Env, node string) string { return "http://" + address(env, node, apiPort) }

func dataDir(env driver.Env, node string) string {
	return filepath.Join(env.DataDir(node), "holdfast")
}

// peers is the first cluster, as flags have it.
func (s settings) peers(env driver.Env) string {
	var out []string
	for _, n := range env.Nodes() {
		out = append(out, n+"="+s.peerScheme()+address(env, n, peerPort))
	}
	return strings.Join(out, ",")
}

func (s settings) peerScheme() string {
	if s.peerTLS {
		return "https://"
	}
	return "http://"
}

// Setup implements driver.System.
func (*System) Setup(ctx context.Context, env driver.Env) error {
	s, err := settingsOf(env)
	if err != nil {
		return err
	}
	if s.peerTLS {
		if err := certify(env); err != nil {
			return fmt.Errorf("holdfast: certificates: %w", err)
		}
	}
	for _, n := range env.Nodes() {
		if err := env.Start(ctx, n, s.process(env, n)); err != nil {
			return err
		}
	}
	for _, n := range env.Nodes() {
		if err := serves(ctx, env, n); err != nil {
			return fmt.Errorf("holdfast on %s does not serve: %w", n, err)
		}
	}
	return nil
}

// process is the node. Its peers can connect before there is a majority, so that
// the nodes can be started one after the other.
func (s settings) process(env driver.Env, node string) driver.Process {
	argv := []string{
		s.program(env, node), "serve", "--name", node, "--data", dataDir(env, node),
		"--listen", address(env, node, apiPort), "--peer-listen", address(env, node, peerPort),
		"--peers", s.peers(env), "--cluster-token", token, "--insecure",
		"--heartbeat", s.heartbeat.String(), "--election-timeout", s.election.String(),
	}
	if s.peerTLS {
		crt, key, ca := peerFiles(env, node)
		argv = append(argv, "--peer-tls-cert", crt, "--peer-tls-key", key, "--peer-tls-ca", ca)
	}
	return driver.Process{
		Name: "holdfast", Argv: append(argv, s.extra...),
		Ready: driver.Ready{TCP: peerPort, Timeout: 20 * time.Second},
	}
}

// peerFiles are a node's certificate, its key and the authority of all, where no
// fault of a disk reaches.
func peerFiles(env driver.Env, node string) (crt, key, ca string) {
	dir := env.LogDir(node)
	return filepath.Join(dir, "peer.crt"), filepath.Join(dir, "peer.key"), filepath.Join(dir, "ca.crt")
}

// certify makes an authority for this run and a certificate for each node. They
// are valid for a day before and a year after now, so that a clock that is set
// wrong by more makes them useless.
func certify(env driver.Env) error {
	ca, err := cert.NewCA(cert.CAConfig{})
	if err != nil {
		return err
	}
	for _, n := range env.Nodes() {
		pair, err := ca.Issue(cert.Request{Name: n, Usage: cert.Node, Hosts: []string{env.Addr(n).String()}})
		if err != nil {
			return err
		}
		crt, key, _ := peerFiles(env, n)
		if err := errors.Join(pair.Write(crt, key), ca.Write(env.LogDir(n))); err != nil {
			return err
		}
	}
	return nil
}

// serves waits until a node proves that it serves.
func serves(ctx context.Context, env driver.Env, node string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		st, err := ask(ctx, env, node)
		if err == nil && st.Ready {
			return nil
		}
		if err == nil {
			err = errors.New(st.NotReady)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return err
		}
	}
}

// status is what a node says of itself.
type status struct {
	Ready    bool   `json:"ready"`
	NotReady string `json:"not_ready"`
	Store    struct {
		MemberID string `json:"member_id"`
		LeaderID string `json:"leader_id"`
	} `json:"store"`
}

// ask asks a node how it sees itself, which needs no majority.
func ask(ctx context.Context, env driver.Env, node string) (status, error) {
	var st status
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url(env, node)+"/holdfast.v1.ClusterService/Status", bytes.NewReader([]byte("{}")))
	if err != nil {
		return st, err
	}
	req.Header.Set("Content-Type", "application/json")
	transport := &http.Transport{DisableKeepAlives: true} // whatever stands in between is seen
	resp, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return st, err
	}
	defer resp.Body.Close() //nolint:errcheck // it is read
	if resp.StatusCode != http.StatusOK {
		return st, fmt.Errorf("%s: %s", node, resp.Status)
	}
	return st, json.NewDecoder(resp.Body).Decode(&st)
}

// Primaries implements driver.Primaries: every node that answers and takes itself
// for the leader, in the order of the nodes.
func (*System) Primaries(ctx context.Context, env driver.Env) ([]string, error) {
	nodes := env.Nodes()
	all, errs := make([]status, len(nodes)), make([]error, len(nodes))
	var asks sync.WaitGroup
	for i, n := range nodes {
		asks.Go(func() { all[i], errs[i] = ask(ctx, env, n) })
	}
	asks.Wait()
	var out []string
	answered := false
	for i, n := range nodes {
		answered = answered || errs[i] == nil
		if st := all[i].Store; errs[i] == nil && st.LeaderID != "" && st.LeaderID == st.MemberID {
			out = append(out, n)
		}
	}
	if !answered {
		return nil, fmt.Errorf("holdfast: no node answers: %w", errors.Join(errs...))
	}
	return out, nil
}

// Act implements driver.Actions.
func (sys *System) Act(ctx context.Context, env driver.Env, action string, args []string) error {
	s, err := settingsOf(env)
	if err != nil {
		return err
	}
	switch {
	case action == "backup" && len(args) <= 1:
		node := env.Nodes()[0]
		if len(args) == 1 {
			node = args[0]
		}
		return sys.copyStore(ctx, env, s, node)
	case action == "restore" && len(args) == 0:
		return sys.setBack(ctx, env, s)
	}
	return fmt.Errorf("holdfast: no action %q: there are: backup [node], restore", strings.Join(append([]string{action}, args...), " "))
}

// copyStore takes a backup from a node, over its API.
func (sys *System) copyStore(ctx context.Context, env driver.Env, s settings, node string) error {
	file := filepath.Join(env.LogDir(node), "backup.snap")
	if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if _, err := env.Exec(ctx, node, driver.Process{
		Name: "backup", Argv: []string{s.program(env, node), "--endpoints", url(env, node), "backup", file},
	}); err != nil {
		return err
	}
	sys.backup, sys.restores = file, 0
	return nil
}

// setBack puts every node's data aside and the backup in its place.
func (sys *System) setBack(ctx context.Context, env driver.Env, s settings) error {
	if sys.backup == "" {
		return errors.New("holdfast: restore: there is no backup: take one by the action backup")
	}
	for _, n := range env.Nodes() {
		if _, err := ask(ctx, env, n); err == nil {
			return fmt.Errorf("holdfast: restore: the node on %s runs: kill all nodes before", n)
		}
	}
	sys.restores++
	for _, n := range env.Nodes() {
		dir := dataDir(env, n)
		if _, err := env.Exec(ctx, n, driver.Process{
			Name: "aside", Argv: []string{"mv", dir, fmt.Sprintf("%s.%d", dir, sys.restores)},
		}); err != nil {
			return err
		}
		if _, err := env.Exec(ctx, n, driver.Process{Name: "restore", Argv: []string{
			s.program(env, n), "restore", sys.backup, "--data", dir, "--name", n, "--peer", s.peerScheme() + address(env, n, peerPort),
			"--peers", s.peers(env), "--cluster-token", token, "--min-epoch", strconv.Itoa(1 + sys.restores),
		}}); err != nil {
			return err
		}
	}
	return nil
}

// Client implements driver.System.
func (*System) Client(_ context.Context, env driver.Env, node, workload string) (driver.Client, error) {
	s, err := settingsOf(env)
	if err != nil {
		return nil, err
	}
	f := map[string]invoke{
		"register": register, "cas": register, "kv": register, "set": set, "counter": counter,
		"unique-ids": uniqueIDs, "append": transaction, "bank": bank, "watch": watch, "idempotent": idempotent,
		"lock": locks, "election": elections,
	}[workload]
	if f == nil {
		return nil, fmt.Errorf("holdfast: %s: %w", workload, driver.ErrUnsupported)
	}
	urls := []string{url(env, node)}
	for _, n := range env.Nodes() {
		if s.everyNode && n != node {
			urls = append(urls, url(env, n))
		}
	}
	return newConnection(s, urls, f), nil
}
