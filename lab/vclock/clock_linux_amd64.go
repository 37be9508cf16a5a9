package vclock

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

var errClosed = errors.New("vclock: the clock is closed")

const (
	// maxExecs is how many execs of one host are followed at a time; more wait.
	maxExecs = 64
	// maxScans bounds how often Set looks for processes that it did not see.
	maxScans = 50
	// maxTries is how often Attach stops a process that is found in the middle
	// of what it has to change, and how often one is looked at that executes
	// other programs meanwhile.
	maxTries = 20
	// sweepEvery is how often processes are looked for whose execs are not
	// announced.
	sweepEvery = 20 * time.Millisecond
)

// settle is when, after a Set, processes are looked for once more: a fork that
// began before it can become visible after it.
var settle = []time.Duration{5 * time.Millisecond, 50 * time.Millisecond, 500 * time.Millisecond}

// Unpatched is a process of the host that reads the machine's clock.
type Unpatched struct {
	PID  int
	Name string // as the kernel has it: 15 bytes
	Err  error  // why
}

// Clock is the wall clock of one host: of all processes that were started under
// the filter that Install installs, and of their children. Its methods may be
// called concurrently.
type Clock struct {
	id   uint64
	plan func(image []byte) (plan, error) // planFor

	ctx    context.Context // ends when the clock is closed
	cancel context.CancelFunc
	done   sync.WaitGroup // everything that was started
	execs  chan struct{}  // one for each that is followed
	moved  chan struct{}  // Set was called

	mu        sync.Mutex
	closed    bool
	wake      int // an eventfd that ends polls; -1 before the first is needed
	settings  settings
	shim      int             // where it is in the vDSO of every process; 0 before the first
	spaces    map[string]bool // pid namespaces of its processes
	sweeps    bool            // execs are not announced
	processes int             // at the last scan
	failed    map[int]failure

	pages sync.Mutex // one at a time writes to processes: what is written is memory
}

// failure is of a process, which may be another one with the same ID later.
type failure struct {
	name string
	err  error
}

