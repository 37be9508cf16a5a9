package fence_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	_ "modernc.org/sqlite"
	"pgregory.net/rapid"

	"holdfast.dev"
	"holdfast.dev/fence"
	"holdfast.dev/internal/pgtest"
)

// mode is one way to run transactions in which the guard has to hold.
type mode struct {
	name  string
	guard fence.SQL
	open  func(*testing.T) *sql.DB
	opts  *sql.TxOptions
}

func modes() []mode {
	var all []mode
	for _, level := range []sql.IsolationLevel{sql.LevelReadCommitted, sql.LevelRepeatableRead, sql.LevelSerializable} {
		name := "postgres " + strings.ToLower(level.String())
		all = append(all, mode{name, fence.Postgres, openPostgres, &sql.TxOptions{Isolation: level}})
	}
	for _, journal := range []string{"delete", "wal"} {
		for _, lock := range []string{"deferred", "immediate"} {
			open := func(t *testing.T) *sql.DB { return openSQLite(t, journal, lock) }
			all = append(all, mode{"sqlite " + journal + " " + lock, fence.SQLite, open, nil})
		}
	}
	return all
}

func eachMode(t *testing.T, f func(t *testing.T, m mode)) {
	for _, m := range modes() {
		t.Run(strings.ReplaceAll(m.name, " ", "-"), func(t *testing.T) {
			t.Parallel()
			f(t, m)
		})
	}
}

const schema = `
CREATE TABLE effect (n bigint PRIMARY KEY, resource text NOT NULL, token bigint NOT NULL);
CREATE TABLE counter (resource text PRIMARY KEY, n bigint NOT NULL);
INSERT INTO counter VALUES ('a', 0), ('b', 0)`

func openPostgres(t *testing.T) *sql.DB {
	t.Helper()
	return prepare(t, pgtest.Open(t), fence.Postgres)
}

func openSQLite(t *testing.T, journal, lock string) *sql.DB {
	t.Helper()
	q := url.Values{
		"_pragma": {"busy_timeout(20000)", "synchronous(off)", "journal_mode(" + journal + ")"},
		"_txlock": {lock},
	}
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "test.db")+"?"+q.Encode())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return prepare(t, db, fence.SQLite)
}

func prepare(t *testing.T, db *sql.DB, g fence.SQL) *sql.DB {
	t.Helper()
	if err := g.Setup(t.Context(), db); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), schema); err != nil {
		t.Fatal(err)
	}
	return db
}

// bind is the n-th parameter as the dialect writes it.
func bind(g fence.SQL, query string) string {
	if g == fence.SQLite {
		return strings.ReplaceAll(query, "$", "?")
	}
	return query
}

var errRollback = errors.New("rolled back as planned")

// guarded runs f in a transaction under the token, again after each conflict.
func (m mode) guarded(ctx context.Context, db *sql.DB, resource string, token holdfast.Token, f func(*sql.Tx) error) error {
	for {
		err := m.once(ctx, db, resource, token, f)
		if !errors.Is(err, holdfast.ErrConflict) && !conflict(err) {
			return err
		}
	}
}

func (m mode) once(ctx context.Context, db *sql.DB, resource string, token holdfast.Token, f func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, m.opts)
	if err != nil {
		return err
	}
	err = m.guard.Check(ctx, tx, resource, token)
	if err == nil {
		err = f(tx)
	}
	if err != nil {
		if rolledBack := tx.Rollback(); rolledBack != nil {
			return rolledBack
		}
		return err
	}
	return tx.Commit()
}

// conflict says the same of the test's own statements as Check of its own.
func conflict(err error) bool {
	var pg interface{ SQLState() string }
	return errors.As(err, &pg) && pg.SQLState() == "40001" || err != nil && strings.Contains(err.Error(), "database is locked")
}

// act leaves an effect behind: the next number, under the token.
func (m mode) act(ctx context.Context, tx *sql.Tx, resource string, token holdfast.Token) error {
	_, err := tx.ExecContext(ctx, bind(m.guard, `INSERT INTO effect (n, resource, token)
		SELECT coalesce(max(n), 0) + 1, $1, $2 FROM effect`), resource, int64(token))
	return err
}

