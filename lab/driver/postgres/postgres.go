package postgres

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"holdfast.dev/internal/call"
	"holdfast.dev/lab/driver"
)

const port = 5432

// System is PostgreSQL. It implements driver.System, driver.Primaries,
// driver.Finals and driver.Actions.
type System struct{}

// New is PostgreSQL; the option mode says in what arrangement.
func New() *System { return &System{} }

var (
	_ driver.System    = (*System)(nil)
	_ driver.Primaries = (*System)(nil)
	_ driver.Finals    = (*System)(nil)
	_ driver.Actions   = (*System)(nil)
)

// settings are the options of doc.go.
type settings struct {
	single                bool
	bin, user             string
	fsync, fullPageWrites bool
	synchronousCommit     string
	synchronous           bool
	config                string
	isolation             pgx.TxIsoLevel
	timeout               time.Duration
	keys                  bool
}

func settingsOf(env driver.Env) (settings, error) {
	o := call.NewOptions(env)
	byDefault, other := "replicated", "single"
	if len(env.Nodes()) == 1 {
		byDefault, other = other, byDefault
	}
	s := settings{
		single:            o.Choice("mode", byDefault, other) == "single",
		bin:               o.Text("bin", ""),
		user:              o.Text("user", "postgres"),
		fsync:             o.Bool("fsync", true),
		fullPageWrites:    o.Bool("full-page-writes", true),
		synchronousCommit: o.Choice("synchronous-commit", "on", "off", "local", "remote_write", "remote_apply"),
		synchronous:       o.Bool("synchronous", false),
		config:            o.Text("config", ""),
		isolation:         pgx.TxIsoLevel(strings.ReplaceAll(o.Choice("isolation", "serializable", "repeatable-read", "read-committed"), "-", " ")),
		timeout:           o.Duration("timeout", time.Second),
		keys:              o.Bool("keys", true),
	}
	if err := o.Err(); err != nil {
		return s, fmt.Errorf("postgres: %w", err)
	}
	return s, nil
}

// binaries is the directory of the programs: Debian keeps them off the PATH, one
// directory for each version.
func binaries() (string, error) {
	newest, dir := 0, ""
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres") // its only error is a bad pattern
	for _, f := range found {
		at := filepath.Dir(f)
		if v, err := strconv.Atoi(filepath.Base(filepath.Dir(at))); err == nil && v > newest {
			newest, dir = v, at
		}
	}
	if dir != "" {
		return dir, nil
	}
	f, err := exec.LookPath("initdb")
	if err != nil {
		return "", errors.New("postgres: there is no initdb in PATH: install PostgreSQL (Debian: apt-get install postgresql), or say with the option bin where it is")
	}
	return filepath.Dir(f), nil
}

// Options are the names of the settings that there are, sorted.
func (*System) Options() []string {
	return call.Names(func(env driver.Env) { _, _ = settingsOf(env) })
}

// Name implements driver.System.
func (*System) Name() string { return "postgres" }

// servers are the nodes that have one.
func (s settings) servers(env driver.Env) []string {
	if s.single {
		return env.Nodes()[:1]
	}
	return env.Nodes()
}

func data(env driver.Env, node string) string { return filepath.Join(env.DataDir(node), "postgres") }

// Setup implements driver.System.
func (*System) Setup(ctx context.Context, env driver.Env) error {
	s, err := settingsOf(env)
	if err != nil {
		return err
	}
	if s.bin == "" {
		if s.bin, err = binaries(); err != nil {
			return err
		}
	}
	nodes := s.servers(env)
	first := nodes[0]
	if err := s.initialise(ctx, env, first); err != nil {
		return err
	}
	if err := s.start(ctx, env, first); err != nil {
		return err
	}
	if err := s.onNode(ctx, env, first, furnish); err != nil {
		return fmt.Errorf("postgres: create tables on %s: %w", first, err)
	}
	for _, n := range nodes[1:] {
		if err := s.follow(ctx, env, n, first); err != nil {
			return err
		}
		if err := s.start(ctx, env, n); err != nil {
			return err
		}
	}
	return s.streaming(ctx, env, first, len(nodes)-1)
}

// initialise makes the first server's files.
func (s settings) initialise(ctx context.Context, env driver.Env, node string) error {
	if err := s.exec(ctx, env, node, "initdb", "--pgdata", data(env, node), "--username", "postgres",
		"--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--wal-segsize", "1"); err != nil {
		return err
	}
	return s.configure(env, node)
}

// furnish makes the tables, and drops the databases that nobody needs: with them
// go two thirds of the files, which are copied for every standby and synced after
// every crash.
func furnish(ctx context.Context, c *pgx.Conn) error {
	for _, sql := range []string{
		"UPDATE pg_database SET datistemplate = false WHERE datistemplate", "DROP DATABASE template0", "DROP DATABASE template1", schema,
	} {
		if _, err := c.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
	}
	return nil
}

