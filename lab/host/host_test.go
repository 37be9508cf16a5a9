//go:build linux

package host

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/internal/stage"
)

// config is a host 10.77.0.number with directories below dir, which knows the
// hosts 11 and 12.
func config(name string, number int, dir string) Config {
	c := Config{
		Name: name, Addr: netip.PrefixFrom(address(number), 16), Gateway: address(1), DNS: address(1),
		Neighbors: map[netip.Addr]net.HardwareAddr{address(1): MAC(address(1))},
		Hosts:     map[string]netip.Addr{},
		Scratch:   filepath.Join(dir, name, "scratch"), Data: filepath.Join(dir, name, "data"),
	}
	for i := 11; i <= 12; i++ {
		c.Neighbors[address(i)] = MAC(address(i))
		c.Hosts[fmt.Sprintf("n%d", i-10)] = address(i)
	}
	return c
}

func address(number int) netip.Addr { return netip.AddrFrom4([4]byte{10, 77, 0, byte(number)}) }

// up starts a host that goes off with the test.
func up(t *testing.T, name string, number int) *Host {
	t.Helper()
	labtest.Devices(t)
	dir := t.TempDir()
	open(t, dir)
	cfg := config(name, number, dir)
	cfg.Stderr = t.Output()
	h, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := h.PowerOff(ctx); err != nil {
			t.Error(err)
		}
	})
	return h
}

// open lets other users pass to a temporary directory.
func open(t *testing.T, dir string) {
	t.Helper()
	for ; dir != os.TempDir() && dir != "/"; dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// join copies frames between the ends of two interfaces until either is gone.
func join(a, b *os.File) {
	for _, way := range [][2]*os.File{{a, b}, {b, a}} {
		go func() {
			frame := make([]byte, 65536)
			for {
				n, err := way[0].Read(frame)
				if err != nil {
					return
				}
				_, _ = way[1].Write(frame[:n]) // the other may be off
			}
		}()
	}
}

// run starts a process and fails the test when it does not start.
func run(t *testing.T, h *Host, p Process) *Proc {
	t.Helper()
	proc, err := h.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	return proc
}

// output runs a command to its end.
func output(t *testing.T, h *Host, argv ...string) string {
	t.Helper()
	var out bytes.Buffer
	p := run(t, h, Process{Name: "output", Argv: argv, Stdout: &out, Stderr: &out})
	ended(t, p)
	if s := p.Status(); s != (Exit{}) {
		t.Fatalf("%v: %v: %s", argv, s, out.String())
	}
	return out.String()
}

func ended(t *testing.T, p *Proc) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.NewTimer(10 * time.Second).C:
		t.Fatalf("%s does not end", p.Name())
	}
}

// ready starts a program that says a line when it is ready, and returns when it
// did.
func ready(t *testing.T, h *Host, p Process) *Proc {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll([]*os.File{r})
	p.Stdout = w
	proc, err := h.Run(t.Context(), p)
	_ = w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(r).ReadString('\n'); err != nil {
		t.Fatalf("%s: %q, %v", p.Name, line, err)
	}
	return proc
}

func TestHost_Network(t *testing.T) {
	a, b := up(t, "n1", 11), up(t, "n2", 12)
	join(a.TAP(), b.TAP())
	ready(t, a, Process{Name: "echo", Argv: stage.Argv("test.echo")})
	var out bytes.Buffer
	p := run(t, b, Process{
		Name: "call", Argv: stage.Argv("test.call", "n1:7"),
		Stdin: strings.NewReader(strings.Repeat("x", 1<<20)), Stdout: &out, Stderr: t.Output(),
	})
	ended(t, p)
	if s := p.Status(); s != (Exit{}) || out.Len() != 1<<20 {
		t.Fatalf("%v, %d bytes came back", s, out.Len())
	}
	if p.Status().String() != "exit code 0" {
		t.Error(p.Status())
	}
}

