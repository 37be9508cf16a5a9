package etcd

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"

	"holdfast.dev"
	"holdfast.dev/engine"
)

// Stubs are the services of one etcd member.
type Stubs struct {
	KV          etcdserverpb.KVClient
	Lease       etcdserverpb.LeaseClient
	Watch       etcdserverpb.WatchClient
	Maintenance etcdserverpb.MaintenanceClient

	// Progress says that the member's answers to progress requests keep their
	// place among the events. Those of etcd before 3.4.25 and of 3.5.0 to 3.5.7
	// may overtake events, so they are taken for signs of life only, and a key
	// is written instead.
	Progress bool
}

// A Backend gives access to a cluster: over the network for [Dial], in the
// same process for engine/embed. Its methods are safe for concurrent use.
type Backend interface {
	// Stubs are those to use now, and a channel that closes when streams that
	// were opened on them should move to new ones.
	Stubs() (Stubs, <-chan struct{})

	// Prepare adds to ctx what the member needs to see: credentials, the wish
	// to be refused when it knows of no leader. sent then reports whether
	// anything of the request may have reached the member.
	Prepare(ctx context.Context) (prepared context.Context, sent func() bool)

	// Refresh gets new credentials; false when there are none to get.
	Refresh(ctx context.Context) bool

	// Suspect is told of errors that another member might not have given.
	Suspect()

	// Leader reports whether the member knows of a leader, as far as this is
	// known without asking.
	Leader() bool

	// Close releases the access and waits for its goroutines.
	Close() error
}

// Options are the settings of an Engine over any [Backend].
type Options struct {
	Kind    string        // in Status; "etcd" when empty
	Prefix  string        // before every key; DefaultPrefix when empty
	Attempt time.Duration // bound of one request; DefaultAttempt when 0
	Quiet   time.Duration // silence after which a watch is opened anew; DefaultQuiet when 0
}

// Defaults.
const (
	DefaultPrefix  = "/holdfast/"
	DefaultAttempt = 5 * time.Second
	DefaultQuiet   = 6 * time.Second
)

// Engine is an [engine.Engine] over etcd. It is safe for concurrent use.
type Engine struct {
	b    Backend
	keys keyspace
	opt  Options

	stop      context.Context // ends at Close
	cancel    context.CancelFunc
	mu        sync.Mutex // guards closed against calls and watches that start
	closed    bool
	busy      sync.WaitGroup // calls and watches
	closeOnce sync.Once
	closeErr  error
}

// New makes an engine over a backend, which it closes with itself.
func New(b Backend, opt Options) *Engine {
	if opt.Kind == "" {
		opt.Kind = "etcd"
	}
	if opt.Prefix == "" {
		opt.Prefix = DefaultPrefix
	}
	if opt.Attempt == 0 {
		opt.Attempt = DefaultAttempt
	}
	if opt.Quiet == 0 {
		opt.Quiet = DefaultQuiet
	}
	e := &Engine{b: b, keys: keyspace(opt.Prefix), opt: opt}
	e.stop, e.cancel = context.WithCancel(context.Background())
	return e
}

// call runs one request: under the engine's own bound, on the present member,
// once more with new credentials when the old ones were refused, which is
// before anything is proposed. Nothing else is ever sent twice.
func (e *Engine) call(ctx context.Context, op, key string, change bool, f func(context.Context, Stubs) error) error {
	if err := ctx.Err(); err != nil {
		return &holdfast.Error{Op: op, Key: key, Code: contextCode(err), Outcome: holdfast.NotApplied, Err: context.Cause(ctx)}
	}
	if !e.begin() {
		return &holdfast.Error{Op: op, Key: key, Code: holdfast.CodeClosed, Outcome: holdfast.NotApplied}
	}
	defer e.busy.Done()
	bounded, cancel := context.WithTimeout(ctx, e.opt.Attempt)
	defer cancel()
	defer context.AfterFunc(e.stop, cancel)() //nolint:contextcheck // closing the engine ends it too
	for again := true; ; again = false {
		prepared, sent := e.b.Prepare(bounded)
		stubs, _ := e.b.Stubs()
		err := f(prepared, stubs)
		if err == nil {
			return nil
		}
		if again && staleToken(err) && e.b.Refresh(bounded) {
			continue
		}
		v := judge(ctx, err, sent())
		if !change {
			v.outcome = holdfast.NotApplied
		}
		if e.stop.Err() != nil && v.code == holdfast.CodeNoQuorum {
			v.code = holdfast.CodeClosed
		}
		if suspect(v.code) {
			e.b.Suspect()
		}
		return &holdfast.Error{Op: op, Key: key, Code: v.code, Outcome: v.outcome, Err: err}
	}
}

