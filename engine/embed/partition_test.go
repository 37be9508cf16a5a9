package embed

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/engine/etcd"
)

// follow reads a watch and gives the values of its events, in order.
func follow(t *testing.T, e engine.Engine, key string) <-chan string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	watch := e.Watch(ctx, engine.WatchRequest{Key: key})
	out := make(chan string, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for b := range watch {
			for _, ev := range b.Events {
				out <- string(ev.KV.Value)
			}
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return out
}

// write puts a value until it is there for sure.
func write(t *testing.T, e engine.Engine, key, value string) {
	t.Helper()
	eventually(t, "write "+value, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := e.Txn(ctx, engine.Txn{
			If:   []engine.Compare{engine.Missing(key + "/" + value)},
			Then: []engine.Op{engine.Put(key, []byte(value)), engine.Put(key+"/"+value, nil)},
		})
		return err == nil
	})
}

// wantValues fails unless the next values are those, each once.
func wantValues(t *testing.T, got <-chan string, want ...string) {
	t.Helper()
	for _, w := range want {
		select {
		case g := <-got:
			if g != w {
				t.Fatalf("the watch says %s, want %s", g, w)
			}
		case <-t.Context().Done():
			t.Fatalf("the watch does not say %s", w)
		}
	}
}

// TestMemberCutOffFromItsPeersIsLeft cuts each member in turn off from the
// others while clients still reach it.
func TestMemberCutOffFromItsPeersIsLeft(t *testing.T) {
	t.Parallel()
	c := startTrioWith(t, func(cfg *Config) { cfg.ListenClient = freeURL(t) })
	var ends []string
	for _, cfg := range c.cfgs {
		ends = append(ends, cfg.ListenClient)
	}
	e, err := etcd.Dial(t.Context(), etcd.Config{Endpoints: ends, ProbeTimeout: 300 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	values := follow(t, e, "kv/x")
	write(t, e, "kv/x", "first")
	wantValues(t, values, "first")
	for i, n := range c.nodes {
		for j, other := range c.nodes {
			if i != j {
				n.srv.Server.CutPeer(other.srv.Server.MemberID())
				other.srv.Server.CutPeer(n.srv.Server.MemberID())
			}
		}
		value := c.cfgs[i].Name
		write(t, e, "kv/x", value)
		wantValues(t, values, value)
		for j, other := range c.nodes {
			if i != j {
				n.srv.Server.MendPeer(other.srv.Server.MemberID())
				other.srv.Server.MendPeer(n.srv.Server.MemberID())
			}
		}
		eventually(t, "the member is back", func() bool { return n.srv.Server.Leader() != 0 })
	}
}

// hole is a TCP relay that can swallow everything, as a network does that
// drops packets.
type hole struct {
	l      net.Listener
	to     string
	mu     sync.Mutex
	open   *sync.Cond
	closed bool
	wg     sync.WaitGroup
}

func newHole(t *testing.T, to string) *hole {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // nothing to wait for on loopback
	if err != nil {
		t.Fatal(err)
	}
	h := &hole{l: l, to: to}
	h.open = sync.NewCond(&h.mu)
	ctx, cancel := context.WithCancel(t.Context())
	h.wg.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			h.wg.Go(func() { h.relay(ctx, in) })
		}
	})
	t.Cleanup(func() {
		cancel()
		h.swallow(false)
		if err := l.Close(); err != nil {
			t.Error(err)
		}
		h.wg.Wait()
	})
	return h
}

func (h *hole) swallow(yes bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = yes
	h.open.Broadcast()
}

// relay copies both ways until one side ends.
func (h *hole) relay(ctx context.Context, in net.Conn) {
	defer in.Close() //nolint:errcheck // a test's relay
	var d net.Dialer
	out, err := d.DialContext(ctx, "tcp", h.to)
	if err != nil {
		return
	}
	defer out.Close() //nolint:errcheck // a test's relay
	stop := context.AfterFunc(ctx, func() { _, _ = in.Close(), out.Close() })
	defer stop()
	var wg sync.WaitGroup
	for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
		wg.Go(func() {
			_, _ = io.Copy(waiting{h, way[1]}, way[0])
			_, _ = way[0].Close(), way[1].Close()
		})
	}
	wg.Wait()
}

// waiting writes when the hole is open.
type waiting struct {
	h *hole
	w io.Writer
}

func (w waiting) Write(b []byte) (int, error) {
	w.h.mu.Lock()
	for w.h.closed {
		w.h.open.Wait()
	}
	w.h.mu.Unlock()
	return w.w.Write(b)
}

// TestBlackHoleIsLeft swallows all packets on the way to one endpoint after the
// other; no connection breaks.
func TestBlackHoleIsLeft(t *testing.T) {
	t.Parallel()
	cfg := quick(t)
	cfg.ListenClient = freeURL(t)
	start(t, cfg)
	addr := strings.TrimPrefix(cfg.ListenClient, "http://")
	holes := []*hole{newHole(t, addr), newHole(t, addr)}
	e, err := etcd.Dial(t.Context(), etcd.Config{
		Endpoints: []string{holes[0].l.Addr().String(), holes[1].l.Addr().String()}, ProbeTimeout: 300 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	values := follow(t, e, "kv/x")
	for i, h := range holes {
		value := string(rune('a' + i))
		h.swallow(true)
		write(t, e, "kv/x", value)
		wantValues(t, values, value)
		h.swallow(false)
	}
	for _, h := range holes {
		h.swallow(true)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = e.Txn(ctx, engine.Txn{Then: []engine.Op{engine.Put("kv/y", nil)}})
	if !errors.Is(err, context.DeadlineExceeded) && holdfast.CodeOf(err) != holdfast.CodeDeadline && holdfast.CodeOf(err) != holdfast.CodeNoQuorum {
		t.Errorf("got %v", err)
	}
	if holdfast.OutcomeOf(err) != holdfast.Unknown {
		t.Errorf("outcome %v", holdfast.OutcomeOf(err))
	}
}
