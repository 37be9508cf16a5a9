package drivertest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/lab/driver"
)

// Env is a driver.Env without a lab: its hosts are addresses of the loopback
// network, their disks temporary directories, and nothing of a test's is left
// when it ends. Safe for concurrent use.
type Env struct {
	t       *testing.T
	dir     string
	nodes   []string
	addrs   map[string]netip.Addr
	options map[string]string
	starts  chan func() // run on one thread, which the processes' lives hang on

	mu    sync.Mutex // guards the fields below
	procs []*proc
}

var _ driver.Env = (*Env)(nil)

// proc is a server as it was described, and its present incarnation.
type proc struct {
	host  string
	what  driver.Process
	cmd   *exec.Cmd     // nil before the first start
	ended chan struct{} // closed when cmd has ended
}

func (p *proc) running() bool {
	if p.cmd == nil {
		return false
	}
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// claimed is the port that shows others that a network is in use.
const claimed = 61003

// NewEnv makes a world of n hosts, n1, n2 and so on. Options are settings of the
// driver, "name=value".
func NewEnv(t *testing.T, n int, options ...string) *Env {
	t.Helper()
	dir, err := os.MkdirTemp("", "drivertest-") //nolint:usetesting // other users have to pass
	if err != nil {
		t.Fatal(err)
	}
	e := &Env{t: t, dir: dir, addrs: map[string]netip.Addr{}, options: map[string]string{}, starts: make(chan func())}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, o := range options {
		name, value, _ := strings.Cut(o, "=")
		e.options[name] = value
	}
	network, claim := claim(t)
	for i := range n {
		host := fmt.Sprintf("n%d", i+1)
		network[3] = byte(11 + i)
		e.nodes = append(e.nodes, host)
		e.addrs[host] = netip.AddrFrom4(network)
		for _, d := range []string{e.DataDir(host), e.LogDir(host)} {
			if err := os.MkdirAll(d, 0o777); err != nil {
				t.Fatal(err)
			}
			// Servers that refuse root write there too; the umask is not asked.
			if err := os.Chmod(d, 0o777); err != nil {
				t.Fatal(err)
			}
		}
	}
	var starter sync.WaitGroup
	starter.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		for f := range e.starts {
			f()
		}
	})
	t.Cleanup(func() {
		for _, host := range e.nodes {
			e.Kill(host)
		}
		close(e.starts)
		starter.Wait()
		if t.Failed() {
			e.showLogs()
		}
		if err := errors.Join(claim.Close(), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return e
}

// claim finds a network 127.x.y.0/24 that no other test uses.
func claim(t *testing.T) (network [4]byte, claim io.Closer) {
	t.Helper()
	pid := os.Getpid()
	for i := range 200 {
		network = [4]byte{127, byte(10 + (pid+i)%200), byte(pid / 200), 1}
		addr := netip.AddrPortFrom(netip.AddrFrom4(network), claimed)
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr.String())
		if err == nil {
			return network, l
		}
	}
	t.Fatal("no network of loopback is free")
	return network, nil
}

func (e *Env) showLogs() {
	logs, _ := filepath.Glob(filepath.Join(e.dir, "*", "log", "*.log")) // its only error is a bad pattern
	for _, name := range logs {
		if data, err := os.ReadFile(name); err == nil {
			e.t.Logf("%s:\n%s", name, tail(data, 2000))
		}
	}
}

func tail(data []byte, most int) string {
	return strings.TrimSpace(string(data[max(0, len(data)-most):]))
}

// Nodes implements driver.Env.
func (e *Env) Nodes() []string { return slices.Clone(e.nodes) }

// Addr implements driver.Env.
func (e *Env) Addr(host string) netip.Addr { return e.addrs[host] }

// LabAddr implements driver.Env.
func (e *Env) LabAddr() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 1}) }

// DataDir implements driver.Env.
func (e *Env) DataDir(host string) string { return filepath.Join(e.dir, host, "data") }

// LogDir implements driver.Env.
func (e *Env) LogDir(host string) string { return filepath.Join(e.dir, host, "log") }

// Option implements driver.Env.
func (e *Env) Option(name string) string { return e.options[name] }

// Logf implements driver.Env.
func (e *Env) Logf(format string, args ...any) { e.t.Logf(format, args...) }

