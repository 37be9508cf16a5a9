package e2e

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience is for what must happen, on a machine that is very busy.
const patience = time.Minute

var (
	binary  string   // holdfast
	environ []string // of all processes: no settings that are meant for somebody else
)

// TestMain builds what the tests run.
func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "holdfast-e2e-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir) //nolint:errcheck // the system cleans up too
	if binary, err = build(dir); err != nil {
		panic(err)
	}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "HOLDFAST_") && !strings.HasPrefix(kv, "ETCD") {
			environ = append(environ, kv)
		}
	}
	return m.Run()
}

func build(dir string) (string, error) {
	root := filepath.Join("..", "..")
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
		return "", err
	}
	out := filepath.Join(dir, "holdfast")
	cmd := exec.CommandContext(context.Background(), "go", "build", "-o", out, "./cmd/holdfast")
	cmd.Dir = root
	if said, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, said)
	}
	return out, nil
}
