package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"holdfast.dev/internal/pgtest"
)

// Here the tokens are handed out by the test: no lock is involved, because the
// fence alone has to keep the ledger right.

// eachDatabase calls f with a new ledger in SQLite and in Postgres.
func eachDatabase(t *testing.T, f func(t *testing.T, db string)) {
	for name, open := range map[string]func(*testing.T) string{
		"sqlite":   func(t *testing.T) string { return "sqlite:" + filepath.Join(t.TempDir(), "ledger.db") },
		"postgres": func(t *testing.T) string { return pgtest.URL(t) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := open(t)
			if _, code := ledger(t, 0, "init", "--db", db); code != exitDone {
				t.Fatalf("init: exit %d", code)
			}
			f(t, db)
		})
	}
}

// ledger runs the program with the token in its environment, none for 0.
func ledger(t *testing.T, token int, args ...string) (stdout string, code int) {
	t.Helper()
	var out bytes.Buffer
	code = start(t, &out, token, args...)
	return out.String(), code
}

func start(t *testing.T, stdout io.Writer, token int, args ...string) int {
	t.Helper()
	getenv := func(name string) string {
		if name != "HOLDFAST_TOKEN" || token == 0 {
			return ""
		}
		return fmt.Sprint(token)
	}
	var stderr bytes.Buffer
	code := run(t.Context(), args, getenv, stdout, &stderr)
	if stderr.Len() > 0 {
		t.Logf("%s: %s", args[0], &stderr)
	}
	return code
}

// audited is the report on the ledger.
func audited(t *testing.T, db string, more ...string) Report {
	t.Helper()
	out, code := ledger(t, 0, append([]string{"audit", "--db", db}, more...)...)
	var r Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		t.Fatalf("audit: %v in %q", err, out)
	}
	if r.Valid != (code == exitDone) {
		t.Errorf("audit: exit %d, report %+v", code, r)
	}
	return r
}

// TestAppend_PausedHolder: a worker reads and pauses, another one takes over
// and appends, then the first one writes.
func TestAppend_PausedHolder(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db string) {
		paused(t, db, true)
		want := Report{Valid: true, Entries: 3, Balance: 300, Sum: 300}
		if got := audited(t, db); got != want {
			t.Errorf("fenced: %+v, want %+v", got, want)
		}
	})
}

// TestAppend_PausedHolderWithoutFence: the same without the fence does harm,
// and the audit sees it. This is what the test above is worth.
func TestAppend_PausedHolderWithoutFence(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db string) {
		paused(t, db, false)
		got := audited(t, db)
		if got.Valid || got.Doubled != 1 || got.Lost != 2 || got.OutOfOrder != 1 || got.Balance != 200 || got.Sum != 400 {
			t.Errorf("unfenced: %+v", got)
		}
	})
}

