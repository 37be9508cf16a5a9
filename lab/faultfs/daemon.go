//go:build linux

package faultfs

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"os"
	"regexp"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/stage"
)

// The control protocol: one JSON object a line over the socket that the daemon
// inherits as file descriptor 3. Every request is answered once, in any order.
// The first line that the daemon writes answers the request 0, which nobody
// sent: that it is mounted, or why not. When the socket closes the daemon takes
// its mount down and ends.

// request asks the daemon for something.
type request struct {
	ID   uint64 `json:"id"`
	Call call   `json:"call"`

	Rule  *Rule  `json:"rule,omitempty"`  // inject
	Name  string `json:"name,omitempty"`  // remove, touched: ID of the rule; flip: glob
	N     int    `json:"n,omitempty"`     // flip
	Seed  uint64 `json:"seed,omitempty"`  // flip
	Crash *Crash `json:"crash,omitempty"` // crash
	Dump  *Dump  `json:"dump,omitempty"`  // dump
}

// call is what a request asks for.
type call string

const (
	callInject   call = "inject"
	callRemove   call = "remove"
	callTouched  call = "touched"
	callFlip     call = "flip"
	callCrash    call = "crash"
	callSync     call = "sync"
	callCounters call = "counters"
	callDump     call = "dump"
)

// reply answers the request with the same ID.
type reply struct {
	ID     uint64          `json:"id"`
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"`
}

// daemonConfig is the argument of the stage.
type daemonConfig struct {
	Mount        string        `json:"mount"`
	Quota        int64         `json:"quota"`
	FsyncLatency time.Duration `json:"fsync_latency"`
	Seed         uint64        `json:"seed"`
	Patience     time.Duration `json:"patience"`
	UID          uint32        `json:"uid"` // owner of the root directory
	GID          uint32        `json:"gid"`
	Mode         uint32        `json:"mode"`
}

// stageName is the daemon among the programs of this binary.
const stageName = "fsd"

func init() { stage.Register(stageName, runDaemon) }

// daemon serves one volume, mount after mount.
type daemon struct {
	daemonConfig
	log     *log.Logger
	serving sync.WaitGroup // servers of mounts; those of former ones may last until their last namespace ends

	mu      sync.Mutex // guards what follows; never held while something is waited for
	v       *volume
	last    int64 // the latest now
	crashes int64
	current *mounted

	failing                 atomic.Bool // a power failure is under way
	rules                   ruleSet
	ops                     counted
	bytesRead, bytesWritten atomic.Int64
	fsyncs                  atomic.Int64
}

// now is the time, which does not go backwards. It is called under mu.
func (d *daemon) now() int64 {
	d.last = max(d.last, time.Now().UnixNano())
	return d.last
}

// runDaemon is the stage: its argument is the configuration as JSON, its
// descriptor 3 the control socket.
func runDaemon(args []string) int {
	// Whatever stops the lab's processes at a terminal must not stop this one
	// before those that use the mount; it ends when the socket closes.
	unix.Umask(0)
	control := os.NewFile(3, "control")
	answer := json.NewEncoder(control)
	d := &daemon{log: log.New(stderr(), "faultfs: ", 0)}
	if control == nil || len(args) != 1 {
		return 64
	}
	if err := d.start(args[0]); err != nil {
		_ = answer.Encode(reply{Error: err.Error()})
		return 1
	}
	if err := answer.Encode(reply{}); err != nil {
		d.unmount()
		return 1
	}
	wait := d.serve(control, answer)
	d.unmount() // which ends what hangs
	wait()
	return 0
}

// stderr is where the daemon's log goes: its parent decides.
func stderr() io.Writer { return os.NewFile(2, "stderr") }

func (d *daemon) start(config string) error {
	if err := json.Unmarshal([]byte(config), &d.daemonConfig); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	d.v = newVolume(attr{
		mode: syscall.S_IFDIR | d.Mode&0o7777, uid: d.UID, gid: d.GID,
		atime: d.now(), mtime: d.now(), ctime: d.now(),
	}, d.Quota)
	d.rules.seed = d.Seed
	m, err := d.mount()
	if err != nil {
		return fmt.Errorf("mount %s: %w", d.Mount, err)
	}
	d.current = m
	return nil
}

// unmount takes the present mount down: requests on it fail from now on, so
// that nothing that the kernel still holds gets in.
func (d *daemon) unmount() {
	d.mu.Lock()
	select {
	case <-d.current.off: // a power failure after which mounting failed
	default:
		close(d.current.off)
	}
	d.mu.Unlock()
	if err := unix.Unmount(d.Mount, unix.MNT_DETACH); err != nil {
		d.log.Printf("unmount %s: %v", d.Mount, err)
	}
}

// serve answers requests until the socket closes, and returns how to wait for
// those that it is still at.
func (d *daemon) serve(control io.Reader, answer *json.Encoder) (wait func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var pending sync.WaitGroup
	var writing sync.Mutex
	lines := bufio.NewScanner(control)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var r request
		if err := json.Unmarshal(lines.Bytes(), &r); err != nil {
			d.log.Printf("control: %v", err)
			continue
		}
		pending.Go(func() {
			a := reply{ID: r.ID}
			result, err := d.answer(ctx, r)
			if err == nil {
				a.Result, err = json.Marshal(result)
			}
			if err != nil {
				a.Error = err.Error()
			}
			writing.Lock()
			defer writing.Unlock()
			if err := answer.Encode(a); err != nil {
				d.log.Printf("control: %v", err)
			}
		})
	}
	cancel()
	return pending.Wait
}

