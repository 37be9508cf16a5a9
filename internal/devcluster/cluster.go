package devcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config is what the nodes are made of.
type Config struct {
	Binary  string   // the holdfast binary; required
	Dir     string   // where data and logs go; required, made when missing
	Environ []string // of the nodes
	Nodes   int      // default 3
	Port    int      // the first API port; default BasePort; AnyPort takes free ones
	Args    []string // more arguments of "serve"
}

// State is how a node is.
type State string

// The states of a node.
const (
	Starting State = "starting"
	Running  State = "running"
	Paused   State = "paused"
	Dead     State = "dead"
)

// Info is a node as people see it.
type Info struct {
	Name  string
	PID   int // 0 when it is dead
	State State
	API   string // URL
	Peer  string // URL
	Etcd  string // host:port
	Log   string // file
}

// Event tells that a node died unasked or was killed.
type Event struct {
	Node string
	How  string // "signal: killed", "exit status 1"
}

// Cluster is the nodes. Its methods are safe for concurrent use.
type Cluster struct {
	cfg    Config
	nodes  []*node
	events chan Event

	// Children die with the thread that started them, so one thread starts
	// them all and stays until Close.
	starts  chan func()
	starter sync.WaitGroup
	waiters sync.WaitGroup

	mu      sync.Mutex // guards closing and every node's fields
	closing bool
}

// Start starts the nodes at the same time and waits until all are ready or ctx
// ends.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	if cfg.Nodes == 0 {
		cfg.Nodes = 3
	}
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, err
	}
	addresses, err := settlePorts(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c := &Cluster{cfg: cfg, events: make(chan Event, 64), starts: make(chan func())}
	var peers []string
	for i, a := range addresses {
		n := &node{name: fmt.Sprintf("n%d", i+1), ports: a, state: Dead}
		n.dir = filepath.Join(cfg.Dir, n.name)
		n.log = filepath.Join(cfg.Dir, n.name+".log")
		c.nodes = append(c.nodes, n)
		peers = append(peers, n.name+"=http://"+a.Peer)
	}
	for _, n := range c.nodes {
		n.args = append([]string{
			"serve", "--name", n.name, "--data", n.dir, "--listen", n.ports.API, "--peer-listen", n.ports.Peer,
			"--etcd-listen", n.ports.Etcd, "--peers", strings.Join(peers, ","),
		}, cfg.Args...)
	}
	c.starter.Go(c.runStarter)

	var wg sync.WaitGroup
	errs := make([]error, len(c.nodes))
	for i, n := range c.nodes {
		wg.Go(func() { errs[i] = c.start(ctx, n) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// Events delivers a node's death; Close closes it. What is not read is dropped
// after 64 events.
func (c *Cluster) Events() <-chan Event { return c.events }

// Nodes is how the nodes are, in order.
func (c *Cluster) Nodes() []Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Info, len(c.nodes))
	for i, n := range c.nodes {
		out[i] = n.info()
	}
	return out
}

// Endpoints are the API's URLs.
func (c *Cluster) Endpoints() []string {
	out := make([]string, len(c.nodes))
	for i, n := range c.nodes {
		out[i] = "http://" + n.ports.API
	}
	return out
}

func (c *Cluster) find(name string) (*node, error) {
	i := slices.IndexFunc(c.nodes, func(n *node) bool { return n.name == name })
	if i < 0 {
		return nil, fmt.Errorf("no node %q: n1 to n%d", name, len(c.nodes))
	}
	return c.nodes[i], nil
}

// Kill ends a node as a power cut would: SIGKILL.
func (c *Cluster) Kill(name string) error { return c.signal(name, syscall.SIGKILL, "") }

// Pause stops a node with SIGSTOP: it keeps its connections and says nothing.
func (c *Cluster) Pause(name string) error { return c.signal(name, syscall.SIGSTOP, Paused) }

// Resume lets a paused node go on.
func (c *Cluster) Resume(name string) error { return c.signal(name, syscall.SIGCONT, Running) }

func (c *Cluster) signal(name string, s syscall.Signal, then State) error {
	n, err := c.find(name)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n.cmd == nil {
		return fmt.Errorf("%s is dead; start it with: restart %s", name, name)
	}
	if err := n.cmd.Process.Signal(s); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if then != "" && n.state != Starting {
		n.state = then
	}
	return nil
}

// Restart starts a dead node again; one that runs is stopped first, gracefully
// if it can.
func (c *Cluster) Restart(ctx context.Context, name string) error {
	n, err := c.find(name)
	if err != nil {
		return err
	}
	c.halt(n)
	return c.start(ctx, n)
}

// graceful is how long a node may take to stop by itself.
const graceful = 5 * time.Second

// halt stops a node: SIGTERM, then SIGKILL. A paused one is killed at once.
func (c *Cluster) halt(n *node) {
	c.mu.Lock()
	cmd, ended, paused := n.cmd, n.ended, n.state == Paused
	if cmd != nil {
		n.asked = true
	}
	c.mu.Unlock()
	if cmd == nil {
		return
	}
	if paused {
		_ = cmd.Process.Kill() // it may have ended just now
	} else {
		_ = cmd.Process.Signal(syscall.SIGTERM)
	}
	timer := time.NewTimer(graceful)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		_ = cmd.Process.Kill()
		<-ended
	}
}

// Close stops all nodes and returns when none is left.
func (c *Cluster) Close() {
	c.mu.Lock()
	was := c.closing
	c.closing = true
	c.mu.Unlock()
	if was {
		return
	}
	var wg sync.WaitGroup
	for _, n := range c.nodes {
		wg.Go(func() { c.halt(n) })
	}
	wg.Wait()
	c.waiters.Wait()
	close(c.starts)
	c.starter.Wait()
	close(c.events)
}
