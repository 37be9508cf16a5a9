package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/internal/devcluster"
)

// program is how holdfast is called: with these variables, in this directory.
type program struct {
	t    *testing.T
	dir  string
	vars []string
}

// at is a program that talks to these endpoints.
func at(t *testing.T, endpoints ...string) program {
	t.Helper()
	return program{t: t, dir: t.TempDir(), vars: []string{"HOLDFAST_ENDPOINTS=" + strings.Join(endpoints, ",")}}
}

// with is the same program with more variables.
func (p program) with(vars ...string) program {
	p.vars = slices.Concat(p.vars, vars)
	return p
}

func (p program) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.SysProcAttr = p.dir, attributes()
	cmd.Env = slices.Concat(environ, []string{"PATH=" + filepath.Dir(binary) + ":" + path()}, p.vars)
	cmd.WaitDelay = time.Second
	return cmd
}

func path() string {
	for _, kv := range environ {
		if v, ok := strings.CutPrefix(kv, "PATH="); ok {
			return v
		}
	}
	return ""
}

// run runs holdfast to its end.
func (p program) run(args ...string) (stdout, stderr string, code int) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := p.command(ctx, binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); cmd.ProcessState == nil || ctx.Err() != nil {
		p.t.Fatalf("holdfast %s: %v, %v\n%s", strings.Join(args, " "), err, ctx.Err(), &errs)
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// ok is what holdfast says when it succeeds, without the end of the line.
func (p program) ok(args ...string) string {
	p.t.Helper()
	out, errs, code := p.run(args...)
	if code != 0 {
		p.t.Fatalf("holdfast %s: code %d\n%s%s", strings.Join(args, " "), code, out, errs)
	}
	return strings.TrimRight(out, "\n")
}

// fails runs what must end with a code and say something.
func (p program) fails(want int, says string, args ...string) {
	p.t.Helper()
	out, errs, code := p.run(args...)
	if code != want || !strings.Contains(out+errs, says) {
		p.t.Errorf("holdfast %s: code %d, want %d and %q\n%s%s", strings.Join(args, " "), code, want, says, out, errs)
	}
}

// token is the token under which a lock is held for a moment.
func (p program) token(lock string) holdfast.Token {
	p.t.Helper()
	token, err := holdfast.ParseToken(p.ok("lock", "run", lock, "--", "sh", "-c", `echo "$HOLDFAST_TOKEN"`))
	if err != nil {
		p.t.Fatal(err)
	}
	return token
}

// node is what "status" says of a node.
type node struct {
	Name, State, Role, Endpoint, Problem string
	Epoch                                int
	Store                                struct{ Kind string }
}

// status is all nodes by name, whatever their state.
func (p program) status() []node {
	p.t.Helper()
	out, errs, code := p.run("status", "-o", "json")
	var s struct{ Nodes []node }
	if err := json.Unmarshal([]byte(out), &s); err != nil {
		p.t.Fatalf("status: code %d, %v\n%s%s", code, err, out, errs)
	}
	return s.Nodes
}

// leader is the name of the leading node, "" for none.
func (p program) leader() string {
	p.t.Helper()
	for _, n := range p.status() {
		if n.Role == "leader" && n.State == "serving" {
			return n.Name
		}
	}
	return ""
}

// member is what "cluster members" says of a node.
type member struct{ ID, Name, Role string }

func (p program) members() []member {
	p.t.Helper()
	var c struct{ Members []member }
	if err := json.Unmarshal([]byte(p.ok("cluster", "members", "-o", "json")), &c); err != nil {
		p.t.Fatal(err)
	}
	return c.Members
}

// roles are the names of the cluster's members with their roles, the leader
// being a voter like others: "n1=voter n4=learner".
func (p program) roles() string {
	p.t.Helper()
	var words []string
	for _, m := range p.members() {
		words = append(words, m.Name+"="+strings.Replace(m.Role, "leader", "voter", 1))
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}

// eventually waits until a check comes true.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !check() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: it did not come true", what)
		}
	}
}

