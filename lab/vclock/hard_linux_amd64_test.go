package vclock

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/internal/stage"
)

// compileBusy compiles a program of testdata.
func compileBusy(t *testing.T) string {
	t.Helper()
	cc := labtest.Server(t, "cc", "gcc")
	program := filepath.Join(t.TempDir(), "busy")
	source := filepath.Join("testdata", "busy.c")
	if out, err := exec.CommandContext(t.Context(), cc, "-O1", "-pthread", "-o", program, source).CombinedOutput(); err != nil {
		t.Fatalf("cc: %v\n%s", err, out)
	}
	return program
}

// eventually polls; it ends the test when that takes too long.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for deadline := time.Now().Add(10 * time.Second); !ok(); <-ticker.C {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

// TestExecOfThreads is eight threads of one process that execute a program at
// the same time: one of them wins and ends the others.
func TestExecOfThreads(t *testing.T) {
	c := newClock(t)
	busy := compileBusy(t)
	set(t, c, Offset{Jump: hour})
	for range 20 {
		p := start(t, c, busy, "threads")
		sec, err := strconv.ParseInt(p.line(), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		near(t, "date", time.Duration(sec-time.Now().Unix())*time.Second, hour, hour, 3*time.Second)
		if err := p.wait(); err != nil {
			t.Error(err)
		}
	}
}

func TestSignalsDuringExec(t *testing.T) {
	c := newClock(t)
	busy := compileBusy(t)
	set(t, c, Offset{Jump: hour})
	for _, args := range [][]string{{busy, "signals", "300"}, {"old", busy, "signals", "5000"}} {
		p := start(t, c, args...)
		line := p.line()
		sec, err := strconv.ParseInt(line, 10, 64)
		if err != nil {
			t.Fatal(line)
		}
		near(t, "date", time.Duration(sec-time.Now().Unix())*time.Second, hour, hour, 3*time.Second)
	}
}

// TestNoRoom is processes that cannot be patched: they run on, and are listed.
func TestNoRoom(t *testing.T) {
	c := newClock(t)
	c.plan = func([]byte) (plan, error) { return plan{}, errNoRoom }
	set(t, c, Offset{Jump: hour})
	p := probeStage(t, c)
	near(t, "not patched", sample(t, p).Offset, 0, 0, time.Millisecond)
	list, err := c.Unpatched()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, u := range list {
		found = found || errors.Is(u.Err, errNoRoom)
	}
	if !found || c.Processes() != 0 {
		t.Errorf("unpatched: %v; %d processes have the clock", list, c.Processes())
	}
}

// TestKillDuringExec kills process groups whose processes execute programs all
// the time, and then needs the clock to be as good as before.
func TestKillDuringExec(t *testing.T) {
	c := newClock(t)
	set(t, c, Offset{Jump: hour})
	for i := range 12 {
		cmd := stage.Command(t.Context(), "test-parent", "bash", "-c",
			`echo; for i in 1 2 3 4 5 6 7 8; do (while :; do nice true; done) & done; wait`)
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		p := startCommand(t, c, cmd)
		p.line()
		timer := time.NewTimer(time.Duration(i) * 1700 * time.Microsecond)
		<-timer.C
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, p.out); err != nil { // all of them are dead
			t.Fatal(err)
		}
		_ = p.wait()
	}
	p := start(t, c, "date", "+%s")
	sec, _ := strconv.ParseInt(p.line(), 10, 64)
	near(t, "date", time.Duration(sec-time.Now().Unix())*time.Second, hour, hour, 3*time.Second)
	c.Close()
	if n := len(c.execs); n != 0 {
		t.Errorf("%d execs are still followed", n)
	}
}

// TestPauseDuringExec stops and continues a group whose processes execute
// programs all the time: whatever is traced at that moment stops, too.
func TestPauseDuringExec(t *testing.T) {
	c := newClock(t)
	cmd := stage.Command(t.Context(), "test-parent", "bash", "-c", `while :; do nice true; echo; done`)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p := startCommand(t, c, cmd)
	defer func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }()
	for range 20 {
		p.line()
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		eventually(t, "all processes of the group stop", func() bool {
			all, err := numbers("/proc")
			if err != nil {
				t.Fatal(err)
			}
			for _, pid := range all {
				b, err := os.ReadFile(procPath(pid, "stat"))
				if err != nil {
					continue
				}
				_, rest, _ := strings.Cut(string(b), ") ")
				fields := strings.Fields(rest) // state, parent, group
				if fields[2] == strconv.Itoa(cmd.Process.Pid) && fields[0] != "T" && fields[0] != "Z" {
					return false
				}
			}
			return true
		})
		if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
}

