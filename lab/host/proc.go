//go:build linux

package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// outputDelay is how long the output of a process that has ended is still
// copied when something it started keeps the pipe open.
const outputDelay = time.Second

// Proc is a process that Run started. Its methods may be called concurrently.
type Proc struct {
	host    *Host
	name    string
	program string
	id      uint64
	started chan error // buffered: executed or refused
	over    chan struct{}
	done    chan struct{}
	once    sync.Once // of end

	mu        sync.Mutex
	pid       int
	abandoned bool // nobody waits for the start any more
	exit      Exit

	ours   []*os.File // our ends of pipes, closed at the end
	copies sync.WaitGroup
}

// Run starts a program and returns when it was executed. Otherwise the error
// says why not: an *ExecError when the program is to blame, ErrRunning when a
// process of the same name runs, ErrOff when the host is off. ctx bounds the
// start only.
//
// Readers and writers that are not files are served by goroutines; the one that
// reads Stdin ends when Read does.
func (h *Host) Run(ctx context.Context, cfg Process) (*Proc, error) {
	p, err := h.run(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("host %s: start %s: %w", h.cfg.Name, cfg.Name, err)
	}
	return p, nil
}

func (h *Host) run(ctx context.Context, cfg Process) (*Proc, error) {
	if err := cfg.check(); err != nil {
		return nil, err
	}
	p := &Proc{
		host: h, name: cfg.Name, program: cfg.Argv[0],
		started: make(chan error, 1), over: make(chan struct{}), done: make(chan struct{}),
	}
	if err := h.reserve(p); err != nil {
		return nil, err
	}
	files, feed, err := p.stdio(cfg)
	if err == nil {
		err = h.conn.send(order{ID: p.id, Spec: h.cfg.spec(cfg)}, 0, files...)
	}
	closeAll(files)
	if err != nil {
		p.end(Exit{Code: 127})
		<-p.done
		select {
		case <-h.dead:
			return nil, ErrOff
		default:
		}
		return nil, err
	}
	if feed != nil {
		go feed()
	}
	select {
	case err = <-p.started:
	case <-p.over:
		select {
		case err = <-p.started:
		default:
			err = ErrOff
		}
	case <-ctx.Done():
		p.abandon()
		return nil, ctx.Err()
	}
	if err != nil {
		<-p.done
		return nil, err
	}
	return p, nil
}

// reserve takes the name for p.
func (h *Host) reserve(p *Proc) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	select {
	case <-h.dead:
		return ErrOff
	default:
	}
	if h.byName[p.name] != nil {
		return ErrRunning
	}
	h.next++
	p.id = h.next
	h.byID[p.id], h.byName[p.name] = p, p
	return nil
}

// spec is what stage exec has to do for a process.
func (c Config) spec(p Process) spec {
	home := c.Scratch
	if p.User != "" && p.User != "root" && p.User != "0" {
		home = filepath.Join(c.Scratch, "home", p.User)
	}
	dir := p.Dir
	if dir == "" {
		dir = c.Data
	}
	if dir == "" {
		dir = c.Scratch
	}
	s := spec{Argv: p.Argv, Dir: dir, User: p.User, Clock: c.Clock, Env: environ(c, p, home)}
	if home != c.Scratch {
		s.Give = append(s.Give, home)
	}
	if within(dir, c.Data) || within(dir, c.Scratch) && dir != c.Scratch {
		s.Give = append(s.Give, dir)
	}
	return s
}

func within(dir, root string) bool {
	return root != "" && (dir == root || strings.HasPrefix(dir, strings.TrimSuffix(root, "/")+"/"))
}

// markerProcess names in a process's environment what started it, so that it can
// be found when it has left its session and lost its parent.
const markerProcess = "HOLDFAST_PROCESS"

// defaultPath is PATH where the lab has none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// environ is the environment of a process: small, and the same wherever the lab
// runs, but for PATH, which is the lab's own.
func environ(c Config, p Process, home string) []string {
	user := p.User
	if user == "" {
		user = "root"
	}
	path, ok := os.LookupEnv("PATH")
	if !ok {
		path = defaultPath
	}
	env := []string{
		"PATH=" + path, "HOME=" + home, "USER=" + user, "LOGNAME=" + user, "LANG=C.UTF-8",
		"TMPDIR=" + c.tmpDir(), markerProcess + "=" + p.Name,
	}
	env = append(env, marker()...)
	for _, kv := range p.Env {
		key, _, _ := strings.Cut(kv, "=")
		env = slices.DeleteFunc(env, func(old string) bool { return strings.HasPrefix(old, key+"=") })
		env = append(env, kv)
	}
	return env
}

