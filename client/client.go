package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"holdfast.dev"
	v1 "holdfast.dev/internal/gen/holdfast/v1"
	"holdfast.dev/internal/wire"
)

// Client speaks to the nodes of one cluster. It is safe for concurrent use.
type Client struct {
	cfg       Config
	endpoints []*endpoint
	current   atomic.Int32 // index of the node in use
	kick      chan struct{}

	life context.Context // ends with Close
	end  context.CancelFunc
	work sync.WaitGroup // the prober and the watches

	cleanups sync.WaitGroup // grants given back in the background

	mu     sync.Mutex // guards closed, and that nothing is started after it
	closed bool
}

// Dial connects to the first of the endpoints that proves to serve. When none
// does but one can be reached, it succeeds all the same, so that a cluster
// without a majority can be looked at. It returns when every endpoint has
// answered or failed, or ctx ends; ctx does not matter afterwards.
func Dial(ctx context.Context, cfg Config) (*Client, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, kick: make(chan struct{}, 1)}
	for _, e := range cfg.Endpoints {
		c.endpoints = append(c.endpoints, newEndpoint(cfg, e))
	}
	c.life, c.end = context.WithCancel(context.WithoutCancel(ctx))
	if _, err := c.choose(ctx); err != nil {
		c.end()
		c.closeEndpoints()
		return nil, err
	}
	c.work.Go(c.prober)
	return c, nil
}

// Close ends watches and waits, and returns when everything the client started
// has ended; grants that are being given back are given back first. Sessions
// are not closed; close them first.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cleanups.Wait()
	c.end()
	c.work.Wait()
	c.closeEndpoints()
	return nil
}

// spawn runs f in a goroutine that Close waits for, unless the client is closed.
func (c *Client) spawn(group *sync.WaitGroup, f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		group.Go(f)
	}
	return !c.closed
}

func (c *Client) closeEndpoints() {
	for _, e := range c.endpoints {
		e.close()
	}
}

// Endpoint is the URL of the node in use.
func (c *Client) Endpoint() string { return c.at().url }

// Endpoints are the URLs of all nodes the client knows.
func (c *Client) Endpoints() []string { return slices.Clone(c.cfg.Endpoints) }

func (c *Client) at() *endpoint { return c.endpoints[c.current.Load()] }

// choose probes all nodes at once and takes the first that serves, or else the
// first that answers at all. Proved says which of the two it was.
func (c *Client) choose(ctx context.Context) (proved bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 2*c.cfg.Attempt)
	defer cancel()
	type answer struct {
		i   int
		err error
	}
	answers := make(chan answer, len(c.endpoints))
	for i, e := range c.endpoints {
		go func() { answers <- answer{i, e.probe(ctx)} }()
	}
	var (
		serving, reached = -1, -1
		errs             = make(several, len(c.endpoints))
	)
	for range c.endpoints { // all are waited for; the first that serves cancels the others
		a := <-answers
		if a.err == nil && serving < 0 {
			serving = a.i
			cancel()
		}
		if wire.IsWire(a.err) && reached < 0 {
			reached = a.i
		}
		errs[a.i] = fmt.Errorf("%s: %w", hostOf(c.endpoints[a.i].url), bare(a.err))
	}
	switch {
	case serving >= 0:
		c.current.Store(int32(serving))
		return true, nil
	case reached < 0:
		return false, &holdfast.Error{Op: "dial", Code: holdfast.CodeNoQuorum, Outcome: holdfast.NotApplied, Err: errs}
	case holdfast.CodeOf(errs[reached]) == holdfast.CodeDenied:
		return false, &holdfast.Error{Op: "dial", Code: holdfast.CodeDenied, Outcome: holdfast.NotApplied, Err: errs[reached]}
	}
	c.current.Store(int32(reached))
	return false, nil
}

// probe asks a node to prove that it serves.
func (e *endpoint) probe(ctx context.Context) error {
	_, err := e.cluster.Probe(ctx, &v1.ProbeRequest{})
	return wire.FromConnect(err)
}

// prober makes the nodes prove that they serve on which something long hangs,
// at intervals and when a call failed. Nodes that do not are given up as soon
// as another one does.
func (c *Client) prober() {
	tick := time.NewTicker(c.cfg.Probe)
	defer tick.Stop()
	for {
		kicked := false
		select {
		case <-c.life.Done():
			return
		case <-tick.C:
		case <-c.kick:
			kicked = true
		}
		failing := c.examine(kicked)
		if len(failing) == 0 || len(c.endpoints) == 1 {
			continue
		}
		if proved, err := c.choose(c.life); err != nil || !proved {
			continue
		}
		for _, e := range failing {
			if e != c.at() {
				e.giveUp()
			}
		}
	}
}

// examine probes the nodes on which something long hangs, and the one in use
// when asked to, and returns those that do not serve.
func (c *Client) examine(current bool) (failing []*endpoint) {
	ctx, cancel := context.WithTimeout(c.life, c.cfg.Attempt)
	defer cancel()
	answers := make(chan *endpoint, len(c.endpoints))
	asked := 0
	for _, e := range c.endpoints {
		if e.long.Load() == 0 && (!current || e != c.at()) {
			continue
		}
		asked++
		go func() {
			if err := e.probe(ctx); err != nil && failover(err) {
				answers <- e
				return
			}
			answers <- nil
		}()
	}
	for range asked {
		if e := <-answers; e != nil {
			failing = append(failing, e)
		}
	}
	return failing
}

// ending is ctx, ended also by Close.
func (c *Client) ending(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(c.life, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

// suspect reports that the node of index i did not serve a call: another one is
// used from now on, and probes find the best.
func (c *Client) suspect(i int32) {
	c.next(i)
	select {
	case c.kick <- struct{}{}:
	default: // a probe is due already
	}
}

// next moves on from the node of index i, once however many calls failed there.
func (c *Client) next(i int32) {
	c.current.CompareAndSwap(i, (i+1)%int32(len(c.endpoints)))
}

// bare takes the outer words off an error that is wrapped in others.
func bare(err error) error {
	if e, ok := errors.AsType[*holdfast.Error](err); ok && e.Err != nil && e.Op == "" && e.Key == "" {
		return e.Err
	}
	return err
}

// several are errors on one line.
type several []error

func (s several) Error() string {
	words := make([]string, 0, len(s))
	for _, err := range s {
		if err != nil {
			words = append(words, err.Error())
		}
	}
	return strings.Join(words, "; ")
}

// Unwrap gives the errors.
func (s several) Unwrap() []error { return s }
