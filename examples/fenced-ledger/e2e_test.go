package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"holdfast.dev"
	"holdfast.dev/internal/devcluster"
	"holdfast.dev/internal/pgtest"
)

// Here everything is real: three nodes, workers under "holdfast lock run", a
// database, a holder that is stopped, a leading node that is killed.

// environ is what the processes get: the binaries first in PATH, and no
// setting that is meant for somebody else.
var environ []string

// TestMain builds what the tests run.
func TestMain(m *testing.M) { os.Exit(testMain(m)) } //nolint:forbidigo // the door to the process

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "fenced-ledger-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	if err := build(dir); err != nil {
		panic(err)
	}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "HOLDFAST_") && !strings.HasPrefix(kv, "PATH=") {
			environ = append(environ, kv)
		}
	}
	environ = append(environ, "PATH="+dir+":"+os.Getenv("PATH")) //nolint:forbidigo // of the processes
	return m.Run()
}

func build(dir string) error {
	root := filepath.Join("..", "..")
	// go test keeps a result until a file changes that the test looked at, and
	// it cannot see what the compiler reads.
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err == nil && filepath.Ext(file) == ".go" {
			_, err = os.Stat(file)
		}
		if errors.Is(err, fs.ErrNotExist) { // somebody's temporary file
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", dir+"/", "./cmd/holdfast", "./examples/fenced-ledger")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	return nil
}

// TestMainJob: a holder is paused beyond its TTL, the leading node is killed,
// all goes on. With the fence the late write is refused and the ledger is
// right; the same without shows what the fence is for.
func TestMainJob(t *testing.T) {
	dbs := map[string]func(*testing.T) string{
		"sqlite": func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "ledger.db") },
	}
	if pgtest.Available() && !testing.Short() {
		dbs["postgres"] = func(t *testing.T) string { return pgtest.URL(t) }
	}
	for name, open := range dbs {
		for _, fenced := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s/fence=%v", name, fenced), func(t *testing.T) {
				j := startJob(t, open(t), fenced)
				late := j.run()
				report := j.audit()
				t.Logf("late write: %s; %+v", late.Event, report)
				switch {
				case fenced && late.Event != "refused":
					t.Errorf("the late write under token %s was %s", late.Token, late.Event)
				case fenced && late.Highest <= late.Token:
					t.Errorf("refused under token %s although the highest is %s", late.Token, late.Highest)
				case fenced && !report.Valid:
					t.Errorf("the ledger is wrong: %+v", report)
				case !fenced && late.Event != "appended":
					t.Errorf("without the fence the late write was %s", late.Event)
				case !fenced && (report.Valid || report.Doubled == 0 || report.Lost == 0 || report.OutOfOrder == 0):
					t.Errorf("without the fence the audit finds: %+v", report)
				}
				if report.Missing != 0 {
					t.Errorf("%d acknowledged entries are missing", report.Missing)
				}
			})
		}
	}
}

const (
	ttl      = 2 * time.Second
	patience = time.Minute // for what must happen, on a machine that is very busy
	rivals   = 3
)

// job is the main job with all its processes.
type job struct {
	t       *testing.T
	ctx     context.Context //nolint:containedctx // of one test
	db      string
	fenced  bool
	environ []string
	cluster *devcluster.Cluster
	acks    chan event // appended, by whomever

	mu   sync.Mutex // guards the field below
	said bytes.Buffer
}