func TestHost_ToTheLab(t *testing.T) {
	labtest.Devices(t)
	own, err := LabInterface(t.Context(), InterfaceConfig{
		Name: "lab0", Addr: netip.PrefixFrom(address(1), 16),
		Neighbors: map[netip.Addr]net.HardwareAddr{address(11): MAC(address(11))},
	})
	if err != nil {
		t.Fatal(err)
	}
	h := up(t, "n1", 11)
	join(own.TAP(), h.TAP())
	ready(t, h, Process{Name: "echo", Argv: stage.Argv("test.echo")})
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", "10.77.0.11:7")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	answer := make([]byte, 5)
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "hello" {
		t.Fatal(string(answer), err)
	}

	// A reader that waits gets an error when the interface is removed.
	failed := make(chan error)
	go func() {
		frame := make([]byte, 65536)
		for {
			if _, err := own.TAP().Read(frame); err != nil {
				failed <- err
				return
			}
		}
	}()
	if err := own.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("no error")
	}
	if _, err := net.InterfaceByName("lab0"); err == nil {
		t.Error("lab0 is still there")
	}
	if err := own.Close(); err != nil {
		t.Error("second Close:", err)
	}
}

func TestHost_WhatAProcessSees(t *testing.T) {
	h := up(t, "n1", 11)
	for _, c := range []struct{ cmd, want string }{
		{"hostname", "n1\n"},
		{"cat /etc/hostname", "n1\n"},
		{"cat /etc/hosts", "127.0.0.1 localhost\n10.77.0.11 n1.lab n1\n10.77.0.12 n2.lab n2\n"},
		{"cat /etc/resolv.conf", "search lab\nnameserver 10.77.0.1\noptions timeout:1 attempts:2\n"},
		{"echo $LANG $USER", "C.UTF-8 root\n"},
		{"pwd", h.cfg.Data + "\n"},
		{"echo $TMPDIR; test -k $TMPDIR && echo sticky", h.cfg.Scratch + "/tmp\nsticky\n"},
		{"ls /dev/shm | wc -l", "0\n"},
		{"cat /proc/sys/net/ipv6/conf/all/disable_ipv6", "1\n"},
		{"ls /sys/class/net | xargs", "eth0 lo\n"},
		{"cat /sys/class/net/eth0/mtu /sys/class/net/eth0/tx_queue_len /sys/class/net/eth0/address", "1500\n1000\n02:00:0a:4d:00:0b\n"},
		{"set -- /proc/[0-9]*; echo $#", "2\n"}, // the first process and this shell
	} {
		if got := output(t, h, "sh", "-c", c.cmd); got != c.want {
			t.Errorf("%s: %q, want %q", c.cmd, got, c.want)
		}
	}
	// The machine's own are as they were.
	if data, err := os.ReadFile("/etc/hostname"); err == nil && string(data) == "n1\n" {
		t.Error("the machine has the host's name")
	}
}

func TestHost_Environment(t *testing.T) {
	h := up(t, "n1", 11)
	var out bytes.Buffer
	p := run(t, h, Process{Name: "env", Argv: []string{"env"}, Env: []string{"A=1", "LANG=x", "A=2"}, Stdout: &out})
	ended(t, p)
	var keys []string
	for line := range strings.Lines(out.String()) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		keys = append(keys, k)
		if k == "A" && v != "2" || k == "LANG" && v != "x" {
			t.Error(line)
		}
	}
	slices.Sort(keys)
	want := []string{"A", "HOLDFAST_LAB", "HOLDFAST_PROCESS", "HOME", "LANG", "LOGNAME", "PATH", "TMPDIR", "USER"}
	if !slices.Equal(keys, want) {
		t.Errorf("%v, want %v", keys, want)
	}
}

