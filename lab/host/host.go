//go:build linux

package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"holdfast.dev/internal/stage"
)

// Host is a machine of the lab. Its methods may be called concurrently.
type Host struct {
	cfg   Config
	cmd   *exec.Cmd
	conn  *conn
	wire  *wire
	tap   *os.File      // for TAP
	group *cgroup       // nil where there is none to be had
	errs  *tail         // what the first process wrote to stderr
	dead  chan struct{} // closed when the first process is gone
	off   chan struct{} // closed when all is
	ops   chan func(*owner)
	tasks sync.WaitGroup // reader, owner and listeners

	mu     sync.Mutex
	next   uint64
	byID   map[uint64]*Proc
	byName map[string]*Proc
	roots  map[string][]int // process name → sessions that were started under it
	held   time.Duration    // by duty cycle
	waited time.Duration    // by quota, as read last
	taken  bool             // somebody asked for TAP
}

// Start starts a machine: its first process runs, the network is configured and
// nothing else runs yet. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (*Host, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	h := &Host{
		cfg: cfg, errs: &tail{next: cfg.Stderr},
		dead: make(chan struct{}), off: make(chan struct{}), ops: make(chan func(*owner)),
		byID: map[uint64]*Proc{}, byName: map[string]*Proc{}, roots: map[string][]int{},
	}
	if err := h.start(ctx); err != nil {
		return nil, fmt.Errorf("host %s: %w", cfg.Name, err)
	}
	return h, nil
}

func (h *Host) start(ctx context.Context) error {
	ours, theirs, err := pair()
	if err != nil {
		return err
	}
	cmd := stage.Command(context.WithoutCancel(ctx), stageInit)
	cmd.Dir = "/"
	cmd.Env = marker()
	cmd.Stderr = h.errs
	cmd.WaitDelay = time.Second
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
	}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		ours.close()
		return fmt.Errorf("new namespaces: %w%s", err, namespaceHint(err))
	}
	h.cmd, h.conn = cmd, ours
	h.group = newCgroup(h.cfg.Name)
	if err := h.group.add(cmd.Process.Pid); err != nil {
		h.group.remove()
		h.group = nil
	}

	// The first process answers, or ctx ends, and closing the socket ends it.
	stop := context.AfterFunc(ctx, ours.close)
	r, files, err := h.greet()
	if !stop() {
		err = ctx.Err()
	}
	switch {
	case err == nil && r.What == reportFailed:
		err = errors.New(r.Err)
	case err == nil && (r.What != reportReady || len(files) != 2):
		err = fmt.Errorf("unexpected report %q with %d files", r.What, len(files))
	}
	var tap *os.File
	if err == nil {
		tap, err = dup(files[0])
	}
	if err != nil {
		closeAll(files)
		ours.close()
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		h.group.remove()
		if text := h.errs.String(); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return err
	}
	h.wire, h.tap = &wire{name: "eth0", tap: files[0], control: files[1]}, tap
	h.tasks.Go(h.read)
	h.tasks.Go(h.own)
	go h.wait()
	return nil
}

// greet sends the setup and waits for the first report.
func (h *Host) greet() (report, []*os.File, error) {
	c := h.cfg
	s := setup{
		Name: c.Name, Domain: c.Domain, Addr: c.Addr, MAC: c.MAC, MTU: c.MTU, Gateway: c.Gateway,
		Neighbors: c.Neighbors, Etc: etc(c), Data: c.Data, Scratch: c.Scratch, Private: c.Private,
	}
	if err := h.conn.send(s, 0); err != nil {
		return report{}, nil, err
	}
	var r report
	_, files, err := h.conn.receive(&r)
	return r, files, err
}

// etc are the host's own files below /etc.
func etc(c Config) map[string]string {
	var hosts, resolv strings.Builder
	self := c.Addr.Addr()
	fmt.Fprintf(&hosts, "127.0.0.1 localhost\n%v %s.%s %s\n", self, c.Name, c.Domain, c.Name)
	for _, name := range slices.Sorted(maps.Keys(c.Hosts)) {
		if name != c.Name {
			fmt.Fprintf(&hosts, "%v %s.%s %s\n", c.Hosts[name], name, c.Domain, name)
		}
	}
	fmt.Fprintf(&resolv, "search %s\n", c.Domain)
	if c.DNS != (netip.Addr{}) {
		fmt.Fprintf(&resolv, "nameserver %v\noptions timeout:1 attempts:2\n", c.DNS)
	}
	return map[string]string{"hosts": hosts.String(), "resolv.conf": resolv.String(), "hostname": c.Name + "\n"}
}