func paused(t *testing.T, db string, fenced bool) {
	t.Helper()
	flag := fmt.Sprintf("--fence=%v", fenced)
	if out, code := ledger(t, 1, "append", "--db", db, flag); code != exitDone {
		t.Fatalf("first entry: exit %d, %s", code, out)
	}
	fifo := filepath.Join(t.TempDir(), "go")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	out, in := io.Pipe()
	code := make(chan int, 1)
	go func() {
		code <- start(t, in, 2, "append", "--db", db, flag, "--worker", "paused", "--wait", fifo)
		_ = in.Close()
	}()
	lines := bufio.NewScanner(out)
	if !lines.Scan() || !strings.Contains(lines.Text(), `"event":"holding"`) {
		t.Fatalf("want holding, got %q", lines.Text())
	}
	if out, code := ledger(t, 3, "append", "--db", db, flag, "--worker", "successor", "--count", "2"); code != exitDone {
		t.Fatalf("successor: exit %d, %s", code, out)
	}
	if err := os.WriteFile(fifo, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantEvent, wantCode := `"event":"appended"`, exitDone
	if fenced {
		wantEvent, wantCode = `"event":"refused"`, exitNo
	}
	if !lines.Scan() || !strings.Contains(lines.Text(), wantEvent) {
		t.Errorf("paused worker says %q, want %s", lines.Text(), wantEvent)
	}
	if got := <-code; got != wantCode {
		t.Errorf("paused worker: exit %d, want %d", got, wantCode)
	}
}

// TestAppend_ManyHolders: workers that do not even wait for a lock do no harm
// under the fence, and nothing that was acknowledged is missing.
func TestAppend_ManyHolders(t *testing.T) {
	eachDatabase(t, func(t *testing.T, db string) {
		var wg sync.WaitGroup
		outs := make([]string, 6)
		for i := range outs {
			wg.Go(func() {
				out, code := ledger(t, i+1, "append", "--db", db, "--count", "5", "--hold", "1ms")
				if code != exitDone && code != exitNo {
					t.Errorf("worker %d: exit %d, %s", i, code, out)
				}
				outs[i] = out
			})
		}
		wg.Wait()
		acks := filepath.Join(t.TempDir(), "acks")
		if err := os.WriteFile(acks, []byte(strings.Join(outs, "")), 0o600); err != nil {
			t.Fatal(err)
		}
		got := audited(t, db, "--acks", acks)
		if want := strings.Count(strings.Join(outs, ""), `"event":"appended"`); !got.Valid || got.Entries != want {
			t.Errorf("%+v, want %d entries and no violation", got, want)
		}
		if !strings.Contains(outs[len(outs)-1], `"seq"`) || strings.Contains(outs[len(outs)-1], "refused") {
			t.Errorf("the highest token was refused: %s", outs[len(outs)-1])
		}
	})
}

// TestExamine: histories that must fail, and one that must not.
func TestExamine(t *testing.T) {
	e := func(seq, balance int64, nth int) Entry {
		return Entry{Seq: seq, Balance: balance, Amount: 1, Token: 1, Request: fmt.Sprint(seq, balance, nth)}
	}
	later := func(e Entry) Entry { e.Token = 2; return e }
	for name, c := range map[string]struct {
		entries []Entry
		acks    []string
		want    func(Report) bool
	}{
		"empty":        {nil, nil, func(r Report) bool { return r.Valid }},
		"in order":     {[]Entry{e(1, 1, 1), e(2, 2, 1), later(e(3, 3, 1))}, []string{e(2, 2, 1).Request}, func(r Report) bool { return r.Valid }},
		"doubled":      {[]Entry{e(1, 1, 1), e(2, 2, 1), e(2, 2, 2), e(3, 3, 1)}, nil, func(r Report) bool { return r.Doubled == 1 && r.Lost == 1 }},
		"out of order": {[]Entry{later(e(1, 1, 1)), e(2, 2, 1)}, nil, func(r Report) bool { return r.OutOfOrder == 1 && r.Lost == 0 }},
		"missing":      {[]Entry{e(1, 1, 1)}, []string{"other"}, func(r Report) bool { return r.Missing == 1 }},
		"balance":      {[]Entry{e(1, 1, 1), e(2, 7, 1)}, nil, func(r Report) bool { return r.First == "" }},
	} {
		r := examine(c.entries, c.acks)
		if !c.want(r) {
			t.Errorf("%s: %+v", name, r)
		}
		if ok := name == "empty" || name == "in order"; r.Valid != ok {
			t.Errorf("%s: valid %v, want %v", name, r.Valid, ok)
		}
	}
}

func TestAcknowledgements(t *testing.T) {
	got, err := acknowledgements([]byte(`{"event":"holding"}` + "\n" + `{"event":"appended","request":"a","token":"1"}` + "\n" + `{"event":"appe`))
	if err != nil || len(got) != 1 || got[0] != "a" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := acknowledgements([]byte("hello\n")); err == nil {
		t.Error("accepted what no worker prints")
	}
}

func TestRun_Usage(t *testing.T) {
	for _, args := range [][]string{{}, {"help"}, {"append"}, {"append", "--no"}, {"audit", "extra"}} {
		if code := run(context.Background(), args, func(string) string { return "" }, io.Discard, io.Discard); code != exitUsage {
			t.Errorf("%q: exit %d, want %d", args, code, exitUsage)
		}
	}
}
