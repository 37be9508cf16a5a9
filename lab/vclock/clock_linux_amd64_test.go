package vclock

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/internal/stage"
)

// child is a program under the filter, which a process between started.
type child struct {
	t      *testing.T
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	waited sync.Once
	err    error
}

// listenerOf starts a parent and returns the listener that it sends.
func listenerOf(cmd *exec.Cmd) (*os.File, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "ours"), os.NewFile(uintptr(pair[1]), "theirs")
	defer func() { _ = ours.Close() }()
	cmd.ExtraFiles = []*os.File{theirs}
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return nil, err
	}
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return nil, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		return nil, err
	}
	if len(messages) == 0 {
		return nil, errors.New("no listener came")
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "listener"), nil
}

func start(t *testing.T, c *Clock, argv ...string) *child {
	t.Helper()
	cmd := stage.Command(t.Context(), "test-parent", argv...)
	return startCommand(t, c, cmd)
}

func startCommand(t *testing.T, c *Clock, cmd *exec.Cmd) *child {
	t.Helper()
	if cmd.Stderr == nil {
		cmd.Stderr = stderr
	}
	cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	listener, err := listenerOf(cmd)
	if err != nil {
		t.Fatal(err)
	}
	c.Serve(listener)
	p := &child{t: t, cmd: cmd, in: in, out: bufio.NewReader(out)}
	t.Cleanup(func() {
		_ = p.in.Close()
		_ = p.cmd.Process.Kill()
		_ = p.wait()
	})
	return p
}

func (p *child) wait() error {
	p.waited.Do(func() { p.err = p.cmd.Wait() })
	return p.err
}

// line reads a line of output.
func (p *child) line() string {
	p.t.Helper()
	s, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("no answer: %v", err)
	}
	return strings.TrimSpace(s)
}

func (p *child) ask() string {
	p.t.Helper()
	if _, err := io.WriteString(p.in, "\n"); err != nil {
		p.t.Fatal(err)
	}
	return p.line()
}

func newClock(t *testing.T) *Clock {
	t.Helper()
	labtest.Devices(t)
	c := New()
	t.Cleanup(c.Close)
	return c
}

func set(t *testing.T, c *Clock, o Offset) {
	t.Helper()
	if err := c.Set(o); err != nil {
		t.Fatal(err)
	}
}

// near checks an offset against what it has to be at some time since from.
func near(t *testing.T, what string, got, low, high, slack time.Duration) {
	t.Helper()
	if got < low-slack || got > high+slack {
		t.Errorf("%s: offset %v, want %v to %v (± %v)", what, got, low, high, slack)
	}
}

// startProbe starts the stage clockprobe of a program under the clock.
func startProbe(t *testing.T, c *Clock, argv ...string) *Probe {
	t.Helper()
	p := start(t, c, argv...)
	return p.probe()
}

func (p *child) probe() *Probe {
	probe := NewProbe()
	var copies sync.WaitGroup
	copies.Go(func() {
		_, _ = io.Copy(p.in, probe)
		_ = p.in.Close()
	})
	copies.Go(func() { _, _ = io.Copy(probe, p.out) })
	p.t.Cleanup(func() {
		_ = probe.Close()
		copies.Wait()
	})
	return probe
}

