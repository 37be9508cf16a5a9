package pgtest_test

import (
	"testing"

	"holdfast.dev/internal/pgtest"
)

func TestOpen_EachIsEmptyAndItsOwn(t *testing.T) {
	for range 2 {
		db := pgtest.Open(t)
		if _, err := db.ExecContext(t.Context(), "CREATE TABLE one (n int)"); err != nil {
			t.Error(err)
		}
	}
}