// command is p on host, not started.
func (e *Env) command(ctx context.Context, host string, p driver.Process) (*exec.Cmd, error) {
	if len(p.Argv) == 0 {
		return nil, fmt.Errorf("%s: no command", p.Name)
	}
	cmd := exec.CommandContext(ctx, p.Argv[0], p.Argv[1:]...)
	cmd.Dir = p.Dir
	if cmd.Dir == "" {
		cmd.Dir = e.DataDir(host)
	}
	cmd.Env = append([]string{"PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME=" + e.DataDir(host), "LANG=C.UTF-8", "HOSTNAME=" + host}, p.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if p.User == "" {
		return cmd, nil
	}
	who, err := user.Lookup(p.User)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(who.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(who.Gid, 10, 32)
	if os.Geteuid() == 0 {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return cmd, err
}

// Exec implements driver.Env.
func (e *Env) Exec(ctx context.Context, host string, p driver.Process) ([]byte, error) {
	cmd, err := e.command(ctx, host, p)
	if err != nil {
		return nil, err
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	done := make(chan error, 1)
	e.starts <- func() {
		if err := cmd.Start(); err != nil {
			done <- err
			return
		}
		go func() { done <- cmd.Wait() }()
	}
	if err := <-done; err != nil {
		return out.Bytes(), fmt.Errorf("%s: %s: %w\n%s\n%s", host, strings.Join(p.Argv, " "), err, tail(out.Bytes(), 500), tail(errs.Bytes(), 1000))
	}
	return out.Bytes(), nil
}

// Start implements driver.Env.
func (e *Env) Start(ctx context.Context, host string, p driver.Process) error {
	e.mu.Lock()
	for _, old := range e.procs {
		if old.host == host && old.what.Name == p.Name {
			e.mu.Unlock()
			return fmt.Errorf("%s: %s was started before", host, p.Name)
		}
	}
	pr := &proc{host: host, what: p}
	e.procs = append(e.procs, pr)
	e.mu.Unlock()
	return e.start(ctx, pr)
}

// Restart starts what does not run any more on a host, as it was started before.
func (e *Env) Restart(ctx context.Context, host string) error {
	for _, p := range e.on(host) {
		e.mu.Lock()
		running := p.running()
		e.mu.Unlock()
		if running {
			continue
		}
		if err := e.start(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// on lists the servers of a host in the order in which they were started.
func (e *Env) on(host string) []*proc {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []*proc
	for _, p := range e.procs {
		if p.host == host {
			out = append(out, p)
		}
	}
	return out
}

func (e *Env) start(ctx context.Context, p *proc) error {
	cmd, err := e.command(context.Background(), p.host, p.what) //nolint:contextcheck // a server outlives the call that starts it
	if err != nil {
		return err
	}
	logName := filepath.Join(e.LogDir(p.host), p.what.Name+".log")
	log, err := os.OpenFile(logName, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	begin, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return errors.Join(err, log.Close())
	}
	cmd.Stdout, cmd.Stderr = log, log
	started := make(chan error, 1)
	e.starts <- func() { started <- cmd.Start() }
	if err := errors.Join(<-started, log.Close()); err != nil {
		return fmt.Errorf("%s: %s: %w", p.host, p.what.Name, err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // how it ended does not matter: tests kill
		close(ended)
	}()
	e.mu.Lock()
	p.cmd, p.ended = cmd, ended
	e.mu.Unlock()

	timeout := p.what.Ready.Timeout
	if timeout == 0 {
		timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := e.ready(ctx, p, logName, begin)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
			continue
		case <-ended:
		case <-ctx.Done():
		}
		data, _ := os.ReadFile(logName) // the error tells without it too
		return fmt.Errorf("%s: %s did not start: %w\n%s", p.host, p.what.Name, err, tail(data, 2000))
	}
}

func (e *Env) ready(ctx context.Context, p *proc, log string, begin int64) error {
	addr := netip.AddrPortFrom(e.Addr(p.host), uint16(p.what.Ready.TCP)).String()
	switch r := p.what.Ready; {
	case r.Func != nil:
		return r.Func(ctx)
	case r.Log != "":
		data, err := os.ReadFile(log)
		if err != nil {
			return err
		}
		if !regexp.MustCompile(r.Log).Match(data[min(begin, int64(len(data))):]) {
			return fmt.Errorf("it has not said %s", r.Log)
		}
	case r.HTTP != "":
		url := r.HTTP
		if strings.HasPrefix(url, "/") {
			url = "http://" + addr + url
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return err
		}
		_ = resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			return fmt.Errorf("%s: %s", url, resp.Status)
		}
	case r.TCP != 0:
		c, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		_ = c.Close()
	}
	return nil
}

// Kill ends everything on a host by SIGKILL, and waits for it.
func (e *Env) Kill(host string) {
	for _, p := range e.on(host) {
		if e.signal(p, syscall.SIGKILL) {
			<-p.ended
		}
	}
}

// Pause stops everything on a host; Resume lets it go on.
func (e *Env) Pause(host string) {
	for _, p := range e.on(host) {
		if !e.signal(p, syscall.SIGSTOP) {
			continue
		}
		// On a busy machine a thread may go on for a while.
		ticker := time.NewTicker(time.Millisecond)
		for n := 0; n < 5000 && !stopped(p.cmd.Process.Pid); n++ {
			<-ticker.C
		}
		ticker.Stop()
	}
}

// stopped says whether no thread of a process runs any more.
func stopped(pid int) bool {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid)) // its only error is a bad pattern
	for _, name := range tasks {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // it ended
		}
		if _, rest, ok := strings.Cut(string(data), ") "); ok && !strings.HasPrefix(rest, "T") && !strings.HasPrefix(rest, "Z") {
			return false
		}
	}
	return true
}

// Resume ends a Pause.
func (e *Env) Resume(host string) {
	for _, p := range e.on(host) {
		e.signal(p, syscall.SIGCONT)
	}
}

// signal reaches a server and its descendants: Postgres has its children in
// groups of their own.
func (e *Env) signal(p *proc, sig syscall.Signal) bool {
	e.mu.Lock()
	running := p.running()
	e.mu.Unlock()
	if !running {
		return false
	}
	pids := []int{p.cmd.Process.Pid}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, children(pids[i])...)
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, sig) // it may have ended by itself
	}
	return true
}

// children of a process, by any of its threads.
func children(pid int) []int {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // its only error is a bad pattern
	var out []int
	for _, name := range lists {
		data, _ := os.ReadFile(name) // the thread may have ended
		for f := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(f); err == nil {
				out = append(out, child)
			}
		}
	}
	return out
}
