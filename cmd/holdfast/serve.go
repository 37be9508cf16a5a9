package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"go.opentelemetry.io/otel"

	"holdfast.dev/engine/embed"
	"holdfast.dev/internal/cert"
	"holdfast.dev/internal/cli"
	"holdfast.dev/internal/config"
	"holdfast.dev/internal/node"
)

type serveCmd struct {
	Config string `placeholder:"FILE" group:"node" help:"YAML file with settings of the same names as the flags. [HOLDFAST_CONFIG]"`
	config.Serve

	StartTimeout time.Duration `default:"60s" from:"env,file" group:"limits" help:"How long to wait for a majority at the start."`
	StopTimeout  time.Duration `default:"10s" from:"env,file" group:"limits" help:"How long calls under way may take at the end."`
}

func (serveCmd) Examples() string {
	return `
holdfast serve
holdfast serve --name n1 --data /var/lib/holdfast --peers n1=http://10.0.0.1:7451,n2=http://10.0.0.2:7451,n3=http://10.0.0.3:7451 …
holdfast serve --name n4 --data /var/lib/holdfast --join https://10.0.0.1:7450 …
holdfast serve --engine etcd://10.0.0.9:2379
holdfast serve --config /etc/holdfast.yaml`
}

// Help is the long text of the command.
func (serveCmd) Help() string {
	return `Without settings it is a single node on loopback that keeps its data in ./holdfast-data. A flag beats the environment, the environment beats the file.

One line on standard output says that the node serves, and where. SIGTERM and Ctrl-C stop it gracefully: leadership is handed over, sessions of clients stay. SIGHUP reads the tokens again; certificates are taken up by themselves.

The file of --tokens holds hashes only (printf %s TOKEN | sha256sum); role is read, write or admin; without prefixes, every name is allowed:

  tokens:
    - {name: deploy, sha256: 9f86d0…, role: write, prefixes: [jobs/, deploy/]}`
}

// readyJSON is the line that says that a node serves.
type readyJSON struct {
	Event string `json:"event"` // ready
	Name  string `json:"name"`
	API   string `json:"api"`
	Peer  string `json:"peer,omitempty"`
	Etcd  string `json:"etcd,omitempty"`
	Data  string `json:"data,omitempty"`
}

func (c *serveCmd) Run(a *app, ctx *runContext) error {
	c.Engine = a.globals.Engine
	if err := errors.Join(a.sources.Faults(), c.Validate(a.sources)); err != nil {
		return cli.WithHint(cli.WithCode(err, cli.ExitUsage), "see: holdfast serve --help")
	}
	for _, p := range []*string{&c.Data, &c.TLSCert, &c.TLSKey, &c.TLSCA, &c.PeerTLSCert, &c.PeerTLSKey, &c.PeerTLSCA, &c.Tokens} {
		*p = a.env.Path(*p)
	}
	signals, stopSignals := a.env.Signals(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stopSignals()
	logger := c.logger(a)
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		logger.Warn("traces", slog.String("error", err.Error()))
	}))

	sctx, cancel := context.WithTimeout(ctx, c.StartTimeout)
	defer cancel()
	started, done := make(chan startResult, 1), make(chan struct{})
	cfg := node.Config{
		Serve: c.Serve, Version: build().Version, Logger: logger, JoinToken: a.globals.AuthToken,
		JoinTLS: cert.Files{Cert: a.env.Path(a.globals.Cert), Key: a.env.Path(a.globals.Key), CA: a.env.Path(a.globals.CA)},
	}
	if err := cfg.Check(sctx); err != nil { // before anything is made
		return c.explain(cli.WithCode(err, cli.ExitUsage))
	}
	go func() {
		defer close(done)
		n, err := node.Start(sctx, cfg)
		started <- startResult{n, err}
	}()
	var s startResult
	for s.node == nil && s.err == nil {
		select {
		case s = <-started:
		case sig := <-signals:
			if sig == syscall.SIGHUP {
				continue // nothing to read again yet
			}
			cancel()
			<-done
			if s = <-started; s.node != nil {
				return c.stop(ctx, s.node, signals)
			}
			return nil
		}
	}
	<-done
	if s.err != nil {
		return c.explain(s.err)
	}
	if err := c.announce(a, s.node); err != nil {
		return errors.Join(err, c.stop(ctx, s.node, signals))
	}
	return c.serve(ctx, s.node, signals, logger)
}

// startResult is how a start went.
type startResult struct {
	node *node.Node
	err  error
}

// announce writes the line that says that the node serves.
func (c *serveCmd) announce(a *app, n *node.Node) error {
	r := readyJSON{Event: "ready", Name: c.Name, API: n.URL()}
	text := fmt.Sprintf("holdfast %s is ready: api %s", c.Name, r.API)
	if c.Engine == "" {
		r.Peer, r.Etcd, r.Data = c.AdvertisedPeer(), c.EtcdListen, c.Data
		text += fmt.Sprintf(", peers %s, data %s", r.Peer, r.Data)
		if r.Etcd != "" {
			text += ", etcd " + r.Etcd
		}
	}
	return a.printer().Event(r, "%s", text)
}

// serve waits for the end.
func (c *serveCmd) serve(ctx context.Context, n *node.Node, signals <-chan os.Signal, logger *slog.Logger) error {
	for {
		select {
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				logger.Info("stopping", slog.String("signal", sig.String()))
				return c.stop(ctx, n, signals)
			}
			_ = n.Reload() // it is logged; what was read before stays in force
		case <-n.Done():
			return errors.Join(errors.New("the embedded store stopped by itself: removed from the cluster, or its disk failed"), c.stop(ctx, n, signals))
		case <-ctx.Done():
			return c.stop(ctx, n, signals)
		}
	}
}

// stop closes the node; a second signal hurries it.
func (c *serveCmd) stop(ctx context.Context, n *node.Node, signals <-chan os.Signal) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.StopTimeout)
	defer cancel()
	closed := make(chan error, 1)
	go func() { closed <- n.Close(ctx) }()
	for {
		select {
		case err := <-closed:
			if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
				return nil // calls were cut, as announced
			}
			return err
		case sig := <-signals:
			if sig != syscall.SIGHUP {
				cancel()
			}
		}
	}
}

func (c *serveCmd) logger(a *app) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.LogLevel)) // one of the enumerated words
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(a.env.Stderr, opts)
	if c.LogFormat == "json" {
		h = slog.NewJSONHandler(a.env.Stderr, opts)
	}
	return slog.New(h).With(slog.String("node", c.Name))
}

// explain adds what can be done about a start that failed.
func (c *serveCmd) explain(err error) error {
	switch op, isNet := errors.AsType[*net.OpError](err); {
	case errors.Is(err, syscall.EADDRINUSE), strings.Contains(err.Error(), "address already in use"):
		return cli.WithHint(cli.WithCode(err, cli.ExitUsage), "something listens there already: choose other ports with --listen and --peer-listen")
	case errors.Is(err, embed.ErrInUse):
		return cli.WithHint(cli.WithCode(err, cli.ExitUsage), "each node needs a directory of its own: choose another with --data")
	case errors.Is(err, os.ErrPermission):
		return cli.WithHint(cli.WithCode(err, cli.ExitUsage), "the directory or port is not yours: choose another with --data or --listen")
	case isNet && op.Op == "listen":
		return cli.WithCode(err, cli.ExitUsage)
	}
	if len(c.Peers) > 1 && cli.CodeOf(err) == cli.ExitNoQuorum {
		return cli.WithHint(err, "a cluster of %d starts when %d of its nodes run and reach each other", len(c.Peers), len(c.Peers)/2+1)
	}
	return err
}
