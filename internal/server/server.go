package server

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"connectrpc.com/connect"
	"connectrpc.com/otelconnect"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/internal/gen/holdfast/v1/holdfastv1connect"
	"holdfast.dev/internal/server/auth"
	"holdfast.dev/internal/wire"
	"holdfast.dev/kv"
	"holdfast.dev/membership"
)

// Server serves the API of one node. Safe for concurrent use.
type Server struct {
	cfg         Config
	started     time.Time
	auth        *auth.Authenticator
	leases      engine.Leaser
	store       *kv.Store
	own         *own
	register    *register
	probe       *probe
	queue       *queue
	waiters     *quota
	streams     *quota
	connections *quota
	rates       *rates
	metrics     *metrics
	names       map[string]struct{} // host names that mean this node
	options     []connect.HandlerOption
	handler     http.Handler

	stopping context.Context // ends when Shutdown begins
	stop     context.CancelFunc
	rest     context.CancelFunc // ends the node's own goroutines
	working  sync.WaitGroup     // those

	listener net.Listener
	http     *http.Server
	served   chan error // of the listener's loop

	once sync.Once
	shut error // of the first Shutdown
}

// Start listens and serves. It does not wait for the quorum: until it answers,
// neither do calls that need it. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (*Server, error) {
	s, err := build(cfg)
	if err != nil {
		return nil, err
	}
	var tlsConfig *tls.Config
	if s.cfg.TLS.Cert != "" {
		if tlsConfig, err = s.cfg.TLS.Server(s.cfg.RequireClientCert); err != nil {
			return nil, err
		}
	}
	var lc net.ListenConfig
	if s.listener, err = lc.Listen(ctx, "tcp", s.cfg.Listen); err != nil {
		return nil, err
	}
	var l net.Listener = bounded{s.listener, s.connections, s.metrics.turned}
	if tlsConfig != nil {
		l = tls.NewListener(l, tlsConfig)
	}
	s.run(context.WithoutCancel(ctx))
	s.http = s.httpServer()
	s.working.Go(func() { s.served <- s.http.Serve(l) })
	return s, nil
}

// build makes the server without listening and without a goroutine.
func build(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, &holdfast.Error{Op: "configure server", Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: err}
	}
	cfg = cfg.withDefaults()
	a, err := auth.Open(auth.Config{
		Tokens: cfg.Tokens, Certificates: cfg.TLS.CA != "",
		OnReload: func(err error) { reloaded(cfg.Logger, err) },
	})
	if err != nil {
		return nil, err
	}
	s := &Server{
		cfg: cfg, started: time.Now(), auth: a, leases: engine.Leases(cfg.Engine),
		store:       kv.NewFor(cfg.Engine, cfg.Attempt),
		own:         &own{cfg: cfg, members: membership.NewFor(cfg.Engine, cfg.Attempt)},
		register:    newRegister(cfg.Limits.Sessions, cfg.Limits.SessionsEach),
		waiters:     newQuota("waiting calls", "session", cfg.Limits.Waiters, cfg.Limits.WaitersSession),
		streams:     newQuota("streams", "client", cfg.Limits.Streams, cfg.Limits.StreamsEach),
		connections: newQuota("connections", "address", cfg.Limits.TCP, cfg.Limits.TCPEach),
		rates:       newRates(cfg.Limits.Rate),
		metrics:     newMetrics(),
		names:       hostNames(cfg.Advertise),
		served:      make(chan error, 1),
	}
	s.queue = newQueue(cfg.WaitSlice, cfg.WaitGrace, s.waiters)
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.probe = &probe{engine: cfg.Engine, attempt: cfg.Attempt, ctx: s.stopping}
	if err := s.routes(); err != nil {
		return nil, err
	}
	s.gauges()
	return s, nil
}

func reloaded(l *slog.Logger, err error) {
	if err != nil {
		l.Error("tokens stay as they were", slog.String("error", err.Error()))
		return
	}
	l.Info("tokens read again")
}

// hostNames is the host names of URLs.
func hostNames(urls []string) map[string]struct{} {
	names := map[string]struct{}{}
	for _, u := range urls {
		if p, err := url.Parse(u); err == nil && p.Hostname() != "" {
			names[strings.ToLower(p.Hostname())] = struct{}{}
		}
	}
	return names
}

