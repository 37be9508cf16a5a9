package nemesis

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast.dev/lab/faultfs"
	"holdfast.dev/lab/netem"
	"holdfast.dev/lab/vclock"
)

// fakeWorld records what was done to it, with the time since it was made.
type fakeWorld struct {
	start   time.Time
	nodes   []string
	clients []string

	mu        sync.Mutex
	calls     []string
	primaries []string
	primErr   error
	hosts     map[string]*fakeHost
	rules     []*fakeRule
	traffic   int64 // frames that every new rule touches
	dnsNow    map[string]DNSFault
	dnsTouch  int64
	fail      map[string]error // by the words of a call
	actErr    error
	resets    int
	block     map[string]chan struct{} // calls that hang until this is closed, or their context ends
	deaf      bool                     // and the context does not matter
}

func newWorld(nodes, clients int) *fakeWorld {
	w := &fakeWorld{
		start: time.Now(), hosts: make(map[string]*fakeHost), dnsNow: make(map[string]DNSFault),
		fail: make(map[string]error), block: make(map[string]chan struct{}), traffic: 10, resets: 2,
	}
	for i := range nodes {
		w.nodes = append(w.nodes, fmt.Sprintf("n%d", i+1))
	}
	for i := range clients {
		w.clients = append(w.clients, fmt.Sprintf("c%d", i+1))
	}
	for _, name := range slices.Concat(w.nodes, w.clients) {
		w.hosts[name] = &fakeHost{w: w, name: name, running: map[string]bool{"server": true, "side": true}, touched: 3}
	}
	w.primaries = w.nodes[:1]
	return w
}

// did records a call, and is how it ends.
func (w *fakeWorld) did(ctx context.Context, format string, args ...any) error {
	call := strings.TrimSpace(fmt.Sprintf(format, args...))
	w.mu.Lock()
	w.calls = append(w.calls, fmt.Sprintf("%v %s", time.Since(w.start), call))
	err, block, deaf := w.fail[call], w.block[call], w.deaf
	w.mu.Unlock()
	switch {
	case block != nil && deaf:
		<-block
	case block != nil:
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-block:
		}
	}
	return err
}

func (w *fakeWorld) failing(call string, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.fail[call] = err
}

func (w *fakeWorld) blocking(call string, block bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if block {
		w.block[call] = make(chan struct{})
		return
	}
	close(w.block[call])
	delete(w.block, call)
}

// log is the calls so far, and forgets them.
func (w *fakeWorld) log() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	calls := w.calls
	w.calls = nil
	return calls
}

func (w *fakeWorld) Nodes() []string   { return w.nodes }
func (w *fakeWorld) Clients() []string { return w.clients }
func (w *fakeWorld) Net() Net          { return fakeNet{w} }
func (w *fakeWorld) DNS() DNS          { return fakeDNS{w} }

func (w *fakeWorld) Primaries(context.Context) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.primaries, w.primErr
}

func (w *fakeWorld) Host(name string) (Host, error) {
	if h := w.hosts[name]; h != nil {
		return h, nil
	}
	return nil, fmt.Errorf("no host %s", name)
}

func (w *fakeWorld) Act(ctx context.Context, action string, args []string) error {
	if err := w.did(ctx, "act %s %s", action, strings.Join(args, " ")); err != nil {
		return err
	}
	return w.actErr
}

type fakeNet struct{ w *fakeWorld }

type fakeRule struct {
	w       *fakeWorld
	text    string
	links   []Link
	touched int64
	removed int
}

func linkText(links []Link) string {
	texts := make([]string, len(links))
	for i, l := range links {
		texts[i] = l.From + ">" + l.To
	}
	slices.Sort(texts)
	return strings.Join(texts, " ")
}

func (n fakeNet) Apply(links []Link, match Match, im netem.Impairment) (Applied, error) {
	text := fmt.Sprintf("%s %+v %s", linkText(links), match, im.Cut)
	if err := n.w.did(context.Background(), "apply %s", text); err != nil {
		return nil, err
	}
	n.w.mu.Lock()
	defer n.w.mu.Unlock()
	r := &fakeRule{w: n.w, text: text, links: links, touched: n.w.traffic}
	n.w.rules = append(n.w.rules, r)
	return r, nil
}

func (n fakeNet) Reset(links []Link) (int, error) {
	return n.w.resets, n.w.did(context.Background(), "reset %s", linkText(links))
}

func (n fakeNet) Burst(ctx context.Context, l Link, bytes int) error {
	return n.w.did(ctx, "burst %s>%s %d", l.From, l.To, bytes)
}

func (r *fakeRule) Touched() int64 {
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	return r.touched
}

func (r *fakeRule) Remove() {
	_ = r.w.did(context.Background(), "remove %s", r.text)
	r.w.mu.Lock()
	defer r.w.mu.Unlock()
	r.removed++
}

// cut is the links that are impaired now.
func (w *fakeWorld) cut() map[Link]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	links := make(map[Link]bool)
	for _, r := range w.rules {
		if r.removed == 0 {
			for _, l := range r.links {
				links[l] = true
			}
		}
	}
	return links
}

type fakeDNS struct{ w *fakeWorld }

func (d fakeDNS) Set(name string, f DNSFault) {
	_ = d.w.did(context.Background(), "dns %q %+v", name, f)
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	d.w.dnsNow[name] = f
	d.w.dnsTouch += 4
}

func (d fakeDNS) Touched() int64 {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	return d.w.dnsTouch
}

