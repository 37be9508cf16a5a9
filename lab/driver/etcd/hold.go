package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"go.etcd.io/etcd/client/pkg/v3/logutil"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"holdfast.dev/internal/call"
	"holdfast.dev/lab/history"
)

// grace is how long giving up may take.
const grace = 500 * time.Millisecond

// holder is the client of lock and election: etcd's own recipes, on etcd's own
// client, as programs use them. Each lock and each election has a session of
// its own, so that giving one up touches no other.
type holder struct {
	addr string
	settings
	calls map[string]func(*holder, context.Context, history.Op) history.Op
	seats map[string]*seat
}

func newHolder(addr string, s settings, calls map[string]func(*holder, context.Context, history.Op) history.Op) *holder {
	return &holder{addr: addr, settings: s, calls: calls, seats: map[string]*seat{}}
}

// seat is what the client holds, or could hold, by one session.
type seat struct {
	client  *clientv3.Client
	session *concurrency.Session
	mutex   *concurrency.Mutex    // held
	term    *concurrency.Election // led
}

var lockCalls = map[string]func(*holder, context.Context, history.Op) history.Op{
	"acquire": (*holder).acquire, "release": (*holder).release,
}

var electionCalls = map[string]func(*holder, context.Context, history.Op) history.Op{
	"campaign": (*holder).campaign, "resign": (*holder).resign, "observe": (*holder).observe,
}

// Invoke implements driver.Client.
func (h *holder) Invoke(ctx context.Context, op history.Op) history.Op {
	f := h.calls[op.F]
	if f == nil {
		return call.Unknown(op)
	}
	return f(h, ctx, op)
}

// Close implements driver.Client. What is held is given back if the server
// answers at once.
func (h *holder) Close() error {
	for key := range h.seats {
		h.drop(context.Background(), key)
	}
	return nil
}

// open returns the seat of a key, with a session that lives as far as the
// client knows. What was held by a session that does not is gone.
func (h *holder) open(ctx context.Context, key string) (*seat, error) {
	if s := h.seats[key]; s != nil {
		if s.alive() {
			return s, nil
		}
		h.drop(ctx, key)
	}
	log := logutil.DefaultZapLoggerConfig
	log.OutputPaths, log.ErrorOutputPaths = nil, nil
	c, err := clientv3.New(clientv3.Config{
		Endpoints: []string{"http://" + h.addr}, LogConfig: &log,
		DialKeepAliveTime: 10 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		DialOptions: []grpc.DialOption{grpc.WithNoProxy()},
	})
	if err != nil {
		return nil, err
	}
	s := &seat{client: c}
	octx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	stop := within(octx, s) // the session lives as long as the client, not as octx
	s.session, err = concurrency.NewSession(c, concurrency.WithTTL(int(math.Ceil(h.ttl.Seconds()))))
	stop()
	if err != nil {
		_ = c.Close() // it says that it is closed
		return nil, fmt.Errorf("open a session: %w", err)
	}
	h.seats[key] = s
	return s, nil
}

// within ends all that a seat does when it still goes on a while after the end
// of ctx, unless it is stopped before. The recipes have parts that no context
// reaches.
func within(ctx context.Context, s *seat) (stop func()) {
	done := make(chan struct{})
	var watchdog sync.WaitGroup
	watchdog.Go(func() {
		select {
		case <-done:
			return
		case <-ctx.Done():
		}
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-done:
		case <-t.C:
			_ = s.client.Close() // it says that it is closed
		}
	})
	return func() { close(done); watchdog.Wait() }
}

func (s *seat) alive() bool {
	select {
	case <-s.session.Done():
		return false
	default:
		return true
	}
}

