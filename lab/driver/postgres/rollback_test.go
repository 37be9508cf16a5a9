package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestRolledBack(t *testing.T) {
	says := func(severity, code string) error {
		return fmt.Errorf("exec: %w", &pgconn.PgError{Severity: severity, SeverityUnlocalized: severity, Code: code})
	}
	for _, c := range []struct {
		err  error
		want bool
	}{
		{says("ERROR", "40001"), true},
		{says("ERROR", "40P01"), true},
		{says("ERROR", "23505"), true},
		{says("ERROR", "25006"), true},
		{says("ERROR", "22003"), true},
		{says("ERROR", "57014"), true},
		{says("ERROR", "53100"), true},
		{pgx.ErrTxCommitRollback, true},
		{decidedError{errConflict}, true},
		{&pgconn.ConnectError{}, true},

		{says("ERROR", "40003"), false}, // statement completion unknown
		{says("FATAL", "57P01"), false}, // the administrator ended the server
		{says("FATAL", "40001"), false},
		{says("PANIC", "53100"), false}, // the disk was full while COMMIT was written
		{says("ERROR", "XX000"), false},
		{says("ERROR", "25P02"), false},
		{io.ErrUnexpectedEOF, false},
		{context.DeadlineExceeded, false},
		{errors.New("anything else"), false},
	} {
		if got := rolledBack(c.err); got != c.want {
			t.Errorf("%v: rolled back %v, want %v", c.err, got, c.want)
		}
	}
}
