package holdfast_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

var (
	scratch string // of this process
	built   sync.Once
	program string
)

// TestMain removes what was built.
func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "drivertest-holdfast-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the system cleans up too
	scratch = dir
	return m.Run()
}

// binary builds holdfast, once.
func binary(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		root := filepath.Join("..", "..", "..")
		// go test keeps a result until a file changes that the test looked at, and
		// it cannot see what the compiler reads.
		err := filepath.WalkDir(root, func(file string, _ fs.DirEntry, err error) error {
			if err == nil && filepath.Ext(file) == ".go" {
				_, err = os.Stat(file)
			}
			if errors.Is(err, fs.ErrNotExist) { // somebody's temporary file
				return nil
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(scratch, "holdfast"), "./cmd/holdfast")
		cmd.Dir = root
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		program = filepath.Join(scratch, "holdfast")
	})
	if program == "" {
		t.Fatal("holdfast was not built")
	}
	return program
}
