package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// Program is a client's program while it runs.
type Program struct {
	Stdin  io.WriteCloser
	Stdout io.ReadCloser
	// Kill ends it and all that it started, at once, also when it is paused. It
	// may be called more than once, and does not wait.
	Kill func()
	// Done is closed when it has ended.
	Done <-chan struct{}
}

// Spawner is implemented by the Env that a lab gives to System.Client where
// clients can be programs of their own. The lab decides where they live: beside
// itself, or on a host of clients that can be paused, cut off and given another
// time.
type Spawner interface {
	// Spawn starts a program. ctx bounds the start, not the program's life. What
	// it writes to standard error goes to a log.
	Spawn(ctx context.Context, p Process) (*Program, error)
}

// Spawn starts a program as a child of this process: a client that lives in the
// lab itself. When this process dies, its standard input ends; in a lab the
// kernel ends it as well.
func Spawn(p Process, stderr io.Writer) (*Program, error) {
	if len(p.Argv) == 0 {
		return nil, errors.New("program: no command")
	}
	path, err := exec.LookPath(p.Argv[0])
	if err != nil {
		return nil, fmt.Errorf("program %s: %w", p.Argv[0], err)
	}
	as, err := credential(p.User)
	if err != nil {
		return nil, fmt.Errorf("program %s: %w", p.Argv[0], err)
	}
	cmd := exec.Cmd{
		Path: path, Args: p.Argv, Dir: p.Dir, Stderr: stderr,
		Env:         append(inherited(), p.Env...),
		SysProcAttr: &syscall.SysProcAttr{Setpgid: true, Credential: as},
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("program %s: %w", p.Argv[0], err)
	}
	// Not StdoutPipe: Wait would close it under its reader.
	stdout, theirs, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("program %s: %w", p.Argv[0], err)
	}
	cmd.Stdout = theirs
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		_ = stdin.Close()
		_ = stdout.Close()
		return nil, fmt.Errorf("program %s: %w", p.Argv[0], err)
	}
	done := make(chan struct{})
	var once sync.Once
	go func() { // ends with the program
		defer close(done)
		_ = cmd.Wait()
	}()
	return &Program{
		Stdin: stdin, Stdout: stdout, Done: done,
		Kill: func() { once.Do(func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }) },
	}, nil
}

// inherited is what of our environment every program gets: enough to find other
// programs and files, nothing that makes two runs differ or is nobody's business.
func inherited() []string {
	return slices.DeleteFunc(os.Environ(), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return !slices.Contains([]string{"PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "TZ"}, name)
	})
}

// credential is whom to run a program as: nil for who we are.
func credential(name string) (*syscall.Credential, error) {
	if name == "" {
		return nil, nil //nolint:nilnil // nobody else
	}
	u, err := user.Lookup(name)
	if err != nil {
		return nil, err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return nil, err
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, nil
}
