package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
	_ "modernc.org/sqlite"             // the driver "sqlite"

	"holdfast.dev"
	"holdfast.dev/fence"
)

// resource is the ledger's name at the guard.
const resource = "ledger"

// attempts bound how often a transaction is run again after a conflict or a
// commit with an unknown outcome.
const attempts = 10

// A Ledger is a table in which each entry builds on the one before. Nothing in
// its schema keeps two entries from building on the same one: that is the
// worker's business, and the reason for the lock.
type Ledger struct {
	db    *sql.DB
	guard fence.SQL
	id    string // the type of a column that counts insertions
}

// An Entry is one line of the ledger.
type Entry struct {
	Seq     int64          // one more than the entry before
	Amount  int64          // what it adds
	Balance int64          // Amount more than the entry before
	Token   holdfast.Token // under which it was written
	Worker  string         // who wrote it
	Request string         // unique: makes it safe to write again
}

// Open connects to the database that source names; the caller closes it.
func Open(source string) (*Ledger, error) {
	if file, ok := strings.CutPrefix(source, "sqlite:"); ok {
		q := url.Values{"_pragma": {"busy_timeout(20000)", "journal_mode(wal)"}, "_txlock": {"immediate"}}
		db, err := sql.Open("sqlite", "file:"+file+"?"+q.Encode())
		return &Ledger{db, fence.SQLite, "integer PRIMARY KEY AUTOINCREMENT"}, err
	}
	db, err := sql.Open("pgx", source)
	return &Ledger{db, fence.Postgres, "bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY"}, err
}

// Close ends the connection.
func (l *Ledger) Close() error { return l.db.Close() }

// Setup creates the tables that are not there yet.
func (l *Ledger) Setup(ctx context.Context) error {
	if err := l.guard.Setup(ctx, l.db); err != nil {
		return err
	}
	_, err := l.db.ExecContext(ctx, fmt.Sprintf(`CREATE TABLE IF NOT EXISTS ledger (
		id      %s,
		seq     bigint NOT NULL,
		amount  bigint NOT NULL,
		balance bigint NOT NULL,
		token   bigint NOT NULL,
		worker  text NOT NULL,
		request text NOT NULL UNIQUE
	)`, l.id))
	return err
}

// A Guard runs first in each transaction.
type Guard func(context.Context, *sql.Tx) error

// Guarded refuses the transaction when the ledger has seen a higher token.
func (l *Ledger) Guarded(token holdfast.Token) Guard {
	return func(ctx context.Context, tx *sql.Tx) error { return l.guard.Check(ctx, tx, resource, token) }
}

// Unguarded refuses nothing.
func (l *Ledger) Unguarded(context.Context, *sql.Tx) error { return nil }

// Last is the entry written last, or the zero Entry. The guard makes sure that
// no older holder writes after this: without it the entry that Append writes
// could build on one that is not the last any more.
func (l *Ledger) Last(ctx context.Context, guard Guard) (Entry, error) {
	var last Entry
	err := l.transact(ctx, guard, func(tx *sql.Tx) error {
		err := tx.QueryRowContext(ctx, "SELECT seq, balance FROM ledger ORDER BY id DESC LIMIT 1").Scan(&last.Seq, &last.Balance)
		if errors.Is(err, sql.ErrNoRows) {
			return nil
		}
		return err
	})
	return last, err
}

// Append writes the entry, once even if it has to be sent twice.
func (l *Ledger) Append(ctx context.Context, guard Guard, e Entry) error {
	return l.transact(ctx, guard, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO ledger (seq, amount, balance, token, worker, request)
			VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (request) DO NOTHING`,
			e.Seq, e.Amount, e.Balance, int64(e.Token), e.Worker, e.Request)
		return err
	})
}

// transact runs f after the guard in one transaction, which must be safe to
// repeat: it is run again after a conflict, and when nobody can tell whether
// the commit came through.
func (l *Ledger) transact(ctx context.Context, guard Guard, f func(*sql.Tx) error) error {
	var err error
	for range attempts {
		var again bool
		if again, err = l.once(ctx, guard, f); !again {
			return err
		}
	}
	return err
}

func (l *Ledger) once(ctx context.Context, guard Guard, f func(*sql.Tx) error) (again bool, err error) {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	if err = guard(ctx, tx); err == nil {
		err = f(tx)
	}
	if err != nil {
		return errors.Is(err, holdfast.ErrConflict), errors.Join(err, tx.Rollback())
	}
	err = tx.Commit()
	return err != nil, err
}

// Entries are all entries in the order in which they were written.
func (l *Ledger) Entries(ctx context.Context) (entries []Entry, err error) {
	rows, err := l.db.QueryContext(ctx, "SELECT seq, amount, balance, token, worker, request FROM ledger ORDER BY id")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		var e Entry
		var token int64
		if err := rows.Scan(&e.Seq, &e.Amount, &e.Balance, &token, &e.Worker, &e.Request); err != nil {
			return nil, err
		}
		e.Token = holdfast.Token(token)
		entries = append(entries, e)
	}
	return entries, rows.Err()
}

func newRequest() string { return rand.Text() }
