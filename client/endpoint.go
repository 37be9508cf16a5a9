package client

import (
	"context"
	"net"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"holdfast.dev/internal/gen/holdfast/v1/holdfastv1connect"
)

// endpoint is one node's API with a connection of its own, so that one node's
// silence holds up nobody else.
type endpoint struct {
	url       string
	transport *http.Transport

	session    holdfastv1connect.SessionServiceClient
	lock       holdfastv1connect.LockServiceClient
	election   holdfastv1connect.ElectionServiceClient
	membership holdfastv1connect.MembershipServiceClient
	kv         holdfastv1connect.KVServiceClient
	cluster    holdfastv1connect.ClusterServiceClient

	long atomic.Int32 // waits and watches under way here

	mu   sync.Mutex         // guards the fields below
	gone context.Context    // ends when the node is given up for now
	give context.CancelFunc // ends gone
}

func newEndpoint(c Config, at string) *endpoint {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true) // for http:// endpoints
	e := &endpoint{url: at, transport: &http.Transport{
		DialContext:         (&net.Dialer{Timeout: c.Attempt, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:     c.TLS.Clone(),
		TLSHandshakeTimeout: 2 * c.Attempt,
		IdleConnTimeout:     90 * time.Second,
		Protocols:           protocols,
		// A connection without a sign of life is closed, so that what hangs on
		// it ends; probes find a node that is alive but cut off.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 5 * time.Second, PingTimeout: 3 * time.Second},
	}}
	e.gone, e.give = context.WithCancel(context.Background())
	doer := &http.Client{Transport: e.transport}
	opt := connect.WithInterceptors(bearer(c.Token))
	e.session = holdfastv1connect.NewSessionServiceClient(doer, at, opt)
	e.lock = holdfastv1connect.NewLockServiceClient(doer, at, opt)
	e.election = holdfastv1connect.NewElectionServiceClient(doer, at, opt)
	e.membership = holdfastv1connect.NewMembershipServiceClient(doer, at, opt)
	e.kv = holdfastv1connect.NewKVServiceClient(doer, at, opt)
	e.cluster = holdfastv1connect.NewClusterServiceClient(doer, at, opt)
	return e
}

// giveUp ends what waits for an answer of this node; the next use starts anew.
func (e *endpoint) giveUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.give()
	e.gone, e.give = context.WithCancel(context.Background())
}

// during is a context that ends with ctx and when the node is given up.
func (e *endpoint) during(ctx context.Context) (context.Context, context.CancelFunc) {
	e.mu.Lock()
	gone := e.gone
	e.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(gone, cancel)
	return ctx, func() {
		stop()
		cancel()
	}
}

func (e *endpoint) close() {
	e.mu.Lock()
	e.give()
	e.mu.Unlock()
	e.transport.CloseIdleConnections()
}

// bearer adds the token to every request.
type bearer string

func (b bearer) set(h http.Header) {
	if b != "" {
		h.Set("Authorization", "Bearer "+string(b))
	}
}

// WrapUnary is part of connect.Interceptor.
func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		b.set(req.Header())
		return next(ctx, req)
	}
}

// WrapStreamingClient is part of connect.Interceptor.
func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		b.set(conn.RequestHeader())
		return conn
	}
}

// WrapStreamingHandler is part of connect.Interceptor; a client handles none.
func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || (ip != nil && ip.IsLoopback())
}

// hostOf is the part of a URL that people recognise.
func hostOf(s string) string {
	if u, err := url.Parse(s); err == nil && u.Host != "" {
		return u.Host
	}
	return s
}