func startJob(t *testing.T, db string, fenced bool) *job {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	cluster, err := devcluster.Start(ctx, devcluster.Config{
		Binary: binary(t), Dir: t.TempDir(), Environ: environ, Port: freePort(t), Args: []string{"--log-level", "error"},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	j := &job{t: t, ctx: ctx, db: db, fenced: fenced, cluster: cluster, acks: make(chan event, 1<<16)}
	j.environ = append(j.environ, environ...)
	j.environ = append(j.environ, "HOLDFAST_ENDPOINTS="+strings.Join(cluster.Endpoints(), ","))
	j.output("fenced-ledger", "init", "--db", db)
	return j
}

// binary is the holdfast that was built.
func binary(t *testing.T) string {
	t.Helper()
	path, _ := strings.CutPrefix(environ[len(environ)-1], "PATH=")
	dir, _, _ := strings.Cut(path, ":")
	return filepath.Join(dir, "holdfast")
}

// command is a program of ours by its name.
func (j *job) command(name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(j.ctx, filepath.Join(filepath.Dir(binary(j.t)), name), args...)
	cmd.Env = j.environ
	return cmd
}

// output is what a command says that must succeed.
func (j *job) output(name string, args ...string) []byte {
	j.t.Helper()
	cmd := j.command(name, args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		j.t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(args, " "), err, out, &stderr)
	}
	return out
}

// worker appends under the lock.
func (j *job) worker(name string, args ...string) *exec.Cmd {
	ledger := append([]string{"fenced-ledger", "append", "--db", j.db, "--worker", name, fmt.Sprintf("--fence=%v", j.fenced)}, args...)
	// The shell says which process the ledger's is, and becomes it.
	script := []string{"lock", "run", "ledger", "--ttl", ttl.String(), "--", "sh", "-c", `echo $$; exec "$@"`, "sh"}
	return j.command("holdfast", append(script, ledger...)...)
}

// follow reads a worker's events to its end.
func (j *job) follow(lines *bufio.Scanner, f func(event)) {
	for lines.Scan() {
		line := lines.Bytes()
		if _, err := strconv.Atoi(string(line)); err == nil {
			continue // the number of the process
		}
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			j.t.Errorf("a worker says %q: %v", line, err)
			continue
		}
		j.mu.Lock()
		j.said.Write(line)
		j.said.WriteByte('\n')
		j.mu.Unlock()
		if e.Event == "appended" {
			j.acks <- e
		}
		f(e)
	}
}

// rival works until it is told to stop: acquire, append, release, again.
func (j *job) rival(name string, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-j.ctx.Done():
			j.t.Errorf("%s: %v", name, j.ctx.Err())
			return
		default:
		}
		cmd := j.worker(name, "--count", "3", "--every", "1ms")
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			j.t.Error(err)
			return
		}
		j.follow(bufio.NewScanner(out), func(event) {})
		// It may lose its lock to a slow machine; anything else must not be.
		if err := cmd.Wait(); err != nil && j.ctx.Err() == nil {
			if code := cmd.ProcessState.ExitCode(); code != 123 && (code != exitNo || !j.fenced) {
				j.t.Errorf("%s: %v\n%s", name, err, &stderr)
			}
		}
	}
}

// await takes acknowledgements until one is enough.
func (j *job) await(what string, enough func(event) bool) {
	j.t.Helper()
	for {
		select {
		case e := <-j.acks:
			if enough(e) {
				return
			}
		case <-j.ctx.Done():
			j.t.Fatalf("%s: it did not happen: %v", what, j.ctx.Err())
		}
	}
}

// leader is the name of the leading node.
func (j *job) leader() string {
	j.t.Helper()
	var status struct{ Nodes []struct{ Name, Role string } }
	if err := json.Unmarshal(j.output("holdfast", "status", "-o", "json"), &status); err != nil {
		j.t.Fatal(err)
	}
	for _, n := range status.Nodes {
		if n.Role == "leader" {
			return n.Name
		}
	}
	j.t.Fatalf("nobody leads: %+v", status)
	return ""
}

// waiters is how many wait for the lock.
func (j *job) waiters() int {
	j.t.Helper()
	var lock struct{ Waiters []struct{ Session string } }
	if err := json.Unmarshal(j.output("holdfast", "lock", "show", "ledger", "-o", "json"), &lock); err != nil {
		j.t.Fatal(err)
	}
	return len(lock.Waiters)
}