// slow is a memory that is written byte by byte, in both directions by turns:
// worse than any machine does it.
type slow struct {
	memory
	backward bool
}

func (s *slow) WriteAt(b []byte, at int64) (int, error) {
	s.backward = !s.backward
	for i := range b {
		if s.backward {
			i = len(b) - 1 - i
		}
		if _, err := s.memory.WriteAt(b[i:i+1], at+int64(i)); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

// TestTorn changes the settings byte by byte under programs that read the clock
// as fast as they can, and that know the only two right answers.
func TestTorn(t *testing.T) {
	c := newClock(t)
	busy := compileBusy(t)
	one := settings{jump: int64(3 * hour), since: 0, drift: 1 << driftShift, mask: wallClocks}
	two := settings{jump: int64(-50 * hour), since: 0, drift: -1 << driftShift, mask: wallClocks}
	c.settings = one
	var ps []*child
	var pids []int
	var vs []*vdso
	for range 2 {
		p := start(t, c, busy, "torn", strconv.FormatInt(one.jump, 10), strconv.FormatInt(two.jump, 10))
		if p.line() != "ready" {
			t.Fatal("not ready")
		}
		ps = append(ps, p)
		pid := childrenOf(t, p.cmd.Process.Pid)[0]
		v, err := openVDSO(pid)
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		v.mem = &slow{memory: v.mem}
		pids, vs = append(pids, pid), append(vs, v)
	}
	sets := 0
	for end := time.Now().Add(time.Second); time.Now().Before(end); sets++ {
		for _, v := range vs {
			if changed, err := v.update(c.shim, c.id, []settings{two, one}[sets%2]); err != nil || !changed {
				t.Fatal(changed, err)
			}
		}
	}
	for i, p := range ps {
		_ = syscall.Kill(pids[i], syscall.SIGTERM)
		var first, second, torn int
		if _, err := fmt.Sscan(p.line(), &first, &second, &torn); err != nil {
			t.Fatal(err)
		}
		t.Logf("%d settings, %d and %d readings", sets, first, second)
		if first == 0 || second == 0 || torn != 0 {
			t.Errorf("%d readings of the one setting, %d of the other, %d of neither", first, second, torn)
		}
	}
}

func childrenOf(t *testing.T, parent int) (list []int) {
	t.Helper()
	all, err := numbers("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range all {
		if p, err := readProcess(pid); err == nil && p.parent == parent {
			list = append(list, pid)
		}
	}
	return list
}

// TestForks sets the clock in the middle of a storm of forks: whoever reads it
// later reads the new time, whenever it was forked.
func TestForks(t *testing.T) {
	c := newClock(t)
	p := start(t, c, compileBusy(t), "forks")
	timer := time.NewTimer(250 * time.Millisecond)
	<-timer.C
	set(t, c, Offset{Jump: hour})
	at, _ := monotonic()
	after := 0
	for lines := bufio.NewScanner(p.out); lines.Scan(); {
		var mono, offset int64
		if _, err := fmt.Sscan(lines.Text(), &mono, &offset); err != nil {
			t.Fatal(err)
		}
		if mono > at+int64(200*time.Millisecond) {
			after++
			near(t, "child", time.Duration(offset), hour, hour, time.Second)
		}
	}
	if after < 200 {
		t.Errorf("only %d children read the time late enough to tell", after)
	}
}

// TestClose closes clocks while their programs execute others.
func TestClose(t *testing.T) {
	labtest.Devices(t)
	c := New()
	p := start(t, c, "bash", "-c", `for i in $(seq 200); do nice true 2>/dev/null & done; wait; echo done`)
	timer := time.NewTimer(100 * time.Millisecond)
	<-timer.C
	c.Close()
	out, err := io.ReadAll(p.out) // what fails to execute ends as well
	if err != nil || !strings.Contains(string(out), "done") {
		t.Errorf("after the clock was closed: %q, %v", out, err)
	}
	if err := c.Set(Offset{}); !errors.Is(err, errClosed) {
		t.Errorf("set of a closed clock: %v", err)
	}
	if err := c.Attach(1); !errors.Is(err, errClosed) {
		t.Errorf("attach to a closed clock: %v", err)
	}
	cmd := stage.Command(t.Context(), "test-parent", "date") // and Serve of a closed clock
	cmd.Stderr = io.Discard
	p = startCommand(t, c, cmd)
	if err := p.wait(); err == nil {
		t.Error("a program was executed although nobody serves")
	}
	c.Close()
}

// TestOlderProgram is a 32-bit program, which is let be and reported. It does
// nothing but wait, and is written here by hand: a file header, one segment.
func TestOlderProgram(t *testing.T) {
	c := newClock(t)
	image := "\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00" +
		"\x02\x00\x03\x00\x01\x00\x00\x00\x54\x80\x04\x08\x34\x00\x00\x00" +
		"\x00\x00\x00\x00\x00\x00\x00\x00\x34\x00\x20\x00\x01\x00\x28\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00\x00\x80\x04\x08\x00\x80\x04\x08" +
		"\x5d\x00\x00\x00\x5d\x00\x00\x00\x05\x00\x00\x00\x00\x10\x00\x00" +
		"\xb8\x1d\x00\x00\x00\xcd\x80\xeb\xf7" // mov $29 (pause), %eax; int $0x80; again
	program := filepath.Join(t.TempDir(), "older")
	if err := os.WriteFile(program, []byte(image), 0o700); err != nil { //nolint:gosec // a program
		t.Fatal(err)
	}
	start(t, c, program)
	eventually(t, "the 32-bit program is reported", func() bool {
		list, err := c.Unpatched()
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range list {
			if u.Name == "older" && errors.Is(u.Err, errNot64) {
				return true
			}
		}
		return false
	})
	if err := c.Set(Offset{Jump: hour}); err != nil {
		t.Error(err)
	}
}

// TestAttach moves the clock of programs that run without a filter: of one that
// reads it all the time, and of those that its parent executes later.
func TestAttach(t *testing.T) {
	c := newClock(t)
	busy := compileBusy(t)
	cmd := exec.CommandContext(t.Context(), "sh", "-c", `while "$0" once; do :; done`, busy)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cmd.Wait()
	}()
	if err := c.Attach(cmd.Process.Pid); err == nil {
		t.Error("attached to a child")
	}
	if err := c.Attach(os.Getpid()); err == nil {
		t.Error("attached to itself")
	}
	var kids []int
	eventually(t, "the program starts", func() bool {
		kids = childrenOf(t, cmd.Process.Pid)
		return len(kids) == 1
	})
	eventually(t, "the program runs", func() bool {
		p, err := readProcess(kids[0])
		return err == nil && p.name == "busy"
	})
	set(t, c, Offset{Jump: -hour})
	if err := c.Attach(kids[0]); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	last, next := 0, kids[0]
	for i := range 10 {
		last = next
		if _, err := in.Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		offset, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		near(t, fmt.Sprintf("program %d", i), time.Duration(offset), -hour, -hour, time.Second)
		eventually(t, "the next program is found", func() bool {
			kids := childrenOf(t, cmd.Process.Pid)
			if len(kids) != 1 || kids[0] == last { // the one that has just answered ends
				return false
			}
			// Before it executes its program it has the shell's patched memory.
			p, err := readProcess(kids[0])
			if err != nil || p.name != "busy" || !c.patched(kids[0]) {
				return false
			}
			next = kids[0]
			return true
		})
	}
	if err := c.Attach(kids[0]); err == nil {
		t.Error("attached to a process that is gone")
	}
}

// TestAttachWhileRead attaches to programs that read the clock all the time,
// with all their threads.
func TestAttachWhileRead(t *testing.T) {
	c := newClock(t)
	busy := compileBusy(t)
	now, _ := monotonic()
	c.settings = settings{jump: int64(hour) - now, mask: wallClocks}
	for range 5 {
		cmd := exec.CommandContext(t.Context(), "sh", "-c", `"$0" torn "$1" "$2"; true`, busy,
			strconv.FormatInt(-now, 10), strconv.FormatInt(int64(hour), 10))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		pid := childrenOf(t, cmd.Process.Pid)[0]
		for range 3 {
			if err := c.Attach(pid); err != nil {
				t.Fatal(err)
			}
		}
		if !c.patched(pid) {
			t.Error("attached, but not patched")
		}
		_ = syscall.Kill(pid, syscall.SIGTERM)
		if _, err := lines.ReadString('\n'); err != nil {
			t.Error("it died of it")
		}
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// TestNamespaces is a clock in a user namespace that a user without any
// privilege made, over hosts that are namespaces in it.
func TestNamespaces(t *testing.T) {
	labtest.Devices(t)
	for _, uid := range []uint32{0, 65534} {
		cmd := stage.Command(t.Context(), "test-drop")
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		cmd.Stderr = stderr
		cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("as %d: %v", uid, err)
		}
		var offset, unpatched int64
		if _, err := fmt.Sscan(string(out), &offset, &unpatched); err != nil {
			t.Fatalf("as %d: %q", uid, out)
		}
		near(t, fmt.Sprintf("as %d", uid), time.Duration(offset), hour, hour, 10*time.Microsecond)
		if unpatched != 0 {
			t.Errorf("as %d: %d processes are not patched", uid, unpatched)
		}
	}
}