// follow copies the files of a server that runs.
func (s settings) follow(ctx context.Context, env driver.Env, node, first string) error {
	from := fmt.Sprintf("host=%s port=%d user=postgres application_name=%s", env.Addr(first), port, node)
	if err := s.exec(ctx, env, node, "pg_basebackup", "--pgdata", data(env, node), "--dbname", from,
		"--write-recovery-conf", "--wal-method", "stream", "--checkpoint", "fast"); err != nil {
		return err
	}
	return s.configure(env, node)
}

// exec runs one of PostgreSQL's programs as the servers' user, in a directory
// that is that user's.
func (s settings) exec(ctx context.Context, env driver.Env, node, program string, args ...string) error {
	dir := data(env, node)
	if _, err := env.Exec(ctx, node, driver.Process{
		Name: "mkdir", Argv: []string{"mkdir", "-p", "-m", "0700", dir}, User: s.user, // who may write in the data directory of a host
	}); err != nil {
		return err
	}
	_, err := env.Exec(ctx, node, driver.Process{
		Name: program, Argv: append([]string{filepath.Join(s.bin, program)}, args...), User: s.user, Dir: dir,
	})
	return err
}

func onOff(b bool) string {
	if b {
		return "on"
	}
	return "off"
}

// configure writes the files of settings; they exist, and belong to the user.
func (s settings) configure(env driver.Env, node string) error {
	lines := []string{
		fmt.Sprintf("listen_addresses = '%s'", env.Addr(node)), fmt.Sprintf("port = %d", port), "unix_socket_directories = ''",
		"fsync = " + onOff(s.fsync), "full_page_writes = " + onOff(s.fullPageWrites), "synchronous_commit = " + s.synchronousCommit,
		"wal_level = replica", "max_wal_senders = 10", "wal_keep_size = '256MB'", "hot_standby = on",
		"max_connections = 200", "shared_buffers = '16MB'", "min_wal_size = '8MB'",
		"timezone = 'UTC'", "log_timezone = 'UTC'", "log_destination = 'stderr'",
	}
	for line := range strings.SplitSeq(s.config, ";") {
		lines = append(lines, strings.TrimSpace(line))
	}
	return errors.Join(
		call.WriteFile(filepath.Join(data(env, node), "postgresql.conf"), []byte(strings.Join(lines, "\n")+"\n"), 0o600),
		call.WriteFile(filepath.Join(data(env, node), "pg_hba.conf"), []byte("host all all all trust\nhost replication all all trust\n"), 0o600))
}

// launch removes what a server that was killed left to keep others away: by the
// process id in it, which may be in use again by somebody else. The lab starts
// no second server.
const launch = `rm -f "$0/postmaster.pid"; exec "$@" -D "$0"`

func (s settings) start(ctx context.Context, env driver.Env, node string) error {
	return env.Start(ctx, node, driver.Process{
		Name: "postgres", User: s.user, Dir: data(env, node),
		Argv: []string{"/bin/sh", "-c", launch, data(env, node), filepath.Join(s.bin, "postgres")},
		Ready: driver.Ready{Timeout: 30 * time.Second, Func: func(ctx context.Context) error {
			return s.onNode(ctx, env, node, func(ctx context.Context, c *pgx.Conn) error { return c.Ping(ctx) })
		}},
	})
}

// streaming waits until all standbys follow, and then lets commits wait for one
// of them, if they are to.
func (s settings) streaming(ctx context.Context, env driver.Env, first string, standbys int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		n := 0
		err := s.onNode(ctx, env, first, func(ctx context.Context, c *pgx.Conn) error {
			if err := c.QueryRow(ctx, "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'").Scan(&n); err != nil {
				return err
			}
			if n < standbys || !s.synchronous || standbys == 0 {
				return nil
			}
			if _, err := c.Exec(ctx, "ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (*)'"); err != nil {
				return err
			}
			_, err := c.Exec(ctx, "SELECT pg_reload_conf()")
			return err
		})
		if err == nil && n >= standbys {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("postgres: %d of %d standbys follow %s: %w", n, standbys, first, errors.Join(err, ctx.Err()))
		}
	}
}

// connect opens a connection to a server.
func connect(ctx context.Context, addr netip.AddrPort, timeout time.Duration) (*pgx.Conn, *wire, error) {
	cfg, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=postgres dbname=postgres sslmode=disable", addr.Addr(), addr.Port()))
	if err != nil {
		return nil, nil, err
	}
	w := new(wire)
	cfg.DialFunc = w.dial
	cfg.ConnectTimeout = timeout
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec // one round trip, and nothing prepared that a restart could take
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		w.cut()
	}
	return conn, w, err
}

