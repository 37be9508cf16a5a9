package devcluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
)

// node is one process. Its fields below ports are guarded by Cluster.mu.
type node struct {
	name     string
	dir, log string
	args     []string
	ports    ports

	state State
	asked bool // its end was asked for
	cmd   *exec.Cmd
	ended chan struct{} // closed when cmd has ended
}

func (n *node) info() Info {
	i := Info{
		Name: n.name, State: n.state, API: "http://" + n.ports.API, Peer: "http://" + n.ports.Peer, Etcd: n.ports.Etcd, Log: n.log,
	}
	if n.cmd != nil {
		i.PID = n.cmd.Process.Pid
	}
	return i
}

// runStarter starts processes from one thread.
func (c *Cluster) runStarter() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for f := range c.starts {
		f()
	}
}

var errClosing = errors.New("the cluster is stopping")

// start starts a node that is dead and waits until it is ready.
func (c *Cluster) start(ctx context.Context, n *node) error {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	ready, w, err := os.Pipe()
	if err != nil {
		return errors.Join(err, log.Close())
	}
	cmd := &exec.Cmd{
		Path: c.cfg.Binary, Args: append([]string{c.cfg.Binary}, n.args...), Env: c.cfg.Environ,
		Stdout: w, Stderr: log, SysProcAttr: attributes(),
	}
	ended, err := c.launch(n, cmd)
	err = errors.Join(err, w.Close(), log.Close())
	if err != nil {
		return errors.Join(err, ready.Close())
	}

	// The node says one line when it is ready. Its end closes the pipe.
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(ready).ReadString('\n') // what it says before its end is no answer either
		said <- line
	}()
	select {
	case line := <-said:
		if !strings.Contains(line, "ready") {
			err = fmt.Errorf("it said %q and not that it is ready", strings.TrimSpace(line))
		}
	case <-ctx.Done():
		_ = cmd.Process.Kill() // closes the pipe, which ends the reader
		<-ended
		<-said
		err = ctx.Err()
	}
	err = errors.Join(err, ready.Close())
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err != nil:
		return fmt.Errorf("%s did not start: %w\n%s", n.name, err, tail(n.log))
	case n.cmd != cmd:
		return fmt.Errorf("%s ended at once\n%s", n.name, tail(n.log))
	case n.state == Starting:
		n.state = Running
	}
	return nil
}

// launch starts the process from the starter's thread and a goroutine that
// waits for its end.
func (c *Cluster) launch(n *node, cmd *exec.Cmd) (ended chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return nil, errClosing
	}
	if n.cmd != nil {
		return nil, fmt.Errorf("%s runs already", n.name)
	}
	started := make(chan error, 1)
	c.starts <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%s: %w", n.name, err)
	}
	ended = make(chan struct{})
	n.cmd, n.ended, n.state, n.asked = cmd, ended, Starting, false
	c.waiters.Go(func() {
		err := cmd.Wait()
		c.mu.Lock()
		defer c.mu.Unlock()
		unasked := !n.asked && !c.closing
		n.cmd, n.state = nil, Dead
		close(ended)
		if unasked {
			how := "exit status 0"
			if err != nil {
				how = err.Error()
			}
			select {
			case c.events <- Event{Node: n.name, How: how}:
			default: // nobody reads
			}
		}
	})
	return ended, nil
}

// tail is the end of a log, to explain why a node did not start.
func tail(name string) string {
	const most = 2 << 10
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close() //nolint:errcheck // only read
	if info, err := f.Stat(); err == nil && info.Size() > most {
		_, _ = f.Seek(-most, io.SeekEnd) // reading from the start instead does no harm
	}
	data, _ := io.ReadAll(io.LimitReader(f, most)) // what was read is shown
	return strings.TrimSpace(string(data))
}