// stdio opens what the process gets as stdin, stdout and stderr, and begins to
// copy its output. feed, if there is one, copies its input.
func (p *Proc) stdio(cfg Process) (files []*os.File, feed func(), err error) {
	null := func(flag int) (*os.File, error) { return os.OpenFile(os.DevNull, flag, 0) }
	in, err := func() (*os.File, error) {
		switch r := cfg.Stdin.(type) {
		case nil:
			return null(os.O_RDONLY)
		case *os.File:
			return dup(r)
		}
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		p.ours = append(p.ours, w)
		feed = func() {
			_, _ = io.Copy(w, cfg.Stdin) // until either has ended
			_ = w.Close()
		}
		return r, nil
	}()
	if err != nil {
		return nil, nil, err
	}
	files = append(files, in)
	if cfg.LogFile != "" {
		f, err := os.OpenFile(cfg.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return files, nil, err
		}
		files = append(files, f)
		f, err = dup(f)
		if err != nil {
			return files, nil, err
		}
		return append(files, f), feed, nil
	}
	for i, w := range []io.Writer{cfg.Stdout, cfg.Stderr} {
		f, err := func() (*os.File, error) {
			if i == 1 && w != nil && same(w, cfg.Stdout) {
				return dup(files[1])
			}
			switch w := w.(type) {
			case nil:
				return null(os.O_WRONLY)
			case *os.File:
				return dup(w)
			}
			r, f, err := os.Pipe()
			if err != nil {
				return nil, err
			}
			p.ours = append(p.ours, r)
			p.copies.Go(func() { _, _ = io.Copy(w, r) }) // until either has ended
			return f, nil
		}()
		if err != nil {
			return files, nil, err
		}
		files = append(files, f)
	}
	return files, feed, nil
}

// same tells whether two writers are one; those that cannot be compared are not.
func same(a, b io.Writer) (yes bool) {
	defer func() { _ = recover() }()
	return a == b
}

// dup is another descriptor of the same open file.
func dup(f *os.File) (*os.File, error) {
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	var failed error
	if err := raw.Control(func(old uintptr) { fd, failed = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
		return nil, err
	}
	if failed != nil {
		return nil, os.NewSyscallError("dup", failed)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// forked takes in that there is a process.
func (p *Proc) forked(pid int) {
	p.mu.Lock()
	p.pid = pid
	kill := p.abandoned
	p.mu.Unlock()
	p.host.mu.Lock()
	p.host.roots[p.name] = append(p.host.roots[p.name], pid)
	p.host.mu.Unlock()
	if kill {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// begin takes in whether the program was executed.
func (p *Proc) begin(err error) {
	select {
	case p.started <- err:
	default:
	}
}

// abandon gives up a start.
func (p *Proc) abandon() {
	p.mu.Lock()
	p.abandoned = true
	pid := p.pid
	p.mu.Unlock()
	if pid != 0 {
		_ = p.Signal(syscall.SIGKILL)
	}
}

// end takes in how the process ended: once, the first counts.
func (p *Proc) end(e Exit) {
	p.once.Do(func() {
		p.mu.Lock()
		p.exit = e
		p.mu.Unlock()
		p.host.mu.Lock()
		delete(p.host.byID, p.id)
		if p.host.byName[p.name] == p {
			delete(p.host.byName, p.name)
		}
		p.host.mu.Unlock()
		close(p.over)
		go p.drain()
	})
}

// drain lets the copies of output come to their end.
func (p *Proc) drain() {
	defer close(p.done)
	copied := make(chan struct{})
	go func() {
		p.copies.Wait()
		close(copied)
	}()
	timer := time.NewTimer(outputDelay)
	defer timer.Stop()
	select {
	case <-copied:
	case <-timer.C:
	}
	closeAll(p.ours)
	<-copied
}

// Name is the process's name.
func (p *Proc) Name() string { return p.name }

// PID is the process in the lab's pid namespace.
func (p *Proc) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.pid
}

// Done is closed when the process has ended and its output was copied.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Status is how the process ended; the zero value before Done is closed.
func (p *Proc) Status() Exit {
	select {
	case <-p.done:
	default:
		return Exit{}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exit
}

// Signal sends a signal to the process alone. A process that is gone is no
// error.
func (p *Proc) Signal(sig syscall.Signal) error {
	select {
	case <-p.over:
		return nil
	default:
	}
	err := syscall.Kill(p.PID(), sig)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// SignalAll sends a signal to the process and everything it started, and returns
// to how many. It looks only once, so that it may miss what is being started at
// that moment: for SIGKILL, SIGSTOP and SIGCONT use Kill, Pause and Resume.
func (p *Proc) SignalAll(ctx context.Context, sig syscall.Signal) (int, error) {
	n := 0
	err := p.host.do(ctx, func(o *owner) error {
		found, _, err := o.members(p.name)
		for _, e := range found {
			if syscall.Kill(e.pid, sig) == nil {
				n++
			}
		}
		return err
	})
	return n, err
}
