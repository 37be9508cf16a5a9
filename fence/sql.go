package fence

import (
	"context"
	"database/sql"
	"errors"
	"strings"

	"holdfast.dev"
)

// SQL is the guard of a database behind database/sql. Its methods may be
// called concurrently.
type SQL uint8

const (
	// Postgres is the guard for PostgreSQL 9.5 and later, with any driver.
	Postgres SQL = iota + 1
	// SQLite is the guard for SQLite 3.24 and later, with any driver. Give the
	// database a busy_timeout, or concurrent transactions fail with
	// holdfast.ErrConflict where they could have waited.
	SQLite
)

const (
	setupSQL = `CREATE TABLE IF NOT EXISTS holdfast_fence (resource text PRIMARY KEY, token bigint NOT NULL)`

	// A token that is there already is written again. That gives the row a new
	// version, and so makes a transaction with an older snapshot fail, where a
	// mere lock would let it go on with what it saw.
	checkPostgres = `INSERT INTO holdfast_fence AS f (resource, token) VALUES ($1, $2)
ON CONFLICT (resource) DO UPDATE SET token = excluded.token WHERE f.token <= excluded.token`
	checkSQLite = `INSERT INTO holdfast_fence AS f (resource, token) VALUES (?1, ?2)
ON CONFLICT (resource) DO UPDATE SET token = excluded.token WHERE f.token <= excluded.token`

	highestPostgres = `SELECT token FROM holdfast_fence WHERE resource = $1`
	highestSQLite   = `SELECT token FROM holdfast_fence WHERE resource = ?1`
)

// statements are a dialect's two statements, empty for no dialect.
func (s SQL) statements() (check, highest string) {
	switch s {
	case Postgres:
		return checkPostgres, highestPostgres
	case SQLite:
		return checkSQLite, highestSQLite
	}
	return "", ""
}

// SetupStatement creates the helper table, for those who keep their schema in
// migrations.
func (SQL) SetupStatement() string { return setupSQL }

// CheckStatement is what Check runs, for those who do not use database/sql. It
// takes the resource and the token as its two parameters and belongs first in
// the transaction. One row affected: go on. None: the token is too old, roll
// back.
func (s SQL) CheckStatement() string {
	check, _ := s.statements()
	return check
}

// An Execer is a *sql.DB, a *sql.Conn or a *sql.Tx.
type Execer interface {
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// Setup creates the helper table holdfast_fence unless it is there. It may be
// called by many processes at once.
func (SQL) Setup(ctx context.Context, db Execer) error {
	_, err := db.ExecContext(ctx, setupSQL)
	switch sqlState(err) {
	case "23505", "42710", "42P07": // Postgres: somebody created it, or its row type, in the same moment, and is done
		_, err = db.ExecContext(ctx, setupSQL)
	}
	if err != nil {
		return &holdfast.Error{Op: "setup", Key: "fence", Code: codeOf(err), Outcome: holdfast.NotApplied, Err: err}
	}
	return nil
}

// Check lets the transaction act on the resource under the token, or refuses
// it with holdfast.ErrFenced when the resource has seen a higher one. When it
// returns nil, every other transaction that checks the resource waits until tx
// ends, and if tx commits, the resource has seen the token.
//
// It must be the first statement of tx, because what is read before it may be
// out of date, and outside of any savepoint that may be rolled back. It may be
// called for several resources; call it in the same order everywhere, or
// transactions deadlock and one of them fails with holdfast.ErrConflict.
//
// After any error the transaction must be rolled back.
func (s SQL) Check(ctx context.Context, tx *sql.Tx, resource string, token holdfast.Token) error {
	if err := validate(resource, token); err != nil {
		return err
	}
	check, highest := s.statements()
	if check == "" {
		return refuse(resource, holdfast.CodeInvalid, errors.New("no dialect: use fence.Postgres or fence.SQLite"))
	}
	res, err := tx.ExecContext(ctx, check, resource, int64(token))
	if err != nil {
		return refuse(resource, codeOf(err), err)
	}
	n, err := res.RowsAffected()
	if err != nil {
		return refuse(resource, codeOf(err), err)
	}
	if n == 1 {
		return nil
	}
	var seen int64 // the row is locked by the statement above: it says what it said then
	if err := tx.QueryRowContext(ctx, highest, resource).Scan(&seen); err != nil {
		return refuse(resource, codeOf(err), err)
	}
	return refuse(resource, holdfast.CodeFenced, &StaleError{Token: token, Highest: holdfast.Token(seen)})
}

// codeOf sets apart the errors after which the same transaction, run again,
// may well succeed.
func codeOf(err error) holdfast.Code {
	switch sqlState(err) {
	case "40001", "40P01", "55P03": // serialization failure, deadlock, lock timeout
		return holdfast.CodeConflict
	}
	// The drivers of SQLite share no type for their errors, but SQLite's text.
	if text := err.Error(); strings.Contains(text, "database is locked") || strings.Contains(text, "database table is locked") {
		return holdfast.CodeConflict
	}
	return holdfast.CodeOf(err)
}

// sqlState is the five-letter code of a Postgres driver's error, or "".
func sqlState(err error) string {
	var coded interface{ SQLState() string }
	if errors.As(err, &coded) {
		return coded.SQLState()
	}
	return ""
}
