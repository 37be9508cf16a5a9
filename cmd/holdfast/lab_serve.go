//go:build linux

package main

import (
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"holdfast.dev/lab/report"
)

type labServeCmd struct {
	storeFlag

	Listen string `default:"127.0.0.1:7480" placeholder:"ADDR" help:"Where to serve. Read only, and open to whoever can connect."`
}

func (labServeCmd) Examples() string {
	return `
holdfast lab serve
holdfast lab serve --store /var/lib/lab --listen 127.0.0.1:8000`
}

func (c *labServeCmd) Run(a *app, ctx *runContext) error {
	sctx, stop := a.interruptible(ctx)
	defer stop()
	var lc net.ListenConfig
	l, err := lc.Listen(sctx, "tcp", c.Listen)
	if err != nil {
		return err
	}
	srv := &http.Server{Handler: report.Handler(a.env.Path(c.Store)), ReadHeaderTimeout: 10 * time.Second}
	a.note("http://%s", l.Addr())
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-sctx.Done():
	}
	down, cancel := context.WithTimeout(context.WithoutCancel(sctx), 2*time.Second)
	defer cancel()
	if err := srv.Shutdown(down); err != nil { // a page that follows a run stays open
		_ = srv.Close()
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}
