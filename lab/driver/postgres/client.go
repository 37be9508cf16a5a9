package postgres

import (
	"context"
	"errors"
	"net/netip"
	"strings"
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
	invoke invoke
}

// invoke makes one call.
type invoke func(ctx context.Context, c *client, op history.Op) history.Op

// Invoke implements driver.Client.
func (c *client) Invoke(ctx context.Context, op history.Op) history.Op {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	return c.invoke(ctx, c, op)
}

// Close implements driver.Client.
func (c *client) Close() error {
	if c.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_ = c.conn.Close(ctx) // a server that does not answer is no fault of ours
	return nil
}

// ready is a connection that is open as far as one can tell.
func (c *client) ready(ctx context.Context) (*pgx.Conn, error) {
	if c.conn != nil && !c.conn.IsClosed() {
		return c.conn, nil
	}
	conn, err := connect(ctx, c.addr, c.timeout)
	c.conn = conn
	return conn, err
}

// alone runs a statement that is its own transaction; certain says of an error
// that nothing was changed and never will be. f reads the answer; what it
// returns as errConflict or its like was decided by a statement that succeeded.
func (c *client) alone(ctx context.Context, f func(context.Context, *pgx.Conn) error) (certain bool, err error) {
	conn, err := c.ready(ctx)
	if err != nil {
		return true, err
	}
	err = f(ctx, conn)
	return rolledBack(err), err
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
	err = tx.Commit(ctx)
	return rolledBack(err), err
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
	if errors.Is(err, pgx.ErrTxCommitRollback) || pgconn.SafeToRetry(err) { // the latter: nothing was sent
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
