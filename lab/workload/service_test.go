package workload

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/lab/check"
	"holdfast.dev/lab/driver"
	"holdfast.dev/lab/history"
)

// local is a world on addresses of this machine, without faults of its own:
// hosts are addresses, and servers are children of the test.
type local struct {
	driver.Env // what is not used here

	t     *testing.T
	nodes []string
	dir   string // of the scenario

	mu    sync.Mutex
	procs map[string]*exec.Cmd
	what  map[string]driver.Process
}

func newLocal(t *testing.T, dir string) *local {
	t.Helper()
	e := &local{t: t, dir: dir, procs: map[string]*exec.Cmd{}, what: map[string]driver.Process{}}
	for i := range 3 { // the same port is free on some addresses of the loopback
		pid := os.Getpid()
		e.nodes = append(e.nodes, fmt.Sprintf("127.%d.%d.%d", 1+pid>>8&0x7f, pid&0xff, 11+i))
	}
	t.Cleanup(func() {
		for node := range e.procs {
			e.kill(node)
		}
	})
	return e
}

func (e *local) Nodes() []string             { return e.nodes }
func (e *local) Addr(host string) netip.Addr { return netip.MustParseAddr(host) }
func (e *local) LabAddr() netip.Addr         { return netip.MustParseAddr("127.0.0.1") }
func (e *local) LogDir(string) string        { return e.t.TempDir() }
func (e *local) Logf(string, ...any)         {}

func (e *local) DataDir(host string) string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("holdfast-%s-%d", host, os.Getpid()))
}

func (e *local) Option(name string) string {
	if name == "scenario" {
		return e.dir
	}
	return ""
}

func (e *local) Start(ctx context.Context, host string, p driver.Process) error {
	cmd := exec.CommandContext(context.WithoutCancel(ctx), p.Argv[0], p.Argv[1:]...)
	cmd.Stderr = e.t.Output()
	if err := cmd.Start(); err != nil {
		return err
	}
	e.mu.Lock()
	e.procs[host], e.what[host] = cmd, p
	e.mu.Unlock()
	for tick := time.NewTicker(10 * time.Millisecond); ; {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(p.Ready.TCP)))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-tick.C:
		}
	}
}

func (e *local) kill(node string) {
	_ = e.procs[node].Process.Kill()
	_ = e.procs[node].Wait()
}

// drive lets workers work for a while, and returns what they saw.
func drive(t *testing.T, sys driver.System, env driver.Env, in Instance, workers int, while func()) history.History {
	t.Helper()
	var (
		mu    sync.Mutex
		h     history.History
		begin = time.Now()
		next  = workers
		stop  = make(chan struct{})
		wg    sync.WaitGroup
	)
	record := func(op history.Op) history.Op {
		mu.Lock()
		defer mu.Unlock()
		op.Index, op.Time = len(h), time.Since(begin)
		h = append(h, op)
		return op
	}
	call := func(c driver.Client, op history.Op, d time.Duration) history.Op {
		ctx, cancel := context.WithTimeout(t.Context(), d)
		defer cancel()
		op.Type = history.Invoke
		return record(c.Invoke(ctx, record(op)))
	}
	connect := func(node string) driver.Client {
		c, err := sys.Client(t.Context(), env, node, "register")
		if err != nil {
			t.Error(err)
		}
		return c
	}
	for i := range workers {
		wg.Go(func() {
			w := Worker{Index: i, Process: i, Node: env.Nodes()[i%len(env.Nodes())]}
			c := connect(w.Node)
			for n := 0; ; n++ {
				select {
				case <-stop:
					_ = c.Close()
					return
				default:
				}
				op, _ := in.Next(w, n, rand.New(rand.NewPCG(uint64(i), uint64(n))))
				op.Process, op.Node = w.Process, w.Node
				done := call(c, op, 300*time.Millisecond)
				if w.Last = &done; done.Type == history.Info {
					mu.Lock()
					w.Process, next = next, next+1
					mu.Unlock()
					_ = c.Close()
					c = connect(w.Node)
				}
			}
		})
	}
	while()
	close(stop)
	wg.Wait()
	for i, f := range in.Final(env.Nodes()) {
		c := connect(f.Node)
		f.Op.Process, f.Op.Node = next+i, f.Node
		call(c, f.Op, 5*time.Second)
		_ = c.Close()
	}
	return h
}

// The service of the example does what its scenario says: as it stands its
// followers answer with old values; with its switches it is in order, though
// nodes are killed and stopped. (Its other fault shows only when a machine loses
// power, and only the lab does that.)
func TestExampleService(t *testing.T) {
	labtest.Server(t, "python3", "python3")
	dir, err := filepath.Abs(filepath.Join("..", "..", "examples", "lab"))
	if err != nil {
		t.Fatal(err)
	}
	src, err := os.ReadFile(filepath.Join(dir, "your-service.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var scenario struct {
		System struct {
			Exec driver.ExecConfig `yaml:"exec"`
		} `yaml:"system"`
	}
	if err := yaml.Unmarshal(src, &scenario); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name     string
		switches []string
		want     check.Verdict
	}{
		{"as it stands", nil, check.Invalid},
		{"mended", []string{"--fsync", "--reads=leader"}, check.Valid},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := scenario.System.Exec
			cfg.Servers = slices.Clone(cfg.Servers)
			cfg.Servers[0].Command = slices.Concat(cfg.Servers[0].Command, tc.switches)
			sys, err := driver.NewExec(cfg)
			if err != nil {
				t.Fatal(err)
			}
			env := newLocal(t, dir)
			for _, n := range env.nodes {
				if err := os.MkdirAll(env.DataDir(n), 0o755); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = os.RemoveAll(env.DataDir(n)) })
			}
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			defer cancel()
			if err := sys.Setup(ctx, env); err != nil {
				t.Fatal(err)
			}
			if got, err := sys.Primaries(ctx, env); err != nil || len(got) != 1 || got[0] != env.nodes[0] {
				t.Errorf("primaries: %v, %v", got, err)
			}
			in, err := New("register", Config{Workers: 6})
			if err != nil {
				t.Fatal(err)
			}
			h := drive(t, sys, env, in, 6, func() {
				pass(800 * time.Millisecond)
				follower := env.procs[env.nodes[2]].Process
				_ = follower.Signal(syscall.SIGSTOP)
				pass(600 * time.Millisecond)
				_ = follower.Signal(syscall.SIGCONT)
				pass(400 * time.Millisecond)
				env.kill(env.nodes[0])
				if err := env.Start(ctx, env.nodes[0], env.what[env.nodes[0]]); err != nil {
					t.Error(err)
				}
				pass(400 * time.Millisecond)
			})
			verdict, results := judge(t, in, h)
			if verdict != tc.want {
				t.Errorf("got %s, want %s%s", verdict, tc.want, explain(results))
			}
			t.Log(explain(results))
		})
	}
}

// pass lets real time pass.
func pass(d time.Duration) { <-time.NewTimer(d).C }
