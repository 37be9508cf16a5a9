package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/engine"
	"holdfast.dev/lock"
)

// TestStampede is a short run: what the program says of real nodes that are
// killed and paused under its clients.
func TestStampede(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "holdfast")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", binary, "holdfast.dev/cmd/holdfast").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	var stdout, stderr bytes.Buffer
	args := []string{"--binary", binary, "--clients", "40", "--locks", "5", "--time", "12s", "--ttl", "4s", "--json"}
	if code := run(t.Context(), args, &stdout, &stderr, os.Environ()); code != exitYes {
		t.Fatalf("exit %d\n%s%s", code, &stdout, &stderr)
	}
	var r result
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatal(err)
	}
	if r.Grants < 50 || r.Kills+r.Pauses == 0 || len(r.Violations) > 0 || r.Errors > 0 {
		t.Errorf("%+v\n%s", r, &stderr)
	}
}

func TestRun_Usage(t *testing.T) {
	for _, args := range [][]string{nil, {"--clients", "0", "--binary", "x"}, {"--nonsense"}, {"--binary", "x", "more"}} {
		var stdout, stderr bytes.Buffer
		if code := run(t.Context(), args, &stdout, &stderr, nil); code != exitUsage || stderr.Len() == 0 {
			t.Errorf("%v: exit %d, %q", args, code, &stderr)
		}
	}
}

// TestResult_SaysInvalid: a violation is not to be overlooked.
func TestResult_SaysInvalid(t *testing.T) {
	r := result{Violations: []string{"a: token 1 is still valid, but 2 was seen"}}
	if s := r.String(); !bytes.Contains([]byte(s), []byte("INVALID: 1 violations")) {
		t.Error(s)
	}
}

// TestResource_SeesTwoHolders shows that the checker can fail: a session is
// revoked behind its owner's back, so two holders believe at one time, and the
// first one acts again after the second.
func TestResource_SeesTwoHolders(t *testing.T) {
	store := engine.NewMemory(engine.MemoryConfig{})
	hold := func() (*engine.Session, *lock.Held) {
		s, err := engine.OpenSession(t.Context(), store, engine.SessionConfig{})
		if err != nil {
			t.Fatal(err)
		}
		locks := lock.New(s, lock.Config{})
		t.Cleanup(func() {
			locks.Close()
			if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
				t.Error(err)
			}
		})
		h, err := locks.Acquire(t.Context(), "x")
		if err != nil {
			t.Fatal(err)
		}
		return s, h
	}
	s, first := hold()
	if err := store.Revoke(t.Context(), engine.LeaseID(s.ID())); err != nil {
		t.Fatal(err)
	}
	_, second := hold()
	var r resource
	if v := r.begin(first); v != "" {
		t.Errorf("the first holder: %s", v)
	}
	if v := r.begin(second); !strings.Contains(v, "valid at one time") {
		t.Errorf("two valid holders: %q", v)
	}
	if v := r.begin(first); !strings.Contains(v, "still valid") || r.refused != 1 {
		t.Errorf("a valid token after a higher one: %q, %d refused", v, r.refused)
	}
	if v := r.begin(second); !strings.Contains(v, "granted twice") {
		t.Errorf("one token twice: %q", v)
	}
}
