package postgres

import (
	"context"
	"errors"
	"slices"
	"strconv"

	"github.com/jackc/pgx/v5"

	"holdfast.dev/internal/call"
	"holdfast.dev/lab/history"
)

// schema is what the clients need.
const schema = `
CREATE TABLE registers (key text PRIMARY KEY, value text NOT NULL);
CREATE TABLE elements (key text, value text, PRIMARY KEY (key, value));
CREATE TABLE counters (key text PRIMARY KEY, value bigint NOT NULL);
CREATE TABLE queue (id bigserial PRIMARY KEY, key text NOT NULL, value text NOT NULL);
CREATE TABLE lists (key text PRIMARY KEY, items bigint[] NOT NULL);
CREATE TABLE accounts (name text PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0));
CREATE TABLE requests (id text PRIMARY KEY);
CREATE TABLE effects (number bigserial PRIMARY KEY, id text NOT NULL);
CREATE SEQUENCE ids;`

// register is the client of register, cas and kv.
func register(ctx context.Context, c *client, op history.Op) history.Op {
	switch op.F {
	case "read":
		var text string
		_, err := c.alone(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, "SELECT value FROM registers WHERE key = $1", op.Key).Scan(&text)
		})
		if errors.Is(err, pgx.ErrNoRows) {
			return call.OK(op, nil)
		}
		if err != nil {
			return call.Fail(op, err) // a read has no effect
		}
		v, err := call.Decode(text)
		return call.End(op, v, err, true)
	case "write":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		return c.write(ctx, op, nil, `INSERT INTO registers VALUES ($1, $2)
			ON CONFLICT (key) DO UPDATE SET value = excluded.value`, op.Key, text)
	case "cas":
		from, to, err := call.Pair(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		next, err := call.Encode(to)
		if err != nil {
			return call.Fail(op, err)
		}
		if from == nil {
			return c.write(ctx, op, errConflict, "INSERT INTO registers VALUES ($1, $2) ON CONFLICT DO NOTHING", op.Key, next)
		}
		is, err := call.Encode(from)
		if err != nil {
			return call.Fail(op, err)
		}
		return c.write(ctx, op, errConflict, "UPDATE registers SET value = $3 WHERE key = $1 AND value = $2", op.Key, is, next)
	case "delete":
		return c.write(ctx, op, nil, "DELETE FROM registers WHERE key = $1", op.Key)
	}
	return call.Unknown(op)
}

// write runs a statement alone. If none is given, it is why the call failed when
// no row was changed.
func (c *client) write(ctx context.Context, op history.Op, none error, sql string, args ...any) history.Op {
	certain, err := c.alone(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		tag, err := conn.Exec(ctx, sql, args...)
		if err == nil && none != nil && tag.RowsAffected() == 0 {
			return decidedError{none}
		}
		return err
	})
	return call.End(op, op.Value, err, certain)
}

// texts runs a statement alone and returns the only column of its rows, decoded.
func (c *client) texts(ctx context.Context, sql string, args ...any) (all []any, certain bool, err error) {
	all = []any{} // none is not nil
	certain, err = c.alone(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		rows, err := conn.Query(ctx, sql, args...)
		if err != nil {
			return err
		}
		texts, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			return err
		}
		for _, text := range texts {
			v, err := call.Decode(text)
			if err != nil {
				return err
			}
			all = append(all, v)
		}
		return nil
	})
	return all, certain, err
}

func set(ctx context.Context, c *client, op history.Op) history.Op {
	switch op.F {
	case "add":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		return c.write(ctx, op, nil, "INSERT INTO elements VALUES ($1, $2) ON CONFLICT DO NOTHING", op.Key, text)
	case "read":
		all, _, err := c.texts(ctx, "SELECT value FROM elements WHERE key = $1 ORDER BY length(value), value", op.Key)
		return call.End(op, all, err, true)
	}
	return call.Unknown(op)
}

func counter(ctx context.Context, c *client, op history.Op) history.Op {
	switch op.F {
	case "add":
		n, err := call.Int(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		return c.write(ctx, op, nil, `INSERT INTO counters VALUES ($1, $2)
			ON CONFLICT (key) DO UPDATE SET value = counters.value + excluded.value`, op.Key, n)
	case "read":
		var n int64
		_, err := c.alone(ctx, func(ctx context.Context, conn *pgx.Conn) error {
			return conn.QueryRow(ctx, "SELECT coalesce(max(value), 0) FROM counters WHERE key = $1", op.Key).Scan(&n)
		})
		return call.End(op, n, err, true)
	}
	return call.Unknown(op)
}

func uniqueIDs(ctx context.Context, c *client, op history.Op) history.Op {
	if op.F != "generate" {
		return call.Unknown(op)
	}
	var id int64
	certain, err := c.alone(ctx, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, "SELECT nextval('ids')").Scan(&id)
	})
	return call.End(op, id, err, certain)
}

