package embed

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"holdfast.dev/internal/labtest"
	"holdfast.dev/lab/faultfs"
)

// TestStart_PowerFails: what a node acknowledged, it has after a power failure,
// also on a disk that keeps no name whose directory was not synced; and so has a
// node that was restored.
func TestStart_PowerFails(t *testing.T) {
	labtest.Devices(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	mount := t.TempDir()
	disk, err := faultfs.Start(ctx, faultfs.Config{Mount: mount})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := disk.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	powerFails := func(dir string) {
		t.Helper()
		if _, err := disk.Crash(ctx, faultfs.Crash{Profile: faultfs.Posix, Policy: faultfs.LoseAll}); err != nil {
			t.Fatal(err)
		}
		// Of what a single node has been told its store may know as well.
		for _, pattern := range []string{"member/wal/*.wal", "member/snap/db"} {
			if found, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(found) == 0 {
				t.Errorf("after the power failure there is no %s: %v", pattern, err)
			}
		}
	}
	run := func(cfg Config, do func(*Node)) {
		t.Helper()
		n, err := Start(ctx, cfg)
		if err != nil {
			t.Fatal(err)
		}
		do(n)
		if err := n.Kill(); err != nil { //nolint:contextcheck // stopping must not stop halfway
			t.Fatal(err)
		}
	}
	has := func(key string) func(*Node) {
		return func(n *Node) {
			if get(t, n, key) != key {
				t.Errorf("%s was acknowledged and is gone", key)
			}
		}
	}

	cfg := quick(t)
	cfg.UnsafeNoFsync, cfg.Dir = false, filepath.Join(mount, "deep", "node")
	var file string
	run(cfg, func(n *Node) { put(t, n, "a"); file = backup(t, n) })
	powerFails(cfg.Dir)
	run(cfg, has("a"))

	cfg.Dir = filepath.Join(mount, "restored")
	if _, err := Restore(ctx, RestoreConfig{Snapshot: file, Dir: cfg.Dir, Logger: cfg.Logger}); err != nil {
		t.Fatal(err)
	}
	powerFails(cfg.Dir)
	run(cfg, has("a"))
}