// routes makes the handler of everything on the port.
func (s *Server) routes() error {
	interceptors := []connect.Interceptor{around{s}}
	if s.cfg.Tracer != nil {
		traces, err := otelconnect.NewInterceptor(otelconnect.WithTracerProvider(s.cfg.Tracer), otelconnect.WithoutMetrics(), otelconnect.WithTrustRemote())
		if err != nil {
			return err
		}
		interceptors = append([]connect.Interceptor{traces}, interceptors...)
	}
	s.options = append(wire.JSON(),
		connect.WithInterceptors(interceptors...),
		connect.WithReadMaxBytes(s.cfg.Limits.Request),
		connect.WithRecover(s.recovered),
	)
	api := http.NewServeMux()
	handle := func(path string, h http.Handler) { api.Handle(path, h) }
	handle(holdfastv1connect.NewSessionServiceHandler(sessionService{s}, s.options...))
	handle(holdfastv1connect.NewLockServiceHandler(lockService{s}, s.options...))
	handle(holdfastv1connect.NewElectionServiceHandler(electionService{s}, s.options...))
	handle(holdfastv1connect.NewMembershipServiceHandler(membershipService{s}, s.options...))
	handle(holdfastv1connect.NewKVServiceHandler(kvService{s}, s.options...))
	handle(holdfastv1connect.NewClusterServiceHandler(clusterService{s}, s.options...))
	api.Handle("GET /metrics", s.metricsHandler())
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.healthz)
	mux.HandleFunc("GET /readyz", s.readyz)
	mux.Handle("/", s.gate(api))
	s.handler = mux
	return nil
}

// recovered makes an error of a panic in a handler.
func (s *Server) recovered(ctx context.Context, spec connect.Spec, _ http.Header, v any) error {
	s.cfg.Logger.ErrorContext(ctx, "panic", slog.String("method", spec.Procedure), slog.Any("value", v))
	return wire.ToConnect(&holdfast.Error{Op: spec.Procedure, Code: holdfast.CodeInternal, Err: errors.New("a defect of the node; see its log")})
}

// run starts the node's own goroutines.
func (s *Server) run(ctx context.Context) {
	work, cancel := context.WithCancel(ctx)
	s.rest = cancel
	s.working.Go(func() { s.own.run(work) })
	s.working.Go(func() {
		key, end := engine.SessionRange()
		engine.Follow(work, s.cfg.Engine, s.cfg.Attempt, key, end, s.register.apply)
	})
}

func (s *Server) httpServer() *http.Server {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           s.handler,
		Protocols:         &protocols,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: s.cfg.Limits.Connections,
			SendPingTimeout:      15 * time.Second, // a client that is gone without a word is noticed
			PingTimeout:          15 * time.Second,
		},
		ErrorLog: log.New(logWriter{s.cfg.Logger}, "", 0),
	}
}

// logWriter takes what net/http logs.
type logWriter struct{ *slog.Logger }

func (l logWriter) Write(p []byte) (int, error) {
	l.Debug("http", slog.String("text", strings.TrimSpace(string(p))))
	return len(p), nil
}

// Addr is where the server listens.
func (s *Server) Addr() net.Addr { return s.listener.Addr() }

// URL is the address at which it is reached from this machine.
func (s *Server) URL() string {
	if s.cfg.TLS.Cert != "" {
		return "https://" + s.Addr().String()
	}
	return "http://" + s.Addr().String()
}

// Ready is nil when this node serves; otherwise it says why not.
func (s *Server) Ready(ctx context.Context) error { return s.ready(ctx) }

// Reload reads the file of tokens again, as on SIGHUP. Certificates are looked
// at with every handshake anyway.
func (s *Server) Reload() error {
	err := s.auth.Reload()
	reloaded(s.cfg.Logger, err)
	return err
}

// Shutdown stops serving: streams and waits end with "another node will go on",
// calls under way may finish until ctx ends, then connections are cut. Sessions
// of clients stay: other nodes keep them. The node's own session is closed.
// Calls after the first return what that one returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.once.Do(func() {
		s.stop()
		s.queue.close() // what waits ends before the managers it waits in
		s.shut = s.http.Shutdown(ctx)
		if s.shut != nil {
			s.shut = errors.Join(s.shut, s.http.Close())
		}
		s.probe.all.Wait()
		s.rest()
		s.working.Wait()
		if err := <-s.served; !errors.Is(err, http.ErrServerClosed) {
			s.shut = errors.Join(s.shut, err)
		}
	})
	return s.shut
}
