//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/faultfs"
	"holdfast.dev/lab/host"
	"holdfast.dev/lab/nemesis"
	"holdfast.dev/lab/report"
	"holdfast.dev/lab/vclock"
)

// machine is one host of the run: what runs on it, its disk and its clock. It
// implements nemesis.Host.
type machine struct {
	w    *world
	name string
	addr netip.Addr
	role string // node or client

	// life is held while the machine is being started, stopped or switched off,
	// so that a fault and the end of the run do not meet. It is not a lock of
	// memory but of the machine: whoever waits for it watches a ctx.
	life chan struct{}

	mu       sync.Mutex // guards what follows; never held while the machine is asked for something
	host     *host.Host // nil while it is off
	fs       *faultfs.FS
	clock    *vclock.Clock
	offset   vclock.Offset // as it was set
	offsetAt time.Duration // then
	probe    *vclock.Probe
	services []*service
	paused   map[string]bool // names of services; "" is all
	starts   int
	crashes  []report.Crash
	throttle time.Duration // of hosts that are off by now
	share    float64       // of a core; 0 is no limit
}

// service is a server of the system on one machine.
type service struct {
	spec driver.Process
	proc *host.Proc // nil before the first start and while it is down
	down bool       // somebody ended it: its death is no finding
}

func newMachine(w *world, name, role string, addr netip.Addr) *machine {
	m := &machine{w: w, name: name, role: role, addr: addr, life: make(chan struct{}, 1), paused: map[string]bool{}}
	return m
}

func (m *machine) lock(ctx context.Context) error {
	select {
	case m.life <- struct{}{}: // also where there is no time left to wait
		return nil
	default:
	}
	select {
	case m.life <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: busy: %w", m.name, ctx.Err())
	}
}

func (m *machine) unlock() { <-m.life }

func (m *machine) dir(parts ...string) string {
	return filepath.Join(append([]string{m.w.dir, "hosts", m.name}, parts...)...)
}

// boot makes the machine: its disk, its namespaces, its port at the switch.
func (m *machine) boot(ctx context.Context) error {
	if err := m.lock(ctx); err != nil {
		return err
	}
	defer m.unlock()
	for _, d := range []string{"data", "log", "tmp"} {
		if err := os.MkdirAll(m.dir(d), 0o777); err != nil {
			return err
		}
		// Servers that refuse root write there too; the umask is not asked.
		if err := os.Chmod(m.dir(d), 0o777); err != nil {
			return err
		}
	}
	if m.role == "node" && !m.w.plan.Scenario.Disk.Off {
		size, err := m.w.plan.Scenario.diskSize()
		if err != nil {
			return err
		}
		fs, err := faultfs.Start(ctx, faultfs.Config{
			Mount: m.dir("data"), Quota: size, FsyncLatency: max(0, m.w.plan.Scenario.Disk.Fsync),
			Log: m.w.debug, Seed: number(m.w.plan.Seed, "disk/"+m.name, 0),
		})
		if err != nil {
			return fmt.Errorf("%s: disk: %w", m.name, err)
		}
		m.mu.Lock()
		m.fs = fs
		m.mu.Unlock()
		m.guard(fs.Done(), "the process that serves its disk died", func() bool { return m.fs == fs })
	}
	return m.powerOn(ctx)
}

// guard tells when a part of the lab ends that is still in use.
func (m *machine) guard(done <-chan struct{}, text string, inUse func() bool) {
	m.w.tasks.Go(func() {
		select {
		case <-done:
		case <-m.w.ctx.Done():
			return
		}
		m.mu.Lock()
		mine := inUse()
		m.mu.Unlock()
		if mine && m.w.ctx.Err() == nil {
			m.w.failure(m.name, text)
		}
	})
}

