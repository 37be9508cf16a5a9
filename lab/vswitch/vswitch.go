//go:build linux

package vswitch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/lab/netem"
)

// Sentinels for what a caller decides on.
var (
	ErrUnknown = errors.New("no such host on the switch")
	ErrClosed  = errors.New("switch is closed")
)

// Config is the settings of a Switch. The zero value works.
type Config struct {
	Seed    uint64       // of all that is left to chance on the links
	Capture io.Writer    // gets a pcapng of every frame; nil captures nothing
	Log     *slog.Logger // default: discards

	MTU    int           // longest IP packet of a port; default 1500, 576 to 65521
	Jam    int           // frames that one jammed link holds; default 4096. More are dropped and counted
	Memory int           // bytes of frames under way in the whole switch; default 256 MiB. More are dropped as overruns
	Late   time.Duration // a frame sent later than asked by more than this is an overrun; default 2ms
	// Realtime runs the threads of the switch before all that is not realtime
	// (SCHED_RR, where the process may): delays are exact on a busy machine too.
	// In exchange the Go runtime, which knows no such threads, can rarely stand
	// still for up to a second; overruns show it.
	Realtime bool
	// TxDropped reads how many frames the kernel dropped at the TAP of a port
	// because the switch was late (statistics/tx_dropped); nil is unknown.
	TxDropped func(port string) (int64, error)
}

