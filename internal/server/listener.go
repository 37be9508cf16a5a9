package server

import (
	"net"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// bounded accepts no more connections than its quota has; what goes beyond is
// closed at once and counted.
type bounded struct {
	net.Listener
	quota   *quota
	refused prometheus.Counter
}

// Accept is part of net.Listener.
func (b bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		host, _, err := net.SplitHostPort(c.RemoteAddr().String())
		if err != nil {
			host = c.RemoteAddr().String()
		}
		giveBack, err := b.quota.take(host)
		if err == nil {
			return &counted{Conn: c, giveBack: sync.OnceFunc(giveBack)}, nil
		}
		b.refused.Inc()
		_ = c.Close() // nothing was sent on it
	}
}

// counted gives its place back when it is closed, which may be called twice.
type counted struct {
	net.Conn
	giveBack func()
}

// Close is part of net.Conn.
func (c *counted) Close() error {
	defer c.giveBack()
	return c.Conn.Close()
}