// fakeHost behaves as the lab's does: the dead are not paused, and what is
// started runs.
type fakeHost struct {
	w    *fakeWorld
	name string

	mu        sync.Mutex
	running   map[string]bool
	paused    map[string]bool
	off       bool
	share     float64
	throttled time.Duration
	offset    vclock.Offset
	set       time.Time
	stuck     bool // the clock does not move
	probeErr  error
	noStart   bool // what is started does not come up
	rules     map[string]faultfs.Rule
	touched   int64
}

func (h *fakeHost) Kill(ctx context.Context, name string) (int, error) {
	if err := h.w.did(ctx, "%s kill %s", h.name, name); err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for p, up := range h.running {
		if up && (name == "" || name == p) {
			h.running[p] = false
			delete(h.paused, p)
			n++
		}
	}
	return n, nil
}

func (h *fakeHost) Start(ctx context.Context) error {
	if err := h.w.did(ctx, "%s start", h.name); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.off = false
	for p := range h.running {
		h.running[p] = !h.noStart
	}
	return nil
}

func (h *fakeHost) Pause(ctx context.Context, name string) (int, error) {
	if err := h.w.did(ctx, "%s pause %s", h.name, name); err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.paused == nil {
		h.paused = make(map[string]bool)
	}
	n := 0
	for p, up := range h.running {
		if up && (name == "" || name == p) {
			h.paused[p] = true
			n++
		}
	}
	return n, nil
}

func (h *fakeHost) Resume(ctx context.Context, name string) error {
	if err := h.w.did(ctx, "%s resume %s", h.name, name); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.off {
		return errors.New("the host is off")
	}
	maps.DeleteFunc(h.paused, func(p string, _ bool) bool { return name == "" || name == p })
	return nil
}

func (h *fakeHost) Throttle(ctx context.Context, share float64) error {
	if err := h.w.did(ctx, "%s throttle %g", h.name, share); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.share = share
	h.throttled += 50 * time.Millisecond
	return nil
}

func (h *fakeHost) Throttled() time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.throttled
}

func (h *fakeHost) PowerOff(ctx context.Context, c faultfs.Crash) (faultfs.Losses, error) {
	if err := h.w.did(ctx, "%s power off %s %s", h.name, c.Profile, c.Policy); err != nil {
		return faultfs.Losses{}, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.off = true
	h.paused = nil
	for p := range h.running {
		h.running[p] = false
	}
	return faultfs.Losses{Bytes: 100, Files: 1, Ops: 2, Paths: []string{"wal"}}, nil
}

func (h *fakeHost) Running() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for p, up := range h.running {
		if up && !h.paused[p] {
			n++
		}
	}
	return n
}

func (h *fakeHost) Clock() Clock { return fakeClock{h} }
func (h *fakeHost) Disk() Disk   { return fakeDisk{h} }

type fakeClock struct{ h *fakeHost }

func (c fakeClock) Set(o vclock.Offset) error {
	if err := c.h.w.did(context.Background(), "%s clock %v %g", c.h.name, o.Jump.Round(time.Millisecond), o.Drift); err != nil {
		return err
	}
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	c.h.offset, c.h.set = o, time.Now()
	return nil
}

func (c fakeClock) Offset() (time.Duration, error) {
	c.h.mu.Lock()
	defer c.h.mu.Unlock()
	if c.h.probeErr != nil || c.h.stuck {
		return 0, c.h.probeErr
	}
	return c.h.offset.Jump + time.Duration(c.h.offset.Drift*float64(time.Since(c.h.set))), nil
}

func (h *fakeHost) probing(err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.probeErr = err
}

type fakeDisk struct{ h *fakeHost }

func (d fakeDisk) Inject(ctx context.Context, r faultfs.Rule) error {
	if err := d.h.w.did(ctx, "%s disk %s %s %v", d.h.name, r.ID, r.Action, r.Ops); err != nil {
		return err
	}
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	if d.h.rules == nil {
		d.h.rules = make(map[string]faultfs.Rule)
	}
	d.h.rules[r.ID] = r
	return nil
}

func (d fakeDisk) Remove(ctx context.Context, id string) error {
	if err := d.h.w.did(ctx, "%s disk remove %s", d.h.name, id); err != nil {
		return err
	}
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	delete(d.h.rules, id)
	return nil
}

func (d fakeDisk) Touched(_ context.Context, id string) (int64, error) {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	if _, ok := d.h.rules[id]; !ok {
		return 0, fmt.Errorf("no rule %s", id)
	}
	return d.h.touched, nil
}

func (d fakeDisk) Flip(ctx context.Context, glob string, n int, _ uint64) ([]string, error) {
	if err := d.h.w.did(ctx, "%s flip %s %d", d.h.name, glob, n); err != nil {
		return nil, err
	}
	places := make([]string, 0, n)
	for i := range n {
		places = append(places, fmt.Sprintf("%s:%d", glob, i))
	}
	return places, nil
}

// whole fails the test where something of the world is still broken.
func (w *fakeWorld) whole(t *testing.T) {
	t.Helper()
	if cut := w.cut(); len(cut) > 0 {
		t.Errorf("links are still impaired: %v", cut)
	}
	for name, f := range w.dnsNow {
		if fmt.Sprint(f) != fmt.Sprint(DNSFault{}) {
			t.Errorf("name %q is still wrong: %+v", name, f)
		}
	}
	for _, name := range slices.Concat(w.nodes, w.clients) {
		h := w.hosts[name]
		if n := h.Running(); n != 2 {
			t.Errorf("%s: %d processes run, not 2", name, n)
		}
		if h.share != 0 || len(h.rules) > 0 || h.off || h.offset.Drift != 0 || h.offset.Jump != 0 {
			t.Errorf("%s is not whole: share %g, rules %v, off %t, clock %+v", name, h.share, h.rules, h.off, h.offset)
		}
	}
}