// Name is the host's name.
func (h *Host) Name() string { return h.cfg.Name }

// PID is the first process of the host in the lab's pid namespace.
func (h *Host) PID() int { return h.cmd.Process.Pid }

// TAP is the other end of the host's eth0: every read is one frame that the host
// sent, every write one that it receives. It is in blocking mode, without packet
// information and without offloads. Who asks for it closes it, before or after
// the host is off; when it goes off, reads and writes fail. There is only one:
// every call returns the same file.
func (h *Host) TAP() *os.File {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.taken = true
	return h.tap
}

// Done is closed when the host is off: by PowerOff, or because its first process
// died by itself.
func (h *Host) Done() <-chan struct{} { return h.off }

// PowerOff ends everything on the host at once: no process gets a chance to write
// a byte, and no frame leaves the host any more, not even one that closes a
// connection. It returns when nothing is left; the error says what would not go
// before ctx ended. A host that is off already is no error.
func (h *Host) PowerOff(ctx context.Context) error {
	select {
	case <-h.off:
		return nil
	default:
	}
	cut := h.wire.cut()
	if errors.Is(cut, os.ErrClosed) {
		cut = nil // it is going off by itself
	}
	if err := h.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("host %s: power off: %w", h.cfg.Name, err)
	}
	select {
	case <-h.off:
	case <-ctx.Done():
		left := ""
		if t, err := readTable(); err == nil {
			left = describe(t.below(h.PID()))
		}
		return fmt.Errorf("host %s: power off: %w%s", h.cfg.Name, ctx.Err(), left)
	}
	if cut != nil {
		return fmt.Errorf("host %s: power off: frames may have left it: %w", h.cfg.Name, cut)
	}
	return nil
}

// wait waits for the end of the first process, which is that of all processes of
// the host, and cleans up.
func (h *Host) wait() {
	_ = h.cmd.Wait() // how it ended does not matter
	close(h.dead)
	_ = h.wire.remove() // nobody reads it any more
	h.conn.close()
	h.mu.Lock()
	left := slices.Collect(maps.Values(h.byID))
	h.mu.Unlock()
	for _, p := range left {
		p.end(Exit{Code: -1, Signal: syscall.SIGKILL})
	}
	for _, p := range left {
		<-p.done
	}
	h.tasks.Wait()
	h.Throttled() // for the last time
	h.group.remove()
	h.mu.Lock()
	taken := h.taken
	h.taken = true
	h.mu.Unlock()
	if !taken {
		_ = h.tap.Close() // nobody has used it
	}
	close(h.off)
}

// read takes the reports of the first process.
func (h *Host) read() {
	for {
		var r report
		pid, files, err := h.conn.receive(&r)
		if err != nil {
			return
		}
		h.mu.Lock()
		p := h.byID[r.ID]
		h.mu.Unlock()
		if p == nil || r.What == reportClock && len(files) != 1 {
			closeAll(files)
			continue
		}
		switch r.What {
		case reportForked:
			p.forked(pid)
		case reportClock:
			h.tasks.Go(func() { h.cfg.ClockListener(files[0]) })
		case reportStarted:
			p.begin(nil)
		case reportRefused:
			p.begin(&ExecError{Program: p.program, Reason: r.Err})
			p.end(Exit{Code: 127})
		case reportExit:
			e := Exit{Code: r.Code, Signal: syscall.Signal(r.Signal)}
			if r.Signal != 0 {
				e.Code = -1
			}
			p.end(e)
		case reportReady, reportFailed:
		}
	}
}

// tail keeps the end of what is written to it, and passes it on.
type tail struct {
	mu   sync.Mutex
	buf  []byte
	next interface{ Write([]byte) (int, error) }
}

const tailLength = 4096

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - tailLength; over > 0 {
		t.buf = slices.Delete(t.buf, 0, over)
	}
	t.mu.Unlock()
	if t.next == nil {
		return len(b), nil
	}
	return t.next.Write(b)
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}

// tmpDir is what TMPDIR names.
func (c Config) tmpDir() string { return filepath.Join(c.Scratch, "tmp") }