// answer does what a request asks for.
func (d *daemon) answer(ctx context.Context, r request) (any, error) {
	switch r.Call {
	case callInject:
		if r.Rule == nil {
			return nil, errors.New("inject: no rule")
		}
		rule, err := d.rules.check(*r.Rule)
		if err != nil {
			return nil, err
		}
		if rule.ops&ops(opRead) != 0 {
			d.forget(rule.glob) // before it is at work, or the kernel could hang in it
		}
		return nil, d.rules.add(rule)
	case callRemove:
		rule, err := d.rules.remove(r.Name)
		if err == nil && rule.Action == FlipRead {
			d.forget(rule.glob)
		}
		return nil, err
	case callTouched:
		d.rules.mu.Lock()
		defer d.rules.mu.Unlock()
		n, ok := d.rules.touched[r.Name]
		if !ok {
			return nil, fmt.Errorf("rule %s: there is none of this ID", r.Name)
		}
		return n, nil
	case callFlip:
		return d.flip(r.Name, r.N, r.Seed)
	case callCrash:
		if r.Crash == nil {
			r.Crash = &Crash{}
		}
		return d.crash(ctx, *r.Crash)
	case callSync:
		d.mu.Lock()
		defer d.mu.Unlock()
		d.v.syncAll()
		return nil, nil
	case callCounters:
		return d.counters(), nil
	case callDump:
		if r.Dump == nil {
			return nil, errors.New("dump: nowhere to")
		}
		return d.dump(ctx, *r.Dump)
	}
	return nil, fmt.Errorf("control: there is no call %q", r.Call)
}

// forget makes the kernel ask again for the content of files whose path matches.
// It writes back what was changed in memory maps first, and would wait for that
// where writes hang: then it has to keep its pages.
func (d *daemon) forget(match *regexp.Regexp) {
	if d.rules.hang(opWrite) {
		return
	}
	d.mu.Lock()
	var inodes []uint64
	d.v.cache.walk(func(path string, n *inode) {
		if n.isReg() && n.data.n > 0 && match.MatchString(path) {
			inodes = append(inodes, n.ino)
		}
	})
	server := d.current.server
	d.mu.Unlock()
	for _, ino := range inodes {
		server.InodeNotify(ino, 0, 0) // an inode that the kernel does not know is none to forget
	}
}

func (d *daemon) flip(glob string, n int, seed uint64) ([]string, error) {
	match, err := compileGlob(glob)
	if err != nil {
		return nil, fmt.Errorf("glob %q: %w", glob, err)
	}
	d.mu.Lock()
	spots := d.v.flip(match.MatchString, n, seed)
	server := d.current.server
	d.mu.Unlock()
	hangs := d.rules.hang(opWrite)
	var where []string
	for _, s := range spots {
		if !hangs {
			server.InodeNotify(s.ino, s.off/pageSize*pageSize, pageSize)
		}
		where = append(where, fmt.Sprintf("%s:%d.%d", s.path, s.off, s.bit))
	}
	if len(spots) == 0 {
		return nil, fmt.Errorf("flip %s: no file with content matches", glob)
	}
	return where, nil
}

// check says what is wrong with a crash.
func (c Crash) check() error {
	switch c.Profile {
	case "", Posix, Ext4Ordered, LazyFS:
	default:
		return fmt.Errorf("crash: profile %q: there are posix, ext4-ordered and lazyfs", c.Profile)
	}
	switch c.Policy {
	case "", LoseAll, Aged, Subset, Prefix, TornTail:
	default:
		return fmt.Errorf("crash: policy %q: there are lose-all, aged, subset, prefix and torn-tail", c.Policy)
	}
	if c.Age < 0 {
		return errors.New("crash: age: has to be positive")
	}
	return nil
}

// crash is the power failure.
func (d *daemon) crash(ctx context.Context, c Crash) (l Losses, err error) {
	if err := c.check(); err != nil {
		return l, err
	}
	if !d.failing.CompareAndSwap(false, true) {
		return l, errors.New("crash: the power is failing already")
	}
	defer d.failing.Store(false)
	if err := d.awaitIdle(ctx); err != nil {
		return l, err
	}
	d.unmount()
	d.mu.Lock()
	l = d.v.crash(c, d.now())
	d.crashes++
	d.mu.Unlock()
	m, err := d.mount()
	if err != nil {
		return l, fmt.Errorf("mount %s after the power failure: %w", d.Mount, err)
	}
	d.mu.Lock()
	d.current = m
	d.mu.Unlock()
	return l, nil
}

// awaitIdle waits until no process uses the mount.
func (d *daemon) awaitIdle(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.Patience)
	defer cancel()
	dev, err := deviceOf(d.Mount)
	if err != nil {
		return err
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		users := usersOf(dev)
		if len(users) == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("crash: %s is in use by %v: end them first", d.Mount, users)
		}
	}
}

func (d *daemon) counters() Counters {
	c := Counters{
		Ops: map[string]int64{}, Faults: map[string]int64{},
		BytesRead: d.bytesRead.Load(), BytesWritten: d.bytesWritten.Load(), Fsyncs: d.fsyncs.Load(),
	}
	for i := range d.ops {
		if n := d.ops[i].Load(); n > 0 {
			c.Ops[operationNames[i]] = n
		}
	}
	d.rules.mu.Lock()
	maps.Copy(c.Faults, d.rules.touched)
	d.rules.mu.Unlock()
	d.mu.Lock()
	defer d.mu.Unlock()
	c.Used, c.Files, c.Crashes = d.v.used, int64(len(d.v.cache.inodes)), d.crashes
	c.PendingOps, c.PendingBytes, c.WrittenBack = d.v.live, d.v.bytes, d.v.writtenBack
	return c
}
