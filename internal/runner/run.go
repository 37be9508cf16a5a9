package runner

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// Command is what is run.
type Command struct {
	Args    []string // the program and its arguments
	Environ []string
	Dir     string
	Stdin   io.Reader
	Stdout  io.Writer
	Stderr  io.Writer
	Signals <-chan os.Signal // sent on to the command's process group; may be nil
}

// Hold is what must be held while the command runs.
type Hold struct {
	Lost  <-chan struct{}      // closed when it is lost
	Until func() time.Duration // how long it is surely held from now; nil: until Lost
	Grace time.Duration        // between SIGTERM and SIGKILL
}

// Result is how the command ended.
type Result struct {
	Code int  // the command's exit code; 128 + n when signal n ended it
	Lost bool // it was stopped because the hold was lost
}

// ErrNotFound and ErrNotExecutable say why a command did not start.
var (
	ErrNotFound      = errors.New("no such command")
	ErrNotExecutable = errors.New("not executable")
)

// Run starts the command and returns when it has ended. The end of ctx counts
// as the loss of the hold. An error means that the command did not start.
func Run(ctx context.Context, c Command, h Hold) (Result, error) {
	path, err := lookPath(c)
	if err != nil {
		return Result{}, err
	}
	cmd := &exec.Cmd{
		Path: path, Args: c.Args, Env: c.Environ, Dir: c.Dir,
		Stdin: c.Stdin, Stdout: c.Stdout, Stderr: c.Stderr,
		WaitDelay: time.Second, // for pipes that the command's children keep open
	}
	restore := prepare(cmd, c.Stdin)
	defer restore()

	// The signal at the parent's death is that of the thread which started the
	// child, so the thread stays with this goroutine until the child has ended.
	started, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in ProcessState
		}
	}()
	if err := <-started; err != nil {
		<-ended
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOEXEC) {
			return Result{}, fmt.Errorf("%s: %w", c.Args[0], ErrNotExecutable)
		}
		return Result{}, fmt.Errorf("%s: %w", c.Args[0], err)
	}
	lost := supervise(ctx, cmd.Process.Pid, c.Signals, h, ended)
	return Result{Code: exitCode(cmd.ProcessState), Lost: lost}, nil
}

// supervise waits for the command's end, sends signals on, and stops it when
// the hold is lost or about to be.
func supervise(ctx context.Context, pid int, signals <-chan os.Signal, h Hold, ended <-chan struct{}) (lost bool) {
	timer := time.NewTimer(untilStop(h))
	defer timer.Stop()
	for {
		select {
		case <-ended:
			return false
		case s := <-signals:
			if n, ok := s.(syscall.Signal); ok {
				_ = syscall.Kill(-pid, n) // it may have ended just now
			}
		case <-timer.C:
			if d := untilStop(h); d > 0 { // renewed since
				timer.Reset(d)
				continue
			}
			stop(pid, h, ended)
			return true
		case <-h.Lost:
			stop(pid, h, ended)
			return true
		case <-ctx.Done():
			stop(pid, h, ended)
			return true
		}
	}
}

// untilStop is the time left before the command must be told to stop.
func untilStop(h Hold) time.Duration {
	if h.Until == nil {
		return time.Duration(1<<63 - 1)
	}
	return h.Until() - h.Grace
}

// stop ends the command's process group: SIGTERM, then SIGKILL after the grace.
func stop(pid int, h Hold, ended <-chan struct{}) {
	_ = syscall.Kill(-pid, syscall.SIGTERM)
	timer := time.NewTimer(h.Grace)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
	}
	_ = syscall.Kill(-pid, syscall.SIGKILL) // also what the command left behind
	<-ended
}

func exitCode(s *os.ProcessState) int {
	if s == nil {
		return 128
	}
	if w, ok := s.Sys().(syscall.WaitStatus); ok && w.Signaled() {
		return 128 + int(w.Signal())
	}
	return s.ExitCode()
}

// lookPath finds the program in the command's own PATH.
func lookPath(c Command) (string, error) {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return "", ErrNotFound
	}
	name := c.Args[0]
	dirs := []string{""}
	if !strings.ContainsRune(name, '/') {
		dirs = nil
		for _, kv := range c.Environ {
			if v, ok := strings.CutPrefix(kv, "PATH="); ok {
				dirs = strings.Split(v, ":")
			}
		}
	}
	found := false
	for _, d := range dirs {
		p := name
		if d != "" {
			p = d + "/" + name
		}
		at := p
		if c.Dir != "" && !strings.HasPrefix(p, "/") {
			at = c.Dir + "/" + p
		}
		info, err := os.Stat(at)
		if err != nil || info.IsDir() {
			continue
		}
		found = true
		if info.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	if found {
		return "", fmt.Errorf("%s: %w", name, ErrNotExecutable)
	}
	return "", fmt.Errorf("%s: %w", name, ErrNotFound)
}