func TestHost_Stdio(t *testing.T) {
	h := up(t, "n1", 11)
	var out, errs bytes.Buffer
	p := run(t, h, Process{
		Name: "cat", Argv: []string{"sh", "-c", "cat; echo oops >&2; exit 3"},
		Stdin: strings.NewReader("hello"), Stdout: &out, Stderr: &errs,
	})
	ended(t, p)
	if s := p.Status(); s.Code != 3 || s.Signal != 0 || out.String() != "hello" || errs.String() != "oops\n" {
		t.Fatalf("%v %q %q", s, out.String(), errs.String())
	}

	// A conversation over pipes.
	inR, inW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	p = run(t, h, Process{Name: "cat", Argv: []string{"cat"}, Stdin: inR, Stdout: outW})
	closeAll([]*os.File{inR, outW})
	lines := bufio.NewReader(outR)
	for i := range 3 {
		say := fmt.Sprintf("line %d\n", i)
		if _, err := inW.WriteString(say); err != nil {
			t.Fatal(err)
		}
		if got, err := lines.ReadString('\n'); got != say {
			t.Fatal(got, err)
		}
	}
	_ = inW.Close()
	ended(t, p)
	_ = outR.Close()

	// A log is appended to, by stdout and stderr alike.
	log := filepath.Join(h.cfg.Scratch, "log")
	for range 2 {
		ended(t, run(t, h, Process{Name: "log", Argv: []string{"sh", "-c", "echo out; echo err >&2"}, LogFile: log}))
	}
	if data, err := os.ReadFile(log); string(data) != "out\nerr\nout\nerr\n" {
		t.Errorf("%q %v", data, err)
	}

	// What a process leaves behind does not keep it from being done.
	out.Reset()
	p = run(t, h, Process{Name: "leaver", Argv: []string{"sh", "-c", "echo a; sleep 1000 &"}, Stdout: &out})
	ended(t, p)
	if n, err := h.Kill(t.Context(), "leaver"); n != 1 || err != nil || out.String() != "a\n" {
		t.Errorf("%d left behind, %v; %q", n, err, out.String())
	}
}