// effects are the tokens of the committed effects, in order.
func effects(ctx context.Context, t rapid.TB, db *sql.DB, m mode, resource string) []holdfast.Token {
	rows, err := db.QueryContext(ctx, bind(m.guard, "SELECT token FROM effect WHERE resource = $1 ORDER BY n"), resource)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	var tokens []holdfast.Token
	for rows.Next() {
		var n int64
		if err := rows.Scan(&n); err != nil {
			t.Fatal(err)
		}
		tokens = append(tokens, holdfast.Token(n))
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return tokens
}

// goesBack is the place of the first effect with a lower token than the one
// before it, or -1.
func goesBack(tokens []holdfast.Token) int {
	for i := 1; i < len(tokens); i++ {
		if tokens[i] < tokens[i-1] {
			return i
		}
	}
	return -1
}

func TestGoesBack(t *testing.T) {
	if i := goesBack([]holdfast.Token{1, 1, 2, 7}); i != -1 {
		t.Errorf("in order: found %d", i)
	}
	if i := goesBack([]holdfast.Token{1, 3, 2, 7}); i != 2 {
		t.Errorf("out of order: found %d, want 2", i)
	}
}

// TestCheck_Model: transactions one after the other do what a map does.
func TestCheck_Model(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		db := m.open(t)
		run := 0
		rapid.Check(t, func(rt *rapid.T) {
			run++ // resources of its own for each run: nothing to clean up
			seen := map[string]holdfast.Token{}
			for range rapid.IntRange(1, 8).Draw(rt, "transactions") {
				resource := fmt.Sprintf("%d-%s", run, rapid.SampledFrom([]string{"a", "b"}).Draw(rt, "resource"))
				token := holdfast.NewToken(rapid.Uint16Range(1, 2).Draw(rt, "epoch"), rapid.Int64Range(0, 4).Draw(rt, "revision"))
				commit := rapid.Bool().Draw(rt, "commit")
				err := m.guarded(t.Context(), db, resource, token, func(*sql.Tx) error {
					if commit {
						return nil
					}
					return errRollback
				})
				switch stale := token < seen[resource]; {
				case stale:
					cause, _ := errors.AsType[*fence.StaleError](err)
					if !errors.Is(err, holdfast.ErrFenced) || cause == nil || cause.Highest != seen[resource] || cause.Token != token {
						rt.Fatalf("token %d after %d: %v", token, seen[resource], err)
					}
					if got := holdfast.OutcomeOf(err); got != holdfast.NotApplied {
						rt.Fatalf("outcome %v, want not applied", got)
					}
				case commit && err != nil, !commit && !errors.Is(err, errRollback):
					rt.Fatalf("token %d after %d: %v", token, seen[resource], err)
				case commit:
					seen[resource] = token
				}
			}
		})
	})
}

// plan is what one of several concurrent holders does, in its order.
type plan []struct {
	token    holdfast.Token
	rollback bool
}

// TestCheck_EffectsNeverGoBack: whatever holders do at the same time, the
// tokens of the committed effects only grow, no effect is lost or doubled, and
// the counter that each one reads and writes back counts them all.
func TestCheck_EffectsNeverGoBack(t *testing.T) {
	eachMode(t, func(t *testing.T, m mode) {
		db := m.open(t)
		run := 0
		rapid.Check(t, func(rt *rapid.T) {
			if run++; run > 40 || testing.Short() && run > 5 {
				return // rapid draws a hundred plans
			}
			resource := fmt.Sprint("run ", run)
			if _, err := db.ExecContext(t.Context(), bind(m.guard, "INSERT INTO counter VALUES ($1, 0)"), resource); err != nil {
				rt.Fatal(err)
			}
			plans := make([]plan, rapid.IntRange(2, 4).Draw(rt, "holders"))
			for i := range plans {
				plans[i] = make(plan, rapid.IntRange(1, 3).Draw(rt, "transactions"))
				for j := range plans[i] {
					plans[i][j].token = holdfast.Token(rapid.Uint64Range(1, 4).Draw(rt, "token"))
					plans[i][j].rollback = rapid.IntRange(0, 4).Draw(rt, "rollback") == 0
				}
			}
			var wg sync.WaitGroup
			var mu sync.Mutex
			committed := 0
			var faults []error
			for _, p := range plans {
				wg.Go(func() {
					for _, step := range p {
						err := m.guarded(t.Context(), db, resource, step.token, func(tx *sql.Tx) error {
							return m.increment(t.Context(), tx, resource, step.token, step.rollback)
						})
						mu.Lock()
						switch {
						case err == nil:
							committed++
						case !errors.Is(err, holdfast.ErrFenced) && !errors.Is(err, errRollback):
							faults = append(faults, err)
						}
						mu.Unlock()
					}
				})
			}
			wg.Wait()
			if len(faults) > 0 {
				rt.Fatal(errors.Join(faults...))
			}
			got := effects(t.Context(), rt, db, m, resource)
			if i := goesBack(got); i >= 0 {
				rt.Errorf("effect %d goes back in token: %v", i, got)
			}
			var counted int
			if err := db.QueryRowContext(t.Context(), bind(m.guard, "SELECT n FROM counter WHERE resource = $1"), resource).Scan(&counted); err != nil {
				rt.Fatal(err)
			}
			if len(got) != committed || counted != committed {
				rt.Errorf("%d commits, %d effects, counted %d", committed, len(got), counted)
			}
		})
	})
}