// process goes on until it is stopped, at the latest with the test.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	lines  chan string // of its standard output
	stderr stream
	ended  chan struct{}
}

// stream is what a process says, while it says it.
type stream struct {
	mu  sync.Mutex // guards the field below
	buf bytes.Buffer
}

func (s *stream) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.Write(b)
}

func (s *stream) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buf.String()
}

// start starts holdfast.
func (p program) start(args ...string) *process {
	p.t.Helper()
	return p.launch(binary, args...)
}

// launch starts any program.
func (p program) launch(name string, args ...string) *process {
	p.t.Helper()
	pr := &process{t: p.t, lines: make(chan string, 1000), ended: make(chan struct{})}
	pr.cmd = p.command(context.WithoutCancel(p.t.Context()), name, args...)
	pr.cmd.Stderr = &pr.stderr
	r, w, err := os.Pipe()
	if err != nil {
		p.t.Fatal(err)
	}
	pr.cmd.Stdout = w
	if err := pr.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	_ = w.Close() // the process has it
	var reading sync.WaitGroup
	reading.Go(func() {
		defer close(pr.lines)
		s := bufio.NewScanner(r)
		for s.Scan() {
			select {
			case pr.lines <- s.Text():
			default: // nobody reads
			}
		}
	})
	reading.Go(func() {
		defer close(pr.ended)
		_ = pr.cmd.Wait() // how it ended is in ProcessState
	})
	p.t.Cleanup(func() {
		_ = pr.cmd.Process.Kill()
		<-pr.ended
		_ = r.Close() // also when a child of it keeps the other end
		reading.Wait()
		if p.t.Failed() {
			p.t.Logf("%s %s:\n%s", filepath.Base(name), strings.Join(args, " "), pr.stderr.String())
		}
	})
	return pr
}

// expect reads until a line has the text.
func (p *process) expect(text string) string {
	p.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-p.lines:
			switch {
			case !ok:
				p.t.Fatalf("it ended before it said %q\n%s", text, p.stderr.String())
			case strings.Contains(line, text):
				return line
			}
		case <-timer.C:
			p.t.Fatalf("it does not say %q\n%s", text, p.stderr.String())
		}
	}
}

func (p *process) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// code waits for the end: 128 + n when signal n ended it.
func (p *process) code() int {
	p.t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.ended:
	case <-timer.C:
		p.t.Fatalf("it does not end\n%s", p.stderr.String())
	}
	if w, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return p.cmd.ProcessState.ExitCode()
}

// addresses are n loopback addresses that nobody uses now.
func addresses(t *testing.T, n int) []string {
	t.Helper()
	var lc net.ListenConfig
	out := make([]string, n)
	for i := range out {
		l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close() //nolint:errcheck // of a listener that served nobody
		out[i] = l.Addr().String()
	}
	return out
}

// basePort is where a cluster's ports begin: below those that the kernel gives
// to connections, so that they are still free when the nodes start again.
func basePort(t *testing.T) int {
	t.Helper()
	var lc net.ListenConfig
	for range 50 {
		p := 15000 + int(time.Now().UnixMicro()%320)*50
		l, err := lc.Listen(t.Context(), "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(p)))
		if err == nil {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return p
		}
	}
	t.Fatal("no port is free")
	return 0
}

// nodes are a cluster of n nodes without any security, and a client of it.
func nodes(t *testing.T, cfg devcluster.Config) (*devcluster.Cluster, program) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cfg.Binary, cfg.Environ = binary, environ
	if cfg.Dir == "" {
		cfg.Dir = t.TempDir()
	}
	if cfg.Port == 0 {
		cfg.Port = basePort(t)
	}
	cfg.Args = append(cfg.Args, "--log-level", "warn")
	c, err := devcluster.Start(ctx, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		if t.Failed() {
			for _, n := range c.Nodes() {
				log, _ := os.ReadFile(n.Log) // empty when it cannot be read
				t.Logf("%s:\n%s", n.Name, log)
			}
		}
	})
	return c, at(t, c.Endpoints()...)
}
