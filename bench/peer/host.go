// Package peer starts and stops what Holdfast is measured against, and other
// processes: on free loopback ports, in directories of their own, and in a way
// that nothing outlives the process that started it.
package peer

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrMissing says that a program is not installed, and which package has it.
var ErrMissing = errors.New("not installed")

func missing(what, pkg string) error {
	return fmt.Errorf("%s %w (Debian: apt-get install %s)", what, ErrMissing, pkg)
}

// Host starts processes and ends those that still run when it is closed. Safe
// for concurrent use.
type Host struct {
	// Children die with the thread that started them, so one thread starts
	// them all and stays until Close.
	starts  chan func()
	starter sync.WaitGroup

	mu     sync.Mutex // guards the fields below
	closed bool
	procs  []*Process
}

// NewHost makes a host.
func NewHost() *Host {
	h := &Host{starts: make(chan func())}
	h.starter.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for f := range h.starts {
			f()
		}
	})
	return h
}

// Close kills what still runs, and returns when it is gone.
func (h *Host) Close() {
	h.mu.Lock()
	was, procs := h.closed, h.procs
	h.closed = true
	h.mu.Unlock()
	if was {
		return
	}
	for _, p := range procs {
		p.Kill()
	}
	close(h.starts)
	h.starter.Wait()
}

// Process is a program that runs.
type Process struct {
	cmd   *exec.Cmd
	log   string
	out   *os.File // what it says on stdout
	ended chan struct{}
}

// Start runs a program whose messages go to the file log.
func (h *Host) Start(log string, argv ...string) (*Process, error) {
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // the child has its own
	out, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer w.Close() //nolint:errcheck // the child has its own
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	p := &Process{
		cmd: &exec.Cmd{Path: path, Args: argv, Stdout: w, Stderr: f, SysProcAttr: attributes()},
		log: log, out: out, ended: make(chan struct{}),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errors.Join(errors.New("the host is closed"), out.Close())
	}
	started := make(chan error, 1)
	h.starts <- func() { started <- p.cmd.Start() }
	if err := <-started; err != nil {
		return nil, errors.Join(err, out.Close())
	}
	go func() {
		defer close(p.ended)
		_ = p.cmd.Wait() // that it was killed is no news
	}()
	h.procs = append(h.procs, p)
	return p, nil
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process at once, and returns when it is gone.
func (p *Process) Kill() { p.end(syscall.SIGKILL) }

// Stop asks the process to end, and kills it after five seconds.
func (p *Process) Stop() {
	timer := time.AfterFunc(5*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	p.end(syscall.SIGTERM)
}

func (p *Process) end(s syscall.Signal) {
	_ = p.cmd.Process.Signal(s) // it may have ended
	<-p.ended
	_ = p.out.Close() // only read
}

// Line waits for the first line that the process says on stdout.
func (p *Process) Line(ctx context.Context) (string, error) {
	type said struct {
		line string
		err  error
	}
	c := make(chan said, 1)
	go func() {
		line, err := bufio.NewReader(p.out).ReadString('\n')
		c <- said{strings.TrimSpace(line), err}
	}()
	select {
	case s := <-c:
		if s.err != nil {
			return "", p.failed(fmt.Errorf("said nothing: %w", s.err))
		}
		return s.line, nil
	case <-ctx.Done():
		p.Kill() // closes the pipe, which ends the reader
		<-c
		return "", p.failed(context.Cause(ctx))
	}
}

// Until waits until ready says yes, the process ends or ctx does.
func (p *Process) Until(ctx context.Context, ready func(context.Context) error) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.ended:
			return p.failed(errors.New("ended at once"))
		case <-ctx.Done():
			return p.failed(errors.Join(context.Cause(ctx), err))
		}
	}
}

// failed adds the end of the log.
func (p *Process) failed(err error) error {
	const most = 2 << 10
	text, _ := os.ReadFile(p.log) // what there is, if anything
	return fmt.Errorf("%s: %w\n%s", p.cmd.Args[0], err, text[max(0, len(text)-most):])
}

// Drain throws away what the process says on stdout.
func (p *Process) Drain() { go io.Copy(io.Discard, p.out) } //nolint:errcheck // ends with the process

// FreePorts finds n free loopback ports.
func FreePorts(ctx context.Context, n int) ([]int, error) {
	var lc net.ListenConfig
	ports := make([]int, n)
	for i := range ports {
		l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() //nolint:errcheck // of a listener that served nobody; all are held until the end
		ports[i] = l.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}
