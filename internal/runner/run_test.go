package runner_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/internal/runner"
)

func shell(script string) runner.Command {
	return runner.Command{Args: []string{"sh", "-c", script}, Environ: []string{"PATH=/usr/bin:/bin"}}
}

func TestRun_GivesTheCommandsCode(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 7": 7, "kill -TERM $$": 128 + 15} {
		res, err := runner.Run(t.Context(), shell(script), runner.Hold{})
		if err != nil || res.Code != want || res.Lost {
			t.Errorf("%s: %+v, %v; want code %d", script, res, err, want)
		}
	}
}

func TestRun_SaysWhyACommandDidNotStart(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]error{
		"no-such-command-here": runner.ErrNotFound, plain: runner.ErrNotExecutable, filepath.Join(dir, "none"): runner.ErrNotFound,
	} {
		c := runner.Command{Args: []string{name}, Environ: []string{"PATH=/usr/bin:/bin"}}
		if _, err := runner.Run(t.Context(), c, runner.Hold{}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

func TestRun_LossSendsTermThenKillToTheWholeGroup(t *testing.T) {
	// The command ignores SIGTERM, and so does the child it leaves behind.
	out, w := io.Pipe()
	lost := make(chan struct{})
	c := shell(`trap 'echo term' TERM; (trap "" TERM; while :; do sleep 1; done) & echo $!; while :; do sleep 1; done`)
	c.Stdout = w
	type answer struct {
		res runner.Result
		err error
	}
	done := make(chan answer, 1)
	go func() {
		res, err := runner.Run(t.Context(), c, runner.Hold{Lost: lost, Grace: 100 * time.Millisecond})
		_ = w.Close()
		done <- answer{res, err}
	}()
	lines := bufio.NewScanner(out)
	lines.Scan()
	child := strings.TrimSpace(lines.Text())
	close(lost)
	var rest strings.Builder
	for lines.Scan() {
		rest.WriteString(lines.Text() + "\n")
	}
	a := <-done
	if a.err != nil || !a.res.Lost || a.res.Code != 128+9 {
		t.Fatalf("%+v, %v; want lost and killed", a.res, a.err)
	}
	if state, err := os.ReadFile("/proc/" + child + "/stat"); err == nil && !bytes.Contains(state, []byte(") Z ")) {
		t.Errorf("child %s of the command still runs: %s", child, state)
	}
}

func TestRun_StopsBeforeTheHoldEnds(t *testing.T) {
	// Until shrinks like that of a lock that is not renewed.
	start := time.Now()
	until := func() time.Duration { return 300*time.Millisecond - time.Since(start) }
	var out bytes.Buffer
	c := shell(`trap 'echo stopping; exit 3' TERM; while :; do sleep 0.01; done`)
	c.Stdout = &out
	res, err := runner.Run(t.Context(), c, runner.Hold{Until: until, Grace: 200 * time.Millisecond})
	if err != nil || !res.Lost || res.Code != 3 {
		t.Fatalf("%+v, %v; want lost with the command's own code 3", res, err)
	}
	if out.String() != "stopping\n" {
		t.Errorf("the command was not told: %q", out.String())
	}
}

func TestRun_RenewedHoldGoesOn(t *testing.T) {
	var asked atomic.Int32
	until := func() time.Duration {
		if asked.Add(1) > 3 {
			return time.Hour
		}
		return 30 * time.Millisecond
	}
	res, err := runner.Run(t.Context(), shell("sleep 0.2"), runner.Hold{Until: until, Grace: 20 * time.Millisecond})
	if err != nil || res.Lost || res.Code != 0 {
		t.Fatalf("%+v, %v; want a command that was left alone", res, err)
	}
}

func TestRun_ForwardsSignals(t *testing.T) {
	signals := make(chan os.Signal, 1)
	out, w := io.Pipe()
	c := shell(`trap 'exit 9' USR1; echo ready; while :; do sleep 0.01; done`)
	c.Stdout, c.Signals = w, signals
	go func() {
		_, _ = bufio.NewReader(out).ReadString('\n')
		signals <- syscall.SIGUSR1
		_, _ = io.Copy(io.Discard, out)
	}()
	res, err := runner.Run(t.Context(), c, runner.Hold{})
	_ = w.Close()
	if err != nil || res.Code != 9 {
		t.Fatalf("%+v, %v; want code 9", res, err)
	}
}
