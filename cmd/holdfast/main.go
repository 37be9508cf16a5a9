// Command holdfast is locks, elections, membership and a key-value store that
// stay correct when the network, the clocks and the processes do not: the node,
// its operation, and a client of it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"holdfast.dev/engine"
	"holdfast.dev/internal/access"
	"holdfast.dev/internal/cert"
	"holdfast.dev/internal/cli"
	"holdfast.dev/internal/config"
	"holdfast.dev/internal/stage"
	"holdfast.dev/lab/check"
)

func main() {
	env := cli.Env{
		Program: os.Args[0], Args: os.Args[1:], Environ: os.Environ(),
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		Notify: func(c chan<- os.Signal, signals ...os.Signal) func() {
			signal.Notify(c, signals...)
			return func() { signal.Stop(c) }
		},
		Exit: os.Exit,
	}
	stage.Register("lab-run", labInside(env))
	if code, ok := stage.Run(os.Args, os.Stderr); ok {
		env.Exit(code)
	}
	env.Exit(run(context.Background(), env))
}

// globals are the flags of every command.
type globals struct {
	Endpoints []string      `from:"env" group:"connection" placeholder:"URL" help:"The nodes' API. Default: http://127.0.0.1:7450."`
	Engine    string        `from:"env,file" group:"connection" placeholder:"etcd://…" help:"Work on this etcd cluster without a node; for serve: keep everything there."`
	AuthToken string        `from:"env" group:"connection" help:"Bearer token for the API. The environment variable keeps it out of the list of processes."`
	CA        string        `name:"ca" from:"env" group:"connection" placeholder:"FILE" help:"Authority of the nodes' certificates."`
	Cert      string        `from:"env" group:"connection" placeholder:"FILE" help:"Own certificate, where nodes demand one."`
	Key       string        `from:"env" group:"connection" placeholder:"FILE" help:"Its key."`
	Timeout   time.Duration `default:"10s" from:"env" group:"connection" help:"How long to try before giving up; watches and waits go on."`
	Output    cli.Format    `short:"o" default:"text" enum:"text,json,jsonl" from:"env" group:"connection" help:"Format of the data on standard output: ${enum}."`
}

// grammar is the command line.
type grammar struct {
	globals

	Dev        devCmd        `cmd:"" group:"start" help:"Run three nodes on this machine to try things out."`
	Serve      serveCmd      `cmd:"" group:"start" help:"Run one node."`
	Status     statusCmd     `cmd:"" group:"look" help:"Show the nodes and how they are."`
	Doctor     doctorCmd     `cmd:"" group:"look" help:"Try everything through the real API and explain what is wrong."`
	Lock       lockCmd       `cmd:"" group:"use" help:"Run commands under locks; look at locks."`
	Election   electionCmd   `cmd:"" group:"use" help:"Run commands while leading; look at elections."`
	Members    membersCmd    `cmd:"" group:"use" help:"Register in groups; look at who is there."`
	KV         kvCmd         `cmd:"" name:"kv" group:"use" help:"Read, write and watch keys."`
	Lab        labCmd        `cmd:"" group:"break" help:"Break real servers on this machine and check what their clients saw."`
	Cluster    clusterCmd    `cmd:"" group:"operate" help:"Add, remove and promote nodes."`
	Backup     backupCmd     `cmd:"" group:"operate" help:"Write a consistent copy of the store to a file."`
	Restore    restoreCmd    `cmd:"" group:"operate" help:"Make a node's data from a backup."`
	Cert       certCmd       `cmd:"" group:"operate" help:"Make a private authority and certificates."`
	Version    versionCmd    `cmd:"" group:"other" help:"Show the version."`
	Completion completionCmd `cmd:"" group:"other" help:"Write a shell's completion script."`
	Help       helpCmd       `cmd:"" group:"other" help:"Show help of a command."`
}

// app is what a command gets to work with.
type app struct {
	env     cli.Env
	globals *globals
	sources *config.Sources
	model   *kong.Application

	interrupted atomic.Bool
}

// exited carries kong's wish to end, after help, up to run.
type exited int