// powerOn starts the host; its disk is there. The caller holds life.
func (m *machine) powerOn(ctx context.Context) error {
	var clock *vclock.Clock
	cfg := host.Config{
		Name: m.name, Domain: "lab", Addr: netip.PrefixFrom(m.addr, subnet.Bits()), MAC: host.MAC(m.addr),
		Gateway: labAddr, Neighbors: m.w.neighbors(m.name), Hosts: m.w.addrs(), DNS: labAddr,
		Data: m.dir("data"), Log: m.dir("log"), Scratch: m.dir("tmp"), Stderr: m.w.debug,
	}
	if m.w.plan.clocks() {
		clock = vclock.New()
		cfg.Clock = true
		cfg.ClockListener = clock.Serve
	}
	h, err := host.Start(ctx, cfg)
	if err != nil {
		return fmt.Errorf("%s: %w", m.name, err)
	}
	if err := m.w.net.attach(m.name, m.addr, h.TAP()); err != nil {
		return errors.Join(fmt.Errorf("%s: %w", m.name, err), h.PowerOff(ctx))
	}
	m.mu.Lock()
	m.host, m.clock = h, clock
	m.starts++
	share, offset := m.share, m.offsetNow(m.w.now())
	m.mu.Unlock()
	m.guard(h.Done(), "its first process died", func() bool { return m.host == h })
	if share > 0 {
		err = h.Throttle(ctx, share)
	}
	if clock != nil && err == nil {
		if err = m.newProbe(ctx, h); err == nil {
			err = clock.Set(offset)
		}
	}
	if err != nil { // a host that is half there would not be started again
		return errors.Join(err, m.powerOff(context.WithoutCancel(ctx)))
	}
	return nil
}

// offsetNow is how far the battery's clock is off: a drift went on while the host
// was switched off. The caller holds mu.
func (m *machine) offsetNow(now time.Duration) vclock.Offset {
	o := m.offset
	o.Jump += time.Duration(o.Drift * float64(now-m.offsetAt))
	return o
}

// newProbe starts the process that measures the host's clock.
func (m *machine) newProbe(ctx context.Context, h *host.Host) error {
	p, err := startProbe(ctx, h)
	if err != nil {
		return fmt.Errorf("%s: clock probe: %w", m.name, err)
	}
	m.mu.Lock()
	m.probe = p
	m.mu.Unlock()
	return nil
}

// powerOff ends everything on the host. The disk stays. The caller holds life.
func (m *machine) powerOff(ctx context.Context) error {
	m.mu.Lock()
	h, clock, p := m.host, m.clock, m.probe
	m.host, m.clock, m.probe = nil, nil, nil
	for _, s := range m.services {
		s.down = true
	}
	m.mu.Unlock()
	if h == nil {
		return nil
	}
	if p != nil {
		_ = p.Close() // its process dies with the host
	}
	throttled := h.Throttled()
	err := h.PowerOff(ctx) // first: no frame leaves a host without power
	m.w.net.detach(m.name)
	if clock != nil {
		clock.Close()
	}
	m.mu.Lock()
	m.throttle += throttled
	clear(m.paused)
	for _, s := range m.services {
		s.proc = nil
	}
	m.mu.Unlock()
	return err
}

// close ends the machine for good.
func (m *machine) close(ctx context.Context) error {
	if err := m.lock(ctx); err != nil {
		return err
	}
	defer m.unlock()
	err := m.powerOff(ctx)
	m.mu.Lock()
	fs := m.fs
	m.fs = nil
	m.mu.Unlock()
	if fs != nil {
		err = errors.Join(err, fs.Close(ctx))
	}
	return err
}

// running is the host, or an error that says that it is off.
func (m *machine) running() (*host.Host, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.host == nil {
		return nil, fmt.Errorf("%s: is switched off", m.name)
	}
	return m.host, nil
}

// add starts a new service and keeps its description.
func (m *machine) add(ctx context.Context, p driver.Process) error {
	if err := m.lock(ctx); err != nil {
		return err
	}
	defer m.unlock()
	s := &service{spec: p}
	m.mu.Lock()
	for _, other := range m.services {
		if other.spec.Name == p.Name {
			m.mu.Unlock()
			return fmt.Errorf("%s: a second process is called %s: names are unique on a host", m.name, p.Name)
		}
	}
	m.services = append(m.services, s)
	m.mu.Unlock()
	return m.startService(ctx, s)
}

