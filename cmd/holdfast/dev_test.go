package main

import (
	"bufio"
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// freePorts are n different loopback ports that nobody uses now.
func freePorts(n int) (ports []string, err error) {
	var lc net.ListenConfig
	for range n {
		l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close() //nolint:errcheck // nobody was served; all are held until the end
		_, port, err := net.SplitHostPort(l.Addr().String())
		if err != nil {
			return nil, err
		}
		ports = append(ports, port)
	}
	return ports, nil
}

// devProcess is "holdfast dev" as a process.
type devProcess struct {
	t     *testing.T
	cmd   *exec.Cmd
	stdin io.Writer
	lines chan string // of its standard output
	dir   string      // where it makes its files
	said  []string
}

func startDev(t *testing.T, args ...string) *devProcess {
	t.Helper()
	binary, err := exec.LookPath("holdfast") // the test binary, by TestMain
	if err != nil {
		t.Fatal(err)
	}
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	d := &devProcess{t: t, dir: t.TempDir(), lines: make(chan string, 1000)}
	d.cmd = exec.CommandContext(t.Context(), binary, append([]string{"dev", "--port", ports[0]}, args...)...)
	d.cmd.Env = append(os.Environ(), "TMPDIR="+d.dir)
	d.cmd.Stderr = t.Output()
	stdout, err := d.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if d.stdin, err = d.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.lines)
		s := bufio.NewScanner(stdout)
		for s.Scan() {
			d.lines <- s.Text()
		}
	}()
	t.Cleanup(func() { _ = d.cmd.Process.Kill() })
	return d
}

// expect reads until a line has the text.
func (d *devProcess) expect(text string) {
	d.t.Helper()
	timer := time.NewTimer(40 * time.Second)
	defer timer.Stop()
	for {
		select {
		case line, ok := <-d.lines:
			d.said = append(d.said, line)
			switch {
			case !ok:
				d.t.Fatalf("it ended before it said %q:\n%s", text, strings.Join(d.said, "\n"))
			case strings.Contains(line, text):
				return
			}
		case <-timer.C:
			d.t.Fatalf("it did not say %q:\n%s", text, strings.Join(d.said, "\n"))
		}
	}
}

func (d *devProcess) tell(line string) {
	d.t.Helper()
	if _, err := io.WriteString(d.stdin, line+"\n"); err != nil {
		d.t.Fatal(err)
	}
}

var nodeLine = regexp.MustCompile(`^n\d\s+running\s+(\d+)\s`)

// pids are the processes of the nodes, from what it said.
func (d *devProcess) pids() []int {
	var out []int
	for _, line := range d.said {
		if m := nodeLine.FindStringSubmatch(line); m != nil {
			pid, err := strconv.Atoi(m[1])
			if err != nil {
				d.t.Fatal(err)
			}
			out = append(out, pid)
		}
	}
	return out
}

// suggested are the commands to try.
func (d *devProcess) suggested() []string {
	var out []string
	for _, line := range d.said[slices.IndexFunc(d.said, func(s string) bool { return strings.HasPrefix(s, "Try") })+1:] {
		if strings.HasPrefix(line, "  ") {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out
}

// gone waits until none of the processes runs.
func (d *devProcess) gone(pids []int) {
	d.t.Helper()
	poll(d.t.Fatalf, "nodes outlive their parent", func() bool {
		return !slices.ContainsFunc(pids, func(pid int) bool {
			stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
			return err == nil && !strings.Contains(string(stat), ") Z ")
		})
	})
}

// shell runs a line as it was pasted into another terminal.
func shell(t *testing.T, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

func TestDev(t *testing.T) {
	t.Parallel()
	d := startDev(t)
	d.expect("Here:")
	pids := d.pids()
	if len(pids) != 3 {
		t.Fatalf("want three nodes:\n%s", strings.Join(d.said, "\n"))
	}
	tries := d.suggested()
	if len(tries) != 5 {
		t.Fatalf("want five commands to try: %q", tries)
	}
	for _, line := range tries {
		out := shell(t, line)
		if strings.Contains(line, "lock run") && !strings.Contains(out, "I hold jobs/demo with token ") {
			t.Errorf("%s: %s", line, out)
		}
	}

	// Any node may be killed; the others go on, and it comes back.
	put := tries[slices.IndexFunc(tries, func(s string) bool { return strings.Contains(s, "kv put") })]
	for i, name := range []string{"n1", "n2"} {
		if i == 0 { // from outside, as an accident would
			if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		} else {
			d.tell("kill " + name)
		}
		d.expect(name + " died (signal: killed); start it again with: restart " + name)
		shell(t, put)
		d.tell("restart " + name)
		d.expect(name + ": running")
	}
	d.tell("pause n3")
	d.expect("n3: paused")
	shell(t, put)
	d.tell("resume n3")
	d.expect("n3: resumed")
	d.tell("dance n3")
	d.expect(`"dance"?`)
	d.tell("status")
	for _, n := range []string{"n1", "n2", "n3"} {
		d.expect(n)
	}
	pids = d.pids()

	if err := d.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	for range d.lines { // until it has closed its standard output
	}
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("after Ctrl-C: %v", err)
	}
	d.gone(pids)
	if left, err := os.ReadDir(d.dir); err != nil || len(left) > 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

func TestDev_UnreadOutput(t *testing.T) {
	t.Parallel()
	binary, err := exec.LookPath("holdfast")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), binary, "dev", "--nodes", "1", "--port", "0")
	cmd.Env = append(os.Environ(), "TMPDIR="+dir)
	cmd.Stdout, cmd.Stderr = w, t.Output()
	stdin, err := cmd.StdinPipe() // stays open
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close() //nolint:errcheck // nothing was written to it
	if err := cmd.Run(); err != nil {
		t.Errorf("nobody reads: %v", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("files left: %v, %v", left, err)
	}
}

func TestDev_KeepsItsData(t *testing.T) {
	t.Parallel()
	data := t.TempDir()
	var greeting string
	for i, command := range []string{"kv put greeting kept", "kv get greeting"} {
		d := startDev(t, "--nodes", "1", "--data", data)
		d.expect("Here:")
		tries := d.suggested()
		at, _, ok := strings.Cut(tries[0], " status")
		if !ok {
			t.Fatalf("want status first: %q", tries)
		}
		greeting = shell(t, at+" "+command)
		d.tell("quit")
		for range d.lines { // until it has closed its standard output
		}
		if err := d.cmd.Wait(); err != nil {
			t.Fatalf("run %d: %v", i+1, err)
		}
	}
	if greeting != "kept\n" {
		t.Errorf("got %q", greeting)
	}
}

func TestDev_NodesDieWithIt(t *testing.T) {
	t.Parallel()
	d := startDev(t, "--nodes", "1")
	d.expect("Here:")
	pids := d.pids()
	if len(pids) != 1 {
		t.Fatalf("want one node:\n%s", strings.Join(d.said, "\n"))
	}
	if err := d.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = d.cmd.Wait() // killed
	d.gone(pids)
}