// begin counts a call or a watch in, unless the engine is closed.
func (e *Engine) begin() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.busy.Add(1)
	return true
}

// invalid is the error for a request that is refused here.
func invalid(op, key, format string, args ...any) error {
	return &holdfast.Error{
		Op: op, Key: key, Code: holdfast.CodeInvalid, Outcome: holdfast.NotApplied, Err: fmt.Errorf(format, args...),
	}
}

// check finds what etcd would misread rather than refuse.
func check(t engine.Txn) error {
	for _, c := range t.If {
		if c.Key == "" && c.End == "" {
			return errors.New("compare without a key")
		}
		if c.Target < engine.CompareVersion || c.Target > engine.CompareValue || c.Op < engine.Equal || c.Op > engine.Less {
			return fmt.Errorf("compare of %q without a target or an operator", c.Key)
		}
	}
	for _, ops := range [][]engine.Op{t.Then, t.Else} {
		for _, op := range ops {
			if err := checkOp(op); err != nil {
				return err
			}
		}
	}
	return nil
}

func checkOp(op engine.Op) error {
	switch op.Kind {
	case engine.OpGet, engine.OpDelete:
		if op.Range.Key == "" && op.Range.End == "" {
			return errors.New("operation without a key")
		}
	case engine.OpPut:
		if op.Key == "" {
			return errors.New("put without a key")
		}
	case engine.OpTxn:
		if op.Txn == nil {
			return errors.New("nested transaction missing")
		}
		return check(*op.Txn)
	default:
		return fmt.Errorf("operation of unknown kind %d", op.Kind)
	}
	return nil
}

// Txn implements [engine.Engine]. It is sent at most once. At most 128 compares
// or operations per branch on a cluster with etcd's defaults, a nested
// transaction's counted with those around it.
func (e *Engine) Txn(ctx context.Context, t engine.Txn) (engine.TxnResult, error) {
	if err := check(t); err != nil {
		return engine.TxnResult{}, invalid("txn", "", "%w", err)
	}
	req := e.keys.txn(t)
	var resp *etcdserverpb.TxnResponse
	err := e.call(ctx, "txn", "", !readOnly(t), func(ctx context.Context, s Stubs) (err error) {
		resp, err = s.KV.Txn(ctx, req, grpc.MaxCallRecvMsgSize(math.MaxInt32))
		return err
	})
	if err != nil {
		return engine.TxnResult{}, err
	}
	res := e.keys.txnResult(resp, resp.GetHeader().GetRevision())
	res.Revision = resp.GetHeader().GetRevision()
	return res, nil
}

// readOnly reports whether no branch of a transaction changes anything.
func readOnly(t engine.Txn) bool {
	for _, ops := range [][]engine.Op{t.Then, t.Else} {
		for _, op := range ops {
			if op.Kind != engine.OpGet && (op.Kind != engine.OpTxn || !readOnly(*op.Txn)) {
				return false
			}
		}
	}
	return true
}

// Range implements [engine.Engine].
func (e *Engine) Range(ctx context.Context, r engine.RangeRequest) (engine.RangeResult, error) {
	if r.Key == "" && r.End == "" {
		return engine.RangeResult{}, invalid("range", "", "no key")
	}
	req := e.keys.rangeRequest(r)
	var resp *etcdserverpb.RangeResponse
	err := e.call(ctx, "range", r.Key, false, func(ctx context.Context, s Stubs) (err error) {
		resp, err = s.KV.Range(ctx, req, grpc.MaxCallRecvMsgSize(math.MaxInt32))
		return err
	})
	if err != nil {
		return engine.RangeResult{}, err
	}
	return e.keys.rangeResult(resp, resp.GetHeader().GetRevision()), nil
}

// leaseName is how errors name a lease.
func leaseName(id engine.LeaseID) string { return fmt.Sprintf("lease %016x", uint64(id)) }