func queue(ctx context.Context, c *client, op history.Op) history.Op {
	switch op.F {
	case "enqueue":
		text, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		return c.write(ctx, op, nil, "INSERT INTO queue (key, value) VALUES ($1, $2)", op.Key, text)
	case "dequeue":
		all, certain, err := c.texts(ctx, `DELETE FROM queue WHERE id =
			(SELECT id FROM queue WHERE key = $1 ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED) RETURNING value`, op.Key)
		if err == nil && len(all) > 0 {
			return call.OK(op, all[0])
		}
		return call.End(op, nil, err, certain)
	case "drain":
		all, certain, err := c.texts(ctx, `WITH gone AS (DELETE FROM queue WHERE key = $1 RETURNING id, value)
			SELECT value FROM gone ORDER BY id`, op.Key)
		return call.End(op, all, err, certain)
	}
	return call.Unknown(op)
}

// idempotent remembers requests beside their effects; with keys=false it does not.
func idempotent(ctx context.Context, c *client, op history.Op) history.Op {
	switch op.F {
	case "apply":
		id, err := call.Encode(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		if !c.keys {
			return c.write(ctx, op, nil, "INSERT INTO effects (id) VALUES ($1)", id)
		}
		return c.write(ctx, op, nil, `WITH new AS (INSERT INTO requests VALUES ($1) ON CONFLICT DO NOTHING RETURNING id)
			INSERT INTO effects (id) SELECT id FROM new`, id)
	case "effects":
		all, _, err := c.texts(ctx, "SELECT id FROM effects ORDER BY number")
		return call.End(op, all, err, true)
	}
	return call.Unknown(op)
}

// transaction is the client of append.
func transaction(ctx context.Context, c *client, op history.Op) history.Op {
	if op.F != "txn" {
		return call.Unknown(op)
	}
	ops, err := call.Txn(op.Value)
	if err != nil {
		return call.Fail(op, err)
	}
	filled := make([]any, len(ops))
	certain, err := c.transact(ctx, func(ctx context.Context, tx pgx.Tx) error {
		for i, m := range ops {
			if m.Append {
				filled[i] = []any{"append", m.Key, m.Value}
				if _, err := tx.Exec(ctx, `INSERT INTO lists VALUES ($1, ARRAY[$2::bigint])
					ON CONFLICT (key) DO UPDATE SET items = lists.items || excluded.items`, m.Name, m.Value); err != nil {
					return err
				}
				continue
			}
			var items []int64
			err := tx.QueryRow(ctx, "SELECT items FROM lists WHERE key = $1", m.Name).Scan(&items)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				return err
			}
			list := make([]any, len(items))
			for j, n := range items {
				list[j] = n
			}
			filled[i] = []any{"r", m.Key, list}
		}
		return nil
	})
	writes := slices.ContainsFunc(ops, func(m call.Micro) bool { return m.Append })
	return call.End(op, filled, err, certain || !writes)
}

func bank(ctx context.Context, c *client, op history.Op) history.Op {
	switch op.F {
	case "init":
		balances, err := call.Balances(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, err := c.transact(ctx, func(ctx context.Context, tx pgx.Tx) error {
			for i, b := range balances {
				if _, err := tx.Exec(ctx, "INSERT INTO accounts VALUES ($1, $2)", call.Account(i), b); err != nil {
					return err
				}
			}
			return nil
		})
		return call.End(op, op.Value, err, certain)
	case "read":
		all := map[string]any{}
		_, err := c.transact(ctx, func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, "SELECT name, balance::text FROM accounts")
			if err != nil {
				return err
			}
			var name, balance string
			_, err = pgx.ForEachRow(rows, []any{&name, &balance}, func() error {
				n, err := strconv.ParseInt(balance, 10, 64)
				all[name] = n
				return err
			})
			return err
		})
		return call.End(op, all, err, true)
	case "transfer":
		t, err := call.ParseTransfer(op.Value)
		if err != nil {
			return call.Fail(op, err)
		}
		certain, err := c.transact(ctx, func(ctx context.Context, tx pgx.Tx) error { return transfer(ctx, tx, t) })
		return call.End(op, op.Value, err, certain)
	}
	return call.Unknown(op)
}

// transfer reads both accounts before it writes them, so that it is the
// isolation that keeps the sum.
func transfer(ctx context.Context, tx pgx.Tx, t call.Transfer) error {
	if t.From == t.To {
		return nil
	}
	var balances [2]int64
	for i, name := range []string{t.From, t.To} {
		err := tx.QueryRow(ctx, "SELECT balance FROM accounts WHERE name = $1", name).Scan(&balances[i])
		if errors.Is(err, pgx.ErrNoRows) {
			err = call.ErrMissing
		}
		if err != nil {
			return err
		}
	}
	if balances[0] < t.Amount {
		return call.ErrShort
	}
	if _, err := tx.Exec(ctx, "UPDATE accounts SET balance = $2 WHERE name = $1", t.From, balances[0]-t.Amount); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, "UPDATE accounts SET balance = $2 WHERE name = $1", t.To, balances[1]+t.Amount)
	return err
}
