package server

import (
	"fmt"
	"math"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"holdfast.dev"
)

// quota counts things in use, in all and for each key, and refuses more than
// are allowed. Safe for concurrent use.
type quota struct {
	what string // "waiting calls"
	whom string // "session"
	max  int
	each int

	mu    sync.Mutex // guards the fields below
	total int
	by    map[string]int
}

func newQuota(what, whom string, most, each int) *quota {
	return &quota{what: what, whom: whom, max: most, each: each, by: map[string]int{}}
}

// take takes one for a key; the caller gives it back once.
func (q *quota) take(key string) (giveBack func(), err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case q.total >= q.max:
		return nil, exhausted(fmt.Errorf("%d %s at this node", q.max, q.what))
	case q.by[key] >= q.each:
		return nil, exhausted(fmt.Errorf("%d %s of one %s", q.each, q.what, q.whom))
	}
	q.total++
	q.by[key]++
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		q.total--
		if q.by[key]--; q.by[key] == 0 {
			delete(q.by, key)
		}
	}, nil
}

// used is how many are in use.
func (q *quota) used() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.total
}

func exhausted(why error) error {
	return &holdfast.Error{Code: holdfast.CodeExhausted, Outcome: holdfast.NotApplied, Err: why}
}

// manyClients is how many clients rates remembers before it forgets those who
// have been quiet.
const manyClients = 4096

// rates bounds the requests per second of each client. Safe for concurrent use.
type rates struct {
	limit rate.Limit
	burst int

	mu sync.Mutex // guards the fields below
	by map[string]*rate.Limiter
}

func newRates(perSecond int) *rates {
	return &rates{limit: rate.Limit(perSecond), burst: max(perSecond, 1), by: map[string]*rate.Limiter{}}
}

// allow counts one request; when it is one too many it says how long to stay
// away.
func (r *rates) allow(client string, now time.Time) (time.Duration, error) {
	r.mu.Lock()
	l, ok := r.by[client]
	if !ok {
		if len(r.by) >= manyClients {
			for key, l := range r.by {
				if l.TokensAt(now) >= float64(r.burst) {
					delete(r.by, key)
				}
			}
		}
		l = rate.NewLimiter(r.limit, r.burst)
		r.by[client] = l
	}
	r.mu.Unlock()
	if l.AllowN(now, 1) {
		return 0, nil
	}
	wait := time.Duration(math.Ceil(1/float64(r.limit)*1e3)) * time.Millisecond
	return wait, exhausted(fmt.Errorf("%v requests per second of one client", float64(r.limit)))
}

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
