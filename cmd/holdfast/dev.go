package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"holdfast.dev/internal/cli"
	"holdfast.dev/internal/devcluster"
)

type devCmd struct {
	Nodes int    `default:"3" enum:"1,3,5" help:"How many nodes: ${enum}."`
	Port  int    `default:"7450" help:"The first node's API port, up to 65000; others are used when they are taken. 0: any that are free."`
	Data  string `placeholder:"DIR" help:"Keep data and logs here, also afterwards. Default: a temporary directory that is removed."`
	Keep  bool   `help:"Do not remove the temporary directory."`
}

func (devCmd) Examples() string {
	return `
holdfast dev
holdfast dev --data ./play`
}

// Help is the long text of the command.
func (devCmd) Help() string {
	return `The nodes are processes of this binary on loopback. Commands on standard input: kill NODE, pause NODE, resume NODE, restart NODE, status, quit. Ctrl-C stops everything; when this process dies otherwise, so do the nodes.`
}

// devReady bounds the start.
const devReady = 30 * time.Second

func (c *devCmd) Run(a *app, ctx *runContext) error {
	if c.Port < 0 || c.Port > 65000 {
		return cli.Usage("--port %d: want 1 to 65000, or 0 for any that are free", c.Port)
	}
	port := c.Port
	if port == 0 {
		port = devcluster.AnyPort
	}
	// Who reads the output may be gone: that must not end the process before it
	// has cleaned up.
	unread, stopUnread := a.env.Signals(syscall.SIGPIPE)
	defer stopUnread()
	dctx, stop := a.interruptible(ctx)
	defer stop()
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	dir, remove, err := c.directory(a)
	if err != nil {
		return err
	}
	defer remove()

	began := time.Now()
	a.note("starting %d nodes in %s …", c.Nodes, dir)
	sctx, cancel := context.WithTimeout(dctx, devReady)
	defer cancel()
	cluster, err := devcluster.Start(sctx, devcluster.Config{
		Binary: binary, Dir: dir, Nodes: c.Nodes, Port: port, Environ: plain(a.env.Environ), Args: []string{"--log-level", "warn"},
	})
	if err != nil {
		if dctx.Err() != nil {
			return context.Cause(dctx)
		}
		return cli.WithCode(err, cli.ExitInternal)
	}
	defer cluster.Close()
	a.note("ready after %v\n", time.Since(began).Round(10*time.Millisecond))
	d := dev{app: a, cluster: cluster}
	d.addresses()
	d.suggest()
	return d.loop(dctx, unread)
}

// directory is where the nodes live, and what removes it.
func (c *devCmd) directory(a *app) (dir string, remove func(), err error) {
	if c.Data != "" {
		dir, err = filepath.Abs(a.env.Path(c.Data))
		return dir, func() {}, err
	}
	dir, err = os.MkdirTemp("", "holdfast-dev-")
	if err != nil {
		return "", nil, err
	}
	if c.Keep {
		return dir, func() { a.note("kept: %s", dir) }, nil
	}
	return dir, func() {
		if err := os.RemoveAll(dir); err != nil {
			a.note("hint: %v; remove it yourself", err)
		}
	}, nil
}

// plain is an environment without settings that would reach the nodes.
func plain(environ []string) []string {
	out := make([]string, 0, len(environ))
	for _, kv := range environ {
		if !strings.HasPrefix(kv, "HOLDFAST_") {
			out = append(out, kv)
		}
	}
	return out
}

// dev is a running cluster and the person before it.
type dev struct {
	*app
	cluster *devcluster.Cluster
}

// print writes what the command is for: addresses, commands and states.
func (d dev) print(format string, args ...any) {
	_, _ = fmt.Fprintf(d.env.Stdout, format+"\n", args...)
}

func (d dev) addresses() {
	cli.Table(cli.NewText(d.env.Stdout), "NODE STATE PID API ETCD LOG", d.cluster.Nodes(), func(n devcluster.Info) []any {
		pid := any("-")
		if n.PID != 0 {
			pid = n.PID
		}
		return []any{n.Name, n.State, pid, n.API, n.Etcd, n.Log}
	})
}

// suggest prints commands that work when they are pasted.
func (d dev) suggest() {
	d.print("\nTry in another terminal:")
	for _, line := range d.commands() {
		d.print("  %s", line)
	}
	d.print("\nHere: kill n2 | pause n2 | resume n2 | restart n2 | status | quit. Ctrl-C stops everything.")
}

func (d dev) commands() []string {
	program := d.env.Program
	if !strings.ContainsRune(program, '/') {
		if found, err := exec.LookPath(program); err != nil || found == "" {
			program, _ = os.Executable() // it started us, so it is there
		}
	} else if abs, err := filepath.Abs(d.env.Path(program)); err == nil {
		program = abs // the other terminal may stand elsewhere
	}
	at := program + " --endpoints " + strings.Join(d.cluster.Endpoints(), ",") + " "
	lines := []string{
		at + "status",
		at + `lock run jobs/demo -- sh -c 'echo "I hold $HOLDFAST_LOCK with token $HOLDFAST_TOKEN"'`,
		at + "kv put greeting hello",
		at + "doctor",
	}
	if _, err := exec.LookPath("curl"); err == nil {
		return append(lines, `curl -sS -H 'Content-Type: application/json' -d '{"key":"greeting"}' `+d.cluster.Endpoints()[0]+"/holdfast.v1.KVService/Get")
	}
	return append(lines, at+"kv get greeting")
}

// loop follows commands and deaths until the end.
func (d dev) loop(ctx context.Context, unread <-chan os.Signal) error {
	lines := make(chan string)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A read of standard input cannot be ended: the reader lives as long as the
	// process when nothing comes, and hands over nothing after the end.
	go func() {
		scanner := bufio.NewScanner(d.env.Stdin)
		for scanner.Scan() {
			select {
			case lines <- scanner.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			return nil // Ctrl-C is how it ends
		case <-unread:
			return nil
		case e := <-d.cluster.Events():
			d.print("%s died (%s); start it again with: restart %s", e.Node, e.How, e.Node)
		case line := <-lines:
			err := d.obey(ctx, line)
			switch {
			case errors.Is(err, io.EOF):
				return nil
			case err != nil:
				d.print("%v", err)
			}
		}
	}
}

// obey does one line; io.EOF is quit.
func (d dev) obey(ctx context.Context, line string) error {
	words := strings.Fields(line)
	if len(words) == 0 {
		return nil
	}
	verb, node := words[0], ""
	if len(words) > 1 {
		node = words[1]
	}
	var err error
	switch verb {
	case "kill":
		return d.cluster.Kill(node) // its death is reported
	case "pause":
		err = d.cluster.Pause(node)
	case "resume":
		err = d.cluster.Resume(node)
	case "restart":
		rctx, cancel := context.WithTimeout(ctx, devReady)
		defer cancel()
		err = d.cluster.Restart(rctx, node)
	case "status":
		d.addresses()
		return nil
	case "quit", "exit":
		return io.EOF
	default:
		return fmt.Errorf("%q? kill n2 | pause n2 | resume n2 | restart n2 | status | quit", verb)
	}
	if err == nil {
		d.print("%s: %s", node, map[string]string{"pause": "paused", "resume": "resumed", "restart": "running"}[verb])
	}
	return err
}