func TestHost_ExecErrors(t *testing.T) {
	h := up(t, "n1", 11)
	dir := h.cfg.Scratch
	write := func(name, text string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	for _, c := range []struct {
		name string
		p    Process
		want string
	}{
		{"no such program", Process{Argv: []string{"no-such-program"}}, "host n1: start p: no-such-program: no-such-program: executable file not found in $PATH"},
		{"no such path", Process{Argv: []string{"/no/such"}}, "no such file or directory"},
		{"not executable", Process{Argv: []string{write("plain", "x", 0o644)}}, "not executable"},
		{"no program", Process{Argv: []string{write("garbage", "x", 0o755)}}, "neither a program for this machine nor a script"},
		{"no interpreter", Process{Argv: []string{write("script", "#!/no/such\n", 0o755)}}, "the interpreter in its first line"},
		{"a directory", Process{Argv: []string{dir}}, "is a directory"},
		{"no such directory", Process{Argv: []string{"true"}, Dir: "/no/such"}, "/no/such: no such file"},
		{"no such user", Process{Argv: []string{"true"}, User: "nosuchuser"}, "user nosuchuser: not known here"},
		{"no arguments", Process{}, "no program"},
		{"bad environment", Process{Argv: []string{"true"}, Env: []string{"x"}}, "want KEY=VALUE"},
		{"two outputs", Process{Argv: []string{"true"}, LogFile: "x", Stdout: io.Discard}, "a log file and a writer"},
		{"no log", Process{Argv: []string{"true"}, LogFile: "/no/such/log"}, "no such file"},
		{"too much", Process{Argv: []string{"true", strings.Repeat("x", 1<<20)}}, "too large"},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.p.Name = "p"
			p, err := h.Run(t.Context(), c.p)
			if p != nil || err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	var e *ExecError
	if _, err := h.Run(t.Context(), Process{Name: "p", Argv: []string{"no-such-program"}}); !errors.As(err, &e) || e.Program != "no-such-program" {
		t.Errorf("%v is no ExecError", err)
	}
	if left := h.Pids(); len(left) != 0 {
		t.Errorf("%v left", left)
	}

	run(t, h, Process{Name: "p", Argv: []string{"sleep", "1000"}})
	if _, err := h.Run(t.Context(), Process{Name: "p", Argv: []string{"true"}}); !errors.Is(err, ErrRunning) {
		t.Error("twice the same name:", err)
	}
}

func TestHost_Users(t *testing.T) {
	h := up(t, "n1", 11)
	for _, c := range []struct{ user, want string }{
		{"", "0 0 root"},
		{"root", "0 0 root"},
		{"nobody", "65534 65534 nobody"},
		{"12345", "12345 12345 12345"},
	} {
		var out bytes.Buffer
		p := run(t, h, Process{
			Name: "id", User: c.user, Stdout: &out, Stderr: &out, Dir: filepath.Join(h.cfg.Data, "of"+c.user),
			Argv: []string{"sh", "-c", "echo $(id -u) $(id -G) $USER; touch file $TMPDIR/f$(id -u) $HOME/file; grep CapEff /proc/self/status"},
		})
		ended(t, p)
		lines := strings.Split(out.String(), "\n")
		if lines[0] != c.want || p.Status().Code != 0 {
			t.Errorf("user %q: %q, %v", c.user, out.String(), p.Status())
		}
		if mighty := lines[1] != "CapEff:\t0000000000000000"; mighty != strings.HasPrefix(c.want, "0 ") {
			t.Errorf("user %q: %s", c.user, lines[1])
		}
	}
}

// members of a host by command.
func commands(t *testing.T, h *Host) map[string]int {
	t.Helper()
	all, err := readTable()
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, e := range all.below(h.PID()).living() {
		n[e.command]++
	}
	return n
}

func TestHost_KillTree(t *testing.T) {
	h := up(t, "n1", 11)
	other := ready(t, h, Process{Name: "other", Argv: stage.Argv("test.wait")})
	tree := ready(t, h, Process{Name: "tree", Argv: stage.Argv("test.scatter")})
	until(t, "four sleep", func() bool { return commands(t, h)["sleep"] == 4 && len(h.Pids()) == 7 })
	until(t, "signal 0 reaches six", func() bool {
		n, err := tree.SignalAll(t.Context(), 0)
		return n == 6 && err == nil
	})
	n, err := h.Kill(t.Context(), "tree")
	if err != nil || n != 6 { // itself, sh, four that sleep
		t.Errorf("%d killed, %v", n, err)
	}
	if s := tree.Status(); s.Signal != syscall.SIGKILL || s.Code != -1 || s.String() != "killed by SIGKILL" {
		t.Error(s)
	}
	if c := commands(t, h); c["sleep"] != 0 || c["sh"] != 0 {
		t.Errorf("left: %v", c)
	}
	if got := h.Pids(); !slices.Equal(got, []int{other.PID()}) {
		t.Errorf("%v, want %d", got, other.PID())
	}
	if n, err := h.Kill(t.Context(), "tree"); n != 0 || err != nil {
		t.Errorf("second: %d, %v", n, err)
	}
	if _, err := h.Kill(t.Context(), "nobody"); err == nil {
		t.Error("killed what never was")
	}

	// The name is free again, and Kill of all leaves nobody.
	ready(t, h, Process{Name: "tree", Argv: stage.Argv("test.scatter")})
	until(t, "four sleep", func() bool { return commands(t, h)["sleep"] == 4 && len(h.Pids()) == 7 })
	if n, err := h.Kill(t.Context(), ""); n != 7 || err != nil {
		t.Errorf("all: %d, %v", n, err)
	}
	ended(t, other)
	if left := h.Pids(); len(left) != 0 {
		t.Errorf("%v left", left)
	}
	// Nor are there zombies.
	all, err := readTable()
	if err != nil {
		t.Fatal(err)
	}
	until(t, "no zombies", func() bool {
		all, err = readTable()
		return err == nil && len(all.below(h.PID())) == 0
	})
}

func TestHost_PauseResume(t *testing.T) {
	h := up(t, "n1", 11)
	one := ready(t, h, Process{Name: "one", Argv: stage.Argv("test.scatter")})
	two := run(t, h, Process{Name: "two", Argv: stage.Argv("test.spin")})
	until(t, "four sleep", func() bool { return commands(t, h)["sleep"] == 4 && h.Running() == 7 })
	if n, err := h.Pause(t.Context(), "one"); n != 6 || err != nil {
		t.Fatalf("%d paused, %v", n, err)
	}
	if n := h.Running(); n != 1 {
		t.Errorf("%d run, want two alone", n)
	}
	if n, err := h.Pause(t.Context(), ""); n != 7 || err != nil {
		t.Fatalf("%d paused, %v", n, err)
	}
	before := cpu(t, two.PID())
	if n, err := h.Resume(t.Context(), "one"); n != 6 || err != nil {
		t.Errorf("%d resumed, %v", n, err)
	}
	until(t, "one runs", func() bool { return h.Running() == 6 })
	if after := cpu(t, two.PID()); after != before {
		t.Errorf("two used %d ticks while paused", after-before)
	}
	// Paused ones can be killed, and what is started meanwhile runs.
	output(t, h, "true")
	if n, err := h.Kill(t.Context(), "two"); n != 1 || err != nil {
		t.Errorf("%d killed, %v", n, err)
	}
	if n, err := h.Resume(t.Context(), ""); n != 0 || err != nil {
		t.Errorf("%d resumed, %v", n, err)
	}
	if err := one.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	ended(t, one)
}

// A process that forks as fast as it can is stopped for all that.
func TestHost_PauseForker(t *testing.T) {
	h := up(t, "n1", 11)
	ready(t, h, Process{Name: "forker", Argv: []string{"sh", "-c", "echo ready; while :; do sleep 0.001 & sleep 0.001; done"}})
	for range 5 {
		if n, err := h.Pause(t.Context(), "forker"); n == 0 || err != nil {
			t.Fatalf("%d paused, %v", n, err)
		}
		if n := h.Running(); n != 0 {
			t.Errorf("%d run", n)
		}
		if _, err := h.Resume(t.Context(), "forker"); err != nil {
			t.Error(err)
		}
	}
	if _, err := h.Kill(t.Context(), "forker"); err != nil || len(h.Pids()) != 0 {
		t.Errorf("%v left, %v", h.Pids(), err)
	}
}

// cpu is the time that a process used, in ticks.
func cpu(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	f := strings.Fields(string(data[bytes.LastIndexByte(data, ')'):]))
	var user, system int
	if _, err := fmt.Sscan(f[12], &user); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Sscan(f[13], &system); err != nil {
		t.Fatal(err)
	}
	return user + system
}

func TestHost_PowerOff(t *testing.T) {
	a, b := up(t, "n1", 11), up(t, "n2", 12)
	join(a.TAP(), b.TAP())
	ready(t, a, Process{Name: "echo", Argv: stage.Argv("test.echo")})
	tree := ready(t, a, Process{Name: "tree", Argv: stage.Argv("test.scatter")})
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll([]*os.File{r, w})
	outR, outW, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll([]*os.File{outR})
	call := run(t, b, Process{Name: "call", Argv: stage.Argv("test.call", "n1:7"), Stdin: r, Stdout: outW, Stderr: t.Output()})
	_ = outW.Close()
	if _, err := w.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := outR.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := a.PowerOff(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-a.Done()
	<-tree.Done()
	if s := tree.Status(); s.Signal != syscall.SIGKILL {
		t.Error(s)
	}
	all, err := readTable()
	if err != nil {
		t.Fatal(err)
	}
	if left := all.below(a.PID()); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := a.TAP().Read(make([]byte, 10)); !errors.Is(err, unix.EBADFD) {
		t.Error("TAP:", err)
	}
	if _, err := a.Run(t.Context(), Process{Name: "x", Argv: []string{"true"}}); !errors.Is(err, ErrOff) {
		t.Error("run:", err)
	}
	if _, err := a.Pause(t.Context(), ""); !errors.Is(err, ErrOff) {
		t.Error("pause:", err)
	}
	// The other end was not told: the connection looks as it did.
	select {
	case <-call.Done():
		t.Error("the peer saw the connection end:", call.Status())
	case <-time.NewTimer(100 * time.Millisecond).C:
	}

	// The same host comes up again.
	again, err := Start(t.Context(), a.cfg)
	if err != nil {
		t.Fatal(err)
	}
	join(again.TAP(), b.TAP())
	if err := again.PowerOff(t.Context()); err != nil {
		t.Error(err)
	}
}

// A start that is given up leaves nothing, and the name is free again.
func TestHost_RunGivenUp(t *testing.T) {
	labtest.Devices(t)
	cfg := config("n1", 11, t.TempDir())
	listeners := make(chan *os.File, 1)
	cfg.Clock, cfg.ClockListener = true, func(f *os.File) { listeners <- f } // and nobody serves it
	h, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		f := <-listeners
		cancel()
		listeners <- f
	}()
	if _, err := h.Run(ctx, Process{Name: "p", Argv: []string{"true"}}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	until(t, "nothing is left", func() bool { return len(h.Pids()) == 0 })
	_ = (<-listeners).Close()
	until(t, "the name is free", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.byName["p"] == nil
	})
	if err := h.PowerOff(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestStart_Fails(t *testing.T) {
	labtest.Devices(t)
	cfg := config("n1", 11, t.TempDir())
	cfg.Private = []string{"/no/such/directory"}
	if h, err := Start(t.Context(), cfg); h != nil || err == nil || !strings.Contains(err.Error(), "host n1: mount tmpfs on /no/such/directory: no such file") {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if h, err := Start(ctx, config("n1", 11, t.TempDir())); h != nil || !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if left := cgroups(t); len(left) != 0 {
		t.Error(left)
	}
}

// The clock of lab/vclock, users and a short life, as they are without root.
func TestHost_AllTogether(t *testing.T) {
	labtest.Devices(t)
	dir := t.TempDir()
	open(t, dir)
	if err := userland(dir); err != nil {
		t.Error(err)
	}
}

// A host's own mounts hide what they cover, and no host has the disk of another.
func TestHost_Mounts(t *testing.T) {
	labtest.Devices(t)
	dir := t.TempDir()
	disks := map[string]bool{}
	for _, name := range []string{"n1", "n2"} {
		f, err := os.OpenFile(fuseDevice, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer closeAll([]*os.File{f})
		data := filepath.Join(dir, name, "data")
		if err := os.MkdirAll(data, 0o755); err != nil {
			t.Fatal(err)
		}
		options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", f.Fd())
		if err := unix.Mount("faultfs", data, "fuse.faultfs", 0, options); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Unmount(data, unix.MNT_DETACH) }()
		disks[data] = true
	}
	private := filepath.Join(dir, "private")
	if err := os.MkdirAll(filepath.Join(private, "hidden"), 0o755); err != nil {
		t.Fatal(err)
	}
	cfg := config("n1", 11, dir)
	cfg.Private = []string{private}
	h, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	p := run(t, h, Process{Name: "p", Argv: []string{"sh", "-c", "ls " + private + "; cat /proc/self/mountinfo"}, Dir: "/", Stdout: &out})
	ended(t, p)
	var seen []string
	for line := range strings.Lines(out.String()) {
		if m, ok := parseMount(line); ok && m.disk() {
			seen = append(seen, m.point)
		}
	}
	if want := []string{cfg.Data}; !slices.Equal(seen, want) || strings.Contains(out.String(), "hidden") {
		t.Errorf("disks %v, want %v; %s", seen, want, out.String())
	}
	if err := h.PowerOff(t.Context()); err != nil {
		t.Error(err)
	}
}

// A host whose first process dies by itself is off.
func TestHost_DiesByItself(t *testing.T) {
	h := up(t, "n1", 11)
	p := ready(t, h, Process{Name: "tree", Argv: stage.Argv("test.scatter")})
	// Signals from inside do nothing.
	output(t, h, "sh", "-c", "kill -TERM 1; kill -INT 1; kill -HUP 1; kill -KILL 1; kill -STOP 1; kill -QUIT 1; true")
	output(t, h, "true")
	if err := syscall.Kill(h.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-h.Done()
	<-p.Done()
	if err := h.PowerOff(t.Context()); err != nil {
		t.Error(err)
	}
}

// until waits for f to become true.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for limit := time.Now().Add(10 * time.Second); !f(); <-tick.C {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}
