package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"holdfast.dev/engine"
	"holdfast.dev/internal/cert"
	"holdfast.dev/internal/server/auth"
)

// Config is how a node serves the API. Engine must be set; the zero value of
// everything else works.
type Config struct {
	// Engine is the quorum. The server does not close it.
	Engine engine.Engine
	// Cluster changes the quorum's own members; nil when that is not possible.
	Cluster Cluster

	// Name is the node's name. Default "n1".
	Name string
	// Version is the node's software. Default "unknown".
	Version string
	// Advertise is the URLs at which clients reach this node, for
	// ClusterService.Members. Default none.
	Advertise []string

	// Listen is HOST:PORT. Default 127.0.0.1:7450; port 0 is any free one.
	Listen string
	// TLS is the certificate to serve with, and whose client certificates count.
	// Default no TLS, which is refused for a Listen beyond loopback.
	TLS cert.Files
	// RequireClientCert refuses connections without a client certificate.
	RequireClientCert bool
	// Insecure allows to listen beyond loopback without TLS.
	Insecure bool
	// Tokens is the file of bearer tokens. Default none; without it and without
	// client certificates, everybody may do everything.
	Tokens string

	// SessionTTL is the TTL of the node's own session. Default 10 s.
	SessionTTL time.Duration
	// Attempt is how long one request to the quorum may take before it is sent
	// again. Default engine.DefaultAttempt.
	Attempt time.Duration
	// CallTimeout ends calls that came without a deadline and do not wait for a
	// lock or leadership. Default 10 s.
	CallTimeout time.Duration
	// WaitSlice is how long one call waits for a lock or leadership before the
	// client has to call again. Default 60 s.
	WaitSlice time.Duration
	// WaitGrace is how long the place in the queue is kept for that. Default 5 s.
	WaitGrace time.Duration
	// Heartbeat is how often a stream without news says so. Default 10 s.
	Heartbeat time.Duration

	// Limits bounds what clients may use.
	Limits Limits

	// Logger takes the server's log; requests at debug. Default none.
	Logger *slog.Logger
	// Tracer makes spans of requests. Default none.
	Tracer trace.TracerProvider
	// Gatherer is more metrics for /metrics. Default
	// prometheus.DefaultGatherer, where an embedded etcd has its own.
	Gatherer prometheus.Gatherer
}

// Limits bounds what clients may use. A client is a principal; where nobody
// has to say who he is, it is an address. What goes beyond is
// holdfast.ErrExhausted. The zero value is the defaults.
type Limits struct {
	Request        int           // bytes of one request; default 1.5 MiB, which holds the largest value in JSON
	Rate           int           // requests per second of one client; default 20,000
	Sessions       int           // of all clients; default 100,000
	SessionsEach   int           // of one client's principal; default 10,000
	TTL            time.Duration // of a session; default 1 h
	Waiters        int           // waiting calls at this node; default 50,000
	WaitersSession int           // waiting calls of one session; default 1,000
	Streams        int           // at this node; default 10,000
	StreamsEach    int           // of one client; default 1,000
	TCP            int           // connections to this node; default 16,384; what goes beyond is closed at once
	TCPEach        int           // connections of one address; default 4,096
	Connections    int           // streams of one HTTP/2 connection at a time; default 10,000
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&l.Request, 3 << 19},
		{&l.Rate, 20_000},
		{&l.Sessions, 100_000},
		{&l.SessionsEach, 10_000},
		{&l.Waiters, 50_000},
		{&l.WaitersSession, 1_000},
		{&l.Streams, 10_000},
		{&l.StreamsEach, 1_000},
		{&l.TCP, 16_384},
		{&l.TCPEach, 4_096},
		{&l.Connections, 10_000},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if l.TTL == 0 {
		l.TTL = time.Hour
	}
	return l
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&c.SessionTTL, engine.DefaultTTL},
		{&c.Attempt, engine.DefaultAttempt},
		{&c.CallTimeout, 10 * time.Second},
		{&c.WaitSlice, time.Minute},
		{&c.WaitGrace, 5 * time.Second},
		{&c.Heartbeat, 10 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	if c.Name == "" {
		c.Name = "n1"
	}
	if c.Version == "" {
		c.Version = "unknown"
	}
	if c.Listen == "" {
		c.Listen = "127.0.0.1:7450"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Gatherer == nil {
		c.Gatherer = prometheus.DefaultGatherer
	}
	c.Limits = c.Limits.withDefaults()
	return c
}

// Validate reports everything that is wrong with c at once.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	fault := func(format string, args ...any) { faults = append(faults, fmt.Errorf(format, args...)) }
	if c.Engine == nil {
		fault("engine: is missing")
	}
	host, _, err := net.SplitHostPort(c.Listen)
	switch {
	case err != nil:
		fault("listen %q: want HOST:PORT", c.Listen)
	case !loopback(host) && c.TLS.Cert == "" && !c.Insecure:
		fault("listen %s: it is not loopback; serve TLS, or say that it may be insecure", c.Listen)
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		fault("tls: certificate and key go together")
	}
	if c.TLS.CA != "" && c.TLS.Cert == "" {
		fault("tls: client certificates need a server certificate")
	}
	if c.RequireClientCert && c.TLS.CA == "" {
		fault("tls: client certificates cannot be required without a CA")
	}
	if c.SessionTTL < engine.MinTTL || c.SessionTTL > engine.MaxTTL {
		fault("session ttl %v: want %v to %v", c.SessionTTL, engine.MinTTL, engine.MaxTTL)
	}
	if c.Limits.TTL < engine.MinTTL || c.Limits.TTL > engine.MaxTTL {
		fault("limit of ttl %v: want %v to %v", c.Limits.TTL, engine.MinTTL, engine.MaxTTL)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"attempt", c.Attempt},
		{"call timeout", c.CallTimeout},
		{"wait slice", c.WaitSlice},
		{"wait grace", c.WaitGrace},
		{"heartbeat", c.Heartbeat},
	} {
		if d.value < 0 {
			fault("%s %v: want a positive duration", d.name, d.value)
		}
	}
	for _, n := range []struct {
		name  string
		value int
	}{
		{"request", c.Limits.Request},
		{"rate", c.Limits.Rate},
		{"sessions", c.Limits.Sessions},
		{"sessions each", c.Limits.SessionsEach},
		{"waiters", c.Limits.Waiters},
		{"waiters of a session", c.Limits.WaitersSession},
		{"streams", c.Limits.Streams},
		{"streams each", c.Limits.StreamsEach},
		{"tcp connections", c.Limits.TCP},
		{"tcp connections each", c.Limits.TCPEach},
		{"connections", c.Limits.Connections},
	} {
		if n.value < 0 {
			fault("limit of %s %d: want a positive number", n.name, n.value)
		}
	}
	return errors.Join(faults...)
}

// loopback says whether a host is reachable from this machine only.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// CheckTokens says what is wrong with a file of tokens, as Start would; "" is
// none.
func CheckTokens(file string) error {
	_, err := auth.Open(auth.Config{Tokens: file})
	return err
}