func sample(t *testing.T, p *Probe) Sample {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	s, err := p.Sample(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// probeArgs are what starts the probe: a shell gives it the name of its stage.
var probeArgs = []string{"bash", "-c", `exec -a holdfast-lab:clockprobe "$0"`, "/proc/self/exe"}

// probeStage starts the probe through a script that executes it.
func probeStage(t *testing.T, c *Clock) *Probe {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(append([]string{}, probeArgs[:3]...), self)
	return startProbe(t, c, args...)
}

const hour = time.Hour

func TestJumpDriftHeal(t *testing.T) {
	c := newClock(t)
	p := probeStage(t, c)
	exactly := func(what string, o Offset) {
		t.Helper()
		before, _ := monotonic()
		set(t, c, o)
		after, _ := monotonic()
		for range 3 {
			s := sample(t, p)
			low, high := o.At(s.Mono-time.Duration(after)), o.At(s.Mono-time.Duration(before))
			near(t, what, s.Offset, min(low, high), max(low, high), s.Error+time.Duration(2*abs(o.Drift)*float64(s.Error)))
		}
		if c.Processes() < 1 {
			t.Errorf("%s: the clock moves no process", what)
		}
	}
	sample(t, p)
	exactly("right", Offset{})
	exactly("+1h", Offset{Jump: hour})
	exactly("-1h", Offset{Jump: -hour})
	exactly("+1ns", Offset{Jump: 1})
	exactly("-300ms", Offset{Jump: -300 * time.Millisecond})
	exactly("1951", Offset{Jump: -75 * 365 * 24 * hour})
	exactly("2100", Offset{Jump: 75 * 365 * 24 * hour})
	exactly("+0.5", Offset{Drift: 0.5})
	exactly("-0.5", Offset{Jump: -30 * time.Second, Drift: -0.5})
	exactly("stands still", Offset{Drift: -1})
	exactly("×1000", Offset{Drift: 999})
	exactly("500 ppm", Offset{Drift: 0.0005})
	exactly("heal", Offset{})
	for i := range 50 {
		set(t, c, Offset{Jump: time.Duration(i%2) * hour})
		s := sample(t, p)
		near(t, "strobe", s.Offset, time.Duration(i%2)*hour, time.Duration(i%2)*hour, s.Error)
	}
	list, err := c.Unpatched()
	if err != nil || len(list) != 0 {
		t.Errorf("unpatched: %v, %v", list, err)
	}
}

func abs(f float64) float64 { return max(f, -f) }

// TestReaders reads the clock in every way that C programs have.
func TestReaders(t *testing.T) {
	t.Run("by the vDSO", func(t *testing.T) { readers(t, newClock(t)) })
	t.Run("by system calls", func(t *testing.T) {
		c := newClock(t)
		c.plan = func(image []byte) (plan, error) {
			p, err := planFor(image)
			if p.clock == nil && !p.marked {
				t.Log("the beginning of clock_gettime is not known: both tests are the same")
			}
			p.clock = nil
			return p, err
		}
		readers(t, c)
	})
}

func readers(t *testing.T, c *Clock) {
	t.Helper()
	cc := labtest.Server(t, "cc", "gcc")
	dir := t.TempDir()
	for _, static := range []bool{false, true} {
		args := []string{"-O1", "-o", filepath.Join(dir, "clock"), "testdata/clock.c"}
		if static {
			args = append([]string{"-static"}, args...)
		}
		if out, err := exec.CommandContext(t.Context(), cc, args...).CombinedOutput(); err != nil {
			t.Fatalf("cc: %v\n%s", err, out)
		}
		direct := start(t, c, filepath.Join(dir, "clock"))
		forked := start(t, c, filepath.Join(dir, "clock"), "fork")
		for _, o := range []time.Duration{
			0, 1, -1, 999_999_999, -999_999_999, 500 * time.Millisecond, -500 * time.Millisecond, hour, -hour,
			-60 * 365 * 24 * hour, 60 * 365 * 24 * hour, 0,
		} {
			for who, p := range map[string]*child{"process": direct, "grandchild": forked} {
				p.ask() // the grandchild is there
				set(t, c, Offset{Jump: o})
				what := fmt.Sprintf("static=%v %s %v ", static, who, o)
				var rt, coarse, tai, mono, boot, cpu, day, sec int64
				var bad int
				if _, err := fmt.Sscan(p.ask(), &rt, &coarse, &tai, &mono, &boot, &cpu, &day, &sec, &bad); err != nil {
					t.Fatal(err)
				}
				const ms = time.Millisecond
				near(t, what+"CLOCK_REALTIME", time.Duration(rt), o, o+20*ms, 0)
				near(t, what+"CLOCK_REALTIME_COARSE", time.Duration(coarse), o, o+20*ms, 0)
				near(t, what+"CLOCK_TAI", time.Duration(tai), o, o+20*ms, 0)
				near(t, what+"CLOCK_MONOTONIC", time.Duration(mono), 0, 20*ms, 0)
				near(t, what+"CLOCK_BOOTTIME", time.Duration(boot), 0, 20*ms, 0)
				near(t, what+"CLOCK_PROCESS_CPUTIME_ID", time.Duration(cpu), 0, 20*ms, 0)
				near(t, what+"gettimeofday", time.Duration(day), o, o+20*ms, time.Microsecond)
				near(t, what+"time", time.Duration(sec), o-time.Second, o+20*ms, 0)
				if bad != 0 {
					t.Errorf("%s: a call failed or returned what it must not: %b", what, bad)
				}
			}
		}
	}
}

func TestStaticGo(t *testing.T) {
	c := newClock(t)
	dir := t.TempDir()
	source := `package main
import ("bufio"; "fmt"; "os"; "time")
func main() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		begin := time.Now()
		<-time.After(30 * time.Millisecond)
		fmt.Println(time.Now().Unix(), time.Since(begin).Milliseconds())
	}
}`
	if err := os.WriteFile(filepath.Join(dir, "main.go"), []byte(source), 0o600); err != nil {
		t.Fatal(err)
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "clock"), filepath.Join(dir, "main.go"))
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=mod", "GO111MODULE=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	p := start(t, c, filepath.Join(dir, "clock"))
	for _, o := range []time.Duration{0, hour, -hour, 0} {
		p.ask()
		set(t, c, Offset{Jump: o})
		var unix, elapsed int64
		if _, err := fmt.Sscan(p.ask(), &unix, &elapsed); err != nil {
			t.Fatal(err)
		}
		near(t, "time.Now", time.Duration(unix-time.Now().Unix())*time.Second, o, o, 2*time.Second)
		if elapsed < 30 || elapsed > 1000 {
			t.Errorf("a timer of 30 ms took %d ms of a clock that does not move", elapsed)
		}
	}
}

func TestPython(t *testing.T) {
	python := labtest.Server(t, "python3", "python3")
	c := newClock(t)
	p := start(t, c, python, "-u", "-c", `
import os, sys, time
r, w = os.pipe(); r2, w2 = os.pipe()
if os.fork() == 0:
    os.close(w); os.close(r2)
    while os.read(r, 1): os.write(w2, b"%d\n" % time.time())
    os._exit(0)
for line in sys.stdin:
    os.write(w, b"."); child = int(os.read(r2, 100))
    print(int(time.time()), child, int(time.monotonic()))
`)
	for _, o := range []time.Duration{0, hour, -hour, 0} {
		p.ask()
		set(t, c, Offset{Jump: o})
		var unix, child, mono int64
		if _, err := fmt.Sscan(p.ask(), &unix, &child, &mono); err != nil {
			t.Fatal(err)
		}
		near(t, "time.time", time.Duration(unix-time.Now().Unix())*time.Second, o, o, 2*time.Second)
		near(t, "time.time of the child", time.Duration(child-time.Now().Unix())*time.Second, o, o, 2*time.Second)
		now, _ := monotonic()
		near(t, "time.monotonic", time.Duration(mono)*time.Second-time.Duration(now), 0, 0, 2*time.Second)
	}
}

func TestRedis(t *testing.T) {
	redis := labtest.Server(t, "redis-server", "redis-server")
	cli := labtest.Server(t, "redis-cli", "redis-tools")
	c := newClock(t)
	sock := filepath.Join(t.TempDir(), "s")
	p := start(t, c, redis, "--port", "0", "--unixsocket", sock, "--save", "")
	for !strings.Contains(p.line(), "Ready to accept") && !strings.Contains(p.line(), "eady to accept") {
	}
	ask := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), cli, append([]string{"-s", sock}, args...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("redis-cli: %v\n%s", err, out)
		}
		return strings.TrimSpace(string(out))
	}
	ask("set", "lock", "1", "ex", "60")
	for _, o := range []time.Duration{0, -hour, hour, 0} {
		set(t, c, Offset{Jump: o})
		first, _, _ := strings.Cut(ask("time"), "\n")
		sec, err := strconv.ParseInt(first, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "TIME", time.Duration(sec-time.Now().Unix())*time.Second, o, o, 2*time.Second)
		if got, want := ask("exists", "lock"), map[bool]string{true: "1", false: "0"}[o <= 0]; got != want && o != 0 {
			t.Errorf("at %v a key that lives for 60 s exists: %s, want %s", o, got, want)
		}
	}
}