// run does the job and returns how the late write ended.
func (j *job) run() (late event) {
	// The first holder reads the last entry, and then waits for a line.
	fifo := filepath.Join(j.t.TempDir(), "go")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		j.t.Fatal(err)
	}
	line, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		j.t.Fatal(err)
	}
	defer line.Close()
	runner := j.worker("paused", "--wait", fifo)
	out, err := runner.StdoutPipe()
	if err != nil {
		j.t.Fatal(err)
	}
	if err := runner.Start(); err != nil {
		j.t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() {
		j.t.Fatal("the first holder says nothing")
	}
	child, err := strconv.Atoi(lines.Text())
	if err != nil {
		j.t.Fatal(err)
	}
	events := make(chan event, 10)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(events)
		j.follow(lines, func(e event) { events <- e })
	})
	if e := <-events; e.Event != "holding" {
		j.t.Fatalf("the first holder is not holding: %+v", e)
	}

	stop := make(chan struct{})
	stopRivals := sync.OnceFunc(func() { close(stop) })
	defer func() { // also when the test failed
		stopRivals()
		_ = syscall.Kill(child, syscall.SIGKILL)
		wg.Wait()
	}()
	for i := range rivals {
		wg.Go(func() { j.rival(fmt.Sprintf("rival %d", i+1), stop) })
	}
	for j.waiters() < rivals { // each look takes a process
		if j.ctx.Err() != nil {
			j.t.Fatal("the rivals do not wait")
		}
	}

	// The holder and what keeps its session alive are stopped, until others
	// have the lock.
	j.signal(syscall.SIGSTOP, child, runner.Process.Pid)
	var highest holdfast.Token
	j.await("a rival takes over", func(e event) bool { highest = max(highest, e.Token); return true })

	// The leading node is killed; the service goes on: grants that nobody had
	// before. One could have been under way.
	killed := j.leader()
	if err := j.cluster.Kill(killed); err != nil {
		j.t.Fatal(err)
	}
	for len(j.acks) > 0 {
		highest = max(highest, (<-j.acks).Token)
	}
	for range 3 {
		j.await("grants without the node that led", func(e event) bool {
			was := highest
			highest = max(highest, e.Token)
			return e.Token > was
		})
	}

	// Everything continues: the late writer first, so that it is not stopped
	// before it writes.
	if _, err := line.WriteString("\n"); err != nil {
		j.t.Fatal(err)
	}
	j.signal(syscall.SIGCONT, child)
	select {
	case late = <-events:
	case <-j.ctx.Done():
		j.t.Fatal("the paused holder does not go on")
	}
	j.signal(syscall.SIGCONT, runner.Process.Pid)
	if err := j.cluster.Restart(j.ctx, killed); err != nil {
		j.t.Fatal(err)
	}
	highest = max(highest, late.Token)
	j.await("grants with all nodes", func(e event) bool { return e.Token > highest })
	stopRivals()
	wg.Wait()
	want := exitDone
	if j.fenced {
		want = exitNo
	}
	_ = runner.Wait() // the code says it
	if code := runner.ProcessState.ExitCode(); code != 123 && code != want {
		j.t.Errorf("the paused holder's lock run ended with %d, want 123 or %d", code, want)
	}
	return late
}

func (j *job) signal(s syscall.Signal, pids ...int) {
	j.t.Helper()
	for _, pid := range pids {
		if err := syscall.Kill(pid, s); err != nil {
			j.t.Fatalf("%v to %d: %v", s, pid, err)
		}
	}
}

// audit is the report on the ledger and on everything that was acknowledged.
func (j *job) audit() Report {
	j.t.Helper()
	acks := filepath.Join(j.t.TempDir(), "acks")
	if err := os.WriteFile(acks, j.said.Bytes(), 0o600); err != nil {
		j.t.Fatal(err)
	}
	return audited(j.t, j.db, "--acks", acks)
}

// freePort is a loopback port that nobody uses now.
func freePort(t *testing.T) int {
	t.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}
