package postgres

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"holdfast.dev/lab/history"
)

// client invokes the operations of one workload at one server.
type client struct {
	settings
	addr   netip.AddrPort
	conn   *pgx.Conn // nil: not connected
	wire   *wire     // under conn
	invoke invoke
}

// invoke makes one call.
type invoke func(ctx context.Context, c *client, op history.Op) history.Op

// Invoke implements driver.Client.
func (c *client) Invoke(ctx context.Context, op history.Op) history.Op {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	op = c.invoke(ctx, c, op)
	if c.conn != nil && c.conn.IsClosed() {
		c.wire.cut()
		c.conn = nil
	}
	return op
}

// wire is the connection under pgx's. It knows whether anything was sent, and
// can be ended at once: pgx leaves one that failed open for up to 15 seconds, and
// with it the locks of the transaction.
type wire struct {
	net.Conn
	writes atomic.Int64
}

// dial connects, once: the second connection would be pgx's to have a statement
// cancelled that took too long, and servers are to bear such clients.
func (w *wire) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if w.Conn != nil {
		return nil, errors.New("one connection only")
	}
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	w.Conn = conn
	return w, nil
}

func (w *wire) Write(p []byte) (int, error) {
	w.writes.Add(1) // before: also what fails may have been written in part
	return w.Conn.Write(p)
}

// cut ends the connection, if there is one.
func (w *wire) cut() {
	if w.Conn != nil {
		_ = w.Close() // it may be closed
	}
}

// Close implements driver.Client.
func (c *client) Close() error {
	if c.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = c.conn.Close(ctx) // a server that does not answer is no fault of ours
	c.wire.cut()
	return nil
}

// ready is a connection that is open as far as one can tell.
func (c *client) ready(ctx context.Context) (*pgx.Conn, error) {
	if c.conn != nil && !c.conn.IsClosed() {
		return c.conn, nil
	}
	conn, w, err := connect(ctx, c.addr, c.timeout)
	c.conn, c.wire = conn, w
	return conn, err
}

// certain says of an error of a call that changes something that nothing was
// changed and never will be: it was not sent, or the server rolled it back. Pgx's
// own SafeToRetry is not asked: a COMMIT whose connection was closed is "conn
// closed" to it, and safe.
func (c *client) certain(before int64, err error) bool {
	return c.wire.writes.Load() == before || rolledBack(err)
}

// alone runs a statement that is its own transaction; certain says of an error
// that nothing was changed and never will be. f reads the answer; what it
// returns as errConflict or its like was decided by a statement that succeeded.
func (c *client) alone(ctx context.Context, f func(context.Context, *pgx.Conn) error) (certain bool, err error) {
	conn, err := c.ready(ctx)
	if err != nil {
		return true, err
	}
	before := c.wire.writes.Load()
	err = f(ctx, conn)
	return c.certain(before, err), err
}

// transact runs f in a transaction. As long as COMMIT is not sent, nothing can
// have happened.
func (c *client) transact(ctx context.Context, f func(context.Context, pgx.Tx) error) (certain bool, err error) {
	conn, err := c.ready(ctx)
	if err != nil {
		return true, err
	}
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: c.isolation})
	if err != nil {
		return true, err
	}
	if err := f(ctx, tx); err != nil {
		// With the connection goes the transaction; what remains open is not used again.
		if tx.Rollback(ctx) != nil {
			_ = conn.Close(ctx)
		}
		return true, err
	}
	before := c.wire.writes.Load()
	err = tx.Commit(ctx)
	return c.certain(before, err), err
}

// errConflict says that a condition did not hold.
var errConflict = errors.New("conflict: the value is another one")

// decidedError is what a statement that succeeded found, and why nothing was
// changed.
type decidedError struct{ error }

func (e decidedError) Unwrap() error { return e.error }

// rollbacks are the SQLSTATEs, or the classes of them, of errors after which the
// transaction is rolled back, whatever it was.
var rollbacks = []string{
	"22",                      // data exception
	"23",                      // integrity constraint
	"25006",                   // read-only transaction: a standby
	"40001", "40002", "40P01", // serialization, deferred constraint, deadlock; not 40003, completion unknown
	"42",    // syntax error or access rule
	"53",    // insufficient resources
	"55P03", // lock not available
	"57014", // query canceled
	"0A",    // feature not supported
}

// rolledBack reports an error after which it is certain that nothing was changed
// and nothing will be.
func rolledBack(err error) bool {
	if _, ok := errors.AsType[decidedError](err); ok {
		return true
	}
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return true
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	answer, ok := errors.AsType[*pgconn.PgError](err)
	if !ok || answer.SeverityUnlocalized != "ERROR" { // FATAL and PANIC: the session ended, and who knows where
		return false
	}
	for _, code := range rollbacks {
		if strings.HasPrefix(answer.Code, code) {
			return true
		}
	}
	return false
}