// run is the whole program: it returns the exit code.
func run(ctx context.Context, env cli.Env) (code int) {
	var g grammar
	sources := config.NewSources(env.Lookup)
	fileRead := false
	k, err := kong.New(&g,
		kong.Name("holdfast"),
		kong.Description("Locks, elections, membership and keys on a quorum, with fencing tokens."),
		kong.Writers(env.Stdout, env.Stderr),
		kong.Exit(func(code int) { panic(exited(code)) }),
		kong.Resolvers(sources),
		kong.KindMapper(reflect.String, kong.MapperFunc(verbatim)),
		kong.Help(help),
		kong.Vars{"checkers": strings.Join(check.Names(), ", ")},
		kong.ValueFormatter(describe),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, NoExpandSubcommands: true, WrapUpperBound: 100}),
		kong.Groups{
			"start": "Start", "look": "Look", "use": "Use", "break": "Break", "operate": "Operate", "other": "Other",
			"connection": "Connection and output", "node": "Node", "addresses": "Addresses", "cluster": "Cluster",
			"security": "Security", "limits": "Timing and limits", "observability": "Observability",
		},
		kong.WithBeforeResolve(func(c *kong.Context) error {
			if fileRead {
				return nil
			}
			fileRead = true
			return readConfigFile(env, c, sources)
		}),
	)
	if err != nil {
		return cli.Report(env.Stderr, err)
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case exited:
			code = int(r)
		default:
			panic(r)
		}
	}()
	parsed, err := k.Parse(env.Args)
	if err != nil {
		return cli.Report(env.Stderr, usageError(err, env.Args))
	}
	a := &app{env: env, globals: &g.globals, sources: sources, model: k.Model}
	if err := sources.Faults(); err != nil && parsed.Command() != "serve" {
		return cli.Report(env.Stderr, cli.WithCode(err, cli.ExitUsage))
	}
	if g.Timeout <= 0 {
		return cli.Report(env.Stderr, cli.Usage("--timeout: want more than nothing"))
	}
	err = parsed.Run(a, &runContext{ctx})
	if err != nil && a.interrupted.Load() && cli.CodeOf(err) != cli.ExitUnknown {
		return cli.ExitInterrupted
	}
	return cli.Report(env.Stderr, err)
}

// runContext hands the context through kong, which binds by type.
type runContext struct{ context.Context } //nolint:containedctx // it lives for one call

// verbatim takes a string byte for byte. Kong's own way leads through JSON,
// which replaces what is not UTF-8.
func verbatim(c *kong.DecodeContext, target reflect.Value) error {
	t, err := c.Scan.PopValue("string")
	if err != nil {
		return err
	}
	s, ok := t.Value.(string)
	if !ok {
		return fmt.Errorf("expected a string but got %v", t.Value)
	}
	target.SetString(s)
	return nil
}

// usageError gives kong's words the code and advice of a usage fault.
func usageError(err error, args []string) error {
	var words []string
	for _, a := range args {
		if strings.HasPrefix(a, "-") || len(words) == 2 {
			break
		}
		words = append(words, a)
	}
	hint := strings.TrimSpace("holdfast " + strings.Join(words, " "))
	if pe, ok := errors.AsType[*kong.ParseError](err); ok && pe.Context != nil && pe.Context.Selected() != nil {
		hint = pe.Context.Selected().FullPath()
	} else if len(words) > 0 {
		hint = "holdfast"
	}
	return cli.WithHint(cli.WithCode(err, cli.ExitUsage), "see: %s --help", hint)
}

// describe is the help of a flag, with its default, unless the word after the
// flag shows it, and its environment variable.
func describe(v *kong.Value) string {
	text := kong.DefaultHelpValueFormatter(v)
	if v.Flag != nil && v.Flag.PlaceHolder != "" && v.HasDefault && !strings.Contains(text, "Default:") {
		text += " Default: " + v.Default + "."
	}
	if v.Flag != nil && config.FromEnv(v.Flag) {
		text += " [" + config.EnvName(v.Flag.Name) + "]"
	}
	return text
}