// startService starts a service that does not run and waits until it is ready.
// The caller holds life.
func (m *machine) startService(ctx context.Context, s *service) error {
	h, err := m.running()
	if err != nil {
		return err
	}
	log := m.dir("log", s.spec.Name+".log")
	from := fileSize(log)
	proc, err := h.Run(ctx, m.process(s.spec, log))
	if err != nil {
		return fmt.Errorf("%s: %s: %w", m.name, s.spec.Name, err)
	}
	m.mu.Lock()
	s.proc, s.down = proc, false
	m.mu.Unlock()
	m.w.tasks.Go(func() { m.watch(s, proc) })
	if err := m.ready(ctx, s.spec.Ready, proc, log, from); err != nil {
		return fmt.Errorf("%s: %s: %w%s", m.name, s.spec.Name, err, lastLines(log, from))
	}
	return nil
}

func (m *machine) process(p driver.Process, log string) host.Process {
	dir := p.Dir
	if dir == "" {
		dir = m.dir("data")
	}
	return host.Process{Name: p.Name, Argv: p.Argv, Env: p.Env, Dir: dir, User: p.User, LogFile: log}
}

// watch waits for the end of a process and tells when nobody wanted it.
func (m *machine) watch(s *service, proc *host.Proc) {
	select {
	case <-proc.Done():
	case <-m.w.ctx.Done():
		return
	}
	m.mu.Lock()
	mine := s.proc == proc
	unwanted := mine && !s.down
	if mine {
		s.proc = nil
	}
	m.mu.Unlock()
	if unwanted && m.w.ctx.Err() == nil {
		m.w.finding(m.name, fmt.Sprintf("%s ended by itself: %s%s", s.spec.Name, proc.Status(), lastLines(m.dir("log", s.spec.Name+".log"), 0)))
	}
}

// ready waits until the service can be used.
func (m *machine) ready(ctx context.Context, r driver.Ready, proc *host.Proc, log string, from int64) error {
	timeout := r.Timeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("was not ready after %s", timeout))
	defer cancel()
	try, err := m.readiness(r, log, from)
	if err != nil || try == nil {
		return err
	}
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	var last error
	for {
		attempt, done := context.WithTimeout(ctx, 2*time.Second)
		last = try(attempt)
		done()
		if last == nil {
			return nil
		}
		select {
		case <-proc.Done():
			return fmt.Errorf("ended before it was ready: %s", proc.Status())
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", context.Cause(ctx), last)
		case <-ticker.C:
		}
	}
}

// readiness is one attempt to see whether the service is ready; nil where it
// always is.
func (m *machine) readiness(r driver.Ready, log string, from int64) (func(ctx context.Context) error, error) {
	switch {
	case r.HTTP != "":
		url := r.HTTP
		if strings.HasPrefix(url, "/") {
			port := r.TCP
			if port == 0 {
				port = 80
			}
			url = "http://" + net.JoinHostPort(m.addr.String(), strconv.Itoa(port)) + url
		}
		return func(ctx context.Context) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			req.Close = true
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return err
			}
			_ = resp.Body.Close() // the status is all
			if resp.StatusCode/100 != 2 {
				return fmt.Errorf("%s answers %s", url, resp.Status)
			}
			return nil
		}, nil
	case r.TCP != 0:
		addr := net.JoinHostPort(m.addr.String(), strconv.Itoa(r.TCP))
		return func(ctx context.Context) error {
			c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
			if err != nil {
				return err
			}
			return c.Close()
		}, nil
	case r.Log != "":
		pattern, err := regexp.Compile(r.Log)
		if err != nil {
			return nil, fmt.Errorf("ready.log: %w", err)
		}
		return func(context.Context) error {
			text, err := os.ReadFile(log)
			if err != nil {
				return err
			}
			if int64(len(text)) < from || !pattern.Match(text[from:]) {
				return fmt.Errorf("its log has no line that matches %q", r.Log)
			}
			return nil
		}, nil
	default:
		return r.Func, nil
	}
}

