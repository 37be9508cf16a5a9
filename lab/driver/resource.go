package driver

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"holdfast.dev/lab/history"
)

const (
	defaultHold     = 50 * time.Millisecond
	resourceTimeout = 5 * time.Second // of one request to the resource
)

// TokenHeader carries the token of the lock to the resource.
const TokenHeader = "Lab-Token"

// ResourceConfig is how clients of the lock workload reach the resource.
type ResourceConfig struct {
	URL     string        `json:"url"`     // of the resource: http://10.77.0.1:7000
	Fencing bool          `json:"fencing"` // the token of the lock is sent along
	Hold    time.Duration `json:"hold_ns"` // mean time between reading and writing; default 50ms
}

// Elements is what the resource holds, as its answers and requests say it.
type Elements struct {
	Elements []int64 `json:"elements"`
}

// resourceClient adds the operations at the resource to a client of locks.
type resourceClient struct {
	Client
	cfg  ResourceConfig
	http *http.Client

	ctx  context.Context // ends with Close
	stop context.CancelFunc

	mu   sync.Mutex
	held map[string]any // lock → token
}

// WithResource gives a client of locks the operations at what the locks
// protect: add reads all elements, works for a while, and writes them back with
// one more; read reads them. With fencing both carry the token of the last
// acquire of the same lock through this client.
//
// An add behaves as programs do that believe in their lock: once it has read it
// writes, also when ctx's deadline has passed meanwhile, or the lock is lost, or
// the whole process was stopped for a while. So it may take longer than ctx's
// deadline allows: twice Hold, and a few seconds where the resource does not
// answer. Only cancelling ctx, or Close, ends it early. A client that is a [Lessee]
// ends it too, when the lease ends: such programs stop in time, if they run.
func WithResource(client Client, cfg ResourceConfig) Client {
	ctx, stop := context.WithCancel(context.Background())
	return &resourceClient{
		Client: client,
		cfg:    cfg,
		ctx:    ctx, stop: stop,
		// A connection per request: nothing is ever sent twice.
		http: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: resourceTimeout},
		held: map[string]any{},
	}
}

func (c *resourceClient) Invoke(ctx context.Context, op history.Op) history.Op {
	switch op.F {
	case "acquire":
		op = c.Client.Invoke(ctx, op)
		if op.Type == history.OK {
			c.mu.Lock()
			c.held[op.Key] = op.Value
			c.mu.Unlock()
		}
		return op
	case "release":
		c.mu.Lock()
		delete(c.held, op.Key)
		c.mu.Unlock()
		return c.Client.Invoke(ctx, op)
	case "add":
		return c.add(ctx, op)
	case "read":
		return c.read(ctx, op)
	default:
		return c.Client.Invoke(ctx, op)
	}
}

func (c *resourceClient) Close() error {
	c.stop()
	return c.Client.Close()
}

// add is the critical section.
func (c *resourceClient) add(ctx context.Context, op history.Op) history.Op {
	op.Type = history.Fail // until the write
	c.mu.Lock()
	token, held := c.held[op.Key]
	c.mu.Unlock()
	v, whole := op.Value.(int64)
	switch {
	case !whole:
		op.Error = fmt.Sprintf("resource: add wants a whole number, not %v", op.Value)
		return op
	case !held:
		op.Error = "resource: add without the lock"
		return op
	case c.cfg.Fencing && token == nil:
		op.Error = "resource: the lock gave no token to fence with"
		return op
	}

	work, done := c.deaf(ctx)
	defer done()
	if l, ok := c.Client.(Lessee); ok {
		if lease := l.Lease(op.Key); lease != nil {
			var cancel context.CancelFunc
			work, cancel = context.WithCancel(work)
			defer cancel()
			defer context.AfterFunc(lease, cancel)() //nolint:contextcheck // the lease ends by itself
		}
	}
	elements, err := c.get(work, op.Key, token)
	if err != nil {
		op.Error = err.Error()
		return op
	}
	hold := time.NewTimer(hold(c.cfg.Hold, op.Key, v))
	defer hold.Stop()
	select {
	case <-hold.C:
	case <-work.Done():
		op.Error = "resource: given up before writing"
		return op
	}
	op.Type, err = c.put(work, op.Key, token, append(elements, v))
	if err != nil {
		op.Error = err.Error()
	}
	return op
}

func (c *resourceClient) read(ctx context.Context, op history.Op) history.Op {
	elements, err := c.get(ctx, op.Key, nil)
	if err != nil {
		op.Type, op.Error = history.Fail, err.Error() // a read has no effect
		return op
	}
	list := make([]any, len(elements))
	for i, e := range elements {
		list[i] = e
	}
	op.Type, op.Value = history.OK, list
	return op
}

// deaf is ctx without its deadline.
func (c *resourceClient) deaf(ctx context.Context) (context.Context, func()) {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stopCtx := context.AfterFunc(ctx, func() {
		if errors.Is(ctx.Err(), context.Canceled) {
			cancel()
		}
	})
	stopClose := context.AfterFunc(c.ctx, cancel)
	return work, func() { stopCtx(); stopClose(); cancel() }
}

// hold is how long the holder works: uniform between 0 and twice the mean, and
// the same for the same element in every run.
func hold(mean time.Duration, lock string, v int64) time.Duration {
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%s/%d", lock, v)
	const steps = 1 << 20
	return cmp.Or(mean, defaultHold) * 2 / steps * time.Duration(mix(h.Sum64())%steps)
}

// mix spreads the bits of a hash (the finalizer of MurmurHash3).
func mix(h uint64) uint64 {
	h ^= h >> 33
	h *= 0xff51afd7ed558ccd
	h ^= h >> 33
	h *= 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

func (c *resourceClient) get(ctx context.Context, lock string, token any) ([]int64, error) {
	resp, err := c.do(ctx, http.MethodGet, lock, token, nil)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxLine))
	if err != nil {
		return nil, fmt.Errorf("resource: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(resp.StatusCode, body)
	}
	var list Elements
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("resource: %w", err)
	}
	return slices.Clip(list.Elements), nil
}

func (c *resourceClient) put(ctx context.Context, lock string, token any, elements []int64) (history.Type, error) {
	body, err := json.Marshal(Elements{Elements: elements})
	if err != nil {
		return history.Fail, err
	}
	resp, err := c.do(ctx, http.MethodPut, lock, token, body)
	if err != nil {
		if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
			return history.Fail, err
		}
		return history.Info, err
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxLine))
	switch {
	case resp.StatusCode/100 == 2:
		return history.OK, nil
	case err != nil:
		return history.Info, fmt.Errorf("resource: %w", err)
	case resp.StatusCode/100 == 4:
		return history.Fail, refusal(resp.StatusCode, text)
	default:
		return history.Info, refusal(resp.StatusCode, text)
	}
}

func (c *resourceClient) do(ctx context.Context, method, lock string, token any, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.cfg.URL+"/set?lock="+url.QueryEscape(lock), bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("resource: %w", err)
	}
	if c.cfg.Fencing && token != nil {
		req.Header.Set(TokenHeader, fmt.Sprint(token))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("resource: %w", err)
	}
	return resp, nil
}

func refusal(status int, body []byte) error {
	return fmt.Errorf("resource: %d %s", status, bytes.TrimSpace(body[:min(len(body), 200)]))
}
