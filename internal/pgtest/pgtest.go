// Package pgtest gives tests a Postgres server of their own: from the
// binaries of this machine, in a temporary directory, reachable through a Unix
// socket there and nowhere else.
package pgtest

import (
	"bufio"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"
)

// patience is for a server to start, on a machine that is very busy.
const patience = time.Minute

// Open returns a new, empty database of the server that the tests of this
// process share; it is closed when the test ends. Without Postgres on this
// machine the test is skipped, and says what to install.
func Open(tb testing.TB) *sql.DB {
	tb.Helper()
	db, err := sql.Open("pgx", URL(tb))
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := db.Close(); err != nil {
			tb.Error(err)
		}
	})
	return db
}

// URL is like Open, for those who connect themselves: what it returns is a
// connection string for libpq and for pgx.
func URL(tb testing.TB) string {
	tb.Helper()
	bin, ok := binaries()
	if !ok {
		tb.Skip("missing server postgres: install postgresql (Debian: apt-get install postgresql)")
	}
	s, err := shared(bin)
	if err != nil {
		tb.Fatal(err)
	}
	name, err := s.create(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return s.url(name)
}

// Available says whether Postgres is on this machine, for tests that have
// something else to do without it.
func Available() bool {
	_, ok := binaries()
	return ok
}

// binaries is the directory of initdb and postgres: Debian keeps them off the
// PATH, one directory for each version.
func binaries() (dir string, ok bool) {
	newest := 0
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // its only error is a bad pattern
	for _, f := range found {
		dirOf := filepath.Dir(f)
		if v, err := strconv.Atoi(filepath.Base(filepath.Dir(dirOf))); err == nil && v > newest {
			newest, dir = v, dirOf
		}
	}
	if dir != "" {
		return dir, true
	}
	f, err := exec.LookPath("initdb")
	return filepath.Dir(f), err == nil
}

// server is a running cluster. It ends with this process, however that ends:
// the shell around it waits for the end of a pipe that only we hold open.
type server struct {
	dir  string
	pipe io.Closer // never closed by us

	mu  sync.Mutex // guards the field below
	dbs int
}

var started struct {
	sync.Once
	s   *server
	err error
}

func shared(bin string) (*server, error) {
	started.Do(func() { started.s, started.err = start(bin) })
	return started.s, started.err
}

// $1 is the temporary directory, $2 that of the binaries.
// Nobody may read its stderr any more when it has to clean up.
const guardian = `
trap '' PIPE
"$2/initdb" --pgdata "$1/data" --username postgres --auth trust --encoding UTF8 --locale C --no-sync >"$1/initdb.log" 2>&1 ||
	{ cat "$1/initdb.log" >&2; rm -rf "$1"; exit 1; }
"$2/postgres" -D "$1/data" -k "$1" -c listen_addresses= -c fsync=off -c max_connections=200 -c log_destination=stderr &
read -r _
kill -QUIT $!
wait $!
rm -rf "$1"
`

func start(bin string) (*server, error) {
	who, err := owner()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "pgtest-")
	if err != nil {
		return nil, err
	}
	if who != nil {
		if err := os.Chown(dir, int(who.Uid), int(who.Gid)); err != nil {
			return nil, err
		}
	}
	// Not bound to a context: it outlives the test that happens to be first.
	cmd := exec.Command("/bin/sh", "-c", guardian, "sh", dir, bin) //nolint:noctx // it ends with the pipe
	// A group of its own: Ctrl-C must not take postgres away before the shell.
	cmd.Dir, cmd.SysProcAttr = dir, &syscall.SysProcAttr{Credential: who, Setpgid: true}
	pipe, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	ready := make(chan error, 1)
	go follow(stderr, ready)
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err = <-ready:
	case <-timer.C:
		err = fmt.Errorf("postgres is not ready after %s", patience)
	}
	if err != nil {
		return nil, errors.Join(err, pipe.Close())
	}
	return &server{dir: dir, pipe: pipe}, nil
}

// follow reads the server's log to its end, so that the server never waits for
// a reader, and reports once: nil when the server is ready.
func follow(log io.Reader, ready chan<- error) {
	var seen strings.Builder
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if ready == nil {
			continue
		}
		fmt.Fprintln(&seen, lines.Text())
		if strings.Contains(lines.Text(), "ready to accept connections") {
			ready <- nil
			ready = nil
		}
	}
	if ready != nil {
		ready <- fmt.Errorf("postgres ended:\n%s", seen.String())
	}
}

// owner is whom the server runs as: root it refuses. Nil is the caller.
func owner() (*syscall.Credential, error) {
	if os.Geteuid() != 0 {
		return nil, nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		return nil, fmt.Errorf("postgres does not run as root, and there is no user postgres: %w", err)
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return nil, err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, err
}

func (s *server) url(db string) string {
	return fmt.Sprintf("host=%s user=postgres dbname=%s", s.dir, db)
}

// create makes one more database and returns its name.
func (s *server) create(ctx context.Context) (name string, err error) {
	s.mu.Lock()
	s.dbs++
	name = fmt.Sprintf("test%d", s.dbs)
	s.mu.Unlock()
	db, err := sql.Open("pgx", s.url("postgres"))
	if err != nil {
		return "", err
	}
	_, err = db.ExecContext(ctx, "CREATE DATABASE "+name)
	return name, errors.Join(err, db.Close())
}