// New makes a clock that reads as the machine's does. It does no I/O.
func New() *Clock {
	var id [8]byte
	_, _ = rand.Read(id[:]) // does not fail
	c := &Clock{
		id:     binary.LittleEndian.Uint64(id[:]),
		plan:   planFor,
		execs:  make(chan struct{}, maxExecs),
		moved:  make(chan struct{}, 1),
		wake:   -1,
		spaces: map[string]bool{},
		failed: map[int]failure{},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Set moves the clock of all processes of the host, live, from now on: what was
// set before is replaced, not added to. The zero offset heals. When it returns,
// every process that Processes counts reads the new time; a child that is being
// forked at that moment does within milliseconds. An error says which processes
// could not be changed; the others are.
func (c *Clock) Set(o Offset) error {
	if err := o.check(); err != nil {
		return err
	}
	since, err := monotonic()
	if err != nil {
		return err
	}
	c.mu.Lock()
	closed := c.closed
	if !closed {
		c.settings = settingsOf(o, since)
	}
	c.mu.Unlock()
	if closed {
		return errClosed
	}
	select {
	case c.moved <- struct{}{}:
	default:
	}
	for range maxScans {
		changed, err := c.scan()
		if err != nil || changed == 0 {
			return err
		}
	}
	return fmt.Errorf("vclock: set: processes appear faster than they are found, after %d scans", maxScans)
}

// Processes is how many processes read this clock, when it was set last.
func (c *Clock) Processes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.processes
}

// scan brings all processes up to date, and returns how many were not.
func (c *Clock) scan() (changed int, err error) {
	c.mu.Lock()
	at, none := c.shim, len(c.spaces) == 0
	c.mu.Unlock()
	if none || at == 0 {
		return 0, nil
	}
	pids, err := c.pids()
	if err != nil {
		return 0, err
	}
	var errs []error
	n := 0
	for _, pid := range pids {
		fresh, err := c.update(pid, at)
		switch {
		case err == nil:
			n++
			if fresh {
				changed++
			}
		case notOurs(err):
		default:
			errs = append(errs, fmt.Errorf("vclock: process %d: %w", pid, err))
		}
	}
	c.mu.Lock()
	c.processes = n
	c.mu.Unlock()
	return changed, errors.Join(errs...)
}

// notOurs says that nothing had to be done about a process.
func notOurs(err error) bool {
	return errors.Is(err, errGone) || errors.Is(err, errOther) || errors.Is(err, errNoVDSO)
}

// pids lists the processes in the pid namespaces of the clock's processes.
func (c *Clock) pids() ([]int, error) {
	all, err := numbers("/proc")
	if err != nil {
		return nil, fmt.Errorf("vclock: %w", err)
	}
	c.mu.Lock()
	spaces := maps.Clone(c.spaces)
	c.mu.Unlock()
	var pids []int
	for _, pid := range all {
		if s, err := space(pid); err == nil && spaces[s] {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// update gives one process the settings.
func (c *Clock) update(pid, at int) (changed bool, err error) {
	for range maxTries {
		changed, err = c.updateOnce(pid, at)
		if !errors.Is(err, errMoved) {
			break
		}
	}
	return changed, err
}

func (c *Clock) updateOnce(pid, at int) (changed bool, err error) {
	v, err := reopenVDSO(pid)
	if err != nil {
		return false, err
	}
	defer v.Close()
	c.pages.Lock()
	defer c.pages.Unlock()
	return v.update(at, c.id, c.now())
}

func (c *Clock) now() settings {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settings
}

// patch puts the shim into a process none of whose threads runs. next are
// the addresses where they go on; busy says that one of them is where a jump has
// to be.
func (c *Clock) patch(pid int, next []uint64) (busy bool, err error) {
	v, err := openVDSO(pid)
	if err != nil {
		return false, err
	}
	defer v.Close()
	image, err := v.image()
	if err != nil {
		return false, err
	}
	p, err := c.plan(image)
	if err != nil {
		return false, err
	}
	if p.marked {
		if id := binary.LittleEndian.Uint64(image[p.shim+dataID:]); id != c.id {
			return false, errors.New("it is under another clock")
		}
	}
	for _, h := range p.hooks {
		for _, ip := range next {
			if at := int64(ip) - v.base - int64(h.at); at > 0 && at < jumpLen { //nolint:gosec // a user address
				return true, nil
			}
		}
	}
	in, err := space(pid)
	if err != nil {
		return false, err
	}
	c.mu.Lock()
	c.spaces[in] = true // before the settings are read: a Set behind that finds it
	c.shim = p.shim
	delete(c.failed, pid)
	c.mu.Unlock()
	c.pages.Lock()
	defer c.pages.Unlock()
	if p.marked {
		_, err = v.update(p.shim, c.id, c.now())
		return false, err
	}
	return false, v.patch(p, c.id, c.now())
}

// Serve takes over the listener that Install returned in some process, and
// handles the execs that it announces until the clock is closed or the last
// process under the filter is gone. It returns at once. The process, and its
// children, must not be children of this one: see the package documentation.
func (c *Clock) Serve(listener *os.File) {
	if err := c.start(); err != nil {
		// Nobody else would answer: with the listener closed, execs fail.
		_ = listener.Close()
		return
	}
	go func() {
		defer c.done.Done()
		c.serve(listener)
	}()
}

// start counts one more goroutine, and starts what all need with the first.
func (c *Clock) start() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errClosed
	}
	if c.wake < 0 {
		wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
		if err != nil {
			return fmt.Errorf("vclock: eventfd: %w", err)
		}
		c.wake = wake
		c.done.Go(c.sweeper)
	}
	c.done.Add(1)
	return nil
}

func (c *Clock) serve(listener *os.File) {
	defer func() { _ = listener.Close() }()
	fd := int(listener.Fd()) //nolint:gosec // a descriptor
	c.mu.Lock()
	wake := c.wake
	c.mu.Unlock()
	var following sync.WaitGroup
	defer following.Wait()
	for {
		polls := []unix.PollFd{
			{Fd: int32(fd), Events: unix.POLLIN},   //nolint:gosec // a descriptor
			{Fd: int32(wake), Events: unix.POLLIN}, //nolint:gosec // a descriptor
		}
		if _, err := unix.Poll(polls, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return
		}
		announced := polls[0].Revents&unix.POLLIN != 0
		switch {
		case polls[1].Revents != 0: // closing: let go of who waits
			if !announced {
				return
			}
			if n, err := receive(fd); err == nil {
				_ = proceed(fd, n)
			}
			continue
		case !announced && polls[0].Revents != 0:
			return // the last process under the filter is gone
		case !announced:
			continue
		}
		select {
		case c.execs <- struct{}{}:
		case <-c.ctx.Done():
			continue
		}
		n, err := receive(fd)
		if err != nil { // ENOENT: it was killed, or a signal interrupted its exec
			<-c.execs
			continue
		}
		following.Go(func() {
			defer func() { <-c.execs }()
			c.follow(fd, n)
		})
	}
}

// follow patches the program that is executed.
func (c *Clock) follow(fd int, n notification) {
	tid := int(n.pid)
	p, err := readProcess(tid)
	switch {
	case err == nil && p.parent == os.Getpid():
		err = errors.New("it is a child of the process that serves the clock, whose wait the tracing would disturb")
	case tid == 0:
		err = errors.New("it is not in the pid namespace of the clock's process, or below it")
	}
	if err != nil {
		_ = proceed(fd, n)
		c.fail(p.leader, p.name, err)
		return
	}
	goOn := func() { _ = proceed(fd, n) } // fails if it was killed, or a signal interrupted its exec
	patch := func() error {
		_, err := c.patch(p.leader, nil)
		return err
	}
	onThread(func() (clean bool) {
		clean, err = followExec(c.ctx, tid, p.leader, goOn, patch)
		return clean
	})
	if err != nil {
		c.fail(p.leader, "", err)
	}
}

// fail notes that a process is not under the clock.
func (c *Clock) fail(pid int, name string, err error) {
	if pid == 0 || errors.Is(err, errGone) || c.ctx.Err() != nil {
		return
	}
	if p, err := readProcess(pid); err == nil { // the program that it is now
		name = p.name
	}
	in, spaceErr := space(pid)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failed[pid] = failure{name, err}
	if spaceErr == nil {
		c.spaces[in] = true
	}
}

// Attach moves the clock of a process that runs already, and of the children
// that it forks from now on. It stops all its threads for less than a
// millisecond. A process that is not under the filter of Install, in a pid
// namespace of its own, brings its whole namespace under the clock: it is
// searched for programs that were executed since, some milliseconds late, which
// is what remains where the kernel has no seccomp user notification.
func (c *Clock) Attach(pid int) error {
	if err := c.start(); err != nil {
		return err
	}
	defer c.done.Done()
	p, err := readProcess(pid)
	if err == nil {
		err = c.attach(pid, p)
	}
	if err != nil {
		return fmt.Errorf("vclock: attach to process %d: %w", pid, err)
	}
	self, err := readProcess(os.Getpid())
	if err != nil {
		return fmt.Errorf("vclock: %w", err)
	}
	here, err := space(os.Getpid())
	if err != nil {
		return fmt.Errorf("vclock: %w", err)
	}
	in, err := space(pid)
	if err == nil && in != here && p.filters <= self.filters {
		c.mu.Lock()
		c.sweeps = true
		c.mu.Unlock()
	}
	return nil
}

func (c *Clock) attach(pid int, p process) error {
	if p.zombie {
		return errGone
	}
	if p.parent == os.Getpid() || pid == os.Getpid() {
		return errors.New("it is this process or its child, whose wait the tracing would disturb")
	}
	for range maxTries {
		var busy bool
		var err error
		onThread(func() (clean bool) {
			clean, err = whileStopped(c.ctx, pid, func(next []uint64) (err error) {
				busy, err = c.patch(pid, next)
				return err
			})
			return clean
		})
		if err != nil || !busy {
			return err
		}
	}
	return fmt.Errorf("it was in the middle of reading the clock %d times", maxTries)
}

// sweeper looks for processes that were not seen: some time after each Set and,
// where execs are not announced, always.
func (c *Clock) sweeper() {
	timer := time.NewTimer(sweepEvery)
	defer timer.Stop()
	var since time.Time
	left := []time.Duration{}
	for {
		select {
		case <-c.ctx.Done():
			return
		case <-c.moved:
			since, left = time.Now(), settle
		case <-timer.C:
			c.sweep()
			if len(left) > 0 && time.Since(since) >= left[0] {
				left = left[1:]
				_, _ = c.scan() // Set reported what cannot be changed
			}
		}
		wait := sweepEvery
		if len(left) > 0 {
			wait = max(0, min(wait, left[0]-time.Since(since)))
		}
		timer.Reset(wait)
	}
}

// sweep attaches to what is not patched, where execs are not announced.
func (c *Clock) sweep() {
	c.mu.Lock()
	wanted := c.sweeps
	c.mu.Unlock()
	if !wanted {
		return
	}
	pids, err := c.pids()
	if err != nil {
		return
	}
	for _, pid := range pids {
		if c.patched(pid) {
			continue
		}
		p, err := readProcess(pid)
		if err != nil || p.zombie {
			continue
		}
		c.mu.Lock()
		_, failed := c.failed[pid]
		c.mu.Unlock()
		if failed {
			continue
		}
		if err := c.attach(pid, p); err != nil {
			c.fail(pid, p.name, err)
		}
	}
}

// patched says whether a process is under this clock.
func (c *Clock) patched(pid int) bool {
	c.mu.Lock()
	at := c.shim
	c.mu.Unlock()
	v, err := reopenVDSO(pid)
	if err != nil {
		return false
	}
	defer v.Close()
	var data [dataSize]byte
	if v.read(data[:], at) != nil {
		return false
	}
	le := binary.LittleEndian
	return le.Uint64(data[dataMark:]) == shimMark && le.Uint64(data[dataID:]) == c.id
}

// Unpatched lists the processes of the host that read the machine's clock
// although they are, or their parents were, under the filter of Install, or were
// to be attached to. A process that has not executed a program since it installed
// the filter is one of them for that moment.
func (c *Clock) Unpatched() ([]Unpatched, error) {
	pids, err := c.pids()
	if err != nil {
		return nil, err
	}
	self, err := readProcess(os.Getpid())
	if err != nil {
		return nil, fmt.Errorf("vclock: %w", err)
	}
	var list []Unpatched
	alive := map[int]bool{}
	for _, pid := range pids {
		p, err := readProcess(pid)
		if err != nil || p.zombie {
			continue
		}
		alive[pid] = true
		c.mu.Lock()
		f, failed := c.failed[pid]
		c.mu.Unlock()
		switch {
		case c.patched(pid):
		case failed && f.name == p.name:
			list = append(list, Unpatched{PID: pid, Name: p.name, Err: f.err})
		case p.filters > self.filters:
			list = append(list, Unpatched{PID: pid, Name: p.name, Err: errors.New("it was not seen executing a program")})
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for pid := range c.failed {
		if !alive[pid] {
			delete(c.failed, pid)
		}
	}
	return list, nil
}

// Close ends the goroutines of the clock and waits for them. Processes keep the
// offset that they have. Execs that were announced happen; later ones, of
// processes under the filter, fail with ENOSYS: close a clock when its host ends.
func (c *Clock) Close() {
	c.mu.Lock()
	first := !c.closed
	c.closed = true
	wake := c.wake
	c.mu.Unlock()
	c.cancel()
	if first && wake >= 0 {
		_, _ = unix.Write(wake, binary.NativeEndian.AppendUint64(nil, 1)) // an eventfd takes it
	}
	c.done.Wait()
	if first && wake >= 0 {
		_ = unix.Close(wake)
	}
}

func monotonic() (int64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("vclock: %w", err)
	}
	return ts.Nano(), nil
}
