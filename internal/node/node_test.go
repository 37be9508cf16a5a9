package node

import (
	"os"
	"path/filepath"
	"testing"
)

// TestStarted: a start that failed early leaves directories. The next one has to
// join like the first, and not begin a cluster of its own.
func TestStarted(t *testing.T) {
	dir := t.TempDir()
	check := func(what string, want bool) {
		t.Helper()
		if got := started(dir); got != want {
			t.Errorf("%s: started is %v", what, got)
		}
	}
	check("an empty directory", false)
	for _, d := range []string{"snap", "wal.tmp", "wal"} {
		if err := os.MkdirAll(filepath.Join(dir, "member", d), 0o700); err != nil {
			t.Fatal(err)
		}
		check("with "+d, false)
	}
	if err := os.WriteFile(filepath.Join(dir, "member", "wal", "0000000000000000-0000000000000000.wal"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	check("with a log", true)
}
