package fence_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite"

	"holdfast.dev"
	"holdfast.dev/engine"
	"holdfast.dev/fence"
	"holdfast.dev/kv"
	"holdfast.dev/lock"
)

// Two holders of one lock pay into an account. The first was paused, lost the
// lock without noticing, and wakes up after its successor has acted.
func Example_sqlite() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "fence")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	db, err := sql.Open("sqlite", "file:"+filepath.Join(dir, "bank.db")+"?_pragma=busy_timeout(5000)&_txlock=immediate")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	if err := fence.SQLite.Setup(ctx, db); err != nil {
		fmt.Println(err)
		return
	}
	if _, err := db.ExecContext(ctx, "CREATE TABLE account (name text PRIMARY KEY, cents bigint); INSERT INTO account VALUES ('rent', 0)"); err != nil {
		fmt.Println(err)
		return
	}

	// In a program: held, err := locks.Acquire(ctx, "account/rent"), and then held.Token().
	paused, successor := holdfast.NewToken(1, 33), holdfast.NewToken(1, 34)
	fmt.Println(deposit(ctx, db, fence.SQLite, successor))
	err = deposit(ctx, db, fence.SQLite, paused)
	fmt.Println(errors.Is(err, holdfast.ErrFenced), holdfast.OutcomeOf(err))

	var cents int
	fmt.Println(db.QueryRowContext(ctx, "SELECT cents FROM account").Scan(&cents), cents)
	// Output:
	// <nil>
	// true not applied
	// <nil> 100
}

// The same in Postgres; only the driver and the guard differ. (No output is
// compared here: that needs a server. TestExample_Postgres starts one.)
func Example_postgres() {
	ctx := context.Background()
	db, err := sql.Open("pgx", "host=/run/postgresql dbname=bank")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer db.Close()
	if err := fence.Postgres.Setup(ctx, db); err != nil {
		fmt.Println(err)
		return
	}
	err = deposit(ctx, db, fence.Postgres, holdfast.NewToken(1, 33))
	if errors.Is(err, holdfast.ErrFenced) {
		fmt.Println("somebody else took over: stop")
	}
}

// deposit pays one unit into the account, on behalf of a holder of its lock.
func deposit(ctx context.Context, db *sql.DB, guard fence.SQL, token holdfast.Token) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback() // does nothing after a commit
	if err := guard.Check(ctx, tx, "account/rent", token); err != nil {
		return err
	}
	if _, err := tx.ExecContext(ctx, "UPDATE account SET cents = cents + 100 WHERE name = 'rent'"); err != nil {
		return err
	}
	return tx.Commit()
}

// A service that keeps a volume refuses the writes of a replaced holder. The
// highest token is kept where the volume is: here both are in memory.
func ExampleHandler() {
	volume := ""
	write := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { volume = r.URL.Query().Get("data") })
	server := httptest.NewServer(fence.Handler(write, fence.HTTP{}))
	defer server.Close()

	put := func(token holdfast.Token, data string) {
		req, err := http.NewRequest(http.MethodPut, server.URL+"/?data="+data, strings.NewReader(""))
		if err != nil {
			fmt.Println(err)
			return
		}
		req.Header.Set(fence.Header, token.String())
		resp, err := server.Client().Do(req)
		if err != nil {
			fmt.Println(err)
			return
		}
		defer resp.Body.Close()
		fmt.Printf("%s: %d, highest %q\n", data, resp.StatusCode, resp.Header.Get(fence.Header))
	}
	put(34, "new")
	put(33, "late")
	fmt.Println(volume)
	// Output:
	// new: 200, highest ""
	// late: 412, highest "34"
	// new
}

// In Holdfast's own store the guard is a write option: the token is checked
// and remembered in the transaction of the write.
func Example_kv() {
	ctx := context.Background()
	quorum := engine.NewMemory(engine.MemoryConfig{}) // in a program: engine/embed, engine/etcd, or package client
	defer quorum.Close()
	session, err := engine.OpenSession(ctx, quorum, engine.SessionConfig{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer session.Close(ctx)
	locks, store := lock.New(session, lock.Config{}), kv.New(session)
	defer locks.Close()

	var tokens []holdfast.Token // of two holders, one after the other
	for range 2 {
		held, err := locks.Acquire(ctx, "report")
		if err != nil {
			fmt.Println(err)
			return
		}
		tokens = append(tokens, held.Token())
		if err := held.Release(ctx); err != nil {
			fmt.Println(err)
			return
		}
	}
	_, err = store.Put(ctx, "report/latest", []byte("new"), kv.Fenced("report", tokens[1]))
	fmt.Println(err)
	_, err = store.Put(ctx, "report/latest", []byte("late"), kv.Fenced("report", tokens[0]))
	fmt.Println(errors.Is(err, holdfast.ErrFenced), holdfast.OutcomeOf(err))
	latest, err := store.Get(ctx, "report/latest")
	fmt.Println(string(latest.Value), err)
	// Output:
	// <nil>
	// true not applied
	// new <nil>
}