// drop ends the session of a key, and says whether everything that hung on it is
// gone for certain.
func (h *holder) drop(ctx context.Context, key string) bool {
	s := h.seats[key]
	if s == nil {
		return true
	}
	delete(h.seats, key)
	s.session.Orphan()
	_ = s.client.Close()               // it says that it is closed
	m, err := dial(h.addr, h.settings) // that client may be unusable, in order to get out of a recipe
	if err != nil {
		return false
	}
	defer m.Close() //nolint:errcheck // one request
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
	defer cancel()
	_, err = etcdserverpb.NewLeaseClient(m.conn).LeaseRevoke(ctx, &etcdserverpb.LeaseRevokeRequest{ID: int64(s.session.Lease())})
	return err == nil || status.Convert(err).Message() == rpctypes.ErrorDesc(rpctypes.ErrGRPCLeaseNotFound)
}

var (
	errLost = errors.New("lost: the session has expired")
	errHeld = errors.New("this client holds it already")
	errNot  = errors.New("this client does not hold it")
)

// attempt runs a recipe that waits its turn. When it fails, what may have been
// left in the queue goes with the session.
func (h *holder) attempt(ctx context.Context, op history.Op, recipe func(context.Context, *seat) (token int64, err error)) history.Op {
	s, err := h.open(ctx, op.Key)
	if err != nil {
		return call.Fail(op, err) // nothing stands in the queue
	}
	if s.mutex != nil || s.term != nil {
		return call.Fail(op, errHeld)
	}
	wctx, cancel := context.WithTimeout(ctx, h.wait)
	defer cancel()
	stop := within(wctx, s)
	token, err := recipe(wctx, s)
	stop()
	if err == nil && !s.alive() {
		err = errLost
	}
	if err != nil {
		return call.End(op, nil, err, h.drop(ctx, op.Key))
	}
	return call.OK(op, token)
}

// giveUp runs a recipe that gives back what is held.
func (h *holder) giveUp(ctx context.Context, op history.Op, recipe func(context.Context, *seat) error) history.Op {
	s := h.seats[op.Key]
	if s == nil || s.mutex == nil && s.term == nil {
		return call.Fail(op, errNot)
	}
	if !s.alive() {
		h.drop(ctx, op.Key)
		return call.Fail(op, errLost)
	}
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	stop := within(ctx, s)
	err := recipe(ctx, s)
	stop()
	if err != nil && !h.drop(ctx, op.Key) {
		return call.Info(op, err)
	}
	s.mutex, s.term = nil, nil
	return call.OK(op, op.Value)
}

func (h *holder) acquire(ctx context.Context, op history.Op) history.Op {
	return h.attempt(ctx, op, func(ctx context.Context, s *seat) (int64, error) {
		m := concurrency.NewMutex(s.session, "lock/"+op.Key)
		if err := m.Lock(ctx); err != nil {
			return 0, err
		}
		s.mutex = m
		return m.Header().GetRevision(), nil
	})
}

func (h *holder) release(ctx context.Context, op history.Op) history.Op {
	return h.giveUp(ctx, op, func(ctx context.Context, s *seat) error { return s.mutex.Unlock(ctx) })
}

func (h *holder) campaign(ctx context.Context, op history.Op) history.Op {
	return h.attempt(ctx, op, func(ctx context.Context, s *seat) (int64, error) {
		e := concurrency.NewElection(s.session, "election/"+op.Key)
		if err := e.Campaign(ctx, fmt.Sprintf("%x", s.session.Lease())); err != nil {
			return 0, err
		}
		s.term = e
		return e.Rev(), nil
	})
}

func (h *holder) resign(ctx context.Context, op history.Op) history.Op {
	return h.giveUp(ctx, op, func(ctx context.Context, s *seat) error { return s.term.Resign(ctx) })
}

// observe reads who leads: whose candidacy is the oldest.
func (h *holder) observe(ctx context.Context, op history.Op) history.Op {
	m, err := dial(h.addr, h.settings)
	if err != nil {
		return call.Fail(op, err)
	}
	defer m.Close() //nolint:errcheck // one request
	r, err := m.list(ctx, "election/"+op.Key+"/")
	if err != nil {
		return call.Fail(op, err)
	}
	if len(r.GetKvs()) == 0 {
		return call.OK(op, nil)
	}
	return call.OK(op, r.GetKvs()[0].GetCreateRevision())
}