// exec runs a command on the host to its end.
func (m *machine) exec(ctx context.Context, p driver.Process) ([]byte, error) {
	h, err := m.running()
	if err != nil {
		return nil, err
	}
	out := new(syncBuffer)
	hp := m.process(p, "")
	hp.Stdout, hp.Stderr = out, out
	proc, err := h.Run(ctx, hp)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", m.name, err)
	}
	select {
	case <-proc.Done():
	case <-ctx.Done():
		err := proc.Signal(syscall.SIGKILL)
		return out.Bytes(), errors.Join(fmt.Errorf("%s: %s: %w", m.name, strings.Join(p.Argv, " "), context.Cause(ctx)), err)
	}
	if st := proc.Status(); st.Code != 0 || st.Signal != 0 {
		return out.Bytes(), fmt.Errorf("%s: %s: %s: %s", m.name, strings.Join(p.Argv, " "), st, tail(out.Bytes(), 400))
	}
	return out.Bytes(), nil
}

// What follows is nemesis.Host.

func (m *machine) Kill(ctx context.Context, name string) (int, error) {
	if err := m.lock(ctx); err != nil {
		return 0, err
	}
	defer m.unlock()
	h, err := m.running()
	if err != nil {
		return 0, err
	}
	var victims []string
	m.mu.Lock()
	for _, s := range m.services {
		if (name == "" || s.spec.Name == name) && s.proc != nil {
			s.down = true
			victims = append(victims, s.spec.Name)
		}
	}
	known := name == "" || m.service(name) != nil
	m.mu.Unlock()
	if !known {
		return 0, fmt.Errorf("%s: there is no process %s", m.name, name)
	}
	if name == "" && m.role == "client" {
		victims = []string{""} // whoever makes calls there
	}
	killed := 0
	for _, v := range victims {
		n, err := h.Kill(ctx, v)
		if err != nil {
			return killed, fmt.Errorf("%s: %w", m.name, err)
		}
		killed += n
	}
	m.mu.Lock()
	p := m.probe
	m.mu.Unlock()
	if p != nil && slices.Contains(victims, "") { // it died with the others, and is the lab's own
		killed--
		_ = p.Close()
		if err := m.newProbe(ctx, h); err != nil {
			return killed, err
		}
	}
	// They are gone; whoever starts them again must not find them still listed.
	m.mu.Lock()
	for _, s := range m.services {
		if s.down {
			s.proc = nil
		}
	}
	m.mu.Unlock()
	return killed, nil
}

// service finds one by name; the caller holds mu.
func (m *machine) service(name string) *service {
	for _, s := range m.services {
		if s.spec.Name == name {
			return s
		}
	}
	return nil
}

func (m *machine) Start(ctx context.Context) error {
	if err := m.lock(ctx); err != nil {
		return err
	}
	defer m.unlock()
	m.mu.Lock()
	off := m.host == nil
	m.mu.Unlock()
	if off {
		if err := m.powerOn(ctx); err != nil {
			return err
		}
	}
	m.mu.Lock()
	var todo []*service
	for _, s := range m.services {
		if s.proc == nil {
			todo = append(todo, s)
		}
	}
	m.mu.Unlock()
	for _, s := range todo {
		if err := m.startService(ctx, s); err != nil {
			return err
		}
	}
	return nil
}

func (m *machine) Pause(ctx context.Context, name string) (int, error) {
	h, err := m.running()
	if err != nil {
		return 0, err
	}
	n, err := h.Pause(ctx, name)
	m.mu.Lock()
	m.paused[name] = true
	if name == "" && m.probe != nil && n > 0 {
		n-- // the probe is the lab's own
	}
	m.mu.Unlock()
	return n, err
}

func (m *machine) Resume(ctx context.Context, name string) error {
	m.mu.Lock()
	delete(m.paused, name)
	if name == "" {
		clear(m.paused)
	}
	h := m.host
	m.mu.Unlock()
	if h == nil {
		return nil // what was switched off is not paused
	}
	_, err := h.Resume(ctx, name)
	return err
}

