package redis

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"

	"holdfast.dev/lab/history"
)

// departures counts what was written to the connections of one client. As long
// as it stays the same, nothing was sent.
type departures struct{ writes atomic.Int64 }

// conn counts.
type conn struct {
	net.Conn
	d *departures
}

func (c conn) Write(p []byte) (int, error) {
	c.d.writes.Add(1) // before: also what fails may have been written in part
	return c.Conn.Write(p)
}

// options make go-redis send every command once, over one connection.
func options(addr string, timeout time.Duration, d *departures) *redis.Options {
	return &redis.Options{
		Addr: addr,
		Dialer: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&net.Dialer{Timeout: timeout}).DialContext(ctx, network, addr)
			if err != nil {
				return nil, err
			}
			return conn{c, d}, nil
		},
		Protocol: 2, DisableIdentity: true,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
		MaxRetries:               -1, DialerRetries: 1, DialerRetryTimeout: time.Millisecond,
		DialTimeout: timeout, ReadTimeout: timeout, WriteTimeout: timeout, PoolTimeout: timeout,
		ContextTimeoutEnabled: true,
		PoolSize:              1, PipelinePoolSize: -1, ConnMaxIdleTime: -1,
	}
}

func open(addr string, timeout time.Duration) (*redis.Client, *departures) {
	d := new(departures)
	return redis.NewClient(options(addr, timeout, d)), d
}

// client invokes the operations of one workload at one server.
type client struct {
	settings
	*redis.Client
	addr       string
	departures *departures
	invoke     invoke
	held       map[string]string // value of the locks that are held
}

// invoke makes one call.
type invoke func(ctx context.Context, c *client, op history.Op) history.Op

func newClient(addr string, s settings, f invoke) *client {
	c, d := open(addr, s.timeout)
	return &client{settings: s, Client: c, addr: addr, departures: d, invoke: f, held: map[string]string{}}
}

// Invoke implements driver.Client.
func (c *client) Invoke(ctx context.Context, op history.Op) history.Op {
	before := c.departures.writes.Load()
	op = c.invoke(ctx, c, op)
	if op.Type != history.OK && c.departures.writes.Load() == before {
		// There is no connection. After a few such errors go-redis's pool repeats
		// the last one without trying; a new one tries.
		_ = c.Close() // it has nothing open
		c.Client = redis.NewClient(options(c.addr, c.timeout, c.departures))
	}
	return op
}

// quiet keeps go-redis from writing to standard error.
type quiet struct{}

func (quiet) Printf(context.Context, string, ...any) {}

func init() { redis.SetLogger(quiet{}) }

// change sends one command that changes something; certain says of an error
// that nothing was changed and never will be.
func (c *client) change(ctx context.Context, send func(context.Context) error) (certain bool, err error) {
	before := c.departures.writes.Load()
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	err = send(ctx)
	return c.departures.writes.Load() == before || refused(err), err
}

// refusals are how answers begin with which a server says that it did not
// execute a command. What is not here may have had an effect: a script that
// failed half way, for instance.
var refusals = []string{
	"READONLY", "LOADING", "NOREPLICAS", "MASTERDOWN", "MISCONF", "OOM", "NOAUTH", "NOPERM", "WRONGTYPE",
	"NOSCRIPT", "BUSY", "EXECABORT", "CLUSTERDOWN", "MOVED", "ASK", "TRYAGAIN", "NOTBUSY",
	"ERR unknown command", "ERR wrong number of arguments", "ERR value is not an integer", "ERR max number of clients",
	"ERR syntax error",
}

// refused reports an answer of the server that says that it did not execute the
// command.
func refused(err error) bool {
	answer, ok := errors.AsType[redis.Error](err)
	if !ok || errors.Is(err, redis.Nil) {
		return false
	}
	for _, r := range refusals {
		if rest, ok := strings.CutPrefix(answer.Error(), r); ok && (rest == "" || rest[0] == ' ') {
			return true
		}
	}
	return false
}