func (c Config) withDefaults() (Config, error) {
	var errs []error
	set := func(name string, v *int, otherwise, least, most int) {
		if *v == 0 {
			*v = otherwise
		}
		if *v < least || *v > most {
			errs = append(errs, fmt.Errorf("%s %d: not in %d to %d", name, *v, least, most))
		}
	}
	set("mtu", &c.MTU, 1500, 576, 65521)
	set("jam", &c.Jam, 4096, 1, 1<<20)
	set("memory", &c.Memory, 256<<20, 1<<20, 1<<40)
	if c.Late == 0 {
		c.Late = 2 * time.Millisecond
	}
	if c.Late < 0 {
		errs = append(errs, fmt.Errorf("late %v: negative", c.Late))
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c, errors.Join(errs...)
}

// Switch is a layer-2 switch in user space. Its methods may be called
// concurrently.
type Switch struct {
	config  Config
	invalid error // of the config; Run returns it
	begin   time.Time
	buffers sync.Pool
	memory  atomic.Int64 // of frames in the schedule
	table   atomic.Pointer[table]
	capture *capture // nil when there is none

	schedule schedule
	closing  atomic.Bool
	wg       sync.WaitGroup

	mu      sync.Mutex // of what follows; not held over I/O
	state   state
	ordinal int              // of rules
	busy    map[string]bool  // hosts that are being unplugged
	dropped map[string]int64 // by the kernel, as last read
}

type state int

const (
	fresh state = iota
	running
	closed
)

// table is who is where. It is replaced, never changed.
type table struct {
	byName map[string]*host
	byMAC  map[mac]*host
	byAddr map[addr]*host
	links  [][]*link // by the hosts' indices: from, to
}

func (t *table) owner(a addr) (mac, bool) {
	h := t.byAddr[a]
	if h == nil {
		return mac{}, false
	}
	return h.mac, true
}

func (t *table) link(l Link) *link {
	from, to := t.byName[l.From], t.byName[l.To]
	if from == nil || to == nil || from == to {
		return nil
	}
	return t.links[from.index][to.index]
}

// New returns a switch without ports. It does no I/O.
func New(c Config) *Switch {
	s := &Switch{begin: time.Now(), busy: map[string]bool{}, dropped: map[string]int64{}}
	s.config, s.invalid = c.withDefaults()
	s.schedule.bell = -1
	s.schedule.wake = working
	s.table.Store(&table{byName: map[string]*host{}, byMAC: map[mac]*host{}, byAddr: map[addr]*host{}})
	size := s.config.MTU + etherHeader + 4
	s.buffers.New = func() any { return &buffer{data: make([]byte, size)} }
	if c.Capture != nil {
		s.capture = newCapture(c.Capture, s.begin)
	}
	return s
}

func (s *Switch) buffer() *buffer { return s.buffers.Get().(*buffer) }

func (s *Switch) free(b *buffer) {
	b.link, b.out = nil, netem.Out{}
	s.buffers.Put(b)
}

// Run starts the switch; it ends by Close. It reports what is wrong with the
// Config.
func (s *Switch) Run() error {
	if s.invalid != nil {
		return fmt.Errorf("switch: %w", s.invalid)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return os.NewSyscallError("switch: eventfd", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != fresh {
		_ = unix.Close(bell)
		if s.state == closed {
			return fmt.Errorf("switch: %w", ErrClosed)
		}
		return errors.New("switch: runs already")
	}
	s.state = running
	s.schedule.bell = bell
	s.wg.Go(s.dispatch)
	if s.capture != nil {
		s.wg.Go(func() {
			if err := s.capture.run(); err != nil {
				s.config.Log.LogAttrs(context.Background(), slog.LevelWarn, "capture ended", slog.Any("error", err))
			}
		})
	}
	for _, h := range s.table.Load().byName {
		if p := h.port.Load(); p != nil {
			s.wg.Go(func() { s.serve(p) })
		}
	}
	return nil
}

// Close detaches all ports, ends the switch's goroutines and waits for them, or
// for ctx. TAPs are closed; frames under way are lost.
func (s *Switch) Close(ctx context.Context) error {
	s.mu.Lock()
	if s.state == closed {
		s.mu.Unlock()
		return nil
	}
	started := s.state == running
	s.state = closed
	s.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		var errs []error
		for _, h := range s.table.Load().byName {
			if p := h.port.Load(); p != nil {
				errs = append(errs, p.unplug(started))
			}
		}
		s.closing.Store(true)
		if started {
			s.schedule.ring()
		}
		s.capture.end()
		s.wg.Wait()
		if started {
			_ = unix.Close(s.schedule.bell)
		}
		done <- errors.Join(errs...)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Attach plugs a host in, before or after Run. A name that was attached before
// must have been detached, and has the same addresses; its links keep their
// rules and counters. The switch closes the TAP.
func (s *Switch) Attach(p Port) error {
	switch {
	case p.Name == "":
		return errors.New("switch: attach: a port needs a name")
	case !p.Addr.Is4():
		return fmt.Errorf("switch: attach %s: address %v: want IPv4", p.Name, p.Addr)
	case len(p.MAC) != 6 || p.MAC[0]&1 != 0:
		return fmt.Errorf("switch: attach %s: MAC %v: want six bytes, not a group's", p.Name, p.MAC)
	case p.TAP == nil:
		return fmt.Errorf("switch: attach %s: no TAP", p.Name)
	case s.invalid != nil:
		return fmt.Errorf("switch: %w", s.invalid)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == closed {
		return fmt.Errorf("switch: attach %s: %w", p.Name, ErrClosed)
	}
	t := s.table.Load()
	h := t.byName[p.Name]
	switch {
	case h == nil:
		a, m := addr(p.Addr.As4()), macOf(p.MAC)
		if t.byAddr[a] != nil || t.byMAC[m] != nil {
			return fmt.Errorf("switch: attach %s: another host has the address %v or %v", p.Name, p.Addr, p.MAC)
		}
		h = &host{name: p.Name, addr: a, mac: m, index: len(t.links)}
		h.face = s.capture.face(h)
		s.table.Store(t.with(h))
	case s.busy[p.Name] || h.port.Load() != nil:
		return fmt.Errorf("switch: attach %s: attached already", p.Name)
	case h.addr != addr(p.Addr.As4()) || h.mac != macOf(p.MAC):
		return fmt.Errorf("switch: attach %s: had other addresses before", p.Name)
	}
	port, err := plug(h, p.TAP)
	if err != nil {
		return fmt.Errorf("switch: attach %s: %w", p.Name, err)
	}
	h.port.Store(port)
	if s.state == running {
		s.wg.Go(func() { s.serve(port) })
	}
	return nil
}

// with is the table with one more host.
func (t *table) with(h *host) *table {
	n := &table{byName: maps.Clone(t.byName), byMAC: maps.Clone(t.byMAC), byAddr: maps.Clone(t.byAddr)}
	n.byName[h.name], n.byMAC[h.mac], n.byAddr[h.addr] = h, h, h
	hosts := make([]*host, len(t.links)+1)
	for _, o := range n.byName {
		hosts[o.index] = o
	}
	for i, from := range hosts {
		row := make([]*link, len(hosts))
		for j, to := range hosts {
			switch {
			case i < len(t.links) && j < len(t.links):
				row[j] = t.links[i][j]
			case i != j:
				row[j] = &link{from: from, to: to}
			}
		}
		n.links = append(n.links, row)
	}
	return n
}

// Detach unplugs a host, waits until its TAP is in use no more, and closes it.
// Rules on its links stay; what the switch knew of its connections does not.
func (s *Switch) Detach(name string) error {
	s.mu.Lock()
	h := s.table.Load().byName[name]
	var p *port
	if h != nil && !s.busy[name] && s.state != closed {
		p = h.port.Load()
	}
	if p == nil {
		s.mu.Unlock()
		return fmt.Errorf("switch: detach %s: %w", name, ErrUnknown)
	}
	s.busy[name] = true
	started := s.state == running
	s.mu.Unlock()
	err := p.unplug(started)
	h.flows.forget()
	s.mu.Lock()
	delete(s.busy, name)
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("switch: detach %s: %w", name, err)
	}
	return nil
}

func (s *Switch) unknown(l Link) error {
	return fmt.Errorf("switch: link %s→%s: %w", l.From, l.To, ErrUnknown)
}