// Grant implements [engine.Engine]. etcd counts whole seconds, and its shortest
// TTL is one and a half election timeouts, rounded up.
func (e *Engine) Grant(ctx context.Context, id engine.LeaseID, ttl time.Duration) (time.Duration, error) {
	if id == 0 || ttl <= 0 {
		return 0, invalid("grant", leaseName(id), "id and TTL must not be zero")
	}
	var resp *etcdserverpb.LeaseGrantResponse
	err := e.call(ctx, "grant", leaseName(id), true, func(ctx context.Context, s Stubs) (err error) {
		resp, err = s.Lease.LeaseGrant(ctx, &etcdserverpb.LeaseGrantRequest{ID: int64(id), TTL: seconds(ttl)})
		return err
	})
	if err != nil {
		return 0, err
	}
	return time.Duration(resp.GetTTL()) * time.Second, nil
}

// Renew implements [engine.Engine].
func (e *Engine) Renew(ctx context.Context, id engine.LeaseID) (time.Duration, error) {
	var ttl int64
	err := e.call(ctx, "renew", leaseName(id), true, func(ctx context.Context, s Stubs) error {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel() // ends the stream
		stream, err := s.Lease.LeaseKeepAlive(ctx)
		if err != nil {
			return err
		}
		if err := stream.Send(&etcdserverpb.LeaseKeepAliveRequest{ID: int64(id)}); err != nil {
			// The stream's own error says more than the failed sending.
			_, err = stream.Recv()
			return err
		}
		resp, err := stream.Recv()
		ttl = resp.GetTTL()
		return err
	})
	if err != nil {
		return 0, err
	}
	if ttl <= 0 {
		return 0, &holdfast.Error{Op: "renew", Key: leaseName(id), Code: holdfast.CodeNotFound, Outcome: holdfast.NotApplied}
	}
	return time.Duration(ttl) * time.Second, nil
}

// Revoke implements [engine.Engine].
func (e *Engine) Revoke(ctx context.Context, id engine.LeaseID) error {
	return e.call(ctx, "revoke", leaseName(id), true, func(ctx context.Context, s Stubs) error {
		_, err := s.Lease.LeaseRevoke(ctx, &etcdserverpb.LeaseRevokeRequest{ID: int64(id)})
		return err
	})
}

// Compact implements [engine.Engine].
func (e *Engine) Compact(ctx context.Context, rev int64) error {
	return e.call(ctx, "compact", "", true, func(ctx context.Context, s Stubs) error {
		_, err := s.KV.Compact(ctx, &etcdserverpb.CompactionRequest{Revision: rev})
		return err
	})
}

// Status implements [engine.Engine]. The quota is 0 on etcd before 3.6, which
// does not tell it.
func (e *Engine) Status(ctx context.Context) (engine.Status, error) {
	var r *etcdserverpb.StatusResponse
	err := e.call(ctx, "status", "", false, func(ctx context.Context, s Stubs) (err error) {
		r, err = s.Maintenance.Status(ctx, &etcdserverpb.StatusRequest{})
		return err
	})
	if err != nil {
		return engine.Status{}, err
	}
	return engine.Status{
		Kind: e.opt.Kind, ClusterID: r.GetHeader().GetClusterId(), MemberID: r.GetHeader().GetMemberId(),
		Leader: r.GetLeader(), Term: r.GetRaftTerm(), Revision: r.GetHeader().GetRevision(),
		DBSize: r.GetDbSize(), DBInUse: r.GetDbSizeInUse(), Quota: r.GetDbSizeQuota(),
		Learner: r.GetIsLearner(), Version: r.GetVersion(), Alarms: alarms(r.GetErrors()),
	}, nil
}

// alarms are the names of the alarms among a status's errors, which reads
// "memberID:8211f1d0f64f3269 alarm:NOSPACE ".
func alarms(errs []string) []string {
	var out []string
	for _, s := range errs {
		for _, name := range []string{etcdserverpb.AlarmType_NOSPACE.String(), etcdserverpb.AlarmType_CORRUPT.String()} {
			if strings.Contains(s, name) {
				out = append(out, name)
			}
		}
	}
	return out
}

// Close implements [engine.Engine]: requests in flight end with
// [holdfast.ErrClosed], watches with a last batch that says so.
func (e *Engine) Close() error {
	e.closeOnce.Do(func() {
		e.mu.Lock()
		e.closed = true
		e.mu.Unlock()
		e.cancel()
		e.busy.Wait()
		e.closeErr = e.b.Close()
	})
	return e.closeErr
}
