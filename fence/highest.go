package fence

import (
	"context"
	"database/sql"
	"errors"
	"sync"

	"holdfast.dev"
)

// A Highest remembers the highest token that each resource has seen. It is
// called concurrently.
type Highest interface {
	// Raise records the token unless the resource has seen a higher one. It
	// returns the highest token including this one: when that is not the
	// token itself, the token is too old. An error means that neither is
	// known.
	Raise(ctx context.Context, resource string, token holdfast.Token) (holdfast.Token, error)
}

// Memory is a Highest that forgets when the process ends: the first token that
// comes after a restart is accepted, also an old one. That is right for a
// resource which is itself lost with the process, and for no other. It keeps
// an entry for each resource it was ever asked about. The zero Memory is ready
// for use.
type Memory struct {
	mu sync.Mutex // guards the fields below

	seen map[string]holdfast.Token
}

// Raise never fails.
func (m *Memory) Raise(_ context.Context, resource string, token holdfast.Token) (holdfast.Token, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if seen := m.seen[resource]; token < seen {
		return seen, nil
	}
	if m.seen == nil {
		m.seen = map[string]holdfast.Token{}
	}
	m.seen[resource] = token
	return token, nil
}

// Highest keeps the tokens in the helper table of db, so that they survive a
// restart and are shared by all who use the table. Call Setup first.
func (s SQL) Highest(db *sql.DB) Highest { return table{s, db} }

type table struct {
	dialect SQL
	db      *sql.DB
}

func (t table) Raise(ctx context.Context, resource string, token holdfast.Token) (holdfast.Token, error) {
	tx, err := t.db.BeginTx(ctx, nil)
	if err != nil {
		return 0, refuse(resource, codeOf(err), err)
	}
	err = t.dialect.Check(ctx, tx, resource, token)
	if err != nil {
		rolledBack := tx.Rollback()
		if stale, ok := errors.AsType[*StaleError](err); ok {
			return stale.Highest, nil
		}
		return 0, errors.Join(err, rolledBack)
	}
	if err := tx.Commit(); err != nil {
		return 0, refuse(resource, codeOf(err), err)
	}
	return token, nil
}
