//go:build linux

package faultfs

import (
	"bytes"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib" // the driver "pgx"

	"holdfast.dev/internal/labtest"
)

// TestPostgres: another user's server, with its own idea of what to sync, loses
// nothing that it acknowledged.
func TestPostgres(t *testing.T) {
	labtest.Devices(t)
	bin := filepath.Dir(labtest.Server(t, "initdb", "postgresql"))
	id, err := user.Lookup("postgres")
	if err != nil {
		t.Skip("no user postgres: install postgresql")
	}
	uid, _ := strconv.Atoi(id.Uid)
	gid, _ := strconv.Atoi(id.Gid)
	// Its user has to get there.
	top := t.TempDir()
	must(t, os.Chmod(filepath.Dir(top), 0o755))
	dir := top + "/data"
	must(t, os.Mkdir(dir, 0o700))
	must(t, os.Chown(dir, uid, gid))
	must(t, os.Mkdir(top+"/run", 0o777))
	must(t, os.Chown(top+"/run", uid, gid))
	f := mountAt(t, dir, Config{})
	as := func(name string, args ...string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.CommandContext(t.Context(), filepath.Join(bin, name), args...)
		cmd.Dir = top
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
		out := new(bytes.Buffer)
		cmd.Stdout, cmd.Stderr = out, out
		return cmd, out
	}
	initdb, out := as("initdb", "-D", dir+"/pg", "-A", "trust", "-U", "postgres", "--locale=C", "-E", "UTF8", "--wal-segsize=1", "--no-sync")
	if err := initdb.Run(); err != nil {
		t.Fatalf("initdb: %v\n%s", err, out)
	}
	must(t, f.Sync(t.Context()))
	acked := 0
	crashes := []Crash{{Policy: Subset, Seed: 1}, {Profile: Posix}}
	for round := range len(crashes) + 1 {
		server, out := as("postgres", "-D", dir+"/pg", "-k", top+"/run", "-c", "listen_addresses=", "-c", "autovacuum=off")
		must(t, server.Start())
		kill := func() {
			_ = syscall.Kill(-server.Process.Pid, syscall.SIGKILL)
			_ = server.Wait()
		}
		t.Cleanup(kill)
		db, err := sql.Open("pgx", fmt.Sprintf("host=%s/run user=postgres dbname=postgres", top))
		must(t, err)
		for deadline := time.Now().Add(20 * time.Second); ; {
			if err := db.PingContext(t.Context()); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatalf("round %d: postgres does not start: %v\n%s", round, err, out)
			}
		}
		if round == 0 {
			_, err := db.ExecContext(t.Context(), "create table t (n int primary key)")
			must(t, err)
		}
		var have int
		must(t, db.QueryRowContext(t.Context(), "select count(*) from t").Scan(&have))
		if have != acked {
			t.Fatalf("round %d: %d of %d rows are there", round, have, acked)
		}
		if round == len(crashes) {
			must(t, db.Close())
			return
		}
		for range 50 {
			_, err := db.ExecContext(t.Context(), "insert into t values ($1)", acked)
			must(t, err)
			acked++
			if acked%20 == 0 {
				_, err := db.ExecContext(t.Context(), "checkpoint")
				must(t, err)
			}
		}
		must(t, db.Close())
		kill()
		_, err = f.Crash(t.Context(), crashes[round])
		must(t, err)
	}
}