// TestScripts is programs that start programs: each of them is right from its
// first instruction.
func TestScripts(t *testing.T) {
	c := newClock(t)
	set(t, c, Offset{Jump: -hour})
	for _, script := range []string{
		`exec date +%s`,
		`date +%s`,
		`for i in 1 2 3 4 5 6 7 8 9 10; do date +%s; done`,
		`no-such-program-here 2>/dev/null; PATH=/nowhere:/nowhere2:$PATH exec env date +%s`,
		`(date +%s & date +%s & wait) | cat`,
		`nice sh -c "exec setsid date +%s"`,
		`timeout 5 date +%s`,
	} {
		p := start(t, c, "sh", "-c", script)
		out, err := io.ReadAll(p.out)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Fields(string(out))
		if len(lines) == 0 {
			t.Errorf("%s: nothing", script)
		}
		for _, line := range lines {
			sec, err := strconv.ParseInt(line, 10, 64)
			if err != nil {
				t.Fatalf("%s: %s", script, out)
			}
			near(t, script, time.Duration(sec-time.Now().Unix())*time.Second, -hour, -hour, 3*time.Second)
		}
		if err := p.wait(); err != nil {
			t.Errorf("%s: %v", script, err)
		}
	}
}

// TestStorm is 200 programs started at once by two processes.
func TestStorm(t *testing.T) {
	c := newClock(t)
	set(t, c, Offset{Jump: hour})
	script := `for i in $(seq 100); do date +%s & done; wait`
	for _, p := range []*child{start(t, c, "sh", "-c", script), start(t, c, "bash", "-c", script)} {
		out, err := io.ReadAll(p.out)
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Fields(string(out))
		if len(lines) != 100 {
			t.Errorf("%d of 100 programs ran", len(lines))
		}
		for _, line := range lines {
			sec, _ := strconv.ParseInt(line, 10, 64)
			near(t, "date", time.Duration(sec-time.Now().Unix())*time.Second, hour, hour, 10*time.Second)
		}
		if err := p.wait(); err != nil {
			t.Error(err)
		}
	}
}
