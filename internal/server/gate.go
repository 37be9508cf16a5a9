package server

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strings"
	"time"

	"connectrpc.com/connect"

	"holdfast.dev"
	"holdfast.dev/internal/server/auth"
	"holdfast.dev/internal/wire"
)

// caller is who sent a request.
type caller struct {
	auth.Principal
	client string // whose limits count: the principal, or an address
}

type callerKey struct{}

// arrivedKey is the key of what to call when the whole message is there.
type arrivedKey struct{}

// arrived takes the deadline off a request whose message is there.
func arrived(ctx context.Context) {
	if f, ok := ctx.Value(arrivedKey{}).(func()); ok {
		f()
	}
}

// arriving takes the deadline off a stream with its first message.
type arriving struct {
	connect.StreamingHandlerConn
	arrived func()
}

func (a arriving) Receive(m any) error {
	err := a.StreamingHandlerConn.Receive(m)
	if err == nil { // otherwise what is left of the body is still awaited
		a.arrived()
	}
	return err
}

// callerOf is who sent the request of ctx; nobody where there is none.
func callerOf(ctx context.Context) caller {
	c, _ := ctx.Value(callerKey{}).(caller)
	return c
}

// gate lets in requests whose sender is known and within his rate.
func (s *Server) gate(next http.Handler) http.Handler {
	writer := connect.NewErrorWriter(s.options...)
	refuse := func(w http.ResponseWriter, r *http.Request, ce *connect.Error, status int) {
		s.metrics.refused.WithLabelValues(ce.Code().String()).Inc()
		if writer.IsSupported(r) {
			_ = writer.Write(w, r, ce) // the caller is gone
			return
		}
		maps.Copy(w.Header(), ce.Meta())
		http.Error(w, ce.Message(), status)
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.auth.Required() && !s.ownHost(r.Host) {
			// A page in somebody's browser can point its own name at this
			// address; it cannot choose the Host header.
			refuse(w, r, wire.ToConnect(&holdfast.Error{
				Code: holdfast.CodeDenied, Outcome: holdfast.NotApplied,
				Err: errors.New("host " + r.Host + " is not this node; without authentication use an address, localhost or an advertised name"),
			}), http.StatusForbidden)
			return
		}
		p, err := s.auth.Authenticate(r)
		if err != nil {
			refuse(w, r, wire.Unauthenticated(err.Error()), http.StatusUnauthorized)
			return
		}
		c := caller{Principal: p, client: p.Name}
		if p.Name == auth.Anonymous {
			if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil {
				c.client = host
			}
		}
		if wait, err := s.rates.allow(c.client, time.Now()); err != nil {
			ce := wire.ToConnect(err, wire.RetryAfter(wait))
			ce.Meta().Set("Retry-After", "1")
			refuse(w, r, ce, http.StatusTooManyRequests)
			return
		}
		// A message that never ends must not keep its connection for ever.
		rc := http.NewResponseController(w)
		_ = rc.SetReadDeadline(time.Now().Add(s.cfg.CallTimeout)) // not supported: a test's writer
		ctx := context.WithValue(r.Context(), callerKey{}, c)
		ctx = context.WithValue(ctx, arrivedKey{}, func() { _ = rc.SetReadDeadline(time.Time{}) })
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// ownHost says whether a Host header can only mean this node: an address,
// localhost, or a name it is advertised under.
func (s *Server) ownHost(host string) bool {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.Trim(host, "[]")
	if host == "localhost" || net.ParseIP(host) != nil {
		return true
	}
	_, ok := s.names[strings.ToLower(host)]
	return ok
}

// around is what happens around every call: a deadline, errors as they go over
// the wire, a log line, a measurement.
type around struct{ server *Server }

var _ connect.Interceptor = around{}

func (a around) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		arrived(ctx)
		start := time.Now()
		if _, ok := ctx.Deadline(); !ok && !waits(req.Spec().Procedure) {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, a.server.cfg.CallTimeout)
			defer cancel()
		}
		resp, err := next(ctx, req)
		return resp, a.done(ctx, req.Spec().Procedure, start, err)
	}
}

func (a around) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

func (a around) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		start := time.Now()
		err := next(ctx, arriving{conn, func() { arrived(ctx) }})
		return a.done(ctx, conn.Spec().Procedure, start, err)
	}
}

func (a around) done(ctx context.Context, procedure string, start time.Time, err error) error {
	s, took := a.server, time.Since(start)
	method := strings.TrimPrefix(procedure, "/holdfast.v1.")
	code := "ok"
	var out error
	if err != nil {
		ce := wire.ToConnect(err)
		code, out = ce.Code().String(), ce
	}
	s.metrics.requests.WithLabelValues(method, code).Inc()
	s.metrics.seconds.WithLabelValues(method).Observe(took.Seconds())
	attrs := []slog.Attr{
		slog.String("method", method), slog.String("principal", callerOf(ctx).Name),
		slog.String("code", code), slog.Duration("took", took),
	}
	if err != nil {
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	level := slog.LevelDebug
	if code == connect.CodeInternal.String() {
		level = slog.LevelError
	}
	s.cfg.Logger.LogAttrs(ctx, level, "request", attrs...)
	return out
}

// waits says whether a call may take as long as it takes somebody else to give
// something up.
func waits(procedure string) bool {
	return strings.HasSuffix(procedure, "/Acquire") || strings.HasSuffix(procedure, "/Campaign") ||
		strings.HasSuffix(procedure, "/Defragment")
}

// stream begins one stream of events: it counts, and its context ends also when
// the node stops. The caller calls done once or more.
func (s *Server) stream(ctx context.Context) (_ context.Context, done func(), err error) {
	giveBack, err := s.streams.take(callerOf(ctx).client)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	unhook := context.AfterFunc(s.stopping, cancel)
	context.AfterFunc(ctx, giveBack) // once, at the latest when done is called
	return ctx, func() {
		unhook()
		cancel()
	}, nil
}

// ended is what a stream says whose context ended: that the node stops, or that
// the caller went away.
func (s *Server) ended(ctx context.Context) error {
	if s.stopping.Err() != nil {
		return &holdfast.Error{Key: "node " + s.cfg.Name, Op: "stop", Code: holdfast.CodeClosed, Outcome: holdfast.NotApplied}
	}
	return &holdfast.Error{Code: holdfast.CodeOf(ctx.Err()), Outcome: holdfast.NotApplied, Err: ctx.Err()}
}

// drain ends a watch and waits until its channel is closed.
func drain[T any](events <-chan T, stop func()) {
	stop()
	for range events {
	}
}