// Throttle holds over power failures.
func (m *machine) Throttle(ctx context.Context, share float64) error {
	m.mu.Lock()
	m.share = share
	h := m.host
	m.mu.Unlock()
	if h == nil {
		return nil // the next boot sets it
	}
	return h.Throttle(ctx, share)
}

func (m *machine) Throttled() time.Duration {
	m.mu.Lock()
	h, before := m.host, m.throttle
	m.mu.Unlock()
	if h == nil {
		return before
	}
	return before + h.Throttled()
}

func (m *machine) PowerOff(ctx context.Context, crash faultfs.Crash) (faultfs.Losses, error) {
	if err := m.lock(ctx); err != nil {
		return faultfs.Losses{}, err
	}
	defer m.unlock()
	if m.role != "node" || m.fs == nil {
		return faultfs.Losses{}, fmt.Errorf("%s: has no fault filesystem", m.name)
	}
	// Everything dies at once, then the disk forgets, then the page cache of the
	// mount goes: in this order, or something unsynced survives.
	if err := m.powerOff(ctx); err != nil {
		return faultfs.Losses{}, err
	}
	disk := m.w.plan.Scenario.Disk
	if crash.Profile == "" {
		crash.Profile = disk.Profile
	}
	if crash.Policy == "" {
		crash.Policy = disk.Policy
	}
	losses, err := m.fs.Crash(ctx, crash)
	if err != nil {
		return losses, fmt.Errorf("%s: %w", m.name, err)
	}
	m.mu.Lock()
	m.crashes = append(m.crashes, report.Crash{At: m.w.now(), Bytes: losses.Bytes, Files: losses.Files, Entries: losses.Entries, Paths: losses.Paths})
	m.mu.Unlock()
	return losses, nil
}

func (m *machine) Running() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.host == nil || m.paused[""] {
		return 0
	}
	n := 0
	for _, s := range m.services {
		if s.proc != nil && !m.paused[s.spec.Name] {
			n++
		}
	}
	return n
}

func (m *machine) Clock() nemesis.Clock { return machineClock{m} }

func (m *machine) Disk() nemesis.Disk { return machineDisk{m} }

// machineClock is a machine's clock, over its reboots: the battery keeps it.
type machineClock struct{ m *machine }

func (c machineClock) Set(o vclock.Offset) error {
	c.m.mu.Lock()
	c.m.offset, c.m.offsetAt = o, c.m.w.now()
	clock := c.m.clock
	c.m.mu.Unlock()
	if clock == nil {
		return nil // the next boot sets it
	}
	return clock.Set(o)
}

func (c machineClock) Offset() (time.Duration, error) {
	c.m.mu.Lock()
	p := c.m.probe
	c.m.mu.Unlock()
	if p == nil {
		return 0, fmt.Errorf("%s: is switched off", c.m.name)
	}
	return offsetNow(c.m.w.ctx, p)
}

// machineDisk is a machine's fault filesystem.
type machineDisk struct{ m *machine }

func (d machineDisk) disk() (*faultfs.FS, error) {
	d.m.mu.Lock()
	defer d.m.mu.Unlock()
	if d.m.fs == nil {
		return nil, fmt.Errorf("%s: has no fault filesystem", d.m.name)
	}
	return d.m.fs, nil
}

func (d machineDisk) Inject(ctx context.Context, r faultfs.Rule) error {
	fs, err := d.disk()
	if err != nil {
		return err
	}
	return fs.Inject(ctx, r)
}

func (d machineDisk) Remove(ctx context.Context, id string) error {
	fs, err := d.disk()
	if err != nil {
		return err
	}
	return fs.Remove(ctx, id)
}

func (d machineDisk) Touched(ctx context.Context, id string) (int64, error) {
	fs, err := d.disk()
	if err != nil {
		return 0, err
	}
	return fs.Touched(ctx, id)
}

func (d machineDisk) Flip(ctx context.Context, glob string, n int, seed uint64) ([]string, error) {
	fs, err := d.disk()
	if err != nil {
		return nil, err
	}
	return fs.Flip(ctx, glob, n, seed)
}
