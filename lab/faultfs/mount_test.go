//go:build linux

package faultfs

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/labtest"
)

// mountTest mounts a filesystem for the test.
func mountTest(t *testing.T, c Config) (*FS, string) {
	t.Helper()
	dir := t.TempDir()
	return mountAt(t, dir, c), dir
}

func mountAt(t *testing.T, dir string, c Config) *FS {
	t.Helper()
	labtest.Devices(t)
	c.Mount, c.Log = dir, t.Output()
	if c.FsyncLatency == 0 {
		c.FsyncLatency = -1
	}
	f, err := Start(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 10*time.Second)
		defer cancel()
		if err := f.Close(ctx); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestMountAndCrash(t *testing.T) {
	f, dir := mountTest(t, Config{patience: 200 * time.Millisecond})
	if err := os.WriteFile(filepath.Join(dir, "a"), []byte("lost"), 0o644); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "a")); string(b) != "lost" {
		t.Fatal(string(b), err)
	}
	s, err := os.Create(filepath.Join(dir, "b"))
	if err != nil {
		t.Fatal(err)
	}
	_, _ = s.WriteString("synced")
	if err := s.Sync(); err != nil {
		t.Fatal(err)
	}
	_, _ = s.WriteString(" not")
	if _, err := f.Crash(t.Context(), Crash{}); err == nil {
		t.Fatal("crashed though a file is open")
	} else if !strings.Contains(err.Error(), fmt.Sprintf("(pid %d, has %s/b open)", os.Getpid(), dir)) {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := f.Crash(t.Context(), Crash{})
	if err != nil {
		t.Fatal(err)
	}
	if want := (Losses{Bytes: 8, Files: 2, Ops: 2, Paths: []string{"a", "b"}}); !reflect.DeepEqual(l, want) {
		t.Fatalf("%+v, want %+v", l, want)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "b")); string(b) != "synced" {
		t.Fatal(string(b), err)
	}
	c, err := f.Counters(t.Context())
	if err != nil || c.Crashes != 1 || c.Fsyncs != 1 || c.PendingOps != 0 || c.Used != pageSize {
		t.Fatalf("%+v %v", c, err)
	}
}