// help writes a command's examples, then what kong writes.
func help(options kong.HelpOptions, c *kong.Context) error {
	if node := c.Selected(); node != nil && node.Target.CanAddr() {
		if e, ok := reflect.TypeAssert[interface{ Examples() string }](node.Target.Addr()); ok {
			_, _ = fmt.Fprintf(c.Stdout, "Examples:\n%s\n", indent(e.Examples()))
		}
	} else if node == nil {
		_, _ = fmt.Fprintf(c.Stdout, "Examples:\n%s\n", indent(rootExamples))
	}
	return kong.DefaultHelpPrinter(options, c)
}

const rootExamples = `
holdfast dev
holdfast lock run jobs/nightly -- ./nightly.sh
holdfast kv put colour blue`

func indent(s string) string {
	var b strings.Builder
	for line := range strings.Lines(strings.TrimSpace(s)) {
		b.WriteString("  " + line)
	}
	return b.String() + "\n"
}

// readConfigFile adds the file of --config, if the command has that flag.
func readConfigFile(env cli.Env, c *kong.Context, sources *config.Sources) error {
	for _, f := range c.Flags() {
		if f.Name != "config" {
			continue
		}
		name, _ := c.FlagValue(f).(string)
		if name == "" {
			name = env.Getenv(config.EnvName("config"))
		}
		if name == "" {
			return nil
		}
		data, err := os.ReadFile(env.Path(name))
		if err != nil {
			return err
		}
		sources.File(name, data, c.Flags())
	}
	return nil
}

var (
	errInterrupted = errors.New("interrupted")
	errEnough      = errors.New("enough") // ends a watch that was told how much to show
)

// interruptible is a context that ends with Ctrl-C, SIGTERM or the terminal.
func (a *app) interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	signals, stop := a.env.Signals(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-signals:
			a.interrupted.Store(true)
			cancel(errInterrupted)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		stop()
		cancel(nil)
		<-done
	}
}

// timed bounds a command that should answer soon.
func (a *app) timed(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := a.interruptible(ctx)
	ctx, cancel := context.WithTimeout(ctx, a.globals.Timeout)
	return ctx, func() {
		cancel()
		stop()
	}
}

func (a *app) printer() *cli.Printer { return cli.NewPrinter(a.env, a.globals.Output) }

// note writes a line for people, which is not data.
func (a *app) note(format string, args ...any) {
	_, _ = fmt.Fprintf(a.env.Stderr, format+"\n", args...)
}

// where is how the command reaches the primitives.
func (a *app) where() access.Config {
	g := a.globals
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return access.Config{
		Engine: g.Engine, Endpoints: g.Endpoints, Token: g.AuthToken,
		TLS:     cert.Files{Cert: a.env.Path(g.Cert), Key: a.env.Path(g.Key), CA: a.env.Path(g.CA)},
		Session: engine.SessionConfig{Name: fmt.Sprintf("%s/%d", host, os.Getpid())},
	}
}

// with opens the primitives for one command that should answer soon.
func (a *app) with(ctx context.Context, f func(context.Context, access.Backend) error) error {
	ctx, stop := a.timed(ctx)
	defer stop()
	return a.open(ctx, ctx, a.where(), f)
}

// open opens the primitives until f returns. Opening ends with octx.
func (a *app) open(octx, ctx context.Context, where access.Config, f func(context.Context, access.Backend) error) error {
	b, err := access.Open(octx, where)
	if err != nil {
		return err
	}
	err = f(ctx, b)
	if cerr := b.Close(ctx); cerr != nil && err == nil {
		a.note("hint: the session ends by itself in some seconds: %v", cerr)
	}
	return err
}

// watching opens the primitives for a command that goes on until Ctrl-C.
func (a *app) watching(ctx context.Context, f func(context.Context, access.Backend) error) error {
	ctx, stop := a.interruptible(ctx)
	defer stop()
	octx, cancel := context.WithTimeout(ctx, a.globals.Timeout)
	defer cancel()
	return a.open(octx, ctx, a.where(), func(ctx context.Context, b access.Backend) error {
		err := f(ctx, b)
		switch {
		case errors.Is(err, errEnough):
			return nil
		case err == nil:
			return context.Cause(ctx)
		}
		return err
	})
}

// readAll reads an argument that may be "-" for standard input.
func (a *app) readAll(arg string) ([]byte, error) {
	if arg == "-" {
		return io.ReadAll(a.env.Stdin)
	}
	return []byte(arg), nil
}