// onNode makes calls to the server of a node over a connection of their own.
func (s settings) onNode(ctx context.Context, env driver.Env, node string, f func(context.Context, *pgx.Conn) error) error {
	ctx, cancel := context.WithTimeout(ctx, max(10*time.Second, s.timeout))
	defer cancel()
	c, w, err := connect(ctx, netip.AddrPortFrom(env.Addr(node), port), s.timeout)
	if err != nil {
		return err
	}
	defer w.cut()
	return errors.Join(f(ctx, c), c.Close(ctx))
}

// stand is how a server sees itself.
type stand struct {
	primary  bool
	timeline string // in hexadecimal; empty on a standby
	err      error
}

// stands asks all servers at once.
func (s settings) stands(ctx context.Context, env driver.Env) ([]stand, error) {
	nodes := s.servers(env)
	out := make([]stand, len(nodes))
	var asks sync.WaitGroup
	for i, n := range nodes {
		asks.Go(func() {
			out[i].err = s.onNode(ctx, env, n, func(ctx context.Context, c *pgx.Conn) error {
				return c.QueryRow(ctx, `SELECT NOT pg_is_in_recovery(),
					CASE WHEN pg_is_in_recovery() THEN '' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END`).
					Scan(&out[i].primary, &out[i].timeline)
			})
		})
	}
	asks.Wait()
	var errs []error
	for _, st := range out {
		if st.err == nil {
			return out, nil
		}
		errs = append(errs, st.err)
	}
	return nil, fmt.Errorf("postgres: no server answers: %w", errors.Join(errs...))
}

// Primaries implements driver.Primaries: every server that answers and is not in
// recovery, in the order of the nodes.
func (*System) Primaries(ctx context.Context, env driver.Env) ([]string, error) {
	s, err := settingsOf(env)
	if err != nil {
		return nil, err
	}
	all, err := s.stands(ctx, env)
	if err != nil {
		return nil, err
	}
	var out []string
	for i, n := range s.servers(env) {
		if all[i].err == nil && all[i].primary {
			out = append(out, n)
		}
	}
	return out, nil
}

// FinalNodes implements driver.Finals: the primary on the newest timeline, which
// is the one that was promoted last.
func (*System) FinalNodes(ctx context.Context, env driver.Env) ([]string, error) {
	s, err := settingsOf(env)
	if err != nil {
		return nil, err
	}
	all, err := s.stands(ctx, env)
	if err != nil {
		return nil, err
	}
	best, newest := "", ""
	for i, n := range s.servers(env) {
		if all[i].err == nil && all[i].primary && all[i].timeline > newest {
			best, newest = n, all[i].timeline
		}
	}
	if best == "" {
		return nil, errors.New("postgres: no server that answers is a primary")
	}
	return []string{best}, nil
}

// Act implements driver.Actions.
func (*System) Act(ctx context.Context, env driver.Env, action string, args []string) error {
	s, err := settingsOf(env)
	if err != nil {
		return err
	}
	nodes := s.servers(env)
	switch {
	case action != "promote" || len(args) > 1:
		return fmt.Errorf("postgres: no action %q: there is: promote [node]", strings.Join(append([]string{action}, args...), " "))
	case len(nodes) < 2:
		return errors.New("postgres: promote: there is no standby")
	case len(args) == 0:
		args = nodes[1:2]
	case !slices.Contains(nodes, args[0]):
		return fmt.Errorf("postgres: promote: there is no server on %q", args[0])
	}
	var done bool
	if err := s.onNode(ctx, env, args[0], func(ctx context.Context, c *pgx.Conn) error {
		return c.QueryRow(ctx, "SELECT pg_promote(true, 5)").Scan(&done)
	}); err != nil {
		return fmt.Errorf("postgres: promote %s: %w", args[0], err)
	}
	if !done {
		return fmt.Errorf("postgres: promote %s: %w", args[0], os.ErrDeadlineExceeded)
	}
	return nil
}

// Client implements driver.System.
func (*System) Client(_ context.Context, env driver.Env, node, workload string) (driver.Client, error) {
	s, err := settingsOf(env)
	if err != nil {
		return nil, err
	}
	f := map[string]invoke{
		"register": register, "cas": register, "kv": register, "set": set, "counter": counter, "queue": queue,
		"unique-ids": uniqueIDs, "append": transaction, "bank": bank, "idempotent": idempotent,
	}[workload]
	if f == nil {
		return nil, fmt.Errorf("postgres: %s: %w", workload, driver.ErrUnsupported)
	}
	return &client{settings: s, addr: netip.AddrPortFrom(env.Addr(node), port), invoke: f}, nil
}