// increment reads the counter, writes back one more, and leaves an effect.
func (m mode) increment(ctx context.Context, tx *sql.Tx, resource string, token holdfast.Token, rollback bool) error {
	var n int64
	if err := tx.QueryRowContext(ctx, bind(m.guard, "SELECT n FROM counter WHERE resource = $1"), resource).Scan(&n); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, bind(m.guard, "UPDATE counter SET n = $1 WHERE resource = $2"), n+1, resource); err != nil {
		return err
	}
	if err := m.act(ctx, tx, resource, token); err != nil {
		return err
	}
	if rollback {
		return errRollback
	}
	return nil
}

func TestCheck_Refuses(t *testing.T) {
	db := openSQLite(t, "wal", "deferred")
	m := mode{guard: fence.SQLite}
	nothing := func(*sql.Tx) error { return nil }
	for name, err := range map[string]error{
		"no token":    m.once(t.Context(), db, "a", 0, nothing),
		"no resource": m.once(t.Context(), db, "", 1, nothing),
		"too big":     m.once(t.Context(), db, "a", 1<<63, nothing),
		"no dialect":  mode{}.once(t.Context(), db, "a", 1, nothing),
	} {
		if !errors.Is(err, holdfast.ErrInvalid) || holdfast.OutcomeOf(err) != holdfast.NotApplied {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := m.once(t.Context(), db, "ledger", 2, nothing); err != nil {
		t.Fatal(err)
	}
	err := m.once(t.Context(), db, "ledger", 1, nothing)
	if want := "fence ledger: check: fenced: token too old: token 1 is below 2"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %s", err, want)
	}
}

func TestCheck_WithoutSetup(t *testing.T) {
	db, err := sql.Open("sqlite", "file:"+filepath.Join(t.TempDir(), "empty.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	err = mode{guard: fence.SQLite}.once(t.Context(), db, "a", 1, func(*sql.Tx) error { return nil })
	if err == nil || holdfast.CodeOf(err) != holdfast.CodeUnknown || holdfast.OutcomeOf(err) != holdfast.NotApplied {
		t.Errorf("no table: %v", err)
	}
}

// TestCheck_BusyIsAConflict: SQLite's BUSY, also the one that no timeout
// cures, is told apart.
func TestCheck_BusyIsAConflict(t *testing.T) {
	db := openSQLite(t, "wal", "deferred")
	ctx := t.Context()
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback() }()
	var n int64
	if err := tx.QueryRowContext(ctx, "SELECT n FROM counter WHERE resource = 'a'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(ctx, "UPDATE counter SET n = 1 WHERE resource = 'a'"); err != nil {
		t.Fatal(err)
	}
	if err := fence.SQLite.Check(ctx, tx, "a", 1); !errors.Is(err, holdfast.ErrConflict) {
		t.Errorf("check after a read that is out of date: %v, want a conflict", err)
	}
}

// TestCheck_WaitsForAnOpenTransaction: in Postgres a second holder's Check
// returns only after the first's transaction; then it sees its effects, or at
// the levels that keep a snapshot it fails.
func TestCheck_WaitsForAnOpenTransaction(t *testing.T) {
	for level, wantConflict := range map[sql.IsolationLevel]bool{
		sql.LevelReadCommitted: false, sql.LevelRepeatableRead: true, sql.LevelSerializable: true,
	} {
		for _, token := range []holdfast.Token{5, 6} { // the same holder again, and the next
			t.Run(fmt.Sprintf("%s token %d", level, token), func(t *testing.T) {
				t.Parallel()
				db := openPostgres(t)
				ctx := t.Context()
				m := mode{guard: fence.Postgres, opts: &sql.TxOptions{Isolation: level}}
				if err := m.once(ctx, db, "a", 5, func(*sql.Tx) error { return nil }); err != nil {
					t.Fatal(err)
				}
				first, err := db.BeginTx(ctx, m.opts)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = first.Rollback() }()
				if err := fence.Postgres.Check(ctx, first, "a", 5); err != nil {
					t.Fatal(err)
				}
				if err := m.act(ctx, first, "a", 5); err != nil {
					t.Fatal(err)
				}
				done := make(chan error, 1)
				var saw int
				go func() {
					done <- m.once(ctx, db, "a", token, func(tx *sql.Tx) error {
						return tx.QueryRowContext(ctx, "SELECT count(*) FROM effect").Scan(&saw)
					})
				}()
				untilBlocked(t, db)
				if err := first.Commit(); err != nil {
					t.Fatal(err)
				}
				err = <-done
				switch {
				case wantConflict && !errors.Is(err, holdfast.ErrConflict):
					t.Errorf("error %v, want a conflict", err)
				case !wantConflict && (err != nil || saw != 1):
					t.Errorf("error %v, saw %d effects, want 1", err, saw)
				}
			})
		}
	}
}

// untilBlocked returns when a transaction of this database waits for a lock.
func untilBlocked(t *testing.T, db *sql.DB) {
	t.Helper()
	for n := 0; n == 0; {
		err := db.QueryRowContext(t.Context(), `SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`).Scan(&n)
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestSetup_ByManyAtOnce(t *testing.T) {
	db := pgtest.Open(t)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if err := fence.Postgres.Setup(t.Context(), db); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// TestCheckStatement: what is offered to others is what Check runs.
func TestCheckStatement(t *testing.T) {
	db := openPostgres(t)
	for _, c := range []struct{ token, want int64 }{{2, 1}, {2, 1}, {1, 0}, {3, 1}} {
		res, err := db.ExecContext(t.Context(), fence.Postgres.CheckStatement(), "a", c.token)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := res.RowsAffected(); n != c.want || err != nil {
			t.Errorf("token %d: %d rows, %v; want %d", c.token, n, err, c.want)
		}
	}
}

// TestHighest: both implementations keep what Raise promises.
func TestHighest(t *testing.T) {
	for name, open := range map[string]func(*testing.T) fence.Highest{
		"memory":   func(*testing.T) fence.Highest { return new(fence.Memory) },
		"sqlite":   func(t *testing.T) fence.Highest { return fence.SQLite.Highest(openSQLite(t, "wal", "immediate")) },
		"postgres": func(t *testing.T) fence.Highest { return fence.Postgres.Highest(openPostgres(t)) },
	} {
		t.Run(name, func(t *testing.T) {
			h := open(t)
			for _, c := range []struct {
				resource    string
				token, want holdfast.Token
			}{{"a", 3, 3}, {"a", 3, 3}, {"b", 1, 1}, {"a", 2, 3}, {"a", 9, 9}, {"b", 2, 2}} {
				got, err := h.Raise(t.Context(), c.resource, c.token)
				if err != nil || got != c.want {
					t.Errorf("Raise(%s, %d) = %d, %v; want %d", c.resource, c.token, got, err, c.want)
				}
			}
		})
	}
	gone := openSQLite(t, "wal", "immediate")
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := fence.SQLite.Highest(gone).Raise(t.Context(), "a", 1); err == nil {
		t.Error("a closed database: no error")
	}
}

// TestExample_Postgres runs the body of Example_postgres on a real server.
func TestExample_Postgres(t *testing.T) {
	db := openPostgres(t)
	ctx := t.Context()
	if _, err := db.ExecContext(ctx, "CREATE TABLE account (name text PRIMARY KEY, cents bigint); INSERT INTO account VALUES ('rent', 0)"); err != nil {
		t.Fatal(err)
	}
	if err := deposit(ctx, db, fence.Postgres, 34); err != nil {
		t.Error(err)
	}
	if err := deposit(ctx, db, fence.Postgres, 33); !errors.Is(err, holdfast.ErrFenced) {
		t.Errorf("the paused holder: %v", err)
	}
	var cents int
	if err := db.QueryRowContext(ctx, "SELECT cents FROM account").Scan(&cents); err != nil || cents != 100 {
		t.Errorf("%d cents, %v; want 100", cents, err)
	}
}

// TestStatementPattern: the one-statement guard of the package's documentation
// holds against an update that is under way.
func TestStatementPattern(t *testing.T) {
	db := openPostgres(t)
	ctx := t.Context()
	const pattern = "UPDATE volume SET data = $1, fence = $2 WHERE id = $3 AND fence <= $2"
	if _, err := db.ExecContext(ctx, "CREATE TABLE volume (id bigint PRIMARY KEY, data text, fence bigint NOT NULL DEFAULT 0); INSERT INTO volume VALUES (1, 'old')"); err != nil {
		t.Fatal(err)
	}
	successor, err := db.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = successor.Rollback() }()
	if _, err := successor.ExecContext(ctx, pattern, "new", 34, 1); err != nil {
		t.Fatal(err)
	}
	affected := make(chan int64, 1)
	go func() {
		n := int64(-1)
		res, err := db.ExecContext(ctx, pattern, "late", 33, 1)
		if err == nil {
			n, err = res.RowsAffected()
		}
		if err != nil {
			t.Error(err)
		}
		affected <- n
	}()
	untilBlocked(t, db)
	if err := successor.Commit(); err != nil {
		t.Fatal(err)
	}
	if n := <-affected; n != 0 {
		t.Errorf("the late write changed %d rows, want 0", n)
	}
}
